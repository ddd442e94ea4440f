"""What a cluster may be: names suggested from its mean spectrum, with the evidence, and said so where it is ambiguous.

The rules are published index thresholds, softened into ramps: NDVI (Tucker 1979) for vegetation, NDWI (McFeeters 1996) and MNDWI (Xu 2006)
for water, NDSI (Hall et al. 1995, the same bands as MNDWI) for snow. Bare soil reddens from blue to red and towards SWIR more than built-up
does; the two overlap, and so do shadow and dark water. docs/performance.md says how often the names are right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Mapping, Sequence

import numpy as np

from . import sentinel2
from .features import Feature

WATER, DENSE, SPARSE, SOIL = "Water", "Dense vegetation", "Sparse vegetation", "Bare soil"
BUILT_UP, SNOW, SHADOW, CLOUD = "Built-up", "Snow", "Shadow", "Cloud"
NAMES = (WATER, DENSE, SPARSE, SOIL, BUILT_UP, SNOW, SHADOW, CLOUD)
"""Of equal evidence the first."""
LEAST_EVIDENCE = 0.5
"""Below, no name is suggested."""
LEAST_MARGIN = 0.3
"""A second name this near to the first makes a cluster ambiguous."""
UNDECIDED = 0.7
"""How much bare ground looks built-up where no band can tell: then both names score the same."""
DARKEST = 0.001
"""Reflectances are taken as at least this, so that quotients of very dark pixels mean something."""


@dataclass(frozen=True)
class Suggestion:
    """What a cluster may be.

    Attributes:
        names: none where nothing fits or bands are missing; two where it is ambiguous, the likelier first.
        evidence: the figures behind it, for people: `NDVI 0.81, NIR 0.42`.
        scores: name -> 0 to 1.
    """

    names: tuple[str, ...]
    evidence: str
    scores: Mapping[str, float]

    @property
    def ambiguous(self) -> bool:
        """Whether two names fit nearly as well."""
        return len(self.names) > 1

    @property
    def text(self) -> str:
        """`Water`, or `Bare soil or built-up`; empty if there is no name."""
        if not self.ambiguous:
            return "".join(self.names)
        first, second = self.names
        if {DENSE, SPARSE} == {first, second}:
            return "Dense or sparse vegetation"
        return f"{first} or {second[0].lower()}{second[1:]}"


def _rise(value: float, low: float, high: float) -> float:
    """0 at low and below, 1 at high and above, linear between."""
    return min(max((value - low) / (high - low), 0.0), 1.0)


def _fall(value: float, low: float, high: float) -> float:
    """1 at low and below, 0 at high and above."""
    return 1 - _rise(value, low, high)


def _difference(a: float, b: float) -> float:
    return (a - b) / (a + b)


def suggest(features: Sequence[Feature], means: np.ndarray, known: Mapping[str, int] | None = None, hazy: bool = False) -> list[Suggestion]:
    """What each of k clusters may be.

    Args:
        means: (k, n_features) in feature units, reflectance 0 to 1.
        known: common name -> number of the feature, of bands whose names do not tell.
        hazy: whether the reflectance is that at the top of the atmosphere, whose haze makes soil look built-up.
    """
    column = dict(known or {})
    for number, feature in enumerate(features):
        if not feature.formula and feature.name in sentinel2.BY_NAME:
            column.setdefault(sentinel2.BY_NAME[feature.name].common_name, number)
    if "nir" not in column and "nir08" in column:
        column["nir"] = column["nir08"]
    missing = [sentinel2.BY_COMMON_NAME[name].name for name in ("green", "red", "nir") if name not in column]
    if missing:
        return [Suggestion((), f"no name is suggested without {', '.join(missing)}", {})] * len(means)
    return [_suggestion({name: max(float(mean[i]), DARKEST) for name, i in column.items()}, hazy) for mean in means]


def _suggestion(spectrum: Mapping[str, float], hazy: bool) -> Suggestion:
    """The suggestion for a spectrum, common name -> reflectance."""
    figures = _figures(spectrum)
    scores = _scores(figures, hazy)
    ranked = sorted(scores, key=lambda name: -scores[name])
    best, second = scores[ranked[0]], scores[ranked[1]]
    evidence = ", ".join(f"{name} {value:.2f}" for name, value in figures.items())
    if best < LEAST_EVIDENCE:
        return Suggestion((), evidence, scores)
    return Suggestion(tuple(ranked[:2]) if best - second < LEAST_MARGIN else (ranked[0],), evidence, scores)


def _figures(spectrum: Mapping[str, float]) -> dict[str, float]:
    """The figures that the rules need, by the names that the report shows."""
    red, nir, green = spectrum["red"], spectrum["nir"], spectrum["green"]
    visible = [spectrum[name] for name in ("blue", "green", "red") if name in spectrum]
    figures = {"NDVI": _difference(nir, red), "NDWI": _difference(green, nir)}
    if "swir16" in spectrum:
        figures["MNDWI"] = _difference(green, spectrum["swir16"])
    figures |= {"visible": sum(visible) / len(visible), "NIR": nir}
    if "blue" in spectrum:
        figures["red/blue"] = red / spectrum["blue"]
    return figures


def _scores(figures: Mapping[str, float], hazy: bool) -> dict[str, float]:
    """Name -> 0 to 1: the weakest of its conditions (Zadeh 1965)."""
    ndvi, ndwi, visible, nir = (figures[name] for name in ("NDVI", "NDWI", "visible", "NIR"))
    mndwi, slope = figures.get("MNDWI"), figures.get("red/blue")
    wetness = max(ndwi, ndwi if mndwi is None else mndwi)
    wet = _rise(wetness, -0.1, 0.15)
    # in the dark, water with plants or on the shore and shadow of anything lie between the two
    dark = min(_fall(visible, 0.05, 0.09), _fall(nir, 0.08, 0.15), _fall(ndvi, 0.45, 0.65))
    dark_water = _rise(wetness, -0.6, 0.3)
    lit = _rise(nir, 0.08, 0.15)
    bare = min(_fall(ndvi, 0.18, 0.28), lit, 1 - wet)
    built = UNDECIDED if hazy else _built_share(mndwi, slope)
    flat = 1.0 if slope is None else _fall(slope, 1.18, 1.43)
    # without SWIR nothing tells snow from cloud
    snow, cloud = (1.0, 1.0) if mndwi is None else (_rise(mndwi, 0.2, 0.4), _fall(mndwi, 0.1, 0.3))
    return {
        WATER: max(min(wet, _fall(nir, 0.12, 0.2)), min(dark, dark_water)),
        DENSE: min(_rise(ndvi, 0.5, 0.65), lit),
        SPARSE: min(_rise(ndvi, 0.18, 0.28), _fall(ndvi, 0.5, 0.65), lit),
        # soil is the likelier of the two wherever the figures leave it open
        SOIL: min(bare, _fall(built, 0.4, 1.4)),
        BUILT_UP: min(bare, built, _fall(visible, 0.3, 0.45)),
        SNOW: min(_rise(visible, 0.3, 0.45), snow, flat),
        SHADOW: min(dark, 1 - dark_water),
        CLOUD: min(_rise(visible, 0.18, 0.32), cloud, flat, _fall(ndvi, 0.18, 0.28)),
    }


def _built_share(mndwi: float | None, slope: float | None) -> float:
    """How much bare ground looks built-up rather than soil.

    The middles (red / blue 1.7, MNDWI -0.38) part the pixels that WorldCover calls built-up from its bare, grass and crop pixels, all with
    NDVI below 0.25, in labelled 30 m chips: medians 1.60 and -0.32 against 1.9 to 2.8 and -0.38 to -0.52.
    """
    shares = []
    if slope is not None:
        shares.append(_fall(slope, 1.4, 2.0))
    if mndwi is not None:
        shares.append(_rise(mndwi, -0.56, -0.2))
    return sum(shares) / len(shares) if shares else UNDECIDED
