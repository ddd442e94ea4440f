"""What two dates of one place have in common: edges and their direction, whatever the colours on both sides of them."""

from __future__ import annotations

import numpy as np

from .packages import require

SIGMA_PX = 1.0
"""Smoothing before the derivatives."""
STRONGEST = 4.0
"""Edges count up to this many times the mean of a patch: one bright roof must not outvote a landscape."""
FLAT = 1e-5
"""Edges weaker than this share of the largest number are rounding errors of float32."""
LEAST_WEIGHT = 0.5
"""Share of the smoothing kernel that must lie on valid pixels."""


def structure(bands: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Double-angle gradients of each band.

    A gradient (gx, gy) becomes (gx^2 - gy^2, 2 gx gy) / |g|: the same for an edge from dark to bright and from bright to dark, so that a
    field that was green and is ploughed keeps its outline (Granlund 1978, Computer Graphics and Image Processing 8; measured against
    gradient magnitude, gradients and raw bands in docs/performance.md).

    Args:
        bands: (n, rows, cols) numbers of any scale.
        valid: (rows, cols), True = use.

    Returns:
        (2 n, rows, cols) float32 channels, 0 where not usable, and usable (rows, cols).
    """
    cv2 = require("cv2")
    weight = valid.astype(np.float32)
    blurred_weight = cv2.GaussianBlur(weight, (0, 0), SIGMA_PX)
    usable = blurred_weight >= LEAST_WEIGHT
    # the derivatives reach one pixel farther
    usable = cv2.erode(usable.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=0) > 0
    channels: np.ndarray = np.zeros((2 * len(bands), *valid.shape), np.float32)
    for number, band in enumerate(bands):
        middle = np.float32(np.median(band[valid])) if valid.any() else np.float32(0)
        centred = np.where(valid, band.astype(np.float32) - middle, np.float32(0))
        smooth = cv2.GaussianBlur(centred, (0, 0), SIGMA_PX) / np.maximum(blurred_weight, np.float32(1e-3))
        gx, gy = cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)
        size = cv2.magnitude(gx, gy)
        typical = float(size[usable].mean()) if usable.any() else 0.0
        if not typical > FLAT * float(np.abs(band[valid]).max(initial=0)):
            continue
        factor = np.where(usable, np.minimum(size / np.float32(typical), np.float32(STRONGEST)), 0) / np.maximum(size * size, 1e-12)
        channels[2 * number], channels[2 * number + 1] = (gx * gx - gy * gy) * factor, 2 * gx * gy * factor
    return channels, usable
