"""A seeded, spatially stratified sample of pixels, read from a few places of a raster."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .blocks import Block, Op, collect_blocks
from .errors import EngineError
from .grid import Grid, Window
from .progress import Progress
from .raster import Reader

CELL_PX = 1024
"""Side of the cells that are read whole: the tile size of the Sentinel-2 COGs, whatever tiles the file really has."""
CELLS = 24
"""Cells read of a large raster: a fifth of a full tile. Smaller rasters are read whole."""
RIM_PX = 32
"""Of the cells of a large raster that is not read: the pixels of an image that is shifted by less lie in one of its tiles, not in nine."""
OVERSUPPLY = 4
"""A cell offers up to this many times its even share, for the cells that have less."""


class Space(Protocol):
    """What features are drawn."""

    def usable(self, stored: np.ndarray) -> np.ndarray:
        """(n,) bool of stored planes (planes, n): whether a pixel may be drawn."""

    def values(self, stored: np.ndarray) -> np.ndarray:
        """(features, n) of stored planes (planes, n); a pixel with a value that is not finite is not drawn."""


class NoValidPixel(EngineError):
    """There is nothing to draw from."""


@dataclass(frozen=True)
class Sample:
    """Pixels for fitting and for judging.

    Attributes:
        values: (n, n_features) float64.
        valid_share: share of valid pixels in the cells that were read.
    """

    values: np.ndarray
    valid_share: float


@dataclass(frozen=True)
class _Offer:
    """What one cell has to give: values (n_features, n), number of valid pixels, number of pixels."""

    values: np.ndarray
    n_valid: int
    n_pixels: int


class _PickPixels(Op):
    """Valid pixels of a block in an order drawn from the seed and the block's place; at most `limit` of them."""

    def __init__(self, space: Space, seed: int, limit: int) -> None:
        self.space = space
        self.seed = seed
        self.limit = limit

    def __call__(self, block: Block) -> _Offer:
        data = np.asarray(block.data).reshape(len(block.data), -1)
        where = np.flatnonzero(block.all_valid.ravel() & self.space.usable(data))
        rng = np.random.default_rng((self.seed, block.window.x, block.window.y))
        order = rng.choice(len(where), min(self.limit, len(where)), replace=False)
        values = self.space.values(data[:, where[order]])
        usable = np.isfinite(values).all(axis=0)
        return _Offer(values[:, usable], len(where), block.all_valid.size)


def sample_cells(grid: Grid, seed: int) -> list[Window]:
    """The cells in the order they are to be read: one from each stratum of the raster first, then the rest.

    Strata are a 6 x 4 division of the cells; within a stratum the order is random, from the seed.
    """
    cells = list(grid.windows(CELL_PX, CELL_PX))
    if len(cells) <= CELLS:
        return cells
    columns, rows = math.ceil(grid.width / CELL_PX), math.ceil(grid.height / CELL_PX)
    across, down = min(6, columns), min(CELLS // min(6, columns), rows)
    shuffled = [cells[i] for i in np.random.default_rng(seed).permutation(len(cells))]
    rank: dict[tuple[int, int], int] = {}
    keyed = []
    for position, cell in enumerate(shuffled):
        stratum = (cell.x // CELL_PX * across // columns, cell.y // CELL_PX * down // rows)
        rank[stratum] = rank.get(stratum, -1) + 1
        keyed.append((rank[stratum], position, cell))
    return [_inner(cell) for _, _, cell in sorted(keyed, key=lambda item: item[:2])]


def _inner(cell: Window) -> Window:
    return cell.grown(-RIM_PX) if min(cell.width, cell.height) > 4 * RIM_PX else cell


def draw_sample(reader: Reader, space: Space, size: int, seed: int, progress: Progress, most_cells: int = CELLS) -> Sample:
    """Draw up to `size` valid pixels, spread over the raster in proportion to where valid pixels are.

    The same seed, raster and size give the same sample, whatever the file's tiles, the block size or the number of threads.

    Args:
        most_cells: that are read if they offer enough.

    Raises:
        NoValidPixel: the raster has none.
    """
    cells = sample_cells(reader.grid, seed)
    planned = min(len(cells), most_cells)
    pick = _PickPixels(space, seed, max(1, OVERSUPPLY * math.ceil(size / planned)))

    def drawn(windows: list[Window]) -> list[_Offer]:
        return collect_blocks(reader, pick, windows, planned, lambda some: sum(each.values.shape[1] for each in some) >= size, progress)

    asked = drawn(cells)
    if len(cells) > CELLS and not any(offer.n_valid for offer in asked):
        # all that is valid may lie at the rims
        asked = drawn(list(reader.grid.windows(CELL_PX, CELL_PX)))
    offers = [offer for offer in asked if offer.values.shape[1]]
    if not offers:
        raise NoValidPixel(
            "The raster has no valid pixel",
            getattr(reader, "path", "INPUT"),
            "choose an area or a date with data; 0 and the nodata value are not used",
        )
    counts = [offer.n_valid for offer in offers]
    takes = _shares(counts, [offer.values.shape[1] for offer in offers], size)
    values = np.concatenate([offer.values[:, :take] for offer, take in zip(offers, takes)], axis=1)
    return Sample(np.ascontiguousarray(values.T), sum(counts) / max(sum(offer.n_pixels for offer in asked), 1))


def _shares(counts: list[int], offered: list[int], size: int) -> list[int]:
    """How many to take of each offer: in proportion to the counts, never more than offered, `size` in all if there are as many."""
    takes = [0] * len(counts)
    left = min(size, sum(offered))
    while left > 0:
        open_cells = [i for i in range(len(counts)) if takes[i] < offered[i]]
        total = sum(counts[i] for i in open_cells)
        added = 0
        for i in open_cells:
            more = min(offered[i] - takes[i], max(1, left * counts[i] // total), left - added)
            takes[i] += more
            added += more
        left -= added
    return takes
