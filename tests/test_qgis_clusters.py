"""Clusters through qgis_process: the k-means study, a model on another date, styles in loaded layers."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from osgeo import gdal
from sklearn.metrics import davies_bouldin_score

from demo.qgis import environment

from .clusters import predict_like_sklearn
from .conftest import read
from .processing import EXTENT, INSIDE, JUNE, fails, run

LOADED = """
import os, sys
from qgis.core import QgsApplication, QgsProcessingContext, QgsProcessingFeedback, QgsProject, QgsRasterLayer, QgsVectorLayer
app = QgsApplication([], True)
app.initQgis()
sys.path.append(QgsApplication.pkgDataPath() + "/python/plugins")
from processing.core.Processing import Processing
from processing.tools.general import runAndLoadResults
Processing.initialize()
from s2landcover_plugin import classFactory
plugin = classFactory(None)
plugin.initProcessing()
def legend(layer):
    if isinstance(layer, QgsRasterLayer):
        return [(int(c.value), c.label, c.color.name()) for c in layer.renderer().classes()]
    return [(int(c.value()), c.label(), c.symbol().color().name()) for c in layer.renderer().categories() if c.renderState()]
outputs = {"OUTPUT": sys.argv[2], "OUTPUT_POLYGONS": sys.argv[3]}
runAndLoadResults("s2landcover:clusterraster", {"INPUT": sys.argv[1], "N_CLUSTERS": 4, **outputs})
for layer in QgsProject.instance().mapLayers().values():
    print("raster" if isinstance(layer, QgsRasterLayer) else "polygons", legend(layer))
print("raster_reopened", legend(QgsRasterLayer(sys.argv[2], "again")))
print("polygons_reopened", legend(QgsVectorLayer(sys.argv[3], "again", "ogr")))
sys.stdout.flush()
os._exit(0)
"""


def test_loaded_layers_show_class_names_and_colours(demo_catalog, tmp_path):
    """Raster and polygons, loaded by the toolbox and opened later; both have the same name but for the ending."""
    bands = str(tmp_path / "bands.tif")
    run("stacfetch", {"STAC_URL": demo_catalog[0], "EXTENT": EXTENT, **JUNE, "BANDS": ["B02", "B03", "B04", "B08", "B11"], "OUTPUT": bands})
    script = tmp_path / "load.py"
    script.write_text(LOADED)
    command = [sys.executable, str(script), bands, str(tmp_path / "c.tif"), str(tmp_path / "c.gpkg")]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    shown = dict(re.findall(r"^((?:raster|polygons)\w*) (\[.*)$", done.stdout, re.MULTILINE))
    dataset = gdal.Open(str(tmp_path / "c.tif"))
    dataset.GetGeoTransform()
    names = dataset.GetRasterBand(1).GetRasterCategoryNames()
    table = dataset.GetRasterBand(1).GetColorTable()
    expected = [(i, names[i], "#{:02x}{:02x}{:02x}".format(*table.GetColorEntry(i)[:3])) for i in range(1, 5)]
    assert set(shown) == {"raster", "polygons", "raster_reopened", "polygons_reopened"}
    assert set(shown.values()) == {str(expected)} and "Water" in names


def halves(t48que, folder):
    """The western and the eastern half of the real 12-band scene, stacked by the plugin."""
    whole = gdal.Open(str(next(path for path in t48que if path.stem == "B02")))
    left, step, _, top, _, _ = whole.GetGeoTransform()
    middle, right, bottom = left + 534 * step, left + 1068 * step, top - 1068 * step
    paths = {}
    for name, start, stop in (("west", left, middle), ("east", middle, right)):
        paths[name] = str(folder / f"{name}.tif")
        extent = f"{start},{stop},{bottom},{top} [EPSG:32648]"
        run("bandstack", {"INPUTS": [str(path) for path in t48que], "EXTENT": extent, "OUTPUT": paths[name]})
    return paths


def test_the_k_means_study_by_one_call_each(t48que, tmp_path):
    """k by inertia and Davies-Bouldin on 12 bands, the fit, and the model on the scene beside it."""
    scenes = halves(t48que, tmp_path)
    assert read(scenes["west"]).shape == read(scenes["east"]).shape == (12, 1068, 534)
    tried = {"INPUT": scenes["west"], "K_MIN": 3, "K_MAX": 15, "SAMPLE_SIZE": 20000}
    chosen = run("clusterselection", {**tried, "OUTPUT_TABLE": str(tmp_path / "k.csv"), "OUTPUT_HTML": str(tmp_path / "k.html")})
    rows = list(csv.DictReader(open(tmp_path / "k.csv")))
    assert [int(row["n_clusters"]) for row in rows] == list(range(3, 16))
    inertia = [float(row["inertia"]) for row in rows]
    assert inertia == sorted(inertia, reverse=True)
    best = min(rows, key=lambda row: float(row["davies_bouldin"]))
    assert chosen["DAVIES_BOULDIN_K"] == best["n_clusters"] and 3 <= int(chosen["ELBOW_K"]) <= 15
    files = {"OUTPUT": "w.tif", "OUTPUT_MODEL": "m.json", "OUTPUT_TABLE": "w.csv", "OUTPUT_HTML": "w.html", "OUTPUT_POLYGONS": "w.gpkg"}
    fitted = {name: str(tmp_path / file) for name, file in files.items()}
    found = run("clusterraster", {**tried, "SELECTION": "davies-bouldin", **fitted})
    assert found["N_CLUSTERS"] == best["n_clusters"]
    assert float(found["INERTIA"]) == pytest.approx(float(best["inertia"]), rel=1e-6)
    run("applyclusters", {"INPUT": scenes["east"], "MODEL": fitted["OUTPUT_MODEL"], "OUTPUT": str(tmp_path / "e.tif")})
    model = json.loads(open(fitted["OUTPUT_MODEL"]).read())
    for name, target in (("west", fitted["OUTPUT"]), ("east", str(tmp_path / "e.tif"))):
        pixels = read(scenes[name]).reshape(12, -1).T.astype(float)
        np.testing.assert_array_equal(read(target)[0].ravel(), predict_like_sklearn(model, pixels))
    # the index of the sample is near that of 20000 other pixels
    part = np.random.default_rng(0).choice(len(pixels), 20000, replace=False)
    west = read(scenes["west"]).reshape(12, -1).T[part] * 1e-4
    scaled = (west - np.array(model["scaling"]["shift"])) / np.array(model["scaling"]["spread"])
    index = davies_bouldin_score(scaled, read(fitted["OUTPUT"])[0].ravel()[part])
    assert float(found["DAVIES_BOULDIN"]) == pytest.approx(index, rel=0.05)


def test_a_table_names_the_classes(t48que, tmp_path):
    scene = str(tmp_path / "s.tif")
    run("bandstack", {"INPUTS": [str(path) for path in t48que], "BANDS": "B03,B04,B08", "RESOLUTION": "60", "OUTPUT": scene})
    (tmp_path / "names.csv").write_text("code;name;color\n2;Rice;#00ff00\n")
    parameters = {"INPUT": scene, "N_CLUSTERS": 3, "CLASS_TABLE": str(tmp_path / "names.csv"), "OUTPUT_TABLE": str(tmp_path / "c.csv")}
    run("clusterraster", {**parameters, "OUTPUT": str(tmp_path / "c.tif")})
    rows = list(csv.DictReader(open(tmp_path / "c.csv")))
    assert (rows[1]["name"], rows[1]["color"]) == ("Rice", "#00ff00") and rows[1]["suggested_name"] != "Rice"
    (tmp_path / "names.csv").write_text("nothing\n")
    (tmp_path / "out").mkdir()
    output = {"OUTPUT": str(tmp_path / "out" / "c.tif")}
    fails(
        "clusterraster",
        {**parameters, "OUTPUT_TABLE": str(tmp_path / "out" / "c.csv"), **output},
        "no columns code and name",
        tmp_path / "out",
    )
    polygons = {"OUTPUT_POLYGONS": str(tmp_path / "out" / "p.shp"), **output}
    fails("clusterraster", {"INPUT": scene, "N_CLUSTERS": 3, **polygons}, "must be a GeoPackage", tmp_path / "out")


@pytest.mark.parametrize("method", ["kmeans", "gmm"])
def test_a_model_of_one_date_is_applied_to_another(earth_search, tmp_path, method):
    """Two real dates of one tile: one qgis_process call each."""
    dates = ("S2A_33TWM_20230815_0_L2A", "S2B_33TWM_20230813_0_L2A")
    paths = [str(tmp_path / f"{number}.tif") for number in range(2)]
    for scene_id, path in zip(dates, paths):
        run("stacfetch", {"STAC_URL": earth_search[0], "EXTENT": INSIDE, "SCENE_IDS": scene_id, "OUTPUT": path})
    names = {"OUTPUT": "c.tif", "OUTPUT_CONFIDENCE": "p.tif", "OUTPUT_MODEL": "m.json", "OUTPUT_HTML": "c.html"}
    fitted = {name: str(tmp_path / file) for name, file in names.items()}
    run("clusterraster", {"INPUT": paths[0], "METHOD": method, "N_CLUSTERS": 6, **fitted})
    assert 0.5 < read(fitted["OUTPUT_CONFIDENCE"]).max() <= 1
    names = {"OUTPUT": "a.tif", "OUTPUT_DISTANCE": "d.tif", "OUTPUT_TABLE": "a.csv", "OUTPUT_HTML": "a.html"}
    applied = {name: str(tmp_path / file) for name, file in names.items()}
    found = run("applyclusters", {"INPUT": paths[1], "MODEL": fitted["OUTPUT_MODEL"], **applied})
    assert 0 <= float(found["OUTSIDE_SHARE"]) < 0.5
    second = list(csv.DictReader(open(applied["OUTPUT_TABLE"])))
    colours = {each["name"]: each["color"] for each in json.loads(open(fitted["OUTPUT_MODEL"]).read())["classes"]}
    assert {row["name"]: row["color"] for row in second} == colours
    # half of the pixels or more keep their class over two days
    both = (read(fitted["OUTPUT"]) > 0) & (read(applied["OUTPUT"]) > 0)
    assert (read(fitted["OUTPUT"]) == read(applied["OUTPUT"]))[both].mean() > 0.5
    (tmp_path / "other.json").write_text("[]")
    fails("applyclusters", {"INPUT": paths[1], "MODEL": str(tmp_path / "other.json"), **applied}, "no cluster model", tmp_path)
