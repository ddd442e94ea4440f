"""A map against a reference: the figures of scikit-learn, and clusters against hand-drawn water."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from osgeo import gdal
from sklearn import metrics

from s2landcover_plugin.engine.accuracy import assess_map
from s2landcover_plugin.engine.clustering import ClusterOptions, ClusterOutputs, run_clustering
from s2landcover_plugin.engine.errors import EngineError
from s2landcover_plugin.engine.geotiff import write_class_table
from s2landcover_plugin.engine.legend import LegendClass
from s2landcover_plugin.engine.progress import Progress

from .conftest import read, shared_data, write_raster


@pytest.fixture
def pair(tmp_path):
    """A map (codes 1 to 3, 0 = nodata) and a reference (codes 1 to 4, -1 = not labelled) that mostly agree: paths and arrays."""
    rng = np.random.default_rng(0)
    truth = rng.integers(1, 5, (70, 90)).astype(np.int16)
    mine = np.where(rng.random(truth.shape) < 0.7, np.minimum(truth, 3), rng.integers(1, 4, truth.shape)).astype(np.uint8)
    mine[rng.random(truth.shape) < 0.05] = 0
    truth[rng.random(truth.shape) < 0.1] = -1
    return (
        write_raster(tmp_path / "map.tif", mine[None]),
        write_raster(tmp_path / "ref.tif", truth[None], nodata=None),
        mine,
        truth,
    )


def test_figures_equal_scikit_learn(pair):
    path, reference, mine, truth = pair
    found = assess_map(path, reference, "codes", Progress()).confusion
    use = (mine > 0) & (truth >= 0)
    expected, predicted = truth[use], mine[use].astype(int)
    labels = [1, 2, 3, 4]
    np.testing.assert_array_equal(found.counts, metrics.confusion_matrix(expected, predicted, labels=labels))
    assert found.overall_accuracy == pytest.approx(metrics.accuracy_score(expected, predicted))
    assert found.kappa == pytest.approx(metrics.cohen_kappa_score(expected, predicted))
    np.testing.assert_allclose(found.recall, metrics.recall_score(expected, predicted, labels=labels, average=None))
    np.testing.assert_allclose(found.precision[:3], metrics.precision_score(expected, predicted, labels=labels[:3], average=None))
    assert np.isnan(found.precision[3]), "class 4 is never predicted"
    np.testing.assert_allclose(found.f1, metrics.f1_score(expected, predicted, labels=labels, average=None))
    np.testing.assert_allclose(found.iou, metrics.jaccard_score(expected, predicted, labels=labels, average=None))
    assert found.macro_f1 == pytest.approx(metrics.f1_score(expected, predicted, labels=labels, average="macro"))
    assert found.mean_iou == pytest.approx(metrics.jaccard_score(expected, predicted, labels=labels, average="macro"))
    rows = list(csv.reader(found.table().splitlines()))
    assert [int(n) for n in rows[1][1:5]] == found.counts[0].tolist() and rows[0][0] == "reference \\ predicted"


def test_best_counts_each_class_as_the_one_it_shares_most_with(pair):
    path, reference, mine, truth = pair
    other = np.array([0, 3, 1, 2], np.uint8)[mine]
    dataset = gdal.Open(path, gdal.GA_Update)
    dataset.WriteArray(other)
    dataset = None
    found = assess_map(path, reference, "best", Progress())
    assert found.assignment == {3: 1, 1: 2, 2: max((3, 4), key=lambda c: np.count_nonzero((mine == 3) & (truth == c)))}


def test_names_say_which_classes_are_the_same(pair, tmp_path):
    path, reference, mine, truth = pair
    named = [LegendClass(code, name, (1, 2, 3)) for code, name in ((1, "Water"), (2, "Forest"), (3, "Town"))]
    write_class_table(path, named, [0] * 3, [0] * 3)
    write_class_table(
        reference, [LegendClass(c, n, (1, 2, 3)) for c, n in ((1, "Forest"), (2, "Town"), (3, "Water"), (4, "Rock"))], [0] * 4, [0] * 4
    )
    found = assess_map(path, reference, "names", Progress())
    assert found.assignment == {1: 3, 2: 1, 3: 2} and found.confusion.names == ("Forest", "Town", "Water", "Rock")
    other = write_raster(tmp_path / "forest.tif", np.ones((1, 70, 90), np.uint8))
    write_class_table(other, [LegendClass(1, "Forest", (1, 2, 3))], [0], [0])
    with pytest.raises(EngineError, match="no class Water, Town"):
        assess_map(path, other, "names", Progress())


def test_reference_on_another_grid_is_taken_at_the_nearest_pixel(tmp_path):
    fine = np.repeat(np.repeat(np.array([[1, 2], [2, 1]], np.uint8), 20, 0), 20, 1)
    path = write_raster(tmp_path / "map.tif", fine[None], transform=(500000, 10, 0, 5200000, 0, -10))
    coarse = np.array([[[1, 2], [2, 2]]], np.uint8)
    reference = write_raster(tmp_path / "ref.tif", coarse, transform=(500000, 200, 0, 5200000, 0, -200))
    assert assess_map(path, reference, "codes", Progress()).confusion.counts.tolist() == [[400, 0], [400, 800]]
    elsewhere = write_raster(tmp_path / "far.tif", coarse, transform=(700000, 200, 0, 5200000, 0, -200))
    with pytest.raises(EngineError, match="no valid pixel"):
        assess_map(path, elsewhere, "codes", Progress())


def test_0_is_a_class_unless_it_is_nodata(tmp_path):
    """A binary map as other programs write it."""
    codes = np.array([[[0, 0, 1, 1, 0]]], np.uint8)
    truth = np.array([[[1, 1, 1, 1, 0]]], np.uint8)
    reference = write_raster(tmp_path / "r.tif", truth, nodata=None)
    plain, stated = (write_raster(tmp_path / f"{n}.tif", codes, nodata=n) for n in (None, 0))
    assert assess_map(plain, reference, "codes", Progress()).confusion.counts.tolist() == [[1, 0], [2, 2]]
    assert assess_map(stated, reference, "codes", Progress()).confusion.counts.tolist() == [[2]]


def test_what_cannot_be_matched_is_refused(pair, tmp_path):
    with pytest.raises(EngineError, match="bests is no way"):
        assess_map(pair[0], pair[1], "bests", Progress())
    twice = write_raster(tmp_path / "twice.tif", np.ones((1, 70, 90), np.uint8))
    write_class_table(twice, [LegendClass(c, "Forest", (1, 2, 3)) for c in (1, 2)], [0] * 2, [0] * 2)
    with pytest.raises(EngineError, match="same name"):
        assess_map(pair[0], twice, "names", Progress())
    placeless = write_raster(tmp_path / "placeless.tif", np.ones((1, 70, 90), np.uint8), epsg=None)
    with pytest.raises(EngineError, match="no coordinate reference system.*placeless"):
        assess_map(placeless, pair[1], "codes", Progress())
    many = write_raster(tmp_path / "many.tif", np.arange(300 * 300, dtype=np.int32).reshape(1, 300, 300), nodata=None)
    with pytest.raises(EngineError, match="holds no classes"):
        assess_map(many, many, "codes", Progress())


def test_reflectance_is_no_reference(pair, tmp_path):
    image = write_raster(tmp_path / "b.tif", np.random.default_rng(0).random((1, 70, 90)).astype(np.float32))
    with pytest.raises(EngineError, match="real numbers"):
        assess_map(pair[0], image, "codes", Progress())


@pytest.mark.parametrize("method", ["kmeans", "gmm"])
def test_clusters_against_hand_drawn_water(tmp_path, method):
    """The figures of docs/studies.md."""
    folder = shared_data("sen1floods11_spain")
    source, label = (str(next(folder.glob(f"*_{kind}.tif"))) for kind in ("S2Hand", "LabelHand"))
    target = str(tmp_path / "c.tif")
    run_clustering(source, ClusterOutputs(target), ClusterOptions(method=method, n_clusters=8, indices=("NDWI", "MNDWI")), Progress())
    found = assess_map(target, label, "best", Progress()).confusion
    truth, codes = read(label)[0], read(target)[0]
    use = (truth >= 0) & (codes > 0)
    water = [code for code in range(1, 9) if (truth[use & (codes == code)] == 1).mean() > 0.5]
    predicted = np.isin(codes, water)[use]
    assert found.iou[1] == pytest.approx(metrics.jaccard_score(truth[use], predicted))
    assert found.iou[1] > 0.65 and found.total == np.count_nonzero(use)
