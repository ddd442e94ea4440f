"""Cloud cover of an area, from the scene classification."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .blocks import iter_blocks
from .grid import Grid
from .progress import Progress
from .raster import RasterReader, describe

CLOUD_CODES = (8, 9, 10)
"""Classes that ESA counts as cloud (`CLOUDY_PIXEL_PERCENTAGE`, the items' `eo:cloud_cover`): medium and high probability, thin cirrus."""


@dataclass(frozen=True)
class CloudCover:
    """How much of an area is cloud in one scene."""

    cloudy: int
    """Pixels of the area's grid that are cloud."""
    seen: int
    """Those that the scene covers with a class."""

    @property
    def percent(self) -> float | None:
        """Share of the pixels seen; None if there are none."""
        return 100 * self.cloudy / self.seen if self.seen else None


def cloud_cover(scl: str, grid: Grid, progress: Progress) -> CloudCover:
    """Count the classes of a scene classification on a grid (nearest)."""
    counts = np.zeros(256, np.int64)
    for block in iter_blocks(RasterReader(describe(scl), [1], grid=grid, nodata=0), progress=progress):
        codes = np.asarray(block.data)[block.valid]
        counts += np.bincount(codes[codes < 256].astype(np.intp), minlength=256)
    return CloudCover(int(counts[list(CLOUD_CODES)].sum()), int(counts[1:].sum()))


def together(covers: list[CloudCover]) -> float | None:
    """Cloud cover of several scenes, percent of the pixels seen in all of them; None if there are none."""
    return CloudCover(sum(each.cloudy for each in covers), sum(each.seen for each in covers)).percent
