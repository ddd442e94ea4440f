"""Searching and fetching from a real STAC API (rustac) and a real HTTP server (nginx)."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from osgeo import gdal

from demo import scene, servers
from s2landcover_plugin.engine.crs import Aoi
from s2landcover_plugin.engine.errors import Cancelled, EngineError
from s2landcover_plugin.engine.fetch import FetchOptions, run_fetch
from s2landcover_plugin.engine.progress import Progress
from s2landcover_plugin.engine.radiometry import decide
from s2landcover_plugin.engine.stac import SearchOptions, band_assets, date_range, find_scenes

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
    (used,) = ledger["scenes"]
    assert used["bands"]["B04"]["add_dn"] == 0 and "boa_offset_applied" in used["bands"]["B04"]["reason"]
    assert used["cloud_cover"] == pytest.approx(0.207328) and len(ledger["found"]) == 3
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


@pytest.mark.parametrize(("change_item", "rule"), [({"earthsearch:boa_offset_applied": True}, "boa_offset_applied"), ({}, "")])
def test_contradiction_between_rule_and_pixels_names_both(demo_root, tmp_path, messages, change_item, rule):
    root, items = demo_root
    catalog = root / "contradiction.json"
    catalog.write_text(json.dumps(change(items[0], **change_item)))
    fetch(str(catalog), tmp_path, JUNE, FetchOptions(bands=("B02", "B04", "B12")), DEMO_AOI, progress=messages.progress)
    told = [text for text in messages.warnings if "contradict" in text]
    assert len(told) == bool(rule) and all(rule in text and "lowest DN" in text and "present" in text for text in told)
    swir = json.loads((tmp_path / "o.json").read_text())["scenes"][0]["bands"]["B12"]
    assert swir["evidence"]["pixels_say"] == "present"
    assert swir["add_dn"] == (0 if rule else -1000)
    assert 900 < swir["evidence"]["lowest_dn"] < 1300


PRIOR_READ = """
import sys
from osgeo import gdal
from s2landcover_plugin.engine import crs, fetch, progress, stac
api, asset, target = sys.argv[1:]
gdal.Open("/vsicurl/" + asset).ReadAsArray(0, 0, 10, 10)
gdal.SetConfigOption("GDAL_HTTP_TIMEOUT", "77")
search = stac.SearchOptions(stac_url=api, start_date="2024-06-01", end_date="2024-06-30")
aoi = crs.Aoi("EPSG:32633", (501005, 5196005, 504005, 5199005))
report = fetch.run_fetch(search, fetch.FetchOptions(bands=("B08",)), aoi, target, "", "", progress.Progress())
print(report.bytes_read, gdal.GetConfigOption("GDAL_HTTP_TIMEOUT"), gdal.GetConfigOption("CPL_VSIL_CURL_ALLOWED_EXTENSIONS"))
"""


def test_bytes_are_counted_after_other_reads_and_settings_of_the_process_are_kept(demo_catalog, tmp_path):
    api, files = demo_catalog
    asset = f"{files.url}/S2A_33TWM_20240612_0_L2A/B04.tif"
    before = files.bytes_sent("B08.tif", "SCL.tif")
    command = [sys.executable, "-c", PRIOR_READ, api, asset, str(tmp_path / "o.tif")]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert said == [str(files.bytes_sent("B08.tif", "SCL.tif") - before), "77", "None"]


@pytest.fixture
def hanging_server():
    """A server that accepts connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(20)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


class CancelAfterWaiting(Messages):
    """Asks to stop once the run has waited for a while."""

    def _cancelled(self):
        self.asked += 1
        return self.asked > 8


@pytest.mark.parametrize("where", ["search", "assets"])
def test_cancel_does_not_wait_for_a_server_that_hangs(hanging_server, demo_root, tmp_path, where):
    items = servers.with_base(demo_root[1], hanging_server)
    catalog = tmp_path / "items.json"
    catalog.write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    out = tmp_path / "out"
    out.mkdir()
    started = time.monotonic()
    with pytest.raises(Cancelled):
        address = hanging_server if where == "search" else str(catalog)
        fetch(address, out, JUNE, FetchOptions(bands=("B04",)), DEMO_AOI, progress=CancelAfterWaiting().progress)
    # far below the time limits of the network (10 s and more)
    assert time.monotonic() - started < 5
    assert list(out.iterdir()) == []


def change(item, **properties):
    """A copy of an item with other properties."""
    copy = json.loads(json.dumps(item))
    copy["properties"].update(properties)
    return copy


def test_odd_entries_are_left_out_and_told(demo_root, tmp_path, messages):
    good = demo_root[1][0]
    odd = [
        None,
        "text",
        5,
        [],
        {},
        {**good, "properties": []},
        {**good, "geometry": None},
        {**good, "id": None},
        change(good, datetime=None),
    ]
    ring = {"type": "Polygon", "coordinates": [[[15, 46]]]}
    odd_but_items = [{**good, "id": "bad-ring", "geometry": ring}, {**good, "id": "bad-links", "links": ["x", None]}]
    catalog = tmp_path / "items.json"
    catalog.write_text(json.dumps({"type": "FeatureCollection", "features": [*odd, *odd_but_items, good]}))
    found = find_scenes(replace(JUNE, stac_url=str(catalog)), DEMO_AOI, messages.progress)
    assert sorted(scene.id for scene in found) == sorted([good["id"], "bad-links"])
    assert any(text.startswith("9 entries") for text in messages.warnings)


@pytest.mark.parametrize(
    "change_asset",
    [
        lambda a: a.update(href=None),
        lambda a: a.pop("href"),
        lambda a: a.update({"eo:bands": ["x"], "roles": 5, "gsd": "10m"}),
        lambda a: a.update({"eo:bands": {"name": "B04"}}),
        lambda a: a.update({"raster:bands": ["x"]}),
        lambda a: a.update({"raster:bands": [{"scale": "abc"}]}),
        lambda a: a.update({"raster:bands": [{"scale": 0.0001, "offset": float("nan")}]}),
        lambda a: a.update({"raster:bands": [{"scale": -1}]}),
    ],
)
def test_odd_assets_end_in_one_sentence_or_a_good_stack(demo_root, tmp_path, change_asset):
    root, items = demo_root
    item = json.loads(json.dumps(items[0]))
    change_asset(item["assets"]["red"])
    catalog = root / "odd.json"
    catalog.write_text(json.dumps(item))
    try:
        report = fetch(str(catalog), tmp_path, JUNE, FetchOptions(bands=("B04",)), DEMO_AOI)
        assert report.valid_share == 1 and read(tmp_path / "o.tif").max() < 20000
    except EngineError as err:
        assert item["id"] in str(err) or "scale" in str(err)
        assert list(tmp_path.iterdir()) == []


def test_scale_one_and_offset_zero_mean_nothing_is_scaled():
    asset = {"raster:bands": [{"scale": 1, "offset": 0}]}
    decision = decide({"s2:processing_baseline": "05.09"}, asset, "")
    assert (decision.gain, decision.add_dn) == (1, -1000)
    assert not decide({"s2:processing_baseline": "99.99"}, {}, "").certain


def test_collection_is_respected_in_item_collections(demo_root, tmp_path):
    other = {**demo_root[1][0], "id": "other", "collection": "landsat-c2-l2"}
    catalog = tmp_path / "items.json"
    catalog.write_text(json.dumps({"type": "FeatureCollection", "features": [other, demo_root[1][0]]}))
    search = replace(JUNE, stac_url=str(catalog), collection=scene.COLLECTION)
    assert [s.id for s in find_scenes(search, DEMO_AOI, Progress())] == [demo_root[1][0]["id"]]


def test_unknown_cloud_cover_is_told(demo_root, tmp_path, messages):
    catalog = tmp_path / "items.json"
    features = [change(demo_root[1][0], **{"eo:cloud_cover": None}), change(demo_root[1][1], **{"eo:cloud_cover": "1.5"})]
    catalog.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    found = find_scenes(replace(JUNE, stac_url=str(catalog)), DEMO_AOI, messages.progress)
    assert [s.cloud_cover for s in found] == [1.5]
    assert any("1 scenes state no cloud cover" in text for text in messages.warnings)


@pytest.mark.parametrize("text", ["20240601", "2024-06-180", "2024-13-01", "yesterday", "2024-W20-1"])
def test_dates_are_iso_and_nothing_else(text):
    with pytest.raises(EngineError, match="is not a date"):
        date_range(SearchOptions(start_date=text))


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ([], "not STAC"),
        ({"type": "FeatureCollection", "features": None}, "not STAC"),
        ({"type": "Collection", "links": []}, "lists no items"),
        ({"type": "Catalog", "links": [{"rel": "child", "href": "other.json"}]}, "not STAC|cannot be read"),
    ],
)
def test_documents_that_are_no_catalog(tmp_path, document, said):
    (tmp_path / "other.json").write_text("[1, 2]")
    catalog = tmp_path / "c.json"
    catalog.write_text(json.dumps(document))
    with pytest.raises(EngineError, match=said):
        find_scenes(SearchOptions(stac_url=str(catalog)), DEMO_AOI, Progress())


def test_addresses_that_are_none():
    for address in ("http://", "http://[::1", "http://127.0.0.1:99999"):
        with pytest.raises(EngineError, match="not valid"):
            find_scenes(SearchOptions(stac_url=address), DEMO_AOI, Progress())


def test_files_with_percent_and_file_addresses(demo_root, tmp_path):
    folder = tmp_path / "a b"
    folder.mkdir()
    item = json.loads(json.dumps(demo_root[1][0]))
    shutil.copy(demo_root[0] / item["assets"]["red"]["href"], folder / "B04 x.tif")
    for href in ("B04%20x.tif", f"file://{folder}/B04%20x.tif".replace(" ", "%20")):
        item["assets"]["red"]["href"] = href
        (folder / "item.json").write_text(json.dumps(item))
        out = tmp_path / "out"
        out.mkdir(exist_ok=True)
        address = f"file://{folder}/item.json".replace(" ", "%20")
        assert fetch(address, out, JUNE, FetchOptions(bands=("B04",)), DEMO_AOI).valid_share == 1
