"""Change between two dates: aligned, by several methods, compared, and told."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Sequence

import numpy as np

from .acquisition import ORBIT, SCENES, SUN, acquisition, differences, inherited
from .alignment import Alignment, AlignOptions, output_bands
from .areas import ClassTally
from .blocks import Sink, SomePlanes, run_blocks
from .change import METHODS, REASONS, USED, ChangeFit, ChangeRule, PairSpace, check_methods, fit_rule
from .changemap import CHUNK_PX, LEGEND, MAGNITUDE_BAND, DecideChange, Planes
from .comparing import CHANGE, NO_CHANGE, UNKNOWN, Comparison, Overview, SquareTally
from .confusion import FIGURES
from .cost import Stopwatch
from .errors import EngineError
from .files import STYLE_SUFFIX, OutputFiles
from .geotiff import OutputBand, RasterWriter, write_class_table
from .legend import LegendClass, qml
from .options import check_options, option
from .packages import DRAWING, importing
from .pairs import LAND, OF_INDICES, DatePair, open_pair
from .polygons import Patches, check_polygon_path, write_patches
from .progress import Progress
from .raster import Reader, StackedReader, describe
from .references import Reference, open_reference
from .registration import MOTIONS
from .sampling import CELLS, NoValidPixel, draw_sample
from .version import VERSION

TITLES = {"ndvi-drop": "NDVI drop", "kmeans": "k-means", "gmm": "Gaussian mixture", "irmad": "IR-MAD"}
MOST_SAMPLED = 0.5
CENSUS = (
    "The reference covers most of the map: it is no sample of it, and the intervals of the area-adjusted figures, which take its pixels "
    "for independent ones, are much too narrow."
)
OVERVIEW_PX = 420
"""Cells of the pictures along the longer side."""


@dataclass(frozen=True)
class DetectOptions:
    """How change is looked for. Shared by the Processing dialog and the engine."""

    methods: tuple[str, ...] = option(
        METHODS,
        "Methods",
        "ndvi-drop: NDVI fell by more than the threshold. kmeans, gmm: clusters of NDVI and BSI of both dates and their differences. "
        "irmad: iteratively reweighted multivariate alteration detection on all bands. The first makes the map; the others are compared.",
        choices=METHODS,
        multiple=True,
    )
    n_clusters: int = option(2, "Number of clusters", "Of k-means and the Gaussian mixture.", min=2, max=3)
    ndvi_drop: float = option(0.2, "Fall of NDVI that means change", min=0.01, max=2)
    align: bool = option(True, "Align the dates", "Mends a shift of the second date where it is known to a tenth of a pixel.")
    motion: str = option("translation", "Motion", "The alignment may shift, also turn, or also stretch.", choices=MOTIONS, advanced=True)
    exclude_water: bool = option(True, "Leave water out", "Of either date: floods, mud and tides look like change of the land.")
    min_area_ha: float = option(0.1, "Smallest patch (ha)", "Of the polygons only. 0 keeps every pixel.", min=0, max=1e6)
    area_adjusted: bool = option(
        False,
        "Weigh the accuracy by the mapped areas",
        "For a REFERENCE that is a random sample of the map: figures of the whole map after Olofsson et al. 2014.",
        advanced=True,
    )
    sample_size: int = option(50000, "Pixels in the sample", "Rules are fitted to a seeded sample.", min=1000, max=200_000, advanced=True)
    seed: int = option(0, "Seed", "The same number and the same inputs give the same map.", min=0, max=2**31 - 1, advanced=True)
    band_map: str = ""


@dataclass(frozen=True)
class DetectInputs:
    """What is compared."""

    before: str
    after: str
    reference: Reference | None = None


@dataclass(frozen=True)
class DetectOutputs:
    """Where the results go; empty: not wanted."""

    raster: str
    methods: str = ""
    magnitude: str = ""
    aligned: str = ""
    polygons: str = ""
    table: str = ""
    html: str = ""


@dataclass(frozen=True)
class MethodResult:
    """What one method found.

    Attributes:
        title: for people, with the number of clusters.
        rule: how it decides, with its figures.
        pixels, hectares: no change, change.
        comparisons: agreement with the NDVI-drop mask (unless it is that), accuracy against the reference (if there is one).
    """

    method: str
    title: str
    rule: str
    pixels: tuple[int, int]
    hectares: tuple[float, float]
    comparisons: tuple[Comparison, ...]


@dataclass(frozen=True)
class DetectReport:
    """What was found.

    Attributes:
        results: of each method, in the order of METHODS.
        excluded_ha: reason -> hectares.
        alignment: None where it was not asked for.
        warnings: what makes the result doubtful.
        n_patches: polygons written; None if they were not wanted.
    """

    results: tuple[MethodResult, ...]
    excluded_ha: dict[str, float]
    alignment: Alignment | None
    warnings: tuple[str, ...]
    n_patches: int | None

    @property
    def main(self) -> MethodResult:
        """The method that made the map."""
        return self.results[0]

    @property
    def main_figures(self) -> dict[str, float]:
        """Figures of the map: its accuracy if there is a reference, else its agreement; NaN where there is nothing to compare with."""
        comparisons = self.main.comparisons
        return comparisons[-1].figures if comparisons else dict.fromkeys(FIGURES, float("nan"))


def run_change(inputs: DetectInputs, outputs: DetectOutputs, options: DetectOptions, progress: Progress) -> DetectReport:
    """Find what changed between two dates, by one or several methods.

    Raises:
        EngineError: the rasters cannot be compared, a method cannot be fitted, or a file cannot be written.
        Cancelled: the user asked to stop.
    """
    watch = Stopwatch()
    check_options(options)
    check_methods(options.methods)
    check_polygon_path(outputs.polygons)
    if options.area_adjusted and inputs.reference is None:
        raise EngineError("There is no reference to weigh by the mapped areas", "AREA_ADJUSTED", "give a REFERENCE, or leave it out")
    warnings: list[str] = []

    def warn(text: str) -> None:
        warnings.append(text)
        progress.on_warning(text)

    heard = replace(progress, on_warning=warn)
    reads = [inputs.before, inputs.after, *([inputs.reference.path] if inputs.reference else [])]
    with OutputFiles(reads) as files:
        # all asked for before anything is computed: a wrong name must not cost a run
        paths = DetectOutputs(**{name: files.path(path) for name, path in asdict(outputs).items() if path})
        run = _prepared(inputs, options, warnings, watch, heard)
        return _write(run, outputs, paths, files, heard.part(0.3, 1))


def _prepared(inputs: DetectInputs, options: DetectOptions, warnings: list[str], watch: Stopwatch, heard: Progress) -> _Run:
    """Both dates on one grid, and the rules fitted."""
    before, after = describe(inputs.before), describe(inputs.after)
    for sentence in differences(acquisition(before.path, before.metadata), acquisition(after.path, after.metadata)):
        heard.warn(sentence)
    align = AlignOptions(motion=options.motion) if options.align else None
    bands = LAND if "irmad" in options.methods else OF_INDICES
    pair = open_pair(before, after, align, options.band_map, options.exclude_water, heard.part(0, 0.15), bands)
    _tell_alignment(pair.alignment, inputs.after, heard)
    rules = _fitted(pair, options, heard.part(0.15, 0.3))
    for rule in rules:
        heard.info(f"{TITLES[rule.method]}: {rule.sentence}")
    return _Run(pair, tuple(rules), options, inputs, warnings, watch)


@dataclass(frozen=True)
class _Run:
    """All that is known before the first pixel of the map is written."""

    pair: DatePair
    rules: tuple[ChangeRule, ...]
    options: DetectOptions
    inputs: DetectInputs
    warnings: list[str]
    watch: Stopwatch

    @property
    def provenance(self) -> dict[str, str]:
        facts = {"S2LC_ALGORITHM": "detectchange", "S2LC_VERSION": VERSION}
        for name, info in zip(("BEFORE", "AFTER"), self.pair.images):
            facts[f"S2LC_{name}"] = Path(info.path.partition("?")[0]).name
            when = acquisition(info.path, info.metadata).text
            if when:
                facts[f"S2LC_{name}_DATE"] = when
            facts |= {key.replace("S2LC_", f"S2LC_{name}_"): info.metadata[key] for key in (SCENES, ORBIT, SUN) if key in info.metadata}
        if self.inputs.reference:
            facts["S2LC_REFERENCE"] = self.inputs.reference.title
        facts["S2LC_PARAMETERS"] = json.dumps(asdict(self.options))
        facts["S2LC_RULES"] = json.dumps({rule.method: rule.sentence for rule in self.rules})
        found = self.pair.alignment
        if found is not None:
            facts["S2LC_ALIGNED"] = str(int(found.trusted))
            facts["S2LC_SHIFT_PX"] = ",".join(f"{value:.4f}" for value in found.shift_px)
        return facts

    def title(self, method: str) -> str:
        """A method for people."""
        return f"{TITLES[method]}, {self.options.n_clusters} clusters" if method in ("kmeans", "gmm") else TITLES[method]


def _tell_alignment(alignment: Alignment | None, path: str, progress: Progress) -> None:
    if alignment is None:
        return
    if not alignment.trusted:
        doubts = "; ".join(alignment.registration.doubts)
        progress.warn(f"The shift of {path} is not known ({doubts}): the dates are compared as they lie. Borders may look like change.")
        return
    x, y = alignment.shift_px
    done = "mended" if alignment.moves else "less than 0.1 px: nothing was resampled"
    progress.info(f"Shift of the second date: {x:.3f} px to the right, {y:.3f} px down; {done}.")


class _Both:
    """Features, and the stored planes behind them, of pixels that are used: what a rule is fitted to."""

    def __init__(self, space: PairSpace) -> None:
        self.space = space

    def usable(self, stored: np.ndarray) -> np.ndarray:
        """(n,) bool, pixels that are not left out."""
        parts = (stored[:, start : start + CHUNK_PX] for start in range(0, max(stored.shape[1], 1), CHUNK_PX))
        # as the map has it
        return np.concatenate([self.space.left_out(self.space.seen(part, "float32")) == USED for part in parts])

    def values(self, stored: np.ndarray) -> np.ndarray:
        """(features + planes, n)."""
        return np.concatenate([self.space.features(self.space.seen(stored)), stored.astype(np.float64)])


def _fitted(pair: DatePair, options: DetectOptions, progress: Progress) -> list[ChangeRule]:
    where = f"{pair.images[0].path}, {pair.images[1].path}"
    try:
        # a threshold alone needs a look only
        size, cells = (1000, 4) if set(options.methods) == {"ndvi-drop"} else (options.sample_size, CELLS)
        sample = draw_sample(pair.reader, _Both(pair.space), size, options.seed, progress.part(0, 0.5), cells).values
    except NoValidPixel as err:
        raise _nothing_left(pair, where, progress) from err
    n = len(pair.space.names)
    features, stored = sample[:, :n], sample[:, n:].T
    first, second = pair.space.reflectances(pair.space.seen(stored))
    if np.array_equal(first, second):
        progress.warn(f"The two dates are the same image as far as was looked ({where}): there is no change to be found.")
    fit = ChangeFit(options.n_clusters, options.ndvi_drop, options.seed)
    rules = []
    for number, method in enumerate(dict.fromkeys(options.methods)):
        try:
            rules.append(fit_rule(method, pair.space, features, stored, fit, f"{TITLES[method]} of {where}"))
        except EngineError as err:
            raise EngineError(err.what, err.where, f"{err.fix}; or leave {method} out of METHODS") from err
        if rules[-1].doubt:
            progress.warn(f"{TITLES[method]}: {rules[-1].doubt}.")
        progress.report(0.5 + 0.5 * (number + 1) / len(options.methods))
    return rules


def _nothing_left(pair: DatePair, where: str, progress: Progress) -> EngineError:
    """Why no pixel can be compared."""
    tally = ClassTally(pair.grid, len(REASONS))
    run_blocks(pair.reader, DecideChange(pair.space, (), 0.2), [SomePlanes(tally, (Planes(0).reasons,))], progress=progress)
    total = tally.pixels.sum()
    shares = [f"{100 * n / total:.0f} % {reason}" for reason, n in zip(REASONS, tally.pixels) if n]
    return EngineError(f"No pixel can be compared ({', '.join(shares)})", where, "choose dates with clear sky over the same land")


def _write(run: _Run, outputs: DetectOutputs, paths: DetectOutputs, files: OutputFiles, progress: Progress) -> DetectReport:
    pair, options, planes, grid = run.pair, run.options, Planes(len(run.rules)), run.pair.grid
    op = DecideChange(pair.space, run.rules, options.ndvi_drop)
    readers: list[Reader] = [pair.reader]
    if run.inputs.reference:
        readers.append(open_reference(run.inputs.reference, grid, files, outputs.raster, progress.part(0, 0.1)))
        op = op.with_reference()
    tallies = [ClassTally(grid, CHANGE + 1) for _ in run.rules]
    reasons, overview = ClassTally(grid, len(REASONS)), Overview(grid, op.n_pictures, OVERVIEW_PX, op.pictures)
    truths = [(False, planes.mask), *([(True, planes.reference)] if run.inputs.reference else [])]
    # the NDVI-drop mask agrees with itself
    compared = [(i, *truth) for i, rule in enumerate(run.rules) for truth in truths if truth[0] or rule.method != "ndvi-drop"]
    squares = {(i, is_accuracy): SquareTally(grid) for i, is_accuracy, _ in compared}
    sinks: list[Sink] = [SomePlanes(tally, (i,)) for i, tally in enumerate(tallies)]
    sinks += [SomePlanes(reasons, (planes.reasons,)), overview]
    sinks += [SomePlanes(squares[i, is_accuracy], (plane, i)) for i, is_accuracy, plane in compared]
    raster, magnitude = paths.raster, paths.magnitude
    with ExitStack() as open_files:

        def write_to(path: str, bands: Sequence[OutputBand], numbers: Sequence[int], legend: Sequence[LegendClass] = ()) -> None:
            writer = open_files.enter_context(RasterWriter(path, grid, bands, metadata=run.provenance, legend=legend))
            sinks.append(SomePlanes(writer, tuple(numbers)))

        write_to(raster, [OutputBand("change", "uint8", UNKNOWN)], [0], LEGEND)
        if outputs.methods:
            bands = [OutputBand(rule.method, "uint8", UNKNOWN) for rule in run.rules]
            write_to(paths.methods, bands, range(planes.m))
        if outputs.polygons and not magnitude:
            magnitude = str(Path(files.folder(outputs.polygons)) / "magnitude.tif")
        if magnitude:
            write_to(magnitude, [MAGNITUDE_BAND], [planes.magnitude])
        # what draws the page is loaded meanwhile
        with importing(*(DRAWING if outputs.html else ())):
            run_blocks(StackedReader(readers), op, sinks, progress=progress.part(0.1, 0.7))
    _finish_class_raster(raster, outputs, tallies[0], files)
    if outputs.aligned:
        _write_aligned(run, paths.aligned, progress.part(0.7, 0.8))
    n_patches = None
    if outputs.polygons:
        patches = Patches(LEGEND[1], options.min_area_ha, _facts_of_patches(run))
        n_patches = write_patches((raster, magnitude), paths.polygons, outputs.polygons, files, patches, progress.part(0.8, 0.95))
        if not n_patches:
            progress.info(f"No patch of change reaches {options.min_area_ha:g} ha: the polygons are empty.")
    results = tuple(_result(run, i, tallies[i], squares) for i in range(planes.m))
    excluded = {reason: float(hectares) for reason, hectares in list(zip(REASONS, reasons.hectares))[1:]}
    report = DetectReport(results, excluded, pair.alignment, tuple(run.warnings), n_patches)
    _tell(report, progress)
    _write_texts(run, report, overview, (outputs, paths), files, progress.part(0.95, 1))
    progress.report(1.0)
    return report


def _finish_class_raster(raster: str, outputs: DetectOutputs, tally: ClassTally, files: OutputFiles) -> None:
    write_class_table(raster, LEGEND, [int(tally.pixels[c.code]) for c in LEGEND], [float(tally.hectares[c.code]) for c in LEGEND])
    for path in filter(None, (outputs.raster, outputs.methods)):
        files.write_sidecar(path, STYLE_SUFFIX, qml(LEGEND))


def _write_aligned(run: _Run, path: str, progress: Progress) -> None:
    reader = run.pair.aligned()
    after = replace(run.pair.images[1], bands=tuple(band for band in run.pair.images[1].bands if not band.is_alpha))
    facts = {**inherited(run.pair.images[1].metadata), **run.provenance}
    with RasterWriter(path, reader.grid, output_bands(after), metadata=facts) as writer:
        run_blocks(reader, None, [writer], progress=progress)


def _facts_of_patches(run: _Run) -> dict[str, str]:
    dates = [acquisition(info.path, info.metadata).text for info in run.pair.images]
    return {"before": dates[0], "after": dates[1], "method": run.title(run.rules[0].method)}


def _result(run: _Run, number: int, tally: ClassTally, squares: dict[tuple[int, bool], SquareTally]) -> MethodResult:
    rule, seed = run.rules[number], run.options.seed
    comparisons = []
    for (i, is_accuracy), counted in squares.items():
        if i != number:
            continue
        mapped = tally.hectares[[NO_CHANGE, CHANGE]] if is_accuracy and run.options.area_adjusted else None
        comparisons.append(counted.comparison(rule.method, is_accuracy, seed, mapped))
        if mapped is not None and not number and comparisons[-1].confusion.total > MOST_SAMPLED * sum(tally.pixels[[NO_CHANGE, CHANGE]]):
            run.warnings.append(CENSUS)
    pixels, hectares = tally.pixels, tally.hectares
    return MethodResult(
        rule.method,
        run.title(rule.method),
        rule.sentence,
        (int(pixels[NO_CHANGE]), int(pixels[CHANGE])),
        (float(hectares[NO_CHANGE]), float(hectares[CHANGE])),
        tuple(comparisons),
    )


def _tell(report: DetectReport, progress: Progress) -> None:
    for result in report.results:
        compared = "".join(f"; {c.kind}: F1 {c.figures['f1']:.3f}" for c in result.comparisons)
        progress.info(f"{result.title}: {result.hectares[1]:,.2f} ha changed{compared}.")
    left = ", ".join(f"{reason} {hectares:,.2f} ha" for reason, hectares in report.excluded_ha.items() if hectares)
    progress.info(f"Left out: {left or 'nothing'}.")


def _write_texts(
    run: _Run, report: DetectReport, overview: Overview, places: tuple[DetectOutputs, DetectOutputs], files: OutputFiles, progress: Progress
) -> None:
    """The table and the page."""
    from .change_report import change_report_html, report_table

    outputs, paths = places
    progress.report(0.0)
    if outputs.table:
        files.write(paths.table, outputs.table, report_table(report, run.inputs.reference))
    if outputs.html:
        page = change_report_html(report, run.pair, run.inputs.reference, overview, run.provenance, run.watch.cost(), progress)
        files.write(paths.html, outputs.html, page)


def change_numbers(report: DetectReport) -> dict[str, float]:
    """The declared numbers of a run."""
    found, own = report.alignment, report.main_figures
    known = found is not None and found.trusted
    shift = found.shift_px if found is not None and known else (0.0, 0.0)
    return {
        "SHIFT_X_PX": shift[0],
        "SHIFT_Y_PX": shift[1],
        "CHANGED_HA": report.main.hectares[1],
        "PRECISION": own["precision"],
        "RECALL": own["recall"],
        "F1": own["f1"],
    }
