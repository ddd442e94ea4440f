"""Servers that fail: the same stack as ever, or one clear error; never a file that is wrong."""

from __future__ import annotations

import functools
import http.server
import json
import os
import threading
import time

import numpy as np
import pytest
from osgeo import gdal

from demo import servers
from s2landcover_plugin.engine import http as engine_http
from s2landcover_plugin.engine.cache import RangeCache
from s2landcover_plugin.engine.crs import Aoi
from s2landcover_plugin.engine.errors import Cancelled, EngineError
from s2landcover_plugin.engine.fetch import FetchOptions, run_fetch
from s2landcover_plugin.engine.http import Connection
from s2landcover_plugin.engine.progress import Progress
from s2landcover_plugin.engine.stac import SearchOptions

from . import fault_server
from .conftest import Messages, read, write_raster
from .fault_server import FaultServer, Reply, SasServer, running, seeded
from .network import AOI, BANDS, SIDE, item


def fetch(address, folder, progress=None, bands=BANDS, connection=None, provider="custom", **options):
    search = SearchOptions(catalog=provider, stac_url=address)
    done = progress or Progress()
    return run_fetch(search, FetchOptions(bands=bands, **options), AOI, str(folder / "o.tif"), str(folder / "o.json"), "", done, connection)


@pytest.fixture
def patient(monkeypatch):
    """Pauses of milliseconds instead of seconds; a server that says nothing for 0.4 s hangs."""
    monkeypatch.setattr(engine_http, "BACKOFF_S", 0.001)
    monkeypatch.setattr(engine_http, "READ_TIMEOUT_S", 0.4)


SHARES = (0.15, 0.3, 0.5, 0.8)


@pytest.mark.parametrize("block", range(10))
def test_two_hundred_schedules_of_faults_give_the_stack_or_one_clear_error(scene, tmp_path, patient, block):
    """503, 500, 429, resets, silence, truncated and slow bodies, refused tokens.

    In every second schedule the files need tokens that expire after five uses.
    """
    folder, expected = scene
    whole, errors = 0, []
    for seed in range(20 * block, 20 * block + 20):
        share = SHARES[seed % len(SHARES)]
        sas = SasServer(uses=5)
        signed = {"refuse": sas.refuse, "special": sas.special} if seed % 2 else {}
        out = tmp_path / str(seed)
        out.mkdir()
        with running(FaultServer(folder, seeded(seed, share, bool(signed)), **signed)) as server:
            # an address as the Planetary Computer's, so that its tokens are asked for beside it
            address = f"{server.url}/stac/v1/items.json"
            (folder / "stac" / "v1").mkdir(parents=True, exist_ok=True)
            base = {name: f"{server.url}/{name}.tif" for name in (*BANDS, "SCL")}
            (folder / "stac" / "v1" / "items.json").write_text(json.dumps(item(**base)))
            try:
                fetch(address, out, provider="planetary-computer" if signed else "custom")
                np.testing.assert_array_equal(read(out / "o.tif"), expected)
                assert sorted(path.name for path in out.iterdir()) == ["o.json", "o.tif"]
                whole += 1
            except EngineError as err:
                assert share > 0.3, f"schedule {seed} should have been survived: {err}"
                errors.append(str(err))
                assert list(out.iterdir()) == []
                assert "\n" not in str(err) and "sig=" not in str(err) and server.url in str(err), err
            assert share < 0.5 or sum(server.faults.values()) > server.faults["none"]
    assert whole >= 10, errors
    assert all("cannot be" in text or "refuses" in text or "no token" in text for text in errors), errors


def test_a_server_without_ranges_is_read_whole(scene, tmp_path):
    folder, expected = scene
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        report = fetch(f"http://127.0.0.1:{server.server_address[1]}/items.json", tmp_path)
        server.shutdown()
    np.testing.assert_array_equal(read(tmp_path / "o.tif"), expected)
    assert report.bytes_read == sum((folder / f"{name}.tif").stat().st_size for name in (*BANDS, "SCL"))


def cut_off(data):
    return data[: len(data) // 2]


def html(data):
    return b"<html>Service unavailable</html>"


def header_only(data):
    return data[:100]


@pytest.mark.parametrize("spoil", [cut_off, html, header_only, lambda data: b""], ids=["cut off", "HTML", "header", "empty"])
@pytest.mark.parametrize("ranges", [True, False])
def test_a_file_that_is_no_whole_tiff_is_named(scene, tmp_path, spoil, ranges, capfd):
    folder, _ = scene
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "B04.tif").write_bytes(spoil((folder / "B04.tif").read_bytes()))

    def whole(request):
        return None if ranges or not request.path.endswith("B04.tif") else Reply(200, (bad / "B04.tif").read_bytes())

    out = tmp_path / "out"
    out.mkdir()
    with running(FaultServer(bad, special=whole)) as server:
        (bad / "items.json").write_text(json.dumps(item(B04=f"{server.url}/B04.tif")))
        with pytest.raises(EngineError, match=r"cannot be (opened|read)|cut off") as caught:
            fetch(f"{server.url}/items.json", out, bands=("B04",))
        assert caught.value.where == f"{server.url}/B04.tif"
    assert list(out.iterdir()) == [] and "ERROR" not in capfd.readouterr().err


def test_bytes_that_never_come_are_an_error_even_where_gdal_would_not_notice(tmp_path, patient):
    """Without compression anything is a valid tile."""
    root, out = tmp_path / "root", tmp_path / "out"
    root.mkdir()
    out.mkdir()
    data = np.full((1, SIDE, SIDE), 1500, np.uint16)
    options = ["TILED=YES", "BLOCKXSIZE=64", "BLOCKYSIZE=64"]
    write_raster(root / "B04.tif", data, transform=(500000, 10, 0, 5200000, 0, -10), options=options)
    (root / "items.json").write_text(json.dumps(item()))
    with running(FaultServer(root, lambda path, n: "503" if path.endswith("B04.tif") and n > 2 else "none")) as server:
        with pytest.raises(EngineError, match="HTTP 503"):
            fetch(f"{server.url}/items.json", out, bands=("B04",))
    assert list(out.iterdir()) == []


def test_a_file_that_changes_while_it_is_read_is_refused(scene, tmp_path):
    folder, _ = scene
    version = iter(range(1000))

    def other_tag(request):
        if not request.path.endswith("B04.tif"):
            return None
        data = (folder / "B04.tif").read_bytes()
        start, stop = (int(n) for n in request.headers["Range"].removeprefix("bytes=").split("-"))
        stop = min(stop + 1, len(data))
        return Reply(206, data[start:stop], {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}", "ETag": str(next(version))})

    with running(FaultServer(folder, special=other_tag)) as server:
        with pytest.raises(EngineError, match="changed on the server"):
            fetch(f"{server.url}/items.json", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_second_run_sees_what_changed_on_the_server(scene, tmp_path):
    """GDAL keeps what it read for the life of the process; a run must not take it from there."""
    folder, expected = scene
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("B03.tif", "B04.tif", "SCL.tif", "items.json"):
        (copy / name).write_bytes((folder / name).read_bytes())
    with running(FaultServer(copy)) as server:
        fetch(f"{server.url}/items.json", tmp_path)
        changed = gdal.Open(str(copy / "B04.tif"), gdal.GA_Update)
        changed.GetRasterBand(1).Fill(77)
        changed.FlushCache()
        del changed
        fetch(f"{server.url}/items.json", tmp_path)
    np.testing.assert_array_equal(read(tmp_path / "o.tif")[0], expected[0])
    assert (read(tmp_path / "o.tif")[1] == 77).all()


def old_copy(folder, target, seconds=3600):
    """A copy of the scene's files that were changed long ago."""
    target.mkdir()
    for name in ("B03.tif", "B04.tif", "SCL.tif", "items.json"):
        (target / name).write_bytes((folder / name).read_bytes())
        then = time.time() - seconds
        os.utime(target / name, (then, then))
    return target


@pytest.mark.parametrize(("age_s", "reused"), [(3600, True), (5, False)], ids=["old", "just changed"])
def test_a_second_run_reuses_what_is_on_disk_if_it_is_the_same(scene, tmp_path, age_s, reused):
    """nginx's ETag is date and size: a file changed within its second has the same one, so that young files are not reused."""
    copy = old_copy(scene[0], tmp_path / "copy", age_s)
    copy.parent.chmod(0o755)
    copy.chmod(0o755)
    out, work, cache = tmp_path / "out", tmp_path / "work", tmp_path / "cache"
    out.mkdir()
    work.mkdir()
    how = Connection(cache_folder=str(cache))
    with servers.file_server(copy, work) as files:
        address = f"{files.url}/items.json"
        first = fetch(address, out, connection=how)
        second = fetch(address, out, connection=how)
        np.testing.assert_array_equal(read(out / "o.tif"), scene[1])
        assert (second.bytes_read < first.bytes_read / 4) == reused
        assert second.bytes_read <= 3 * 8192 or not reused
        changed = gdal.Open(str(copy / "B04.tif"), gdal.GA_Update)
        changed.GetRasterBand(1).Fill(77)
        changed.FlushCache()
        del changed
        fetch(address, out, connection=how)
        np.testing.assert_array_equal(read(out / "o.tif")[0], scene[1][0])
        assert (read(out / "o.tif")[1] == 77).all()


def test_damaged_bytes_on_disk_are_not_used_and_old_ones_are_removed(tmp_path):
    cache = RangeCache(str(tmp_path / "cache"))
    cache.put("a", "v", 0, 3, b"abc")
    cache.put("a", "v", 3, 6, b"def")
    assert (cache.get("a", "v", 0, 3), cache.get("a", "w", 0, 3), cache.get("b", "v", 0, 3)) == (b"abc", None, None)
    assert cache.get("a", "", 0, 3) is None
    for path in (tmp_path / "cache").glob("*/*"):
        path.write_bytes(path.read_bytes()[:-1] + b"x")
        os.utime(path, (1, 1))
    assert cache.get("a", "v", 0, 3) is None
    cache.put("a", "v", 6, 9, b"ghi")
    cache.trim(limit_bytes=40)
    assert cache.get("a", "v", 6, 9) == b"ghi" and len(list((tmp_path / "cache").glob("*/*"))) == 1
    assert RangeCache("").get("a", "v", 0, 3) is None


def test_what_has_come_is_not_asked_for_again(scene, tmp_path, patient):
    """Every first answer for a range is cut in half: the rest is asked for, not the whole."""
    folder, expected = scene
    with running(FaultServer(folder, lambda path, n: "truncated" if path.endswith("B04.tif") and n % 2 else "none")) as server:
        fetch(f"{server.url}/items.json", tmp_path, bands=("B04",))
        disturbed = server.bytes_sent("B04.tif")
    with running(FaultServer(folder)) as server:
        fetch(f"{server.url}/items.json", tmp_path, bands=("B04",))
        assert disturbed <= 1.02 * server.bytes_sent("B04.tif")
    np.testing.assert_array_equal(read(tmp_path / "o.tif")[0], expected[1])


def test_the_time_limit_ends_a_run_whose_server_hangs(scene, tmp_path, monkeypatch):
    folder, _ = scene
    monkeypatch.setattr(fault_server, "HANG_S", 30)
    with running(FaultServer(folder, lambda path, n: "hang" if path.endswith(".tif") else "none")) as server:
        started = time.monotonic()
        with pytest.raises(EngineError, match="time limit is over: TIME_LIMIT_MIN"):
            fetch(f"{server.url}/items.json", tmp_path, time_limit_min=0.01)
        assert time.monotonic() - started < 15  # far below the pauses and time limits of a request
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("status", [401, 403])
def test_rejected_credentials_are_one_sentence(scene, tmp_path, status):
    folder, _ = scene
    for ending in (".tif", ".json"):

        def refuse(request, ending=ending):
            return Reply(status, b"no") if request.path.endswith(ending) else None

        with running(FaultServer(folder, refuse=refuse)) as server:
            with pytest.raises(EngineError, match=f"refuses access \\(HTTP {status}\\).*AUTHCFG"):
                fetch(f"{server.url}/items.json", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_too_large_an_area_is_refused_before_a_byte_of_it_is_read(scene, tmp_path):
    folder, _ = scene
    large = item()
    for asset in large["assets"].values():
        asset.update({"proj:shape": [10980, 10980], "proj:transform": [10, 0, 500000, 0, -10, 5200000]})
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "items.json").write_text(json.dumps(large))
    out = tmp_path / "out"
    out.mkdir()
    messages = Messages()
    with running(FaultServer(copy)) as server:
        search = SearchOptions(stac_url=f"{server.url}/items.json")
        aoi = Aoi("EPSG:32633", (500000, 5195000, 505000, 5200000))
        with pytest.raises(EngineError, match=r"needs about 1.5 MB, more than the 1 MB allowed: MAX_MEGABYTES"):
            options = FetchOptions(bands=("B03", "B04"), max_megabytes=1)
            run_fetch(search, options, aoi, str(out / "o.tif"), "", "", messages.progress)
        assert server.bytes_sent(".tif") == 0 and not [path for _, path, _ in server.requests if path.endswith(".tif")]
    assert any("1.5 MB of pixels" in text for text in messages.infos)
    assert list(out.iterdir()) == []


def test_bands_are_read_at_the_same_time_and_the_bytes_are_told(scene, tmp_path, monkeypatch):
    folder, _ = scene
    monkeypatch.setattr("s2landcover_plugin.engine.download.TELL_EVERY_S", 0.1)
    messages = Messages()
    with running(FaultServer(folder, delay_s=0.15)) as server:
        report = fetch(f"{server.url}/items.json", tmp_path, messages.progress)
        assert server.most_at_once >= 3
        assert report.bytes_read == server.bytes_sent(".tif")
    assert any("of about" in text and text.endswith("MB read.") for text in messages.infos)
    assert messages.fractions == sorted(messages.fractions)


class CancelWhen(Messages):
    """Asks to stop when something has happened."""

    def __init__(self, happened):
        super().__init__()
        self.happened = happened

    def _cancelled(self):
        return self.happened()


@pytest.mark.parametrize("fault", ["hang", "trickle"])
def test_cancel_while_bytes_do_not_come(scene, tmp_path, fault, monkeypatch):
    """The server would take half a minute, or several."""
    folder, _ = scene
    monkeypatch.setattr(fault_server, "HANG_S", 30)
    with running(FaultServer(folder, lambda path, n: fault if path.endswith("B04.tif") and n > 1 else "none")) as server:
        watcher = CancelWhen(lambda: server.faults[fault] > 0)
        with pytest.raises(Cancelled):
            fetch(f"{server.url}/items.json", tmp_path, watcher.progress)
        stopped = time.monotonic()
    assert server.faults[fault] > 0 and stopped - server.first[fault] < 10
    assert list(tmp_path.iterdir()) == []
    deadline = time.monotonic() + 20
    while [t for t in threading.enumerate() if t.name.startswith("ThreadPoolExecutor")] and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [t for t in threading.enumerate() if t.name.startswith("ThreadPoolExecutor")]


def test_the_time_limit_holds_for_the_search_too(tmp_path, monkeypatch):
    monkeypatch.setattr(fault_server, "HANG_S", 30)
    with running(FaultServer(tmp_path, lambda path, n: "hang")) as server:
        started = time.monotonic()
        with pytest.raises(EngineError, match="^The time limit is over: TIME_LIMIT_MIN"):
            fetch(f"{server.url}/items.json", tmp_path, time_limit_min=0.01)
        assert time.monotonic() - started < 15


def test_a_redirect_does_not_multiply_the_tries(scene, tmp_path, patient):
    folder, _ = scene

    def special(request):
        return Reply(302, b"", {"Location": "/other.tif"}) if request.path == "/B04.tif" else None

    with running(FaultServer(folder, lambda path, n: "503" if path == "/other.tif" else "none", special=special)) as server:
        with pytest.raises(EngineError, match="HTTP 503.*B04.tif"):
            fetch(f"{server.url}/items.json", tmp_path, bands=("B04",))
        assert len([path for _, path, _ in server.requests if path == "/other.tif"]) == engine_http.RETRIES + 1


def test_retry_after_is_respected(scene, tmp_path, patient):
    folder, _ = scene
    seen = []

    def busy(request):
        seen.append(time.monotonic())
        return Reply(429, b"", {"Retry-After": "1"}) if len(seen) == 1 else None

    with running(FaultServer(folder, refuse=busy)) as server:
        fetch(f"{server.url}/items.json", tmp_path)
    assert seen[1] - seen[0] >= 1


def test_a_classification_that_cannot_be_had_does_not_stop_a_fetch_that_does_not_mask(scene, tmp_path):
    folder, expected = scene
    copy = tmp_path / "copy"
    copy.mkdir()
    for href in ("s3://bucket/SCL.tif", "SCL-gone.tif", "ftp://h/SCL.tif"):
        with running(FaultServer(folder)) as server:
            hrefs = {name: f"{server.url}/{name}.tif" for name in BANDS}
            (copy / "items.json").write_text(json.dumps(item(**hrefs, SCL=href)))
            report = fetch(str(copy / "items.json"), tmp_path)
        assert report.cloud_cover == 1.0
        np.testing.assert_array_equal(read(tmp_path / "o.tif"), expected)
