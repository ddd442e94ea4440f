"""Scores by fast matrix products: the ways to compute them, and mixtures whose labels are those of float64."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from s2landcover_plugin.engine import products
from s2landcover_plugin.engine.classification import Assign, Nearest
from s2landcover_plugin.engine.features import Feature, FeatureSpace
from s2landcover_plugin.engine.legend import LegendClass
from s2landcover_plugin.engine.models import ClusterModel


@pytest.mark.parametrize("way", [products.by_numpy, products.by_scipy, products.by_einsum])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_way_gives_the_product(way, dtype):
    rng = np.random.default_rng(0)
    left, right = rng.random((5, 7)).astype(dtype), rng.random((7, 900)).astype(dtype)
    expected = left.astype(np.longdouble) @ right.astype(np.longdouble)
    whole, part = np.empty((5, 900), dtype), np.zeros((5, 1000), dtype)
    way(left, right, whole)
    way(left, np.pad(right, ((0, 0), (0, 100)))[:, :900], part[:, :900])
    np.testing.assert_allclose(whole, expected.astype(float), rtol=1e-5 if dtype == np.float32 else 1e-13)
    np.testing.assert_allclose(part[:, :900], whole, rtol=1e-5)
    assert not part[:, 900:].any()


def mixture(means, covariances, shift, spread) -> tuple[FeatureSpace, ClusterModel]:
    k, n = means.shape
    features = tuple(Feature(f"b{i}") for i in range(n))
    legend = tuple(LegendClass(code, "", (0, 0, 0)) for code in range(1, k + 1))
    space = FeatureSpace(features, np.full(n, 1e-4), np.full(n, -0.1), {})
    weights = np.full(k, 1 / k)
    return space, ClusterModel(features, means, shift, spread, "standard", legend, weights, covariances, "gmm")


@pytest.mark.parametrize("n", [1, 4, 10])
@pytest.mark.parametrize("narrow", [1.0, 1e-3])
def test_mixtures_are_those_of_float64(n, narrow):
    """Ten bands, narrow clusters, and pairs of clusters that hardly differ: many pixels that float32 alone would get wrong."""
    rng = np.random.default_rng(n)
    stored = rng.integers(1, 12000, (n, 60_000)).astype(np.uint16)
    means = np.repeat(rng.uniform(0, 0.9, (4, n)), 2, axis=0)
    means[1::2] += 1e-7
    mixing = rng.normal(0, 0.5, (8, n, n)) + 0.7 * np.eye(n)
    covariances = np.repeat((mixing @ mixing.transpose(0, 2, 1) * narrow + 1e-4 * np.eye(n))[:4], 2, axis=0)
    space, model = mixture(means, covariances, np.full(n, 0.4), rng.uniform(0.02, 0.3, n))
    codes = np.empty(stored.shape[1], np.uint8)
    pickle.loads(pickle.dumps(Assign(space, model)))._assign(stored, codes)
    z = ((stored.T * 1e-4 - 0.1) - model.shift) / model.spread
    scaled = (model.means - model.shift) / model.spread
    densities = [
        np.log(weight) + multivariate_normal(mean, cov).logpdf(z) for weight, mean, cov in zip(model.weights, scaled, model.covariances)
    ]
    ordered = np.sort(densities, axis=0)
    # SciPy's float64 has rounding errors of its own
    clear = ordered[-1] - ordered[-2] > 1e-9 * np.abs(ordered).max(axis=0)
    assert clear.mean() > 0.5 and len(np.unique(codes)) > 2
    np.testing.assert_array_equal(codes[clear], np.argmax(densities, axis=0)[clear] + 1)


def test_doubtful_pixels_are_handed_on():
    """Pixels at equal distance from two centres cannot be decided in float32."""
    _, model = mixture(np.array([[0.2], [0.4]]), np.full((2, 1, 1), 0.1), np.zeros(1), np.ones(1))
    model = ClusterModel(**{**model.__dict__, "method": "kmeans"})
    codes = np.empty(3, np.uint8)
    undecided = Nearest(model)(np.empty((0, 3)), np.array([[0.1, 0.3, 0.39]], np.float32), codes)
    assert undecided.tolist() == [1] and codes[[0, 2]].tolist() == [1, 2]
