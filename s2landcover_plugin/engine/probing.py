"""What a network's answers are, learnt from a few of them: their kind and size, how far it looks, and on which pixels tiles may begin."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Sequence

import numpy as np

from .errors import EngineError
from .model_contract import Statements
from .networks import Network
from .progress import Progress

SUM_TOLERANCE = 1e-2
"""By how much the sum of probabilities may miss 1 (float16 networks)."""
SAME = 1e-5
"""Answers that differ by less than this share of their spread are the same: rounding of another order of operations."""
MULTIPLES = (1, 2, 3, 4, 5, 6, 7, 8, 12, 14, 16, 24, 28, 32, 64)


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


def find_output(
    network: Network, tile: np.ndarray, answers: Sequence[Sequence[np.ndarray]], layout: str, stated: Statements, progress: Progress
) -> OutputFacts:
    """The output that holds classes per pixel, and what its numbers are.

    Of several that do: the one with as many channels as classes are named, then the finest.

    Args:
        tile: (1, …) a square input, in the network's layout and type.
        answers: all outputs for it and for others of its size; of real pixels, and of noise.

    Raises:
        EngineError: no output does.
    """
    side = tile.shape[2] if layout == "NCHW" else tile.shape[1]
    outputs = [np.concatenate(arrays) for arrays in zip(*answers)]
    known = len(stated.get("class_names") or ())
    fitting = []
    for index, found in enumerate(outputs):
        placed = _place(found, side, layout)
        if placed is not None:
            facts = OutputFacts(index, placed[0], "", 0, *placed[1:])
            channels = facts.scores(outputs).shape[1]
            fitting.append((channels != known, placed[1], index, facts))
    if not fitting:
        shapes = ", ".join(str(tuple(found.shape)) for found in outputs)
        task = (
            "classifies whole images"
            if {found.ndim for found in outputs} <= {1, 2}
            else "does not give one class per pixel (a detection network?)"
        )
        fix = "use a semantic-segmentation model, whose output has the rows and columns of its input"
        raise EngineError(f"The model {task}: its output is {shapes} for an input of {side} x {side} pixels", network.path, fix)
    facts = min(fitting, key=lambda each: each[:3])[3]
    if len(fitting) > 1:
        progress.warn(f"{network.path}: {len(fitting)} of its outputs could be the classes; number {facts.index + 1} is taken.")
    scores = facts.scores(outputs)
    if not np.isfinite(scores).all():
        raise EngineError("The model gives values that are not numbers", network.path, "check SCALE, BANDS and the model itself")
    channels = scores.shape[1]
    kind = _kind(scores, stated.get("output"))
    if kind == "index" and channels > 1:
        fix = "leave out that its output is an index map, or use a model with one channel"
        raise EngineError(f"The model gives {channels} numbers for each pixel, no index", network.path, fix)
    n_classes = known if kind == "index" else 2 if channels == 1 else channels
    return replace(facts, kind=kind, n_classes=n_classes)


def check_size(network: Network, larger: np.ndarray, layout: str, output: OutputFacts) -> None:
    """Refuse a network whose answer does not keep its place when the input grows.

    Args:
        larger: (1, …) an input of another size.

    Raises:
        EngineError: it does not.
    """
    side = larger.shape[2] if layout == "NCHW" else larger.shape[1]
    rows = output.scores(network.run(larger)).shape[2]
    if rows * output.reduction + 2 * output.crop != side:
        fix = (
            'tell with "multiple" in the JSON beside the model which sizes it takes, or use a model whose answer has the size of its input'
        )
        what = f"The model gives {rows} x {rows} answers for {side} x {side} pixels, and it cannot be told where they belong"
        raise EngineError(what, network.path, fix)


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
        multiple: origins and sizes of tiles must be multiples of it for the same answers everywhere; None if no shift was found to do.
        margin: pixels on each side beyond which nothing matters; None if everything in a tile does.
    """

    multiple: int | None
    margin: int | None


def measure_reach(
    network: Network, tiles: tuple[np.ndarray, np.ndarray], answers: Sequence[Sequence[np.ndarray]], layout: str, output: OutputFacts
) -> Reach:
    """Measure by changing pixels: those of one quarter for the margin, all by shifting for the multiple.

    Args:
        tiles: (1, …) inputs of the same size, as different as can be.
        answers: all outputs for each.
    """
    probe = _Probe(network, layout, output, tiles, answers)
    margin = max(probe.farthest(phase) for phase in (0, 1))
    multiple = probe.multiple(margin)
    if multiple is not None and multiple > 2:
        margin = max(margin, *(probe.farthest(phase) for phase in (multiple // 2, multiple - 1)))
    unbounded = multiple is None or margin + multiple >= probe.side // 2
    return Reach(multiple, None if unbounded else margin)


class _Probe:
    """A network asked about two inputs of one size."""

    def __init__(
        self,
        network: Network,
        layout: str,
        output: OutputFacts,
        tiles: tuple[np.ndarray, np.ndarray],
        answers: Sequence[Sequence[np.ndarray]],
    ) -> None:
        self.network, self.layout, self.output, self.tiles = network, layout, output, tiles
        self.axes = (2, 3) if layout == "NCHW" else (1, 2)
        self.side = tiles[0].shape[self.axes[0]]
        self.base = [self._as_scores(each) for each in answers]
        self.tolerance = SAME * max(*(float(base.std()) for base in self.base), 1e-30)

    def _scores(self, tile: np.ndarray) -> np.ndarray:
        return self._as_scores(self.network.run(tile))

    def _as_scores(self, outputs: Sequence[np.ndarray]) -> np.ndarray:
        return np.asarray(self.output.scores(outputs)[0].astype(np.float64))

    def farthest(self, phase: int) -> int:
        """How far from a quarter that is replaced, the lower right and the upper left one, answers change, pixels."""
        tile, other = self.tiles
        scale, crop = self.output.reduction, self.output.crop
        margin = 0
        at = self.side // 2 + phase
        for quarter in (slice(at, None), slice(None, at)):
            mixed = tile.copy()
            where = np.s_[:, :, quarter, quarter] if self.layout == "NCHW" else np.s_[:, quarter, quarter]
            mixed[where] = other[where]
            changed = (np.abs(self._scores(mixed) - self.base[0]) > self.tolerance).any(axis=0)
            for axis in (0, 1):
                touched = np.flatnonzero(changed.any(axis=1 - axis))
                if len(touched):
                    # rows of the output in pixels of the input
                    first, last = int(touched[0]) * scale + crop, (int(touched[-1]) + 1) * scale + crop
                    margin = max(margin, at - first if quarter.start else last - at)
        return margin

    def multiple(self, margin: int) -> int | None:
        """The smallest shift of the input that shifts both answers alike; None if none that can be tried does."""
        scale, crop = self.output.reduction, self.output.crop
        for shift in MULTIPLES:
            step = shift // scale
            # away from the sides, where the rolled tile and the padding differ
            rim = -(-max(margin - crop, 0) // scale) + step + 1
            rows = self.base[0].shape[1]
            if shift % scale or rows - step - 2 * rim < max(1, 2 * step):
                continue
            inner, later = slice(rim, rows - rim - step), slice(rim + step, rows - rim)
            if all(self._shifts_alike(tile, base, shift, inner, later) for tile, base in zip(self.tiles, self.base)):
                return shift
        return None

    def _shifts_alike(self, tile: np.ndarray, base: np.ndarray, shift: int, inner: slice, later: slice) -> bool:
        moved = self._scores(np.roll(tile, (-shift, -shift), self.axes))
        return bool((np.abs(moved[:, inner, inner] - base[:, later, later]) <= self.tolerance).all())
