"""A simulated pair of dates with planted landslides: for change detection, with the truth beside it.

Between the dates: landslide scars on the slopes, phenology of fields and grass, a river that carries mud, and a second image that lies 1.4
pixels to the right and 0.7 up. Everything is drawn from a fixed seed; reflectances are those of the demo's cover types.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from osgeo import gdal, osr
from scipy import ndimage

from .scene import COVERS, EPSG, ORIGIN, SIDE_PX, SPECTRAL, land_cover

BANDS = ("B02", "B03", "B04", "B08", "B11", "B12")
SHIFT_PX = (1.4, -0.7)
"""Where the content of the second image lies against the first: x to the right, y down."""
MUD = {"B02": 0.085, "B03": 0.120, "B04": 0.135, "B08": 0.070, "B11": 0.016, "B12": 0.012}
"""Reflectance of water full of sediment."""
SCAR = {"B02": 0.090, "B03": 0.125, "B04": 0.165, "B08": 0.235, "B11": 0.340, "B12": 0.290}
"""Reflectance of a fresh scar: soil and debris."""
PHENOLOGY = {"crops": 0.86, "grassland": 0.90}
"""Share of the near infrared that is left at the second date; the red rises as much."""
RIM_PX = 12
"""Cut off all around, so that the shifted image is full."""


@dataclass(frozen=True)
class Pair:
    """Two dates of one place.

    Attributes:
        before, after: (bands, rows, cols) UInt16 DN = reflectance x 10000, of BANDS.
        scars: (rows, cols) bool, where landslides were planted; on the grid of the first date.
        river: (rows, cols) bool, water.
    """

    before: np.ndarray
    after: np.ndarray
    scars: np.ndarray
    river: np.ndarray


def scars_on(cover: np.ndarray) -> np.ndarray:
    """Where the slides are: long, narrow, widening downhill, in forest and grassland of the hills; (rows, cols) bool."""
    rng = np.random.default_rng(7)
    rows, columns = np.mgrid[0 : cover.shape[0], 0 : cover.shape[1]].astype(float)
    scars = np.zeros(cover.shape, bool)
    names = list(COVERS)
    slopes = np.isin(cover, (names.index("forest"), names.index("grassland"))) & (rows < 260)
    for _ in range(14):
        top, left = rng.uniform(20, 170), rng.uniform(30, cover.shape[1] - 30)
        length, width, bend = rng.uniform(25, 70), rng.uniform(3, 8), rng.uniform(-0.4, 0.4)
        along = (rows - top) / length
        across = columns - left - bend * (rows - top)
        scars |= (along > 0) & (along < 1) & (np.abs(across) < width * (0.4 + 0.9 * along))
    return scars & slopes


def _reflectance(cover: np.ndarray, band: str) -> np.ndarray:
    position = [each.name for each in SPECTRAL].index(band)
    return np.array([values[0][position] for values in COVERS.values()])[cover]


def _texture(seed: int) -> np.ndarray:
    """Relative brightness of the ground, the same at both dates, (rows, cols)."""
    rng = np.random.default_rng(seed)
    fine, coarse = (ndimage.gaussian_filter(rng.normal(size=(SIDE_PX, SIDE_PX)), sigma) for sigma in (1.0, 5.0))
    return np.asarray(1 + 0.06 * fine / fine.std() + 0.05 * coarse / coarse.std())


def make_pair(*, changed: bool = True, shift_px: tuple[float, float] = SHIFT_PX) -> Pair:
    """The pair; without `changed` there are no scars and no mud, but phenology, noise and shift stay."""
    cover = land_cover()
    names = list(COVERS)
    river = cover == names.index("water")
    scars = scars_on(cover) if changed else np.zeros(cover.shape, bool)
    texture, rng = _texture(1), np.random.default_rng(2)
    before, after = [], []
    for band in BANDS:
        ground = _reflectance(cover, band) * texture
        later = ground.copy()
        for name, left in PHENOLOGY.items():
            factor = left if band == "B08" else 2 - left if band == "B04" else 1.0
            later = np.where(cover == names.index(name), later * factor, later)
        if changed:
            later = np.where(scars, SCAR[band] * texture, later)
            later = np.where(river, MUD[band] * texture, later)
        later = ndimage.shift(later, (shift_px[1], shift_px[0]), order=3, mode="nearest")
        for planes, truth in ((before, ground), (after, later)):
            seen = truth + rng.normal(0, 0.004, truth.shape)
            planes.append(np.clip(np.rint(seen * 10000), 1, 65535).astype(np.uint16)[RIM_PX:-RIM_PX, RIM_PX:-RIM_PX])
    inner = np.s_[RIM_PX:-RIM_PX, RIM_PX:-RIM_PX]
    return Pair(np.stack(before), np.stack(after), scars[inner], river[inner])


DATES = ("2024-06-03", "2024-06-28")


def write_pair(folder: Path, *, changed: bool = True) -> tuple[str, str, str]:
    """Write the pair as stacks, and the planted scars as a mask (0 = no change, 1 = change); returns the three paths."""
    pair = make_pair(changed=changed)
    paths = [str(folder / name) for name in ("before.tif", "after.tif", "scars.tif")]
    for path, planes, date in zip(paths, (pair.before, pair.after, pair.scars[None].astype(np.uint8)), (*DATES, "")):
        _write(path, planes, date)
    return paths[0], paths[1], paths[2]


def _write(path: str, planes: np.ndarray, date: str) -> None:
    kind = gdal.GDT_UInt16 if date else gdal.GDT_Byte
    count, height, width = planes.shape
    target = gdal.GetDriverByName("GTiff").Create(path, width, height, count, kind, ["COMPRESS=DEFLATE", "TILED=YES"])
    reference = osr.SpatialReference()
    reference.ImportFromEPSG(EPSG)
    target.SetProjection(reference.ExportToWkt())
    target.SetGeoTransform((ORIGIN[0] + 10 * RIM_PX, 10, 0, ORIGIN[1] - 10 * RIM_PX, 0, -10))
    if date:
        target.SetMetadata({"S2LC_DATETIME": f"{date}T10:00:31Z", "S2LC_SCENES": f"S2A_33TWM_{date.replace('-', '')}_0_L2A"})
    for number, plane in enumerate(planes, 1):
        band = target.GetRasterBand(number)
        if date:
            band.SetDescription(BANDS[number - 1])
            band.SetNoDataValue(0)
            band.SetScale(0.0001)
        band.WriteArray(plane)
    target.FlushCache()
