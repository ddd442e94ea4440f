"""A reference of change: a mask raster or polygons, on the grid of the map."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from . import vector
from .blocks import Block, Op, iter_blocks
from .comparing import CHANGE, NO_CHANGE, UNKNOWN
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
    """

    path: str
    layer: str = ""
    code: int | None = None
    name: str = ""

    @property
    def title(self) -> str:
        """What it is called in reports."""
        return self.name or Path(self.path.partition("?")[0]).name


class MaskReader:
    """A raster of codes read as NO_CHANGE, CHANGE and UNKNOWN. Can be sent to another process."""

    def __init__(self, reader: RasterReader, code: int, rest_is_no_change: bool) -> None:
        """
        Args:
            rest_is_no_change: whether pixels without a value, inside the raster, mean no change; else they are unknown.
        """
        self.reader = reader
        self.code = code
        self.rest_is_no_change = rest_is_no_change
        self.grid, self.tile = reader.grid, reader.tile
        self.bands = tuple(replace(band, name="reference", dtype="uint8", nodata=UNKNOWN) for band in reader.bands)
        self.dtype = np.dtype(np.uint8)

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """As RasterReader.read."""
        data, valid = self.reader.read(window)
        known = valid | self.rest_is_no_change
        codes = np.where(known, np.where(valid & (data == self.code), CHANGE, NO_CHANGE), UNKNOWN).astype(np.uint8)
        return codes, codes != UNKNOWN


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
    if vector.has_polygons(reference.path, reference.layer):
        mask = str(Path(files.folder(near)) / "reference.tif")
        burnt = vector.burn_mask(reference.path, reference.layer, grid, mask)
        progress.info(f"{reference.title}: {burnt} polygons mean change, everything else in the area no change.")
        return MaskReader(RasterReader(describe(mask), [1]), CHANGE, False)
    info = describe(reference.path)
    if bool(info.grid.crs) != bool(grid.crs):
        raise EngineError("The reference or the map has no coordinate reference system", reference.path, "assign the CRS first")
    # the value that fills the outside of masks is no "no data" there
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
    alone = len(codes) == 1
    rest = " Pixels without a value mean no change." if alone else ""
    progress.info(f"{reference.title}: code {code} means change ({why}).{rest}")
    return MaskReader(reader, code, alone)


def _code_of_change(reference: Reference, codes: list[int]) -> tuple[int, str]:
    """The code that means change, and why.

    Raises:
        EngineError: it cannot be told.
    """
    if reference.code is not None:
        if reference.code not in codes:
            fix = f"use one of the codes of the reference: {', '.join(map(str, codes))}"
            raise EngineError(f"The reference has no pixel of code {reference.code} in the area", "REFERENCE_CODE", fix)
        return reference.code, "as asked"
    named = [each.code for each in read_legend(reference.path) if each.name.strip().lower() == "change"]
    if len(named) == 1:
        return named[0], "by its name"
    if len(codes) <= 2 and codes[0] in (0, 1):
        # 0 and 1, 0 and 255, 1 and 2, or 1 alone beside nodata
        return codes[-1], "the larger of two" if len(codes) == 2 else "the only one"
    fix = f"tell which of its codes ({', '.join(map(str, codes))}) means change with REFERENCE_CODE"
    raise EngineError("It cannot be told which pixels of the reference mean change", reference.path, fix)
