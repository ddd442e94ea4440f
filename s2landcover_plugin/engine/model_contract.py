"""What a network needs and gives: from the user's parameters, the ONNX metadata, a JSON beside it, and its graph, in this order.

Keys of ours, in a JSON file beside the model (`model.json` for `model.onnx`) or, as JSON text, in the metadata: see KEYS. Keys of deepness
(the QGIS plugin; its documentation, "Model metadata"): model_type, class_names or names, tiles_size or tile_size, tiles_overlap,
standardization_mean, standardization_std, seg_thresh.
"""

from __future__ import annotations

import ast
import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Mapping, Sequence

from . import sentinel2
from .legend import clean_name
from .progress import Progress

SCALES = ("none", "/10000", "/65535", "/255", "*255", "percentile-log")
LAYOUTS = ("NCHW", "NHWC")
KINDS = ("logits", "probabilities", "sigmoid", "index")
LONGEST_TEXT = 1_000_000
"""Characters of a metadata value that are read."""
MOST_BANDS = 64
USUAL_BANDS = {
    3: ("B04", "B03", "B02"),
    4: ("B02", "B03", "B04", "B08"),
    9: ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B11", "B12"),
    10: ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12"),
    12: sentinel2.L2A_BANDS,
    13: tuple(band.name for band in sentinel2.BANDS),
}
"""Bands that networks with this many usually take, for rasters that have more: those of 10 m; with 20 m (9: as Dynamic World); all."""
LOG_FACTOR = 0.005
DYNAMIC_WORLD = {
    "B02": (1.7417268007636313, 2.023298706048351),
    "B03": (1.7261204997060209, 2.038905204308012),
    "B04": (1.6798346251414997, 2.179592821212937),
    "B05": (1.7734969472909623, 2.2890068333026603),
    "B06": (2.289154079164943, 2.6171674549378166),
    "B07": (2.382939712192371, 2.773418590375327),
    "B08": (2.3828939530384052, 2.7578332604178284),
    "B11": (2.1952484264967844, 2.789092484314204),
    "B12": (1.554812948247501, 2.4140534947492487),
}
"""Shift and spread of ln(0.005 DN + 1), per band, of Dynamic World (Brown et al. 2022, Scientific Data 9; google/dynamicworld)."""


@dataclass(frozen=True)
class Decision:
    """One thing that a run needed to know.

    Attributes:
        source: `parameter`, `metadata`, `JSON`, `graph`, `measured` or `assumed`.
    """

    what: str
    value: str
    source: str


@dataclass(frozen=True)
class Scaling:
    """Stored DN (reflectance x 10000) -> what the network takes.

    `none`, `/10000`, `/65535`, `/255`, `*255` (reflectance x 255): a factor, then (x - mean) / std where given, both (n_bands,).
    `percentile-log`: sigmoid(5 (ln(log_factor DN + 1) - low) / spread - 1) with low and spread (n_bands,).
    """

    kind: str = "none"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    low: tuple[float, ...] = ()
    spread: tuple[float, ...] = ()
    log_factor: float = LOG_FACTOR

    @property
    def factor(self) -> float:
        """Of the four kinds that have one."""
        if self.kind == "*255":
            return 255 / 10000
        return 1.0 / float(self.kind[1:]) if self.kind.startswith("/") else 1.0

    @property
    def text(self) -> str:
        """For people."""
        if self.kind == "percentile-log":
            return "percentile-log (Dynamic World)" if self.low == tuple(a for a, _ in DYNAMIC_WORLD.values()) else "percentile-log"
        factor = {"none": "DN = reflectance x 10000", "*255": "reflectance x 255"}.get(self.kind, f"DN {self.kind}")
        return f"({factor} - mean) / standard deviation" if self.mean else factor


@dataclass(frozen=True)
class Statements:
    """What is stated about a model: key -> (value, where it comes from); parameters win over metadata, these over the JSON."""

    values: Mapping[str, tuple[Any, str]] = field(default_factory=dict)

    def get(self, key: str) -> Any:
        """The value, or None."""
        return self.values[key][0] if key in self.values else None

    def source(self, key: str) -> str:
        """Where it comes from."""
        return self.values[key][1] if key in self.values else ""


def literal(text: str) -> Any:
    """A value written as JSON or as a Python literal; nothing is executed.

    Raises:
        ValueError: it is neither, or too long or deep.
    """
    if len(text) > LONGEST_TEXT:
        raise ValueError("it is too long")
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text.strip())
        except (ValueError, SyntaxError, TypeError):
            continue
        except (RecursionError, MemoryError):
            break
    raise ValueError("it is neither JSON nor a Python literal")


def unquoted(value: Any) -> Any:
    """A text that holds a literal, as deepness writes them ('"Segmentor"', '[0.4, 0.5]'), as that; else itself."""
    if isinstance(value, str):
        try:
            return literal(value)
        except ValueError:
            return value
    return value


def _number(low: float, high: float) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        number = float(value)
        if isinstance(value, bool) or not low <= number <= high:
            raise ValueError(f"it is not a number from {low:g} to {high:g}")
        return number

    return read


def _whole(low: int, high: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        number = _number(low, high)(value)
        if number != round(number):
            raise ValueError("it is not a whole number")
        return int(number)

    return read


def _choice(choices: Sequence[str]) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        for each in choices:
            if isinstance(value, str) and value.strip().lower() == each.lower():
                return each
        raise ValueError(f"it is none of {', '.join(choices)}")

    return read


def _numbers(value: Any) -> tuple[float, ...]:
    values = value if isinstance(value, (list, tuple)) else [value]
    if not 0 < len(values) <= MOST_BANDS:
        raise ValueError(f"it is no list of up to {MOST_BANDS} numbers")
    return tuple(_number(-1e9, 1e9)(each) for each in values)


def _spreads(value: Any) -> tuple[float, ...]:
    numbers = _numbers(value)
    if min(numbers) <= 0:
        raise ValueError("it has numbers that are not larger than 0")
    return numbers


def _bands(value: Any) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else value
    names = [str(each).strip() for each in parts if isinstance(each, (str, int))]
    if len(names) != len(parts):
        raise ValueError("it has names that are no texts")
    if not 0 < len(names) <= MOST_BANDS or not all(names):
        raise ValueError("it is no list of band names")
    return tuple(sentinel2.user_band(name) or name for name in names)


def class_names(value: Any) -> dict[int, str]:
    """Index of a class -> its name, from a list, or a mapping whose keys are numbers or their texts; names are made harmless.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(value, str):
        if value.lstrip()[:1] in ("{", "["):
            raise ValueError("it is neither JSON nor a Python literal")
        value = value.split(",")
    pairs = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, (list, tuple)) else None
    if pairs is None or not value or len(value) > 65535:
        raise ValueError("it is no list of names")
    names = {}
    for key, name in pairs:
        if isinstance(name, Mapping):  # ours: {"name": "water", "color": "#0000ff"}
            name = name.get("name")
        if not isinstance(name, (str, int, float)):
            raise ValueError("it has a name that is no text")
        names[_whole(0, 65534)(key)] = clean_name(str(name)) or f"Class {key}"
    return names


def class_colours(value: Any) -> dict[int, tuple[int, ...]]:
    """Index of a class -> its colour, from a list or mapping of `#rrggbb`.

    Raises:
        ValueError: it is neither.
    """
    pairs = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, (list, tuple)) else None
    if pairs is None:
        raise ValueError("it is no list of colours")
    found = {}
    for key, text in pairs:
        match = re.fullmatch(r"#?([0-9A-Fa-f]{6})", str(text).strip())
        if not match:
            raise ValueError(f"{str(text)[:20]!r} is no colour (#rrggbb)")
        found[_whole(0, 65534)(key)] = tuple(bytes.fromhex(match[1]))
    return found


KEYS: dict[str, Callable[[Any], Any]] = {
    "bands": _bands,
    "scale": _choice(SCALES),
    "mean": _numbers,
    "std": _spreads,
    "low": _numbers,
    "spread": _spreads,
    "log_factor": _number(1e-9, 1e9),
    "nodata": _number(-1e9, 1e9),
    "layout": _choice(LAYOUTS),
    "tile_size": _whole(1, 16384),
    "multiple": _whole(1, 1024),
    "margin": _whole(0, 8192),
    "overlap_percent": _number(0, 90),
    "output": _choice(KINDS),
    "threshold": _number(0, 1),
    "resolution": _number(0.1, 1e7),
    "class_names": class_names,
    "colors": class_colours,
}
"""What can be stated, and how it is read: bands (names in order), scale and its figures, nodata (fills pixels without a value, DN), layout,
tile size, multiple (of origins and sizes of tiles), margin (pixels), output kind, threshold (sigmoid), resolution (cm, as deepness), names
and colours of classes."""
DEEPNESS = {
    "tiles_size": "tile_size",
    "names": "class_names",
    "standardization_mean": "mean",
    "standardization_std": "std",
    "seg_thresh": "threshold",
    "tiles_overlap": "overlap_percent",
}
OWN_KEY = "s2landcover"
"""Metadata key whose text is a JSON object with KEYS."""


def read_statements(path: str, metadata: Mapping[str, str], parameters: Mapping[str, Any], progress: Progress) -> Statements:
    """Collect what is stated about a model. What cannot be read is left out, with a warning: it never stops a run.

    Args:
        metadata: of the ONNX file.
        parameters: checked values that the user gave; they win.
    """
    found: dict[str, tuple[Any, str]] = {key: (value, "parameter") for key, value in parameters.items()}
    from_metadata = {key: unquoted(value) for key, value in metadata.items()}
    own = from_metadata.pop(OWN_KEY, {})
    for source, values in (("metadata", own), ("metadata", from_metadata), ("JSON", _json_beside(path, progress))):
        for key, value in (values if isinstance(values, Mapping) else {}).items():
            name = DEEPNESS.get(str(key), str(key))
            if name not in KEYS or name in found or value is None:
                continue
            try:
                found[name] = KEYS[name](value), source
            except (ValueError, TypeError, OverflowError) as err:
                progress.warn(f"The {source} of {path} states {str(key)[:40]!r} in a way that cannot be used ({err}): it is left out.")
    kind = from_metadata.get("model_type")
    if isinstance(kind, str) and kind.lower() not in ("segmentor", "segmentation"):
        found["model_type"] = kind, "metadata"
    return Statements(found)


def _json_beside(path: str, progress: Progress) -> Any:
    beside = Path(path).with_suffix(".json")
    if not beside.is_file():
        return {}
    try:
        if beside.stat().st_size > LONGEST_TEXT:
            raise ValueError("it is too long")
        values = json.loads(beside.read_text(encoding="utf-8-sig"))
        if not isinstance(values, dict):
            raise ValueError("it is no JSON object")
        return values
    except (OSError, ValueError, RecursionError) as err:
        progress.warn(f"{beside} cannot be used ({err}): it is left out.")
        return {}


def scaling_from(stated: Statements, bands: Sequence[str], integer_type: str, is_bytes: bool, progress: Progress) -> tuple[Scaling, str]:
    """The scaling of the bands, and where it comes from.

    Args:
        integer_type: `uint8` or `uint16` where the network takes such numbers, else empty.
        is_bytes: whether the raster holds bytes, such as a picture, rather than reflectance.
    """
    n = len(bands)
    lists = {key: stated.get(key) for key in ("mean", "std", "low", "spread") if stated.get(key) is not None}
    wrong = {key: len(values) for key, values in lists.items() if len(values) not in (1, n)}
    for key, count in wrong.items():
        progress.warn(f"The model states {count} numbers as {key} for {n} bands: they are left out.")
        lists.pop(key)
    full = {key: tuple(values) * (n if len(values) == 1 else 1) for key, values in lists.items()}
    kind, source = stated.get("scale"), stated.source("scale")
    if kind == "percentile-log":
        return _percentile_log(full, bands, stated, progress), source
    mean, std = full.get("mean", ()), full.get("std", ())
    if not mean or not std:
        mean = std = ()
    if kind is None and mean:
        # standard deviations above 2 are those of DN: reflectance and colours are 0 to 1
        kind, source = ("none" if max(std) > 2 else "/255" if is_bytes else "/10000"), stated.source("mean")
    if kind is None and integer_type:
        kind, source = ("none" if integer_type == "uint16" or is_bytes else "*255"), "graph"
    if kind is None:
        kind, source = ("/255" if is_bytes else "/10000"), "assumed"
        progress.warn(f"The model does not state how its input is scaled: numbers from 0 to 1 are assumed (SCALE {kind}).")
    return Scaling(kind, mean, std), source


def _percentile_log(full: dict[str, tuple[float, ...]], bands: Sequence[str], stated: Statements, progress: Progress) -> Scaling:
    factor = float(stated.get("log_factor") or LOG_FACTOR)
    if "low" in full and "spread" in full:
        return Scaling("percentile-log", low=full["low"], spread=full["spread"], log_factor=factor)
    unknown = [name for name in bands if name not in DYNAMIC_WORLD]
    if unknown:
        progress.warn(f"Dynamic World has no figures for {', '.join(unknown)}: those of B08 are used.")
    pairs = [DYNAMIC_WORLD.get(name, DYNAMIC_WORLD["B08"]) for name in bands]
    return Scaling("percentile-log", low=tuple(a for a, _ in pairs), spread=tuple(b for _, b in pairs), log_factor=factor)


def rounded_up(number: int, multiple: int) -> int:
    """The smallest multiple that is not smaller."""
    return math.ceil(number / multiple) * multiple
