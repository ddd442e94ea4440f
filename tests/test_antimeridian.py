"""Areas that reach across 180 degrees, and areas that are very wide."""

from __future__ import annotations

import json

import numpy as np
import pytest
from osgeo import gdal

from s2landcover_plugin.engine.crs import Aoi, utm_crs
from s2landcover_plugin.engine.fetch import FetchOptions, run_fetch
from s2landcover_plugin.engine.stac import SearchOptions, find_scenes

from .conftest import Messages, read, write_raster
from .network import item

FIJI = 4  # km of the area on each side of 180 degrees


def antimeridian_items(folder, form):
    """Two scenes in UTM zones 60 and 1 (south) whose footprints cross 180 degrees; `form` is how the catalog writes that."""
    items = []
    for zone, value in ((60, 1111), (1, 2222)):
        crs = f"EPSG:{32700 + zone}"
        ((x, y),) = [(round(c[0], -1), round(c[1], -1)) for c in [to_crs(crs, 180.0, -17.0)]]
        bounds = (x - 10000, y - 10000, x + 10000, y + 10000)
        data = np.full((1, 2000, 2000), value, np.uint16)
        path = folder / f"B04_{zone}.tif"
        write_raster(path, data, epsg=32700 + zone, transform=(bounds[0], 10, 0, bounds[3], 0, -10))
        ring = Aoi(crs, bounds).lonlat_ring()
        made = item(B04=str(path))
        made["assets"] = {"red": made["assets"]["red"]}
        made["id"] = f"zone{zone}"
        made["properties"]["grid:code"] = "MGRS-60KXF" if zone == 60 else "MGRS-01KAB"
        west = [[min(px, 180.0), py] for px, py in ring]
        east = [[max(px, 180.0) - 360, py] for px, py in ring]
        made["geometry"] = {
            "split": {"type": "MultiPolygon", "coordinates": [[[*west, west[0]]], [[*east, east[0]]]]},
            "beyond 180": {"type": "Polygon", "coordinates": [[list(p) for p in (*ring, ring[0])]]},
            "jumping": {"type": "Polygon", "coordinates": [[[(px + 180) % 360 - 180, py] for px, py in (*ring, ring[0])]]},
        }[form]
        items.append(made)
    path = folder / "items.json"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    return path


def to_crs(crs, longitude, latitude):
    from s2landcover_plugin.engine.crs import transform_points

    return transform_points([(longitude, latitude)], "EPSG:4326", crs)[0]


@pytest.mark.parametrize("form", ["split", "beyond 180", "jumping"])
@pytest.mark.parametrize(
    "aoi",
    [
        Aoi("EPSG:4326", (179.99, -17.01, 180.01, -16.99)),
        Aoi("EPSG:4326", (-180.01, -17.01, -179.99, -16.99)),
        Aoi("EPSG:4326", center=(180.0, -17.0), size_km=(2, 2)),
        Aoi("EPSG:4326", center=(-180.0, -17.0), size_km=(2, 2)),
    ],
    ids=["east of 180", "west of -180", "centre 180", "centre -180"],
)
def test_an_area_across_the_antimeridian_is_whole(tmp_path, out, form, aoi):
    path = antimeridian_items(tmp_path, form)
    found = find_scenes(SearchOptions(stac_url=str(path)), aoi, Messages().progress)
    assert [each.aoi_share for each in found] == pytest.approx([1.0, 1.0])
    report = run_fetch(
        SearchOptions(stac_url=str(path)), FetchOptions(bands=("B04",)), aoi, str(out / "o.tif"), "", "", Messages().progress
    )
    assert report.valid_share == 1 and 190 <= report.grid.width <= 230 and 190 <= report.grid.height <= 230


def test_a_mosaic_across_the_antimeridian_takes_each_zone(tmp_path, out):
    path = antimeridian_items(tmp_path, "split")
    document = json.loads(path.read_text())
    for feature, number in zip(document["features"], (0, 1)):
        feature["geometry"] = {"type": "Polygon", "coordinates": feature["geometry"]["coordinates"][number]}
    path.write_text(json.dumps(document))
    for name, columns in (("B04_60.tif", slice(1000, None)), ("B04_1.tif", slice(0, 1000))):
        dataset = gdal.Open(str(tmp_path / name), gdal.GA_Update)
        data = dataset.ReadAsArray()
        data[:, columns] = 0  # each has pixels on its own side only
        dataset.GetRasterBand(1).WriteArray(data)
        del dataset
    options = FetchOptions(bands=("B04",), selection="mosaic", resampling="nearest")
    aoi = Aoi("EPSG:4326", center=(180.0, -17.0), size_km=(2, 2))
    report = run_fetch(SearchOptions(stac_url=str(path)), options, aoi, str(out / "o.tif"), "", "", Messages().progress)
    data = read(out / "o.tif")[0]
    assert len(report.choice.scenes) == 2 and report.valid_share > 0.97
    assert 0.4 < (data == 1111).mean() < 0.6 and 0.4 < (data == 2222).mean() < 0.6


def test_wide_areas_find_what_lies_far_from_their_western_edge():
    def square(longitude):
        ring = [[longitude - 1, 10], [longitude + 1, 10], [longitude + 1, 12], [longitude - 1, 12], [longitude - 1, 10]]
        return json.dumps({"type": "Polygon", "coordinates": [ring]})

    for west, east, longitude in ((-20, 170, 165), (-180, 180, 15), (-180, 180, -170), (-180, 180, 175), (100, 250, -170)):
        aoi = Aoi("EPSG:4326", (west, -60, east, 60))
        assert aoi.share_inside(square(longitude)) == pytest.approx(4 / ((east - west) * 120))
    assert Aoi("EPSG:4326", (-200, -90, 200, 90)).lonlat_boxes() == [(-180, -90, 180, 90)]
    assert Aoi("EPSG:4326", (170, -5, 190, 5)).lonlat_boxes() == [(170, -5, 180, 5), (-180, -5, -170, 5)]


def test_zones_at_the_antimeridian():
    assert [utm_crs(x, 10) for x in (-180.00000000000003, -180, 180, 179.9, -179.9)] == [
        "EPSG:32660",
        "EPSG:32601",
        "EPSG:32601",
        "EPSG:32660",
        "EPSG:32601",
    ]
