"""Matrix products of many pixels by the fastest of the ways that this process has.

QGIS brings GSL's reference BLAS along, which takes the place of the one that NumPy was built with, and is eight times slower.
SciPy asks for a BLAS by other symbols and is not touched by that. Where no good BLAS is at all, einsum is faster than a reference one.
"""

from __future__ import annotations

import functools
import time
from typing import Callable

import numpy as np

Product = Callable[[np.ndarray, np.ndarray, np.ndarray], object]
PROBE = (8, 15, 1 << 14)
"""Rows, terms and pixels of the product that is timed: that of a mixture of four bands."""
ROUNDS = 3


def by_numpy(left: np.ndarray, right: np.ndarray, out: np.ndarray) -> object:
    """out = left @ right."""
    return np.matmul(left, right, out=out)


def by_einsum(left: np.ndarray, right: np.ndarray, out: np.ndarray) -> object:
    """As by_numpy, without any BLAS."""
    return np.einsum("ij,jk->ik", left, right, out=out)


def by_scipy(left: np.ndarray, right: np.ndarray, out: np.ndarray) -> object:
    """As by_numpy, by SciPy's BLAS; float32 or float64.

    Raises:
        ImportError: there is no SciPy.
    """
    from scipy.linalg import blas

    multiply = blas.sgemm if out.dtype == np.float32 else blas.dgemm
    if out.flags.c_contiguous:
        # in Fortran's order all are transposed: no copy
        multiply(1.0, right.T, left.T, 0.0, out.T, overwrite_c=1)
    else:
        out[:] = multiply(1.0, right.T, left.T).T
    return out


@functools.lru_cache(maxsize=1)
def fastest() -> Product:
    """The fastest way here, timed once."""
    rows, terms, pixels = PROBE
    rng = np.random.default_rng(0)
    left, right = rng.random((rows, terms), np.float32), rng.random((terms, pixels), np.float32)
    out = np.empty((rows, pixels), np.float32)

    def seconds(way: Product) -> float:
        taken = []
        for _ in range(ROUNDS):
            begun = time.perf_counter()
            try:
                way(left, right, out)
            except ImportError:
                return float("inf")
            taken.append(time.perf_counter() - begun)
        return min(taken)

    return min((by_numpy, by_scipy, by_einsum), key=seconds)


def multiply(left: np.ndarray, right: np.ndarray, out: np.ndarray) -> None:
    """out (rows, n) = left (rows, terms) @ right (terms, n), all float32 or all float64; the last digits depend on the way."""
    fastest()(left, right, out)
