"""Every algorithm through qgis_process, the saved model, styles in a loaded layer."""

from __future__ import annotations

import csv
import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from osgeo import gdal, ogr

from demo.qgis import environment, results, run_process

from .conftest import SHARED, read, write_raster
from .processing import AUGUST, EXTENT, INSIDE, JUNE, fails, run

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def bands(demo_catalog, tmp_path_factory):
    """Six bands of the simulated area, fetched by qgis_process: (path, results)."""
    folder = tmp_path_factory.mktemp("bands")
    path = str(folder / "bands.tif")
    parameters = {
        "STAC_URL": demo_catalog[0],
        "EXTENT": EXTENT,
        **JUNE,
        "BANDS": ["B02", "B03", "B04", "B08", "B11", "SCL"],
        "OUTPUT": path,
    }
    return path, run("stacfetch", {**parameters, "OUTPUT_LEDGER": str(folder / "ledger.json")})


def test_all_algorithms_are_listed():
    done = subprocess.run([*run_process("x", {}).args[:1], "list"], env=environment(), capture_output=True, text=True, timeout=120)
    listed = set(re.findall(r"s2landcover:(\w+)", done.stdout))
    data = {"stacsearch", "stacfetch", "bandstack", "spectralindices"}
    change, networks = {"alignrasters", "detectchange"}, {"segmentraster", "modeltemplate"}
    assert listed == {*data, *change, *networks, "clusterselection", "clusterraster", "applyclusters", "classareas"}


def test_search_writes_footprints(earth_search, tmp_path):
    target = str(tmp_path / "scenes.gpkg")
    found = run("stacsearch", {"STAC_URL": earth_search[0], "EXTENT": INSIDE, **AUGUST, "MAX_CLOUD_COVER": 5, "OUTPUT": target})
    assert found["SCENE_COUNT"] == "3"
    source = ogr.Open(target)
    rows = [feature.items() for feature in source.GetLayer(0)]
    assert [row["id"] for row in rows] == ["S2A_33TWM_20230815_0_L2A", "S2B_33TWM_20230813_0_L2A", "S2B_33TWM_20230820_0_L2A"]
    assert rows[0].pop("datetime").startswith("2023-08-15T09:57:57.246")
    assert rows[0] == {
        "id": "S2A_33TWM_20230815_0_L2A",
        "cloud_cover": 0.207328,
        "platform": "sentinel-2a",
        "tile": "33TWM",
        "baseline": "05.09",
        "aoi_share": 1.0,
    }


def test_search_without_a_hit_is_empty_and_says_so(earth_search, tmp_path):
    parameters = {
        "STAC_URL": earth_search[0],
        "EXTENT": INSIDE,
        "START_DATE": "2020-01-01",
        "END_DATE": "2020-01-02",
        "OUTPUT": str(tmp_path / "s.gpkg"),
    }
    done = run_process("s2landcover:stacsearch", parameters)
    assert done.returncode == 0 and results(done.stdout)["SCENE_COUNT"] == "0" and "No scene was found" in done.stdout


def test_fetch_and_cluster_the_real_scene(earth_search, tmp_path):
    stack = str(tmp_path / "s.tif")
    found = run("stacfetch", {"STAC_URL": earth_search[0], "EXTENT": INSIDE, **AUGUST, "MAX_CLOUD_COVER": 5, "OUTPUT": stack})
    assert found["SCENES"] == "S2A_33TWM_20230815_0_L2A" and found["DATETIME"].startswith("2023-08-15T09:57:57.246")
    assert int(found["BYTES_READ"]) > 0
    fetched = gdal.Open(stack)
    x0, _, _, y0, _, _ = fetched.GetGeoTransform()
    source = gdal.Open(str(SHARED / "earth_search_33twm" / found["SCENES"] / "B04.tif"))
    column, row = round((x0 - 499980) / 120), round((5200020 - y0) / 120)
    classification = gdal.Open(str(SHARED / "earth_search_33twm" / found["SCENES"] / "SCL.tif"))
    classes = classification.ReadAsArray(column, row, fetched.RasterXSize, fetched.RasterYSize)
    assert float(found["CLOUD_COVER"]) == pytest.approx(100 * np.isin(classes, (8, 9, 10)).sum() / (classes > 0).sum())
    np.testing.assert_array_equal(
        fetched.GetRasterBand(3).ReadAsArray(), source.ReadAsArray(column, row, fetched.RasterXSize, fetched.RasterYSize)
    )
    table = str(tmp_path / "c.csv")
    run("clusterraster", {"INPUT": stack, "OUTPUT": str(tmp_path / "c.tif"), "OUTPUT_TABLE": table})
    classes = gdal.Open(str(tmp_path / "c.tif"))
    assert classes.GetRasterBand(1).DataType == gdal.GDT_Byte
    classes.GetGeoTransform()  # GDAL loads names only after something else was asked for
    names = classes.GetRasterBand(1).GetRasterCategoryNames()[1:]
    rows = list(csv.DictReader(open(table)))
    assert [r["name"] for r in rows] == names and all(names)
    valid = np.count_nonzero((fetched.ReadAsArray() > 0).all(axis=0))
    assert sum(float(r["hectares"]) for r in rows) == pytest.approx(valid * 1.44)


def test_lists_as_repeated_keys_and_as_text_are_the_same(bands, tmp_path):
    for name, value in (("a", ["B02", "B04"]), ("b", "B02,B04"), ("c", "1, 3")):
        run(
            "clusterraster",
            {"INPUT": bands[0], "BANDS": value, "INDICES": "NDVI", "N_CLUSTERS": 3, "OUTPUT": str(tmp_path / f"{name}.tif")},
        )
    first = read(tmp_path / "a.tif")
    for name in "bc":
        np.testing.assert_array_equal(read(tmp_path / f"{name}.tif"), first)
    parameters = json.loads(gdal.Open(str(tmp_path / "a.tif")).GetMetadataItem("S2LC_PARAMETERS"))
    assert parameters["bands"] == ["B02", "B04"] and parameters["indices"] == ["NDVI"]


def test_selection_tells_k_for_models(bands, tmp_path):
    found = run(
        "clusterselection",
        {"INPUT": bands[0], "K_MAX": 8, "OUTPUT_TABLE": str(tmp_path / "k.csv"), "OUTPUT_HTML": str(tmp_path / "k.html")},
    )
    rows = list(csv.DictReader(open(tmp_path / "k.csv")))
    assert [int(r["n_clusters"]) for r in rows] == list(range(2, 9))
    smallest = min(rows, key=lambda r: float(r["davies_bouldin"]))
    assert found["DAVIES_BOULDIN_K"] == smallest["n_clusters"] and "davies-bouldin" in smallest["chosen_by"]
    assert found["N_CLUSTERS"] == found["ELBOW_K"]
    chosen = run("clusterraster", {"INPUT": bands[0], "K_MAX": 8, "SELECTION": "davies-bouldin", "OUTPUT": str(tmp_path / "c.tif")})
    assert chosen["N_CLUSTERS"] == found["DAVIES_BOULDIN_K"]


def test_saved_model_gives_the_pixels_of_the_single_steps(demo_catalog, bands, tmp_path):
    def path(name):
        return str(tmp_path / name)

    inputs = {"STAC_URL": demo_catalog[0], "EXTENT": EXTENT, **JUNE, "N_CLUSTERS": 0}
    outputs = {
        "stack:Bands": path("b.tif"),
        "indices:Indices": path("i.tif"),
        "cluster:Classes": path("c.tif"),
        "cluster:Report": path("r.html"),
        "areas:Areas": path("a.csv"),
    }
    run(str(ROOT / "docs" / "landcover.model3"), {**inputs, **outputs})
    run("bandstack", {"INPUTS": bands[0], "RESOLUTION": "20", "MASK_CLOUDS": "true", "OUTPUT": path("b1.tif")})
    run("spectralindices", {"INPUT": path("b1.tif"), "INDICES": "NDVI,NDWI,BSI", "OUTPUT": path("i1.tif")})
    run("clusterraster", {"INPUT": path("i1.tif"), "OUTPUT": path("c1.tif")})
    areas = run("classareas", {"INPUT": path("c1.tif"), "OUTPUT_TABLE": path("a1.csv"), "OUTPUT_HTML": path("a1.html")})
    for name in "bic":
        assert gdal.Open(path(f"{name}.tif")).GetGeoTransform()[1] == 20
        np.testing.assert_array_equal(read(path(f"{name}.tif")), read(path(f"{name}1.tif")))
    assert (tmp_path / "a.csv").read_text() == (tmp_path / "a1.csv").read_text()
    assert float(areas["TOTAL_HECTARES"]) == pytest.approx(np.count_nonzero(read(path("c1.tif"))) * 0.04)
    assert "Land-cover clusters" in (tmp_path / "r.html").read_text()


def test_bandstack_of_real_band_files(t48que, tmp_path):
    target = str(tmp_path / "s.tif")
    found = run("bandstack", {"INPUTS": [str(p) for p in t48que], "BANDS": "B08,B04,B12", "OUTPUT": target})
    assert found["BAND_COUNT"] == "3" and float(found["VALID_SHARE"]) == 1
    dataset = gdal.Open(target)
    assert [dataset.GetRasterBand(i).GetDescription() for i in (1, 2, 3)] == ["B08", "B04", "B12"]
    np.testing.assert_array_equal(dataset.GetRasterBand(1).ReadAsArray(), read(next(p for p in t48que if p.stem == "B08"))[0])


def test_bandstack_reads_a_product(make_product, tmp_path):
    folder, _ = make_product("S2B_MSIL2A_20220413T150759_N0400_R025_T33XWJ_20220414T082126.SAFE", 1000)
    found = run("bandstack", {"PRODUCT": str(folder), "BANDS": "B04,B08", "INDICES": "NDVI", "OUTPUT": str(tmp_path / "p.tif")})
    assert found["BAND_COUNT"] == "3" and read(tmp_path / "p.tif").shape == (3, 120, 120)


def test_help_has_formulas_and_sources():
    done = subprocess.run(
        [*run_process("x", {}).args[:1], "help", "s2landcover:spectralindices"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    for name in ("NDVI", "NDWI", "MNDWI", "NDBI", "BSI", "EVI", "SAVI", "NBR"):
        assert re.search(rf"^{name}: .*\(.*\d{{4}}", done.stdout, re.MULTILINE), name
    assert "(nir - red) / (nir + red)" in done.stdout


def test_errors_are_one_sentence_with_exit_code_1_and_no_file(earth_search, tmp_path):
    api = earth_search[0]
    out = tmp_path / "out"
    out.mkdir()
    output = {"OUTPUT": str(out / "o.tif")}
    base = {"STAC_URL": api, "EXTENT": INSIDE, **AUGUST, **output}
    fails("stacfetch", {**base, "BANDS": "B11"}, "The scene has no band B11: .*choose from its bands", out)
    fails("stacfetch", {**base, "EXTENT": "0,1,0,1 [EPSG:4326]"}, "No scene was found for the area: .*choose other dates", out)
    fails("stacfetch", {**base, "STAC_URL": "http://127.0.0.1:9"}, "cannot be read.*http://127.0.0.1:9; check the address", out)
    fails("stacfetch", {**base, "START_DATE": "2021-01-01", "END_DATE": "2021-01-02"}, "No scene was found.*2021-01-01 to 2021-01-02", out)
    fails("stacfetch", {**base, "START_DATE": "2023-09-01"}, "The last date is before the first", out)
    fails("stacfetch", {"STAC_URL": api, **output}, "no area of interest: EXTENT and CENTER; give", out)
    fails("stacfetch", {**base, "OUTPUT": str(out / "o.png")}, "must be a GeoTIFF", out)
    two = write_raster(tmp_path / "two.tif", np.array([[[500, 600, 500]]], np.uint16), names=["B04"], scale=(0.0001, 0))
    fails(
        "clusterraster",
        {"INPUT": two, "N_CLUSTERS": 7, **output},
        "7 clusters were asked for, but the raster has only 2 distinct.*ask for at most 2",
        out,
    )
    fails("clusterraster", {"INPUT": two, "BANDS": "B08", **output}, "no band B08: .*choose from B04", out)
    empty = write_raster(tmp_path / "empty.tif", np.zeros((1, 9, 9), np.uint16), names=["B04"], scale=(0.0001, 0))
    for algorithm in ("clusterraster", "clusterselection"):
        fails(algorithm, {"INPUT": empty, **(output if algorithm == "clusterraster" else {})}, "no valid pixel: .*empty.tif; choose", out)
    fails("spectralindices", {"INPUT": two, "INDICES": "NDVI", **output}, "NDVI needs the band B08", out)
    fails("spectralindices", {"INPUT": empty, "INDICES": "NDVI", "BAND_MAP": "nir=1", **output}, "no valid pixel", out)
    fails("bandstack", {"INPUTS": empty, **output}, "no valid pixel", out)
    fails("classareas", {"INPUT": empty, "OUTPUT_TABLE": str(out / "a.csv")}, "no valid pixel", out)
