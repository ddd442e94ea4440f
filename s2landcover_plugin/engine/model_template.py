"""A JSON file to put beside a model: what it states and what its graph tells, and the rest to be filled in."""

from __future__ import annotations

import json
from typing import Any

from .files import OutputFiles
from .model_contract import SCALES, USUAL_BANDS, read_statements
from .networks import Network, layout_of
from .onnx_file import inspect_model
from .progress import Progress

HINTS = {
    "bands": "names in the order of the model (B02, B03, ...)",
    "scale": f"one of {', '.join(SCALES)}",
    "mean": "of each band, after scale; with std",
    "std": "of each band, after scale; with mean",
    "nodata": "DN that pixels without a value become",
    "layout": "NCHW or NHWC",
    "tile_size": "pixels",
    "multiple": "on which tiles begin; null: measured",
    "margin": "pixels that are cut off each side of a tile; null: measured",
    "output": "logits, probabilities, sigmoid (one channel) or index; null: told from the answers",
    "threshold": "of a single class, 0 to 1",
    "class_names": "in the order of the model",
    "colors": "#rrggbb, in the order of the classes",
}
"""What a person writes; the figures of percentile-log (low, spread, log_factor) are left to those who know them."""


def run_template(model: str, output: str, progress: Progress) -> dict[str, Any]:
    """Write what is known of a model in the form of the JSON that is read beside it; null: not known.

    Raises:
        EngineError: the model cannot be used, or the file cannot be written.
    """
    facts = inspect_model(model)
    network = Network(model, facts, "cpu")
    stated = read_statements(model, facts.metadata, {}, progress)
    values: dict[str, Any] = {key: _plain(stated.get(key)) for key in HINTS}
    layout = values["layout"] or layout_of(network.input.shape, None)[0]
    n_bands = network.input.shape[1 if layout == "NCHW" else 3]
    values["layout"] = layout
    if values["bands"] is None and n_bands:
        values["bands"] = list(USUAL_BANDS.get(n_bands, ())) or [f"band {i}" for i in range(1, n_bands + 1)]
    sides = network.input.shape[2:] if layout == "NCHW" else network.input.shape[1:3]
    if values["tile_size"] is None and sides[0]:
        values["tile_size"] = sides[0]
    with OutputFiles([model]) as files:
        files.write_text(output, json.dumps({**values, "hints": HINTS}, indent=2, ensure_ascii=False) + "\n")
    progress.info(f"Fill in what is null, and put it beside the model as {model.rpartition('.')[0]}.json.")
    return values


def _plain(value: Any) -> Any:
    """A value as JSON has it: names by number become a list."""
    if isinstance(value, dict):
        return [_plain(value.get(i, f"Class {i}")) for i in range(max(value) + 1)]
    if isinstance(value, tuple) and len(value) == 3 and all(isinstance(each, int) for each in value):
        return "#{:02x}{:02x}{:02x}".format(*value)
    return list(value) if isinstance(value, tuple) else value
