"""A small simulated Sentinel-2 L2A area: land-cover patches, all 12 bands at native resolution, SCL, two dates, as STAC items and COGs.

Everything is drawn from a fixed seed; nothing is fetched. Reflectances are typical L2A values of the cover types, chosen by eye.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from osgeo import gdal, osr

from s2landcover_plugin.engine.sentinel2 import BANDS, SCL_RESOLUTION_M

SIDE_PX = 600
"""Pixels of 10 m along a side: 6 km."""
ORIGIN = (500_040.0, 5_199_960.0)
"""Upper left corner in EPSG:32633, on the 60 m grid of tile 33TWM."""
EPSG = 32633
COLLECTION = "sentinel-2-l2a"

COVERS = {
    # B01, B02, B03, B04, B05, B06, B07, B08, B8A, B09, B11, B12 in reflectance; SCL class; noise (1 sigma)
    "water": ((0.035, 0.038, 0.042, 0.028, 0.026, 0.022, 0.021, 0.019, 0.018, 0.017, 0.010, 0.008), 6, 0.003),
    "forest": ((0.018, 0.021, 0.040, 0.024, 0.065, 0.190, 0.235, 0.250, 0.262, 0.265, 0.125, 0.058), 4, 0.009),
    "grassland": ((0.035, 0.045, 0.085, 0.060, 0.130, 0.270, 0.320, 0.340, 0.355, 0.350, 0.230, 0.130), 4, 0.010),
    "crops": ((0.030, 0.036, 0.072, 0.038, 0.105, 0.360, 0.455, 0.480, 0.490, 0.470, 0.190, 0.090), 4, 0.012),
    "bare soil": ((0.075, 0.095, 0.135, 0.175, 0.205, 0.225, 0.245, 0.262, 0.280, 0.290, 0.370, 0.310), 5, 0.012),
    "built-up": ((0.110, 0.125, 0.140, 0.150, 0.165, 0.180, 0.190, 0.205, 0.205, 0.215, 0.235, 0.215), 5, 0.022),
}
DATES = ("2024-06-12", "2024-06-27")
"""Clear; and with a cloud and its shadow."""
SPECTRAL = tuple(band for band in BANDS if band.name != "B10")


def land_cover() -> np.ndarray:
    """Codes into COVERS, (600, 600): river and lake, forest, a town, and fields in a chequered plain."""
    rng = np.random.default_rng(33)
    rows, columns = np.mgrid[0:SIDE_PX, 0:SIDE_PX].astype(float)
    fields = rng.choice([2, 3, 3, 4], size=(16, 20))
    cover = fields[(rows // 40).astype(int), ((columns + 12 * np.sin(rows / 60)) // 31 % 20).astype(int)]
    hills = 60 * np.sin(columns / 70) + 40 * np.sin(columns / 23 + 1)
    cover[rows < 190 + hills] = 1
    cover[(rows < 120 + hills) & (np.hypot(rows - 60, columns - 430) < 45)] = 2
    town = np.hypot((rows - 430) / 0.8, columns - 190) < 78 + 12 * np.sin(np.arctan2(rows - 430, columns - 190) * 5)
    cover[town] = 5
    cover[town & (rng.random((SIDE_PX // 6, SIDE_PX // 6)) < 0.18).repeat(6, 0).repeat(6, 1)] = 2
    river = np.abs(rows - 330 - 50 * np.sin(columns / 95) - 0.12 * columns) < 9 + 3 * np.sin(columns / 40)
    cover[river | (np.hypot(rows - 500, (columns - 470) / 1.4) < 48)] = 0
    return cover


def _cloud() -> tuple[np.ndarray, np.ndarray]:
    """Cloud opacity and shadow depth, 0 to 1, (600, 600)."""
    rows, columns = np.mgrid[0:SIDE_PX, 0:SIDE_PX].astype(float)

    def blob(row: float, column: float) -> np.ndarray:
        r = np.hypot(rows - row, (columns - column) / 1.5) + 9 * np.sin(columns / 17) + 7 * np.cos(rows / 13)
        return np.clip((95 - r) / 25, 0, 1)

    return blob(240, 400), blob(205, 335)


def reflectance(date: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Band arrays at native resolution (reflectance) and the SCL at 20 m."""
    rng = np.random.default_rng(100 + date)
    cover = land_cover()
    names = list(COVERS)
    relief = 1 + 0.05 * np.sin(np.mgrid[0:SIDE_PX, 0:SIDE_PX][0] / 31) * np.cos(np.mgrid[0:SIDE_PX, 0:SIDE_PX][1] / 27)
    cloud, shadow = _cloud() if date else (np.zeros(cover.shape),) * 2
    shadow = shadow * (cloud == 0)
    noise = np.array([COVERS[name][2] for name in names])[cover]
    common = rng.normal(size=cover.shape)
    bands = {}
    for position, band in enumerate(SPECTRAL):
        truth = np.array([COVERS[name][0][position] for name in names])[cover] * relief
        truth = (truth + noise * (0.7 * common + 0.7 * rng.normal(size=cover.shape))) * (1 - 0.55 * shadow)
        truth = truth * (1 - cloud) + cloud * (0.62 - 0.25 * (band.wavelength_um > 1.5))
        bands[band.name] = _shrink(np.clip(truth, 0.0005, 1.2), band.resolution_m // 10)
    scl = np.array([COVERS[name][1] for name in names])[cover]
    scl[shadow > 0.15] = 3
    scl[cloud > 0.1] = 8
    scl[cloud > 0.6] = 9
    return bands, scl[::2, ::2].astype(np.uint8)


def _shrink(values: np.ndarray, factor: int) -> np.ndarray:
    side = len(values) // factor
    return values.reshape(side, factor, side, factor).mean(axis=(1, 3))


def write_cog(path: Path, values: np.ndarray, resolution_m: int) -> None:
    """A cloud-optimized GeoTIFF on the demo's grid, DN 0 = nodata."""
    reference = osr.SpatialReference()
    reference.ImportFromEPSG(EPSG)
    kind = gdal.GDT_Byte if values.dtype == np.uint8 else gdal.GDT_UInt16
    memory = gdal.GetDriverByName("MEM").Create("", values.shape[1], values.shape[0], 1, kind)
    memory.SetGeoTransform((ORIGIN[0], resolution_m, 0, ORIGIN[1], 0, -resolution_m))
    memory.SetProjection(reference.ExportToWkt())
    memory.GetRasterBand(1).SetNoDataValue(0)
    memory.GetRasterBand(1).WriteArray(values)
    options = ["COMPRESS=DEFLATE", "PREDICTOR=2", "BLOCKSIZE=256", "OVERVIEWS=NONE"]
    gdal.GetDriverByName("COG").CreateCopy(str(path), memory, options=options)


def write_scene(folder: Path, date: int) -> dict[str, Any]:
    """Write the COGs of one date below `folder`; returns the STAC item with relative hrefs.

    The pixels carry the BOA offset of baseline 05.10 (+1000 DN) and the item says so, as products since 2022 do.
    """
    scene_id = f"S2A_33TWM_{DATES[date].replace('-', '')}_0_L2A"
    (folder / scene_id).mkdir(parents=True, exist_ok=True)
    bands, scl = reflectance(date)
    assets = {}
    for band in SPECTRAL:
        dn = np.rint(bands[band.name] * 10000 + 1000).astype(np.uint16)
        write_cog(folder / scene_id / f"{band.name}.tif", dn, band.resolution_m)
        assets[band.common_name] = {
            "href": f"{scene_id}/{band.name}.tif",
            "type": "image/tiff; application=geotiff; profile=cloud-optimized",
            "roles": ["data", "reflectance"],
            "gsd": band.resolution_m,
            "eo:bands": [{"name": band.name, "center_wavelength": band.wavelength_um}],
            "raster:bands": [{"nodata": 0, "data_type": "uint16", "scale": 0.0001, "offset": -0.1}],
        }
    write_cog(folder / scene_id / "SCL.tif", scl, SCL_RESOLUTION_M)
    assets["scl"] = {"href": f"{scene_id}/SCL.tif", "type": "image/tiff; application=geotiff; profile=cloud-optimized", "roles": ["data"]}
    cloud_percent = round(100 * float(np.isin(scl, (8, 9, 10)).mean()), 3)
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": scene_id,
        "collection": COLLECTION,
        "geometry": {"type": "Polygon", "coordinates": [_footprint()]},
        "bbox": _bbox(_footprint()),
        "properties": {
            "datetime": f"{DATES[date]}T10:00:31Z",
            "platform": "sentinel-2a",
            "constellation": "sentinel-2",
            "eo:cloud_cover": cloud_percent,
            "grid:code": "MGRS-33TWM",
            "proj:epsg": EPSG,
            "s2:processing_baseline": "05.10",
        },
        "links": [],
        "assets": assets,
    }


def _footprint() -> list[list[float]]:
    source, target = osr.SpatialReference(), osr.SpatialReference()
    source.ImportFromEPSG(EPSG)
    target.ImportFromEPSG(4326)
    for each in (source, target):
        each.SetAxisMappingStrategy(osr.OAMS_TRADITIONAL_GIS_ORDER)
    size = SIDE_PX * 10
    corners = [(0, 0), (size, 0), (size, -size), (0, -size), (0, 0)]
    moved = osr.CoordinateTransformation(source, target).TransformPoints([(ORIGIN[0] + x, ORIGIN[1] + y) for x, y in corners])
    return [[round(p[0], 8), round(p[1], 8)] for p in moved]


def _bbox(ring: list[list[float]]) -> list[float]:
    xs, ys = [p[0] for p in ring], [p[1] for p in ring]
    return [min(xs), min(ys), max(xs), max(ys)]


def collection() -> dict[str, Any]:
    """The STAC collection of the demo."""
    return {
        "type": "Collection",
        "stac_version": "1.0.0",
        "id": COLLECTION,
        "description": "Simulated Sentinel-2 L2A scenes",
        "license": "CC0-1.0",
        "extent": {"spatial": {"bbox": [[-180, -90, 180, 90]]}, "temporal": {"interval": [["2015-06-27T00:00:00Z", None]]}},
        "links": [],
    }


def write_demo(folder: Path) -> list[dict[str, Any]]:
    """Write both dates below `folder`; returns their items."""
    return [write_scene(folder, date) for date in range(len(DATES))]


if __name__ == "__main__":
    import sys

    print(json.dumps(write_demo(Path(sys.argv[1])), indent=1))
