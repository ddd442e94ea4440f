"""What a network's answers are, learnt from a few of them: their kind and size, how far it looks, and on which pixels tiles may begin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

import numpy as np

from .errors import EngineError
from .model_contract import Statements
from .networks import Network

SUM_TOLERANCE = 1e-2
"""By how much the sum of probabilities may miss 1 (float16 networks)."""
SAME = 1e-5
"""Answers that differ by less than this share of their spread are the same: rounding of another order of operations."""
MULTIPLES = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class OutputFacts:
    """Where the classes are in what a network gives.

    Attributes:
        index: number of the output.
        layout: `NCHW`, `NHWC`, or `NHW` without classes.
        kind: `logits`, `probabilities`, `sigmoid` (one channel, logit), `probability` (one channel, 0 to 1), or `index`.
        n_classes: 2 for one channel; of an index map what is known, 0 if nothing is.
        reduction: input pixels per output pixel.
        crop: input pixels that are missing on each side.
    """

    index: int
    layout: str
    kind: str
    n_classes: int
    reduction: int
    crop: int

    def scores(self, outputs: Sequence[np.ndarray]) -> np.ndarray:
        """(n, channels, rows, cols) of the outputs of a run."""
        found = outputs[self.index]
        if self.layout == "NHWC":
            return np.moveaxis(found, -1, 1)
        return found[:, np.newaxis] if self.layout == "NHW" else found

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """(n, n_classes, rows, cols) float32 of scores; not for index maps."""
        values = scores.astype(np.float32, copy=False)
        if self.kind == "probabilities":
            return values
        if self.kind == "logits":
            powers = np.exp(values - values.max(axis=1, keepdims=True))
            return np.asarray(powers / powers.sum(axis=1, keepdims=True))
        with np.errstate(over="ignore"):
            positive = values if self.kind == "probability" else 1 / (1 + np.exp(-values))
        return np.concatenate([1 - positive, positive], axis=1)


def find_output(network: Network, tiles: np.ndarray, layout: str, stated: Statements) -> OutputFacts:
    """The output that holds classes per pixel, and what its numbers are.

    Args:
        tiles: (n, …) square inputs, in the network's layout and type; real pixels, and noise.

    Raises:
        EngineError: no output does.
    """
    side = tiles.shape[2] if layout == "NCHW" else tiles.shape[1]
    outputs = network.run(tiles)
    refused = []
    for index, found in enumerate(outputs):
        placed = _place(found, side, layout)
        if placed is None:
            refused.append(str(tuple(found.shape)))
            continue
        where, reduction, crop = placed
        scores = OutputFacts(index, where, "", 0, reduction, crop).scores(outputs)
        if not np.isfinite(scores).all():
            raise EngineError("The model gives values that are not numbers", network.path, "check SCALE, BANDS and the model itself")
        kind = _kind(scores, stated.get("output"))
        channels = scores.shape[1]
        known = len(stated.get("class_names") or ())
        n_classes = known if kind == "index" else 2 if channels == 1 else channels
        return OutputFacts(index, where, kind, n_classes, reduction, crop)
    shapes = ", ".join(refused)
    ranks = {len(found.shape) for found in outputs}
    task = "classifies whole images" if ranks <= {1, 2} else "does not give one class per pixel (a detection network?)"
    fix = "use a semantic-segmentation model, whose output has the rows and columns of its input"
    raise EngineError(f"The model {task}: its output is {shapes} for an input of {side} x {side} pixels", network.path, fix)


def _place(found: np.ndarray, side: int, layout: str) -> tuple[str, int, int] | None:
    """Layout, reduction and crop of an output for a square input; None if it has no rows and columns."""
    candidates = {4: [layout, "NHWC" if layout == "NCHW" else "NCHW"], 3: ["NHW"]}.get(found.ndim, [])
    for where in candidates:
        rows, columns = {"NCHW": found.shape[2:], "NHWC": found.shape[1:3], "NHW": found.shape[1:]}[where]
        if rows != columns or not rows or rows > side:
            continue
        if side % rows == 0 and (rows == side or rows > side // 2 or side // rows in (2, 4, 8, 16, 32)) and not side // rows > side // 4:
            return where, side // rows, 0
        if (side - rows) % 2 == 0 and rows > side // 4:
            return where, 1, (side - rows) // 2
    return None


def _kind(scores: np.ndarray, stated: str | None) -> str:
    """What the numbers (n, channels, rows, cols) are."""
    single = scores.shape[1] == 1
    if stated == "index" or (stated is None and single and (scores.dtype.kind in "iu" or _whole_numbers(scores))):
        return "index"
    within = bool(scores.min() >= -1e-3 and scores.max() <= 1 + 1e-3)
    if single:
        return "probability" if stated == "probabilities" or (stated is None and within) else "sigmoid"
    if stated in ("logits", "probabilities"):
        return stated
    sums = scores.astype(np.float64).sum(axis=1)
    return "probabilities" if within and bool(np.abs(sums - 1).max() < SUM_TOLERANCE) else "logits"


def _whole_numbers(scores: np.ndarray) -> bool:
    return bool((scores == np.rint(scores)).all() and scores.min() >= 0 and scores.max() > 1)


@dataclass(frozen=True)
class Reach:
    """How a network looks at its surroundings.

    Attributes:
        multiple: origins and sizes of tiles must be multiples of it for the same answers everywhere.
        margin: pixels on each side beyond which nothing matters; None if everything in a tile does.
    """

    multiple: int
    margin: int | None


def measure_reach(network: Network, tile: np.ndarray, other: np.ndarray, layout: str, output: OutputFacts) -> Reach:
    """Measure by changing pixels: those of one quarter for the margin, all by shifting for the multiple.

    Args:
        tile, other: (1, …) inputs of the same size, as different as can be.
    """
    axes = (2, 3) if layout == "NCHW" else (1, 2)
    side = tile.shape[axes[0]]
    base = output.scores(network.run(tile))[0].astype(np.float64)
    tolerance = SAME * max(float(base.std()), 1e-30)

    def farthest(phases: Sequence[int]) -> int:
        margin = 0
        for at in (side // 2 + phase for phase in phases):
            mixed = tile.copy()
            quarter = np.s_[:, :, at:, at:] if layout == "NCHW" else np.s_[:, at:, at:]
            mixed[quarter] = other[quarter]
            changed = (np.abs(output.scores(network.run(mixed))[0].astype(np.float64) - base) > tolerance).any(axis=0)
            for axis in (0, 1):
                touched = np.flatnonzero(changed.any(axis=1 - axis))
                if len(touched):
                    # rows of the output in pixels of the input
                    margin = max(margin, at - int(touched[0]) * output.reduction - output.crop)
        return margin

    margin = farthest((0, 1))
    multiple = _multiple(network, tile, layout, output, base, margin, tolerance)
    if multiple > 2:
        margin = max(margin, farthest((multiple // 2, multiple - 1)))
    unbounded = margin + multiple >= side // 2
    return Reach(multiple, None if unbounded else margin)


def _multiple(network: Network, tile: np.ndarray, layout: str, output: OutputFacts, base: np.ndarray, margin: int, tolerance: float) -> int:
    """The smallest shift of the input that shifts the answer alike, in both directions."""
    axes = (2, 3) if layout == "NCHW" else (1, 2)
    side = tile.shape[axes[0]]
    for shift in MULTIPLES:
        if shift % output.reduction or shift * 4 > side:
            continue
        moved = output.scores(network.run(np.roll(tile, (-shift, -shift), axes)))[0].astype(np.float64)
        step = shift // output.reduction
        # away from the sides, where the rolled tile and the padding differ
        rim = -(-max(margin - output.crop, 0) // output.reduction) + step + 1
        rows = base.shape[1]
        if 2 * rim >= rows - step:
            continue
        inner = slice(rim, rows - rim - step)
        later = slice(rim + step, rows - rim)
        if (np.abs(moved[:, inner, inner] - base[:, later, later]) <= tolerance).all():
            return shift
    return output.reduction
