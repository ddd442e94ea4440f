"""A saved model on another raster: the same classes, and where they are not to be trusted."""

from __future__ import annotations

import json
import math
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Sequence

import numpy as np

from . import indices, sentinel2
from .acquisition import inherited
from .areas import ClassTally
from .blocks import Sink, SomePlanes, run_blocks
from .classification import DISTANCE_BAND, Judged
from .errors import EngineError
from .features import FeatureSpace, feature_reader
from .files import STYLE_SUFFIX, OutputFiles
from .geotiff import RasterWriter, write_class_table
from .grid import Window
from .legend import LegendClass, qml
from .model_file import load_model
from .models import ClusterModel
from .options import check_options, option
from .progress import Progress
from .raster import RasterInfo, RasterReader, describe
from .version import VERSION

TRUST_QUANTILE = 0.99
"""A pixel farther away than this share of the training pixels lies outside of what the model has seen."""
WARN_ABOVE = 0.1
"""Share of pixels outside, beyond what the training pixels themselves have, above which the map is not to be trusted."""
UNKNOWN_RGB = (128, 128, 128)


@dataclass(frozen=True)
class ApplyOptions:
    """How a model is applied."""

    band_map: str = ""
    unknown_quantile: float = option(
        0.0,
        "Unknown beyond this quantile (0 = off)",
        "Pixels farther from the training data than this share of the training pixels (0.99, say) become a class of their own: unknown.",
        min=0,
        max=1,
    )


@dataclass(frozen=True)
class ApplyOutputs:
    """Where the results go; empty: not wanted."""

    raster: str
    distance: str = ""
    table: str = ""
    html: str = ""


@dataclass(frozen=True)
class ApplyReport:
    """What applying a model found."""

    legend: tuple[LegendClass, ...]
    pixels: tuple[int, ...]
    hectares: tuple[float, ...]
    outside_share: float
    """Share of the valid pixels that lie beyond the quantile of the training pixels."""
    quantile: float
    trusted: bool


class OutsideTally:
    """A sink that counts pixels farther from the training data than a limit."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.outside = 0
        self.valid = 0

    def write(self, window: Window, planes: Sequence[np.ndarray] | np.ndarray, valid: np.ndarray) -> None:
        """Count one window of distances."""
        distance = np.asarray(planes[0])[valid]
        self.outside += int(np.count_nonzero(distance > self.limit))
        self.valid += len(distance)


def run_apply(source: str, model_path: str, outputs: ApplyOutputs, options: ApplyOptions, progress: Progress) -> ApplyReport:
    """Give every pixel of a raster the class of its nearest (or most likely) cluster of a saved model.

    Raises:
        EngineError: the model or the raster cannot be used, or they do not fit each other.
        Cancelled: the user asked to stop.
    """
    check_options(options)
    model = load_model(model_path)
    info = describe(source)
    reader, space = _matching(info, model, options.band_map, progress)
    quantile = options.unknown_quantile or TRUST_QUANTILE
    op = Judged(space, model, model.limit(quantile) if options.unknown_quantile else math.inf)
    legend = list(model.legend)
    if options.unknown_quantile:
        legend.append(LegendClass(model.unknown_code, "Unknown", UNKNOWN_RGB))
    outside = OutsideTally(model.limit(quantile))
    tally = ClassTally(reader.grid, legend[-1].code + 1)
    facts = _provenance(options, info, model_path)
    with OutputFiles([source, model_path]) as files, ExitStack() as open_files:
        raster = files.path(outputs.raster)
        writer = open_files.enter_context(RasterWriter(raster, reader.grid, op.outputs[:1], metadata=facts, legend=legend))
        sinks: list[Sink] = [SomePlanes(writer, (0,)), tally, SomePlanes(outside, (2,))]
        if outputs.distance:
            path = files.path(outputs.distance)
            sinks.append(SomePlanes(open_files.enter_context(RasterWriter(path, reader.grid, [DISTANCE_BAND], metadata=facts)), (2,)))
        run_blocks(reader, op, sinks, progress=progress)
        open_files.close()
        if not outside.valid:
            raise EngineError("The raster has no valid pixel", source, "choose an area or a date with data")
        pixels = tuple(int(tally.pixels[each.code]) for each in legend)
        hectares = tuple(float(tally.hectares[each.code]) for each in legend)
        write_class_table(raster, legend, pixels, hectares)
        files.write_sidecar(outputs.raster, STYLE_SUFFIX, qml(legend))
        share = outside.outside / outside.valid
        report = ApplyReport(tuple(legend), pixels, hectares, share, quantile, share <= WARN_ABOVE + 1 - quantile)
        if outputs.table:
            files.write_text(outputs.table, tally.table(legend))
        if outputs.html:
            files.write_text(outputs.html, _page(report, model, raster, facts))
    _tell(report, source, progress)
    return report


def _tell(report: ApplyReport, source: str, progress: Progress) -> None:
    share, expected = 100 * report.outside_share, 100 * (1 - report.quantile)
    said = f"{share:.1f} % of the pixels are farther from the training data than {100 * report.quantile:g} % of the training pixels"
    if report.trusted:
        progress.info(f"{said} (expected: about {expected:.1f} %).")
    else:
        progress.warn(f"{source}: {said}; the model has seen nothing like them. Do not trust the map there: train a model on this scene.")


def _page(report: ApplyReport, model: ClusterModel, raster: str, facts: dict[str, str]) -> str:
    from .report import apply_report_html

    return apply_report_html(report, model, raster, facts)


def _provenance(options: ApplyOptions, info: RasterInfo, model_path: str) -> dict[str, str]:
    facts = {
        "S2LC_ALGORITHM": "applyclusters",
        "S2LC_VERSION": VERSION,
        "S2LC_INPUT": Path(info.path.partition("?")[0]).name,
        "S2LC_MODEL": Path(model_path).name,
        "S2LC_PARAMETERS": json.dumps(asdict(options)),
    }
    return {**facts, **inherited(info.metadata)}


def _matching(info: RasterInfo, model: ClusterModel, band_map: str, progress: Progress) -> tuple[RasterReader, FeatureSpace]:
    """A reader of the model's features, found by name whatever their order in the file.

    Raises:
        EngineError: the raster lacks one.
    """
    known = sentinel2.spectral_bands(info.bands, info.path, band_map)
    names = [sentinel2.identify(band, info.path, alone=len(info.bands) == 1) for band in info.bands]
    numbers, missing = [], []
    for feature in model.features:
        band = sentinel2.BY_NAME.get(feature.name)
        number = known.get(band.common_name) if band else None
        if number is None and feature.name in names:
            number = names.index(feature.name) + 1
        if feature.formula:
            continue
        if number is None:
            missing.append(feature.name)
        else:
            numbers.append(number)
    if missing:
        fix = f"its bands are {', '.join(names)}; add the missing ones, or tell which band is which with BAND_MAP (red=3)"
        raise EngineError(f"The model needs {', '.join(missing)}, which the raster lacks", info.path, fix)
    formulas = [(feature.name, indices.Formula(feature.formula)) for feature in model.features if feature.formula]
    bands = [str(number) for number in numbers]
    reader, space = feature_reader(info, bands, (), band_map, progress, with_bands=bool(bands), formulas=formulas)
    if space.n_bands != len(numbers):
        raise EngineError("Two features of the model are one band of the raster", info.path, "correct BAND_MAP")
    return reader, space
