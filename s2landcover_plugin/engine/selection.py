"""How many clusters? k-means for a range of k on one sample, and the reasons for one of them."""

from __future__ import annotations

import csv
import io
import warnings
from dataclasses import dataclass, field
from typing import Callable

import numpy as np

from .errors import EngineError
from .models import REGULARIZATION
from .packages import require
from .progress import Progress

N_INIT = 3
"""k-means++ starts per k. One reaches the inertia of ten at an eighth of the cost (docs/performance.md); three guard small samples."""
MAX_EM_STEPS = 200


@dataclass(frozen=True)
class ClusterFit:
    """One fitted k-means or Gaussian mixture.

    Attributes:
        centers: (k, n_features) in scaled units.
        inertia: sum of squared distances of the sample to the nearest centre (of a mixture: to the mean of the cluster), scaled units.
        davies_bouldin: Davies-Bouldin index on the sample (Davies and Bouldin 1979, IEEE TPAMI 1); smaller is better.
        mixture: weights (k,) and covariances (k, n_features, n_features) of a Gaussian mixture.
    """

    centers: np.ndarray
    inertia: float
    davies_bouldin: float
    mixture: tuple[np.ndarray, np.ndarray] | None = None


@dataclass(frozen=True)
class Selection:
    """Fits for every k tried, and the k that was chosen."""

    fits: dict[int, ClusterFit]
    elbow_k: int
    davies_bouldin_k: int
    chosen: int
    method: str
    reason: str = field(default="")

    def table(self) -> str:
        """CSV: n_clusters, inertia, davies_bouldin, chosen_by."""
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(("n_clusters", "inertia", "davies_bouldin", "chosen_by"))
        for k, fit in self.fits.items():
            by = [name for name, best in (("elbow", self.elbow_k), ("davies-bouldin", self.davies_bouldin_k)) if best == k]
            rows.writerow((k, f"{fit.inertia:.10g}", f"{fit.davies_bouldin:.10g}", " ".join(by)))
        return text.getvalue()


def fit_kmeans(scaled: np.ndarray, n_clusters: int, seed: int, where: str) -> ClusterFit:
    """Fit k-means (scikit-learn, Lloyd, k-means++) to a scaled sample (n, n_features).

    One thread, because sums in another order would give other last digits: the same seed always gives the same centres.

    Raises:
        EngineError: the sample has fewer distinct pixels than clusters.
    """
    distinct = count_distinct(scaled, n_clusters)
    if distinct < n_clusters:
        raise EngineError(
            f"{n_clusters} clusters were asked for, but the raster has only {distinct} distinct pixel values",
            f"N_CLUSTERS, {where}",
            f"ask for at most {distinct} clusters, or use more bands",
        )
    cluster, metrics = require("sklearn.cluster"), require("sklearn.metrics")
    with require("threadpoolctl").threadpool_limits(1):
        fit = cluster.KMeans(n_clusters, n_init=N_INIT, random_state=seed, algorithm="lloyd").fit(scaled)
        found = len(np.unique(fit.labels_))
        index = metrics.davies_bouldin_score(scaled, fit.labels_) if 1 < found < len(scaled) else float("nan")
    return ClusterFit(fit.cluster_centers_, float(fit.inertia_), float(index))


def fit_mixture(scaled: np.ndarray, n_clusters: int, seed: int, where: str) -> ClusterFit:
    """Fit a Gaussian mixture with full covariances (scikit-learn, EM from k-means) to a scaled sample (n, n_features).

    Raises:
        EngineError: the sample has fewer distinct pixels than clusters, or too few for their covariances.
    """
    start = fit_kmeans(scaled, n_clusters, seed, where)
    mixture, metrics = require("sklearn.mixture"), require("sklearn.metrics")
    with require("threadpoolctl").threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = mixture.GaussianMixture(
            n_clusters, covariance_type="full", means_init=start.centers, reg_covar=REGULARIZATION, max_iter=MAX_EM_STEPS, random_state=seed
        )
        try:
            labels = model.fit_predict(scaled)
        except ValueError as err:
            fix = "ask for fewer clusters, use fewer bands, or METHOD kmeans"
            raise EngineError(f"A mixture of {n_clusters} clusters cannot be fitted to the sample", where, fix) from err
        found = len(np.unique(labels))
        index = metrics.davies_bouldin_score(scaled, labels) if 1 < found < len(scaled) else float("nan")
    inertia = float(((scaled - model.means_[labels]) ** 2).sum())
    return ClusterFit(model.means_, inertia, float(index), (model.weights_, model.covariances_))


def count_distinct(values: np.ndarray, enough: int) -> int:
    """Number of distinct rows, counted no further than needed: a prefix of the sample with `enough` distinct rows settles it."""
    for n in (50 * enough, len(values)):
        distinct = len(np.unique(values[:n], axis=0))
        if distinct >= enough or n >= len(values):
            return distinct
    return 0


def knee(ks: list[int], inertias: list[float]) -> int:
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


def select_n_clusters(
    scaled: np.ndarray,
    limits: tuple[int, int, int],
    method: str,
    where: str,
    progress: Progress,
    fit: Callable[[np.ndarray, int, int, str], ClusterFit] = fit_kmeans,
) -> Selection:
    """Fit every k from k_min to k_max and choose one.

    The inertia curve starts at k = k_min - 1, so that k_min itself can be the knee.

    Args:
        scaled: sample (n, n_features).
        limits: k_min, k_max, seed.
        where: the raster, for messages.
        fit: fit_kmeans or fit_mixture.

    Raises:
        EngineError: the limits are reversed, or the sample has fewer distinct pixels than k_min.
    """
    k_min, k_max, seed = limits
    if k_min > k_max:
        raise EngineError(f"K_MIN {k_min} is larger than K_MAX {k_max}", "K_MIN, K_MAX", "exchange the two")
    distinct = count_distinct(scaled, k_max)
    if distinct < k_min:
        raise EngineError(
            f"The raster has only {distinct} distinct pixel values, fewer than the smallest number of clusters {k_min}",
            f"K_MIN, {where}",
            "use more bands, or another area",
        )
    if distinct < k_max:
        progress.warn(f"The raster has only {distinct} distinct pixel values; up to {distinct} clusters are tried instead of {k_max}.")
        k_max = distinct
    fits = {}
    ks = list(range(k_min, k_max + 1))
    before = fit(scaled, k_min - 1, seed, where).inertia
    for done, k in enumerate(ks):
        progress.report(done / len(ks))
        fits[k] = fit(scaled, k, seed, where)
        progress.info(f"k = {k}: inertia {fits[k].inertia:.6g}, Davies-Bouldin {fits[k].davies_bouldin:.4f}")
    curve = [before, *(fit.inertia for fit in fits.values())]
    elbow = max(knee([k_min - 1, *ks], curve), k_min)
    smallest = min(ks, key=lambda k: (np.nan_to_num(fits[k].davies_bouldin, nan=np.inf), k))
    chosen = elbow if method == "elbow" else smallest
    why = (
        f"the knee of the inertia curve is at k = {elbow}"
        if method == "elbow"
        else f"the Davies-Bouldin index is smallest at k = {smallest} ({fits[smallest].davies_bouldin:.3f})"
    )
    other = f"Davies-Bouldin would choose {smallest}" if method == "elbow" else f"the elbow would choose {elbow}"
    return Selection(fits, elbow, smallest, chosen, method, f"{chosen} clusters chosen: {why}; {other}.")
