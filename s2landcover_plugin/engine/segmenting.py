"""Semantic segmentation of a raster by an ONNX network: what it needs is found out, the map is written, and every decision is told."""

from __future__ import annotations

import json
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from . import sentinel2
from .acquisition import inherited
from .areas import ClassTally
from .blocks import Sink, SomePlanes, run_blocks
from .cost import Stopwatch
from .errors import EngineError
from .files import STYLE_SUFFIX, OutputFiles
from .geotiff import RasterWriter, write_class_table
from .legend import LegendClass, qml
from .model_contract import (
    KINDS,
    LAYOUTS,
    SCALES,
    Decision,
    class_names,
    read_statements,
    unquoted,
)
from .network_setup import Ledger, Prepared, Request, model_legend, prepare
from .networks import PROVIDERS, Network
from .onnx_file import inspect_model
from .options import check_options, option
from .progress import Progress
from .quantizing import quantized
from .raster import RasterInfo, describe
from .segmentation import SeamTally, Segment, Tiling, Wanted
from .version import VERSION


@dataclass(frozen=True)
class SegmentOptions:
    """How a network is run. Shared by the Processing dialog and the engine."""

    bands: tuple[str, ...] = ()
    class_names: str = ""
    scale: str = option(
        "auto",
        "Scaling of the input",
        "What the network was trained on. auto: as the model states, else 0 to 1. none: DN (reflectance x 10000). /10000: reflectance. "
        "percentile-log: as Dynamic World. Means and standard deviations come from the model or the JSON beside it.",
        choices=("auto", *SCALES),
    )
    tile_size: int = option(0, "Tile size (pixels, 0 = from the model)", "Rounded up to what the network can take.", min=0, max=8192)
    overlap: int = option(
        0,
        "Overlap of tiles (pixels, 0 = measured)",
        "Half of it is cut off each side of a tile. 0: as the model states, else measured: what a pixel's class can depend on.",
        min=0,
        max=4096,
    )
    batch_size: int = option(0, "Tiles a run (0 = automatic)", "Halved by itself where memory is short.", min=0, max=256, advanced=True)
    provider: str = option(
        "auto", "Runs on", "auto: a graphics card where the runtime has one.", choices=("auto", *PROVIDERS), advanced=True
    )
    augment: bool = option(False, "Average over flips and rotations", "Eight times the time; smoother borders.", advanced=True)
    padding: str = option(
        "reflect", "Beyond the edge of the raster", "What the network sees there.", choices=("reflect", "edge"), advanced=True
    )
    probability_type: str = option(
        "byte",
        "Probabilities as",
        "byte: 0 to 254 with a scale, a quarter of the size. float: 0 to 1.",
        choices=("byte", "float"),
        advanced=True,
    )
    quantize: bool = option(
        False,
        "Compute in 8-bit integers (int8)",
        "Faster on large rasters. Calibrated on tiles of this raster, checked on others, and used only if at least 99.5 % of their pixels "
        "keep their class; else the model is used as it is. Needs the package onnx.",
        advanced=True,
    )
    output_kind: str = option(
        "auto", "What the model gives", "auto: told from the model and its answers.", choices=("auto", *KINDS), advanced=True
    )
    layout: str = option("auto", "Order of the dimensions", "auto: told from the model.", choices=("auto", *LAYOUTS), advanced=True)
    threshold: float = option(-1.0, "Threshold of a single class (-1 = from the model, else 0.5)", min=-1, max=1, advanced=True)
    band_map: str = ""


@dataclass(frozen=True)
class SegmentOutputs:
    """Where the results go; empty: not wanted."""

    raster: str
    probabilities: str = ""
    uncertainty: str = ""
    html: str = ""


@dataclass(frozen=True)
class SegmentReport:
    """What a run found.

    Attributes:
        decisions: everything that the run had to know, and where it comes from.
        seam_ratio: changes of class across the lines between tiles / elsewhere; NaN without lines.
        has_seams: whether that is more than chance, where the margin is not known to be large enough.
        provider: what really ran the network.
    """

    legend: tuple[LegendClass, ...]
    pixels: tuple[int, ...]
    hectares: tuple[float, ...]
    decisions: tuple[Decision, ...]
    tiling: Tiling
    seam_ratio: float
    has_seams: bool
    provider: str


def run_segmentation(source: str, model: str, outputs: SegmentOutputs, options: SegmentOptions, progress: Progress) -> SegmentReport:
    """Classify the pixels of a raster by a network.

    Raises:
        EngineError: the model or the raster cannot be used, or they do not fit each other.
        Cancelled: the user asked to stop.
    """
    watch = Stopwatch()
    check_options(options)
    facts = inspect_model(model)
    info = describe(source)
    with OutputFiles([source, model]) as files, tempfile.TemporaryDirectory(prefix="s2landcover_") as folder:
        paths = {name: files.path(path) for name, path in asdict(outputs).items() if path}
        ledger = Ledger()
        stated = read_statements(model, facts.metadata, _parameters(options), progress)
        network = Network(model, facts, options.provider)
        ledger.add("runs on", network.provider, "parameter" if options.provider != "auto" else "graph")
        request, part = Request(options.band_map, options.batch_size), progress.part(0, 0.05)
        with network.watched(part):
            prepared = prepare(network, info, stated, request, ledger, part)
        if options.quantize:
            prepared = _in_int8(prepared, folder, ledger, progress.part(0.05, 0.1))
        legend = model_legend(prepared.model.output, prepared.known_codes, stated, ledger)
        run = _Run(info, prepared, legend, options, ledger, watch, model, stated.get("class_names") is not None)
        return _write(run, paths, outputs, files, progress.part(0.1, 1))


def _in_int8(prepared: Prepared, folder: str, ledger: Ledger, progress: Progress) -> Prepared:
    """With an int8 copy of the network, if one gives the same map; what came of it is told."""
    found = quantized(prepared.model, prepared.reader, prepared.tiling, folder, progress)
    ledger.add("precision", found.outcome, "measured")
    if not found.accepted:
        progress.warn(f"QUANTIZE has no effect: {found.outcome}.")
    elif found.speed > 1:
        progress.warn(f"int8 takes {found.speed:.2f} times as long as float32 on this computer: leave QUANTIZE out.")
    else:
        progress.info(f"int8 takes {found.speed:.2f} of the time of float32.")
    return replace(prepared, model=found.model)


def _parameters(options: SegmentOptions) -> dict[str, Any]:
    """What the user gave, by the keys of statements."""
    given: dict[str, Any] = {}
    if options.bands:
        given["bands"] = tuple(sentinel2.user_band(name) or name for name in options.bands)
    if options.class_names.strip():
        try:
            given["class_names"] = class_names(unquoted(options.class_names))
        except (ValueError, TypeError, OverflowError) as err:
            fix = "write the names in the model's order, separated by commas"
            raise EngineError(f"The class names cannot be read ({err})", "CLASS_NAMES", fix) from err
    if options.scale != "auto":
        given["scale"] = options.scale
    if options.tile_size:
        given["tile_size"] = options.tile_size
    if options.overlap:
        given["margin"] = -(-options.overlap // 2)
    if options.output_kind != "auto":
        given["output"] = options.output_kind
    if options.layout != "auto":
        given["layout"] = options.layout
    if options.threshold >= 0:
        given["threshold"] = options.threshold
    return given


@dataclass(frozen=True)
class _Run:
    """All that is known before the first pixel of the map is written."""

    info: RasterInfo
    prepared: Prepared
    legend: list[LegendClass]
    options: SegmentOptions
    ledger: Ledger
    watch: Stopwatch
    model: str

    has_names: bool

    @property
    def provenance(self) -> dict[str, str]:
        facts = {
            "S2LC_ALGORITHM": "segmentraster",
            "S2LC_VERSION": VERSION,
            "S2LC_INPUT": Path(self.info.path.partition("?")[0]).name,
            "S2LC_MODEL": Path(self.model).name,
            "S2LC_PARAMETERS": json.dumps(asdict(self.options)),
            "S2LC_DECISIONS": json.dumps([asdict(each) for each in self.ledger.entries]),
        }
        return {**facts, **inherited(self.info.metadata)}


def _write(run: _Run, paths: dict[str, str], outputs: SegmentOutputs, files: OutputFiles, progress: Progress) -> SegmentReport:
    prepared, legend, options = run.prepared, run.legend, run.options
    grid, index = prepared.reader.grid, prepared.model.output.kind == "index"
    if index and (outputs.probabilities or outputs.uncertainty):
        fix = "leave OUTPUT_PROBABILITIES and OUTPUT_UNCERTAINTY out, or export the model without its ArgMax"
        raise EngineError("The model gives classes only, without probabilities", run.model, fix)
    names = [each.name for each in legend]
    wanted = Wanted(options.probability_type if outputs.probabilities else "", bool(outputs.uncertainty))
    op = Segment(
        prepared.model,
        prepared.tiling,
        names=names,
        wanted=wanted,
        augment=options.augment,
        padding="edge" if options.padding == "edge" else "reflect",
    )
    tally, seams = ClassTally(grid, legend[-1].code + 1), SeamTally(prepared.tiling)
    facts = run.provenance
    n = len(names) if wanted.probabilities else 0
    with ExitStack() as open_files:
        writer = open_files.enter_context(RasterWriter(paths["raster"], grid, op.outputs[:1], metadata=facts, legend=legend))
        sinks: list[Sink] = [SomePlanes(writer, (0,)), SomePlanes(tally, (0,)), SomePlanes(seams, (0,))]
        for name, planes in (("probabilities", range(1, 1 + n)), ("uncertainty", range(1 + n, 3 + n))):
            if name in paths:
                bands = [op.outputs[i] for i in planes]
                own = open_files.enter_context(RasterWriter(paths[name], grid, bands, metadata=facts))
                sinks.append(SomePlanes(own, tuple(planes)))
        run_blocks(prepared.reader, op, sinks, windows=list(prepared.tiling.windows(grid)), progress=progress.part(0, 0.95))
    if index and not run.has_names:
        legend = [each for each in legend if tally.pixels[each.code]]
    pixels, hectares = [int(tally.pixels[c.code]) for c in legend], [float(tally.hectares[c.code]) for c in legend]
    if not sum(pixels):
        raise EngineError("The raster has no valid pixel", run.info.path, "choose an area or a date with data")
    write_class_table(paths["raster"], legend, pixels, hectares)
    files.write_sidecar(outputs.raster, STYLE_SUFFIX, qml(legend))
    seen = seams.is_seen and not prepared.tiling.exact
    found = (tuple(legend), tuple(pixels), tuple(hectares), tuple(run.ledger.entries))
    report = SegmentReport(*found, prepared.tiling, seams.ratio, seen, prepared.model.network.provider)
    if report.has_seams:
        progress.warn(
            f"Seams: the class changes {seams.ratio:.2f} times as often across the lines between tiles as elsewhere. Use a larger OVERLAP."
        )
    for each in report.decisions:
        progress.info(f"{each.what}: {each.value} ({each.source})")
    if outputs.html:
        from .report import segment_report_html

        files.write(paths["html"], outputs.html, segment_report_html(report, paths["raster"], facts, run.watch.cost()))
    progress.report(1.0)
    return report
