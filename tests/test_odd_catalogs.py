"""Catalogs, items and servers that are odd or hostile: a good result or one sentence, and nothing of what is secret."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import numpy as np
import pytest
from osgeo import ogr

from demo import scene as demo_scene
from s2landcover_plugin.engine import addresses
from s2landcover_plugin.engine.credentials import Credentials, s3_address
from s2landcover_plugin.engine.crs import Aoi
from s2landcover_plugin.engine.errors import EngineError
from s2landcover_plugin.engine.fetch import FetchOptions, run_fetch
from s2landcover_plugin.engine.http import Connection
from s2landcover_plugin.engine.stac import SearchOptions, find_scenes

from .conftest import Messages, put, read, write_raster
from .fault_server import FaultServer, Reply, running
from .network import AOI, cdse_item, fetch, item, same


def test_a_login_is_not_posted_to_where_a_redirect_points(root, out):
    strangers = FaultServer(root[0], special=lambda request: Reply(200, b'{"access_token": "bearer-evil"}'))
    with running(strangers):

        def special(request):
            if request.path.endswith("openid-configuration"):
                return Reply(200, json.dumps({"token_endpoint": f"http://{request.headers['Host']}/token"}).encode())
            return Reply(307, b"", {"Location": f"{strangers.url}/token"}) if request.path == "/token" else None

        with running(FaultServer(root[0], special=special)) as server:
            (root[0] / "items.json").write_text(json.dumps(cdse_item(server)))
            with pytest.raises(EngineError, match=r"refuses access \(HTTP 307\)"):
                fetch(f"{server.url}/items.json", out, "copernicus", Credentials(user="me@x.org", password="hunter2"))
    assert strangers.requests == []


@pytest.mark.parametrize(
    "credentials",
    [
        Credentials(token="bearer-1\nbearer-2"),
        Credentials().chosen_headers({"X-Key": "shh\n"}),
        Credentials().chosen_headers({"X-Key:": "shh"}),
        Credentials().chosen_headers({"": "shh"}),
        Credentials().chosen_headers({"X-Key": "shh\u20ac"}),
    ],
)
def test_credentials_that_no_header_can_hold_are_not_quoted(root, out, credentials):
    with running(FaultServer(root[0])) as server:
        (root[0] / "items.json").write_text(json.dumps(cdse_item(server)))
        with pytest.raises(EngineError, match="credential"):
            fetch(f"{server.url}/items.json", out, "copernicus", credentials)


def test_no_scene_and_a_bad_scale_show_no_secret(root, out):
    bad = item()
    bad["assets"]["red"]["href"] = "http://127.0.0.1/B04.tif?se=1&sig=shh"
    bad["assets"]["red"]["raster:bands"] = [{"scale": "shh"[:0]}]
    (root[0] / "items.json").write_text(json.dumps(bad))
    with running(FaultServer(root[0])) as server:
        address = server.url.replace("//", "//me:shh@") + "/items.json?token=shh"
        with pytest.raises(EngineError):
            fetch(address, out)
        (root[0] / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": []}))
        with pytest.raises(EngineError, match="No scene was found"):
            fetch(address, out)


@pytest.mark.parametrize("exceptions", [False, True])
def test_footprints_that_cross_themselves_count(exceptions, capfd):
    """Two halves of the area, one of them with a spike."""
    aoi = Aoi("EPSG:4326", (10, 45, 12, 46))
    good = {"type": "Polygon", "coordinates": [[[10, 45], [11, 45], [11, 46], [10, 46], [10, 45]]]}
    spike = {"type": "Polygon", "coordinates": [[[11, 45], [12, 45], [13, 45], [12, 45], [12, 46], [11, 46], [11, 45]]]}
    bow = {"type": "Polygon", "coordinates": [[[11, 45], [12, 46], [12, 45], [11, 46], [11, 45]]]}
    if exceptions:
        ogr.UseExceptions()
    try:
        share = [aoi.share_inside(*map(json.dumps, shapes)) for shapes in ((good, spike), (spike, good), (good, bow), (bow, bow, good))]
    finally:
        ogr.DontUseExceptions()
    assert share == pytest.approx([1, 1, 0.75, 0.75]) and "ERROR" not in capfd.readouterr().err


def test_an_area_torn_apart_by_the_edge_of_a_map_is_refused():
    aoi = Aoi("EPSG:4326", center=(180.0, -17.0), size_km=(2, 2))
    for crs in ("EPSG:3857", "EPSG:8857"):
        with pytest.raises(EngineError, match="torn apart"):
            aoi.bounds_in(crs)
    x0, _, x1, _ = Aoi("EPSG:4326", center=(179.0, -17.0), size_km=(2, 2)).bounds_in("EPSG:3857")
    assert 2000 < x1 - x0 < 2200


@pytest.mark.parametrize("crs", ["EPSG:2056", "EPSG:31468", "EPSG:3416", "EPSG:3035"])
def test_a_crs_with_several_datum_operations_has_no_gap(scene, tmp_path, crs):
    """Some far from where they are meant for."""
    options = FetchOptions(bands=("B04",), resampling="nearest")
    search = SearchOptions(stac_url=str(scene[0] / "items.json"))
    inner = Aoi("EPSG:32633", (501000, 5196000, 504000, 5199000))
    report = run_fetch(search, options, inner, str(tmp_path / "o.tif"), "", crs, Messages().progress)
    assert report.valid_share == 1


def test_real_numbers_without_a_scale_are_reflectance(tmp_path, messages):
    rng = np.random.default_rng(2)
    values = rng.uniform(0.01, 0.3, (1, 500, 500)).astype(np.float32)
    write_raster(tmp_path / "B04.tif", values, nodata=-1, transform=(500000, 10, 0, 5200000, 0, -10))
    made = item(B04="B04.tif")
    made["assets"] = {"red": made["assets"]["red"]}
    (tmp_path / "items.json").write_text(json.dumps(made))
    search = SearchOptions(stac_url=str(tmp_path / "items.json"))
    report = run_fetch(search, FetchOptions(bands=("B04",)), AOI, str(tmp_path / "o.tif"), "", "", messages.progress)
    assert report.valid_share == 1
    np.testing.assert_array_equal(read(tmp_path / "o.tif")[0], np.rint(values[0, 40:260, 40:260].astype(float) * 10000))


TRICKLE = """
import sys, threading
from s2landcover_plugin.engine.crs import Aoi
from s2landcover_plugin.engine.errors import Cancelled
from s2landcover_plugin.engine.progress import Progress
from s2landcover_plugin.engine.stac import SearchOptions, find_scenes
asked = []
progress = Progress(is_cancelled=lambda: asked.append(1) or len(asked) > 5)
try:
    find_scenes(SearchOptions(stac_url=sys.argv[1]), Aoi("EPSG:4326", (0, 0, 1, 1)), progress)
except Cancelled:
    print("cancelled")
"""


def test_a_process_ends_at_once_after_a_cancel(tmp_path):
    (tmp_path / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": [], "pad": "x" * 5000}))
    with running(FaultServer(tmp_path, lambda path, n: "trickle")) as server:
        started = time.monotonic()
        command = [sys.executable, "-c", TRICKLE, f"{server.url}/items.json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        assert done.stdout.strip() == "cancelled" and time.monotonic() - started < 40


def test_the_time_limit_ends_a_catalog_that_trickles(tmp_path):
    (tmp_path / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": [], "pad": "x" * 5000}))
    with running(FaultServer(tmp_path, lambda path, n: "trickle")) as server:
        started = time.monotonic()
        with pytest.raises(EngineError, match="time limit"):
            find_scenes(SearchOptions(stac_url=f"{server.url}/items.json"), AOI, Messages().progress, Connection(deadline=started + 0.5))
        assert time.monotonic() - started < 15


@pytest.mark.parametrize(
    "spoil",
    [
        put("assets", "red", "auth:refs", 5),
        put("assets", "red", "auth:refs", True),
        put("assets", "red", "alternate", [1]),
        put("assets", "red", "alternate", {"https": {"href": None}}),
        put("assets", "red", "storage:refs", {"a": 1}),
        put("properties", "auth:schemes", "x"),
        put("properties", "storage:schemes", 7),
        put("assets", "red", "proj:shape", [float("inf"), 10]),
        put("assets", "red", "proj:shape", [10**300, 10**300]),
        put("properties", "proj:transform", [1e300, 0, 0, 0, float("nan"), 0]),
        put("properties", "s2:processing_baseline", "05.\u00b2"),
        put("id", "lone \ud800 surrogate"),
        put("id", "two\nlines\x1b[31m"),
    ],
)
def test_odd_items_give_a_stack_or_one_line(scene, tmp_path, spoil):
    folder, expected = scene
    made = item(**{name: str(folder / f"{name}.tif") for name in ("B03", "B04", "SCL")})
    spoil(made)
    (tmp_path / "items.json").write_text(json.dumps(made))
    result = tmp_path / "out"
    result.mkdir()
    messages = Messages()
    search = SearchOptions(stac_url=str(tmp_path / "items.json"))
    how = Connection(credentials=Credentials(token="bearer-1"))
    try:
        run_fetch(search, FetchOptions(bands=("B04",)), AOI, str(result / "o.tif"), str(result / "o.json"), "", messages.progress, how)
        np.testing.assert_array_equal(read(result / "o.tif")[0], expected[1])
    except EngineError as err:
        assert "\n" not in str(err) and "\x1b" not in str(err) and list(result.iterdir()) == []


@pytest.mark.parametrize("numbers", [[float("nan"), 1], [float("inf"), 1], [None, None], ["a", "b"]])
def test_footprints_without_numbers_are_left_out(tmp_path, numbers):
    made = item()
    made["geometry"] = {"type": "Polygon", "coordinates": [[numbers, [1, 2], [3, 4], numbers]]}
    (tmp_path / "items.json").write_text(json.dumps(made))
    assert find_scenes(SearchOptions(stac_url=str(tmp_path / "items.json")), AOI, Messages().progress) == []


@pytest.mark.parametrize("location", ["http://[bad", "http://a..b/", "http://" + "x" * 80 + ".org/"])
def test_redirects_to_nowhere_are_one_sentence(root, out, location):
    for ending in ("B04.tif", "items.json"):

        def special(request, ending=ending):
            return Reply(302, b"", {"Location": location}) if request.path.endswith(ending) else None

        with running(FaultServer(root[0], special=special)) as server:
            with pytest.raises(EngineError) as caught:
                fetch(f"{server.url}/items.json", out)
            assert server.url in caught.value.where and "damaged" not in str(caught.value)


def test_odd_lengths_are_no_damage(root, out):
    def special(request):
        if not request.path.endswith("B04.tif"):
            return None
        data = (root[0] / "B04.tif").read_bytes()
        start, stop = (int(n) for n in request.headers["Range"].removeprefix("bytes=").split("-"))
        return Reply(206, data[start : stop + 1], {"Content-Range": f"bytes {start}-{stop}/*"})

    with running(FaultServer(root[0], special=special)) as server:
        with pytest.raises(EngineError, match="does not tell the size"):
            fetch(f"{server.url}/items.json", out)


def test_gdal_settings_of_the_environment_do_not_make_it_read_whole_files(root, out, monkeypatch):
    with running(FaultServer(root[0])) as server:
        plain = fetch(f"{server.url}/items.json", out).bytes_read
        monkeypatch.setenv("CPL_VSIL_CURL_USE_HEAD", "NO")
        assert fetch(f"{server.url}/items.json", out).bytes_read == plain


# APIs and static catalogs


def api(method):
    """A STAC API that knows one method of searching, with relative self links."""

    def special(request):
        here = f"http://{request.headers['Host']}"
        if request.path.rstrip("/") == "/api":
            links = [{"rel": "search", "href": f"{here}/api/search", "type": "application/geo+json", "method": method}]
            conforms = ["https://api.stacspec.org/v1.0.0/core", "https://api.stacspec.org/v1.0.0/item-search"]
            body = {"type": "Catalog", "id": "c", "description": "", "stac_version": "1.0.0", "links": links, "conformsTo": conforms}
            return Reply(200, json.dumps(body).encode(), {"Content-Type": "application/json"})
        if request.path.startswith("/api/search"):
            if request.command != method:
                return Reply(405, b"<html>\n<b>no sig=shh</b>\n</html>")
            made = item(**{name: f"{here}/{name}.tif" for name in ("B03", "B04", "SCL")})
            made["links"] = [{"rel": "self", "href": "./items/one"}]
            return Reply(200, json.dumps({"type": "FeatureCollection", "features": [made], "links": []}).encode())
        return None

    return special


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_apis_are_searched_the_way_they_offer(root, out, method):
    with running(FaultServer(root[0], special=api(method))) as server:
        fetch(f"{server.url}/api", out)
    same(out, root[1])


def test_error_pages_of_an_api_are_not_quoted(root, out):
    def special(request):
        return Reply(400, b"<html>\n<b>no sig=shh</b>\n</html>") if "search" in request.path else api("POST")(request)

    with running(FaultServer(root[0], special=special)) as server:
        with pytest.raises(EngineError, match=r"cannot be read \(HTTP 400\)"):
            fetch(f"{server.url}/api", out)


def test_a_catalog_that_has_moved_and_one_that_contains_itself(root, out):
    (root[0] / "items.json").rename(root[0] / "one.json")
    made = item()
    (root[0] / "deep").mkdir()
    for name in ("B03", "B04", "SCL"):
        (root[0] / f"{name}.tif").rename(root[0] / "deep" / f"{name}.tif")
    (root[0] / "deep" / "one.json").write_text(json.dumps(made))
    links = [{"rel": "child", "href": "./catalog.json"}, {"rel": "item", "href": "one.json"}]
    (root[0] / "deep" / "catalog.json").write_text(json.dumps({**demo_scene.collection(), "links": links}))

    def moved(request):
        return Reply(301, b"", {"Location": "/deep/catalog.json"}) if request.path == "/catalog.json" else None

    with running(FaultServer(root[0], special=moved)) as server:
        fetch(f"{server.url}/catalog.json", out)
    same(out, root[1])


def test_a_folder_that_is_not_there_is_noticed_before_anything_is_read(root, out):
    with running(FaultServer(root[0])) as server:
        search = SearchOptions(stac_url=f"{server.url}/items.json")
        with pytest.raises(EngineError, match="output folder does not exist"):
            ledger = str(out / "no" / "o.json")
            run_fetch(search, FetchOptions(bands=("B04",)), AOI, str(out / "o.tif"), ledger, "", Messages().progress)
        assert server.bytes_sent(".tif") == 0


def test_names_with_percent_signs_and_windows_addresses():
    assert s3_address("s3://buck/a%41 b.tif", "https://h", "r") == "https://h/buck/a%2541%20b.tif"
    assert addresses.local_path("file:///C:/a%20b.tif") == "C:/a b.tif"
    assert addresses.local_path("file://server/share/a.tif") == "//server/share/a.tif"
    assert addresses.local_path("file:///home/a.tif") == "/home/a.tif"
