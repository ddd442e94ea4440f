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
"""Pixels per step: a dozen planes of float32 stay near the cache."""
NEAR = 1e-5
"""NDVI in float32 this near to the threshold is computed again in float64."""


class DecideChange(Op):
    """Planes for the sinks, of pixels of two dates. Can be sent to another process.

    One plane of codes for each rule, the magnitude, why a pixel is left out, the codes of the NDVI-drop mask and of the reference, then
    the planes of both dates as they are (see `Planes`). All hold their own no data: every pixel is valid.
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
        stored, ok = data[: self.n_planes].reshape(self.n_planes, -1), np.logical_and.reduce(valid[: self.n_planes]).ravel()
        codes = np.empty((len(self.rules) + 1, ok.size), np.uint8)
        magnitude = np.empty(ok.size, np.float32)
        reasons = np.empty(ok.size, np.uint8)
        for start in range(0, ok.size, CHUNK_PX):
            here = slice(start, start + CHUNK_PX)
            self._decide(stored[:, here], ok[here], codes[:, here], magnitude[here], reasons[here])
        reference = data[self.n_planes].ravel().astype(np.uint8) if self.has_reference else np.broadcast_to(np.uint8(UNKNOWN), ok.shape)
        planes = [*codes[:-1], magnitude, reasons, codes[-1], reference, *stored]
        return Block(tuple(plane.reshape(shape) for plane in planes), np.broadcast_to(True, shape), block.window)

    def _decide(self, stored: np.ndarray, ok: np.ndarray, codes: np.ndarray, magnitude: np.ndarray, reasons: np.ndarray) -> None:
        """Fill the codes of the rules and of the NDVI-drop mask, the magnitude and the reasons of some pixels."""
        pixels = self.space.seen(stored, "float32")
        with np.errstate(all="ignore"):
            # what is not valid may be anything
            features = self.space.features(pixels)
            reasons[:] = self.space.left_out(pixels)
            codes[-1] = self._fallen(stored, features[2])
            for code, rule in zip(codes, self.rules):
                code[:] = codes[-1] if rule.method == "ndvi-drop" else rule.decide(self.space, pixels, features)
            magnitude[:] = self.space.magnitude(features)
        if stored.dtype.kind == "f":
            ok = ok & np.isfinite(features).all(axis=0)
        if not ok.all():
            reasons[~ok] = NO_DATA
        codes += NO_CHANGE
        used = reasons == USED
        if not used.all():
            # what is left out is UNKNOWN, which is 0
            codes *= used
            magnitude[~used] = MAGNITUDE_BAND.nodata

    def _fallen(self, stored: np.ndarray, drop: np.ndarray) -> np.ndarray:
        """(n,) whether NDVI fell by more than the threshold, as float64 has it."""
        fallen = drop > self.threshold
        close = np.flatnonzero(np.abs(drop - np.float32(self.threshold)) < NEAR)
        if len(close):
            fallen[close] = self.space.features(self.space.seen(stored[:, close]))[2] > self.threshold
        return np.asarray(fallen)

    def pictures(self, planes: Sequence[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
        """What a person looks at, of some pixels of the result: planes (see `pictures_of`), and where there is something to see."""
        where = Planes(len(self.rules))
        stored = np.stack(planes[where.stored :])
        shape, pixels = stored.shape[1:], self.space.seen(stored.reshape(len(stored), -1), "float32")
        reasons = planes[where.reasons]
        truth = planes[where.reference if self.has_reference else where.mask]
        images = [plane.reshape(shape) for date in pixels for plane in date.reflectances(picture_bands(self.space))]
        found = [*images, reasons != USED, truth == CHANGE]
        real, comparable = truth == CHANGE, truth != UNKNOWN
        for code in planes[: len(self.rules)]:
            changed = code == CHANGE
            found += [changed & real, changed & ~real & comparable, real & (code == NO_CHANGE), changed & ~comparable]
        return found, reasons != NO_DATA

    @property
    def n_pictures(self) -> int:
        """How many planes `pictures` gives."""
        return 8 + 4 * len(self.rules)


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
    def stored(self) -> int:
        """The first of the planes of both dates as they are, which are the last."""
        return self.m + 4


BEFORE, AFTER, LEFT_OUT, TRUTH = slice(0, 3), slice(3, 6), 6, 7
"""Where in the pictures the two dates (3 each), the pixels left out and the truth are."""


def pictures_of(rule: int) -> slice:
    """Where in the pictures the four planes of a rule are: hit, false, missed, found where the truth is not known."""
    return slice(8 + 4 * rule, 12 + 4 * rule)
