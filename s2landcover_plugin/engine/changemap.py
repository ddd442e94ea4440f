"""The map of change: every pixel of two dates decided by one or several rules, streamed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

import numpy as np

from .blocks import Block, Op
from .change import NO_DATA, USED, ChangeRule, PairSpace
from .comparing import CHANGE, NO_CHANGE, UNKNOWN
from .geotiff import OutputBand
from .legend import LegendClass

LEGEND = (LegendClass(NO_CHANGE, "No change", (222, 226, 218)), LegendClass(CHANGE, "Change", (204, 51, 17)))
MAGNITUDE_BAND = OutputBand("magnitude", "float32", -1.0)
CHUNK_PX = 1 << 15
"""Pixels per step: a few hundred bytes each in float64 stay near the cache."""


class DecideChange(Op):
    """Planes for the sinks, of pixels of two dates. Can be sent to another process.

    One plane of codes for each rule, the magnitude, why a pixel is left out, the codes of the NDVI-drop mask and of the reference, then
    the pictures (see `Planes`).
    """

    def __init__(self, space: PairSpace, rules: Sequence[ChangeRule], threshold: float) -> None:
        self.space = space
        self.rules = tuple(rules)
        self.threshold = threshold
        self.n_planes = space.n_planes
        self.has_reference = False

    def with_reference(self) -> DecideChange:
        """The same op where a reference follows the planes of the dates."""
        op = DecideChange(self.space, self.rules, self.threshold)
        op.has_reference = True
        return op

    def __call__(self, block: Block) -> Block:
        data, valid = np.asarray(block.data), block.valid
        shape = valid.shape[1:]
        stored, ok = data[: self.n_planes].reshape(self.n_planes, -1), valid[: self.n_planes].all(axis=0).ravel()
        codes = np.zeros((len(self.rules) + 1, ok.size), np.uint8)
        magnitude = np.zeros(ok.size, np.float32)
        reasons = np.empty(ok.size, np.uint8)
        for start in range(0, ok.size, CHUNK_PX):
            here = slice(start, start + CHUNK_PX)
            self._decide(stored[:, here], ok[here], codes[:, here], magnitude[here], reasons[here])
        reference = data[self.n_planes].ravel().astype(np.uint8) if self.has_reference else np.zeros(ok.size, np.uint8)
        truth = reference if self.has_reference else codes[-1]
        pictures = [*self._pictures(stored), reasons != USED, truth == CHANGE]
        for code in codes[:-1]:
            found, real, comparable = code == CHANGE, truth == CHANGE, truth != UNKNOWN
            pictures += [found & real, found & ~real & comparable, real & (code == NO_CHANGE), found & ~comparable]
        used, seen = reasons == USED, reasons != NO_DATA
        planes = [*codes[:-1], magnitude, reasons, codes[-1], reference, *pictures]
        valids = [used] * len(self.rules) + [used, np.ones(ok.size, bool), used, reference != UNKNOWN] + [seen] * len(pictures)
        return Block(tuple(plane.reshape(shape) for plane in planes), np.stack(valids).reshape(-1, *shape), block.window)

    def _decide(self, stored: np.ndarray, ok: np.ndarray, codes: np.ndarray, magnitude: np.ndarray, reasons: np.ndarray) -> None:
        """Fill the codes of the rules and of the NDVI-drop mask, the magnitude and the reasons of some pixels."""
        reasons[:] = np.where(ok, self.space.left_out(stored), NO_DATA)
        features = self.space.features(stored)
        reasons[(reasons == USED) & ~np.isfinite(features).all(axis=0)] = NO_DATA
        use = np.flatnonzero(reasons == USED)
        own, mine = features[:, use], stored[:, use]
        for code, rule in zip(codes, self.rules):
            code[use] = np.where(rule.decide(self.space, mine, own), CHANGE, NO_CHANGE)
        codes[-1][use] = np.where(own[2] > self.threshold, CHANGE, NO_CHANGE)
        magnitude[use] = self.space.magnitude(own)

    def _pictures(self, stored: np.ndarray) -> list[np.ndarray]:
        """Red, green and blue of the first and of the second date, reflectance."""
        return [date.reflectance(stored, name).astype(np.float32) for date in self.space.dates for name in picture_bands(self.space)]


def picture_bands(space: PairSpace) -> tuple[str, str, str]:
    """What is shown as red, green and blue: true colour where it can be had."""
    return (
        ("red", "green", "blue")
        if {"green", "blue"} <= set(space.common)
        else ("nir", "red", "green" if "green" in space.common else "red")
    )


@dataclass(frozen=True)
class Planes:
    """Where the planes of DecideChange are, for m rules."""

    m: int

    @property
    def magnitude(self) -> int:
        return self.m

    @property
    def reasons(self) -> int:
        return self.m + 1

    @property
    def mask(self) -> int:
        return self.m + 2

    @property
    def reference(self) -> int:
        return self.m + 3

    @property
    def pictures(self) -> tuple[int, ...]:
        """Both dates (3 each), left out, truth, and for each rule: hit, false, missed, found where the truth is not known."""
        return tuple(range(self.m + 4, self.m + 4 + 8 + 4 * self.m))


BEFORE, AFTER, LEFT_OUT, TRUTH = slice(0, 3), slice(3, 6), 6, 7
"""Where in the pictures the two dates, the pixels left out and the truth are."""


def pictures_of(rule: int) -> slice:
    """Where in the pictures the four planes of a rule are."""
    return slice(8 + 4 * rule, 12 + 4 * rule)
