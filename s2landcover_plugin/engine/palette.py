"""Colours for classes that people with a colour vision deficiency can tell apart."""

from __future__ import annotations

import colorsys
from typing import Sequence

import numpy as np

Rgb = tuple[int, ...]
"""Red, green, blue, 0 to 255."""
BASE = (
    (51, 34, 136),
    (17, 119, 51),
    (136, 204, 238),
    (221, 204, 119),
    (204, 102, 119),
    (68, 170, 153),
    (136, 34, 85),
    (153, 153, 51),
    (170, 68, 153),
    (230, 159, 0),
    (0, 0, 0),
    (187, 187, 187),
)
"""Paul Tol's qualitative scheme "muted" (SRON/EPS/TN/09-002), then orange, black and grey."""


def colours(n: int) -> list[tuple[int, int, int]]:
    """n different colours; the first 12 come from BASE, later ones are its hues in other lightness."""
    result: list[tuple[int, int, int]] = list(BASE[:n])
    used = set(result)
    step = 0
    while len(result) < n:
        red, green, blue = (v / 255 for v in BASE[step % len(BASE)])
        hue, light, saturation = colorsys.rgb_to_hls(red, green, blue)
        turn = step // len(BASE) + 1
        light = (light + 0.23 * turn) % 0.85 + 0.1
        fresh = tuple(round(255 * v) for v in colorsys.hls_to_rgb((hue + 0.017 * turn) % 1, light, max(saturation, 0.15)))
        step += 1
        if fresh not in used:
            used.add(fresh)  # type: ignore[arg-type]
            result.append(fresh)  # type: ignore[arg-type]
    return result


APART = 10.0
"""Distance in CIE L*a*b* from which two colours are told apart at a glance in a map and its legend."""
VISION = np.array(
    [
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    ]
)
"""(4, 3, 3) linear RGB as people see it: all cones, then protanopia, deuteranopia, tritanopia (Machado et al. 2009, IEEE TVCG 15)."""
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
"""Linear sRGB to CIE XYZ, D65 (IEC 61966-2-1)."""
WHITE = TO_XYZ.sum(axis=1)


def seen(rgb: Sequence[Rgb]) -> np.ndarray:
    """(4, n, 3) CIE L*a*b* of n colours in each kind of vision."""
    values = np.array(rgb, float).reshape(-1, 3) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    t = np.clip(linear @ VISION.transpose(0, 2, 1), 0, 1) @ TO_XYZ.T / WHITE
    f = np.where(t > (6 / 29) ** 3, np.cbrt(t), t * (29 / 6) ** 2 / 3 + 4 / 29)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1)


def distinct(preferences: Sequence[Sequence[Rgb]], used: Sequence[Rgb] = (), reserved: Sequence[Rgb] = ()) -> list[Rgb]:
    """A colour of its own for each class: the first of its preferences that is apart from all others in every kind of vision.

    Classes get theirs in order; where no preference and none of the general colours is apart, the one that is most so.

    Args:
        used: colours that are taken already.
        reserved: general colours that mean something; only classes without preferences get them.
    """
    general: list[Rgb] = list(colours(len(preferences) + len(used) + len(BASE)))
    pool = list(dict.fromkeys([*(rgb for each in preferences for rgb in each), *general]))
    position = {rgb: i for i, rgb in enumerate(pool)}
    lab = seen(pool)
    nearest = np.full(len(pool), np.inf)
    for rgb in used:
        nearest = np.minimum(nearest, np.linalg.norm(lab - seen([rgb]), axis=2).min(axis=0))
    chosen = []
    for mine in preferences:
        candidates = [position[rgb] for rgb in (*mine, *(rgb for rgb in general if not mine or rgb not in reserved))]
        apart = [i for i in candidates if nearest[i] >= APART]
        best = apart[0] if apart else max(candidates, key=lambda i: nearest[i])
        nearest = np.minimum(nearest, np.linalg.norm(lab - lab[:, best : best + 1], axis=2).min(axis=0))
        chosen.append(pool[best])
    return chosen
