"""Iteratively reweighted multivariate alteration detection (IR-MAD): change between two dates that gains and offsets cannot fake.

Nielsen 2007, IEEE Transactions on Image Processing 16: canonical variates of both dates are subtracted; pixels that look unchanged count
more in the next round. Weights that fall with the distance make variances too small, so that unchanged pixels would look changed more and
more; they are corrected by the share that is lost where nothing changed, as for any estimate from trimmed data.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from .errors import EngineError
from .packages import require
from .products import multiply

MAX_ROUNDS = 100
STOP = 1e-4
"""Largest change of a canonical correlation between two rounds at which they end."""
LEAST_PIXELS = 50
"""Pixels for each band that a fit needs."""
LEAST_VARIANCE = 1e-9
"""Of a variate; perfect correlations would divide by zero."""


@dataclass(frozen=True)
class IrMad:
    """Fitted canonical variates of two dates.

    Attributes:
        before_mean, after_mean: (n,).
        before, after: (n, n) columns are the weights of the variates, in the order of rising correlation.
        correlations: (n,) canonical correlations, rising.
        consistency: share of the variance of unchanged pixels that their weights leave; 1 without weights.
        rounds: how many it took.
        converged: whether the correlations had come to rest.
        unchanged: share of the pixels that look unchanged, by their weights (1/2 on average where nothing changed).
    """

    before_mean: np.ndarray
    after_mean: np.ndarray
    before: np.ndarray
    after: np.ndarray
    correlations: np.ndarray
    consistency: float
    rounds: int
    converged: bool
    unchanged: float = 1.0

    def chi_square(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """Sum of the squared standardized MAD variates of n_px pixels, (n_px,).

        Where nothing changed it follows a chi-square distribution with as many degrees of freedom as there are bands.

        Args:
            before, after: (n, n_px).
        """
        weights, constant = self._standardized
        variates, others = (np.empty((len(constant), before.shape[1]), before.dtype) for _ in range(2))
        for own, values, product in zip(np.split(weights.astype(before.dtype), 2, axis=1), (before, after), (variates, others)):
            multiply(own, values, product)
        others -= constant[:, None].astype(before.dtype)
        variates += others
        variates *= variates
        return np.asarray(variates.sum(axis=0))

    @cached_property
    def _standardized(self) -> tuple[np.ndarray, np.ndarray]:
        """(n, 2 n) and (n,): the standardized variates of pixels of both dates are their product less the constant."""
        variance = np.maximum(2 * (1 - self.correlations) / self.consistency, LEAST_VARIANCE)
        weights = np.concatenate([self.before.T, -self.after.T], axis=1) / np.sqrt(variance)[:, None]
        return weights, weights @ np.concatenate([self.before_mean, self.after_mean])

    def limit(self, probability: float) -> float:
        """The chi-square beyond which the probability of no change is smaller than this."""
        return float(require("scipy.special").chdtri(len(self.correlations), probability))

    def no_change(self, chi_square: np.ndarray) -> np.ndarray:
        """Probability of a chi-square at least as large where nothing changed, 0 to 1."""
        return np.asarray(require("scipy.special").chdtrc(len(self.correlations), chi_square))


def fit_irmad(before: np.ndarray, after: np.ndarray, where: str, weights: np.ndarray | None = None) -> IrMad:
    """Fit IR-MAD to a sample.

    Args:
        before, after: (n_px, n) the same pixels and bands of both dates, any scale.
        where: the rasters, for messages.
        weights: (n_px,) of the first round; None: all the same.

    Raises:
        EngineError: there are too few pixels, or a band is constant or a combination of others.
    """
    n_px, n = before.shape
    if n_px < LEAST_PIXELS * n:
        raise EngineError(f"There are only {n_px} pixels to compare {n} bands with", where, "use a larger area, or fewer bands")
    weights = np.ones(n_px) if weights is None else weights
    last = np.full(n, np.inf)
    kept = 1.0
    for number in range(1, MAX_ROUNDS + 1):
        share = min(1.0, (1 if number == 1 else 2) * float(weights.mean()))
        found = replace(_variates(before, after, weights, where), consistency=kept, rounds=number, unchanged=share)
        if np.abs(found.correlations - last).max() < STOP:
            return found
        last = found.correlations
        weights = found.no_change(found.chi_square(before.T, after.T))
        kept = kept_variance(n)
        # all pixels changed: nothing is left to compare with
        if weights.sum() < LEAST_PIXELS * n:
            return found
    return replace(found, converged=False)


def kept_variance(n: int) -> float:
    """Variance of n independent standard normal variates whose sum of squares Z weighs P(chi-square > Z).

    E[w Z] / (n E[w]) with E[w] = 1/2; 2 E[w Z] is the mean of the smaller of two chi-squares, the integral of P(chi-square > z)^2.
    """
    z = np.linspace(0, n + 60 * np.sqrt(n) + 60, 200_001)
    tail = require("scipy.special").chdtrc(n, z) ** 2
    return float(((tail[1:] + tail[:-1]) / 2).sum() * (z[1] - z[0]) / n)


def _variates(before: np.ndarray, after: np.ndarray, weights: np.ndarray, where: str) -> IrMad:
    """Canonical variates of weighted pixels (Hotelling 1936, Biometrika 28), by Cholesky factors and a singular value decomposition."""
    total = weights.sum()
    means = [(weights @ values) / total for values in (before, after)]
    first, second = before - means[0], after - means[1]
    weighted_first, weighted_second = first * weights[:, None], second * weights[:, None]
    own = [_whitening(weighted.T @ centred / total, where) for weighted, centred in ((weighted_first, first), (weighted_second, second))]
    common = own[0].T @ (weighted_first.T @ second / total) @ own[1]
    left, correlations, right = np.linalg.svd(common)
    order = np.argsort(correlations)
    correlations = np.clip(correlations[order], 0.0, 1.0)
    return IrMad(means[0], means[1], own[0] @ left[:, order], own[1] @ right.T[:, order], correlations, 1.0, 1, True)


def _whitening(covariance: np.ndarray, where: str) -> np.ndarray:
    """W (n, n) with W^T covariance W = identity.

    Raises:
        EngineError: a band is constant or a combination of others.
    """
    spread = np.sqrt(np.diag(covariance))
    # standardized first: whether a matrix is singular must not depend on units
    scale = np.where(spread > 0, spread, 1.0)
    correlation = covariance / np.outer(scale, scale)
    if not (spread > 0).all() or np.linalg.eigvalsh(correlation).min() < 1e-10:
        raise EngineError("A band is constant, or a combination of other bands", where, "leave that band out")
    lower = np.linalg.cholesky(correlation)
    return np.asarray(np.linalg.inv(lower).T / scale[:, None])
