"""The model file: JSON, readable and diffable. What is read from it is checked completely, and nothing in it is ever executed."""

from __future__ import annotations

import json
import os
import platform
import re
from dataclasses import asdict
from typing import Any

import numpy as np

from . import indices, sentinel2
from .errors import EngineError
from .features import Feature
from .legend import LegendClass, clean_name
from .models import MAX_CLASSES, QUANTILES, ClusterModel
from .packages import require
from .radiometry import LARGEST_REFLECTANCE
from .version import VERSION

SCHEMA = "s2landcover-cluster-model"
SCHEMA_VERSION = 2
RADIOMETRY = "reflectance 0 to 1 (DN x 0.0001, BOA offset removed)"
LARGEST_BYTES = 20_000_000
"""254 clusters of 13 bands with covariances take 2 MB."""
MAX_FEATURES = 100
FIX = "choose a model written by Cluster raster"


def to_json(model: ClusterModel) -> str:
    """The text of a model file."""
    classes = []
    for number, each in enumerate(model.legend):
        entry: dict[str, Any] = {"code": each.code, "name": each.name, "color": each.hex, "center": model.means[number].tolist()}
        entry |= {"weight": float(model.weights[number]), "covariance": model.covariances[number].tolist()}
        classes.append(entry)
    document = {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "method": model.method,
        "features": [{k: v for k, v in asdict(feature).items() if v} for feature in model.features],
        "radiometry": RADIOMETRY,
        "scaling": {"method": model.scaling, "shift": model.shift.tolist(), "spread": model.spread.tolist()},
        "classes": classes,
        "training": dict(model.training),
        "training_distance": dict(zip(map(str, QUANTILES), model.reach.tolist())),
        "versions": {
            "s2landcover": VERSION,
            "numpy": np.__version__,
            "scikit-learn": require("sklearn").__version__,
            "python": platform.python_version(),
        },
    }
    # one line for each list of numbers: a file that people read and diff
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
    return re.sub(r"\[\s+([-+.\deE,\s]+?)\s+\]", lambda m: "[" + re.sub(r"\s+", " ", m[1]) + "]", text) + "\n"


def load_model(path: str) -> ClusterModel:
    """Read a model file.

    Raises:
        EngineError: it is no model, of another version, or anything in it is out of place.
    """
    document = _document(path)
    if document.get("schema") != SCHEMA:
        raise EngineError("The file is no cluster model", path, FIX)
    version = document.get("schema_version")
    if version != SCHEMA_VERSION:
        raise EngineError(f"The model has schema version {version!r}; this plugin reads {SCHEMA_VERSION}", path, "make the model again")
    read = _Reader(path)
    if document.get("method") not in ("kmeans", "gmm"):
        raise read.wrong("method")
    if document.get("radiometry") != RADIOMETRY:
        raise EngineError(f"The model was made for another radiometry ({document.get('radiometry')!r})", path, f"make it for {RADIOMETRY}")
    features = read.features(document.get("features"))
    width = len(features)
    scaling = read.mapping(document.get("scaling"), "scaling")
    shift, spread = (read.numbers(scaling.get(name), (width,), f"scaling.{name}") for name in ("shift", "spread"))
    if not (spread > 0).all():
        raise read.wrong("scaling.spread", "numbers above 0")
    classes = document.get("classes")
    if not isinstance(classes, list) or not 1 <= len(classes) <= MAX_CLASSES:
        raise read.wrong("classes", f"1 to {MAX_CLASSES} classes")
    entries = [read.mapping(each, f"classes[{i}]") for i, each in enumerate(classes)]
    legend = tuple(read.legend_class(each, i) for i, each in enumerate(entries))
    if [each.code for each in legend] != sorted({each.code for each in legend}):
        raise read.wrong("classes", "classes in the order of their codes")
    means = np.stack([read.numbers(each.get("center"), (width,), f"classes[{i}].center") for i, each in enumerate(entries)])
    spectral = [i for i, feature in enumerate(features) if feature.name in sentinel2.BY_NAME and not feature.formula]
    if (np.abs(means[:, spectral]) > LARGEST_REFLECTANCE).any():
        raise EngineError("The centres of the model are no reflectances (they look like DN)", path, f"make the model for {RADIOMETRY}")
    return ClusterModel(
        tuple(features),
        means,
        shift,
        spread,
        str(scaling.get("method")),
        legend,
        read.weights(entries),
        read.covariances(entries, width),
        str(document["method"]),
        read.reach(document.get("training_distance")),
        read.mapping(document.get("training"), "training"),
    )


def _document(path: str) -> dict[str, Any]:
    try:
        size = os.path.getsize(path)
        if size > LARGEST_BYTES:
            raise EngineError(f"The file is too large for a model ({size / 1e6:,.0f} MB)", path, FIX)
        with open(path, "rb") as file:
            document = json.loads(file.read().decode("utf-8"), parse_constant=_refuse_constant)
    except OSError as err:
        raise EngineError(f"The model cannot be read ({err.strerror})", path, "check the path") from err
    except (ValueError, RecursionError) as err:
        raise EngineError("The file is no cluster model (it is not JSON)", path, FIX) from err
    if not isinstance(document, dict):
        raise EngineError("The file is no cluster model", path, FIX)
    return document


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is no number")


class _Reader:
    """Takes the parts of a document apart, and says what is wrong with one."""

    def __init__(self, path: str) -> None:
        self.path = path

    def wrong(self, what: str, expected: str = "") -> EngineError:
        """The sentence for a part that is not as it should be."""
        want = f", which should be {expected}" if expected else ""
        return EngineError(f"The model has a wrong {what}{want}", self.path, "make the model again")

    def mapping(self, value: Any, what: str) -> dict[str, Any]:
        """A JSON object."""
        if not isinstance(value, dict):
            raise self.wrong(what)
        return value

    def numbers(self, value: Any, shape: tuple[int, ...], what: str) -> np.ndarray:
        """Finite numbers of a shape."""

        def plain(part: Any, depth: int) -> bool:
            if depth == len(shape):
                return isinstance(part, (int, float)) and not isinstance(part, bool)
            return isinstance(part, list) and len(part) == shape[depth] and all(plain(each, depth + 1) for each in part)

        if not plain(value, 0):
            raise self.wrong(what, " x ".join(map(str, shape)) + " numbers")
        try:
            array = np.array(value, np.float64)
        except OverflowError as err:
            raise self.wrong(what, "finite numbers") from err
        if not np.isfinite(array).all():
            raise self.wrong(what, "finite numbers")
        return array

    def features(self, value: Any) -> list[Feature]:
        """Names, each once; indices with a formula that can be read."""
        if not isinstance(value, list) or not 1 <= len(value) <= MAX_FEATURES:
            raise self.wrong("features", f"1 to {MAX_FEATURES} features")
        features = []
        for number, each in enumerate(value):
            facts = self.mapping(each, f"features[{number}]")
            name, formula, wavelength = facts.get("name"), facts.get("formula", ""), facts.get("wavelength_um")
            if (
                not isinstance(name, str)
                or not name
                or not isinstance(formula, str)
                or not isinstance(wavelength, (int, float, type(None)))
            ):
                raise self.wrong(f"features[{number}]")
            if formula:
                indices.Formula(formula)
            features.append(Feature(name, formula, wavelength))
        names = [feature.name for feature in features]
        if len(set(names)) < len(names):
            raise self.wrong("features", "different features")
        if [bool(f.formula) for f in features] != sorted(bool(f.formula) for f in features):
            raise self.wrong("features", "bands before indices")
        return features

    def legend_class(self, entry: dict[str, Any], number: int) -> LegendClass:
        """Code, name and colour of one class."""
        code, name, colour = entry.get("code"), entry.get("name"), entry.get("color")
        if not isinstance(code, int) or isinstance(code, bool) or not 1 <= code <= MAX_CLASSES:
            raise self.wrong(f"classes[{number}].code", f"a number from 1 to {MAX_CLASSES}")
        if not isinstance(name, str) or not clean_name(name):
            raise self.wrong(f"classes[{number}].name", "a text")
        if not isinstance(colour, str) or not re.fullmatch(r"#[0-9a-fA-F]{6}", colour):
            raise self.wrong(f"classes[{number}].color", "#rrggbb")
        return LegendClass(code, clean_name(name), tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5)))

    def weights(self, entries: list[dict[str, Any]]) -> np.ndarray:
        """Weights of a mixture, which sum to 1."""
        weights = np.array([float(self.numbers(each.get("weight"), (), f"classes[{i}].weight")) for i, each in enumerate(entries)])
        if not (weights > 0).all() or abs(weights.sum() - 1) > 1e-6:
            raise self.wrong("weights", "above 0 and 1 in sum")
        return weights

    def covariances(self, entries: list[dict[str, Any]], width: int) -> np.ndarray:
        """Symmetric positive definite matrices."""
        found = []
        for number, each in enumerate(entries):
            what = f"classes[{number}].covariance"
            matrix = self.numbers(each.get("covariance"), (width, width), what)
            if not np.allclose(matrix, matrix.T, rtol=1e-9, atol=1e-12) or np.linalg.eigvalsh(matrix).min() <= 0:
                raise self.wrong(what, "symmetric and positive definite")
            found.append(matrix)
        return np.stack(found)

    def reach(self, value: Any) -> np.ndarray:
        """Quantiles of the training distance."""
        stated = self.mapping(value, "training_distance")
        row = self.numbers([stated.get(str(q)) for q in QUANTILES], (len(QUANTILES),), "training_distance")
        if (row < 0).any() or (np.diff(row) < 0).any():
            raise self.wrong("training_distance", "distances in rising order")
        return row
