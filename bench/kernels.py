"""Which way to find the nearest centre is fastest? `python -m bench.kernels`: CPU nanoseconds per pixel, medians of alternating rounds.

All kernels get the same DN planes (bands, n) uint16 and give the same codes; those that differ from float64 are counted.
"""

from __future__ import annotations

import os
import time

for _variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import numpy as np  # noqa: E402
from sklearn.cluster import KMeans  # noqa: E402

from s2landcover_plugin.engine.classification import CHUNK_PX, NearestCenter  # noqa: E402
from s2landcover_plugin.engine.features import Feature, FeatureSpace  # noqa: E402
from s2landcover_plugin.engine.models import ClusterModel  # noqa: E402

PIXELS = 1 << 21
ROUNDS = 5


def case(bands: int, k: int):
    """Random DN planes with the smooth histogram of a scene, and a model over them."""
    rng = np.random.default_rng(bands)
    planes = np.clip(rng.normal(2500, 900, (bands, PIXELS)), 1, 9999).astype(np.uint16)
    centers = rng.normal(0.25, 0.09, (k, bands))
    shift, spread = planes.mean(1) * 1e-4, planes.std(1) * 1e-4
    features = tuple(Feature(f"b{i}") for i in range(bands))
    space = FeatureSpace(features, np.full(bands, 1e-4), np.zeros(bands), {})
    return planes, space, ClusterModel(features, centers, shift, spread, "standard", 0, 1, 0.0)


def kernels(space: FeatureSpace, model: ClusterModel):
    """Name -> function from planes to codes."""
    scaled = (model.centers - model.shift) / model.spread
    sklearn_model = KMeans(len(scaled), init=scaled, n_init=1, max_iter=1).fit(scaled)
    sklearn_model.cluster_centers_ = scaled
    op = NearestCenter(space, model)

    def ours(planes):
        codes = np.empty(planes.shape[1], np.uint8)
        op._assign(planes, codes)
        return codes

    def scale(chunk):
        return (chunk.astype(np.float64) * 1e-4 - model.shift[:, None]) / model.spread[:, None]

    def in_chunks(one, size):
        return lambda planes: np.concatenate([one(planes[:, i : i + size]) for i in range(0, planes.shape[1], size)])

    weights = op.weights

    def gemm_argmax(dtype):
        w = weights.astype(dtype)
        return in_chunks(lambda chunk: ((w[:, :-1] @ chunk.astype(dtype) + w[:, -1:]).argmax(0) + 1).astype(np.uint8), CHUNK_PX)

    return {
        "plugin: sgemm, running maximum, exact near ties": ours,
        "sgemm + argmax": gemm_argmax(np.float32),
        "dgemm + argmax": gemm_argmax(np.float64),
        "differences by broadcasting, float64": in_chunks(
            lambda chunk: (((scale(chunk)[None] - scaled[:, :, None]) ** 2).sum(1).argmin(0) + 1).astype(np.uint8), CHUNK_PX
        ),
        "scikit-learn KMeans.predict, blocks of 1 Mpx": in_chunks(
            lambda chunk: (sklearn_model.predict(scale(chunk).T) + 1).astype(np.uint8), 1 << 20
        ),
    }


def main() -> None:
    """Measure and print a table."""
    for bands, k in ((4, 8), (12, 8), (4, 20)):
        planes, space, model = case(bands, k)
        functions = kernels(space, model)
        z = (planes.astype(np.float64) * 1e-4 - model.shift[:, None]) / model.spread[:, None]
        scaled = (model.centers - model.shift) / model.spread
        exact = (2 * scaled @ z - (scaled**2).sum(1)[:, None]).argmax(0) + 1
        seconds = {name: [] for name in functions}
        wrong = {}
        for _ in range(ROUNDS):
            for name, function in functions.items():
                start = time.process_time()
                codes = function(planes)
                seconds[name].append(time.process_time() - start)
                wrong[name] = int(np.count_nonzero(codes != exact))
        print(f"\n{bands} bands, {k} clusters, {PIXELS / 1e6:.1f} Mpx, numpy {np.__version__}")
        for name, values in seconds.items():
            print(f"  {1e9 * float(np.median(values)) / PIXELS:7.1f} ns/px  {wrong[name]:4d} differ  {name}")


if __name__ == "__main__":
    main()
