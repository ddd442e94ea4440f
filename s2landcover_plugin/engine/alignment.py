"""Co-registration: where a second image lies against the first, and the second brought onto the first."""

from __future__ import annotations

import csv
import io
import itertools
import math
from dataclasses import dataclass, replace
from typing import Sequence

import numpy as np

from . import sentinel2
from .blocks import BLOCK_PX, Block, Op, collect_blocks
from .crs import Aoi, pixel_metres, same_crs
from .errors import EngineError
from .geotiff import OutputBand
from .grid import Grid, Window
from .options import option
from .packages import one_opencv_thread
from .progress import Progress
from .raster import GDAL_TYPES, BandInfo, RasterInfo, RasterReader, Reader, StackedReader, read_legend
from .registration import IDENTITY, MOTIONS, Patch, Registration, register
from .structure import structure

PATCH_SIDES = (256, 128, 64, 48)
"""Sides of the patches, pixels; the largest that fits in four times across is taken."""
PATCHES = 25
CANDIDATES_ACROSS = 7
SEARCH_ROOM_PX = 8
"""Margin of a patch beyond the largest shift."""
LEAST_VALID = 0.4
BANDS_USED = 1
"""Of real dates one band, the near infrared, errs half as much as four: haze and the shadows of the sun move edges in the visible."""
PREFERRED = ("nir", "red", "green", "blue", "nir08", "swir16")
"""The band that is looked at where none is chosen: the first of these that both rasters have."""
NEGLIGIBLE_PX = 0.1
"""Below, nothing is resampled: resampling would blur more than it mends."""


@dataclass(frozen=True)
class AlignOptions:
    """How an image is aligned. Shared by the Processing dialog and the engine."""

    band: str = ""
    motion: str = option(
        "translation",
        "Motion",
        "translation: shifted as a whole. euclidean: shifted and turned. affine: also stretched and sheared.",
        choices=MOTIONS,
    )
    max_shift_px: float = option(30.0, "Largest shift (pixels)", "Of the reference; larger ones are not looked for.", min=0.5, max=200)
    resampling: str = option(
        "cubic",
        "Resampling",
        "Where pixels have to be computed anew. The scene classification and class rasters are always nearest.",
        choices=("cubic", "bilinear", "nearest"),
        advanced=True,
    )
    move_grid: bool = option(
        False,
        "Move the grid by whole pixels rather than resample",
        "A shift within a tenth of a pixel of whole pixels changes the position of the raster only; its pixels stay as they are.",
        advanced=True,
    )


@dataclass(frozen=True)
class Alignment:
    """Where an image lies against its reference.

    Attributes:
        registration: on the reference's grid.
        shift_px: x to the right, y down, at the middle of what both share: a thing at (c, r) in the reference is at (c + x, r + y) in the
            image.
        shift_m: the same in metres, x to the east, y to the north; of rasters in degrees approximately.
        residual_px: median distance of the patches that agree from the motion.
        moves: whether the image is moved by it: trusted, and not negligible.
    """

    registration: Registration
    shift_px: tuple[float, float]
    shift_m: tuple[float, float]
    residual_px: float
    moves: bool

    @property
    def trusted(self) -> bool:
        """Whether it is known where the image lies."""
        return self.registration.trusted

    def table(self) -> str:
        """CSV: each patch with its shift, what remains of it after the motion, its correlation, and whether it was used."""
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(("column", "row", "shift_x_px", "shift_y_px", "residual_x_px", "residual_y_px", "correlation", "used"))
        for patch, used in zip(self.registration.patches, self.registration.agrees):
            dx, dy = self.registration.displacement(patch.column, patch.row)
            figures = (patch.shift_x, patch.shift_y, patch.shift_x - dx, patch.shift_y - dy, patch.correlation)
            rows.writerow((f"{patch.column:g}", f"{patch.row:g}", *(f"{value:.4f}" for value in figures), "yes" if used else "no"))
        return text.getvalue()


def estimate_alignment(
    reference: RasterInfo, image: RasterInfo, options: AlignOptions, progress: Progress, band_maps: tuple[str, str] = ("", "")
) -> Alignment:
    """Find where an image lies against a reference, on the reference's grid.

    Raises:
        EngineError: they do not overlap, have no band in common, or the chosen band does not exist.
        Cancelled: the user asked to stop.
    """
    overlap = shared_window(reference, image)
    first, second = structure_bands(reference, image, options.band, band_maps)
    readers = _structure_reader(reference, first, reference.grid), _structure_reader(image, second, reference.grid)
    patches = _patches(readers, overlap, len(first), options, progress.part(0, 0.7))
    found = register(patches, options.motion, options.max_shift_px, progress.part(0.7, 1))
    middle = overlap.x + (overlap.width - 1) / 2, overlap.y + (overlap.height - 1) / 2
    shift = found.displacement(*middle)
    metres = pixel_metres(reference.grid)
    used = [patch for patch, agrees in zip(found.patches, found.agrees) if agrees]
    residuals = [math.dist((p.shift_x, p.shift_y), found.displacement(p.column, p.row)) for p in used]
    moves = found.trusted and _largest(found, overlap) >= NEGLIGIBLE_PX
    south = -1 if reference.grid.geotransform[5] < 0 else 1
    shift_m = shift[0] * metres, south * shift[1] * metres
    return Alignment(found, shift, shift_m, float(np.median(residuals)) if residuals else float("nan"), moves)


def shared_window(reference: RasterInfo, image: RasterInfo) -> Window:
    """The part of the reference's grid that both rasters cover.

    Raises:
        EngineError: there is none, or one has no CRS while the other has.
    """
    if bool(reference.grid.crs) != bool(image.grid.crs):
        where = image.path if reference.grid.crs else reference.path
        raise EngineError("One of the two rasters has no coordinate reference system", where, "assign its CRS first")
    bounds = image.grid.bounds
    if reference.grid.crs and not same_crs(reference.grid.crs, image.grid.crs):
        bounds = Aoi(image.grid.crs, bounds).bounds_in(reference.grid.crs)
    window = reference.grid.window_of(bounds).clipped(reference.grid.width, reference.grid.height)
    if not window.width or not window.height:
        raise EngineError("The two rasters do not overlap", f"{reference.path}, {image.path}", "choose two rasters of the same place")
    return window


def structure_bands(reference: RasterInfo, image: RasterInfo, band: str, band_maps: tuple[str, str]) -> tuple[list[int], list[int]]:
    """1-based numbers, in both rasters, of the bands whose edges are compared.

    Raises:
        EngineError: the chosen band does not exist, or the rasters have no band in common.
    """
    if band:
        chosen = [sentinel2.choose_bands(info.bands, info.path, [band])[0] for info in (reference, image)]
        return [chosen[0]], [chosen[1]]
    known = [sentinel2.spectral_bands(info.bands, info.path, text) for info, text in zip((reference, image), band_maps)]
    common = [name for name in known[0] if name in known[1]]
    common.sort(key=lambda name: PREFERRED.index(name) if name in PREFERRED else len(PREFERRED))
    if common:
        return [known[0][name] for name in common[:BANDS_USED]], [known[1][name] for name in common[:BANDS_USED]]
    if len(reference.bands) == len(image.bands):
        # other programs' files without names: band by band
        numbers = list(range(1, min(len(reference.bands), BANDS_USED) + 1))
        return numbers, numbers
    names = "; ".join(", ".join(each.name for each in info.bands) for info in (reference, image))
    raise EngineError("The two rasters have no band in common", f"{reference.path}, {image.path} (bands: {names})", "choose a BAND of both")


def _structure_reader(info: RasterInfo, indexes: Sequence[int], grid: Grid) -> StackedReader:
    """The bands on a grid, with the scene classification behind them where there is one."""
    readers: list[Reader] = [RasterReader(info, indexes, grid=grid, resampling="cubic", nodata=missing_nodata(info))]
    scl = [band.index for band in info.bands if sentinel2.identify(band, info.path) == sentinel2.SCL]
    if scl and scl[0] not in indexes:
        readers.append(RasterReader(info, scl[:1], grid=grid, nodata=0))
    return StackedReader(readers)


def missing_nodata(info: RasterInfo) -> float | None:
    """The nodata value of bands that state none: 0 where all numbers are unsigned."""
    return 0 if all(band.dtype.startswith("uint") for band in info.bands) else None


def _patches(
    readers: tuple[StackedReader, StackedReader], overlap: Window, n_bands: int, options: AlignOptions, progress: Progress
) -> list[Patch]:
    """Patches spread over the overlap, with enough valid pixels in both images."""
    shorter = min(overlap.width, overlap.height)
    side = next((side for side in PATCH_SIDES if shorter >= 4 * side), PATCH_SIDES[-1])
    margin = math.ceil(options.max_shift_px) + SEARCH_ROOM_PX
    if shorter < side:
        return []
    windows = [Window(x, y, side, side) for x, y in _places(overlap, side, margin)]
    cut = _CutPatch(margin, n_bands, len(readers[0].bands))
    with one_opencv_thread():
        found = collect_blocks(StackedReader(readers), cut, windows, PATCHES, lambda results: sum(map(len, results)) >= PATCHES, progress)
    return list(itertools.chain.from_iterable(found))


class _CutPatch(Op):
    """The structure of both images in a block and its margin: a list of one patch, or of none where too little of it can be used."""

    trims = True

    def __init__(self, margin: int, n_bands: int, n_planes: int) -> None:
        """
        Args:
            n_bands: that are compared, of each image.
            n_planes: of the first image; its scene classification is the one behind the bands.
        """
        self.halo = margin
        self.n_bands, self.n_planes = n_bands, n_planes

    def __call__(self, block: Block) -> list[Patch]:
        data, valid = np.asarray(block.data), block.valid
        margin, side = self.halo, block.window.width - 2 * self.halo
        both = [self._usable(data[planes], valid[planes]) for planes in (slice(0, self.n_planes), slice(self.n_planes, None))]
        inner = slice(margin, margin + side)
        if min(ok[inner, inner].mean() for _, ok in both) < LEAST_VALID:
            return []
        (reference, reference_ok), (image, image_ok) = (structure(*each) for each in both)
        if not reference.any() or not image.any():
            return []
        x, y = (corner + margin + (side - 1) / 2 for corner in (block.window.x, block.window.y))
        return [Patch(x, y, reference, reference_ok, image, image_ok, margin)]

    def _usable(self, data: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Bands of one image, and where they can be used: valid, and no cloud or shadow."""
        n = self.n_bands
        use: np.ndarray = np.asarray(valid[:n].all(axis=0))
        if len(data) > n:
            use = use & valid[n] & ~np.isin(data[n], sentinel2.UNUSABLE_CLASSES)
        return data[:n], use


def _places(overlap: Window, side: int, margin: int) -> list[tuple[int, int]]:
    """Upper left corners of candidates, spread evenly as far as their margins stay in one tile, in an order that is spread too."""

    def along(first: int, length: int) -> list[int]:
        even = np.linspace(first, first + length - side, CANDIDATES_ACROSS)
        return sorted({_within_tile(round(start), side, margin, range(first, first + length - side + 1)) for start in even})

    columns, rows = along(overlap.x, overlap.width), along(overlap.y, overlap.height)
    # every other one first, then the gaps: whenever enough are found, they cover everything
    places = [(i % 2 + j % 2, j, i, x, y) for i, x in enumerate(columns) for j, y in enumerate(rows)]
    return [(x, y) for *_, x, y in sorted(places)]


def _within_tile(start: int, side: int, margin: int, allowed: range) -> int:
    """Where a patch starts: moved until its margins cross no edge of a tile, as far as that is allowed."""
    length = side + 2 * margin
    beyond = (start - margin) % BLOCK_PX + length - BLOCK_PX
    moves = sorted((-beyond, length - beyond), key=abs) if 0 < beyond and length <= BLOCK_PX else []
    return next((start + move for move in moves if start + move in allowed), start)


def _largest(found: Registration, overlap: Window) -> float:
    """Largest displacement at the corners of the overlap, pixels."""
    columns, rows = (overlap.x, overlap.x + overlap.width - 1), (overlap.y, overlap.y + overlap.height - 1)
    return max(math.hypot(*found.displacement(column, row)) for column in columns for row in rows)


def moved_geotransform(image: RasterInfo, reference: Grid, matrix: np.ndarray) -> tuple[float, float, float, float, float, float]:
    """The geotransform, perhaps rotated, that puts an image where the reference has the same things; both in one CRS.

    Args:
        matrix: (2, 3) pixel centre of the reference -> of the image, on the reference's grid.
    """
    world = _square(reference.geotransform)
    moved = world @ np.linalg.inv(_on_corners(matrix)) @ np.linalg.inv(world) @ _square(image.grid.geotransform)
    return (moved[0, 2], moved[0, 0], moved[0, 1], moved[1, 2], moved[1, 0], moved[1, 1])


def _square(transform: Sequence[float]) -> np.ndarray:
    return np.array([[transform[1], transform[2], transform[0]], [transform[4], transform[5], transform[3]], [0, 0, 1]])


def _on_corners(matrix: np.ndarray) -> np.ndarray:
    """A (2, 3) matrix between pixel centres as a (3, 3) matrix between the corners that geotransforms count from."""
    corner = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    return np.asarray(corner @ np.vstack([matrix, (0, 0, 1)]) @ np.linalg.inv(corner))


class Displaced:
    """A reader whose pixels belong elsewhere: on `grid`, which has the same size. Can be sent to another process."""

    def __init__(self, reader: RasterReader, grid: Grid) -> None:
        self.reader = reader
        self.grid = grid
        self.bands, self.dtype, self.tile = reader.bands, reader.dtype, reader.tile

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """As RasterReader.read."""
        return self.reader.read(window)

    def reads_once(self, windows: Sequence[Window]) -> bool:
        """As Reader has it."""
        return self.reader.reads_once(windows)

    def stop(self) -> None:
        """As Reader has it."""
        self.reader.stop()


def aligned_reader(
    image: RasterInfo, reference: Grid, matrix: np.ndarray, resampling: str, indexes: Sequence[int] | None = None
) -> StackedReader:
    """An image on the reference's grid, moved by a motion; the scene classification and class rasters by nearest neighbour.

    Args:
        matrix: (2, 3) pixel centre of the reference -> of the image, on the reference's grid.
        indexes: 1-based bands, in order; all if None.

    Raises:
        EngineError: the image is in another CRS and more than shifted.
    """
    readers: list[Reader] = []
    chosen = image.bands if indexes is None else [image.bands[i - 1] for i in indexes]
    for run in _runs(image, chosen):
        method = "nearest" if is_categorical(image, run[0]) else resampling
        readers.append(_moved_reader(image, [band.index for band in run], reference, matrix, method))
    return StackedReader(readers)


def _moved_reader(image: RasterInfo, indexes: list[int], reference: Grid, matrix: np.ndarray, method: str) -> Reader:
    nodata = missing_nodata(image)
    if np.array_equal(matrix, IDENTITY):
        return RasterReader(image, indexes, grid=reference, resampling=method, nodata=nodata)
    if same_crs(image.grid.crs, reference.crs):
        transform = moved_geotransform(image, reference, matrix)
        return RasterReader(image, indexes, grid=reference, resampling=method, nodata=nodata, geotransform=transform)
    # another CRS: the image is read where it has what the reference has at its own place
    check_motion(image, reference, is_shift=np.array_equal(matrix[:, :2], IDENTITY[:, :2]))
    there = _square(reference.geotransform) @ _on_corners(matrix)
    grid = replace(reference, geotransform=(there[0, 2], there[0, 0], 0.0, there[1, 2], 0.0, there[1, 1]))
    return Displaced(RasterReader(image, indexes, grid=grid, resampling=method, nodata=nodata), reference)


def check_motion(image: RasterInfo, reference: Grid, *, is_shift: bool) -> None:
    """Refuse to turn or stretch an image that is in another CRS.

    Raises:
        EngineError: it is.
    """
    if not is_shift and not same_crs(image.grid.crs, reference.crs):
        fix = "use MOTION translation, or bring it to the CRS of the reference first"
        raise EngineError("A raster in another coordinate reference system can be shifted only", image.path, fix)


def is_categorical(image: RasterInfo, band: BandInfo) -> bool:
    """Whether a band holds codes rather than measurements: a scene classification, or the one band of a raster with named classes."""
    if sentinel2.identify(band, image.path, alone=len(image.bands) == 1) == sentinel2.SCL:
        return True
    return len(image.bands) == 1 and bool(read_legend(image.path))


def _runs(image: RasterInfo, bands: Sequence[BandInfo]) -> list[list[BandInfo]]:
    """Neighbouring bands that are resampled alike."""
    groups = itertools.groupby(bands, key=lambda band: is_categorical(image, band))
    return [list(group) for _, group in groups]


def output_bands(image: RasterInfo) -> list[OutputBand]:
    """The bands of an image as they are written again: names, scale and nodata stay."""
    dtype = str(np.result_type(*(band.dtype for band in image.bands)))
    dtype = dtype if dtype in GDAL_TYPES else "float64"
    missing = 0.0 if dtype.startswith("uint") else -9999.0
    bands = []
    for band in image.bands:
        name = sentinel2.identify(band, image.path, alone=len(image.bands) == 1)
        known = sentinel2.BY_NAME.get(name)
        nodata = missing if band.nodata is None else band.nodata
        wavelength = known.wavelength_um if known else None
        bands.append(OutputBand(name, dtype, nodata, band.common_name, wavelength, band.scale, band.offset))
    return bands
