"""Gaussian mixtures, the model file, and a saved model on another raster."""

from __future__ import annotations

import csv
import json
import pickle

import numpy as np
import pytest
from osgeo import gdal
from sklearn.mixture import GaussianMixture

from s2landcover_plugin.engine import blocks
from s2landcover_plugin.engine.applying import ApplyOptions, ApplyOutputs, run_apply
from s2landcover_plugin.engine.bandfiles import StackOptions, run_stack
from s2landcover_plugin.engine.clustering import ClusterOptions, ClusterOutputs, run_clustering
from s2landcover_plugin.engine.errors import EngineError
from s2landcover_plugin.engine.model_file import load_model, to_json
from s2landcover_plugin.engine.progress import Progress

from .clusters import NAMES, predict_like_sklearn
from .conftest import Messages, put, read, shared_data, write_raster


def outputs(folder, name="o"):
    return ClusterOutputs(*(str(folder / f"{name}{ending}") for ending in (".tif", ".json", ".csv", ".html", "_confidence.tif")))


def sklearn_mixture(document):
    """scikit-learn's own mixture with the numbers of a model file, and the function that scales features for it."""
    shift, spread = (np.array(document["scaling"][key]) for key in ("shift", "spread"))
    mixture = GaussianMixture(len(document["classes"]), covariance_type="full")
    mixture.weights_ = np.array([c["weight"] for c in document["classes"]])
    mixture.means_ = (np.array([c["center"] for c in document["classes"]]) - shift) / spread
    mixture.covariances_ = np.array([c["covariance"] for c in document["classes"]])
    mixture.precisions_cholesky_ = np.array([np.linalg.inv(np.linalg.cholesky(c)).T for c in mixture.covariances_])
    return mixture, lambda values: (values - shift) / spread


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
@pytest.mark.parametrize("indices", [(), ("NDVI",)])
def test_mixture_equals_scikit_learn_in_class_and_probability(stack, tmp_path, dtype, indices):
    source, planted = stack
    data = read(source)
    if dtype == "float32":
        source = write_raster(tmp_path / "f.tif", np.where(data > 0, data * 1e-4, -9999).astype(np.float32), nodata=-9999, names=NAMES)
    out = outputs(tmp_path)
    run_clustering(source, out, ClusterOptions(method="gmm", n_clusters=4, indices=indices), Progress())
    document = json.loads((tmp_path / "o.json").read_text())
    assert document["method"] == "gmm"
    values = (read(source).astype(np.float64) if dtype == "float32" else data * 1e-4).reshape(4, -1).T
    if indices:
        values = np.concatenate([values, ((values[:, 3] - values[:, 2]) / (values[:, 3] + values[:, 2] + 1e-300))[:, None]], axis=1)
    valid = data[0].ravel() > 0
    mixture, scaled = sklearn_mixture(document)
    codes, confidence = read(out.raster)[0].ravel(), read(out.confidence)[0].ravel()
    np.testing.assert_array_equal(codes[valid], mixture.predict(scaled(values[valid])) + 1)
    np.testing.assert_allclose(confidence[valid], mixture.predict_proba(scaled(values[valid])).max(1), atol=1e-6)
    assert not codes[~valid].any() and (confidence[~valid] == -1).all()
    if not indices:
        assert len({(a, b) for a, b in zip(planted.ravel(), codes) if b}) == 4


@pytest.mark.parametrize("method", ["kmeans", "gmm"])
@pytest.mark.parametrize("dtype", ["uint16", "float32"])
@pytest.mark.parametrize(("block_px", "workers"), [(1024, 1), (17, 3), (64, 2)])
def test_prediction_is_scikit_learns_in_any_block_and_thread(stack, tmp_path, monkeypatch, method, dtype, block_px, workers):
    """Without confidence too, where k-means takes its fast way; predict on every pixel, predict_proba to 1e-6."""
    source, _ = stack
    data = read(source)
    if dtype == "float32":
        source = write_raster(tmp_path / "f.tif", np.where(data > 0, data * 1e-4, -9999).astype(np.float32), nodata=-9999, names=NAMES)
    monkeypatch.setattr(blocks, "BLOCK_PX", block_px)
    monkeypatch.setattr(blocks, "default_workers", lambda: workers)
    plain, judged = ClusterOutputs(str(tmp_path / "p.tif")), outputs(tmp_path)
    for out in (plain, judged):
        run_clustering(source, out, ClusterOptions(method=method, n_clusters=5), Progress())
    document = json.loads((tmp_path / "o.json").read_text())
    values = (read(source).astype(np.float64) if dtype == "float32" else data * 1e-4).reshape(4, -1).T
    valid = data[0].ravel() > 0
    mixture, scaled = sklearn_mixture(document)
    if method == "gmm":
        expected = mixture.predict(scaled(values[valid])) + 1
        confidence = read(judged.confidence)[0].ravel()[valid]
        np.testing.assert_allclose(confidence, mixture.predict_proba(scaled(values[valid])).max(1), atol=1e-6)
    else:
        expected = predict_like_sklearn(document, values[valid] * 1e4)
    for out in (plain, judged):
        codes = read(out.raster)[0].ravel()
        np.testing.assert_array_equal(codes[valid], expected)
        assert not codes[~valid].any()


def test_mixture_fit_is_scikit_learns(stack, tmp_path):
    """The same sample, scaling and start give the same mixture."""
    source, _ = stack
    out = outputs(tmp_path)
    run_clustering(source, out, ClusterOptions(method="gmm", n_clusters=4), Progress())
    mixture, scaled = sklearn_mixture(json.loads((tmp_path / "o.json").read_text()))
    data = read(source).reshape(4, -1).T
    sample = scaled(data[data[:, 0] > 0] * 1e-4)
    own = GaussianMixture(4, means_init=mixture.means_, tol=1e-6, max_iter=500, random_state=3).fit(sample)
    assert mixture.score(sample) == pytest.approx(own.score(sample), abs=1e-3)


def test_confidence_of_k_means_by_hand(stack, tmp_path):
    source, _ = stack
    out = outputs(tmp_path)
    run_clustering(source, out, ClusterOptions(n_clusters=4), Progress())
    document = json.loads((tmp_path / "o.json").read_text())
    shift, spread = (np.array(document["scaling"][key]) for key in ("shift", "spread"))
    data = read(source).reshape(4, -1).T
    centers = np.array([c["center"] for c in document["classes"]])
    distances = np.sort(np.linalg.norm((data[:, None] * 1e-4 - centers) / spread, axis=2), axis=1)
    expected = np.where(data[:, 0] > 0, 1 - distances[:, 0] / distances[:, 1], -1)
    np.testing.assert_allclose(read(out.confidence)[0].ravel(), expected, atol=1e-6)
    np.testing.assert_array_equal(read(out.raster)[0].ravel(), np.where(data[:, 0] > 0, predict_like_sklearn(document, data), 0))


def test_maps_with_and_without_confidence_are_the_same(t48que, tmp_path):
    stacked = str(tmp_path / "s.tif")
    run_stack([str(p) for p in t48que], stacked, StackOptions(), None, Progress())
    run_clustering(stacked, outputs(tmp_path, "a"), ClusterOptions(n_clusters=7), Progress())
    run_clustering(stacked, ClusterOutputs(str(tmp_path / "b.tif")), ClusterOptions(n_clusters=7), Progress())
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), read(tmp_path / "b.tif"))


@pytest.mark.parametrize("method", ["kmeans", "gmm"])
def test_distance_from_one_cluster_is_mahalanobis(stack, tmp_path, method):
    source, _ = stack
    out = outputs(tmp_path)
    run_clustering(source, out, ClusterOptions(method=method, n_clusters=1, scaling="none"), Progress())
    run_apply(source, out.model, ApplyOutputs(str(tmp_path / "a.tif"), str(tmp_path / "d.tif")), ApplyOptions(), Progress())
    data = read(source).reshape(4, -1).T
    values = data[data[:, 0] > 0] * 1e-4
    deviation = values - values.mean(0)
    squares = np.einsum("ni,ij,nj->n", deviation, np.linalg.inv(np.cov(values.T, bias=True) + 1e-6 * np.eye(4)), deviation)
    distance = read(tmp_path / "d.tif")[0].ravel()[data[:, 0] > 0]
    np.testing.assert_allclose(distance, np.sqrt(squares), rtol=1e-4)


def test_distance_is_that_of_scikit_learns_density(stack, tmp_path):
    source, _ = stack
    out = outputs(tmp_path)
    run_clustering(source, out, ClusterOptions(method="gmm", n_clusters=4), Progress())
    run_apply(source, out.model, ApplyOutputs(str(tmp_path / "a.tif"), str(tmp_path / "d.tif")), ApplyOptions(), Progress())
    mixture, scaled = sklearn_mixture(json.loads((tmp_path / "o.json").read_text()))
    data = read(source).reshape(4, -1).T
    valid = data[:, 0] > 0
    peak = mixture.score_samples(mixture.means_).max()
    expected = np.sqrt(np.maximum(2 * (peak - mixture.score_samples(scaled(data[valid] * 1e-4))), 0))
    np.testing.assert_allclose(read(tmp_path / "d.tif")[0].ravel()[valid], expected, atol=1e-5)


@pytest.mark.parametrize("method", ["kmeans", "gmm"])
def test_applying_a_model_to_its_own_raster_gives_its_own_map(stack, tmp_path, method, monkeypatch):
    source, _ = stack
    out = outputs(tmp_path)
    fitted = run_clustering(source, out, ClusterOptions(method=method, n_clusters=4, indices=("NDVI",)), Progress())
    for number, (block_px, workers) in enumerate(((1024, 2), (17, 1), (64, 4))):
        monkeypatch.setattr(blocks, "BLOCK_PX", block_px)
        monkeypatch.setattr(blocks, "default_workers", lambda workers=workers: workers)
        path = str(tmp_path / f"a{number}.tif")
        applied = run_apply(source, out.model, ApplyOutputs(path, str(tmp_path / f"d{number}.tif")), ApplyOptions(), Progress())
        np.testing.assert_array_equal(read(path), read(out.raster))
        np.testing.assert_array_equal(read(tmp_path / f"d{number}.tif"), read(tmp_path / "d0.tif"))
    assert applied.legend == fitted.legend and applied.trusted
    assert applied.outside_share == pytest.approx(0.01, abs=0.005)
    distance = read(tmp_path / "d0.tif")[0]
    assert ((distance == -1) == (read(out.raster)[0] == 0)).all() and distance.max() < 30


def test_bands_are_found_by_name_and_missing_ones_are_named(stack, tmp_path):
    source, _ = stack
    out = outputs(tmp_path)
    run_clustering(source, out, ClusterOptions(n_clusters=4), Progress())
    data = read(source)
    swapped = write_raster(tmp_path / "swapped.tif", data[::-1].copy(), names=NAMES[::-1], scale=(0.0001, 0))
    run_apply(swapped, out.model, ApplyOutputs(str(tmp_path / "a.tif")), ApplyOptions(), Progress())
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), read(out.raster))
    unnamed = write_raster(tmp_path / "unnamed.tif", data[[1, 0, 2, 3]], scale=(0.0001, 0))
    mapped = ApplyOptions(band_map="blue=2,green=1,red=3,nir=4")
    run_apply(unnamed, out.model, ApplyOutputs(str(tmp_path / "b.tif")), mapped, Progress())
    np.testing.assert_array_equal(read(tmp_path / "b.tif"), read(out.raster))
    folder = tmp_path / "out"
    folder.mkdir()
    fewer = write_raster(tmp_path / "fewer.tif", data[:2], names=NAMES[:2], scale=(0.0001, 0))
    for path, said in ((fewer, "needs B04, B08, which the raster lacks: .*fewer.tif; its bands are B02, B03"), (unnamed, "needs B02, B03")):
        with pytest.raises(EngineError, match=said):
            run_apply(path, out.model, ApplyOutputs(str(folder / "o.tif")), ApplyOptions(), Progress())
    with pytest.raises(EngineError, match="Two features of the model are one band"):
        named = write_raster(tmp_path / "named.tif", data, names=NAMES, scale=(0.0001, 0))
        run_apply(named, out.model, ApplyOutputs(str(folder / "o.tif")), ApplyOptions(band_map="blue=2"), Progress())
    assert list(folder.iterdir()) == []


def test_reflectance_and_dn_are_the_same_to_a_model(stack, tmp_path):
    source, _ = stack
    out = outputs(tmp_path)
    run_clustering(source, out, ClusterOptions(n_clusters=4), Progress())
    real = write_raster(tmp_path / "real.tif", np.where(read(source) > 0, read(source) * 1e-4, np.nan), nodata=np.nan, names=NAMES)
    run_apply(real, out.model, ApplyOutputs(str(tmp_path / "a.tif")), ApplyOptions(), Progress())
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), read(out.raster))


def test_unknown_pixels_get_a_class_of_their_own(stack, tmp_path):
    source, _ = stack
    out = outputs(tmp_path)
    run_clustering(source, out, ClusterOptions(n_clusters=4), Progress())
    data = read(source)
    data[:, 20:30, 10:40] = np.array([9000, 100, 9000, 100])[:, None, None]
    strange = write_raster(tmp_path / "strange.tif", data, names=NAMES, scale=(0.0001, 0))
    table = str(tmp_path / "a.csv")
    report = run_apply(
        strange, out.model, ApplyOutputs(str(tmp_path / "a.tif"), table=table), ApplyOptions(unknown_quantile=1.0), Progress()
    )
    codes = read(tmp_path / "a.tif")[0]
    assert (codes[20:30, 10:40] == 5).all() and (codes == 5).sum() == 300
    assert report.legend[-1].name == "Unknown" and report.outside_share == pytest.approx(300 / (90 * 70 - 100))
    assert list(csv.DictReader(open(table)))[-1]["name"] == "Unknown"


@pytest.mark.parametrize("method", ["kmeans", "gmm"])
def test_a_desert_is_not_trusted_and_the_other_half_of_the_scene_is(t48que, tmp_path, method):
    """Six bands that both scenes have at 10 or 20 m."""
    names = ("B02", "B03", "B04", "B08", "B11", "B12")
    whole = str(tmp_path / "whole.tif")
    run_stack([str(p) for p in t48que], whole, StackOptions(bands=names), None, Progress())
    halves = []
    for name, left in (("west", 0), ("east", 534)):
        halves.append(str(tmp_path / f"{name}.tif"))
        gdal.Translate(halves[-1], whole, srcWin=[left, 0, 534, 1068])
    out = outputs(tmp_path)
    run_clustering(halves[0], out, ClusterOptions(method=method, n_clusters=6), Progress())
    half, desert = Messages(), Messages()
    trusted = run_apply(halves[1], out.model, ApplyOutputs(str(tmp_path / "h.tif")), ApplyOptions(), half.progress)
    assert trusted.trusted and trusted.outside_share < 0.06 and half.warnings == []
    folder = shared_data("s2a_29rkh_20200219")
    sand = str(tmp_path / "sand.tif")
    run_stack([str(folder / f"{n}.tif") for n in names], sand, StackOptions(bands=names), None, Progress())
    page = str(tmp_path / "d.html")
    report = run_apply(sand, out.model, ApplyOutputs(str(tmp_path / "d.tif"), html=page), ApplyOptions(), desert.progress)
    assert not report.trusted and report.outside_share > 0.9
    assert any("Do not trust the map there" in text for text in desert.warnings) and "Do not trust" in open(page).read()


@pytest.fixture
def model_file(stack, tmp_path):
    """A mixture's model file, and its document."""
    out = outputs(tmp_path, "m")
    run_clustering(stack[0], out, ClusterOptions(method="gmm", n_clusters=3, indices=("NDVI",)), Progress())
    return out.model, json.loads(open(out.model).read())


def test_a_model_survives_its_file(model_file):
    path, document = model_file
    model = load_model(path)
    assert to_json(model) == open(path).read()
    assert [f.name for f in model.features] == [*NAMES, "NDVI"] and model.training["sample_size"] == 6200
    assert document["training"]["crs"] == "EPSG:32633" and document["training"]["extent"] == [500000, 5199100, 500700, 5200000]
    lines = open(path).read().splitlines()
    assert len(lines) < 150 and max(map(len, lines)) < 200  # for people and for diff


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (put("schema", "other"), "no cluster model"),
        (put("schema_version", 99), "schema version 99"),
        (put("method", "svm"), "wrong method"),
        (put("radiometry", "DN"), "another radiometry"),
        (put("features", []), "wrong features"),
        (put("features", 0, "name", "B03"), "different features"),
        (put("features", 4, "formula", "__import__('os')"), "formula|NDVI"),
        (put("features", 0, 7), r"wrong features\[0\]"),
        (put("scaling", "spread", [1, 1, 1, 1, 0]), "scaling.spread"),
        (put("scaling", "shift", [0, 0]), "scaling.shift, which should be 5 numbers"),
        (put("classes", []), "1 to 254 classes"),
        (put("classes", 0, "center", [1e400] * 5), "not JSON"),
        (put("classes", 0, "center", ["1"] * 5), "5 numbers"),
        (put("classes", 0, "center", [True] * 5), "5 numbers"),
        (put("classes", 0, "center", [3000.0] * 5), "reflectance"),
        (put("classes", 1, "code", 7), "order of their codes"),
        (put("classes", 1, "code", 300), "1 to 254"),
        (put("classes", 1, "code", True), "1 to 254"),
        (put("classes", 1, "color", "red"), "#rrggbb"),
        (put("classes", 1, "name", ""), "a text"),
        (put("classes", 1, "weight", 0.9), "weights"),
        (put("classes", 1, "weight", -0.1), "weights"),
        (put("classes", 1, "covariance", [[1, 2], [2, 1]]), "5 x 5 numbers"),
        (put("classes", 1, "covariance", (np.eye(5) - 0.5).tolist()), "positive definite"),
        (put("classes", 1, "covariance", (np.eye(5) + np.tri(5, k=-1) * 0.1).tolist()), "symmetric"),
        (put("training_distance", {"0.5": 1}), "training_distance"),
        (put("training_distance", "0.99", 0.0), "rising order"),
        (put("training", []), "wrong training"),
    ],
)
def test_a_model_with_something_out_of_place_is_refused(model_file, stack, tmp_path, change, said):
    path, document = model_file
    change(document)
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps(document))
    folder = tmp_path / "out"
    folder.mkdir()
    with pytest.raises(EngineError, match=said) as caught:
        run_apply(stack[0], str(bad), ApplyOutputs(str(folder / "o.tif")), ApplyOptions(), Progress())
    assert "\n" not in str(caught.value) and list(folder.iterdir()) == []


def test_files_that_are_no_models_are_refused(tmp_path):
    (tmp_path / "pickle.json").write_bytes(pickle.dumps({"schema": 1}))
    (tmp_path / "nan.json").write_text('{"schema": "s2landcover-cluster-model", "schema_version": NaN}')
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "deep.json").write_text("[" * 100000)
    with open(tmp_path / "huge.json", "wb") as huge:
        huge.truncate(2_000_000_000)
    for name, said in (
        ("pickle", "not JSON"),
        ("nan", "not JSON"),
        ("list", "no cluster model"),
        ("deep", "not JSON"),
        ("huge", "too large.*2,000 MB"),
        ("gone", "cannot be read"),
    ):
        with pytest.raises(EngineError, match=said):
            load_model(str(tmp_path / f"{name}.json"))


# the same classes tomorrow


@pytest.mark.parametrize("method", ["kmeans", "gmm"])
def test_twenty_seeds_keep_code_and_colour(stack, tmp_path, method):
    source, _ = stack
    maps, legends = [], set()
    for seed in range(20):
        path = str(tmp_path / f"{seed}.tif")
        report = run_clustering(source, ClusterOutputs(path), ClusterOptions(method=method, n_clusters=4, seed=seed), Progress())
        maps.append(read(path)[0])
        legends.add(report.legend)
    assert len(legends) == 1
    assert min((each == maps[0]).mean() for each in maps) >= 0.99


def test_clusters_of_a_reference_keep_code_name_and_colour(stack, tmp_path):
    """Another date: one cover is gone, one is new and darker than all, the others have changed a little."""
    source, planted = stack
    first = outputs(tmp_path, "first")
    run_clustering(source, first, ClusterOptions(n_clusters=4), Progress())
    document = json.loads(open(first.model).read())
    for number, name in enumerate(("Water", "Trees", "Soil", "Town")):
        document["classes"][number]["name"] = name
    reference = tmp_path / "named.json"
    reference.write_text(json.dumps(document))
    data = read(source).astype(int)
    trees = planted == 1
    later = np.where(data > 0, data + 30, 0)
    later[:, trees & (data[0] > 0)] = np.array([60, 50, 40, 900])[:, None]
    later[:, trees & (data[0] > 0)] += np.random.default_rng(0).integers(0, 30, (4, int((trees & (data[0] > 0)).sum())))
    second = write_raster(tmp_path / "later.tif", later.astype(np.uint16), names=NAMES, scale=(0.0001, 0))
    out, messages = outputs(tmp_path, "second"), Messages()
    report = run_clustering(second, out, ClusterOptions(n_clusters=4), messages.progress, str(reference))
    assert [(c.code, c.name) for c in report.legend] == [(1, "Water"), (3, "Soil"), (4, "Town"), (5, "Cluster 5")]
    old = {c["name"]: c["color"] for c in document["classes"]}
    assert all(c.hex == old[c.name] for c in report.legend if c.name in old) and report.legend[-1].hex not in old.values()
    before, after = read(first.raster)[0], read(out.raster)[0]
    np.testing.assert_array_equal(after, np.where((before > 0) & trees, 5, before))
    assert any("3 of 4 clusters are those of" in text and "new: Cluster 5" in text for text in messages.infos)
    band = gdal.Open(out.raster)
    band.GetGeoTransform()
    assert band.GetRasterBand(1).GetRasterCategoryNames()[1:] == ["Water", "", "Soil", "Town", "Cluster 5"]
    applied = run_apply(second, out.model, ApplyOutputs(str(tmp_path / "a.tif")), ApplyOptions(unknown_quantile=1), Progress())
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[0], after)
    assert (applied.legend[-1].code, applied.legend[-1].name) == (6, "Unknown")
    with pytest.raises(EngineError, match="other features.*same BANDS"):
        run_clustering(second, outputs(tmp_path, "x"), ClusterOptions(n_clusters=4, bands=("B02",)), Progress(), str(reference))


def test_two_dates_have_one_legend(earth_search_items, tmp_path):
    """Two real dates of 33TWM: what was one class on the first day is the same on the second for most pixels."""
    folder = shared_data("earth_search_33twm")
    names = ("B02", "B03", "B04", "B08")
    stacks = []
    for day in ("S2A_33TWM_20230815_0_L2A", "S2B_33TWM_20230813_0_L2A"):
        stacks.append(str(tmp_path / f"{day}.tif"))
        run_stack([str(folder / day / f"{n}.tif") for n in names], stacks[-1], StackOptions(bands=names), None, Progress())
    first, second = outputs(tmp_path, "first"), outputs(tmp_path, "second")
    before = run_clustering(stacks[0], first, ClusterOptions(n_clusters=5), Progress())
    after = run_clustering(stacks[1], second, ClusterOptions(n_clusters=5), Progress(), first.model)
    shared = {c.code: c for c in before.legend}
    # three of five in seven of eight seeds with either way to draw the sample: the other two split otherwise on the second day
    assert sum(shared.get(c.code) == c for c in after.legend) >= 3
    both = (read(first.raster)[0] > 0) & (read(second.raster)[0] > 0)
    assert (read(first.raster)[0] == read(second.raster)[0])[both].mean() > 0.6
