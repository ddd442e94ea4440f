"""The same classes tomorrow: new clusters get the codes, names and colours of those of an earlier model that they are."""

from __future__ import annotations

from typing import Sequence

import numpy as np

from .errors import EngineError
from .features import Feature
from .legend import LegendClass
from .models import MAX_CLASSES, ClusterModel
from .naming import named_classes
from .packages import require
from .progress import Progress
from .signatures import Suggestion

SAME_WITHIN = 0.99
"""A cluster whose mean lies farther from the reference's training data than this share of its pixels is none of its clusters."""


def matched_legend(
    features: Sequence[Feature],
    means: np.ndarray,
    suggestions: Sequence[Suggestion],
    reference: ClusterModel,
    where: str,
    progress: Progress,
) -> list[LegendClass]:
    """Codes, names and colours for new clusters, (k, n_features) in feature units.

    The assignment with the smallest sum of distances between the means, in the reference's scaled units (Kuhn 1955; scipy's
    linear_sum_assignment). Clusters without a counterpart get codes, names and colours of their own.

    Args:
        suggestions: what each cluster may be; new ones are named by it.
        where: the reference's file, for messages.

    Raises:
        EngineError: the reference has other features, or there are too many classes.
    """
    names, known = [f.name for f in features], [f.name for f in reference.features]
    if names != known or [f.formula for f in features] != [f.formula for f in reference.features]:
        fix = f"use the same BANDS and INDICES, in the same order: {', '.join(known)}"
        raise EngineError(f"The reference model has other features than {', '.join(names)}", where, fix)
    scaled = reference.scaled(means.T)
    distances = np.linalg.norm(scaled.T[:, None] - reference.scaled_means, axis=2)
    near = reference.judge(scaled).distance <= reference.limit(SAME_WITHIN)
    mine, theirs = require("scipy.optimize").linear_sum_assignment(distances)
    counterpart = {int(a): reference.legend[int(b)] for a, b in zip(mine, theirs) if near[a]}
    fresh_ones = [number for number in range(len(means)) if number not in counterpart]
    code = max(each.code for each in reference.legend)
    if code + len(fresh_ones) > MAX_CLASSES:
        what = f"There would be {code + len(fresh_ones)} classes"
        raise EngineError(what, "REFERENCE_MODEL", "use fewer clusters, or another reference")
    new = named_classes([suggestions[number] for number in fresh_ones], range(code + 1, code + 1 + len(fresh_ones)), reference.legend)
    found = {**counterpart, **dict(zip(fresh_ones, new))}
    legend = [found[number] for number in range(len(means))]
    said = f"{len(counterpart)} of {len(means)} clusters are those of {where}"
    progress.info(f"{said}; new: {', '.join(each.name for each in new)}." if new else f"{said}.")
    return legend
