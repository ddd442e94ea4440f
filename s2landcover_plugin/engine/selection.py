"""How many clusters? Fits for a range of k on one sample, what each quality index says of them, and the reasons for one k."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from typing import Iterable

import numpy as np

from . import quality
from .errors import EngineError
from .fitting import FITS, ClusterFit, count_distinct
from .progress import Progress
from .quality import QualityIndex

CONSENSUS = "consensus"
SELECTIONS = (*(index.name for index in quality.INDICES), CONSENSUS)


@dataclass(frozen=True)
class Selection:
    """Fits for every k tried, what the indices say, and the k that was chosen.

    Attributes:
        values: name of an index -> k -> value, of the indices that were computed.
        votes: name of an index -> the k that it would choose.
        method: `elbow`, another index, or `consensus`.
    """

    fits: dict[int, ClusterFit]
    values: dict[str, dict[int, float]]
    votes: dict[str, int]
    chosen: int
    method: str
    reason: str

    @property
    def indices(self) -> list[QualityIndex]:
        """The indices that were computed."""
        return [index for index in quality.INDICES if index.name in self.votes]

    def table(self) -> str:
        """CSV: n_clusters, one column per index, chosen_by."""
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(("n_clusters", *(index.column for index in self.indices), "chosen_by"))
        for k in self.fits:
            by = [name for name, best in self.votes.items() if best == k] + ([CONSENSUS] if self._agreed == k else [])
            rows.writerow((k, *(f"{self.values[index.name][k]:.10g}" for index in self.indices), " ".join(by)))
        return text.getvalue()

    @property
    def _agreed(self) -> int | None:
        return self.chosen if self.method == CONSENSUS else None


@dataclass(frozen=True)
class Question:
    """Which numbers of clusters are tried, how, and what decides."""

    k_min: int
    k_max: int
    seed: int
    method: str = "kmeans"
    selection: str = "elbow"
    everything: bool = False
    """Whether all indices are computed; else those that the answer needs, and elbow and Davies-Bouldin."""

    def indices(self) -> list[QualityIndex]:
        """The indices to compute; BIC only of mixtures."""
        wanted = {quality.ELBOW.name, quality.DAVIES_BOULDIN.name, self.selection}
        every = self.everything or self.selection == CONSENSUS
        return [i for i in quality.INDICES if (every or i.name in wanted) and (i is not quality.BIC or self.method == "gmm")]


def select_n_clusters(scaled: np.ndarray, question: Question, where: str, progress: Progress) -> Selection:
    """Fit every k from k_min to k_max and choose one.

    The inertia curve starts at k = k_min - 1, so that k_min itself can be the knee.

    Args:
        scaled: sample (n, n_features).
        where: the raster, for messages.

    Raises:
        EngineError: the limits are reversed, BIC is asked of k-means, or the sample has fewer distinct pixels than k_min.
    """
    ks = _range(scaled, question, where, progress)
    indices = question.indices()
    values: dict[str, dict[int, float]] = {index.name: {} for index in indices}
    fits = {}
    steps = len(ks) * (len(indices) + 1)
    before = FITS[question.method](scaled, ks[0] - 1, question.seed, where).inertia
    for number, k in enumerate(ks):
        progress.report(number / len(ks))
        fits[k] = FITS[question.method](scaled, k, question.seed, where)
        for done, index in enumerate(indices, 1):
            progress.report((number * (len(indices) + 1) + done) / steps)
            values[index.name][k] = quality.measure(index, scaled, fits[k], question.method, question.seed)
        progress.info(f"k = {k}: " + ", ".join(f"{index.column} {values[index.name][k]:.5g}" for index in indices))
    curve = [before, *values[quality.ELBOW.name].values()]
    votes = {quality.ELBOW.name: max(quality.knee([ks[0] - 1, *ks], curve), ks[0])}
    for name, series in values.items():
        if name in quality.RULES and any(math.isfinite(value) for value in series.values()):
            votes[name] = quality.RULES[name](series)
    chosen = quality.consensus(votes) if question.selection == CONSENSUS else votes.get(question.selection, votes[quality.ELBOW.name])
    return Selection(fits, values, votes, chosen, question.selection, _reason(chosen, votes, values, question.selection))


def _range(scaled: np.ndarray, question: Question, where: str, progress: Progress) -> list[int]:
    """The numbers of clusters to try."""
    k_min, k_max = question.k_min, question.k_max
    if k_min > k_max:
        raise EngineError(f"K_MIN {k_min} is larger than K_MAX {k_max}", "K_MIN, K_MAX", "exchange the two")
    if question.selection == quality.BIC.name and question.method != "gmm":
        raise EngineError("BIC is defined for mixtures only", "SELECTION bic", "choose METHOD gmm, or another SELECTION")
    distinct = count_distinct(scaled, k_max)
    if distinct < k_min:
        raise EngineError(
            f"The raster has only {distinct} distinct pixel values, fewer than the smallest number of clusters {k_min}",
            f"K_MIN, {where}",
            "use more bands, or another area",
        )
    if distinct < k_max:
        progress.warn(f"The raster has only {distinct} distinct pixel values; up to {distinct} clusters are tried instead of {k_max}.")
    return list(range(k_min, min(k_max, distinct) + 1))


def _reason(chosen: int, votes: dict[str, int], values: dict[str, dict[int, float]], selection: str) -> str:
    """Why this k, and what the others would choose."""
    if selection == CONSENSUS:
        said = "; ".join(f"{k} by {_names(n for n, vote in votes.items() if vote == k)}" for k in sorted(set(votes.values())))
        return f"{chosen} clusters chosen by consensus: {said}. The most votes win; of equals the one nearest to the median vote."
    index = quality.BY_NAME[selection]
    value = values[selection][chosen]
    others = "; ".join(f"{name} would choose {vote}" for name, vote in votes.items() if name != selection)
    return f"{chosen} clusters chosen by {selection} ({index.rule}; {index.column} {value:.4g}); {others}."


def _names(names: Iterable[str]) -> str:
    return ", ".join(names)
