"""Maps of change against a reference: counted square by square, with intervals; and what a person sees of them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Callable, Sequence

import numpy as np

from .confusion import FIGURES, AreaAdjusted, Confusion, area_adjusted, figures, intervals
from .grid import Grid, Window

UNKNOWN, NO_CHANGE, CHANGE = range(3)
"""Codes of maps of change, of masks and of references alike."""
SQUARES_ACROSS = 20
"""Squares of ground along the longer side, over which figures scatter."""
LEAST_SQUARE_PX = 64
"""Side of a square: larger than most patches of change, or intervals would be too narrow."""
SAMPLES_ACROSS = 4
"""Pixels across a cell of a picture that its mean is taken from, at least."""
NAMES = ("no change", "change")
Picture = Callable[[Sequence[np.ndarray]], tuple[list[np.ndarray], np.ndarray]]


@dataclass(frozen=True)
class Comparison:
    """A method against a reference.

    Attributes:
        method: one of change.METHODS.
        is_accuracy: whether the reference is independent; else it is the NDVI-drop mask, and the figures are agreement.
        confusion: of no change and change.
        intervals: figure -> 95 % interval; empty where the area is too small to tell.
        adjusted: where asked for.
    """

    method: str
    is_accuracy: bool
    confusion: Confusion
    intervals: dict[str, tuple[float, float]]
    adjusted: AreaAdjusted | None = None

    @property
    def kind(self) -> str:
        """`accuracy` or `agreement`."""
        return "accuracy" if self.is_accuracy else "agreement"

    @property
    def figures(self) -> dict[str, float]:
        """Figures of change; NaN where not defined."""
        return {name: float(value) for name, value in figures(self.confusion.counts, 1).items()}


def square_px(grid: Grid) -> int:
    """Side of the squares of ground, pixels."""
    return max(LEAST_SQUARE_PX, -(-max(grid.width, grid.height) // SQUARES_ACROSS))


class SquareTally:
    """A sink that counts pairs of codes (reference, predicted) in each square of ground.

    Attributes:
        counts: (n_squares, 2, 2) pixels, rows = reference, columns = predicted.
    """

    def __init__(self, grid: Grid) -> None:
        self.side = square_px(grid)
        self.across, down = -(-grid.width // self.side), -(-grid.height // self.side)
        self.counts = np.zeros((self.across * down, 2, 2), np.int64)

    def write(self, window: Window, planes: Sequence[np.ndarray] | np.ndarray, valid: np.ndarray) -> None:
        """Count one window of two planes of codes: reference, predicted."""
        reference, predicted = planes
        # 0 to 8, one for each pair of codes
        pairs = 3 * np.asarray(reference) + predicted
        for row in range(window.y // self.side, (window.y + window.height - 1) // self.side + 1):
            lines = slice(max(row * self.side - window.y, 0), (row + 1) * self.side - window.y)
            for column in range(window.x // self.side, (window.x + window.width - 1) // self.side + 1):
                here = pairs[lines, max(column * self.side - window.x, 0) : (column + 1) * self.side - window.x]
                for truth, found in itertools.product((NO_CHANGE, CHANGE), repeat=2):
                    counted = np.count_nonzero(here == 3 * truth + found)
                    self.counts[row * self.across + column, truth - NO_CHANGE, found - NO_CHANGE] += counted

    def comparison(self, method: str, is_accuracy: bool, seed: int, mapped: np.ndarray | None = None) -> Comparison:
        """What was counted; with the mapped area (2,) of no change and change also area-adjusted."""
        whole = self.counts.sum(axis=0)
        adjusted = area_adjusted(whole, mapped) if mapped is not None else None
        return Comparison(method, is_accuracy, Confusion(whole, NAMES), intervals(self.counts, 1, seed), adjusted)


class Overview:
    """A sink that keeps a small picture: the mean of each of some planes in cells of step x step pixels; of large ones from a few of them.

    Attributes:
        step: pixels along a cell's side.
    """

    def __init__(self, grid: Grid, n_planes: int, longest: int, made: Picture | None = None) -> None:
        """
        Args:
            longest: most cells along a side.
            made: makes what is kept, and where it is valid, from the pixels that are picked; None: they are kept as they are.
        """
        self.made = made
        self.step = max(1, -(-max(grid.width, grid.height) // longest))
        self._stride = max(1, self.step // SAMPLES_ACROSS)
        shape = -(-grid.height // self.step), -(-grid.width // self.step)
        self._sums, self._counts = np.zeros((n_planes, *shape)), np.zeros((n_planes, *shape))

    def write(self, window: Window, planes: Sequence[np.ndarray] | np.ndarray, valid: np.ndarray) -> None:
        """Take one window."""
        lines, rows, first_row = self._cells(window.y, window.height)
        samples, columns, first_column = self._cells(window.x, window.width)
        if not len(rows) or not len(columns):
            return
        picked = np.s_[..., lines, samples]
        here = np.s_[first_row : first_row + len(rows), first_column : first_column + len(columns)]
        few, valid = [plane[picked] for plane in planes], valid[picked]
        if self.made is not None:
            few, valid = self.made(few)
        for number, plane in enumerate(few):
            ok = valid if valid.ndim == 2 else valid[number]
            self._sums[number][here] += _sums(np.where(ok, plane, 0), rows, columns)
            if valid.ndim == 3:
                self._counts[number][here] += _sums(ok, rows, columns)
        if valid.ndim == 2:
            self._counts[(slice(None), *here)] += _sums(valid, rows, columns)

    def _cells(self, start: int, length: int) -> tuple[slice, np.ndarray, int]:
        """Of a window that begins at `start`: which pixels are taken, where among them the cells begin, and the number of the first."""
        first = (self._stride // 2 - start) % self._stride
        cells = np.arange(start + first, start + length, self._stride) // self.step
        if not len(cells):
            return slice(0, 0), cells, 0
        return slice(first, None, self._stride), np.flatnonzero(np.diff(cells, prepend=cells[0] - 1)), int(cells[0])

    @property
    def means(self) -> np.ndarray:
        """(planes, rows, cols); NaN where nothing was valid."""
        return np.divide(self._sums, self._counts, out=np.full(self._sums.shape, np.nan), where=self._counts > 0)


def _sums(values: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Sums of cells that begin at these rows and columns."""
    return np.asarray(np.add.reduceat(np.add.reduceat(values.astype(np.float32), rows, axis=0), columns, axis=1))


def figure_text(value: float) -> str:
    """A figure for a table; empty where it is not defined."""
    return "" if np.isnan(value) else f"{value:.6f}"


def columns_of(comparison: Comparison) -> dict[str, str]:
    """The columns of a comparison in a table; empty texts where a figure is not defined."""
    (tn, fp), (fn, tp) = comparison.confusion.counts
    columns = {"true_no_change": tn, "false_change": fp, "missed_change": fn, "true_change": tp}
    result = {name: str(int(count)) for name, count in columns.items()}
    for name in FIGURES:
        low, high = comparison.intervals.get(name, (float("nan"), float("nan")))
        result |= {name: figure_text(comparison.figures[name]), f"{name}_low": figure_text(low), f"{name}_high": figure_text(high)}
    return result
