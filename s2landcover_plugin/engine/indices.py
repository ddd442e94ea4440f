"""Spectral indices as data, and a small evaluator for their formulas."""

from __future__ import annotations

import ast
import operator
from dataclasses import dataclass
from typing import Any, Callable, Mapping

import numpy as np

from .errors import EngineError
from .sentinel2 import BY_COMMON_NAME

NODATA = -9999.0


@dataclass(frozen=True)
class SpectralIndex:
    """One published index. Names in the formula are STAC common names and stand for reflectance, 0 to 1."""

    name: str
    title: str
    formula: str
    range: str
    source: str


INDICES = (
    SpectralIndex(
        "NDVI", "Normalized difference vegetation index", "(nir - red) / (nir + red)", "-1 to 1", "Rouse et al. 1974, NASA SP-351"
    ),
    SpectralIndex(
        "EVI",
        "Enhanced vegetation index",
        "2.5 * (nir - red) / (nir + 6 * red - 7.5 * blue + 1)",
        "about -1 to 1",
        "Huete et al. 2002, Remote Sens. Environ. 83",
    ),
    SpectralIndex(
        "SAVI", "Soil-adjusted vegetation index", "1.5 * (nir - red) / (nir + red + 0.5)", "-1 to 1", "Huete 1988, Remote Sens. Environ. 25"
    ),
    SpectralIndex(
        "MSAVI",
        "Modified soil-adjusted vegetation index",
        "(2 * nir + 1 - ((2 * nir + 1) ** 2 - 8 * (nir - red)) ** 0.5) / 2",
        "-1 to 1",
        "Qi et al. 1994, Remote Sens. Environ. 48",
    ),
    SpectralIndex(
        "GNDVI",
        "Green normalized difference vegetation index",
        "(nir - green) / (nir + green)",
        "-1 to 1",
        "Gitelson et al. 1996, Remote Sens. Environ. 58",
    ),
    SpectralIndex(
        "NDRE",
        "Normalized difference red edge",
        "(nir08 - rededge1) / (nir08 + rededge1)",
        "-1 to 1",
        "Barnes et al. 2000, Proc. 5th Int. Conf. Precision Agriculture",
    ),
    SpectralIndex(
        "NDWI", "Normalized difference water index", "(green - nir) / (green + nir)", "-1 to 1", "McFeeters 1996, Int. J. Remote Sens. 17"
    ),
    SpectralIndex(
        "MNDWI",
        "Modified normalized difference water index",
        "(green - swir16) / (green + swir16)",
        "-1 to 1",
        "Xu 2006, Int. J. Remote Sens. 27",
    ),
    SpectralIndex(
        "NDMI", "Normalized difference moisture index", "(nir - swir16) / (nir + swir16)", "-1 to 1", "Gao 1996, Remote Sens. Environ. 58"
    ),
    SpectralIndex(
        "NDBI",
        "Normalized difference built-up index",
        "(swir16 - nir) / (swir16 + nir)",
        "-1 to 1",
        "Zha et al. 2003, Int. J. Remote Sens. 24",
    ),
    SpectralIndex(
        "BSI",
        "Bare soil index",
        "((swir16 + red) - (nir + blue)) / ((swir16 + red) + (nir + blue))",
        "-1 to 1",
        "Rikimaru et al. 2002, Tropical Ecology 43",
    ),
    SpectralIndex("NBR", "Normalized burn ratio", "(nir - swir22) / (nir + swir22)", "-1 to 1", "Key and Benson 2006, USDA RMRS-GTR-164"),
    SpectralIndex(
        "NDSI",
        "Normalized difference snow index",
        "(green - swir16) / (green + swir16)",
        "-1 to 1",
        "Hall et al. 1995, Remote Sens. Environ. 54",
    ),
)
BY_NAME = {index.name: index for index in INDICES}

_BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
_UNARY: dict[type, Callable[[Any], Any]] = {ast.USub: operator.neg, ast.UAdd: operator.pos}


class Formula:
    """An arithmetic expression of band names; only + - * / **, parentheses and numbers. Can be sent to another process.

    Raises:
        EngineError: anything else is in it, or a name that is no band.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            self._tree: ast.expr = ast.parse(text, mode="eval").body
        except (SyntaxError, ValueError) as err:
            raise EngineError("The formula cannot be read", text, "write it like (nir - red) / (nir + red)") from err
        self.bands = tuple(dict.fromkeys(self._names(self._tree)))

    def _names(self, node: ast.expr) -> list[str]:
        if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
            return self._names(node.left) + self._names(node.right)
        if isinstance(node, ast.UnaryOp) and type(node.op) in _UNARY:
            return self._names(node.operand)
        if isinstance(node, ast.Name) and node.id in BY_COMMON_NAME:
            return [node.id]
        if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) and not isinstance(node.value, bool):
            return []
        raise EngineError(
            f"The formula has a part that is not allowed ({ast.unparse(node)})",
            self.text,
            f"use + - * / ** and {', '.join(BY_COMMON_NAME)}",
        )

    def __call__(self, reflectance: Mapping[str, np.ndarray]) -> np.ndarray:
        """Evaluate on arrays of one shape; where it divides by zero or leaves the real numbers the result is not finite."""
        with np.errstate(all="ignore"):
            return np.asarray(self._value(self._tree, reflectance))

    def _value(self, node: ast.expr, reflectance: Mapping[str, np.ndarray]) -> object:
        if isinstance(node, ast.BinOp):
            return _BINARY[type(node.op)](self._value(node.left, reflectance), self._value(node.right, reflectance))
        if isinstance(node, ast.UnaryOp):
            return _UNARY[type(node.op)](self._value(node.operand, reflectance))
        if isinstance(node, ast.Name):
            return reflectance[node.id]
        # numpy's numbers overflow to infinity; Python's would take forever on 9 ** 9 ** 9
        return np.float64(node.value) if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) else np.nan


def index_help() -> str:
    """A line per index: name, formula, source; for help texts."""
    return "\n".join(f"{i.name}: {i.title}. {i.formula} ({i.source})" for i in INDICES)
