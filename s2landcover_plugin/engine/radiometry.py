"""From stored numbers to reflectance: is the BOA offset still in the pixels, and what scale do they have?

Since processing baseline 04.00 (25 January 2022) the DN of Sentinel-2 products carry +1000: reflectance =
(DN - 1000) / 10000 (ESA, Sentinel-2 Products Specification Document 14.9). Some providers remove it before they publish.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Sequence

from . import sentinel2
from .errors import EngineError
from .progress import Progress
from .raster import BandInfo

QUANTIFICATION = 10000
"""DN of reflectance 1."""
REFLECTANCE_SCALE = 1 / QUANTIFICATION
BOA_OFFSET_DN = -1000
OFFSET_SINCE_BASELINE = (4, 0)


@dataclass(frozen=True)
class RadiometricDecision:
    """How the stored numbers of one band of one scene become DN = reflectance x 10000."""

    gain: float
    """DN = stored x gain + add_dn."""
    add_dn: float
    reason: str
    evidence: dict[str, Any] = field(default_factory=dict)
    certain: bool = True


def decide(properties: dict[str, Any], asset: dict[str, Any], product_name: str, policy: str = "auto") -> RadiometricDecision:
    """Decide for one band asset of a STAC item.

    In order: the user's policy, `earthsearch:boa_offset_applied`, the offset stated for the band (`raster:bands`, `raster:offset`),
    the processing baseline. Earth Search's `sentinel-2-l2a` states offset -0.1 for bands from which it already removed it: its own
    flag is the one that is true.

    Args:
        policy: `auto`, `apply` (subtract 1000) or `none`.
    """
    stated = (asset.get("raster:bands") or [{}])[0]
    scale = stated.get("scale", asset.get("raster:scale"))
    offset = stated.get("offset", asset.get("raster:offset"))
    applied = properties.get("earthsearch:boa_offset_applied")
    baseline = _baseline(properties, product_name)
    evidence = {
        "earthsearch:boa_offset_applied": applied,
        "stated_scale": scale,
        "stated_offset": offset,
        "processing_baseline": baseline,
    }
    gain = 1.0 if not scale else round(float(scale) * QUANTIFICATION, 9)
    if policy == "apply":
        return RadiometricDecision(gain, BOA_OFFSET_DN, "OFFSET_POLICY says the offset is to be applied", evidence)
    if policy == "none":
        return RadiometricDecision(gain, 0, "OFFSET_POLICY says there is no offset to apply", evidence)
    if applied is True:
        return RadiometricDecision(gain, 0, "the provider removed the offset before publishing (earthsearch:boa_offset_applied)", evidence)
    if offset is not None:
        add = round(float(offset) * QUANTIFICATION, 6)
        return RadiometricDecision(gain, add, f"the catalog states offset {offset:g} for the band", evidence)
    if baseline is not None:
        since = tuple(int(part) for part in baseline.split(".")[:2]) >= OFFSET_SINCE_BASELINE
        reason = f"processing baseline {baseline} {'carries' if since else 'is older than'} the offset of 04.00"
        return RadiometricDecision(gain, BOA_OFFSET_DN if since else 0, reason, evidence)
    return RadiometricDecision(gain, 0, "nothing is known about an offset; none is assumed", evidence, certain=False)


def _baseline(properties: dict[str, Any], product_name: str) -> str | None:
    for key in ("s2:processing_baseline", "processing:version"):
        text = str(properties.get(key) or "").lstrip("Nn")
        parts = text.split(".")
        if len(parts) >= 2 and all(part.isdigit() for part in parts[:2]):
            return text
    return sentinel2.baseline_in(product_name)


def decide_for_file(band: BandInfo, path: str, policy: str = "auto") -> RadiometricDecision:
    """Decide for a band of a file without a catalog: the user's policy, then the scale and offset that the file states.

    Raises:
        EngineError: the file states a scale of 0.
    """
    if band.scale == 0:
        raise EngineError("The band states a scale of 0", f"{path}, band {band.index}", "correct the file's metadata")
    stated = band.scale is not None and (band.scale != 1 or band.offset != 0)
    gain = round((band.scale or 1) * QUANTIFICATION, 9) if stated else (QUANTIFICATION if band.dtype.startswith("float") else 1.0)
    evidence = {"stated_scale": band.scale if stated else None, "stated_offset": band.offset if stated else None, "dtype": band.dtype}
    if policy == "apply":
        return RadiometricDecision(gain, BOA_OFFSET_DN, "OFFSET_POLICY says the offset is to be applied", evidence)
    if policy == "none":
        return RadiometricDecision(gain, 0, "OFFSET_POLICY says there is no offset to apply", evidence)
    if stated:
        return RadiometricDecision(gain, round(band.offset * QUANTIFICATION, 6), "scale and offset stated in the file", evidence)
    if band.dtype.startswith("float"):
        return RadiometricDecision(gain, 0, "real numbers are taken as reflectance 0 to 1", evidence, certain=False)
    return RadiometricDecision(gain, 0, "whole numbers are taken as DN = reflectance x 10000 without offset", evidence, certain=False)


@dataclass(frozen=True)
class ReflectanceScale:
    """reflectance = stored x scale + offset."""

    scale: float
    offset: float


def reflectance_scales(bands: Sequence[BandInfo], path: str, progress: Progress) -> list[ReflectanceScale]:
    """The scale of each band of a raster; whole numbers without a stated scale are taken as DN, with a warning.

    Real numbers without a stated scale are taken as they are.
    """
    scales, assumed = [], []
    for band in bands:
        if band.scale is not None and (band.scale != 1 or band.offset != 0):
            scales.append(ReflectanceScale(band.scale, band.offset))
        elif band.dtype.startswith("float"):
            scales.append(ReflectanceScale(1.0, 0.0))
        else:
            scales.append(ReflectanceScale(REFLECTANCE_SCALE, 0.0))
            assumed.append(band.name)
    if assumed:
        progress.warn(
            f"{path} states no scale for {', '.join(assumed)}: the numbers are taken as reflectance x 10000 without offset. "
            "Use Stack bands first if that is not so."
        )
    return scales
