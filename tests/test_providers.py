"""One real scene as each provider would serve it: the same reflectance; and what a small area of a whole tile costs."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from osgeo import gdal, osr

from demo import servers
from s2landcover_plugin.engine.bandfiles import StackOptions, run_stack
from s2landcover_plugin.engine.credentials import Credentials
from s2landcover_plugin.engine.crs import Aoi
from s2landcover_plugin.engine.errors import EngineError
from s2landcover_plugin.engine.fetch import FetchOptions, run_fetch
from s2landcover_plugin.engine.http import Connection
from s2landcover_plugin.engine.progress import Progress
from s2landcover_plugin.engine.stac import SearchOptions

from .conftest import Messages, read, shared_data, write_raster
from .fault_server import FaultServer, Reply, SasServer, running, s3_refusal

BANDS = ("B04", "B08")
ORIGIN = (500040, 5200020)
SIDE = 400
AOI = Aoi("EPSG:32633", (ORIGIN[0], ORIGIN[1] - 10 * SIDE, ORIGIN[0] + 10 * SIDE, ORIGIN[1]))
PLACE = (ORIGIN[0], 10, 0, ORIGIN[1], 0, -10)
KEYS = {"MYKEY": "SECRETKEY"}


@pytest.fixture(scope="module")
def truth():
    """DN without offset of a piece of the real scene of 2023-08-15, and its classification at half the size."""
    folder = shared_data("earth_search_33twm") / "S2A_33TWM_20230815_0_L2A"
    dn = {band: gdal.Open(str(folder / f"{band}.tif")).ReadAsArray(300, 200, SIDE, SIDE) for band in BANDS}
    scl = gdal.Open(str(folder / "SCL.tif")).ReadAsArray(300, 200, SIDE, SIDE)[::2, ::2]
    assert all((data > 0).mean() > 0.5 for data in dn.values())
    return dn, scl


def with_offset(dn):
    """DN as they come from ESA since baseline 04.00."""
    return np.where(dn > 0, dn + 1000, 0).astype(np.uint16)


def write_jp2(path, data, size_m):
    """A lossless JPEG 2000 file, as in SAFE products and on Copernicus Data Space."""
    kind = gdal.GDT_Byte if data.dtype == np.uint8 else gdal.GDT_UInt16
    memory = gdal.GetDriverByName("MEM").Create("", data.shape[1], data.shape[0], 1, kind)
    reference = osr.SpatialReference()
    reference.ImportFromEPSG(32633)
    memory.SetGeoTransform((ORIGIN[0], size_m, 0, ORIGIN[1], 0, -size_m))
    memory.SetProjection(reference.ExportToWkt())
    memory.GetRasterBand(1).WriteArray(data)
    path.parent.mkdir(parents=True, exist_ok=True)
    options = ["REVERSIBLE=YES", "QUALITY=100", "YCBCR420=NO", "BLOCKXSIZE=128", "BLOCKYSIZE=128"]
    gdal.GetDriverByName("JP2OpenJPEG").CreateCopy(str(path), memory, options=options)


def write_tif(path, data, size_m):
    path.parent.mkdir(parents=True, exist_ok=True)
    transform = (ORIGIN[0], size_m, 0, ORIGIN[1], 0, -size_m)
    write_raster(path, data[np.newaxis], transform=transform, options=["TILED=YES", "COMPRESS=DEFLATE"])


def real_item(name):
    """The first real item of a file, put over the piece."""
    document = json.loads((shared_data("stac") / name).read_text())
    item = json.loads(json.dumps((document.get("features") or [document])[0]))
    ring = AOI.lonlat_ring()
    item["geometry"] = {"type": "Polygon", "coordinates": [[list(p) for p in (*ring, ring[0])]]}
    item["links"] = []
    for asset in item["assets"].values():
        for key in ("proj:shape", "proj:transform", "proj:bbox", "file:size"):
            asset.pop(key, None)
    return item


def asset_of(item, band):
    """The asset of the item that has a band at its native resolution."""
    names = {"B04": ("B04", "red", "B04_10m"), "B08": ("B08", "nir", "B08_10m"), "SCL": ("SCL", "scl", "SCL_20m")}
    return item["assets"][next(name for name in names[band] if name in item["assets"])]


def publish(root, item, hrefs):
    """Put an item with these hrefs of its bands on the server as an ItemCollection."""
    for band, href in hrefs.items():
        asset_of(item, band)["href"] = href
    folder = root / "stac" / "v1"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": [item]}))


def fetch(server, out, provider, credentials=None):
    search = SearchOptions(catalog=provider, stac_url=f"{server.url}/stac/v1/items.json", max_cloud_cover=100)
    messages = Messages()
    how = Connection(credentials=credentials or Credentials())
    run_fetch(search, FetchOptions(bands=BANDS), AOI, str(out / "o.tif"), str(out / "o.json"), "", messages.progress, how)
    assert not [text for text in messages.warnings if "contradict" in text or "OFFSET_POLICY" in text]
    return read(out / "o.tif") / 10000


def earth_search_l2a(truth, root, out):
    """Offset already removed by the provider, although raster:bands states it."""
    item = real_item("earth-search_sentinel-2-l2a_S2A_32TPS_20230602.json")
    assert item["properties"]["earthsearch:boa_offset_applied"] and item["assets"]["red"]["raster:bands"][0]["offset"] == -0.1
    for band in BANDS:
        write_tif(root / f"{band}.tif", truth[0][band], 10)
    write_tif(root / "SCL.tif", truth[1], 20)
    with running(FaultServer(root)) as server:
        publish(root, item, {band: f"{server.url}/{band}.tif" for band in (*BANDS, "SCL")})
        return fetch(server, out, "earth-search")


def earth_search_c1(truth, root, out):
    """Offset in the pixels, stated in raster:bands."""
    item = real_item("earth-search_sentinel-2-c1-l2a_13TDE_2024_10items.json")
    assert item["collection"] == "sentinel-2-c1-l2a"
    for band in BANDS:
        write_tif(root / f"{band}.tif", with_offset(truth[0][band]), 10)
    write_tif(root / "SCL.tif", truth[1], 20)
    with running(FaultServer(root)) as server:
        publish(root, item, {band: f"{server.url}/{band}.tif" for band in (*BANDS, "SCL")})
        return fetch(server, out, "earth-search")


def planetary_computer(truth, root, out):
    """Offset in the pixels, stated nowhere but by the baseline; files need a token."""
    item = real_item("pc_sentinel-2-l2a_13TDE_202408_2items.json")
    for band in BANDS:
        write_tif(root / f"{band}.tif", with_offset(truth[0][band]), 10)
    write_tif(root / "SCL.tif", truth[1], 20)
    sas = SasServer(uses=7)
    with running(FaultServer(root, refuse=sas.refuse, special=sas.special)) as server:
        publish(root, item, {band: f"{server.url}/{band}.tif" for band in (*BANDS, "SCL")})
        return fetch(server, out, "planetary-computer")


def copernicus(truth, root, out):
    """Offset in the pixels, stated in raster:offset; JPEG 2000 on S3."""
    item = real_item("cdse_sentinel-2-l2a_T36NYH_20200322_N0500.json")
    for band in BANDS:
        write_jp2(root / "eodata" / f"{band}.jp2", with_offset(truth[0][band]), 10)
    write_jp2(root / "eodata" / "SCL.jp2", truth[1], 20)

    def refuse(request):
        return s3_refusal(request, KEYS) if request.path.startswith("/eodata") else None

    with running(FaultServer(root, refuse=refuse)) as server:
        publish(root, item, {band: f"s3://eodata/{band}.jp2" for band in (*BANDS, "SCL")})
        endpoint = {"AWS_S3_ENDPOINT": server.url}
        return fetch(server, out, "copernicus", Credentials(s3_key="MYKEY", s3_secret="SECRETKEY", s3=endpoint))


def safe_product(truth, root, out):
    """Offset in the pixels, stated in the product's metadata."""
    name = "S2B_MSIL2A_20220413T150759_N0400_R025_T33XWJ_20220414T082126.SAFE"
    folder = root / name
    folder.mkdir()
    shutil.copy(shared_data("safe_metadata") / name / "MTD_MSIL2A.xml", folder)
    images = re.findall(r"<IMAGE_FILE>([^<]*)<", (folder / "MTD_MSIL2A.xml").read_text())
    for band in BANDS:
        image = next(text for text in images if text.endswith(f"_{band}_10m"))
        write_jp2(folder / f"{image}.jp2", with_offset(truth[0][band]), 10)
    run_stack([], str(out / "o.tif"), StackOptions(bands=BANDS), None, Progress(), product=str(folder))
    return read(out / "o.tif") / 10000


@pytest.mark.parametrize(
    "provider", [earth_search_l2a, earth_search_c1, planetary_computer, copernicus, safe_product], ids=lambda way: way.__name__
)
def test_one_scene_has_the_same_reflectance_from_every_provider(truth, tmp_path, provider):
    root, out = tmp_path / "root", tmp_path / "out"
    root.mkdir()
    out.mkdir()
    reflectance = provider(truth, root, out)
    expected = np.stack([truth[0][band] for band in BANDS]) / 10000
    assert reflectance.shape == expected.shape and np.abs(reflectance - expected).max() <= 1e-4


def test_level_1c_of_earth_search_with_its_cirrus_band(truth, tmp_path):
    """JPEG 2000 in a bucket whose reader pays; thirteen bands, no scene classification, offset by the baseline."""
    root, out = tmp_path / "root", tmp_path / "out"
    out.mkdir()
    item = real_item("earth-search_sentinel-2-l2a_S2A_32TPS_20230602.json")
    item["collection"], item["id"] = "sentinel-2-l1c", "S2A_32TPS_20230602_0_L1C"
    del item["properties"]["earthsearch:boa_offset_applied"]
    item["properties"].update({"storage:requester_pays": True, "storage:region": "eu-central-1", "s2:product_type": "S2MSI1C"})
    common = {"type": "image/jp2", "roles": ["data", "reflectance"]}
    item["assets"] = {
        name: {**common, "href": f"s3://sentinel-s2-l1c/tiles/{band}.jp2", "eo:bands": [{"name": name}]}
        for name, band in (("red", "B04"), ("cirrus", "B10"))
    }
    for band in ("B04", "B10"):
        write_jp2(root / "sentinel-s2-l1c" / "tiles" / f"{band}.jp2", with_offset(truth[0]["B04"]), 10)
    seen = set()

    def refuse(request):
        if request.path.startswith("/sentinel-s2-l1c"):
            seen.add((request.headers["x-amz-request-payer"], "/eu-central-1/" in request.headers["Authorization"]))
            return s3_refusal(request, KEYS)
        return Reply(200, json.dumps({"type": "FeatureCollection", "features": [item]}).encode())

    with running(FaultServer(root, refuse=refuse)) as server:
        search = SearchOptions(stac_url=f"{server.url}/items.json", collection="sentinel-2-l1c", max_cloud_cover=100)
        keys = Credentials(s3_key="MYKEY", s3_secret="SECRETKEY", s3={"AWS_S3_ENDPOINT": server.url})
        with pytest.raises(EngineError, match="reader pays.*AWS_REQUEST_PAYER=requester"):
            run_fetch(search, FetchOptions(bands=("B04",)), AOI, str(out / "o.tif"), "", "", Progress(), Connection(credentials=keys))
        how = Connection(credentials=replace(keys, s3={**keys.s3, "AWS_REQUEST_PAYER": "requester"}))
        report = run_fetch(search, FetchOptions(bands=("B04", "B10")), AOI, str(out / "o.tif"), "", "", Progress(), how)
    assert seen == {("requester", True)} and report.cloud_cover == report.scene.cloud_cover
    np.testing.assert_array_equal(read(out / "o.tif")[0], truth[0]["B04"])


def test_cloud_cover_is_that_of_the_area(earth_search, tmp_path):
    """Counted by hand in the scene classification of a cloudy scene; the scene as a whole has another cloud cover."""
    aoi = Aoi("EPSG:32633", (540000, 5130000, 560040, 5149980))
    search = SearchOptions(stac_url=earth_search[0], scene_ids=("S2A_33TWM_20230818_0_L2A",))
    report = run_fetch(search, FetchOptions(bands=("B04",)), aoi, str(tmp_path / "o.tif"), str(tmp_path / "o.json"), "", Progress())
    left, top = round((report.grid.bounds[0] - 499980) / 120), round((5200020 - report.grid.bounds[3]) / 120)
    path = shared_data("earth_search_33twm") / report.scene.id / "SCL.tif"
    classes = gdal.Open(str(path)).ReadAsArray(left, top, report.grid.width, report.grid.height)
    expected = 100 * np.isin(classes, (8, 9, 10)).sum() / (classes > 0).sum()
    assert report.cloud_cover == pytest.approx(expected) and abs(expected - report.scene.cloud_cover) > 5
    ledger = json.loads((tmp_path / "o.json").read_text())
    assert ledger["cloud_cover_of_area"] == ledger["scenes"][0]["cloud_cover_of_area"] == pytest.approx(expected)
    assert ledger["scenes"][0]["cloud_cover"] == report.scene.cloud_cover


@pytest.fixture(scope="module")
def whole_tile(tmp_path_factory):
    """Four bands of a whole tile, 10980 x 10980, as COG in tiles of 1024 pixels with overviews; noise in the middle, flat elsewhere."""
    root = tmp_path_factory.mktemp("tile")
    root.chmod(0o755)
    root.parent.chmod(0o755)
    memory = gdal.GetDriverByName("GTiff").Create(
        str(root / "plain.tif"), 10980, 10980, 1, gdal.GDT_UInt16, ["TILED=YES", "SPARSE_OK=TRUE", "COMPRESS=DEFLATE"]
    )
    reference = osr.SpatialReference()
    reference.ImportFromEPSG(32633)
    memory.SetGeoTransform((499980, 10, 0, 5200020, 0, -10))
    memory.SetProjection(reference.ExportToWkt())
    rng = np.random.default_rng(5)
    memory.GetRasterBand(1).WriteArray(rng.integers(200, 3000, (3072, 3072)).astype(np.uint16), 4096, 4096)
    memory.GetRasterBand(1).SetNoDataValue(0)
    memory.FlushCache()
    options = ["COMPRESS=DEFLATE", "PREDICTOR=YES", "BLOCKSIZE=1024", "LEVEL=1", "OVERVIEW_RESAMPLING=NEAREST", "NUM_THREADS=2"]
    gdal.GetDriverByName("COG").CreateCopy(str(root / "B02.tif"), memory, options=options)
    for band in ("B03", "B04", "B08"):
        os.link(root / "B02.tif", root / f"{band}.tif")
    names = {"B02": "blue", "B03": "green", "B04": "red", "B08": "nir"}
    item = real_item("earth-search_sentinel-2-l2a_S2A_32TPS_20230602.json")
    ring = Aoi("EPSG:32633", (499980, 5090220, 609780, 5200020)).lonlat_ring()
    item["geometry"] = {"type": "Polygon", "coordinates": [[list(p) for p in (*ring, ring[0])]]}
    item["assets"] = {name: {"href": f"{band}.tif", "type": "image/tiff", "roles": ["data"]} for band, name in names.items()}
    return root, item


@pytest.mark.parametrize("corner", [(543000, 5156000), (550000, 5150000)], ids=["one tile", "four tiles"])
def test_a_small_area_of_a_whole_tile_costs_the_tiles_it_touches(whole_tile, tmp_path, corner):
    root, item = whole_tile
    x, y = corner
    aoi = Aoi("EPSG:32633", (x, y - 2000, x + 2000, y))
    bands = ("B02", "B03", "B04", "B08")
    with servers.file_server(root, tmp_path) as files:
        served = servers.with_base([item], files.url)
        (root / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": served}))
        search = SearchOptions(stac_url=f"{files.url}/items.json", max_cloud_cover=100)
        report = run_fetch(search, FetchOptions(bands=bands), aoi, str(tmp_path / "o.tif"), "", "", Progress())
        sent = files.bytes_sent(".tif")
        lines = [line.split(" ") for line in files.log.read_text().splitlines() if line.endswith(".tif")]
    columns = range((x - 499980) // 10240, (x + 2000 - 1 - 499980) // 10240 + 1)
    rows = range((5200020 - y) // 10240, (5200020 - y + 2000 - 1) // 10240 + 1)
    dataset = gdal.Open(str(root / "B02.tif"))
    band = dataset.GetRasterBand(1)
    touched = 4 * sum(int(band.GetMetadataItem(f"BLOCK_SIZE_{c}_{r}", "TIFF")) for c in columns for r in rows)
    assert len(columns) * len(rows) == (1 if corner[0] == 543000 else 4) and touched > 4_000_000
    assert sent == report.bytes_read and sent <= 1.3 * touched, sent / touched
    assert len(lines) <= 4 * (len(columns) * len(rows) + 2)
    expected = band.ReadAsArray((x - 499980) // 10, (5200020 - y) // 10, report.grid.width, report.grid.height)
    np.testing.assert_array_equal(read(tmp_path / "o.tif"), np.stack(4 * [expected]))
