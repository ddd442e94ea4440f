"""Confusion matrices, and what is read from them."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Confusion:
    """A confusion matrix: rows = reference, columns = predicted.

    Attributes:
        counts: (n, n) pixels.
        names: of the n classes.
    """

    counts: np.ndarray
    names: tuple[str, ...]

    @property
    def total(self) -> int:
        """Pixels compared."""
        return int(self.counts.sum())

    @property
    def overall_accuracy(self) -> float:
        """Share of pixels that agree."""
        return float(figures(self.counts, 0)["overall_accuracy"])

    @property
    def kappa(self) -> float:
        """Cohen's kappa (1960, Educational and Psychological Measurement 20)."""
        return float(figures(self.counts, 0)["kappa"])

    @property
    def recall(self) -> np.ndarray:
        """(n,) producer's accuracy: share of the reference pixels of a class that are found; NaN where there are none."""
        return self._of_classes("recall")

    @property
    def precision(self) -> np.ndarray:
        """(n,) user's accuracy: share of the predicted pixels of a class that are right; NaN where there are none."""
        return self._of_classes("precision")

    @property
    def f1(self) -> np.ndarray:
        """(n,) harmonic mean of precision and recall; NaN where the class is in neither."""
        return self._of_classes("f1")

    @property
    def iou(self) -> np.ndarray:
        """(n,) intersection over union (Jaccard); NaN where the class is in neither."""
        return self._of_classes("iou")

    def _of_classes(self, name: str) -> np.ndarray:
        return np.array([float(figures(self.counts, position)[name]) for position in range(len(self.counts))])

    @property
    def macro_f1(self) -> float:
        """Mean F1 of the classes that are in one of the two."""
        return float(np.nanmean(self.f1)) if self.total else float("nan")

    @property
    def mean_iou(self) -> float:
        """Mean IoU of the classes that are in one of the two."""
        return float(np.nanmean(self.iou)) if self.total else float("nan")

    def table(self) -> str:
        """CSV: the matrix (rows = reference, columns = predicted) with precision, recall, F1 and IoU of each class."""
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(("reference \\ predicted", *self.names, "recall", "precision", "f1", "iou"))
        for name, counts, *figures in zip(self.names, self.counts, self.recall, self.precision, self.f1, self.iou):
            rows.writerow((name, *(int(n) for n in counts), *(f"{value:.6f}" for value in figures)))
        return text.getvalue()


FIGURES = ("overall_accuracy", "precision", "recall", "f1", "iou", "kappa")
"""What `figures` tells, in the order of tables."""
LEAST_SQUARES = 20
"""Fewer squares of ground tell nothing about how much the figures scatter."""
LEAST_FILLED = 10
"""Squares in which the class has to be for an interval of its figures: with fewer it would be far too narrow (simulated: 17 to 74 %)."""
ROUNDS = 1000
Z_95 = 1.959964
"""Two-sided 95 % quantile of the normal distribution."""


def figures(counts: np.ndarray, position: int) -> dict[str, np.ndarray]:
    """Overall accuracy and kappa of matrices, and precision, recall, F1 and IoU of one of their classes; NaN where not defined.

    Args:
        counts: (..., n, n) rows = reference, columns = predicted; pixels or shares.
    """
    counts = counts.astype(np.float64)
    total = counts.sum(axis=(-2, -1))
    hit, reference = counts[..., position, position], counts[..., position, :].sum(axis=-1)
    predicted = counts[..., :, position].sum(axis=-1)
    chance = (counts.sum(axis=-1) * counts.sum(axis=-2)).sum(axis=-1)
    right = np.trace(counts, axis1=-2, axis2=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = (
            right / total,
            hit / predicted,
            hit / reference,
            2 * hit / (predicted + reference),
            hit / (predicted + reference - hit),
            (right * total - chance) / (total**2 - chance),
        )
    return {name: np.where(np.isfinite(value), value, np.nan) for name, value in zip(FIGURES, values)}


def intervals(squares: np.ndarray, position: int, seed: int) -> dict[str, tuple[float, float]]:
    """95 % intervals of `figures` by drawing whole squares of ground with replacement; none from too few squares.

    Neighbouring pixels are no independent trials, so that intervals from numbers of pixels would be far too narrow; squares larger than
    the things on the ground nearly are (block bootstrap: Efron and Tibshirani 1993, chapter 8).

    Args:
        squares: (n_squares, n, n) counts of each square; empty ones do not count.
    """
    used = squares[squares.sum(axis=(1, 2)) > 0]
    if len(used) < LEAST_SQUARES:
        return {}
    reference, predicted = (used[:, position].sum(axis=1) > 0), (used[:, :, position].sum(axis=1) > 0)
    either = reference | predicted
    with_something = {"precision": predicted, "recall": reference, "f1": either, "iou": either, "kappa": either}
    draws = np.random.default_rng(seed).multinomial(len(used), np.full(len(used), 1 / len(used)), size=ROUNDS)
    drawn = figures(np.tensordot(draws, used, axes=1), position)
    found = {}
    for name, values in drawn.items():
        known = values[np.isfinite(values)]
        if len(known) and np.count_nonzero(with_something.get(name, True * (used.sum(axis=(1, 2)) > 0))) >= LEAST_FILLED:
            low, high = np.percentile(known, (2.5, 97.5))
            found[name] = (float(low), float(high))
    return found


@dataclass(frozen=True)
class AreaAdjusted:
    """Figures of the whole map from a reference that is a sample of it; each with half the width of its 95 % interval.

    Attributes:
        overall_accuracy: value, half width.
        precision, recall, share: (2, n) values and half widths; the share is that of the class in the map's area.
    """

    overall_accuracy: tuple[float, float]
    precision: np.ndarray
    recall: np.ndarray
    share: np.ndarray


def area_adjusted(counts: np.ndarray, mapped: np.ndarray) -> AreaAdjusted:
    """Weigh a confusion matrix by the mapped areas (Olofsson et al. 2014, Remote Sensing of Environment 148, eq. 4 to 11).

    For reference pixels that are a random sample, or one stratified by the classes of the map. NaN where a mapped class has fewer than
    two of them.

    Args:
        counts: (n, n) rows = reference, columns = predicted.
        mapped: (n,) pixels or area of each class in the map.
    """
    samples = counts.T.astype(np.float64)
    n = samples.sum(axis=1)
    weight = mapped / mapped.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = np.where(n[:, None] > 1, samples / n[:, None], np.nan)
        spread = rate * (1 - rate) / (n[:, None] - 1)
        # a class that is not in the map needs no reference, and has no user's accuracy
        present = weight > 0
        rate, spread = np.where(present[:, None], rate, 0), np.where(present[:, None], spread, 0)
        share = weight @ rate
        user, user_variance = np.diag(rate), np.diag(spread)
        known = np.where(present, 1.0, np.nan)
        producer = weight * user / share
        others = (weight[:, None] ** 2 * spread).sum(axis=0) - weight**2 * user_variance
        producer_variance = (weight**2 * (1 - producer) ** 2 * user_variance + producer**2 * others) / share**2
    overall = float(weight @ user), Z_95 * float(np.sqrt(weight**2 @ user_variance))
    return AreaAdjusted(
        overall,
        np.stack([known * user, known * Z_95 * np.sqrt(user_variance)]),
        np.stack([producer, Z_95 * np.sqrt(producer_variance)]),
        np.stack([share, Z_95 * np.sqrt(weight**2 @ spread)]),
    )
