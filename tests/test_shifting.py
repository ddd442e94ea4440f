"""Resampling by a shift alone, against GDAL's warp."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from osgeo import gdal

from s2landcover_plugin.engine.grid import Grid, Window
from s2landcover_plugin.engine.raster import RasterReader, describe
from s2landcover_plugin.engine.shifting import lattice_between, taps

from .conftest import write_raster

SHIFTS = [(0.37, -0.62), (-2.46, 3.53), (0.97, 0.0), (-7.23, -11.13), (0.004, 0.51)]


def scene(dtype: str, holes: bool) -> np.ndarray:
    """(3, 90, 120) rough pixels, maybe with holes of different places in each band."""
    rng = np.random.default_rng(5)
    high = {"uint8": 255, "uint16": 65535, "int16": 20000, "float32": 1}[dtype]
    data = rng.random((3, 90, 120)) * high
    if dtype == "int16":
        data -= 10000
    data = np.maximum(data, 1) if dtype.startswith("u") else data
    if holes:
        data[0, 20:40, 30:60] = data[1, 25, 70] = data[2][rng.random((90, 120)) < 0.05] = 0
    return data.astype(dtype)


def warped(path: str, grid, method: str) -> tuple[np.ndarray, np.ndarray]:
    """GDAL's own: values and, per band, where nodata is kept out."""
    planes, known = [], []
    for band in range(1, 4):
        single = gdal.Translate("", path, format="MEM", bandList=[band])
        done = gdal.Warp(
            "",
            single,
            format="MEM",
            outputBounds=grid.bounds,
            width=grid.width,
            height=grid.height,
            resampleAlg=method,
            dstAlpha=True,
            errorThreshold=0,
            outputType=gdal.GDT_Float64,
        )
        both = done.ReadAsArray()
        planes.append(both[0])
        known.append(both[1] > 0)
    return np.stack(planes), np.stack(known)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("method", ["cubic", "bilinear"])
@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("factor", [1, 2])
def test_places_between_pixels_have_the_values_of_gdal(tmp_path, dtype, method, holes, factor):
    source = write_raster(tmp_path / "s.tif", scene(dtype, holes), nodata=0 if holes else None)
    info = describe(source)
    x0, dx, _, y0, _, dy = info.grid.geotransform
    for x, y in SHIFTS:
        grid = Grid(info.grid.crs, (x0 + x * dx, dx / factor, 0, y0 + y * dy, 0, dy / factor), 120, 90)
        reader = RasterReader(info, grid=grid, resampling=method)
        assert reader._lattice is not None and reader._lattice.factor == factor
        data, valid = reader.read(Window(0, 0, grid.width, grid.height))
        expected, known = warped(source, grid, method)
        np.testing.assert_array_equal(valid, known)
        if dtype != "float32":
            limits = np.iinfo(dtype)
            # what would be nodata is one more; 0.01 DN for the order of the sums in float32
            expected = np.clip(expected, 1 if holes and limits.min == 0 else limits.min, limits.max)
        allowed = 1e-5 if dtype == "float32" else 0.51
        difference = np.abs(data - expected)[valid & ((data != 1) | (dtype != "int16"))]
        assert difference.max() <= allowed
        # windows do not matter
        parts = [reader.read(Window(left, top, 40, 30)) for top in range(0, 90, 30) for left in range(0, 120, 40)]
        for number, (part, ok) in enumerate(parts):
            here = np.s_[:, number // 3 * 30 : number // 3 * 30 + 30, number % 3 * 40 : number % 3 * 40 + 40]
            np.testing.assert_array_equal(part, data[here])
            np.testing.assert_array_equal(ok, valid[here])


@pytest.mark.parametrize("method", ["nearest", "bilinear", "cubic"])
@pytest.mark.parametrize("error", [-1e-9, -1e-12, 0.0, 1e-12, 1e-9])
def test_whole_shifts_with_rounding_errors(tmp_path, method, error):
    data = scene("uint16", True)
    source = write_raster(tmp_path / "s.tif", data, nodata=0)
    info = describe(source)
    x0, dx, _, y0, _, dy = info.grid.geotransform
    moved = (x0 + (3 + error) * dx, dx, 0, y0 + (2 + error) * dy, 0, dy)
    reader = RasterReader(info, resampling=method, geotransform=moved)
    for window in (Window(0, 0, 120, 90), Window(7, 11, 64, 1), Window(119, 89, 1, 1)):
        found, valid = reader.read(window)
        expected = np.zeros_like(data)
        expected[:, 2:, 3:] = data[:, :-2, :-3]
        expected = expected[:, window.y : window.y + window.height, window.x : window.x + window.width]
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(valid, expected > 0)


def test_nearest_takes_whole_pixels(tmp_path):
    data = scene("uint16", True)
    source = write_raster(tmp_path / "s.tif", data, nodata=0)
    info = describe(source)
    x0, dx, _, y0, _, dy = info.grid.geotransform
    grid = replace(info.grid, geotransform=(x0 + 2.4 * dx, dx, 0, y0 - 1.6 * dy, 0, dy))
    found, valid = RasterReader(info, grid=grid, resampling="nearest").read(Window(0, 0, 120, 90))
    np.testing.assert_array_equal(found[:, 2:, :-2], data[:, :-2, 2:])
    assert not valid[:, :2].any() and not valid[:, :, -2:].any()


def test_nearest_of_finer_pixels(tmp_path):
    data = scene("uint8", True)
    source = write_raster(tmp_path / "s.tif", data, nodata=0)
    info = describe(source)
    x0, dx, _, y0, _, dy = info.grid.geotransform
    grid = Grid(info.grid.crs, (x0, dx / 2, 0, y0, 0, dy / 2), 240, 180)
    found, valid = RasterReader(info, grid=grid, resampling="nearest").read(Window(0, 0, 240, 180))
    np.testing.assert_array_equal(found, data.repeat(2, axis=1).repeat(2, axis=2))
    np.testing.assert_array_equal(valid, found > 0)


def test_other_grids_are_no_shift(tmp_path):
    info = describe(write_raster(tmp_path / "s.tif", scene("uint16", False)))
    x0, dx, _, y0, _, dy = info.grid.geotransform
    turned = (x0, dx, 0.001 * dx, y0, 0, dy), (x0, dx, 0, y0, 0, -dy)
    for transform in (
        *turned,
        (x0, dx * 1.001, 0, y0, 0, dy),
        (x0, dx / 2, 0, y0, 0, dy / 2),
        (x0, dx * 6, 0, y0, 0, dy * 6),
        (x0, dx, 0.001 * dx, y0, 0, dy),
        (x0, dx, 0, y0, 0, -dy),
    ):
        assert lattice_between(info.grid, transform, 120, 90) is None


def test_cubic_weights_are_those_of_keys():
    np.testing.assert_allclose(taps(0.5, "cubic"), (-1 / 16, 9 / 16, 9 / 16, -1 / 16))
    assert np.allclose(taps(0, "cubic"), (0, 1, 0, 0)) and taps(0.3, "cubic").sum() == pytest.approx(1)
