"""Classes as polygons: sieved by a minimum area, dissolved per class, with names, colours and hectares."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from pathlib import Path
from typing import Mapping, Sequence

import numpy as np

from . import vector
from .areas import ClassTally
from .blocks import Block, Op, block_windows, iter_blocks, run_blocks
from .crs import row_hectares
from .errors import EngineError
from .files import OutputFiles
from .geotiff import OutputBand, RasterWriter
from .grid import Window
from .legend import NODATA_CODE, LegendClass, polygon_qml
from .progress import Progress
from .raster import RasterReader, StackedReader, describe

SUFFIX = ".gpkg"
RESERVED = ("gpkg_", "sqlite_", "rtree_", "layer_styles")
"""Beginnings of names that GeoPackage, SQLite and QGIS keep for themselves."""


def check_polygon_path(path: str) -> None:
    """Refuse other formats than GeoPackage, the one that can carry its style, and a file whose other layers would be lost.

    Raises:
        EngineError: the name ends otherwise, or there is a GeoPackage with layers of somebody else.
    """
    if not path:
        return
    if Path(path).suffix.lower() != SUFFIX:
        raise EngineError("The polygons must be a GeoPackage file", f"OUTPUT_POLYGONS {path}", f"give it a name that ends in {SUFFIX}")
    others = [name for name in vector.layers_in(path) if name not in (layer_name(path), "layer_styles")]
    if others:
        fix = "choose a new file: the whole file is replaced"
        raise EngineError(f"The GeoPackage has other layers ({', '.join(others)}), which would be lost", path, fix)


def layer_name(path: str) -> str:
    """The layer's name: that of the file, unless the format keeps it for itself."""
    stem = Path(path).stem
    return f"classes_{stem}" if stem.lower().startswith(RESERVED) else stem


def write_polygons(
    raster: str, destination: str, files: OutputFiles, legend: Sequence[LegendClass], min_area_ha: float, progress: Progress
) -> None:
    """Write the classes of a raster as one multipolygon each.

    Pieces smaller than the minimum go to their largest neighbour, the smallest first; islands in nodata that stay smaller are left out.

    Args:
        raster: a class raster, Byte, 0 = nodata.
        min_area_ha: smallest area of a piece, hectares; 0 keeps every pixel.

    Raises:
        EngineError: a file cannot be read or written.
        Cancelled: the user asked to stop.
    """
    check_polygon_path(destination)
    target = files.path(destination)
    grid = describe(raster).grid
    # the middle row stands for all where pixels differ (degrees)
    pixel_ha = float(row_hectares(grid)[grid.height // 2])
    min_px = min(max(1, int(np.ceil(min_area_ha / pixel_ha - 1e-9))), grid.width * grid.height + 1)
    folder = Path(files.folder(destination))
    sieved, parts = str(folder / "sieved.tif"), str(folder / "parts.gpkg")
    vector.sieve(raster, sieved, min_px, progress.part(0, 0.3))
    vector.trace(sieved, parts, progress.part(0.3, 0.5))
    codes, pixels = vector.pieces(parts, grid, progress.part(0.5, 0.55))
    if (pixels < min_px).any():
        sieved, lost_px = _merged(sieved, parts, codes, pixels, min_px, folder, progress.part(0.55, 0.8))
        parts = str(folder / "merged.gpkg")
        vector.trace(sieved, parts, progress.part(0.8, 0.85))
        if lost_px:
            lost = f"{lost_px * pixel_ha:,.2f} ha together"
            progress.info(f"Islands of less than {min_area_ha:g} ha, {lost}, are not in the polygons.")
    tally = ClassTally(grid, max(each.code for each in legend) + 1)
    for block in iter_blocks(_codes(sieved), progress=progress.part(0.85, 0.9)):
        tally.write(block.window, np.asarray(block.data), block.valid)
    classes = [(each, float(tally.hectares[each.code])) for each in legend]
    if not any(hectares for _, hectares in classes):
        progress.warn(f"No piece of any class reaches {min_area_ha:g} ha: the polygons are empty. Choose a smaller MIN_AREA_HA.")
    vector.write_dissolved(parts, target, layer_name(destination), classes, grid.crs, progress.part(0.9, 1))


@dataclass(frozen=True)
class Patches:
    """Which patches are wanted, and what is said of them.

    Attributes:
        each: the code that they have.
        min_area_ha: smallest area, hectares.
    """

    each: LegendClass
    min_area_ha: float
    facts: Mapping[str, str]
    """Field -> text, the same for all."""


def write_patches(rasters: tuple[str, str], target: str, destination: str, files: OutputFiles, patches: Patches, progress: Progress) -> int:
    """Write one polygon for each connected patch of one code: its area, and the mean of another raster on the same grid.

    Pixels are connected by their sides. Patches smaller than the minimum are left out; the largest comes first.

    Args:
        rasters: a class raster, Byte, 0 = nodata; and the other one.
        target: temporary path of the destination.

    Returns:
        how many there are.

    Raises:
        EngineError: a file cannot be read or written.
        Cancelled: the user asked to stop.
    """
    folder = Path(files.folder(destination))
    only, parts, ids = (str(folder / name) for name in ("only.tif", "parts.gpkg", "ids.tif"))
    lookup = np.zeros(256, np.uint8)
    lookup[patches.each.code] = patches.each.code
    op = Recode(lookup)
    reader = _codes(rasters[0])
    with RasterWriter(only, reader.grid, op.outputs) as writer:
        run_blocks(reader, op, [writer], progress=progress.part(0, 0.2))
    vector.trace(only, parts, progress.part(0.2, 0.5))
    codes, _ = vector.pieces(parts, reader.grid, progress.part(0.5, 0.55))
    vector.burn_ids(parts, only, ids, progress.part(0.55, 0.7))
    stacked = StackedReader([RasterReader(describe(ids), [1], nodata=0), RasterReader(describe(rasters[1]), [1])])
    sums = np.zeros((3, len(codes) + 1))
    for found, values in iter_blocks(stacked, ZonalSums(row_hectares(reader.grid)), progress=progress.part(0.7, 0.85)):
        sums[:, found] += values
    pixels, hectares, total = sums
    kept = [int(i) for i in np.argsort(-hectares, kind="stable") if hectares[i] > 0 and hectares[i] >= patches.min_area_ha * (1 - 1e-9)]
    column = vector.Column
    columns = {
        "patch": column(int, {piece: number for number, piece in enumerate(kept, 1)}),
        vector.CODE: column(int, dict.fromkeys(kept, patches.each.code)),
        "name": column(str, dict.fromkeys(kept, patches.each.name)),
        "hectares": column(float, {piece: float(hectares[piece]) for piece in kept}),
        "mean_magnitude": column(float, {piece: float(total[piece] / pixels[piece]) for piece in kept}),
        **{name: column(str, dict.fromkeys(kept, text)) for name, text in patches.facts.items()},
    }
    style = polygon_qml([patches.each])
    vector.write_patches(parts, target, layer_name(destination), columns, reader.grid.crs, style, progress.part(0.85, 1))
    return len(kept)


class ZonalSums(Op):
    """Ids (n,) in a block, and pixels, hectares and sum of the second plane of each (3, n). Can be sent to another process."""

    outputs = ()

    def __init__(self, hectares: np.ndarray) -> None:
        """
        Args:
            hectares: (height,) of a pixel in each row of the grid.
        """
        self.hectares = hectares

    def __call__(self, block: Block) -> tuple[np.ndarray, np.ndarray]:
        ids, values = np.asarray(block.data)
        where = block.all_valid
        found, inverse = np.unique(ids[where].astype(np.int64), return_inverse=True)
        rows = np.broadcast_to(self.hectares[block.window.y : block.window.y + block.window.height, None], ids.shape)
        weights = (np.ones(len(inverse)), rows[where], values[where].astype(np.float64))
        return found, np.stack([np.bincount(inverse, weights=each, minlength=len(found)) for each in weights])


def _codes(raster: str) -> RasterReader:
    return RasterReader(describe(raster), [1], nodata=NODATA_CODE)


def _merged(
    raster: str, parts: str, codes: np.ndarray, pixels: np.ndarray, min_px: int, folder: Path, progress: Progress
) -> tuple[str, int]:
    """The path of a class raster in which the pieces that GDAL's sieve left have gone to a neighbour, and how many pixels to nodata."""
    ids, target = str(folder / "ids.tif"), str(folder / "merged.tif")
    vector.burn_ids(parts, raster, ids, progress.part(0, 0.3))
    reader = RasterReader(describe(ids), [1], nodata=0)
    windows = [_one_more(window, reader) for window in block_windows(reader)]
    small = np.concatenate([[False], pixels < min_px])
    found = list(iter_blocks(reader, Neighbours(small), windows=windows, progress=progress.part(0.3, 0.7)))
    lookup = merge_small(codes, pixels, np.unique(np.concatenate(found), axis=0), min_px)
    op = Recode(lookup)
    with RasterWriter(target, reader.grid, op.outputs) as writer:
        run_blocks(reader, op, [writer], progress=progress.part(0.7, 1))
    return target, int(pixels[lookup[1:] == NODATA_CODE].sum())


def _one_more(window: Window, reader: RasterReader) -> Window:
    """The window with the column and the row that follow it, so that every pair of neighbours is in one."""
    return Window(window.x, window.y, window.width + 1, window.height + 1).clipped(reader.grid.width, reader.grid.height)


class Neighbours(Op):
    """Pairs (n, 2) of ids that touch by a side and of which one is small. Can be sent to another process."""

    outputs = ()

    def __init__(self, small: np.ndarray) -> None:
        self.small = small

    def __call__(self, block: Block) -> np.ndarray:
        ids = np.asarray(block.data)[0]
        sides = [(ids[:, :-1], ids[:, 1:]), (ids[:-1], ids[1:])]
        pairs = np.concatenate([np.stack([a.ravel(), b.ravel()], axis=1) for a, b in sides])
        a, b = pairs.T
        return np.unique(np.sort(pairs[(a != b) & (a > 0) & (b > 0) & (self.small[a] | self.small[b])], axis=1), axis=0)


class Recode(Op):
    """Codes instead of ids, by a lookup (n + 1,). Can be sent to another process."""

    outputs = (OutputBand("class", "uint8", NODATA_CODE),)

    def __init__(self, lookup: np.ndarray) -> None:
        self.lookup = lookup

    def __call__(self, block: Block) -> Block:
        codes = self.lookup[np.asarray(block.data)]
        return Block(codes, codes != NODATA_CODE, block.window)


def merge_small(codes: np.ndarray, pixels: np.ndarray, neighbours: np.ndarray, min_px: int) -> np.ndarray:
    """The code of each piece after the small ones have gone to their largest neighbour, the smallest first.

    Args:
        codes, pixels: (n,) of the pieces with ids 1 to n.
        neighbours: (m, 2) pairs of ids.

    Returns:
        (n + 1,) uint8 by id; 0 for pieces that stay small and have no neighbour.
    """
    parent = list(range(len(codes) + 1))
    size = [0, *pixels.tolist()]
    code = [0, *codes.tolist()]
    around: dict[int, set[int]] = {}
    pairs: list[tuple[int, int]] = [(int(a), int(b)) for a, b in neighbours]
    for a, b in pairs:
        around.setdefault(a, set()).add(b)
        around.setdefault(b, set()).add(a)

    def whole(piece: int) -> int:
        while parent[piece] != piece:
            parent[piece] = parent[parent[piece]]
            piece = parent[piece]
        return piece

    queue = [(n, number) for number, n in enumerate(size) if 0 < n < min_px]
    heapq.heapify(queue)
    while queue:
        n, piece = heapq.heappop(queue)
        if parent[piece] != piece or size[piece] != n:
            continue
        touching = {whole(other) for other in around.get(piece, ())} - {piece}
        if not touching:
            code[piece] = NODATA_CODE
            continue
        largest = max(touching, key=lambda other: (size[other], -other))
        parent[piece] = largest
        size[largest] += n
        around[largest] = (around.get(largest, set()) | touching) - {piece, largest}
        if size[largest] < min_px:
            heapq.heappush(queue, (size[largest], largest))
    return np.array([code[whole(number)] for number in range(len(parent))], np.uint8)
