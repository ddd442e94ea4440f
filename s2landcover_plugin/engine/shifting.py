"""Images between their pixels: resampling by a shift alone, which is separable and takes a fraction of the time of a general warp."""

from __future__ import annotations

import math
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
SAME_SIZE = 1e-4
"""Pixels by which a place may err at the far end of the image, for two pixel sizes to be the same."""


def shift_between(grid: Grid, geotransform: Sequence[float], width: int, height: int) -> tuple[float, float] | None:
    """(x, y) with: pixel of the grid + shift = place in the image, both counted from pixel centres; None if there is more than a shift.

    Args:
        geotransform: of the image, width and height pixels large.
    """
    x0, dx, turn_x, y0, turn_y, dy = geotransform
    left, across, _, top, _, down = grid.geotransform
    longest = max(width, height, grid.width, grid.height)
    error = max(abs(turn_x), abs(turn_y), abs(across - dx), abs(down - dy)) * longest
    if error > SAME_SIZE * min(abs(dx), abs(dy)):
        return None
    return (left - x0) / dx, (top - y0) / dy


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


def shifted(
    data: np.ndarray, valid: np.ndarray, fraction: tuple[float, float], method: str, nodata: Sequence[float | None]
) -> tuple[np.ndarray, np.ndarray]:
    """Planes at places between their pixels.

    A place is valid where its nearest pixel is. Where all sixteen pixels that a cubic kernel needs are valid it is used, else the valid
    ones of the four nearest, bilinearly. A value that comes out as nodata is one more. All as GDAL's warp has it.

    Args:
        data, valid: (bands, rows + 3, cols + 3): BEFORE more pixels before and AFTER more behind.
        fraction: x and y, 0 to 1.
        method: `bilinear` or `cubic`.
        nodata: of each band; None for none.

    Returns:
        data and valid, (bands, rows, cols), in the type of the input.
    """
    rows, columns = data.shape[1] - BEFORE - AFTER, data.shape[2] - BEFORE - AFTER
    kernels = [taps(part, method).astype(np.float32) for part in fraction]
    linear = [taps(part, "bilinear").astype(np.float32) for part in fraction]
    result = np.empty((len(data), rows, columns), data.dtype)
    x, y = (BEFORE + math.floor(part + 0.5) for part in fraction)
    usable: np.ndarray = valid[:, y : y + rows, x : x + columns].copy()
    for plane, ok, target, known, missing in zip(data, valid, result, usable, nodata):
        complete = bool(ok.all())
        for top in range(0, rows, STRIP_ROWS):
            here = slice(top, top + STRIP_ROWS)
            more = slice(top, min(top + STRIP_ROWS, rows) + BEFORE + AFTER)
            # twice as fast as to let OpenCV filter whole numbers
            values = plane[more].astype(np.float32)
            found = _filtered(values, kernels) if complete else _filtered_around(values, ok[more], known[here], kernels, linear)
            if target.dtype.kind in "iu":
                limits = np.iinfo(target.dtype)
                np.rint(found, out=found)
                np.maximum(found, np.float32(limits.min), out=found)
                np.minimum(found, np.float32(limits.max), out=found)
            target[here] = found
        if missing is not None and math.isfinite(missing):
            hit = target == target.dtype.type(missing)
            if hit.any():
                target[hit] += target.dtype.type(1)
    return result, usable


def _filtered(values: np.ndarray, kernels: list[np.ndarray]) -> np.ndarray:
    """(rows + 3, cols + 3) filtered along both axes: (rows, cols) float32."""
    cv2 = require("cv2")
    more = BEFORE + AFTER
    return np.asarray(cv2.sepFilter2D(values, cv2.CV_32F, *kernels, anchor=(0, 0))[:-more, :-more])


def _filtered_around(
    values: np.ndarray, ok: np.ndarray, known: np.ndarray, kernels: list[np.ndarray], linear: list[np.ndarray]
) -> np.ndarray:
    """As _filtered, with what is not ok left out: then of the four nearest pixels only."""
    cv2 = require("cv2")
    if ok.all():
        return _filtered(values, kernels)
    values[~ok] = 0
    four = _filtered(values, linear) / np.where(known, _filtered(ok.astype(np.float32), linear), 1)
    complete = cv2.erode(ok.astype(np.uint8), np.ones((4, 4), np.uint8), anchor=(0, 0))[: known.shape[0], : known.shape[1]] > 0
    return np.where(complete, _filtered(values, kernels), four)
