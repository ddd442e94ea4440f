"""Fitting clusters to a sample: k-means and Gaussian mixtures, by scikit-learn."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import EngineError
from .models import REGULARIZATION
from .packages import require

N_INIT = 3
"""k-means++ starts per k. One reaches the inertia of ten at an eighth of the cost (docs/performance.md); three guard small samples."""
MAX_EM_STEPS = 200


@dataclass(frozen=True)
class ClusterFit:
    """One fitted k-means or Gaussian mixture.

    Attributes:
        centers: (k, n_features) in scaled units.
        labels: (n,) cluster of each pixel of the sample, 0-based.
        inertia: sum of squared distances of the sample to the nearest centre (of a mixture: to the mean of the cluster), scaled units.
        mixture: weights (k,) and covariances (k, n_features, n_features) of a Gaussian mixture.
        bic: Bayesian information criterion of a mixture on the sample (Schwarz 1978, Annals of Statistics 6); smaller is better.
        estimator: scikit-learn's own, which predicts.
    """

    centers: np.ndarray
    labels: np.ndarray
    inertia: float
    estimator: Any
    mixture: tuple[np.ndarray, np.ndarray] | None = None
    bic: float = float("nan")


def fit_kmeans(
    scaled: np.ndarray, n_clusters: int, seed: int, where: str, n_init: int = N_INIT, start: np.ndarray | None = None
) -> ClusterFit:
    """Fit k-means (Lloyd, k-means++) to a scaled sample (n, n_features).

    One thread, because sums in another order would give other last digits: the same seed always gives the same centres.

    Args:
        start: (n_clusters, n_features) centres to start from, instead of random ones.

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
    cluster = require("sklearn.cluster")
    with require("threadpoolctl").threadpool_limits(1):
        chosen = {"n_init": n_init} if start is None else {"n_init": 1, "init": start}
        fit = cluster.KMeans(n_clusters, random_state=seed, algorithm="lloyd", **chosen).fit(scaled)
    return ClusterFit(fit.cluster_centers_, fit.labels_, float(fit.inertia_), fit)


def fit_mixture(
    scaled: np.ndarray, n_clusters: int, seed: int, where: str, n_init: int = N_INIT, start: np.ndarray | None = None
) -> ClusterFit:
    """Fit a Gaussian mixture with full covariances (EM, from the centres of k-means) to a scaled sample (n, n_features).

    Args:
        start: as fit_kmeans.

    Raises:
        EngineError: the sample has fewer distinct pixels than clusters, or too few for their covariances.
    """
    from_kmeans = fit_kmeans(scaled, n_clusters, seed, where, n_init, start)
    mixture = require("sklearn.mixture")
    with require("threadpoolctl").threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            fit = mixture.GaussianMixture(
                n_clusters,
                covariance_type="full",
                means_init=from_kmeans.centers,
                reg_covar=REGULARIZATION,
                max_iter=MAX_EM_STEPS,
                random_state=seed,
                **(_parameters(scaled, from_kmeans) if start is not None else {}),
            )
            labels = fit.fit_predict(scaled)
        except (ValueError, np.linalg.LinAlgError) as err:
            fix = "ask for fewer clusters, use fewer bands, or METHOD kmeans"
            raise EngineError(f"A mixture of {n_clusters} clusters cannot be fitted to the sample", where, fix) from err
        bic = float(fit.bic(scaled))
    inertia = float(((scaled - fit.means_[labels]) ** 2).sum())
    return ClusterFit(fit.means_, labels, inertia, fit, (fit.weights_, fit.covariances_), bic)


def _parameters(scaled: np.ndarray, fit: ClusterFit) -> dict[str, np.ndarray]:
    """Weights and precisions of the clusters of a fit, to start EM from; else scikit-learn takes those of a k-means of its own."""
    k, width = fit.centers.shape
    weights = (np.bincount(fit.labels, minlength=k) + 1) / (len(scaled) + k)
    precisions = []
    for number, center in enumerate(fit.centers):
        deviation = scaled[fit.labels == number] - center
        covariance = deviation.T @ deviation / max(len(deviation), 1) + REGULARIZATION * np.eye(width)
        precision = np.linalg.inv(covariance)
        precisions.append((precision + precision.T) / 2)
    return {"weights_init": weights, "precisions_init": np.stack(precisions)}


FITS = {"kmeans": fit_kmeans, "gmm": fit_mixture}


def count_distinct(values: np.ndarray, enough: int) -> int:
    """Number of distinct rows, counted no further than needed: a prefix of the sample with `enough` distinct rows settles it."""
    for n in (50 * enough, len(values)):
        distinct = len(np.unique(values[:n], axis=0))
        if distinct >= enough or n >= len(values):
            return distinct
    return 0
