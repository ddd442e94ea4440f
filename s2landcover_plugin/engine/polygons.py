"""Classes as polygons: sieved by a minimum area, dissolved per class, with names, colours and hectares."""

from __future__ import annotations

from pathlib import Path
from typing import Sequence

import numpy as np

from . import vector
from .areas import ClassTally
from .blocks import iter_blocks
from .crs import row_hectares
from .errors import EngineError
from .files import OutputFiles
from .legend import NODATA_CODE, LegendClass
from .progress import Progress
from .raster import RasterReader, describe

SUFFIX = ".gpkg"


def check_polygon_path(path: str) -> None:
    """Refuse other formats than GeoPackage, the one that can carry its style.

    Raises:
        EngineError: the name ends otherwise.
    """
    if path and Path(path).suffix.lower() != SUFFIX:
        raise EngineError("The polygons must be a GeoPackage", f"OUTPUT_POLYGONS {path}", f"give it a name that ends in {SUFFIX}")


def write_polygons(
    raster: str, destination: str, files: OutputFiles, legend: Sequence[LegendClass], min_area_ha: float, progress: Progress
) -> None:
    """Write the classes of a raster as one multipolygon each.

    Pieces smaller than the minimum go to their largest neighbour; those that have none (islands in nodata) are left out.

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
    min_px = max(1, int(np.ceil(min_area_ha / pixel_ha - 1e-9)))
    folder = Path(files.folder(destination))
    sieved, parts = str(folder / "sieved.tif"), str(folder / "parts.gpkg")
    vector.sieve(raster, sieved, min_px, progress.part(0, 0.4))
    vector.trace(sieved, parts, progress.part(0.4, 0.7))
    dropped = vector.drop_small(parts, sieved, grid, min_px)
    if dropped:
        progress.info(f"{dropped} pieces of less than {min_area_ha:g} ha without a neighbour are not in the polygons.")
    tally = ClassTally(grid, max(each.code for each in legend) + 1)
    for block in iter_blocks(RasterReader(describe(sieved), [1], nodata=NODATA_CODE), progress=progress.part(0.7, 0.8)):
        tally.write(block.window, np.asarray(block.data), block.valid)
    classes = [(each, float(tally.hectares[each.code])) for each in legend]
    if not any(hectares for _, hectares in classes):
        progress.warn(f"No piece of any class reaches {min_area_ha:g} ha: the polygons are empty. Choose a smaller MIN_AREA_HA.")
    vector.write_dissolved(parts, target, Path(destination).stem, classes, grid.crs, progress.part(0.8, 1))
