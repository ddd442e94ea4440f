"""Shared fixtures: small rasters, the real development data, servers on loopback, qgis_process."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from osgeo import gdal, osr

from demo import scene, servers
from s2landcover_plugin.engine.progress import Progress

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
gdal.UseExceptions()

SHARED = Path(os.environ.get("S2LC_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
"""Real Sentinel-2 pixels and STAC answers; not part of the project."""


def shared_data(name: str) -> Path:
    """A folder of the real data; the test is skipped, saying so, where it is absent."""
    folder = SHARED / name
    if not folder.exists():
        pytest.skip(f"real data absent: {name} (set S2LC_TEST_DATA to its folder)")
    return folder


@pytest.fixture
def t48que():
    """Twelve real bands of a patch of tile 48QUE, one file each."""
    return sorted(shared_data("t48que_20200223_l2a").glob("B*.tif"))


@pytest.fixture(scope="session")
def earth_search_items():
    """The five real items of tile 33TWM; hrefs relative to the folder of the data."""
    folder = shared_data("earth_search_33twm")
    items = []
    for path in sorted(folder.glob("*/*.json")):
        item = json.loads(path.read_text())
        item["collection"] = scene.COLLECTION
        for asset in item["assets"].values():
            asset["href"] = f"{path.parent.name}/{asset['href'].lstrip('./')}"
        items.append(item)
    return items


@pytest.fixture(scope="session")
def earth_search(earth_search_items, tmp_path_factory):
    """The five real items on rustac and nginx: (API address, file server)."""
    work = tmp_path_factory.mktemp("earth-search")
    with servers.file_server(SHARED / "earth_search_33twm", work) as files:
        served = servers.with_base(earth_search_items, files.url)
        with servers.stac_api([scene.collection()], served, work) as api:
            yield api, files


@pytest.fixture(scope="session")
def demo_root(tmp_path_factory):
    """The simulated scenes: (folder, items with relative hrefs)."""
    root = tmp_path_factory.mktemp("demo-root")
    root.chmod(0o755)
    root.parent.chmod(0o755)
    return root, scene.write_demo(root)


@pytest.fixture(scope="session")
def demo_catalog(demo_root, tmp_path_factory):
    """The simulated scenes on rustac and nginx: (API address, file server)."""
    root, items = demo_root
    work = tmp_path_factory.mktemp("demo-servers")
    with servers.file_server(root, work) as files:
        with servers.stac_api([scene.collection()], servers.with_base(items, files.url), work) as api:
            yield api, files


class Messages:
    """A Progress that keeps what it is told."""

    def __init__(self, cancel_after: int | None = None):
        self.infos, self.warnings, self.fractions = [], [], []
        self.cancel_after = cancel_after
        self.asked = 0
        self.progress = Progress(self.fractions.append, self.infos.append, self.warnings.append, self._cancelled)

    def _cancelled(self):
        self.asked += 1
        return self.cancel_after is not None and self.asked > self.cancel_after


@pytest.fixture
def messages():
    """Collects what a run says."""
    return Messages()


def write_raster(path, data, *, nodata=0, epsg=32633, transform=(500000, 10, 0, 5200000, 0, -10), names=(), options=(), scale=None):
    """A GeoTIFF made with GDAL alone from (bands, rows, cols)."""
    kinds = {
        "uint8": gdal.GDT_Byte,
        "uint16": gdal.GDT_UInt16,
        "int16": gdal.GDT_Int16,
        "int32": gdal.GDT_Int32,
        "float32": gdal.GDT_Float32,
        "float64": gdal.GDT_Float64,
    }
    data = np.atleast_3d(data) if data.ndim < 3 else data
    target = gdal.GetDriverByName("GTiff").Create(str(path), data.shape[2], data.shape[1], len(data), kinds[data.dtype.name], list(options))
    target.SetGeoTransform(transform)
    if epsg:
        reference = osr.SpatialReference()
        reference.ImportFromEPSG(epsg)
        target.SetProjection(reference.ExportToWkt())
    for index, plane in enumerate(data, 1):
        band = target.GetRasterBand(index)
        if nodata is not None:
            band.SetNoDataValue(nodata)
        if index <= len(names):
            band.SetDescription(names[index - 1])
        if scale is not None:
            band.SetScale(scale[0])
            band.SetOffset(scale[1])
        band.WriteArray(plane)
    target.FlushCache()
    return str(path)


@pytest.fixture
def make_raster(tmp_path):
    """Make a raster of random numbers: make_raster(bands=2, rows=61, cols=47, nodata=-9999, invalid_fraction=0.1)."""
    count = iter(range(1000))

    def make(bands=2, rows=61, cols=47, nodata=0, invalid_fraction=0.0, dtype="uint16", seed=0, **more):
        rng = np.random.default_rng(seed)
        data = rng.integers(100, 6000, (bands, rows, cols)).astype(dtype)
        data[:, rng.random((rows, cols)) < invalid_fraction] = nodata
        more.setdefault("options", ["TILED=YES", "BLOCKXSIZE=16", "BLOCKYSIZE=16"])
        return write_raster(tmp_path / f"raster{next(count)}.tif", data, nodata=nodata, **more)

    return make


def put(*path):
    """A change of a document: the last of `path` is the new value."""

    def change(document):
        *keys, last, value = path
        for key in keys:
            document = document[key]
        document[last] = value

    return change


def read(path):
    """All bands of a raster, (bands, rows, cols), by GDAL."""
    data = gdal.Open(str(path)).ReadAsArray()
    return data if data.ndim == 3 else data[np.newaxis]


SIDE_M = 1200


def write_jp2(path, size_m, offset):
    """A lossless JPEG 2000 of dark random DN; returns its pixels."""
    side = SIDE_M // size_m
    rng = np.random.default_rng(sum(path.stem.encode()))
    data = np.clip(rng.gamma(2, 200, (side, side)), 1, 9000).astype(np.uint16) + np.uint16(offset)
    data[0, 0] = 0
    if "_SCL_" in path.name:
        data = np.full((side, side), 4, np.uint8)
        data[:2] = 9
    memory = gdal.GetDriverByName("MEM").Create("", side, side, 1, gdal.GDT_Byte if data.dtype == np.uint8 else gdal.GDT_UInt16)
    reference = osr.SpatialReference()
    reference.ImportFromEPSG(32633)
    memory.SetGeoTransform((500040, size_m, 0, 5200020, 0, -size_m))
    memory.SetProjection(reference.ExportToWkt())
    memory.GetRasterBand(1).WriteArray(data)
    path.parent.mkdir(parents=True, exist_ok=True)
    options = ["REVERSIBLE=YES", "QUALITY=100", "YCBCR420=NO"]
    gdal.GetDriverByName("JP2OpenJPEG").CreateCopy(str(path), memory, options=options)
    return data


@pytest.fixture
def make_product(tmp_path):
    """Build a product from real metadata: (folder, {file stem: pixels})."""

    def make(name, offset):
        source = shared_data("safe_metadata") / name
        folder = tmp_path / name
        folder.mkdir()
        metadata = next(source.glob("MTD_MSIL*.xml"))
        shutil.copy(metadata, folder)
        pixels = {}
        for image in re.findall(r"<IMAGE_FILE>([^<]*)<", metadata.read_text()):
            stem = Path(image).name
            stated = re.search(r"_(10|20|60)m$", stem)
            native = {"B02": 10, "B03": 10, "B04": 10, "B08": 10, "B01": 60, "B09": 60, "B10": 60}
            size = int(stated[1]) if stated else native.get(stem.rsplit("_", 1)[-1], 20)
            pixels[stem] = write_jp2(folder / f"{image}.jp2", size, offset)
        return folder, pixels

    return make
