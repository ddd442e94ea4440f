"""The same classes tomorrow: new clusters get the codes, names and colours of those of an earlier model that they are."""

from __future__ import annotations

from typing import Sequence

import numpy as np

from .errors import EngineError
from .features import Feature
from .legend import LegendClass
from .models import ClusterModel
from .packages import require
from .palette import colours
from .progress import Progress

SAME_WITHIN = 0.99
"""A cluster whose mean lies farther from the reference's training data than this share of its pixels is none of its clusters."""


def matched_legend(
    features: Sequence[Feature], means: np.ndarray, reference: ClusterModel, where: str, progress: Progress
) -> list[LegendClass]:
    """Codes, names and colours for new clusters, (k, n_features) in feature units.

    The assignment with the smallest sum of distances between the means, in the reference's scaled units (Kuhn 1955; scipy's
    linear_sum_assignment). Clusters without a counterpart get codes, names and colours of their own.

    Args:
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
    legend = _with_new_ones(counterpart, len(means), reference.legend)
    fresh = [each.name for number, each in enumerate(legend) if number not in counterpart]
    said = f"{len(counterpart)} of {len(means)} clusters are those of {where}"
    progress.info(f"{said}; new: {', '.join(fresh)}." if fresh else f"{said}.")
    return legend


def _with_new_ones(counterpart: dict[int, LegendClass], k: int, known: Sequence[LegendClass]) -> list[LegendClass]:
    """The counterpart of each of k clusters, or a class of its own."""
    used = {each.rgb for each in known}
    free = [rgb for rgb in colours(len(known) + k) if rgb not in used]
    code = max(each.code for each in known)
    legend = []
    for number in range(k):
        if number in counterpart:
            legend.append(counterpart[number])
            continue
        code += 1
        legend.append(LegendClass(code, f"Cluster {code}", free.pop(0)))
    if code > 254:
        raise EngineError(f"There would be {code} classes", "REFERENCE_MODEL", "use fewer clusters, or another reference")
    return legend
