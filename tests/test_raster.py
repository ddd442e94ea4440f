"""Grids, readers, the writer and files that appear whole or not at all."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
from osgeo import gdal

from s2landcover_plugin.engine.crs import Aoi, row_hectares, same_crs, wkt
from s2landcover_plugin.engine.errors import EngineError
from s2landcover_plugin.engine.files import OutputFiles
from s2landcover_plugin.engine.geotiff import OutputBand, RasterWriter, write_class_table
from s2landcover_plugin.engine.grid import Grid, Window
from s2landcover_plugin.engine.legend import LegendClass, qml
from s2landcover_plugin.engine.raster import RasterReader, StackedReader, describe, read_legend

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
    np.testing.assert_array_equal(valid, expected > 0)


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


def test_each_plane_has_its_own_validity(tmp_path):
    a = np.array([[[1, 0], [3, 4]]], np.uint16)
    b = np.array([[[5, 6], [0, 8]]], np.uint16)
    infos = [describe(write_raster(tmp_path / f"{i}.tif", d)) for i, d in enumerate((a, b))]
    _, valid = StackedReader([RasterReader(i) for i in infos]).read(Window(0, 0, 2, 2))
    np.testing.assert_array_equal(valid, [[[True, False], [True, True]], [[True, True], [False, True]]])


@pytest.mark.parametrize(("dtype", "nodata"), [("uint16", None), ("uint16", -9999), ("uint8", 300), ("int16", 0.5), ("float32", None)])
@pytest.mark.parametrize("shift", [(3.0, 0), (3.5, 0.5)])
def test_pixels_beyond_the_file_are_invalid_whatever_its_nodata(tmp_path, dtype, nodata, shift):
    data = np.full((1, 10, 10), 7, dtype)
    info = describe(write_raster(tmp_path / "f.tif", data, nodata=nodata))
    x0, dx, _, y0, _, dy = info.grid.geotransform
    grid = Grid(info.grid.crs, (x0 + shift[0] * dx, dx, 0, y0 + shift[1] * dy, 0, dy), 10, 10)
    values, valid = RasterReader(info, grid=grid).read(Window(0, 0, 10, 10))
    assert valid[0, :9, :6].all() and not valid[0, :, 7:].any()
    assert (values[0][valid[0]] == 7).all()


def test_south_up_files_come_north_up(tmp_path):
    data = np.arange(1, 17, dtype=np.uint16).reshape(1, 4, 4)
    info = describe(write_raster(tmp_path / "up.tif", data[:, ::-1], transform=(500000, 10, 0, 5199960, 0, 10)))
    assert info.grid.north_up().geotransform == (500000, 10, 0, 5200000, 0, -10)
    values, valid = RasterReader(info, grid=info.grid.north_up()).read(Window(0, 0, 4, 4))
    assert valid.all()
    np.testing.assert_array_equal(values, data)


def test_bands_of_one_file_keep_their_order_and_nodata_when_warped(tmp_path):
    data = np.stack([np.full((8, 8), 100, np.int16), np.full((8, 8), 200, np.int16)])
    data[0, :, :4], data[1, :4] = -1, -2
    path = write_raster(tmp_path / "two.tif", data, nodata=None)
    vrt = gdal.Translate(str(tmp_path / "two.vrt"), path, format="VRT")
    vrt.GetRasterBand(1).SetNoDataValue(-1)
    vrt.GetRasterBand(2).SetNoDataValue(-2)
    del vrt
    info = describe(str(tmp_path / "two.vrt"))
    values, valid = RasterReader(info, [2, 1], grid=info.grid.scaled(0.5), resampling="bilinear").read(Window(0, 0, 16, 16))
    assert set(np.unique(values[0][valid[0]])) == {200} and set(np.unique(values[1][valid[1]])) == {100}
    assert valid[0, 8:].all() and not valid[0, :6].any() and valid[1, :, 8:].all() and not valid[1, :, :6].any()


def test_masks_of_a_file_are_honoured(tmp_path):
    path = write_raster(tmp_path / "m.tif", np.full((1, 4, 4), 9, np.uint16), nodata=None)
    dataset = gdal.Open(path, gdal.GA_Update)
    dataset.CreateMaskBand(gdal.GMF_PER_DATASET)
    mask = np.zeros((4, 4), np.uint8)
    mask[:2] = 255
    dataset.GetRasterBand(1).GetMaskBand().WriteArray(mask)
    del dataset
    _, valid = RasterReader(describe(path)).read(Window(0, 0, 4, 4))
    np.testing.assert_array_equal(valid[0], mask > 0)


def test_nan_and_float_nodata_are_invalid(tmp_path):
    data = np.array([[[np.nan, -9999.0, 1.5, np.inf]]], np.float32)
    _, valid = RasterReader(describe(write_raster(tmp_path / "f.tif", data, nodata=-9999))).read(Window(0, 0, 4, 1))
    np.testing.assert_array_equal(valid[0], [[False, False, True, False]])


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


def test_nothing_changes_when_the_second_output_cannot_be_replaced(tmp_path):
    first, second = tmp_path / "a.csv", tmp_path / "b.csv"
    first.write_text("old")
    real = os.replace

    def replace_but_not_second(source, target):
        if str(target) == str(second):
            raise PermissionError(13, "in use", str(source), None, str(target))
        real(source, target)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(EngineError, match="cannot be replaced.*b.csv"), OutputFiles() as files:
        files.write_text(str(first), "new")
        files.write_text(str(second), "new")
        patch.setattr(os, "replace", replace_but_not_second)
    assert first.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.csv"]


def test_style_of_an_earlier_class_map_goes_but_a_users_style_stays(tmp_path):
    for name, text in (("a", qml([LegendClass(1, "Water", (0, 0, 255))])), ("b", "<qgis/>")):
        (tmp_path / f"{name}.qml").write_text(text)
        with OutputFiles() as files:
            files.write_text(str(tmp_path / f"{name}.tif"), "new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tif", "b.qml", "b.tif"]


def test_two_outputs_must_have_two_names(tmp_path):
    with pytest.raises(EngineError, match="Two outputs have the same name"), OutputFiles() as files:
        files.write_text(str(tmp_path / "a.csv"), "1")
        files.write_text(str(tmp_path / "a.csv"), "2")
    assert list(tmp_path.iterdir()) == []


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
    ((west, south, east, north),) = extent.lonlat_boxes()
    assert west == pytest.approx(15.0) and south < 46.87 < 46.95 < north and east > 15.13
    square = '{"type":"Polygon","coordinates":[[[15,0],[15.0657,0],[15.0657,60],[15,60],[15,0]]]}'
    assert extent.share_inside(square) == pytest.approx(0.5, abs=0.01)
    assert same_crs("EPSG:32633", wkt("EPSG:32633")) and not same_crs("EPSG:32633", "EPSG:32632")
    around = box.bounds_in("EPSG:3857")
    # Web Mercator stretches by 1 / cos(latitude)
    assert (around[2] - around[0]) / 4000 == pytest.approx(1 / np.cos(np.radians(46.9)), rel=0.01)
    for wrong in ((float("nan"), 0, 1, 1), (0, 0, float("inf"), 1)):
        with pytest.raises(EngineError, match="not finite"):
            Aoi("EPSG:4326", wrong)
    with pytest.raises(EngineError, match="no area"):
        Aoi("EPSG:4326", (1, 1, 1, 2))


def test_windows_that_share_no_tile_are_read_once(tmp_path):
    tiled = write_raster(tmp_path / "t.tif", np.ones((1, 300, 500), np.uint16), options=["TILED=YES", "BLOCKXSIZE=128", "BLOCKYSIZE=128"])
    info = describe(tiled)
    reader = RasterReader(info)
    apart = [Window(0, 0, 128, 128), Window(130, 5, 100, 100), Window(256, 256, 244, 44)]
    assert reader.reads_once(apart) and StackedReader([reader, reader]).reads_once(apart)
    assert not reader.reads_once([*apart, Window(240, 100, 10, 10)])
    # on a grid that begins 100 pixels further the same windows lie across the tiles
    x0, dx, *others = info.grid.geotransform
    shifted = RasterReader(info, grid=Grid(info.grid.crs, (x0 + 100 * dx, dx, *others), 400, 300))
    assert not shifted.reads_once([Window(0, 0, 128, 128), Window(130, 5, 100, 100)]) and shifted.reads_once([Window(28, 0, 128, 128)])
    half = RasterReader(info, grid=Grid(info.grid.crs, (x0 + 0.5 * dx, dx, *others), 400, 300), resampling="cubic")
    assert not half.reads_once([Window(0, 0, 10, 10)]), "how much it reads around is not known"
