"""The fitted model: clusters in canonical order, with their classes and how far the training pixels lay from them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Mapping, Sequence

import numpy as np

from .features import Feature
from .legend import LegendClass

MAX_CLASSES = 254
"""Class rasters are Byte; 0 is nodata, and one code is left for pixels that are none of the clusters."""
REGULARIZATION = 1e-6
"""Added to the variances of scaled features, as scikit-learn's mixtures do by default."""
QUANTILES = (0.5, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 1.0)
"""Quantiles of the distance of the training pixels that a model keeps."""


@dataclass(frozen=True)
class ClusterModel:
    """A fitted k-means or Gaussian mixture in canonical order.

    Attributes:
        means: (k, n_features) in feature units (reflectance 0 to 1, index values).
        shift, spread: (n_features,) a feature is scaled as (value - shift) / spread before distances are taken.
        legend: code, name and colour of each cluster, in the order of the codes.
        weights, covariances: (k,), sum 1, and (k, n_features, n_features) of the scaled features. Of a mixture they are its parameters; of
            k-means the share and the scatter of the training pixels of each cluster, which serve for the distance only.
        method: `kmeans` or `gmm`.
        reach: (len(QUANTILES),) quantiles of the distance of the training pixels.
        training: where the model came from, as it stands in the file.
    """

    features: tuple[Feature, ...]
    means: np.ndarray
    shift: np.ndarray
    spread: np.ndarray
    scaling: str
    legend: tuple[LegendClass, ...]
    weights: np.ndarray
    covariances: np.ndarray
    method: str = "kmeans"
    reach: np.ndarray = field(default_factory=lambda: np.zeros(len(QUANTILES)))
    training: Mapping[str, Any] = field(default_factory=dict)

    @property
    def codes(self) -> np.ndarray:
        """(k,) uint8 code of each cluster."""
        return np.array([each.code for each in self.legend], np.uint8)

    @property
    def unknown_code(self) -> int:
        """The code for pixels that are none of the clusters."""
        return self.legend[-1].code + 1

    @property
    def scaled_means(self) -> np.ndarray:
        """(k, n_features) in scaled units."""
        return np.asarray((self.means - self.shift) / self.spread)

    def scaled(self, values: np.ndarray) -> np.ndarray:
        """Features (n_features, n) in feature units -> scaled units."""
        return np.asarray((values - self.shift[:, None]) / self.spread[:, None])

    @cached_property
    def precision_roots(self) -> np.ndarray:
        """(k, f, f) upper triangular P with P P^T = inverse of each covariance."""
        return np.stack([np.linalg.solve(lower, np.eye(len(lower))).T for lower in np.linalg.cholesky(self.covariances)])

    def judge(self, scaled: np.ndarray) -> Judgement:
        """The cluster of each of n pixels (n_features, n), how sure that is, and how far they are from the training data; float64."""
        log_density = self._log_density(scaled)
        top = log_density.max(axis=0)
        total = top + np.log(np.exp(log_density - top).sum(axis=0))
        distance = np.sqrt(np.maximum(2 * (self._peak() - total), 0))
        if self.method == "gmm":
            return Judgement(log_density.argmax(axis=0), np.exp(top - total), distance)
        cluster, confidence = _nearest(self.scaled_means, scaled)
        return Judgement(cluster, confidence, distance)

    def assign(self, scaled: np.ndarray) -> np.ndarray:
        """The 0-based cluster of each of n pixels (n_features, n) alone, as `judge` tells it."""
        if self.method == "gmm":
            return np.asarray(self._log_density(scaled).argmax(axis=0))
        means = self.scaled_means
        return np.asarray((2 * means @ scaled - (means**2).sum(1)[:, None]).argmax(axis=0))

    def _log_density(self, scaled: np.ndarray) -> np.ndarray:
        """(k, n) logarithm of weight x normal density (Bishop 2006, eq. 2.43) of pixels (f, n)."""
        result = np.empty((len(self.means), scaled.shape[1]))
        for row, mean, root, weight in zip(result, self.scaled_means, self.precision_roots, self.weights):
            deviation = root.T @ (scaled - mean[:, None])
            np.einsum("ij,ij->j", deviation, deviation, out=row)
            row += len(mean) * math.log(2 * math.pi)
            row *= -0.5
            row += math.log(weight) + np.log(np.diag(root)).sum()
        return result

    def _peak(self) -> float:
        """Logarithm of the largest density at a mean."""
        return float(np.logaddexp.reduce(self._log_density(np.ascontiguousarray(self.scaled_means.T))).max())

    def limit(self, quantile: float) -> float:
        """The distance within which this share of the training pixels lies; a millionth more, because rasters are float32."""
        return float(np.interp(quantile, QUANTILES, self.reach)) * (1 + 1e-6)


@dataclass(frozen=True)
class Judgement:
    """What a model says about pixels.

    Attributes:
        cluster: (n,) 0-based.
        confidence: (n,) 0 to 1. Gaussian mixture: posterior probability of the cluster. k-means: (d2 - d1) / d2, where d1 and d2 are the
            distances to the nearest and to the second nearest centre.
        distance: (n,) from the training data: sqrt(2 (log p(peak) - log p(x))), where p is the density of the mixture of all clusters and
            the peak its largest value at a mean. Of a single cluster it is the Mahalanobis distance.
    """

    cluster: np.ndarray
    confidence: np.ndarray
    distance: np.ndarray


def _nearest(means: np.ndarray, scaled: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nearest centre and confidence of pixels (f, n)."""
    # the same order of operations as the kernel that only assigns, so that both agree on every pixel
    scores = 2 * means @ scaled - (means**2).sum(1)[:, None]
    cluster = scores.argmax(axis=0)
    if len(means) == 1:
        return cluster, np.ones(len(cluster))
    squares = np.maximum((scaled**2).sum(axis=0) - scores, 0)
    nearest, second = np.sqrt(np.partition(squares, 1, axis=0)[:2])
    return cluster, np.where(second > 0, 1 - nearest / np.where(second > 0, second, 1), 0.0)


def scatter(scaled: np.ndarray, means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shares (k,) and covariances (k, f, f) of the pixels (n, f) nearest to each mean, around it.

    Clusters of few pixels lean on the covariance within all clusters (weight of 10 x f pixels), so that each is positive definite; each
    share counts one pixel more than there is, so that none is 0.
    """
    nearest = (2 * scaled @ means.T - (means**2).sum(1)).argmax(axis=1)
    counts = np.bincount(nearest, minlength=len(means)) + 1
    width = scaled.shape[1]
    deviation = scaled - means[nearest]
    within = deviation.T @ deviation / len(scaled)
    covariances = []
    for number in range(len(means)):
        own = deviation[nearest == number]
        covariances.append((own.T @ own + 10 * width * within) / (len(own) + 10 * width) + REGULARIZATION * np.eye(width))
    return counts / counts.sum(), np.stack(covariances)


def training_reach(model: ClusterModel, scaled: np.ndarray) -> np.ndarray:
    """(len(QUANTILES),) quantiles of the distance of training pixels (n, f)."""
    return np.asarray(np.quantile(model.judge(np.ascontiguousarray(scaled.T)).distance, QUANTILES))


def canonical_order(features: Sequence[Feature], centers: np.ndarray) -> np.ndarray:
    """Order of centres from dark to bright: mean over the bands, then band by band; the same whatever order the fit gave."""
    bands = [i for i, feature in enumerate(features) if not feature.formula] or list(range(len(features)))
    keys = np.round(centers, 9)
    brightness = keys[:, bands].mean(1)
    return np.lexsort((*keys.T[::-1], np.round(brightness, 9)))
