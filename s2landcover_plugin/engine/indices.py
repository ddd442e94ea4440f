"""The evaluator for formulas of spectral indices, and the formulas that a user may ask for by name."""

from __future__ import annotations

import ast
import operator
from typing import Any, Callable, Mapping

import numpy as np

from .errors import EngineError
from .index_table import INDICES
from .sentinel2 import BY_COMMON_NAME
from .sentinel2 import BY_NAME as BAND_BY_NAME

NODATA = -9999.0


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
        if isinstance(node, ast.Name) and _common_name(node.id):
            return [_common_name(node.id)]
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
            return reflectance[_common_name(node.id)]
        # numpy's numbers overflow to infinity; Python's would take forever on 9 ** 9 ** 9
        return np.float64(node.value) if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) else np.nan


def _common_name(name: str) -> str:
    """`red` for `red` and `B04`; empty for what is no band."""
    if name.upper() in BAND_BY_NAME:
        return BAND_BY_NAME[name.upper()].common_name
    return name if name in BY_COMMON_NAME else ""


def parse_user_formula(text: str) -> tuple[str, Formula]:
    """A user's index: `NAME = formula`, or a formula alone, which is then called CUSTOM.

    Raises:
        EngineError: the formula cannot be read, or the name is that of a published index.
    """
    name, equals, formula = (part.strip() for part in text.partition("="))
    if not equals:
        name, formula = "CUSTOM", name
    if not name or name in BY_NAME:
        raise EngineError(
            f"{name or 'Nothing'} is no name for a formula of your own", f"FORMULA {text}", "write it like MYINDEX = (nir - red) / nir"
        )
    return name, Formula(formula)


def index_help() -> str:
    """A line per index: name, formula, source; for help texts."""
    return "\n".join(f"{i.name}: {i.title}. {i.formula} ({i.source})" for i in INDICES)
