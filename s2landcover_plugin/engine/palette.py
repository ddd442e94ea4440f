"""Colours for classes that people with a colour vision deficiency can tell apart."""

from __future__ import annotations

import colorsys

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
