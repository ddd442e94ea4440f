"""Images between their pixels: resampling by a shift, or to a fraction of the pixel size, by separable kernels.

That takes a twentieth of the time of a general warp (docs/performance.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Sequence

import numpy as np

from .grid import Grid
from .packages import require

BEFORE, AFTER = 1, 2
"""Pixels that the kernels need before and after the pixel in which a place lies."""
TYPES = ("uint8", "uint16", "int16", "float32")
"""Types that float32 holds exactly."""
STRIP_ROWS = 64
"""Rows filtered at once: those of a block of 1024 px stay in the second-level cache."""
LARGEST_FACTOR = 2
"""20 m to 10 m. Of 60 m to 10 m many values lie exactly between two whole numbers, and only GDAL rounds them as GDAL does."""
SAME_SIZE = 1e-4
"""Pixels by which a place may err at the far end of the image, for two pixel sizes to be the same."""


@dataclass(frozen=True)
class Lattice:
    """How the pixels of a grid lie between those of an image.

    Attributes:
        factor: pixels of the grid across one of the image.
        x, y: where the grid begins, pixels of the image from the image's own edge.
    """

    factor: int
    x: float
    y: float

    def places(self, start: int, count: int, axis: str) -> np.ndarray:
        """(count,) places of pixel centres of the grid from pixel `start` on, in pixels of the image counted from its first centre."""
        begins = self.x if axis == "x" else self.y
        return np.asarray((np.arange(start, start + count) + 0.5) / self.factor - 0.5 + begins)

    def needed(self, places: np.ndarray) -> tuple[int, int]:
        """First pixel of the image that places along one axis need, and how many from there."""
        phases = range(min(self.factor, len(places)))
        first = math.floor(places[0]) - BEFORE
        # as _phase counts them, whatever the last digits of a place further on are
        return first, max(math.floor(places[k]) + len(places[k :: self.factor]) for k in phases) + AFTER - first


def lattice_between(grid: Grid, geotransform: Sequence[float], width: int, height: int) -> Lattice | None:
    """The lattice of a grid in an image, width x height pixels large; None if they are turned or no whole number of pixels fits."""
    x0, dx, turn_x, y0, turn_y, dy = geotransform
    left, across, _, top, _, down = grid.geotransform
    factor = round(abs(dx / across))
    if not 1 <= factor <= LARGEST_FACTOR:
        return None
    longest = max(width, height, grid.width, grid.height)
    error = max(abs(turn_x), abs(turn_y), abs(across * factor - dx), abs(down * factor - dy)) * longest
    if error > SAME_SIZE * min(abs(dx), abs(dy)):
        return None
    return Lattice(factor, (left - x0) / dx, (top - y0) / dy)


def taps(fraction: float, method: str) -> np.ndarray:
    """(4,) weights of the pixels -1, 0, 1, 2 for a place `fraction` (0 to 1) behind the centre of pixel 0.

    Cubic convolution with a = -0.5 (Keys 1981, IEEE TASSP 29, eq. 4), as GDAL has it.
    """
    if method == "bilinear":
        return np.array([0, 1 - fraction, fraction, 0])
    distance = np.abs(np.array([-1.0, 0, 1, 2]) - fraction)
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0))


Pixels = tuple[np.ndarray, np.ndarray]
"""Data and valid, both (bands, rows, cols)."""


def between(
    pixels: Pixels, rows: np.ndarray, columns: np.ndarray, factor: int, method: str, nodata: Sequence[float | None], result: Pixels
) -> None:
    """Fill planes with the values at places between pixels, `factor` places a pixel.

    Args:
        pixels: from BEFORE pixels before that of the first place to AFTER behind that of the last.
        rows, columns: places, pixels from the centre of the first pixel.
        method: `bilinear` or `cubic`.
        nodata: of each band; None for none.
        result: (bands, len(rows), len(columns)).
    """
    for down in range(min(factor, len(rows))):
        for across in range(min(factor, len(columns))):
            # every factor-th place lies alike between its pixels
            here = np.s_[:, down::factor, across::factor]
            _phase(pixels, rows[down::factor], columns[across::factor], method, nodata, (result[0][here], result[1][here]))


def _phase(pixels: Pixels, rows: np.ndarray, columns: np.ndarray, method: str, nodata: Sequence[float | None], result: Pixels) -> None:
    """As between, for places one pixel apart."""
    y, x = math.floor(rows[0]), math.floor(columns[0])
    more = BEFORE + AFTER
    here = np.s_[:, y - BEFORE : y - BEFORE + len(rows) + more, x - BEFORE : x - BEFORE + len(columns) + more]
    shifted(pixels[0][here], pixels[1][here], (float(columns[0]) - x, float(rows[0]) - y), method, nodata, result)


def shifted(
    data: np.ndarray, valid: np.ndarray, fraction: tuple[float, float], method: str, nodata: Sequence[float | None], result: Pixels
) -> None:
    """Fill planes with the values at places between pixels.

    A place is valid where its nearest pixel is. Where all sixteen pixels that a cubic kernel needs are valid it is used, else the valid
    ones of the four nearest, bilinearly. A value that comes out as nodata is one more. All as GDAL's warp has it.

    Args:
        data, valid: (bands, rows + 3, cols + 3): BEFORE more pixels before and AFTER more behind.
        fraction: x and y, 0 to 1.
        method: `bilinear` or `cubic`.
        nodata: of each band; None for none.
        result: (bands, rows, cols), in the type of the input.
    """
    rows, columns = data.shape[1] - BEFORE - AFTER, data.shape[2] - BEFORE - AFTER
    # halves and quarters of a pixel give values that lie exactly between two whole numbers: float64 tells them from others
    kind = np.float64 if method == "cubic" and all(4 * part == round(4 * part) for part in fraction) else np.float32
    kernels = [taps(part, method).astype(kind) for part in fraction]
    linear = [taps(part, "bilinear").astype(kind) for part in fraction]
    x, y = (BEFORE + math.floor(part + 0.5) for part in fraction)
    for plane, ok, target, known, missing in zip(data, valid, *result, nodata):
        known[:] = ok[y : y + rows, x : x + columns]
        complete = bool(ok.all())
        for top in range(0, rows, STRIP_ROWS):
            here = slice(top, top + STRIP_ROWS)
            more = slice(top, min(top + STRIP_ROWS, rows) + BEFORE + AFTER)
            # twice as fast as to let OpenCV filter whole numbers
            values = plane[more].astype(kind)
            around = None if complete or ok[more].all() else (ok[more], known[here])
            # a cast cuts off: with a half more it rounds halves up, as GDAL does
            half = 0.5 if target.dtype.kind in "iu" else 0.0
            found = _filtered(values, kernels, half) if around is None else _filtered_around(values, *around, kernels, linear) + kind(half)
            if half:
                _clip(found, np.iinfo(target.dtype))
            target[here] = found
        if missing is not None and math.isfinite(missing):
            hit = target == target.dtype.type(missing)
            if hit.any():
                target[hit] += target.dtype.type(1)
        if not complete:
            target[~known] = 0 if missing is None else missing


def _clip(values: np.ndarray, limits: np.iinfo) -> None:
    """Keep real numbers within limits, and let a cast of those below zero cut off downwards."""
    cv2 = require("cv2")
    if limits.min:
        np.floor(values, out=values)
        np.maximum(values, values.dtype.type(limits.min), out=values)
    else:
        # a seventh of the time of NumPy's maximum
        cv2.threshold(values, 0, 0, cv2.THRESH_TOZERO, values)
    cv2.threshold(values, limits.max, limits.max, cv2.THRESH_TRUNC, values)


def _filtered(values: np.ndarray, kernels: list[np.ndarray], added: float = 0.0) -> np.ndarray:
    """(rows + 3, cols + 3) filtered along both axes: (rows, cols) of the same type."""
    more = BEFORE + AFTER
    return np.asarray(require("cv2").sepFilter2D(values, -1, *kernels, anchor=(0, 0), delta=added)[:-more, :-more])


def _filtered_around(
    values: np.ndarray, ok: np.ndarray, known: np.ndarray, kernels: list[np.ndarray], linear: list[np.ndarray]
) -> np.ndarray:
    """As _filtered, with what is not ok left out: then of the four nearest pixels only."""
    cv2 = require("cv2")
    values[~ok] = 0
    four = _filtered(values, linear) / np.where(known, _filtered(ok.astype(values.dtype), linear), 1)
    complete = cv2.erode(ok.astype(np.uint8), np.ones((4, 4), np.uint8), anchor=(0, 0))[: known.shape[0], : known.shape[1]] > 0
    return np.where(complete, _filtered(values, kernels), four)
