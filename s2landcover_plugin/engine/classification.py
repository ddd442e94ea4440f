"""Prediction: the class of every pixel from a fitted model, streamed."""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np

from .blocks import Block, Op
from .features import FeatureSpace
from .geotiff import OutputBand
from .legend import NODATA_CODE
from .models import ClusterModel
from .products import multiply

CLASS_BAND = OutputBand("class", "uint8", NODATA_CODE)
CONFIDENCE_BAND = OutputBand("confidence", "float32", -1.0)
DISTANCE_BAND = OutputBand("distance", "float32", -1.0)
CHUNK_PX = 1 << 14
"""Pixels per step of the kernel: larger ones leave the second-level cache, smaller ones cost calls (docs/performance.md)."""
TERM_ROUNDINGS = 12
"""Roundings that a term may have gone through before the product: those of an index, of scaling, of a square."""

ALIKE = 32
"""Error bounds of clusters that differ by less than this factor are taken for the largest."""


class _Linear:
    """Scores of k-means, 2 c.z - |c|^2, over the stored numbers: scaling and reflectance are folded into the weights.

    Attributes:
        weights: (k, width) float64.
        width: features and a constant.
    """

    def __init__(self, model: ClusterModel, scale: np.ndarray, offset: np.ndarray) -> None:
        self.n_bands = n = len(scale)
        scaled = model.scaled_means
        weights = 2 * scaled / model.spread
        constant = -(scaled**2).sum(1) - weights @ model.shift
        constant = constant + weights[:, :n] @ offset
        weights[:, :n] *= scale
        self.weights = np.concatenate([weights, constant[:, None]], axis=1)
        self.width = self.weights.shape[1]

    def fill(self, terms: np.ndarray, stored: np.ndarray, index_values: np.ndarray) -> None:
        """terms (width, n) of stored planes (planes, n) and index features (n_indices, n)."""
        terms[: self.n_bands] = stored[: self.n_bands]
        terms[self.n_bands : -1] = index_values
        terms[-1] = 1

    def magnitude(self, terms: np.ndarray) -> np.ndarray:
        """(width,) the largest magnitude of the numbers that each term was computed from."""
        return np.abs(terms).max(axis=1)


class _Quadratic:
    """Scores of a Gaussian mixture, logarithms of weight x density without their common constant, as one product over z_i z_j, z_i and 1.

    z are the features scaled about a centre that float32 holds exactly, so that whole numbers lose nothing there.

    Attributes:
        weights, width: as of _Linear.
    """

    def __init__(self, model: ClusterModel, stored_scale: np.ndarray, stored_offset: np.ndarray) -> None:
        self.n_bands = n = len(stored_scale)
        width = len(model.shift)
        scale, offset = np.ones(width), np.zeros(width)
        scale[:n], offset[:n] = stored_scale, stored_offset
        # in stored numbers
        center = (model.shift - offset) / scale
        center[:n] = np.rint(center[:n])
        self.center, self.factor = center.astype(np.float32), (scale / model.spread).astype(np.float32)
        moved = (self.center.astype(np.float64) * scale + offset - model.shift) / model.spread
        # what float32 makes of the factor belongs to the scaling
        stretch = self.factor.astype(np.float64) * model.spread / scale
        means = (model.scaled_means - moved) * stretch
        roots = model.precision_roots / stretch[:, None]
        precision = roots @ roots.transpose(0, 2, 1)
        self.pairs = [(i, j) for i in range(width) for j in range(i, width)]
        squares = np.stack([precision[:, i, j] * (-0.5 if i == j else -1.0) for i, j in self.pairs], axis=1)
        linear = np.einsum("kij,kj->ki", precision, means)
        constant = np.log(model.weights) + np.log(np.diagonal(roots, axis1=1, axis2=2)).sum(1) - 0.5 * (linear * means).sum(1)
        self.weights = np.concatenate([squares, linear, constant[:, None]], axis=1)
        self.width = self.weights.shape[1]

    def fill(self, terms: np.ndarray, stored: np.ndarray, index_values: np.ndarray) -> None:
        """As _Linear.fill."""
        z = terms[len(self.pairs) : -1]
        z[: self.n_bands] = stored[: self.n_bands]
        z[self.n_bands :] = index_values
        z -= self.center[:, None]
        z *= self.factor[:, None]
        start = 0
        for i, row in enumerate(z):
            np.multiply(z[i:], row, out=terms[start : start + len(z) - i])
            start += len(z) - i
        terms[-1] = 1

    def magnitude(self, terms: np.ndarray) -> np.ndarray:
        """As _Linear.magnitude."""
        z = np.abs(terms[len(self.pairs) : -1]).max(axis=1)
        z[self.n_bands :] += np.abs(self.center * self.factor)[self.n_bands :]
        return np.concatenate([[z[i] * z[j] for i, j in self.pairs], z, [1]])


class Nearest:
    """Which cluster of a model pixels belong to, in float32; and which pixels are too close to call. Can be sent to another process."""

    def __init__(self, model: ClusterModel, scale: np.ndarray | None = None, offset: np.ndarray | None = None) -> None:
        """
        Args:
            scale, offset: of the features that come as stored numbers, which are the first; none: all come as they are.
        """
        nothing = np.zeros(0)
        where = (nothing if scale is None else scale, nothing if offset is None else offset)
        self.terms = _Quadratic(model, *where) if model.method == "gmm" else _Linear(model, *where)
        self.weights = self.terms.weights.astype(np.float32)
        # bound of the rounding error of a float32 dot product (Higham 2002, eq. 3.5), and of its terms
        self.bound = (self.terms.width + TERM_ROUNDINGS) * np.finfo(np.float32).eps / 2 * np.abs(self.terms.weights)
        self.numbers = np.arange(1, len(self.weights) + 1, dtype=np.uint8)[:, None]
        self._rooms = threading.local()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_rooms"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._rooms = threading.local()

    def _room(self, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Terms, scores and lowered scores of n pixels, kept for the next ones: fresh memory costs more than the computation."""
        kept = getattr(self._rooms, "kept", None)
        if kept is None or kept[0].shape[1] < n:
            kept = self._rooms.kept = tuple(np.empty((rows, n), np.float32) for rows in (self.terms.width, *2 * [len(self.weights)]))
        return kept[0][:, :n], kept[1][:, :n], kept[2][:, :n]

    def __call__(self, stored: np.ndarray, values: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Fill codes (n,) uint8, 1 for the first cluster; returns the positions of those that float64 has to decide.

        Args:
            stored: (planes, n), of which the first ones are features.
            values: (features that are not stored, n) finite float32.
        """
        terms, scores, lower = self._room(values.shape[1])
        self.terms.fill(terms, stored, values)
        multiply(self.weights, terms, scores)
        error = (self.bound @ self.terms.magnitude(terms)).astype(np.float32)
        if error.max() < ALIKE * error.min():
            # one bound for all saves two passes
            least = scores.max(axis=0)
            least -= 2 * error.max()
        else:
            least = np.subtract(scores, error[:, None], out=lower).max(axis=0)
            scores += error[:, None]
        # a cluster can be the best one if its score reaches what the best one has at least
        possible = np.greater_equal(scores, least).view(np.uint8)
        undecided = np.flatnonzero(np.add.reduce(possible, axis=0, dtype=np.uint8) != 1)
        possible *= self.numbers
        np.add.reduce(possible, axis=0, dtype=np.uint8, out=codes)
        return undecided


class Assign(Op):
    """Code (1 to k) of the nearest centre or the most likely component of a mixture for every valid pixel. Can be sent to another process.

    Scores are one float32 matrix product; where two scores are closer than float32 can tell, again in float64: labels equal those of
    float64 throughout.
    """

    outputs = (CLASS_BAND,)

    def __init__(self, space: FeatureSpace, model: ClusterModel) -> None:
        self.space = space
        self.model = model
        self.renamed = [each.code for each in model.legend] != list(range(1, len(model.legend) + 1))
        self.nearest = Nearest(model, space.scale[: space.n_bands], space.offset[: space.n_bands])

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
        defined = np.ones(stored.shape[1], bool) if self.space.formulas else None
        undecided: list[np.ndarray] = []
        for start in range(0, stored.shape[1], CHUNK_PX):
            chunk = stored[:, start : start + CHUNK_PX]
            values: np.ndarray = np.empty((0, chunk.shape[1]), np.float32)
            if defined is not None:
                values = self.space.indices_of(chunk, "float32")
                finite = np.isfinite(values)
                defined[start : start + CHUNK_PX] = finite.all(axis=0)
                values = np.where(finite, values, np.float32(0))
            undecided.append(start + self.nearest(chunk, values, codes[start : start + CHUNK_PX]))
        near = np.concatenate(undecided)
        for part in np.array_split(near, -(-len(near) // CHUNK_PX)) if len(near) else ():
            codes[part] = self.model.assign(self.model.scaled(self.space.values(stored[:, part]))) + 1
        return defined


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
