"""Change detection through qgis_process: fetched dates, references as layers, and errors."""

from __future__ import annotations

import csv

import pytest
from osgeo import gdal, ogr

from demo.change_pair import write_pair
from s2landcover_plugin.engine.raster import describe

from .conftest import read
from .processing import INSIDE, fails, run

NAMES = ("change.tif", "methods.tif", "magnitude.tif", "aligned.tif", "patches.gpkg", "table.csv", "report.html")
KEYS = ("OUTPUT", "OUTPUT_METHODS", "OUTPUT_MAGNITUDE", "OUTPUT_ALIGNED", "OUTPUT_POLYGONS", "OUTPUT_TABLE", "OUTPUT_HTML")


def test_planted_slides_against_drawn_polygons(tmp_path):
    """The reference is a layer of polygons inside a GeoPackage with two."""
    before, after, scars = write_pair(tmp_path)
    source = gdal.Open(scars)
    target = ogr.GetDriverByName("GPKG").CreateDataSource(str(tmp_path / "drawn.gpkg"))
    target.CreateLayer("notes", None, ogr.wkbPoint)
    layer = target.CreateLayer("slides", source.GetSpatialRef(), ogr.wkbPolygon)
    gdal.Polygonize(source.GetRasterBand(1), source.GetRasterBand(1), layer, -1)
    target = None
    outputs = {key: tmp_path / name for key, name in zip(KEYS, NAMES)}
    reference = f"{tmp_path / 'drawn.gpkg'}|layername=slides"
    found = run(
        "detectchange",
        {"BEFORE": before, "AFTER": after, "METHODS": "kmeans,ndvi-drop,gmm,irmad", "REFERENCE": reference, **outputs},
    )
    assert float(found["F1"]) > 0.99 and float(found["CHANGED_HA"]) == pytest.approx(57.2, abs=0.3)
    assert float(found["SHIFT_X_PX"]) == pytest.approx(1.4, abs=0.05) and float(found["SHIFT_Y_PX"]) == pytest.approx(-0.7, abs=0.05)
    rows = list(csv.DictReader((tmp_path / "table.csv").read_text().splitlines()))
    assert [row["method"] for row in rows if row["kind"] == "accuracy"] == ["kmeans", "ndvi-drop", "gmm", "irmad"]
    assert {row["reference"] for row in rows if row["kind"] == "accuracy"} == {"drawn"}
    assert all((tmp_path / name).exists() for name in NAMES)
    methods = read(tmp_path / "methods.tif")
    assert (read(tmp_path / "change.tif")[0] == methods[0]).all()


def test_two_fetched_dates(tmp_path, earth_search):
    """33TWM from the catalog, 13 and 15 August: dates, orbits and the sun are known from the stacks."""
    api, _ = earth_search
    stacks = []
    for day in ("13", "15"):
        search = {"STAC_URL": api, "COLLECTION": "sentinel-2-l2a", "EXTENT": INSIDE}
        dates = {"START_DATE": f"2023-08-{day}", "END_DATE": f"2023-08-{day}"}
        stacks.append(str(tmp_path / f"{day}.tif"))
        run("stacfetch", {**search, **dates, "BANDS": "B02,B03,B04,B08,SCL", "OUTPUT": stacks[-1]})
    page = tmp_path / "r.html"
    found = run("detectchange", {"BEFORE": stacks[0], "AFTER": stacks[1], "OUTPUT": tmp_path / "c.tif", "OUTPUT_HTML": page})
    facts = [describe(path).metadata for path in stacks]
    assert [each["S2LC_RELATIVE_ORBIT"] for each in facts] == ["122", "79"]
    assert "relative orbits differ (122, 79)" in page.read_text() and "2023-08-15" in page.read_text()
    assert float(found["CHANGED_HA"]) < 0.02 * 20_000 * 20_000 / 1e4


def test_errors_are_one_sentence_and_leave_nothing(tmp_path):
    before, after, scars = write_pair(tmp_path)
    out = tmp_path / "out"  # QGIS itself writes statistics beside rasters that it opens
    out.mkdir()
    given = {"BEFORE": before, "AFTER": after, "OUTPUT": out / "c.tif", "OUTPUT_HTML": out / "r.html"}
    fails("detectchange", {**given, "BEFORE": scars}, r"NDVI needs the band B04 \(red\)", out)
    fails("detectchange", {**given, "METHODS": "otsu"}, "METHODS", out)
    fails("detectchange", {**given, "REFERENCE": before}, "no mask|cannot be told", out)
    fails("detectchange", {**given, "OUTPUT_POLYGONS": out / "p.shp"}, "must be a GeoPackage", out)
    fails("detectchange", {**given, "NDVI_DROP": "9"}, "NDVI_DROP", out)
