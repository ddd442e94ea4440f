"""Two dates on one grid: aligned, with their common bands and their scene classifications."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

import numpy as np

from . import sentinel2
from .alignment import Alignment, AlignOptions, aligned_reader, check_motion, estimate_alignment, missing_nodata, shared_window
from .change import DatePlanes, PairSpace
from .features import band_for
from .grid import Grid, Window
from .progress import Progress
from .radiometry import ReflectanceScale, reflectance_scales
from .raster import RasterInfo, RasterReader, StackedReader
from .registration import IDENTITY

LAND = tuple(band.common_name for band in sentinel2.BANDS if band.common_name not in ("coastal", "nir09", "cirrus"))
"""Bands that show the ground; the others (60 m) are there for the atmosphere."""
MASKING = ("blue", "green", "swir16")
TOLD_BY = {"water": ("green",), "cloud": ("blue",), "snow": ("green", "swir16")}
"""Bands, besides red and near infrared, that tell by indices what is left out."""
OF_INDICES = ("red", "nir", *MASKING)
"""Bands that NDVI and BSI are made of, and what tells what is left out."""
RESAMPLING = "cubic"


@dataclass(frozen=True)
class DatePair:
    """Two dates, ready to be compared.

    Attributes:
        images: before, after.
        reader: planes of both dates on the part of the first one's grid that both cover.
        space: what is in the planes.
        alignment: None where it was not asked for.
        matrix: (2, 3) pixel centre of the grid -> of the second image, by which it is moved.
    """

    images: tuple[RasterInfo, RasterInfo]
    reader: StackedReader
    space: PairSpace
    alignment: Alignment | None
    matrix: np.ndarray

    @property
    def grid(self) -> Grid:
        """The common grid."""
        return self.reader.grid

    def aligned(self) -> StackedReader:
        """All bands of the second image on the common grid."""
        bands = [band.index for band in self.images[1].bands if not band.is_alpha]
        return aligned_reader(self.images[1], self.grid, self.matrix, RESAMPLING, bands)


def open_pair(
    before: RasterInfo,
    after: RasterInfo,
    align: AlignOptions | None,
    band_map: str,
    exclude_water: bool,
    progress: Progress,
    bands: Sequence[str] = LAND,
) -> DatePair:
    """Bring two dates to one grid: that of the first, where both are.

    Args:
        align: None: as the files say.
        band_map: of both, for files without band names.
        bands: common names of those that are read, where they are there: OF_INDICES at least.

    Raises:
        EngineError: they do not overlap, red or near infrared is missing, or the second one would have to be turned in another CRS.
        Cancelled: the user asked to stop.
    """
    known = _same_infrared([_known_bands(info, band_map) for info in (before, after)], progress)
    window = shared_window(before, after)
    _tell_left_out((before, after), known, bands, progress)
    alignment = None
    if align is not None:
        check_motion(after, before.grid, is_shift=align.motion == "translation")
        alignment = estimate_alignment(before, after, align, progress, (band_map, band_map))
    matrix = _on_window(alignment.registration.matrix, window) if alignment and alignment.moves else IDENTITY
    grid = before.grid.cropped(window)
    layers = [_layers(before, known[0], known[1], bands, progress), _layers(after, known[1], known[0], bands, progress)]
    readers = (
        RasterReader(before, layers[0].indexes, grid=grid, nodata=missing_nodata(before)),
        aligned_reader(after, grid, matrix, RESAMPLING, layers[1].indexes),
    )
    dates = layers[0].planes(0), layers[1].planes(len(layers[0].indexes))
    space = PairSpace(*dates, exclude_water=exclude_water)
    return DatePair((before, after), StackedReader(readers), space, alignment, matrix)


@dataclass(frozen=True)
class _Layers:
    """What is read of one date: 1-based numbers by common name, their scales, and the scene classification."""

    numbers: dict[str, int]
    scales: dict[str, ReflectanceScale]
    scl: int | None

    @property
    def indexes(self) -> list[int]:
        return [*self.numbers.values(), *([self.scl] if self.scl else [])]

    def planes(self, start: int) -> DatePlanes:
        """Where they are in a stack, from a plane on."""
        places = {name: start + position for position, name in enumerate(self.numbers)}
        return DatePlanes(places, self.scales, start + len(places) if self.scl else None)


def _layers(info: RasterInfo, known: dict[str, int], other: dict[str, int], bands: Sequence[str], progress: Progress) -> _Layers:
    """The bands that both dates have, and those that tell water, clouds and snow in this one alone."""
    names = [name for name in bands if name in known and (name in other or name in MASKING)]
    # B8A that stands in for B08 is not a band of its own
    numbers = {name: known[name] for name in names if name == "nir" or known[name] != known["nir"]}
    scales = reflectance_scales([info.bands[number - 1] for number in numbers.values()], info.path, progress)
    return _Layers(numbers, dict(zip(numbers, scales)), _classification(info))


def _same_infrared(known: list[dict[str, int]], progress: Progress) -> list[dict[str, int]]:
    """B8A of both dates where one has no B08: the two differ."""
    without = [bands.get("nir08") == bands["nir"] for bands in known]
    if without[0] == without[1]:
        return known
    if all("nir08" in bands for bands in known):
        progress.info("B8A of both dates is used, because one has no B08.")
        return [{**bands, "nir": bands["nir08"]} for bands in known]
    progress.warn("B08 of one date is compared with B8A of the other: their NDVI differ a little.")
    return known


def _known_bands(info: RasterInfo, band_map: str) -> dict[str, int]:
    """Common name -> 1-based number; red and near infrared are there.

    Raises:
        EngineError: they are not.
    """
    known = sentinel2.spectral_bands(info.bands, info.path, band_map)
    have = f"{info.path} (bands: {', '.join(band.name for band in info.bands)})"
    return {**known, **{name: band_for(name, known, have, "NDVI") for name in ("red", "nir")}}


def _classification(info: RasterInfo) -> int | None:
    """1-based number of the scene classification."""
    return next((band.index for band in info.bands if sentinel2.identify(band, info.path) == sentinel2.SCL), None)


def _tell_left_out(images: tuple[RasterInfo, RasterInfo], known: list[dict[str, int]], wanted: Sequence[str], progress: Progress) -> None:
    for info, bands, other in ((images[0], known[0], known[1]), (images[1], known[1], known[0])):
        alone = [sentinel2.BY_COMMON_NAME[name].name for name in wanted if name in bands and name not in other]
        if alone:
            progress.info(f"{', '.join(alone)} of {info.path}: not compared, because the other date has no such band.")
        untold = [what for what, needs in TOLD_BY.items() if not set(needs) <= set(bands)]
        if untold and _classification(info) is None:
            lacking = [sentinel2.BY_COMMON_NAME[name].name for name in MASKING if name not in bands]
            progress.warn(f"{info.path} has neither SCL nor {', '.join(lacking)}: {', '.join(untold)} in it cannot be told and left out.")


def _on_window(matrix: np.ndarray, window: Window) -> np.ndarray:
    """A motion (2, 3) between pixels of a grid as one between pixels of a window of it."""
    origin = np.array([window.x, window.y], dtype=float)
    shift = matrix[:, :2] @ origin + matrix[:, 2] - origin
    return np.column_stack([matrix[:, :2], shift])
