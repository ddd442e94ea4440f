"""When and how an image was taken, as it travels in the metadata of every raster made from it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from datetime import date
from typing import Any, Mapping, Sequence

SCENES, DATETIME = "S2LC_SCENES", "S2LC_DATETIME"
ORBIT, SUN = "S2LC_RELATIVE_ORBIT", "S2LC_SUN_ELEVATION"
"""Relative orbit number, and elevation of the sun in degrees, of the scenes."""
KEYS = (SCENES, DATETIME, ORBIT, SUN)

SEASON_DAYS = 45
"""Days of the year between two dates beyond which phenology is another one."""
SUN_DEGREES = 10.0
"""Difference of the sun's elevation beyond which shadows differ much: shadows of slopes and trees are a fifth longer or more."""

_DATE = re.compile(r"(?<!\d)(20[1-9]\d)-?(0[1-9]|1[0-2])-?(0[1-9]|[12]\d|3[01])(?=\D|$)")
_ORBIT = re.compile(r"_R(\d{3})(?=_|$|\.)")


@dataclass(frozen=True)
class Acquisition:
    """What is known of an image; None: not known."""

    day: date | None
    relative_orbit: int | None
    sun_elevation: float | None
    scenes: str = ""
    """Names of the scenes, as the metadata have them."""

    @property
    def text(self) -> str:
        """`2024-06-04`, or nothing."""
        return self.day.isoformat() if self.day else ""


def inherited(metadata: Mapping[str, str]) -> dict[str, str]:
    """What a raster made from another one says of the scenes behind it."""
    return {key: metadata[key] for key in KEYS if key in metadata}


def scene_facts(scenes: Sequence[tuple[Mapping[str, Any], str]]) -> dict[str, str]:
    """Relative orbit and mean elevation of the sun of scenes, where all state one (and the same orbit).

    Args:
        scenes: STAC properties (extensions `sat` and `view`, or those of Planetary Computer) and SAFE product name of each.
    """
    orbits = {_orbit(properties, product) for properties, product in scenes}
    suns = [_sun(properties) for properties, _ in scenes]
    known = [value for value in suns if value is not None]
    facts = {}
    orbit = orbits.pop() if len(orbits) == 1 else None
    if orbit is not None:
        facts[ORBIT] = str(orbit)
    if known and len(known) == len(suns):
        facts[SUN] = f"{sum(known) / len(known):.2f}"
    return facts


def _orbit(properties: Mapping[str, Any], product: str) -> int | None:
    stated = properties.get("sat:relative_orbit")
    if isinstance(stated, int):
        return stated
    found = _ORBIT.search(product)
    return int(found[1]) if found else None


def _sun(properties: Mapping[str, Any]) -> float | None:
    elevation, zenith = properties.get("view:sun_elevation"), properties.get("s2:mean_solar_zenith")
    if isinstance(elevation, (int, float)):
        return float(elevation)
    return 90 - float(zenith) if isinstance(zenith, (int, float)) else None


def acquisition(path: str, metadata: Mapping[str, str]) -> Acquisition:
    """What the metadata of a raster tell, else its name or its scenes' names (`S2A_MSIL2A_20200604T…_R091_…`)."""
    texts = [metadata.get(DATETIME, ""), metadata.get(SCENES, ""), os.path.basename(path)]
    days = (_day(text) for text in texts)
    orbit, sun = metadata.get(ORBIT, ""), metadata.get(SUN, "")
    named = next((found for text in texts[1:] if (found := _ORBIT.search(text))), None)
    number = int(orbit) if re.fullmatch(r"[0-9]{1,3}", orbit) else int(named[1]) if named else None
    return Acquisition(next((day for day in days if day), None), number, _number(sun), metadata.get(SCENES, ""))


def _day(text: str) -> date | None:
    found = _DATE.search(text)
    try:
        return date(*map(int, found.groups())) if found else None
    except ValueError:  # 31 February
        return None


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if -90 <= number <= 90 else None


def differences(before: Acquisition, after: Acquisition) -> list[str]:
    """What makes two images hard to compare, in sentences; nothing where it is not known."""
    said = []
    if before.day and after.day:
        apart = abs(before.day.timetuple().tm_yday - after.day.timetuple().tm_yday)
        apart = min(apart, 365 - apart)
        if before.day == after.day:
            said.append(f"Both images are of the same day ({before.text}): there can hardly be any change between them.")
        if before.day > after.day:
            said.append(f"The date before ({before.text}) is later than the date after ({after.text}): gains and losses are exchanged.")
        if apart > SEASON_DAYS:
            said.append(
                f"The dates lie {apart} days apart in the year ({before.text}, {after.text}): "
                "growth, harvest and leaf fall look like change."
            )
    if before.relative_orbit and after.relative_orbit and before.relative_orbit != after.relative_orbit:
        said.append(
            f"The relative orbits differ ({before.relative_orbit}, {after.relative_orbit}): slopes are seen from different sides, "
            "and high objects are displaced."
        )
    if before.sun_elevation is not None and after.sun_elevation is not None:
        apart_deg = abs(before.sun_elevation - after.sun_elevation)
        if apart_deg > SUN_DEGREES:
            said.append(f"The sun's elevation differs by {apart_deg:.0f} degrees: shadows and the brightness of slopes look like change.")
    return said
