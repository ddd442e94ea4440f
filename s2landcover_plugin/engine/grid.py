"""Grids and windows: where pixels are. Pure arithmetic, no GDAL."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Iterator

from .errors import EngineError

SNAP_PX = 1e-3
"""Positions closer than this to a pixel edge are taken to lie on it (1 cm on a 10 m grid)."""

Bounds = tuple[float, float, float, float]
"""xmin, ymin, xmax, ymax in the units of a CRS."""


@dataclass(frozen=True)
class Window:
    """A rectangle of pixels of a grid; it may reach beyond the grid (negative origin allowed)."""

    x: int
    """Column of the left pixel, 0-based."""
    y: int
    """Row of the upper pixel, 0-based."""
    width: int
    height: int

    def grown(self, halo: int) -> Window:
        """The window with `halo` more pixels on every side."""
        return Window(self.x - halo, self.y - halo, self.width + 2 * halo, self.height + 2 * halo)

    def clipped(self, width: int, height: int) -> Window:
        """The part inside a grid of `width` x `height` pixels; its size is 0 if there is none."""
        x0, y0 = min(max(self.x, 0), width), min(max(self.y, 0), height)
        x1, y1 = max(min(self.x + self.width, width), x0), max(min(self.y + self.height, height), y0)
        return Window(x0, y0, x1 - x0, y1 - y0)


@dataclass(frozen=True)
class Grid:
    """A north-up (or south-up) raster grid.

    Raises:
        EngineError: the geotransform is rotated or sheared, or the grid has no pixels.
    """

    crs: str
    """WKT, or an empty string where the raster has no CRS."""
    geotransform: tuple[float, float, float, float, float, float]
    """GDAL's order: x of the left edge, pixel width, 0, y of the upper edge, 0, pixel height (negative: north up)."""
    width: int
    height: int

    def __post_init__(self) -> None:
        if self.geotransform[2] or self.geotransform[4]:
            raise EngineError(
                "The raster is rotated", f"geotransform {self.geotransform}", "bring it to a north-up grid first (GDAL: Warp)"
            )
        if self.width < 1 or self.height < 1:
            raise EngineError("The grid has no pixels", f"{self.width} x {self.height}", "choose a larger extent")

    @property
    def pixel_size(self) -> tuple[float, float]:
        """Width and height of a pixel in CRS units, both positive."""
        return abs(self.geotransform[1]), abs(self.geotransform[5])

    @property
    def bounds(self) -> Bounds:
        """Outer edges in CRS units."""
        x0, dx, _, y0, _, dy = self.geotransform
        xs, ys = sorted((x0, x0 + dx * self.width)), sorted((y0, y0 + dy * self.height))
        return xs[0], ys[0], xs[1], ys[1]

    def north_up(self) -> Grid:
        """The same pixels counted from the north-western corner."""
        _, dx, _, _, _, dy = self.geotransform
        left, _, _, top = self.bounds
        return Grid(self.crs, (left, abs(dx), 0.0, top, 0.0, -abs(dy)), self.width, self.height)

    def position(self, x: float, y: float) -> tuple[float, float]:
        """Column and row (fractional, from the upper left corner) of a point in CRS units."""
        x0, dx, _, y0, _, dy = self.geotransform
        return (x - x0) / dx, (y - y0) / dy

    def window_of(self, bounds: Bounds) -> Window:
        """The smallest window of whole pixels that covers `bounds`; it may reach beyond the grid."""
        c0, r0 = self.position(bounds[0], bounds[1])
        c1, r1 = self.position(bounds[2], bounds[3])
        left, right = sorted((c0, c1))
        top, bottom = sorted((r0, r1))
        x, y = math.floor(left + SNAP_PX), math.floor(top + SNAP_PX)
        return Window(x, y, max(math.ceil(right - SNAP_PX) - x, 1), max(math.ceil(bottom - SNAP_PX) - y, 1))

    def cropped(self, window: Window) -> Grid:
        """The grid of a window of this grid (same pixel edges)."""
        x0, dx, _, y0, _, dy = self.geotransform
        transform = (x0 + window.x * dx, dx, 0.0, y0 + window.y * dy, 0.0, dy)
        return Grid(self.crs, transform, window.width, window.height)

    def scaled(self, factor: float) -> Grid:
        """Pixels `factor` times as large from the same corner, covering at least the same ground."""
        x0, dx, _, y0, _, dy = self.geotransform
        columns, rows = self.width / factor, self.height / factor
        return Grid(self.crs, (x0, dx * factor, 0.0, y0, 0.0, dy * factor), math.ceil(columns - SNAP_PX), math.ceil(rows - SNAP_PX))

    def offset_in(self, other: Grid) -> tuple[int, int] | None:
        """Whole columns and rows from `other`'s corner to this one's, if both share pixel size and edges; else None.

        The CRS is not compared.
        """
        for size, other_size, count in zip(self.geotransform[1::4], other.geotransform[1::4], (self.width, self.height)):
            # a sign that differs (south-up against north-up) is no coincidence of pixels either
            if abs(size - other_size) * count > SNAP_PX * abs(other_size):
                return None
        column, row = other.position(self.geotransform[0], self.geotransform[3])
        nearest = round(column), round(row)
        if max(abs(column - nearest[0]), abs(row - nearest[1])) > SNAP_PX:
            return None
        return nearest

    def windows(self, width: int, height: int) -> Iterator[Window]:
        """Windows of at most `width` x `height` pixels that tile the grid, row by row."""
        for y in range(0, self.height, height):
            for x in range(0, self.width, width):
                yield Window(x, y, min(width, self.width - x), min(height, self.height - y))
