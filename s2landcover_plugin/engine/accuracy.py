"""A class map against a reference raster, pixel by pixel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

import numpy as np

from .blocks import Block, Op, iter_blocks
from .confusion import Confusion
from .errors import EngineError
from .grid import Grid
from .legend import LegendClass
from .progress import Progress
from .raster import RasterReader, StackedReader, describe, read_legend

MATCHES = ("codes", "names", "best")
MAX_PAIRS = 65536
"""More different pairs of codes mean that one of the two holds no classes."""


@dataclass(frozen=True)
class Assessment:
    """A map compared with a reference.

    Attributes:
        assignment: code of the map -> code of the reference that it was counted as.
    """

    confusion: Confusion
    assignment: dict[int, int]


class CountPairs(Op):
    """Counts of the pairs (map, reference) of a block: codes (2, n) and counts (n,). Can be sent to another process."""

    outputs = ()

    def __call__(self, block: Block) -> tuple[np.ndarray, np.ndarray]:
        valid = block.all_valid
        pairs, counts = np.unique(np.asarray(block.data)[:, valid].astype(np.int64), axis=1, return_counts=True)
        return pairs, counts


def assess_map(path: str, reference: str, match: str, progress: Progress) -> Assessment:
    """Compare a class raster with a reference raster, pixel by pixel on the grid of the map (reference: nearest pixel).

    Args:
        match: which classes are the same: those of equal `codes`, of equal `names`, or `best`: each class of the map counts as the class of
            the reference that it shares most pixels with (several may be one).

    Raises:
        EngineError: they do not overlap, or one holds no classes.
        Cancelled: the user asked to stop.
    """
    if match not in MATCHES:
        raise EngineError(f"{match} is no way to match classes", "MATCH", f"use {', '.join(MATCHES)}")
    grid, other = describe(path).grid, describe(reference).grid
    if bool(grid.crs) != bool(other.crs):
        raise EngineError("The raster has no coordinate reference system", reference if grid.crs else path, "assign its CRS first")
    reader = StackedReader([_codes(path, grid), _codes(reference, grid)])
    counted: dict[tuple[int, int], int] = {}
    for pairs, counts in iter_blocks(reader, CountPairs(), progress=progress):
        for (mine, theirs), n in zip(pairs.T.tolist(), counts.tolist()):
            # codes below 0 are the usual way to say "not labelled"; 0 is a class unless the file calls it nodata
            if theirs >= 0:
                counted[mine, theirs] = counted.get((mine, theirs), 0) + n
        if len(counted) > MAX_PAIRS:
            raise EngineError("One of the two rasters holds no classes", f"{path}, {reference}", "choose a class raster and its reference")
    if not counted:
        raise EngineError("The map and the reference share no valid pixel", f"{path}, {reference}", "choose a reference of the same area")
    known = {each.code: each.name for each in read_legend(reference)}
    targets = sorted({theirs for _, theirs in counted})
    assignment = _assignment(counted, match, read_legend(path), known)
    classes = sorted({*targets, *assignment.values()})
    matrix = np.zeros((len(classes), len(classes)), np.int64)
    for (mine, theirs), n in counted.items():
        matrix[classes.index(theirs), classes.index(assignment[mine])] += n
    return Assessment(Confusion(matrix, tuple(known.get(code, f"Class {code}") for code in classes)), assignment)


def _codes(path: str, grid: Grid) -> RasterReader:
    reader = RasterReader(describe(path), [1], grid=grid)
    if reader.dtype.kind not in "iu":
        raise EngineError("The raster holds real numbers, not class codes", path, "choose a class raster")
    return reader


def _assignment(
    counted: dict[tuple[int, int], int], match: str, legend: Sequence[LegendClass], reference: dict[int, str]
) -> dict[int, int]:
    """Code of the map -> code of the reference."""
    mine = sorted({code for code, _ in counted})
    if match == "best":
        return {code: max((n, -theirs) for (c, theirs), n in counted.items() if c == code)[1] * -1 for code in mine}
    if match == "names":
        by_name = {name: code for code, name in reference.items()}
        if len(by_name) < len(reference):
            raise EngineError("Two classes of the reference have the same name", "MATCH names", "rename one, or use MATCH codes")
        names = {each.code: each.name for each in legend}
        missing = [names.get(code, f"class {code}") for code in mine if names.get(code) not in by_name]
        if missing:
            fix = "give the classes the names of the reference, or use MATCH codes or best"
            raise EngineError(f"The reference has no class {', '.join(missing)}", "MATCH names", fix)
        return {code: by_name[names[code]] for code in mine}
    return {code: code for code in mine}
