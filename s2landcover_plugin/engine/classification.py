"""Prediction: the class of every pixel from a fitted model, streamed."""

from __future__ import annotations

import math

import numpy as np

from .blocks import Block, Op
from .features import FeatureSpace
from .geotiff import OutputBand
from .legend import NODATA_CODE
from .models import ClusterModel

CLASS_BAND = OutputBand("class", "uint8", NODATA_CODE)
CONFIDENCE_BAND = OutputBand("confidence", "float32", -1.0)
DISTANCE_BAND = OutputBand("distance", "float32", -1.0)
CHUNK_PX = 1 << 14
"""Pixels per step of the kernel: scores of 8 clusters in float32 stay in 1 MiB of second-level cache (docs/performance.md)."""


class NearestCenter(Op):
    """Code of the nearest centre (1 to k) for every valid pixel. Can be sent to another process.

    Scores are 2 c.z - |c|^2 with scaling and reflectance folded into one (k, features + 1) matrix; float32, and where two scores are
    closer than float32 can tell, again in float64: labels equal those of float64 throughout.
    """

    def __init__(self, space: FeatureSpace, model: ClusterModel) -> None:
        self.space = space
        self.model = model
        self.outputs = (CLASS_BAND,)
        self.renamed = [each.code for each in model.legend] != list(range(1, len(model.legend) + 1))
        scaled = model.scaled_means
        weights = 2 * scaled / model.spread
        constant = -(scaled**2).sum(1) - weights @ model.shift
        n = space.n_bands
        constant = constant + weights[:, :n] @ space.offset[:n]
        weights[:, :n] *= space.scale[:n]
        self.weights = np.concatenate([weights, constant[:, None]], axis=1)

    def __call__(self, block: Block) -> Block:
        data, valid = np.asarray(block.data), block.all_valid
        if not valid.all():
            # nodata such as -9999 or NaN would blow up the error bound of its neighbours
            data = np.where(valid, data, data.dtype.type(0))
        stored = data.reshape(len(data), -1)
        codes: np.ndarray = np.empty(stored.shape[1], np.uint8)
        defined = self._assign(stored, codes)
        if self.renamed:
            codes = self.model.codes[codes - 1]
        if defined is not None:
            valid = valid & defined.reshape(valid.shape)
        return Block((codes.reshape(data.shape[1:]),), valid, block.window)

    def _assign(self, stored: np.ndarray, codes: np.ndarray) -> np.ndarray | None:
        """Fill codes; the result tells which pixels have all their indices defined (None: all)."""
        k, width = self.weights.shape
        bands = self.space.n_bands
        weights = self.weights.astype(np.float32)
        magnitude = np.abs(weights)
        features = np.ones((width, CHUNK_PX), np.float32)
        scores = np.empty((k, CHUNK_PX), np.float32)
        best = np.empty(CHUNK_PX, np.float32)
        close = np.empty((k, CHUNK_PX), bool)
        higher = np.empty(CHUNK_PX, bool)
        defined = np.ones(stored.shape[1], bool) if self.space.formulas else None
        for start in range(0, stored.shape[1], CHUNK_PX):
            chunk = stored[:, start : start + CHUNK_PX]
            n = chunk.shape[1]
            x, s, b, c, h, code = features[:, :n], scores[:, :n], best[:n], close[:, :n], higher[:n], codes[start : start + n]
            x[:bands] = chunk[:bands]
            if defined is not None:
                values = self.space.indices_of(chunk, "float32")
                finite = np.isfinite(values)
                defined[start : start + n] = finite.all(axis=0)
                x[bands:-1] = np.where(finite, values, np.float32(0))
            np.matmul(weights, x, out=s)
            _running_argmax(s, b, h, code)
            # bound of the rounding error of a float32 dot product (Higham 2002, eq. 3.5), for two scores
            reach = np.abs(x).max(axis=1)
            b -= np.float32(4 * width * np.finfo(np.float32).eps * float((magnitude @ reach).max()))
            np.greater_equal(s, b, out=c)
            near = np.flatnonzero(np.add.reduce(c.view(np.uint8), axis=0, dtype=np.uint8) != 1)
            if len(near):
                code[near] = self._assign_exactly(chunk[:, near])
        return defined

    def _assign_exactly(self, stored: np.ndarray) -> np.ndarray:
        z = self.model.scaled(self.space.values(stored))
        scaled = self.model.scaled_means
        scores: np.ndarray = 2 * scaled @ z - (scaled**2).sum(1)[:, None]
        return (scores.argmax(axis=0) + 1).astype(np.uint8)


def _running_argmax(scores: np.ndarray, best: np.ndarray, higher: np.ndarray, code: np.ndarray) -> None:
    """code = 1 + argmax over the rows of scores, best = their maximum; four SIMD passes per row, no masked copies."""
    best[:] = scores[0]
    code[:] = 1
    number = higher.view(np.uint8)
    for j in range(1, len(scores)):
        np.greater(scores[j], best, out=higher)
        np.maximum(best, scores[j], out=best)
        np.multiply(number, np.uint8(j + 1), out=number)
        np.maximum(code, number, out=code)


class Judged(Op):
    """Code, confidence, and distance from the training data of every valid pixel, in float64. Can be sent to another process.

    Pixels farther than a limit get the code after the last one: unknown.
    """

    outputs = (CLASS_BAND, CONFIDENCE_BAND, DISTANCE_BAND)

    def __init__(self, space: FeatureSpace, model: ClusterModel, limit: float = math.inf) -> None:
        """
        Args:
            limit: largest distance of a pixel that still belongs to a cluster.
        """
        self.space = space
        self.model = model
        self.limit = limit

    def __call__(self, block: Block) -> Block:
        data, valid = np.asarray(block.data), block.all_valid
        where = np.flatnonzero(valid)
        codes, confidence, distance = (np.full(valid.size, band.nodata, band.dtype) for band in self.outputs)
        stored = data.reshape(len(data), -1)
        for start in range(0, len(where), CHUNK_PX):
            here = where[start : start + CHUNK_PX]
            values = self.space.values(stored[:, here])
            defined = np.isfinite(values).all(axis=0)
            here = here[defined]
            judged = self.model.judge(self.model.scaled(values[:, defined]))
            codes[here] = self.model.codes[judged.cluster]
            if self.limit < math.inf:
                codes[here[judged.distance > self.limit]] = self.model.unknown_code
            confidence[here], distance[here] = judged.confidence, judged.distance
        planes = tuple(plane.reshape(valid.shape) for plane in (codes, confidence, distance))
        return Block(planes, planes[0] != NODATA_CODE, block.window)
