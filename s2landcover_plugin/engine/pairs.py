"""Two dates on one grid: aligned, with their common bands and their scene classifications."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import sentinel2
from .alignment import Alignment, AlignOptions, aligned_reader, check_motion, estimate_alignment, missing_nodata, shared_window
from .change import DatePlanes, PairSpace
from .features import band_for
from .grid import Grid, Window
from .progress import Progress
from .radiometry import reflectance_scales
from .raster import RasterInfo, RasterReader, StackedReader
from .registration import IDENTITY

LAND = tuple(band.common_name for band in sentinel2.BANDS if band.common_name not in ("coastal", "nir09", "cirrus"))
"""Bands that show the ground; the others (60 m) are there for the atmosphere."""
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
        return aligned_reader(self.images[1], self.grid, self.matrix, RESAMPLING)


def open_pair(
    before: RasterInfo, after: RasterInfo, align: AlignOptions | None, band_map: str, exclude_water: bool, progress: Progress
) -> DatePair:
    """Bring two dates to one grid: that of the first, where both are.

    Args:
        align: None: as the files say.
        band_map: of both, for files without band names.

    Raises:
        EngineError: they do not overlap, red or near infrared is missing, or the second one would have to be turned in another CRS.
        Cancelled: the user asked to stop.
    """
    known = [_known_bands(info, band_map) for info in (before, after)]
    window = shared_window(before, after)
    common = [name for name in LAND if name in known[0] and name in known[1]]
    # B8A that stands in for B08 is not a band of its own
    common = [name for name in common if name == "nir" or all(bands[name] != bands["nir"] for bands in known)]
    _tell_left_out(before, after, known, common, progress)
    alignment = None
    if align is not None:
        check_motion(after, before.grid, is_shift=align.motion == "translation")
        alignment = estimate_alignment(before, after, align, progress, (band_map, band_map))
    matrix = _on_window(alignment.registration.matrix, window) if alignment and alignment.moves else IDENTITY
    grid = before.grid.cropped(window)
    numbers = [[bands[name] for name in common] for bands in known]
    scl = [_classification(info) for info in (before, after)]
    indexes = [[*chosen, *([classes] if classes else [])] for chosen, classes in zip(numbers, scl)]
    readers = (
        RasterReader(before, indexes[0], grid=grid, nodata=missing_nodata(before)),
        aligned_reader(after, grid, matrix, RESAMPLING, indexes[1]),
    )
    dates, start = [], 0
    for info, chosen, classes in zip((before, after), numbers, scl):
        scales = reflectance_scales([info.bands[number - 1] for number in chosen], info.path, progress)
        planes = {name: start + position for position, name in enumerate(common)}
        dates.append(DatePlanes(planes, dict(zip(common, scales)), start + len(common) if classes else None))
        start += len(common) + bool(classes)
    space = PairSpace(dates[0], dates[1], exclude_water=exclude_water)
    return DatePair((before, after), StackedReader(readers), space, alignment, matrix)


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


def _tell_left_out(before: RasterInfo, after: RasterInfo, known: list[dict[str, int]], common: list[str], progress: Progress) -> None:
    for info, bands, other in ((before, known[0], known[1]), (after, known[1], known[0])):
        alone = [sentinel2.BY_COMMON_NAME[name].name for name in LAND if name in bands and name not in other]
        if alone:
            progress.info(f"{', '.join(alone)} of {info.path}: not used, because the other date has no such band.")
    if not {"green", "blue", "swir16"} & set(common):
        progress.warn(
            "Both dates have red and near infrared only: without green, blue or SWIR neither water nor clouds nor snow can be told by "
            "indices. Use stacks with B02, B03, B11 or SCL where there are any."
        )


def _on_window(matrix: np.ndarray, window: Window) -> np.ndarray:
    """A motion (2, 3) between pixels of a grid as one between pixels of a window of it."""
    origin = np.array([window.x, window.y], dtype=float)
    shift = matrix[:, :2] @ origin + matrix[:, 2] - origin
    return np.column_stack([matrix[:, :2], shift])
