"""The fitted model: clusters with their names and colours, and the file that it is kept in."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass
from typing import Any, Sequence

import numpy as np

from . import palette
from .features import Feature
from .legend import LegendClass
from .packages import require
from .version import VERSION

MODEL_SCHEMA = 1


@dataclass(frozen=True)
class ClusterModel:
    """A fitted k-means, in canonical order: cluster 1 is the darkest.

    Attributes:
        centers: (k, n_features) in feature units (reflectance 0 to 1, index values).
        shift, spread: (n_features,) a feature is scaled as (value - shift) / spread before distances are taken.
    """

    features: tuple[Feature, ...]
    centers: np.ndarray
    shift: np.ndarray
    spread: np.ndarray
    scaling: str
    seed: int
    sample_size: int
    inertia: float

    def legend(self) -> list[LegendClass]:
        """Codes, names and colours."""
        return [LegendClass(i, f"Cluster {i}", rgb) for i, rgb in enumerate(palette.colours(len(self.centers)), 1)]

    def to_json(self, source: dict[str, Any]) -> str:
        """The model file: readable, diffable, nothing in it is ever executed.

        Args:
            source: where the training pixels came from.
        """
        legend = self.legend()
        document = {
            "schema": "s2landcover-cluster-model",
            "schema_version": MODEL_SCHEMA,
            "method": "kmeans",
            "features": [{k: v for k, v in asdict(feature).items() if v} for feature in self.features],
            "radiometry": "reflectance 0 to 1 (DN x 0.0001, BOA offset removed)",
            "scaling": {"method": self.scaling, "shift": self.shift.tolist(), "spread": self.spread.tolist()},
            "classes": [
                {"code": each.code, "name": each.name, "color": each.hex, "center": center}
                for each, center in zip(legend, self.centers.tolist())
            ],
            "training": {"sample_size": self.sample_size, "seed": self.seed, "inertia": self.inertia, **source},
            "versions": {
                "s2landcover": VERSION,
                "numpy": np.__version__,
                "scikit-learn": require("sklearn").__version__,
                "python": platform.python_version(),
            },
        }
        return json.dumps(document, indent=1) + "\n"


def canonical_order(features: Sequence[Feature], centers: np.ndarray) -> np.ndarray:
    """Order of centres from dark to bright: mean over the bands, then band by band; the same whatever order the fit gave."""
    bands = [i for i, feature in enumerate(features) if not feature.formula] or list(range(len(features)))
    keys = np.round(centers, 9)
    brightness = keys[:, bands].mean(1)
    return np.lexsort((*keys.T[::-1], np.round(brightness, 9)))
