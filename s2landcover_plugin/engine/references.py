"""A reference of change: a mask raster or polygons, on the grid of the map."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Sequence

import numpy as np

from . import vector
from .blocks import Block, Op, iter_blocks
from .comparing import CHANGE, NO_CHANGE, UNKNOWN
from .crs import Aoi, same_crs
from .errors import EngineError
from .files import OutputFiles
from .grid import Grid, Window
from .progress import Progress
from .raster import RasterReader, describe, read_legend

MOST_CODES = 64
"""More different values mean that a raster is no mask."""


@dataclass(frozen=True)
class Reference:
    """Where a reference is and what it means.

    Attributes:
        path: a class raster, or a vector file with polygons.
        layer: of a vector file; empty: its first with polygons.
        code: number in a raster that means change; None: told from the raster.
        name: for people; empty: the name of the file.
        is_vector: whether it is a vector file; None: told from the file.
    """

    path: str
    layer: str = ""
    code: int | None = None
    name: str = ""
    is_vector: bool | None = None

    @property
    def title(self) -> str:
        """What it is called in reports."""
        return self.name or Path(self.path.partition("?")[0]).name


class MaskReader:
    """A raster of codes read as NO_CHANGE, CHANGE and UNKNOWN. Can be sent to another process."""

    def __init__(self, reader: RasterReader, code: int, filled: Grid | None = None) -> None:
        """
        Args:
            filled: the raster's own grid, if pixels without a value mean no change inside of it; else they are unknown.
        """
        self.reader = reader
        self.code = code
        self.filled = filled
        self.grid, self.tile = reader.grid, reader.tile
        self.bands = tuple(replace(band, name="reference", dtype="uint8", nodata=UNKNOWN) for band in reader.bands)
        self.dtype = np.dtype(np.uint8)

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """As RasterReader.read."""
        data, valid = self.reader.read(window)
        known = valid if self.filled is None else valid | self._inside(self.filled, window)
        codes = np.where(known, np.where(valid & (data == self.code), CHANGE, NO_CHANGE), UNKNOWN).astype(np.uint8)
        return codes, codes != UNKNOWN

    def reads_once(self, windows: Sequence[Window]) -> bool:
        """As Reader has it."""
        return self.reader.reads_once(windows)

    def stop(self) -> None:
        """As Reader has it."""
        self.reader.stop()

    def _inside(self, filled: Grid, window: Window) -> np.ndarray:
        """(rows, cols), pixels whose centre lies inside of a grid."""
        x0, width, _, y0, _, height = self.grid.geotransform
        xs = x0 + width * (np.arange(window.x, window.x + window.width) + 0.5)
        ys = y0 + height * (np.arange(window.y, window.y + window.height) + 0.5)
        west, south, east, north = (
            filled.bounds if same_crs(filled.crs, self.grid.crs) else Aoi(filled.crs, filled.bounds).bounds_in(self.grid.crs)
        )
        return np.outer((ys > south) & (ys < north), (xs > west) & (xs < east))


class DifferentCodes(Op):
    """The different valid codes of a block. Can be sent to another process."""

    outputs = ()

    def __call__(self, block: Block) -> np.ndarray:
        return np.unique(np.asarray(block.data)[block.valid])


def open_reference(reference: Reference, grid: Grid, files: OutputFiles, near: str, progress: Progress) -> MaskReader:
    """The reference on a grid; nearest pixel of a raster, pixels whose centre lies inside of polygons.

    Args:
        near: a destination beside which intermediate files may lie.

    Raises:
        EngineError: it cannot be read, does not overlap, or it cannot be told what means change.
        Cancelled: the user asked to stop.
    """
    is_vector = reference.is_vector
    if is_vector is None:
        is_vector = vector.has_polygons(reference.path, reference.layer)
    if is_vector:
        mask = str(Path(files.folder(near)) / "reference.tif")
        burnt = vector.burn_mask(reference.path, reference.layer, grid, mask, progress)
        progress.info(f"{reference.title}: {burnt} polygons mean change, everything else in the area no change.")
        return MaskReader(RasterReader(describe(mask), [1]), CHANGE)
    info = describe(reference.path)
    if bool(info.grid.crs) != bool(grid.crs):
        raise EngineError("The reference or the map has no coordinate reference system", reference.path, "assign the CRS first")
    reader = RasterReader(info, [1], grid=grid)
    codes: set[float] = set()
    for found in iter_blocks(reader, DifferentCodes(), progress=progress):
        codes |= {float(code) for code in found}
        if len(codes) > MOST_CODES or any(code != round(code) for code in codes):
            fix = "choose a raster of codes (such as 0 = no change, 1 = change), or polygons"
            raise EngineError("The reference is no mask of change", reference.path, fix)
    if not codes:
        raise EngineError("The reference has no valid pixel in the area", reference.path, "choose a reference of the same area")
    code, why = _code_of_change(reference, sorted(map(int, codes)))
    rest = codes == {code} and not read_legend(reference.path)
    more = " Pixels without a value, inside the raster, mean no change." if rest else ""
    progress.info(f"{reference.title}: code {code} means change ({why}).{more}")
    if code not in codes:
        progress.warn(f"{reference.title} has no pixel of change in the area: recall is not defined.")
    return MaskReader(reader, code, info.grid if rest else None)


def _code_of_change(reference: Reference, codes: list[int]) -> tuple[int, str]:
    """The code that means change, and why.

    Raises:
        EngineError: it cannot be told.
    """
    if reference.code is not None:
        return reference.code, "as asked"
    named = [each.code for each in read_legend(reference.path) if each.name.strip().lower() == "change"]
    if len(named) == 1:
        return named[0], "by its name"
    if codes == [0]:
        return 1, "0 is no change"
    if len(codes) <= 2 and codes[0] in (0, 1):
        # 0 and 1, 0 and 255, 1 and 2, or 1 alone beside nodata
        return codes[-1], "the larger of two" if len(codes) == 2 else "the only one"
    fix = f"tell which of its codes ({', '.join(map(str, codes))}) means change with REFERENCE_CODE"
    raise EngineError("It cannot be told which pixels of the reference mean change", reference.path, fix)
