"""Which of the scenes found are used, and how they become one."""

from __future__ import annotations

import json
from dataclasses import dataclass

from .crs import Aoi, overlap
from .progress import Progress
from .stac import Scene, least_cloudy

SELECTIONS = ("least-cloudy", "newest", "mosaic", "median")
COVERAGE = 0.75
"""Scenes, or days, that cover at least this share of what the best one covers compete by cloud cover alone."""
SAME_GROUND = 0.9
"""Two items of one tile and minute whose footprints share more than this are the same pixels, processed twice."""


@dataclass(frozen=True)
class Choice:
    """The scenes to be read, in the order of preference."""

    scenes: tuple[Scene, ...]
    duplicates: tuple[Scene, ...]
    """Left out, because a newer processing of the same pixels is there."""
    aoi_share: float
    """Share of the area that the footprints cover together."""

    @property
    def cloud_cover(self) -> float | None:
        """Cloud cover of the scenes, percent, weighted by the share of the area that each covers; None if one is unknown."""
        weights = [scene.aoi_share for scene in self.scenes]
        clouds = [scene.cloud_cover for scene in self.scenes]
        if any(cloud is None for cloud in clouds) or not sum(weights):
            return None
        return sum(w * (c or 0.0) for w, c in zip(weights, clouds)) / sum(weights)

    @property
    def datetime(self) -> str:
        """Of one scene or of scenes of one day: the first one's; else an interval, start/end."""
        times = sorted(scene.datetime for scene in self.scenes)
        return self.scenes[0].datetime if times[0][:10] == times[-1][:10] else f"{times[0]}/{times[-1]}"


def choose(scenes: list[Scene], selection: str, aoi: Aoi, progress: Progress) -> Choice:
    """Choose from the scenes found (at least one).

    least-cloudy, newest: one scene out of those that cover enough. mosaic: all scenes of the least cloudy day out of those days that
    cover enough. median: all scenes.
    """
    kept, duplicates = without_duplicates(scenes)
    if selection in ("least-cloudy", "newest"):
        best = max(scene.aoi_share for scene in kept)
        enough = [scene for scene in kept if scene.aoi_share >= COVERAGE * best]
        newest = selection == "newest"
        chosen = [min(enough, key=lambda scene: (0.0, least_cloudy(scene)[1]) if newest else least_cloudy(scene))]
    elif selection == "mosaic":
        chosen = _best_day(kept, aoi)
    else:
        chosen = kept
    ordered = tuple(sorted(chosen, key=least_cloudy))
    choice = Choice(ordered, tuple(duplicates), _share(ordered, aoi))
    _tell(choice, len(scenes), progress)
    return choice


def _share(scenes: tuple[Scene, ...] | list[Scene], aoi: Aoi) -> float:
    return scenes[0].aoi_share if len(scenes) == 1 else aoi.share_inside(*(json.dumps(scene.geometry) for scene in scenes))


def _best_day(scenes: list[Scene], aoi: Aoi) -> list[Scene]:
    days: dict[str, list[Scene]] = {}
    for scene in scenes:
        days.setdefault(scene.datetime[:10], []).append(scene)
    shares = {day: _share(group, aoi) for day, group in days.items()}
    enough = [day for day, share in shares.items() if share >= COVERAGE * max(shares.values())]

    def cloudiness(day: str) -> float:
        cloud = Choice(tuple(days[day]), (), shares[day]).cloud_cover
        return 101.0 if cloud is None else cloud

    return days[min(sorted(enough, reverse=True), key=cloudiness)]


def without_duplicates(scenes: list[Scene]) -> tuple[list[Scene], list[Scene]]:
    """Scenes without those that are the same pixels as another one, processed earlier; and the ones left out.

    Two items of one tile and time may also be two datastrips that cover different parts of it: both stay.
    """
    kept: list[Scene] = []
    out: list[Scene] = []
    for scene in sorted(scenes, key=lambda s: (s.baseline, s.id), reverse=True):
        twins = (k for k in kept if k.tile and (k.tile, k.datetime[:16], k.platform) == (scene.tile, scene.datetime[:16], scene.platform))
        if any(overlap(json.dumps(twin.geometry), json.dumps(scene.geometry)) > SAME_GROUND for twin in twins):
            out.append(scene)
        else:
            kept.append(scene)
    return kept, out


def _tell(choice: Choice, found: int, progress: Progress) -> None:
    names = ", ".join(scene.id for scene in choice.scenes)
    cloud = "unknown" if choice.cloud_cover is None else f"{choice.cloud_cover:.2f} %"
    what = f"Scene {names}" if len(choice.scenes) == 1 else f"{len(choice.scenes)} scenes ({names})"
    share = f"{100 * choice.aoi_share:.1f} % of the area"
    progress.info(f"{what} of {choice.datetime} chosen from {found}: cloud cover {cloud}, {share}.")
    for scene in choice.duplicates:
        progress.info(f"{scene.id} is left out: a newer processing of the same pixels is there.")
    if choice.aoi_share < 0.999:
        subject = f"The scene {names} covers" if len(choice.scenes) == 1 else "The scenes together cover"
        progress.warn(f"{subject} {share}; the rest is nodata.")
