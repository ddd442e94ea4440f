"""Which way to find the class of a pixel is fastest? `python -m bench.kernels`: CPU nanoseconds per pixel, medians of alternating rounds.

All kernels get the same DN planes (bands, n) uint16 and give the same codes; those that differ from float64 are counted.
"""

from __future__ import annotations

import os
import time

for _variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

from typing import Callable  # noqa: E402

import numpy as np  # noqa: E402
from sklearn.cluster import KMeans  # noqa: E402
from sklearn.mixture import GaussianMixture  # noqa: E402

from s2landcover_plugin.engine.classification import CHUNK_PX, Assign  # noqa: E402
from s2landcover_plugin.engine.features import Feature, FeatureSpace  # noqa: E402
from s2landcover_plugin.engine.legend import LegendClass  # noqa: E402
from s2landcover_plugin.engine.models import ClusterModel  # noqa: E402

PIXELS = 1 << 21
ROUNDS = 5
Kernel = Callable[[np.ndarray], np.ndarray]


def case(bands: int, k: int, method: str) -> tuple[np.ndarray, FeatureSpace, ClusterModel]:
    """Random DN planes with the smooth histogram of a scene, and a model over them."""
    rng = np.random.default_rng(bands)
    planes = np.clip(rng.normal(2500, 900, (bands, PIXELS)), 1, 9999).astype(np.uint16)
    means = rng.normal(0.25, 0.09, (k, bands))
    shift, spread = planes.mean(1) * 1e-4, planes.std(1) * 1e-4
    features = tuple(Feature(f"b{i}") for i in range(bands))
    space = FeatureSpace(features, np.full(bands, 1e-4), np.zeros(bands), {})
    mixing = rng.normal(0, 0.4, (k, bands, bands)) + 0.5 * np.eye(bands)
    covariances = mixing @ mixing.transpose(0, 2, 1) + 1e-3 * np.eye(bands)
    legend = tuple(LegendClass(code, "", (0, 0, 0)) for code in range(1, k + 1))
    return planes, space, ClusterModel(features, means, shift, spread, "standard", legend, np.full(k, 1 / k), covariances, method)


def in_chunks(one: Kernel, size: int) -> Kernel:
    """A kernel that goes through the pixels in pieces."""
    return lambda planes: np.concatenate([one(planes[:, i : i + size]) for i in range(0, planes.shape[1], size)]).astype(np.uint8)


def kernels(space: FeatureSpace, model: ClusterModel) -> dict[str, Kernel]:
    """Name -> function from planes to codes."""
    scaled, op = model.scaled_means, Assign(space, model)

    def ours(planes: np.ndarray) -> np.ndarray:
        codes = np.empty(planes.shape[1], np.uint8)
        op._assign(planes, codes)
        return codes

    def scale(chunk: np.ndarray) -> np.ndarray:
        return np.asarray((chunk.astype(np.float64) * 1e-4 - model.shift[:, None]) / model.spread[:, None])

    found = {"plugin": ours}
    if model.method == "gmm":
        mixture = GaussianMixture(len(scaled), covariance_type="full")
        mixture.weights_, mixture.means_, mixture.covariances_ = model.weights, scaled, model.covariances
        mixture.precisions_cholesky_ = model.precision_roots
        found["scikit-learn GaussianMixture.predict, blocks of 1 Mpx"] = in_chunks(
            lambda chunk: mixture.predict(np.ascontiguousarray(scale(chunk).T)) + 1, 1 << 20
        )
        return found

    def product(dtype: type) -> Kernel:
        weights = op.nearest.terms.weights.astype(dtype)
        return in_chunks(lambda chunk: (weights[:, :-1] @ chunk.astype(dtype) + weights[:, -1:]).argmax(0) + 1, CHUNK_PX)

    nearest = KMeans(len(scaled), init=scaled, n_init=1, max_iter=1).fit(scaled)
    nearest.cluster_centers_ = scaled
    found["sgemm + argmax"] = product(np.float32)
    found["dgemm + argmax"] = product(np.float64)
    found["differences by broadcasting, float64"] = in_chunks(
        lambda chunk: ((scale(chunk)[None] - scaled[:, :, None]) ** 2).sum(1).argmin(0) + 1, CHUNK_PX
    )
    found["scikit-learn KMeans.predict, blocks of 1 Mpx"] = in_chunks(
        lambda chunk: nearest.predict(np.ascontiguousarray(scale(chunk).T)) + 1, 1 << 20
    )
    return found


def main() -> None:
    """Measure and print a table."""
    for bands, k, method in ((4, 8, "kmeans"), (12, 8, "kmeans"), (4, 20, "kmeans"), (4, 8, "gmm"), (10, 8, "gmm")):
        planes, space, model = case(bands, k, method)
        functions = kernels(space, model)
        exact = model.assign(model.scaled(space.values(planes))) + 1
        seconds: dict[str, list[float]] = {name: [] for name in functions}
        wrong = {}
        for _ in range(ROUNDS):
            for name, function in functions.items():
                start = time.process_time()
                codes = function(planes)
                seconds[name].append(time.process_time() - start)
                wrong[name] = int(np.count_nonzero(codes != exact))
        print(f"\n{method}, {bands} bands, {k} clusters, {PIXELS / 1e6:.1f} Mpx, numpy {np.__version__}")
        for name, values in seconds.items():
            print(f"  {1e9 * float(np.median(values)) / PIXELS:7.1f} ns/px  {wrong[name]:4d} differ  {name}")


if __name__ == "__main__":
    main()
