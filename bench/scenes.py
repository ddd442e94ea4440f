"""Large scenes to measure with: simulated tiles, and one mirrored from real bands. The same arguments give the same pixels.

A simulated tile has fields, forests, water and settlements with spectra of Sentinel-2's bands, mixed edges, texture, noise and an orbit's
edge without data; DEFLATE with predictor 2 makes it 1.4 to 1.6 times smaller, as real products (docs/performance.md).
"""

from __future__ import annotations

from pathlib import Path
from typing import Sequence

import cv2
import numpy as np
from osgeo import gdal, osr

FULL = 10980
BANDS = ("B02", "B03", "B04", "B08", "B05", "B06", "B07", "B8A", "B11", "B12", "B01", "B09")
STRIP = 1024
FIELD_PX = 60
"""Spacing of the coarse grid on which regions vary."""
SPECTRA = np.array(
    [
        (340, 310, 220, 130, 190, 140, 140, 120, 75, 55, 380, 60),  # water
        (240, 430, 270, 2700, 720, 2050, 2600, 2850, 1350, 620, 210, 2900),  # broad-leaved trees
        (180, 290, 210, 1750, 470, 1380, 1700, 1900, 820, 400, 170, 1950),  # conifers
        (390, 710, 490, 3700, 1080, 2850, 3500, 3800, 1950, 970, 300, 3850),  # green crops
        (570, 880, 1100, 2350, 1530, 2000, 2200, 2500, 3050, 2150, 480, 2550),  # ripe crops
        (870, 1230, 1640, 2200, 1900, 2050, 2200, 2400, 3150, 2750, 700, 2450),  # bare soil
        (480, 780, 700, 2750, 1230, 2300, 2600, 2850, 2400, 1430, 400, 2900),  # grass
        (1280, 1480, 1640, 2150, 1800, 2000, 2100, 2250, 2400, 2100, 1150, 2300),  # settlements
    ],
    np.float32,
)
CHANGED = {3: 5, 1: 5}
"""What becomes of green crops and of trees in some fields until the second date."""


class _Ground:
    """What lies where, as a function of the place."""

    def __init__(self, size: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        n = size // FIELD_PX + 8
        fields = [cv2.GaussianBlur(rng.standard_normal((n, n)).astype(np.float32), (0, 0), sigma) for sigma in (4, 4, 2, 1.5)]
        self.fields = [field / field.std() for field in fields]
        self.draws = rng.random((3, 1 << 16), np.float32)

    def at(self, x: np.ndarray, y: np.ndarray, date: int) -> tuple[np.ndarray, np.ndarray]:
        """Class and brightness, (len(y), len(x))."""
        columns, rows = np.meshgrid((x / FIELD_PX + 3).astype(np.float32), (y / FIELD_PX + 3).astype(np.float32))
        wet, wild, bend, town = (cv2.remap(field, columns, rows, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT) for field in self.fields)
        along = np.floor((0.9 * x[None, :] + 0.44 * y[:, None] + 25 * bend) / 26).astype(np.int64)
        across = np.floor((0.9 * y[:, None] - 0.44 * x[None, :] + 25 * wet) / 41).astype(np.int64)
        cell = (along * 40503 + across * 30011) & 0xFFFF
        kind, bright, fate = (draw[cell] for draw in self.draws)
        cover = np.select([kind < 0.3, kind < 0.5, kind < 0.7], [3, 4, 5], 6)
        cover = np.where(wild > 0.7, np.where(wet > 0, 1, 2), cover)
        cover = np.where((town > 1.6) & (kind < 0.6), 7, cover)
        cover = np.where((np.abs(bend + 0.4 * wet) < 0.02) | (wet < -2), 0, cover)
        if date:
            for before, after in CHANGED.items():
                cover = np.where((cover == before) & (fate < 0.1), after, cover)
        return cover.astype(np.uint8), bright


def simulate(
    target: str,
    size: int,
    names: Sequence[str],
    *,
    date: int = 0,
    shift: tuple[float, float] = (0, 0),
    block: int = 1024,
    pixel_m: float = 10,
) -> None:
    """Write one tile.

    Args:
        names: some of BANDS; date: 1 for another one, on which some fields have changed.
        shift: pixels by which the image lies off.
        pixel_m: side of a pixel; the ground is the same.
    """
    ground, rng = _Ground(round(size * pixel_m / 10), 7), np.random.default_rng((7, date, len(names)))
    bands = [BANDS.index(name) for name in names]
    output = create(target, size, size, names, block, pixel_m)
    scale = pixel_m / 10
    x = (np.arange(-2, size + 2) + shift[0]) * scale
    for top in range(0, size, block):
        rows = min(block, size - top)
        cover, bright = ground.at(x, (np.arange(top - 2, top + rows + 2) + shift[1]) * scale, date)
        coarse = rng.standard_normal((rows // 5 + 2, size // 5 + 2)).astype(np.float32)
        texture = cv2.resize(coarse, (size + 4, rows + 4), interpolation=cv2.INTER_LINEAR)
        nothing = np.arange(size)[None, :] < 0.15 * size - 0.2 * np.arange(top, top + rows)[:, None]
        for number, band in enumerate(bands, 1):
            plane = SPECTRA[:, band][cover] * (0.85 + 0.3 * bright) * (0.94 if date else 1)
            plane = cv2.blur(plane.astype(np.float32), (3, 3))
            plane += (0.05 * texture + 0.045 * rng.standard_normal(plane.shape, np.float32)) * (plane + 150)
            stored = np.clip(np.rint(plane[2:-2, 2:-2]), 1, 16000).astype(np.uint16)
            stored[nothing] = 0
            output.GetRasterBand(number).WriteArray(stored, 0, top)
    output.FlushCache()


def mirrored(target: str, folder: Path, names: Sequence[str], size: int) -> None:
    """Write real bands (FOLDER/B02.tif …) with their mirror images until the tile is full; all must have one grid."""
    planes = [gdal.Open(str(folder / f"{name}.tif")).ReadAsArray() for name in names]
    output = create(target, size, size, names, 1024, 10)
    height, width = planes[0].shape
    columns = _back_and_forth(np.arange(size), width)
    for top in range(0, size, STRIP):
        rows = _back_and_forth(np.arange(top, min(top + STRIP, size)), height)
        for number, plane in enumerate(planes, 1):
            output.GetRasterBand(number).WriteArray(plane[np.ix_(rows, columns)], 0, top)
    output.FlushCache()


def _back_and_forth(places: np.ndarray, length: int) -> np.ndarray:
    there = places % (2 * length)
    return np.minimum(there, 2 * length - 1 - there)


def create(target: str, width: int, height: int, names: Sequence[str], block: int, pixel_m: float) -> gdal.Dataset:
    """An empty tile of UInt16 bands with names, scale and nodata 0."""
    options = ["TILED=YES", f"BLOCKXSIZE={block}", f"BLOCKYSIZE={block}", "COMPRESS=DEFLATE", "PREDICTOR=2", "INTERLEAVE=BAND"]
    options += ["BIGTIFF=YES", "NUM_THREADS=2"]
    output = gdal.GetDriverByName("GTiff").Create(target, width, height, len(names), gdal.GDT_UInt16, options)
    output.SetGeoTransform((600000, pixel_m, 0, 4900020, 0, -pixel_m))
    system = osr.SpatialReference()
    system.ImportFromEPSG(32634)
    output.SetProjection(system.ExportToWkt())
    for number, name in enumerate(names, 1):
        band = output.GetRasterBand(number)
        band.SetDescription(name)
        band.SetScale(0.0001)
        band.SetNoDataValue(0)
    return output
