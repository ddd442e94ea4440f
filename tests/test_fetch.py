"""Searching and fetching from a real STAC API (rustac) and a real HTTP server (nginx)."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from osgeo import gdal

from demo import scene, servers
from s2landcover_plugin.engine.crs import Aoi
from s2landcover_plugin.engine.errors import Cancelled, EngineError
from s2landcover_plugin.engine.fetch import FetchOptions, run_fetch
from s2landcover_plugin.engine.progress import Progress
from s2landcover_plugin.engine.stac import SearchOptions, band_assets, find_scenes

from .conftest import SHARED, Messages, read, shared_data

INSIDE = Aoi("EPSG:32633", (540000, 5130000, 560000, 5150000))
AUGUST = SearchOptions(start_date="2023-08-01", end_date="2023-08-31")
JUNE = SearchOptions(start_date="2024-06-01", end_date="2024-06-30")
DEMO_AOI = Aoi("EPSG:32633", (501005, 5196005, 504005, 5199005))


FOUR_BANDS = FetchOptions()


def fetch(api, folder, search=AUGUST, options=FOUR_BANDS, aoi=INSIDE, crs="", progress=None):
    search = replace(search, stac_url=api)
    return run_fetch(search, options, aoi, str(folder / "o.tif"), str(folder / "o.json"), crs, progress or Progress())


def test_search_filters_and_sorts_on_the_client(earth_search):
    api, _ = earth_search
    found = find_scenes(replace(AUGUST, stac_url=api, max_cloud_cover=50), INSIDE, Progress())
    assert [s.datetime[:10] for s in found] == ["2023-08-15", "2023-08-13", "2023-08-20", "2023-08-18"]
    assert found[0].cloud_cover == pytest.approx(0.207328)
    assert (found[0].tile, found[0].baseline, found[0].platform) == ("33TWM", "05.09", "sentinel-2a")
    one_day = find_scenes(replace(AUGUST, stac_url=api, start_date="2023-08-13", end_date="2023-08-13"), INSIDE, Progress())
    assert [s.datetime[:10] for s in one_day] == ["2023-08-13"]
    assert len(find_scenes(replace(AUGUST, stac_url=api, max_cloud_cover=100, limit=2), INSIDE, Progress())) == 2


def test_least_cloudy_scene_pixel_for_pixel_without_a_second_offset(earth_search, tmp_path):
    api, _ = earth_search
    report = fetch(api, tmp_path, replace(AUGUST, max_cloud_cover=5))
    assert report.scene.id == "S2A_33TWM_20230815_0_L2A"
    stack = gdal.Open(str(tmp_path / "o.tif"))
    x0, dx, _, y0, _, dy = stack.GetGeoTransform()
    assert (dx, dy) == (120, -120)
    for index, name in enumerate(("B02", "B03", "B04", "B08"), 1):
        source = gdal.Open(str(SHARED / "earth_search_33twm" / report.scene.id / f"{name}.tif"))
        sx, _, _, sy, _, _ = source.GetGeoTransform()
        expected = source.ReadAsArray(round((x0 - sx) / 120), round((sy - y0) / 120), stack.RasterXSize, stack.RasterYSize)
        np.testing.assert_array_equal(stack.GetRasterBand(index).ReadAsArray(), expected)
    assert x0 <= 540000 < x0 + 120 and y0 - 120 < 5150000 <= y0
    ledger = json.loads((tmp_path / "o.json").read_text())
    assert ledger["bands"]["B04"]["add_dn"] == 0 and "boa_offset_applied" in ledger["bands"]["B04"]["reason"]
    assert ledger["scene"]["cloud_cover"] == pytest.approx(0.207328)
    assert "boa_offset_applied" in stack.GetMetadataItem("S2LC_RADIOMETRY")


def test_offset_still_in_the_pixels_is_removed(demo_catalog, demo_root, tmp_path):
    fetch(demo_catalog[0], tmp_path, JUNE, FetchOptions(bands=("B04",)), DEMO_AOI)
    source = read(demo_root[0] / "S2A_33TWM_20240612_0_L2A" / "B04.tif")[0].astype(int)
    x, y = (501000 - scene.ORIGIN[0]) // 10, (scene.ORIGIN[1] - 5199010) // 10
    expected = np.maximum(source[int(y) : int(y) + 301, int(x) : int(x) + 301] - 1000, 1)
    np.testing.assert_array_equal(read(tmp_path / "o.tif")[0], expected)


@pytest.mark.parametrize("resolution", ["10", "20", "60"])
def test_twelve_bands_on_one_grid_equal_gdalwarp(demo_catalog, demo_root, tmp_path, resolution):
    bands = ("B02", "B05", "B01")
    report = fetch(demo_catalog[0], tmp_path, JUNE, FetchOptions(bands=bands, resolution=resolution), DEMO_AOI)
    size = int(resolution)
    x0, y0 = scene.ORIGIN
    b = report.grid.bounds
    assert report.grid.pixel_size == (size, size)
    assert (b[0] - x0) % size == 0 and (y0 - b[3]) % size == 0
    assert b[0] <= 501005 < b[0] + size and b[2] - size < 504005 <= b[2]
    for plane, name, native in zip(read(tmp_path / "o.tif"), bands, (10, 20, 60)):
        how = "average" if native < size else "bilinear"
        path = str(demo_root[0] / "S2A_33TWM_20240612_0_L2A" / f"{name}.tif")
        warped = gdal.Warp("", path, format="MEM", outputBounds=b, xRes=size, yRes=size, resampleAlg=how, errorThreshold=0)
        np.testing.assert_array_equal(plane, np.maximum(warped.ReadAsArray().astype(int) - 1000, 1))


def test_bytes_read_are_reported_and_stay_near_the_tiles_touched(demo_catalog, demo_root, tmp_path):
    api, files = demo_catalog
    before = files.bytes_sent(".tif")
    report = fetch(api, tmp_path, JUNE, FetchOptions(bands=("B02", "B03", "B04", "B08")), DEMO_AOI)
    served = files.bytes_sent(".tif") - before
    assert report.bytes_read == served
    touched = 0
    for name in ("B02", "B03", "B04", "B08"):
        dataset = gdal.Open(str(demo_root[0] / report.scene.id / f"{name}.tif"))
        columns = range(int((501000 - scene.ORIGIN[0]) // 2560), int((504010 - 1 - scene.ORIGIN[0]) // 2560) + 1)
        rows = range(int((scene.ORIGIN[1] - 5199010) // 2560), int((scene.ORIGIN[1] - 5196000 - 1) // 2560) + 1)
        band = dataset.GetRasterBand(1)
        touched += sum(int(band.GetMetadataItem(f"BLOCK_SIZE_{x}_{y}", "TIFF")) for x in columns for y in rows)
    assert touched > 100_000
    assert served <= 1.5 * touched


def test_clouds_are_masked_in_the_cloudy_scene(demo_catalog, demo_root, tmp_path):
    options = FetchOptions(bands=("B02", "SCL"), mask_clouds=True)
    search = replace(JUNE, start_date="2024-06-20")
    report = fetch(demo_catalog[0], tmp_path, search, options, Aoi("EPSG:32633", (500040, 5193960, 506040, 5199960)))
    scl = read(demo_root[0] / report.scene.id / "SCL.tif")[0].repeat(2, 0).repeat(2, 1)
    cloudy = np.isin(scl, (3, 8, 9, 10))
    blue, classes = read(tmp_path / "o.tif")
    assert 0.1 < cloudy.mean() < 0.5
    np.testing.assert_array_equal(blue == 0, cloudy)
    np.testing.assert_array_equal(classes, np.where(cloudy, 0, scl))
    assert report.valid_share == pytest.approx(1 - cloudy.mean())


def test_newest_scene_and_scene_ids(earth_search, tmp_path):
    api, _ = earth_search
    newest = FetchOptions(bands=("B04",), selection="newest")
    assert fetch(api, tmp_path, AUGUST, newest).scene.datetime.startswith("2023-08-20")
    named = replace(AUGUST, scene_ids=("S2B_33TWM_20230810_0_L2A",))
    assert fetch(api, tmp_path, named, FetchOptions(bands=("B04",))).scene.cloud_cover > 70


def test_target_crs(earth_search, tmp_path):
    report = fetch(earth_search[0], tmp_path, AUGUST, FetchOptions(bands=("B04",)), crs="EPSG:3035")
    dataset = gdal.Open(str(tmp_path / "o.tif"))
    assert dataset.GetSpatialRef().GetAuthorityCode(None) == "3035"
    path = str(SHARED / "earth_search_33twm" / report.scene.id / "B04.tif")
    b = report.grid.bounds
    # without XSCALE GDAL widens the kernel by the shape of each chunk
    exact = {"errorThreshold": 0, "warpOptions": ["XSCALE=1", "YSCALE=1"], "overviewLevel": "NONE", "resampleAlg": "bilinear"}
    expected = gdal.Warp("", path, format="MEM", dstSRS="EPSG:3035", outputBounds=b, xRes=120, yRes=120, **exact)
    np.testing.assert_array_equal(dataset.ReadAsArray(), expected.ReadAsArray())


def test_area_partly_outside_is_nodata_there_and_told(earth_search, tmp_path, messages):
    aoi = Aoi("EPSG:32633", (590000, 5110000, 620000, 5130000))
    report = fetch(earth_search[0], tmp_path, AUGUST, FetchOptions(bands=("B04",)), aoi, progress=messages.progress)
    assert 0.5 < report.valid_share < 0.75
    assert any("covers" in text and "nodata" in text for text in messages.warnings)


@pytest.mark.parametrize(
    ("search", "options", "aoi", "said"),
    [
        (
            replace(AUGUST, start_date="2021-01-01", end_date="2021-02-01"),
            FetchOptions(),
            INSIDE,
            "No scene was found.*2021-01-01 to 2021-02-01",
        ),
        (AUGUST, FetchOptions(), Aoi("EPSG:4326", (0, 0, 1, 1)), "No scene was found"),
        (replace(AUGUST, start_date="2023-08-31", end_date="2023-08-01"), FetchOptions(), INSIDE, "last date is before the first"),
        (replace(AUGUST, start_date="August"), FetchOptions(), INSIDE, "is not a date: START_DATE"),
        (AUGUST, FetchOptions(bands=("B11",)), INSIDE, "no band B11: S2A_33TWM_20230815_0_L2A.*B02, B03, B04, B08, SCL"),
        (AUGUST, FetchOptions(bands=("B99",)), INSIDE, "not a choice: BANDS"),
        (AUGUST, FetchOptions(bands=()), INSIDE, "No band is chosen"),
        (AUGUST, FetchOptions(max_megabytes=1), Aoi("EPSG:32633", (500000, 5091000, 609000, 5200000)), "more than the 1 MB allowed"),
        (replace(AUGUST, max_cloud_cover=0.01), FetchOptions(), INSIDE, "cloud cover up to 0.01 %"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_no_file(earth_search, tmp_path, search, options, aoi, said):
    with pytest.raises(EngineError, match=said):
        fetch(earth_search[0], tmp_path, search, options, aoi)
    assert list(tmp_path.iterdir()) == []


def test_unreachable_and_strange_servers(earth_search, tmp_path):
    _, files = earth_search
    nobody = f"http://127.0.0.1:{servers.free_port()}"
    page = f"{files.url}/S2A_33TWM_20230815_0_L2A/B04.tif"
    for address, said in (
        (nobody, "cannot be read.*refused"),
        (page, "JSON"),
        (f"{files.url}/no.json", "404"),
        (str(tmp_path / "no.json"), "cannot be read"),
    ):
        with pytest.raises(EngineError, match=said) as caught:
            fetch(address, tmp_path)
        assert address in str(caught.value) and "object at 0x" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_missing_asset_file_is_named_and_leaves_no_file(earth_search_items, earth_search, tmp_path):
    items = servers.with_base(earth_search_items, earth_search[1].url)
    for item in items:
        item["assets"]["red"]["href"] = f"{earth_search[1].url}/gone/B04.tif"
    catalog = tmp_path / "items.json"
    catalog.write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(EngineError, match="cannot be opened.*404.*gone/B04.tif"):
        fetch(str(catalog), out)
    assert list(out.iterdir()) == []


def test_item_collection_file_with_relative_hrefs(demo_root, tmp_path):
    root, items = demo_root
    catalog = root / "items.json"
    catalog.write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    report = fetch(str(catalog), tmp_path, JUNE, FetchOptions(bands=("B04",)), DEMO_AOI)
    assert report.scene.id == "S2A_33TWM_20240612_0_L2A" and report.bytes_read == 0


def test_static_catalog_is_walked(demo_root, tmp_path):
    root, items = demo_root
    for item in items:
        (root / f"{item['id']}.json").write_text(json.dumps(item))
    links = [{"rel": "item", "href": f"./{item['id']}.json"} for item in items]
    (root / "collection.json").write_text(json.dumps({**scene.collection(), "links": links}))
    (root / "catalog.json").write_text(
        json.dumps(
            {
                "type": "Catalog",
                "stac_version": "1.0.0",
                "id": "c",
                "description": "",
                "links": [{"rel": "child", "href": "collection.json"}],
            }
        )
    )
    found = find_scenes(replace(JUNE, stac_url=str(root / "catalog.json")), DEMO_AOI, Progress())
    assert [s.datetime[:10] for s in found] == ["2024-06-12", "2024-06-27"]
    assert fetch(str(root / "catalog.json"), tmp_path, JUNE, FetchOptions(bands=("B08",)), DEMO_AOI).valid_share == 1


def test_remote_catalog_must_not_name_local_files(demo_root, tmp_path):
    root, items = demo_root
    local = json.loads(json.dumps(items))
    for asset in local[0]["assets"].values():
        asset["href"] = f"file://{root}/{asset['href']}"
    work = tmp_path / "work"
    work.mkdir()
    out = tmp_path / "out"
    out.mkdir()
    with servers.stac_api([scene.collection()], local[:1], work) as api:
        with pytest.raises(EngineError, match="names a file of this machine"):
            fetch(api, out, JUNE, FetchOptions(bands=("B04",)), DEMO_AOI)
    assert list(out.iterdir()) == []


def test_cancel_leaves_nothing(demo_catalog, tmp_path):
    complete = Messages()
    (tmp_path / "whole").mkdir()
    fetch(demo_catalog[0], tmp_path / "whole", JUNE, FetchOptions(), DEMO_AOI, progress=complete.progress)
    out = tmp_path / "out"
    out.mkdir()
    for stop in range(complete.asked - 1):
        with pytest.raises(Cancelled):
            fetch(demo_catalog[0], out, JUNE, FetchOptions(), DEMO_AOI, progress=Messages(cancel_after=stop).progress)
        assert list(out.iterdir()) == []


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (
            "earth-search_sentinel-2-c1-l2a_13TDE_2024_10items.json",
            {"B04": "B04.tif", "B8A": "B8A.tif", "SCL": "SCL.tif", "B05": "B05.tif"},
        ),
        ("earth-search_sentinel-2-l2a_S2A_32TPS_20230602.json", {"B04": "B04.tif", "B01": "B01.tif", "SCL": "SCL.tif", "B05": "B05.tif"}),
        ("pc_sentinel-2-l2a_13TDE_202408_2items.json", {"B04": "B04_10m.tif", "B8A": "B8A_20m.tif", "SCL": "SCL_20m.tif"}),
        ("cdse_sentinel-2-l2a_T36NYH_20200322_N0500.json", {"B04": "B04_10m.jp2", "B01": "B01_60m.jp2", "SCL": "SCL_20m.jp2"}),
    ],
)
def test_assets_of_every_provider(pattern, expected, tmp_path):
    path = shared_data("stac") / pattern
    document = json.loads(path.read_text())
    item = (document.get("features") or [document])[0]
    catalog = tmp_path / "items.json"
    catalog.write_text(json.dumps({"type": "FeatureCollection", "features": [item]}))
    x, y = item["bbox"][0], item["bbox"][1]
    aoi = Aoi("EPSG:4326", (x, y, item["bbox"][2], item["bbox"][3]))
    (found,) = find_scenes(SearchOptions(stac_url=str(catalog), max_cloud_cover=100), aoi, Progress())
    got = band_assets(found, expected)
    assert all(got[name].href.endswith(ending) for name, ending in expected.items()), {n: a.href for n, a in got.items()}
