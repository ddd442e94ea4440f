"""k-means: choice of k, the streamed prediction against scikit-learn, the sample, the files."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from osgeo import gdal
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs
from sklearn.metrics import davies_bouldin_score

from s2landcover_plugin.engine import blocks, sampling
from s2landcover_plugin.engine.areas import run_areas
from s2landcover_plugin.engine.bandfiles import StackOptions, run_stack
from s2landcover_plugin.engine.classification import Assign
from s2landcover_plugin.engine.clustering import ClusterOptions, ClusterOutputs, run_clustering, run_selection
from s2landcover_plugin.engine.errors import Cancelled, EngineError
from s2landcover_plugin.engine.features import feature_reader
from s2landcover_plugin.engine.grid import Grid
from s2landcover_plugin.engine.models import ClusterModel
from s2landcover_plugin.engine.progress import Progress
from s2landcover_plugin.engine.quality import knee
from s2landcover_plugin.engine.raster import describe
from s2landcover_plugin.engine.selection import Question, select_n_clusters

from .clusters import NAMES, predict_like_sklearn
from .conftest import Messages, read, write_raster


def outputs(folder, name="o"):
    return ClusterOutputs(*(str(folder / f"{name}.{ending}") for ending in ("tif", "json", "csv", "html")))


@pytest.mark.parametrize("scaling", ["none", "standard", "robust"])
@pytest.mark.parametrize("indices", [(), ("NDVI",)])
def test_prediction_equals_scikit_learn_on_every_pixel(stack, tmp_path, scaling, indices):
    source, planted = stack
    out = outputs(tmp_path)
    run_clustering(source, out, ClusterOptions(n_clusters=4, scaling=scaling, indices=indices), Progress())
    model = json.loads((tmp_path / "o.json").read_text())
    pixels = read(source).reshape(4, -1).T.astype(float)
    ndvi = (pixels[:, 3] - pixels[:, 2]) / np.maximum(pixels[:, 3] + pixels[:, 2], 1) if indices else None
    expected = predict_like_sklearn(model, pixels, ndvi).reshape(planted.shape)
    expected[80:, 60:] = 0
    np.testing.assert_array_equal(read(out.raster)[0], expected)
    if not indices:  # the noise of NDVI over dark water splits that cover
        assert len({(a, b) for a, b in zip(planted.ravel(), expected.ravel()) if b}) == 4


def test_twelve_real_bands_choose_k_and_agree_with_scikit_learn(t48que, tmp_path):
    stacked = str(tmp_path / "stack.tif")
    run_stack([str(p) for p in t48que], stacked, StackOptions(), None, Progress())
    chosen = []
    for name in ("first", "second"):
        report = run_clustering(stacked, outputs(tmp_path, name), ClusterOptions(), Progress())
        chosen.append(report.n_clusters)
    assert chosen[0] == chosen[1] and 2 <= chosen[0] <= 10
    codes = read(tmp_path / "first.tif")[0]
    np.testing.assert_array_equal(codes, read(tmp_path / "second.tif")[0])
    assert (tmp_path / "first.json").read_text() == (tmp_path / "second.json").read_text()
    model = json.loads((tmp_path / "first.json").read_text())
    pixels = read(stacked).reshape(12, -1).T.astype(float)
    np.testing.assert_array_equal(codes.ravel(), predict_like_sklearn(model, pixels))


def test_near_ties_are_decided_in_float64(tmp_path):
    """Pixels on and around the boundary between two centres, where float32 alone errs."""
    rng = np.random.default_rng(1)
    data = rng.integers(1, 65535, (4, 200, 200)).astype(np.uint16)
    source = write_raster(tmp_path / "s.tif", data, names=NAMES, scale=(0.0001, 0))
    reader, space = feature_reader(describe(source), (), (), "", Progress())
    centers = np.array([[1.0, 2.0, 3.0, 1.0], [1.0 + 2e-7, 2.0, 3.0, 1.0], [4.0, 1.0, 0.5, 2.0]])
    model = ClusterModel(space.features, centers, np.zeros(4), np.ones(4), "none", (), np.full(3, 1 / 3), np.stack(3 * [np.eye(4)]))
    op = Assign(space, model)
    codes = np.empty(data[0].size, np.uint8)
    op._assign(data.reshape(4, -1), codes)
    x = data.reshape(4, -1).astype(np.longdouble) * np.longdouble(0.0001)
    exact = np.array([((x - c[:, None].astype(np.longdouble)) ** 2).sum(0) for c in centers])
    margin = np.abs(np.diff(np.sort(exact, axis=0)[:2], axis=0)[0])
    decided = margin > 1e-12
    assert np.count_nonzero(margin < 1e-5) > 1000
    np.testing.assert_array_equal(codes[decided], exact.argmin(0)[decided] + 1)


def test_map_does_not_depend_on_tiles_blocks_or_threads(tmp_path, monkeypatch):
    """1300 x 1100 pixels: several blocks whatever their size; a strip file and a tiled one."""
    rng = np.random.default_rng(8)
    data = rng.integers(1, 9000, (3, 1100, 1300)).astype(np.uint16)
    data[:, rng.random((1100, 1300)) < 0.05] = 0
    strips = write_raster(tmp_path / "strips.tif", data, names=NAMES, scale=(0.0001, 0))
    tiled = str(tmp_path / "tiled.tif")
    gdal.Translate(tiled, strips, creationOptions=["TILED=YES", "BLOCKXSIZE=256", "BLOCKYSIZE=256"])
    maps = []
    for number, (source, block_px, workers) in enumerate(((strips, 1024, 2), (tiled, 1024, 1), (tiled, 300, 4), (strips, 77, 3))):
        monkeypatch.setattr(blocks, "BLOCK_PX", block_px)
        monkeypatch.setattr(blocks, "default_workers", lambda workers=workers: workers)
        out = outputs(tmp_path, f"m{number}")
        run_clustering(source, out, ClusterOptions(n_clusters=5, indices=("NDWI",), band_map="green=2,nir=3"), Progress())
        maps.append((read(out.raster)[0], open(out.model).read().replace("strips.tif", "tiled.tif")))
    for codes, model in maps[1:]:
        np.testing.assert_array_equal(codes, maps[0][0])
        assert model == maps[0][1]


def test_areas_add_up_to_the_valid_area_in_every_output(stack, tmp_path, messages):
    source, _ = stack
    out = outputs(tmp_path)
    report = run_clustering(source, out, ClusterOptions(n_clusters=4), messages.progress)
    valid = np.count_nonzero(read(source)[0])
    assert sum(report.hectares) == pytest.approx(valid * 0.01)
    rows = list(csv.DictReader(open(out.table)))
    assert sum(float(row["hectares"]) for row in rows) == pytest.approx(valid * 0.01)
    assert sum(int(row["pixels"]) for row in rows) == valid
    dataset = gdal.Open(out.raster)
    band = dataset.GetRasterBand(1)
    assert band.DataType == gdal.GDT_Byte and band.GetNoDataValue() == 0
    assert band.GetRasterCategoryNames()[1:] == [row["name"] for row in rows]
    table = band.GetDefaultRAT()
    assert [table.GetValueAsDouble(r, 6) for r in range(4)] == pytest.approx([float(row["hectares"]) for row in rows])
    areas = run_areas(out.raster, str(tmp_path / "areas.csv"), str(tmp_path / "areas.html"), Progress())
    assert areas.hectares == report.hectares
    same = list(csv.DictReader(open(tmp_path / "areas.csv")))
    assert [{name: row[name] for name in same[0]} for row in rows] == same
    page = (tmp_path / "o.html").read_text()
    assert rows[3]["name"] in page and "http://" not in page and "https://" not in page and "<script" not in page
    assert messages.fractions == sorted(messages.fractions) and messages.fractions[-1] == 1


def test_clusters_are_ordered_from_dark_to_bright_for_every_seed(stack, tmp_path):
    source, _ = stack
    maps = []
    for seed in range(4):
        out = outputs(tmp_path, f"s{seed}")
        run_clustering(source, out, ClusterOptions(n_clusters=4, seed=seed), Progress())
        maps.append(read(out.raster)[0])
        centers = np.array([c["center"] for c in json.loads(open(out.model).read())["classes"]])
        assert (np.diff(centers.mean(1)) > 0).all()
    for other in maps[1:]:
        np.testing.assert_array_equal(other, maps[0])


@pytest.mark.parametrize("k", [3, 4, 6])
def test_elbow_and_davies_bouldin_find_planted_clusters(k):
    values, _ = make_blobs(4000, 4, centers=k, cluster_std=0.5, random_state=k, center_box=(-10, 10))
    selection = select_n_clusters(values, Question(2, 10, 0), "blobs", Progress())
    assert selection.votes == {"elbow": k, "davies-bouldin": k} and selection.chosen == k


def test_quality_figures_equal_scikit_learn(stack, tmp_path):
    source, _ = stack
    run_selection(source, ClusterOptions(k_max=4), str(tmp_path / "k.csv"), str(tmp_path / "k.html"), Progress())
    data = read(source).reshape(4, -1).T.astype(float)
    values = data[data[:, 0] > 0] * 0.0001
    values = (values - values.mean(0)) / values.std(0)
    for row in csv.DictReader(open(tmp_path / "k.csv")):
        fit = KMeans(int(row["n_clusters"]), n_init=10, random_state=1).fit(values)
        assert float(row["inertia"]) == pytest.approx(fit.inertia_, rel=1e-4)
        if int(row["n_clusters"]) == 4:
            assert float(row["davies_bouldin"]) == pytest.approx(davies_bouldin_score(values, fit.labels_), rel=1e-6)


def test_knee_by_hand():
    # logarithms 8 5 2 1.5 1 (to base e): below the chord by 1.25, 2.5, 1.25
    assert knee([1, 2, 3, 4, 5], list(np.exp([8, 5, 2, 1.5, 1]))) == 3
    assert knee([1, 2, 3], [5, 5, 5]) == 1
    assert knee([2, 3], [9, 1]) == 2


def test_too_many_clusters_is_one_sentence_and_no_file(tmp_path):
    data = np.zeros((2, 20, 20), np.uint16)
    data[:, :10] = 700
    data[:, 10:] = 900
    source = write_raster(tmp_path / "two.tif", data, names=["B03", "B04"], scale=(0.0001, 0))
    folder = tmp_path / "out"
    folder.mkdir()
    with pytest.raises(EngineError, match="3 clusters were asked for, but the raster has only 2 distinct pixel values.*at most 2"):
        run_clustering(source, outputs(folder), ClusterOptions(n_clusters=3), Progress())
    assert list(folder.iterdir()) == []
    watcher = Messages()
    assert run_clustering(source, outputs(folder), ClusterOptions(), watcher.progress).n_clusters == 2
    assert any("only 2 distinct" in text for text in watcher.warnings)


def test_nothing_but_nodata_is_one_sentence_and_no_file(tmp_path):
    source = write_raster(tmp_path / "empty.tif", np.zeros((2, 20, 20), np.uint16), names=["B03", "B04"], scale=(0.0001, 0))
    folder = tmp_path / "out"
    folder.mkdir()
    with pytest.raises(EngineError, match="no valid pixel.*empty.tif"):
        run_clustering(source, outputs(folder), ClusterOptions(), Progress())
    assert list(folder.iterdir()) == []


def test_cancel_anywhere_leaves_nothing(stack, tmp_path):
    source, _ = stack
    folder = tmp_path / "out"
    folder.mkdir()
    complete = Messages()
    run_clustering(source, outputs(tmp_path, "whole"), ClusterOptions(k_max=4), complete.progress)
    for stop in range(0, complete.asked):
        with pytest.raises(Cancelled):
            run_clustering(source, outputs(folder), ClusterOptions(k_max=4), Messages(cancel_after=stop).progress)
        assert list(folder.iterdir()) == []


def test_options_out_of_range_are_refused(stack, tmp_path):
    source, _ = stack
    for options, where in (
        (ClusterOptions(n_clusters=300), "N_CLUSTERS"),
        (ClusterOptions(scaling="strange"), "SCALING"),
        (ClusterOptions(k_min=5, k_max=3), "K_MIN"),
        (ClusterOptions(bands=("B11",)), "no band B11"),
        (ClusterOptions(indices=("BSI",)), "B11"),
    ):
        with pytest.raises(EngineError, match=where):
            run_clustering(source, outputs(tmp_path), options, Progress())


def test_sample_follows_the_valid_area_and_the_seed(tmp_path):
    data = np.zeros((1, 3000, 6000), np.uint16)
    data[0, :, :1500] = 1
    data[0, 1500:, 1500:3000] = 2
    source = write_raster(tmp_path / "s.tif", data, names=["B04"], scale=(0.0001, 0))
    reader, space = feature_reader(describe(source), (), (), "", Progress())
    sample = sampling.draw_sample(reader, space, 5000, 3, Progress()).values
    assert sample.shape == (5000, 1)
    # 4.5 and 2.25 million pixels: two thirds and one third
    assert (sample == 0.0001).mean() == pytest.approx(2 / 3, abs=0.02)
    again = sampling.draw_sample(reader, space, 5000, 3, Progress()).values
    np.testing.assert_array_equal(sample, again)


def test_what_is_valid_at_the_rims_of_cells_only_is_found(tmp_path):
    data = np.zeros((1, 5000, 5000), np.uint16)
    data[0, 0, 900:1200] = 7
    source = write_raster(tmp_path / "rim.tif", data, names=["B04"], scale=(0.0001, 0), options=["COMPRESS=DEFLATE", "TILED=YES"])
    reader, space = feature_reader(describe(source), (), (), "", Progress())
    assert sampling.draw_sample(reader, space, 5000, 0, Progress()).values.shape == (300, 1)


def test_another_seed_draws_another_sample(make_raster):
    reader, space = feature_reader(describe(make_raster(bands=1, rows=300, cols=300)), (), (), "", Progress())
    first, second = (sampling.draw_sample(reader, space, 100, seed, Progress()).values for seed in (1, 2))
    assert first.shape == second.shape == (100, 1) and not np.array_equal(np.sort(first, axis=0), np.sort(second, axis=0))


def test_sample_of_a_small_raster_is_every_valid_pixel(stack):
    source, _ = stack
    reader, space = feature_reader(describe(source), (), (), "", Progress())
    sample = sampling.draw_sample(reader, space, 50000, 0, Progress())
    data = read(source).reshape(4, -1)
    expected = data[:, data[0] > 0].T * 0.0001
    np.testing.assert_allclose(np.sort(sample.values, axis=0), np.sort(expected, axis=0), rtol=1e-12)


def test_large_rasters_are_sampled_in_every_stratum():
    cells = sampling.sample_cells(Grid("", (0, 10, 0, 0, 0, -10), 10980, 10980), 7)
    assert len(cells) == 121
    first = {(c.x * 6 // 11264, c.y * 4 // 11264) for c in cells[: sampling.CELLS]}
    assert len(first) == sampling.CELLS
    assert len({(c.x, c.y) for c in cells}) == 121


@pytest.mark.parametrize(("dtype", "nodata"), [("float32", float("nan")), ("float32", -3.4e38), ("int16", -9999)])
def test_nodata_of_any_kind_changes_no_other_pixel(tmp_path, dtype, nodata, recwarn):
    rng = np.random.default_rng(4)
    data = rng.integers(100, 6000, (3, 120, 130)).astype(dtype)
    hole = rng.random((120, 130)) < 0.01
    data[:, hole] = nodata
    scale = (0.0001, 0)
    source = write_raster(tmp_path / "a.tif", data, nodata=nodata, names=NAMES, scale=scale)
    plain = write_raster(tmp_path / "b.tif", np.where(hole, 0, data).astype(np.uint16), names=NAMES, scale=scale)
    maps = []
    for name, path in (("a", source), ("b", plain)):
        run_clustering(
            path, outputs(tmp_path, f"o{name}"), ClusterOptions(n_clusters=4, indices=("NDWI",), band_map="green=2,nir=3"), Progress()
        )
        maps.append(read(tmp_path / f"o{name}.tif")[0])
    np.testing.assert_array_equal(maps[0], maps[1])
    np.testing.assert_array_equal(maps[0] == 0, hole)
    assert not [w for w in recwarn if issubclass(w.category, RuntimeWarning)]


def test_raster_without_a_usable_band_says_so(tmp_path):
    source = write_raster(tmp_path / "SCL.tif", np.full((1, 9, 9), 4, np.uint8))
    with pytest.raises(EngineError, match="no band to use"):
        run_clustering(source, outputs(tmp_path), ClusterOptions(), Progress())


@pytest.mark.parametrize("shape", [(1, 1), (1, 900), (900, 1), (5, 5000)])
def test_narrow_rasters_have_a_report_too(tmp_path, shape):
    data = np.random.default_rng(0).integers(1, 5000, (2, *shape)).astype(np.uint16)
    source = write_raster(tmp_path / "s.tif", data, names=NAMES, scale=(0.0001, 0))
    k = min(2, shape[0] * shape[1])
    assert sum(run_clustering(source, outputs(tmp_path), ClusterOptions(n_clusters=k), Progress()).pixels) == shape[0] * shape[1]


@pytest.mark.parametrize(("dtype", "nodata"), [("int32", -2147483648), ("int16", -1), ("uint16", 65535), ("uint8", None)])
def test_areas_of_class_rasters_of_other_programs(tmp_path, dtype, nodata):
    codes = np.array([[[1, 1, 300 % 256, 2], [0, 2, 2, 2]]]).astype(dtype)
    if nodata is not None:
        codes[0, 1, 0] = nodata
    source = write_raster(tmp_path / "c.tif", codes, nodata=nodata)
    report = run_areas(source, str(tmp_path / "a.csv"), str(tmp_path / "a.html"), Progress())
    assert [(c.code, n) for c, n in zip(report.legend, report.pixels)] == [(1, 2), (2, 4), (44, 1)]


def test_a_reflectance_band_is_no_class_raster(tmp_path):
    source = write_raster(tmp_path / "B04.tif", np.arange(1, 2501, dtype=np.uint16).reshape(1, 50, 50))
    with pytest.raises(EngineError, match="2500 different values"):
        run_areas(source, "", "", Progress())


def test_unscaled_whole_numbers_are_taken_as_dn_with_a_warning(tmp_path, messages):
    rng = np.random.default_rng(0)
    source = write_raster(tmp_path / "plain.tif", rng.integers(1, 5000, (2, 30, 30)).astype(np.uint16), names=["B03", "B04"])
    out = outputs(tmp_path)
    run_clustering(source, out, ClusterOptions(n_clusters=2), messages.progress)
    assert any("states no scale for B03, B04" in text for text in messages.warnings)
    centers = np.array([c["center"] for c in json.loads(open(out.model).read())["classes"]])
    assert 0.05 < centers.mean() < 0.5
