"""Clustering where there is hardly anything to cluster, or very much of it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from osgeo import gdal

from s2landcover_plugin.engine.applying import ApplyOptions, ApplyOutputs, run_apply
from s2landcover_plugin.engine.clustering import ClusterOptions, ClusterOutputs, run_clustering
from s2landcover_plugin.engine.errors import EngineError
from s2landcover_plugin.engine.progress import Progress

from .conftest import read, shared_data, write_raster

METHODS = ("kmeans", "gmm")
SCALE = (0.0001, 0)


def cluster(folder, data, method="kmeans", *, names=("B03", "B04"), nodata=0, scale=SCALE, **options):
    """Cluster an array (bands, rows, cols) with every output, then apply the model to it; (codes, report)."""
    source = write_raster(folder / "in.tif", data, names=names, scale=scale, nodata=nodata)
    out = ClusterOutputs(*(str(folder / name) for name in ("o.tif", "o.json", "o.csv", "o.html", "conf.tif", "o.gpkg")))
    report = run_clustering(source, out, ClusterOptions(method=method, min_area_ha=0, **options), Progress())
    run_apply(source, out.model, ApplyOutputs(str(folder / "again.tif")), ApplyOptions(), Progress())
    codes = read(out.raster)[0]
    np.testing.assert_array_equal(read(folder / "again.tif")[0], codes)
    confidence = read(out.confidence)[0]
    assert ((confidence >= 0) & (confidence <= 1))[codes > 0].all() and (confidence[codes == 0] == -1).all()
    return codes, report


def patches(values, side=12):
    """A row of squares, each of one spectrum: values (n, bands) -> (bands, side, n x side)."""
    return np.array(values, np.uint16).T[:, None, :].repeat(side, 1).repeat(side, 2)


@pytest.mark.parametrize("method", METHODS)
def test_constant_image(tmp_path, method):
    data = np.full((2, 30, 30), 900, np.uint16)
    with pytest.raises(EngineError, match="only 1 distinct pixel value"):
        cluster(tmp_path, data, method)
    assert [path.name for path in tmp_path.iterdir()] == ["in.tif"]
    codes, report = cluster(tmp_path, data, method, n_clusters=1)
    assert (codes == 1).all() and report.inertia == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n", [2, 5])
def test_as_many_clusters_as_distinct_pixels(tmp_path, method, n):
    spectra = [(300 + 700 * i, 400 + 500 * i) for i in range(n)]
    codes, report = cluster(tmp_path, patches(spectra), method, n_clusters=n)
    np.testing.assert_array_equal(codes[0], np.arange(1, n + 1).repeat(12))
    assert sum(report.pixels) == codes.size


@pytest.mark.parametrize("method", METHODS)
def test_a_cluster_without_pixels_in_the_map_keeps_its_place(tmp_path, method):
    """Nine equal pixels in ten and a few others: starts that fall together, and clusters that lose all their pixels."""
    rng = np.random.default_rng(0)
    data = np.full((2, 60, 60), 1000, np.uint16)
    data[:, :2, :5] = rng.integers(900, 3000, (2, 2, 5))
    codes, report = cluster(tmp_path, data, method, n_clusters=6)
    assert report.n_clusters == 6 and sum(report.pixels) == 3600
    assert [int((codes == code).sum()) for code in range(1, 7)] == list(report.pixels)


@pytest.mark.parametrize("method", METHODS)
def test_one_band(tmp_path, method):
    data = patches([(500,), (2500,)]) + np.random.default_rng(1).integers(0, 20, (1, 12, 24)).astype(np.uint16)
    codes, _ = cluster(tmp_path, data, method, names=["B04"], n_clusters=2)
    np.testing.assert_array_equal(codes, np.repeat([1, 2], 12)[None].repeat(12, 0))


@pytest.mark.parametrize("method", METHODS)
def test_thirteen_real_bands(tmp_path, method):
    source = gdal.Open(str(shared_data("eurosat_ms") / "AnnualCrop_1.tif"))
    names = ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B8A"]
    codes, report = cluster(tmp_path, source.ReadAsArray(), method, names=names, n_clusters=4)
    assert (codes > 0).all() and set(np.unique(codes)) == {1, 2, 3, 4}
    assert len(json.loads((tmp_path / "o.json").read_text())["features"]) == 13


@pytest.mark.parametrize("method", METHODS)
def test_all_but_three_pixels_are_nodata(tmp_path, method):
    data = np.zeros((2, 700, 700), np.uint16)
    data[:, 5, 600], data[:, 400, 20], data[:, 699, 699] = (300, 200), (900, 1000), (2000, 2500)
    codes, report = cluster(tmp_path, data, method, n_clusters=3)
    assert report.pixels == (1, 1, 1) and np.count_nonzero(codes) == 3
    assert (codes[5, 600], codes[400, 20], codes[699, 699]) == (1, 2, 3)
    with pytest.raises(EngineError, match="only 3 distinct"):
        cluster(tmp_path, data, method, n_clusters=4)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_a_number_is_nodata(tmp_path, method, bad):
    data = patches([(500, 600), (2500, 2000)]).astype(np.float32) * 1e-4
    data += np.random.default_rng(1).normal(0, 1e-3, data.shape).astype(np.float32)
    data[0, 3, 4] = data[1, 7, 20] = bad
    codes, _ = cluster(tmp_path, data, method, nodata=None, scale=None, n_clusters=2)
    expected = np.repeat([1, 2], 12)[None].repeat(12, 0)
    expected[3, 4] = expected[7, 20] = 0
    np.testing.assert_array_equal(codes, expected)


def test_each_band_has_its_own_nodata(tmp_path):
    """A virtual raster: GeoTIFF has one nodata value for all its bands."""
    first, second = patches([(500,), (2500,)]), patches([(600,), (2000,)])
    first[0, 0, 0], second[0, 1, 1] = 7777, 8888
    first[0, 2, 2], second[0, 3, 3] = 8888, 7777
    files = [
        write_raster(tmp_path / f"{name}.tif", data, nodata=nodata, names=[name], scale=SCALE)
        for name, data, nodata in (("B03", first, 7777), ("B04", second, 8888))
    ]
    stack = str(tmp_path / "stack.vrt")
    built = gdal.BuildVRT(stack, files, separate=True)
    assert [built.GetRasterBand(i).GetNoDataValue() for i in (1, 2)] == [7777, 8888]
    built = None
    out = ClusterOutputs(str(tmp_path / "o.tif"))
    run_clustering(stack, out, ClusterOptions(n_clusters=2, band_map="green=1,red=2"), Progress())
    codes = read(out.raster)[0]
    assert {tuple(each) for each in np.argwhere(codes == 0)} == {(0, 0), (1, 1)}


@pytest.mark.parametrize("method", METHODS)
def test_one_cluster(tmp_path, method):
    data = np.random.default_rng(3).integers(200, 4000, (2, 40, 40)).astype(np.uint16)
    codes, report = cluster(tmp_path, data, method, n_clusters=1)
    assert (codes == 1).all() and np.isnan(report.davies_bouldin)
    values = data.reshape(2, -1).T * 1e-4
    scaled = (values - values.mean(0)) / values.std(0)
    assert report.inertia == pytest.approx((scaled**2).sum(), rel=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_254_clusters(tmp_path, method):
    rng = np.random.default_rng(4)
    spectra = np.array([(300 + 250 * (i % 16), 300 + 250 * (i // 16)) for i in range(254)])
    data = (patches(spectra, 8) + rng.integers(0, 8, (2, 8, 254 * 8))).astype(np.uint16)
    codes, report = cluster(tmp_path, data, method, n_clusters=254, sample_size=20000)
    assert report.n_clusters == 254 and len({(each.name, each.rgb) for each in report.legend}) == 254
    assert (np.bincount(codes.ravel(), minlength=255)[1:] == report.pixels).all() and (codes > 0).all()
    with pytest.raises(EngineError, match="N_CLUSTERS"):
        cluster(tmp_path, data, method, n_clusters=255)
