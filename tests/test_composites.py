"""Mosaics and median composites: which scenes, and which pixels."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from osgeo import gdal

from demo import scene as demo_scene
from s2landcover_plugin.engine import blocks
from s2landcover_plugin.engine.choosing import choose, without_duplicates
from s2landcover_plugin.engine.crs import Aoi, overlap
from s2landcover_plugin.engine.errors import EngineError
from s2landcover_plugin.engine.fetch import FetchOptions, run_fetch
from s2landcover_plugin.engine.progress import Progress
from s2landcover_plugin.engine.stac import SearchOptions, find_scenes
from s2landcover_plugin.engine.stack import median_of_valid

from .conftest import SHARED, read, shared_data, write_raster

BANDS = ("B02", "B03", "B04", "B08")


def fetch(address, folder, search, options, aoi, progress=None):
    search = replace(search, stac_url=address)
    return run_fetch(search, options, aoi, str(folder / "o.tif"), str(folder / "o.json"), "", progress or Progress())


def test_median_of_five_real_scenes_equals_numpy(earth_search, tmp_path):
    """Clouds, shadows and swath edges are left out; the rest is the median, pixel by pixel."""
    aoi = Aoi("EPSG:32633", (499980, 5150020, 559980, 5200020))
    search = SearchOptions(start_date="2023-08-01", end_date="2023-08-31", max_cloud_cover=100)
    report = fetch(earth_search[0], tmp_path, search, FetchOptions(bands=BANDS, selection="median"), aoi)
    assert len(report.choice.scenes) == 5
    assert report.choice.datetime.startswith("2023-08-10") and "/2023-08-20" in report.choice.datetime
    window = 0, 0, report.grid.width, report.grid.height
    scenes = []
    for folder in sorted((SHARED / "earth_search_33twm").iterdir()):
        if folder.is_dir():
            dn = np.stack([gdal.Open(str(folder / f"{band}.tif")).ReadAsArray(*window) for band in BANDS]).astype(float)
            clouds = np.isin(gdal.Open(str(folder / "SCL.tif")).ReadAsArray(*window), (3, 8, 9, 10))
            scenes.append(np.ma.array(dn, mask=(dn == 0) | clouds))
    together = np.ma.stack(scenes)
    clear = (~together.mask).sum(axis=0)
    assert (clear >= 2).mean() > 0.5 and clear.min() == 0 and clear.max() == 5
    result = read(tmp_path / "o.tif")
    np.testing.assert_array_equal(result, np.rint(np.ma.median(together, axis=0).filled(0)))
    # no cloud where two scenes are clear: nothing brighter than the brightest clear one, and there something is
    twice = clear >= 2
    assert (result[twice] > 0).all() and (result[twice] <= together.max(axis=0).filled(0)[twice]).all()


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_median_of_valid_values(n):
    rng = np.random.default_rng(n)
    values = rng.integers(1, 65535, (n, 40, 50)).astype(np.uint16)
    valid = rng.random(values.shape) < 0.6
    masked = np.ma.median(np.ma.array(values.astype(float), mask=~valid), axis=0)
    np.testing.assert_array_equal(median_of_valid(values, valid), np.rint(masked.filled(0)))


def item(scene_id, bounds, folder, *, when="2024-07-01T10:00:31Z", cloud=1.0, baseline="05.11", epsg=32633, value=1500):
    """A STAC item over one band file of a constant DN; bounds in the CRS."""
    x0, y0, x1, y1 = bounds
    data = np.full((1, (y1 - y0) // 10, (x1 - x0) // 10), value, np.uint16)
    path = folder / f"{scene_id}.tif"
    write_raster(path, data, epsg=epsg, transform=(x0, 10, 0, y1, 0, -10))
    ring = Aoi(f"EPSG:{epsg}", bounds).lonlat_ring()
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": scene_id,
        "collection": demo_scene.COLLECTION,
        "geometry": {"type": "Polygon", "coordinates": [[list(p) for p in (*ring, ring[0])]]},
        "properties": {
            "datetime": when,
            "eo:cloud_cover": cloud,
            "grid:code": "MGRS-33TWM",
            "platform": "sentinel-2a",
            "s2:processing_baseline": baseline,
            "earthsearch:boa_offset_applied": True,
        },
        "links": [],
        "assets": {"red": {"href": path.name, "type": "image/tiff", "roles": ["data"], "eo:bands": [{"name": "B04"}]}},
    }


def catalog(folder, *items):
    path = folder / "items.json"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    return str(path)


JULY = SearchOptions(start_date="2024-07-01", end_date="2024-07-31")
AOI = Aoi("EPSG:32633", (500000, 5190000, 502000, 5191000))
MOSAIC = FetchOptions(bands=("B04",), selection="mosaic", resampling="nearest")


def test_two_datastrips_of_one_tile_and_time_are_both_used(tmp_path):
    left = item("left", (499000, 5189000, 501000, 5192000), tmp_path, value=1100)
    right = item("right", (500900, 5189000, 503000, 5192000), tmp_path, value=1200, cloud=0.5)
    report = fetch(catalog(tmp_path, left, right), tmp_path, JULY, MOSAIC, AOI)
    assert {s.id for s in report.choice.scenes} == {"left", "right"} and report.valid_share == 1
    expected = np.full((100, 200), 1200)
    expected[:, :90] = 1100  # where both are, the less cloudy one wins
    np.testing.assert_array_equal(read(tmp_path / "o.tif")[0], expected)
    assert report.choice.cloud_cover == pytest.approx((1.0 * 0.5 + 0.5 * 0.55) / 1.05, rel=0.01)


def test_of_true_duplicates_the_newest_baseline_wins_and_the_other_is_listed(tmp_path, messages):
    bounds = (499000, 5189000, 503000, 5192000)
    old = item("old", bounds, tmp_path, baseline="02.14", value=1100, cloud=0.1)
    new = item("new", bounds, tmp_path, baseline="05.00", value=1200, cloud=0.2)
    for selection in ("mosaic", "least-cloudy", "newest"):
        options = replace(MOSAIC, selection=selection)
        report = fetch(catalog(tmp_path, old, new), tmp_path, JULY, options, AOI, messages.progress)
        assert [s.id for s in report.choice.scenes] == ["new"] and (read(tmp_path / "o.tif") == 1200).all()
    assert json.loads((tmp_path / "o.json").read_text())["duplicates_left_out"] == ["old"]
    assert any("old is left out" in text for text in messages.infos)


def test_mosaic_takes_the_least_cloudy_day_that_covers_enough(tmp_path):
    whole = (499000, 5189000, 503000, 5192000)
    items = [
        item("part", (499000, 5189000, 500500, 5192000), tmp_path, when="2024-07-05T10:00:00Z", cloud=0.0),
        item("cloudy", whole, tmp_path, when="2024-07-10T10:00:00Z", cloud=15),
        item("clear", whole, tmp_path, when="2024-07-15T10:00:00Z", cloud=2),
    ]
    assert [s.id for s in fetch(catalog(tmp_path, *items), tmp_path, JULY, MOSAIC, AOI).choice.scenes] == ["clear"]


def test_scene_without_a_pixel_in_the_area_does_not_stop_a_mosaic(tmp_path):
    """A footprint may be more generous than the pixels."""
    whole = item("whole", (499000, 5189000, 503000, 5192000), tmp_path, value=1100)
    beside = item("beside", (510000, 5189000, 512000, 5192000), tmp_path, value=1200)
    beside["geometry"] = whole["geometry"]
    beside["properties"]["grid:code"] = "MGRS-33TXM"
    report = fetch(catalog(tmp_path, whole, beside), tmp_path, JULY, MOSAIC, AOI)
    assert [s.id for s in report.choice.scenes] == ["whole"] and (read(tmp_path / "o.tif") == 1100).all()
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(EngineError, match="outside the scene: beside"):
        fetch(catalog(tmp_path, beside), out, JULY, MOSAIC, AOI)
    assert list(out.iterdir()) == []


def test_radiometry_of_every_scene_stands_in_the_file(tmp_path):
    left = item("left", (499000, 5189000, 501000, 5192000), tmp_path, value=1100)
    right = item("right", (500900, 5189000, 503000, 5192000), tmp_path, value=2200)
    right["properties"]["earthsearch:boa_offset_applied"] = False
    fetch(catalog(tmp_path, left, right), tmp_path, JULY, MOSAIC, AOI)
    stated = json.loads(gdal.Open(str(tmp_path / "o.tif")).GetMetadataItem("S2LC_RADIOMETRY"))
    assert {name: bands["B04"]["add_dn"] for name, bands in stated.items()} == {"left": 0, "right": -1000}
    assert set(np.unique(read(tmp_path / "o.tif"))) == {1100, 1200}


def test_mosaic_across_two_utm_zones(tmp_path):
    """18 degrees east is the border of zones 33 and 34."""
    aoi = Aoi("EPSG:4326", (17.99, 46.49, 18.01, 46.50))
    west = Aoi("EPSG:4326", (17.98, 46.485, 18.0005, 46.505)).bounds_in("EPSG:32633")
    east = Aoi("EPSG:4326", (17.9995, 46.485, 18.02, 46.505)).bounds_in("EPSG:32634")
    boxes = [tuple(int(v // 20 * 20) for v in bounds) for bounds in (west, east)]
    items = [item("west", boxes[0], tmp_path, value=1100), item("east", boxes[1], tmp_path, value=1200, epsg=32634, cloud=2)]
    items[1]["properties"]["grid:code"] = "MGRS-34TBS"
    report = fetch(catalog(tmp_path, *items), tmp_path, JULY, MOSAIC, aoi)
    red = read(tmp_path / "o.tif")[0]
    assert set(np.unique(red)) <= {0, 1100, 1200} and report.valid_share > 0.98
    assert (red[:, :20] == 1100).all() and (red[5:-5, -20:-5] == 1200).all()
    assert 0.4 < (red == 1100).mean() < 0.65


def test_complementary_items_of_a_real_catalog_are_no_duplicates():
    """Tile 13SGD comes as two items, two datastrips that cover different parts of it."""
    path = shared_data("stac") / "pc_sentinel-2-l2a_20240820_zones13_14.json"
    features = json.loads(path.read_text())["features"]
    halves = [f for f in features if "13SGD" in f["id"]]
    assert len(halves) == 2 and overlap(*(json.dumps(f["geometry"]) for f in halves)) < 0.9
    west, south, east, north = halves[0]["bbox"]
    aoi = Aoi("EPSG:4326", (min(west, halves[1]["bbox"][0]), south, max(east, halves[1]["bbox"][2]), north))
    scenes = find_scenes(SearchOptions(stac_url=str(path), max_cloud_cover=100), aoi, Progress())
    kept, out = without_duplicates(scenes)
    assert len(kept) == len(scenes) and not out
    chosen = choose(scenes, "mosaic", aoi, Progress())
    assert {s.id for s in chosen.scenes} >= {f["id"] for f in halves}
    assert chosen.aoi_share > max(s.aoi_share for s in scenes)


@pytest.mark.parametrize("dilation_m", [0, 10, 15, 45])
@pytest.mark.parametrize("block_px", [1024, 37])
def test_mask_is_widened_by_metres_whatever_the_blocks(demo_catalog, demo_root, tmp_path, monkeypatch, dilation_m, block_px):
    monkeypatch.setattr(blocks, "BLOCK_PX", block_px)
    aoi = Aoi("EPSG:32633", (502000, 5196000, 504000, 5198000))
    options = FetchOptions(bands=("B04",), mask_clouds=True, mask_dilation_m=float(dilation_m))
    search = SearchOptions(start_date="2024-06-20", end_date="2024-06-30")
    report = fetch(demo_catalog[0], tmp_path, search, options, aoi)
    column, row = (502000 - demo_scene.ORIGIN[0]) // 10, (demo_scene.ORIGIN[1] - 5198000) // 10
    scl = read(demo_root[0] / report.scene.id / "SCL.tif")[0].repeat(2, 0).repeat(2, 1)
    here = np.isin(scl, (3, 8, 9, 10))[int(row) : int(row) + 200, int(column) : int(column) + 200]
    reach = int(dilation_m // 10)
    near = np.zeros_like(here)
    padded = np.pad(here, reach)
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            if np.hypot(dx, dy) * 10 <= dilation_m:
                near |= padded[reach + dy : reach + dy + 200, reach + dx : reach + dx + 200]
    assert 0.05 < near.mean() < 0.9
    np.testing.assert_array_equal(read(tmp_path / "o.tif")[0] == 0, near)
