"""How far clusters lie apart."""

from __future__ import annotations

import numpy as np


def jeffries_matusita(means: np.ndarray, covariances: np.ndarray) -> np.ndarray:
    """Jeffries-Matusita distance of each pair of normal distributions (Richards 2013, Remote Sensing Digital Image Analysis).

    0 where two are the same, 2 where they do not overlap; below about 1 they can hardly be told apart.

    Args:
        means: (k, n_features).
        covariances: (k, n_features, n_features), positive definite.

    Returns:
        (k, k), symmetric, 0 on the diagonal.
    """
    k = len(means)
    logs = np.linalg.slogdet(covariances)[1]
    result = np.zeros((k, k))
    for i in range(k - 1):
        middle = (covariances[i] + covariances[i + 1 :]) / 2
        gap = means[i + 1 :] - means[i]
        squares = np.einsum("nf,nf->n", gap, np.linalg.solve(middle, gap[:, :, None])[:, :, 0])
        bhattacharyya = squares / 8 + (np.linalg.slogdet(middle)[1] - (logs[i] + logs[i + 1 :]) / 2) / 2
        result[i, i + 1 :] = 2 * (1 - np.exp(-np.maximum(bhattacharyya, 0)))
    return result + result.T
