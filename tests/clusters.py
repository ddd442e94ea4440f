"""A raster with planted covers, and the prediction of scikit-learn with the centres of a model file."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.cluster import KMeans

from .conftest import write_raster

NAMES = ["B02", "B03", "B04", "B08"]


def predict_like_sklearn(model, pixels, index=None):
    """Codes that scikit-learn's KMeans gives with the centres of a model file; pixels (n, bands) DN."""
    shift, spread = (np.array(model["scaling"][key]) for key in ("shift", "spread"))
    centers = (np.array([c["center"] for c in model["classes"]]) - shift) / spread
    values = pixels * 0.0001
    if index is not None:
        values = np.concatenate([values, index[:, None]], axis=1)
    fit = KMeans(len(centers), init=centers, n_init=1, max_iter=1).fit(centers)
    fit.cluster_centers_ = centers
    return fit.predict((values - shift) / spread) + 1


@pytest.fixture
def stack(tmp_path):
    """Four bands with four planted covers and some nodata, 90 x 70, and the planted map."""
    rng = np.random.default_rng(5)
    planted = rng.integers(0, 4, (9, 7)).repeat(10, 0).repeat(10, 1)
    spectra = np.array([[300, 350, 250, 150], [250, 500, 300, 3500], [900, 1200, 1700, 2500], [1800, 1900, 2000, 2200]])
    data = (spectra[planted].transpose(2, 0, 1) + rng.normal(0, 40, (4, 90, 70))).round().astype(np.uint16)
    data[:, 80:, 60:] = 0
    return write_raster(tmp_path / "stack.tif", data, names=NAMES, scale=(0.0001, 0)), planted
