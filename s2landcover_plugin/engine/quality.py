"""How good is a clustering? Indices of a fit on its sample, and which number of clusters each of them would choose."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Callable, Mapping, Sequence

import numpy as np

from .fitting import FITS, ClusterFit
from .packages import require

SILHOUETTE_PIXELS = 3000
"""Pixels of the sample that the silhouette is computed on: its cost grows with their square."""
STABILITY_PAIRS = 3
STABILITY_PIXELS = 4000
"""Pairs of random parts of the sample, and pixels in each, that stability compares."""
STABLE_ABOVE = 0.95
"""Mean adjusted Rand index from which clusters are the same ones in every part of the sample."""


@dataclass(frozen=True)
class QualityIndex:
    """One way to judge a number of clusters."""

    name: str
    """As in SELECTION."""
    column: str
    """In the table."""
    title: str
    rule: str
    """How k is read from it, for people."""


ELBOW = QualityIndex("elbow", "inertia", "Inertia (smaller is tighter)", "knee of the inertia curve (Satopaa et al. 2011)")
DAVIES_BOULDIN = QualityIndex("davies-bouldin", "davies_bouldin", "Davies-Bouldin (smaller is better)", "smallest (1979)")
SILHOUETTE = QualityIndex("silhouette", "silhouette", "Silhouette (larger is better)", "largest (Rousseeuw 1987)")
CALINSKI_HARABASZ = QualityIndex("calinski-harabasz", "calinski_harabasz", "Calinski-Harabasz (larger is better)", "largest (1974)")
STABILITY = QualityIndex(
    "stability", "stability", "Stability (1: the same clusters every time)", f"largest k from {STABLE_ABOVE} on (Ben-Hur et al. 2002)"
)
BIC = QualityIndex("bic", "bic", "BIC of the mixture (smaller is better)", "smallest (Schwarz 1978)")
INDICES = (ELBOW, DAVIES_BOULDIN, SILHOUETTE, CALINSKI_HARABASZ, STABILITY, BIC)
BY_NAME = {index.name: index for index in INDICES}


def measure(index: QualityIndex, scaled: np.ndarray, fit: ClusterFit, method: str, seed: int) -> float:
    """The value of an index for a fit on its scaled sample (n, n_features); NaN where it is not defined.

    Davies-Bouldin, silhouette (on SILHOUETTE_PIXELS drawn with the seed) and Calinski-Harabasz are scikit-learn's.
    """
    if index is ELBOW:
        return fit.inertia
    if index is BIC:
        return fit.bic
    if index is STABILITY:
        return stability(scaled, len(fit.centers), method, seed)
    if not 1 < len(np.unique(fit.labels)) < len(scaled):
        return math.nan
    metrics = require("sklearn.metrics")
    with require("threadpoolctl").threadpool_limits(1):
        if index is DAVIES_BOULDIN:
            return float(metrics.davies_bouldin_score(scaled, fit.labels))
        if index is CALINSKI_HARABASZ:
            return float(metrics.calinski_harabasz_score(scaled, fit.labels))
        few = min(SILHOUETTE_PIXELS, len(scaled))
        try:
            return float(metrics.silhouette_score(scaled, fit.labels, sample_size=few, random_state=seed))
        except ValueError:  # the pixels drawn are all of one cluster
            return math.nan


def stability(scaled: np.ndarray, n_clusters: int, method: str, seed: int) -> float:
    """Agreement of the labels that fits on random parts of the sample give to the same pixels: mean adjusted Rand index.

    Ben-Hur, Elisseeff and Guyon 2002, A stability based method for discovering structure in clustered data (Pacific Symposium on
    Biocomputing), with the adjusted Rand index (Hubert and Arabie 1985).
    """
    rng = np.random.default_rng((seed, n_clusters))
    metrics = require("sklearn.metrics")
    size = min(STABILITY_PIXELS, max(len(scaled) // 2, 2 * n_clusters))
    scores = []
    for _ in range(STABILITY_PAIRS):
        labels = []
        common = scaled[rng.permutation(len(scaled))[:size]]
        for _ in range(2):
            part = scaled[rng.permutation(len(scaled))[:size]]
            if len(np.unique(part, axis=0)) < n_clusters:
                return math.nan
            fit = FITS[method](part, n_clusters, int(rng.integers(2**31)), "SAMPLE_SIZE")
            labels.append(fit.estimator.predict(common))
        scores.append(metrics.adjusted_rand_score(*labels))
    return float(np.mean(scores))


def knee(ks: Sequence[int], inertias: Sequence[float]) -> int:
    """The knee of the inertia curve: the point of its logarithm farthest below the chord from its first to its last point.

    Satopaa et al. 2011, Finding a "Kneedle" in a haystack (ICDCS workshops), for a discrete curve without smoothing. The logarithm,
    because what counts is by how much one more cluster lowers the inertia in proportion: on the plain curve the first split, of water
    from land say, hides all later ones.
    """
    x = np.asarray(ks, float)
    y = np.log(np.maximum(inertias, 1e-9 * max(inertias[0], 1e-300)))
    if len(x) < 3 or y[0] <= y[-1]:
        return ks[0]
    below = (1 - (x - x[0]) / (x[-1] - x[0])) - (y - y[-1]) / (y[0] - y[-1])
    return ks[int(np.argmax(np.round(below, 12)))]


def _smallest(values: Mapping[int, float]) -> int:
    return min(values, key=lambda k: (np.nan_to_num(values[k], nan=np.inf), k))


def _largest(values: Mapping[int, float]) -> int:
    return min(values, key=lambda k: (np.nan_to_num(-values[k], nan=np.inf), k))


def _last_stable(values: Mapping[int, float]) -> int:
    stable = [k for k, value in values.items() if value >= STABLE_ABOVE]
    return max(stable) if stable else _largest(values)


RULES: dict[str, Callable[[Mapping[int, float]], int]] = {
    DAVIES_BOULDIN.name: _smallest,
    SILHOUETTE.name: _largest,
    CALINSKI_HARABASZ.name: _largest,
    STABILITY.name: _last_stable,
    BIC.name: _smallest,
}
"""k from the values of an index; the elbow needs the inertia before the first k too."""


def consensus(votes: Mapping[str, int]) -> int:
    """The k with the most votes; of several the one nearest to the median of all votes, then the smaller."""
    counts = {k: sum(vote == k for vote in votes.values()) for k in votes.values()}
    middle = float(np.median(list(votes.values())))
    return min(counts, key=lambda k: (-counts[k], abs(k - middle), k))
