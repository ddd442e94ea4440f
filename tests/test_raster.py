"""Grids, readers, the writer and files that appear whole or not at all."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from osgeo import gdal

from s2landcover_plugin.engine.crs import Aoi, row_hectares, same_crs, wkt
from s2landcover_plugin.engine.errors import EngineError
from s2landcover_plugin.engine.files import OutputFiles
from s2landcover_plugin.engine.grid import Grid, Window
from s2landcover_plugin.engine.legend import LegendClass, qml
from s2landcover_plugin.engine.raster import (
    OutputBand,
    RasterReader,
    RasterWriter,
    StackedReader,
    describe,
    read_legend,
    write_class_table,
)

from .conftest import read, write_raster

GRID = Grid("", (100.0, 10.0, 0.0, 500.0, 0.0, -10.0), 40, 30)


def test_window_of_bounds_is_snapped_outwards():
    assert GRID.window_of((125, 425, 141, 475)) == Window(2, 2, 3, 6)
    assert GRID.window_of((120, 420, 140, 480)) == Window(2, 2, 2, 6)
    assert GRID.window_of((120.0000001, 420, 139.9999999, 480)) == Window(2, 2, 2, 6)
    assert GRID.window_of((50, 450, 110, 600)) == Window(-5, -10, 6, 15)


def test_cropped_grid_keeps_the_pixel_edges():
    crop = GRID.cropped(Window(-3, 4, 5, 6))
    assert crop.geotransform == (70, 10, 0, 460, 0, -10)
    assert crop.offset_in(GRID) == (-3, 4)
    assert Grid("", (104, 10, 0, 500, 0, -10), 4, 4).offset_in(GRID) is None
    assert Grid("", (100, 20, 0, 500, 0, -20), 4, 4).offset_in(GRID) is None


def test_rotated_and_empty_grids_are_refused():
    with pytest.raises(EngineError, match="rotated"):
        Grid("", (0, 10, 1, 0, 0, -10), 4, 4)
    with pytest.raises(EngineError, match="no pixels"):
        Grid("", (0, 10, 0, 0, 0, -10), 0, 4)


def test_reader_beyond_the_file_is_invalid(make_raster):
    source = make_raster(bands=2, rows=20, cols=20)
    info = describe(source)
    grid = info.grid.cropped(Window(-5, 15, 12, 10))
    data, valid = RasterReader(info, grid=grid, nodata=0).read(Window(0, 0, 12, 10))
    expected = np.zeros((2, 10, 12), np.uint16)
    expected[:, :5, 5:] = read(source)[:, 15:20, :7]
    np.testing.assert_array_equal(data, expected)
    np.testing.assert_array_equal(valid, expected[0] > 0)


@pytest.mark.parametrize(("how", "factor"), [("average", 2), ("bilinear", 0.5), ("cubic", 0.5), ("nearest", 0.5)])
def test_resampling_equals_gdalwarp_whatever_the_windows(make_raster, tmp_path, how, factor):
    source = make_raster(bands=1, rows=60, cols=60, invalid_fraction=0.05)
    info = describe(source)
    grid = info.grid.scaled(factor)
    b = grid.bounds
    gdal.Warp(str(tmp_path / "w.tif"), source, outputBounds=b, xRes=10 * factor, yRes=10 * factor, resampleAlg=how, errorThreshold=0)
    reader = RasterReader(info, grid=grid, resampling=how)
    got = np.zeros((grid.height, grid.width), np.uint16)
    for window in grid.windows(17, 13):
        got[window.y : window.y + window.height, window.x : window.x + window.width] = reader.read(window)[0][0]
    np.testing.assert_array_equal(got, read(tmp_path / "w.tif")[0])


def test_stack_validity_of_all_and_of_any_band(tmp_path):
    a = np.array([[[1, 0], [3, 4]]], np.uint16)
    b = np.array([[[5, 6], [0, 8]]], np.uint16)
    infos = [describe(write_raster(tmp_path / f"{i}.tif", d)) for i, d in enumerate((a, b))]
    for need_all, expected in ((True, [[True, False], [False, True]]), (False, [[True, True], [True, True]])):
        _, valid = StackedReader([RasterReader(i, need_all=need_all) for i in infos]).read(Window(0, 0, 2, 2))
        np.testing.assert_array_equal(valid, expected)


def test_nan_and_float_nodata_are_invalid(tmp_path):
    data = np.array([[[np.nan, -9999.0, 1.5, np.inf]]], np.float32)
    _, valid = RasterReader(describe(write_raster(tmp_path / "f.tif", data, nodata=-9999))).read(Window(0, 0, 4, 1))
    np.testing.assert_array_equal(valid, [[False, False, True, False]])


def test_readers_can_be_pickled_while_open(make_raster):
    reader = RasterReader(describe(make_raster()))
    before = reader.read(Window(0, 0, 5, 5))[0]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(reader)).read(Window(0, 0, 5, 5))[0], before)


def test_missing_and_damaged_files_say_what_and_how(tmp_path, make_raster):
    with pytest.raises(EngineError, match="cannot be opened.*nowhere.tif; check the path"):
        describe(str(tmp_path / "nowhere.tif"))
    text = tmp_path / "text.tif"
    text.write_text("no raster")
    with pytest.raises(EngineError, match="cannot be opened"):
        describe(str(text))
    source = make_raster(rows=600, cols=600, options=["COMPRESS=DEFLATE"])
    whole = open(source, "rb").read()
    open(source, "wb").write(whole[: len(whole) // 2])
    with pytest.raises(EngineError, match="cannot be (read|opened)"):
        RasterReader(describe(source)).read(Window(0, 0, 600, 600))


def test_class_raster_carries_names_colours_and_areas(tmp_path):
    legend = [LegendClass(1, "Water & ice", (10, 20, 200)), LegendClass(2, 'Fields "B" <b>', (200, 180, 20))]
    path = str(tmp_path / "classes.tif")
    grid = Grid(wkt("EPSG:32633"), (500000.0, 10.0, 0.0, 5200000.0, 0.0, -10.0), 3, 2)
    codes = np.array([[1, 2, 2], [0, 2, 1]], np.uint8)
    with OutputFiles() as files:
        temporary = files.path(path)
        with RasterWriter(temporary, grid, [OutputBand("class", "uint8", 0)], legend=legend, metadata={"A": "b"}) as writer:
            writer.write(Window(0, 0, 3, 2), (codes,), codes > 0)
        write_class_table(temporary, legend, [2, 3], [0.02, 0.03])
    dataset = gdal.Open(path)
    band = dataset.GetRasterBand(1)
    np.testing.assert_array_equal(band.ReadAsArray(), codes)
    assert band.GetNoDataValue() == 0
    assert band.GetRasterCategoryNames() == ["No data", "Water & ice", 'Fields "B" <b>']
    assert band.GetColorTable().GetColorEntry(2)[:3] == (200, 180, 20)
    table = band.GetDefaultRAT()
    assert [table.GetValueAsString(row, 1) for row in range(2)] == ["Water & ice", 'Fields "B" <b>']
    assert [table.GetValueAsDouble(row, 6) for row in range(2)] == [0.02, 0.03]
    assert dataset.GetMetadataItem("A") == "b"
    assert read_legend(path) == legend
    assert "Fields &quot;B&quot; &lt;b&gt;" in qml(legend) or "'Fields \"B\" &lt;b&gt;'" in qml(legend)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["classes.tif", "classes.tif.aux.xml"]


def test_outputs_replace_old_ones_with_their_sidecars_together(tmp_path):
    first, second = tmp_path / "a.tif", tmp_path / "b.csv"
    (tmp_path / "a.tif.aux.xml").write_text("stale")
    first.write_text("old")
    with pytest.raises(RuntimeError), OutputFiles() as files:
        files.write_text(str(second), "new")
        files.write_text(str(first), "new")
        raise RuntimeError
    assert first.read_text() == "old" and not second.exists()
    with OutputFiles() as files:
        files.write_text(str(first), "new")
        files.write_text(str(second), "new")
    assert first.read_text() == second.read_text() == "new"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tif", "b.csv"]


def test_output_folder_must_exist(tmp_path):
    with pytest.raises(EngineError, match="does not exist"), OutputFiles() as files:
        files.path(str(tmp_path / "no" / "a.tif"))


def test_hectares_of_metric_and_geographic_pixels():
    metric = Grid(wkt("EPSG:32633"), (5e5, 20, 0, 5.2e6, 0, -20), 3, 4)
    np.testing.assert_allclose(row_hectares(metric), 0.04)
    whole_earth = Grid(wkt("EPSG:4326"), (-180, 1, 0, 90, 0, -1), 360, 180)
    # area of the WGS 84 ellipsoid: 510 065 621.724 km2 (NIMA TR8350.2)
    assert row_hectares(whole_earth).sum() * 360 == pytest.approx(510_065_621.724 * 100, rel=1e-9)


def test_area_of_interest_in_other_crs():
    box = Aoi("EPSG:4326", center=(15.0, 46.9), size_km=(4, 2))
    b = box.bounds_in("EPSG:32633")
    assert (b[2] - b[0], b[3] - b[1]) == (4000, 2000)
    assert (b[0] + b[2]) / 2 == pytest.approx(500000, abs=1e-6)
    extent = Aoi("EPSG:32633", (500000, 5190000, 510000, 5200000))
    west, south, east, north = extent.lonlat_bounds()
    assert west == pytest.approx(15.0) and south < 46.87 < 46.95 < north and east > 15.13
    square = '{"type":"Polygon","coordinates":[[[15,0],[15.0657,0],[15.0657,60],[15,60],[15,0]]]}'
    assert extent.share_inside(square) == pytest.approx(0.5, abs=0.01)
    assert same_crs("EPSG:32633", wkt("EPSG:32633")) and not same_crs("EPSG:32633", "EPSG:32632")
    with pytest.raises(EngineError, match="no area"):
        Aoi("EPSG:4326", (1, 1, 1, 2))
