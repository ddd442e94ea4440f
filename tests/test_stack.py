"""Stacking band files, radiometry, indices."""

from __future__ import annotations

import json

import numpy as np
import pytest
from osgeo import gdal

from s2landcover_plugin.engine import radiometry, sentinel2
from s2landcover_plugin.engine.bandfiles import StackOptions, run_stack
from s2landcover_plugin.engine.crs import Aoi
from s2landcover_plugin.engine.errors import Cancelled, EngineError
from s2landcover_plugin.engine.grid import Grid
from s2landcover_plugin.engine.progress import Progress
from s2landcover_plugin.engine.raster import BandInfo
from s2landcover_plugin.engine.stack import stack_grid

from .conftest import Messages, read, shared_data, write_raster


def test_real_bands_of_three_resolutions_share_the_10_m_grid(t48que, tmp_path):
    target = str(tmp_path / "stack.tif")
    report = run_stack([str(p) for p in reversed(t48que)], target, StackOptions(), None, Progress())
    assert report.bands == sentinel2.L2A_BANDS
    stack = gdal.Open(target)
    b04 = gdal.Open(str(next(p for p in t48que if p.stem == "B04")))
    assert stack.GetGeoTransform() == b04.GetGeoTransform()
    np.testing.assert_array_equal(stack.GetRasterBand(4).ReadAsArray(), b04.ReadAsArray())
    x0, _, _, y0, _, _ = b04.GetGeoTransform()
    for index, name in ((5, "B05"), (1, "B01")):
        path = str(next(p for p in t48que if p.stem == name))
        bounds = (x0, y0 - 10680, x0 + 10680, y0)
        expected = gdal.Warp("", path, format="MEM", outputBounds=bounds, xRes=10, yRes=10, resampleAlg="bilinear", errorThreshold=0)
        np.testing.assert_array_equal(stack.GetRasterBand(index).ReadAsArray(), expected.ReadAsArray())
    band = stack.GetRasterBand(8)
    assert (band.GetDescription(), band.GetScale(), band.GetNoDataValue()) == ("B08", 0.0001, 0)
    assert band.GetMetadataItem("COMMON_NAME") == "nir"


def test_20_m_stack_averages_the_10_m_bands(t48que, tmp_path):
    target = str(tmp_path / "stack.tif")
    wanted = [str(p) for p in t48que if p.stem in ("B04", "B11")]
    run_stack(wanted, target, StackOptions(resolution="20"), None, Progress())
    red, swir = read(target)
    fine = read(wanted[0])[0].astype(float)
    np.testing.assert_allclose(red, fine.reshape(534, 2, 534, 2).mean(axis=(1, 3)), atol=0.5)
    np.testing.assert_array_equal(swir, read(wanted[1])[0])


def test_extent_is_snapped_to_the_files_grid_and_clipped(t48que, tmp_path):
    path = [str(p) for p in t48que if p.stem == "B04"]
    x0, _, _, y0, _, _ = gdal.Open(path[0]).GetGeoTransform()
    target = str(tmp_path / "s.tif")
    run_stack(path, target, StackOptions(), Aoi("EPSG:32648", (x0 - 500, y0 - 104, x0 + 96, y0 + 500)), Progress())
    np.testing.assert_array_equal(read(target)[0], read(path[0])[0][:11, :10])
    with pytest.raises(EngineError, match="outside the rasters"):
        run_stack(path, target, StackOptions(), Aoi("EPSG:32648", (0, 0, 100, 100)), Progress())


def test_degrees_keep_their_pixel_size(tmp_path):
    paths = [str(p) for p in sorted(shared_data("t43rcp_pair/l2a_20200604").glob("B*.tif"))]
    target = str(tmp_path / "s.tif")
    run_stack(paths, target, StackOptions(), None, Progress())
    assert read(target).shape == (12, 264, 264)
    np.testing.assert_array_equal(read(target)[3], read(next(p for p in paths if p.endswith("B04.tif")))[0])


def test_each_band_keeps_its_own_nodata(tmp_path):
    a = np.array([[[0, 20, 30, 40]]], np.uint16)
    b = np.array([[[50, 0, 70, 80]]], np.uint16)
    paths = [write_raster(tmp_path / f"{n}.tif", d, nodata=None) for n, d in (("B03", a), ("B04", b))]
    run_stack(paths, str(tmp_path / "s.tif"), StackOptions(), None, Progress())
    np.testing.assert_array_equal(read(tmp_path / "s.tif"), [[[0, 20, 30, 40]], [[50, 0, 70, 80]]])


@pytest.mark.parametrize(
    ("stored", "scale", "policy", "expected"),
    [
        ([0, 900, 1001, 4000], (0.0001, -0.1), "auto", [0, 1, 1, 3000]),
        ([0, 900, 1001, 4000], None, "apply", [0, 1, 1, 3000]),
        ([0, 900, 1001, 4000], (0.0001, -0.1), "none", [0, 900, 1001, 4000]),
        ([0, 9, 10, 40], (0.01, 0), "auto", [0, 900, 1000, 4000]),
        ([0, 900, 1001, 4000], (1, 0), "auto", [0, 900, 1001, 4000]),
    ],
)
def test_offset_is_removed_and_clipped_at_one(tmp_path, stored, scale, policy, expected):
    path = write_raster(tmp_path / "B04.tif", np.array([[stored]], np.uint16), scale=scale)
    run_stack([path], str(tmp_path / "s.tif"), StackOptions(offset_policy=policy), None, Progress())
    np.testing.assert_array_equal(read(tmp_path / "s.tif")[0], [expected])


def test_real_numbers_are_reflectance(tmp_path):
    path = write_raster(tmp_path / "B04.tif", np.array([[[np.nan, 0.0, 0.25, 7.0]]], np.float32), nodata=-1)
    run_stack([path], str(tmp_path / "s.tif"), StackOptions(), None, Progress())
    np.testing.assert_array_equal(read(tmp_path / "s.tif")[0], [[0, 1, 2500, 65535]])


def test_dn_zero_is_nodata_whatever_else_the_file_states(tmp_path):
    path = write_raster(tmp_path / "B04.tif", np.array([[[0, -9999, 1000]]], np.int16), nodata=-9999)
    run_stack([path], str(tmp_path / "s.tif"), StackOptions(), None, Progress())
    np.testing.assert_array_equal(read(tmp_path / "s.tif")[0], [[0, 0, 1000]])


def test_real_numbers_above_any_reflectance_are_dn_and_told(tmp_path, messages):
    path = write_raster(tmp_path / "B04.tif", np.array([[[500, 2500, 9000, 0.5]]], np.float32), nodata=-1)
    run_stack([path], str(tmp_path / "s.tif"), StackOptions(), None, messages.progress)
    np.testing.assert_array_equal(read(tmp_path / "s.tif")[0], [[500, 2500, 9000, 1]])
    assert any("taken as DN" in text for text in messages.warnings)


def test_south_up_bands_are_turned(tmp_path):
    data = np.arange(1, 65, dtype=np.uint16).reshape(1, 8, 8)
    north = write_raster(tmp_path / "B04.tif", data)
    south = write_raster(tmp_path / "B03.tif", data[:, ::-1], transform=(500000, 10, 0, 5199920, 0, 10))
    coarse = write_raster(tmp_path / "B05.tif", data[:, :4, :4][:, ::-1], transform=(500000, 20, 0, 5199920, 0, 20))
    for paths in ([north, south], [south, coarse]):
        run_stack(paths, str(tmp_path / "s.tif"), StackOptions(resampling="nearest"), None, Progress())
        dataset = gdal.Open(str(tmp_path / "s.tif"))
        assert dataset.GetGeoTransform() == (500000, 10, 0, 5200000, 0, -10)
        np.testing.assert_array_equal(dataset.GetRasterBand(1).ReadAsArray(), data[0])
    np.testing.assert_array_equal(dataset.GetRasterBand(2).ReadAsArray(), data[0, :4, :4].repeat(2, 0).repeat(2, 1))


def test_scene_classes_keep_their_codes_beside_indices(tmp_path):
    paths = [write_raster(tmp_path / f"{n}.tif", np.full((1, 2, 2), v, np.uint16)) for n, v in (("B04", 1000), ("B08", 3000), ("SCL", 4))]
    options = StackOptions(bands=("B04", "nir", "SCL"), indices=("NDVI",))
    assert run_stack(paths, str(tmp_path / "s.tif"), options, None, Progress()).bands == ("B04", "B08", "SCL", "NDVI")
    np.testing.assert_allclose(read(tmp_path / "s.tif")[:, 0, 0], [0.1, 0.3, 4, 0.5], rtol=1e-6)


def test_clouds_are_masked_by_the_scene_classification(tmp_path):
    red = write_raster(tmp_path / "B04.tif", np.full((1, 4, 4), 500, np.uint16))
    classes = np.array([[[4, 9], [3, 5]]], np.uint8)
    scl = write_raster(tmp_path / "SCL.tif", classes, transform=(500000, 20, 0, 5200000, 0, -20))
    run_stack([red, scl], str(tmp_path / "s.tif"), StackOptions(mask_clouds=True), None, Progress())
    expected = np.where(np.isin(classes[0], (4, 5)), 500, 0).repeat(2, 0).repeat(2, 1)
    np.testing.assert_array_equal(read(tmp_path / "s.tif"), [expected])
    with pytest.raises(EngineError, match="scene classification"):
        run_stack([red], str(tmp_path / "s.tif"), StackOptions(mask_clouds=True), None, Progress())


def test_indices_make_a_stack_of_real_numbers(tmp_path):
    red = np.array([[[1000, 0, 2000, 0]]], np.uint16)
    nir = np.array([[[3000, 4000, 0, 0]]], np.uint16)
    paths = [write_raster(tmp_path / f"{n}.tif", d) for n, d in (("B04", red), ("B08", nir))]
    report = run_stack(paths, str(tmp_path / "s.tif"), StackOptions(indices=("NDVI",)), None, Progress())
    assert report.bands == ("B04", "B08", "NDVI")
    none = -9999
    expected = [[[0.1, none, 0.2, none]], [[0.3, 0.4, none, none]], [[0.5, none, none, none]]]
    np.testing.assert_allclose(read(tmp_path / "s.tif"), expected, rtol=1e-6)
    with pytest.raises(EngineError, match="BSI needs the band B11"):
        run_stack(paths, str(tmp_path / "e.tif"), StackOptions(indices=("BSI",)), None, Progress())
    with pytest.raises(EngineError, match="one of the inputs"):
        run_stack(paths, paths[0], StackOptions(), None, Progress())
    np.testing.assert_array_equal(read(paths[0]), red)


def test_missing_and_doubled_bands_are_named(t48que, tmp_path):
    paths = [str(p) for p in t48que[:3]]
    with pytest.raises(EngineError, match="The band B12 is missing.*B01, B02, B03"):
        run_stack(paths, str(tmp_path / "s.tif"), StackOptions(bands=("B12",)), None, Progress())
    with pytest.raises(EngineError, match="B01 is there twice"):
        run_stack([paths[0], paths[0]], str(tmp_path / "s.tif"), StackOptions(), None, Progress())
    assert list(tmp_path.iterdir()) == []


def dark_scene(folder, offset, names=("B02", "B12")):
    """Band files whose darkest pixels lie just above the offset."""
    rng = np.random.default_rng(6)
    data = [np.clip(rng.gamma(2, 150, (1, 80, 80)), 2, 6000).round().astype(np.uint16) + offset for _ in names]
    return [write_raster(folder / f"{name}.tif", plane) for name, plane in zip(names, data)]


@pytest.mark.parametrize(("offset", "policy", "removed"), [(0, "auto", 0), (1000, "auto", 1000), (1000, "none", 0), (0, "apply", 1000)])
def test_pixels_decide_where_nothing_is_stated(tmp_path, messages, offset, policy, removed):
    paths = dark_scene(tmp_path, offset)
    run_stack(paths, str(tmp_path / "s.tif"), StackOptions(offset_policy=policy), None, messages.progress)
    expected = np.maximum(read(paths[0])[0].astype(int) - removed, 1)
    np.testing.assert_array_equal(read(tmp_path / "s.tif")[0], expected)
    told = [text for text in messages.warnings if "contradict" in text]
    assert bool(told) == (policy != "auto")
    assert any("lowest DN" in text for text in messages.warnings) == (offset == 1000 or policy == "apply")


def test_bright_pixels_leave_it_open_and_it_is_told(tmp_path, messages):
    path = write_raster(tmp_path / "B08.tif", np.random.default_rng(0).integers(2000, 5000, (1, 80, 80)).astype(np.uint16))
    run_stack([path], str(tmp_path / "s.tif"), StackOptions(), None, messages.progress)
    np.testing.assert_array_equal(read(tmp_path / "s.tif"), read(path))
    assert any("BOA offset" in text and "B08" in text for text in messages.warnings)


def test_real_files_without_an_offset_are_recognised(t48que, tmp_path, messages):
    run_stack([str(p) for p in t48que], str(tmp_path / "s.tif"), StackOptions(), None, messages.progress)
    assert messages.warnings == []
    reasons = json.loads(gdal.Open(str(tmp_path / "s.tif")).GetMetadataItem("S2LC_RADIOMETRY"))
    assert reasons["B04"]["add_dn"] == 0 and "the lowest DN (B12" in reasons["B04"]["reason"] and "absent" in reasons["B04"]["reason"]


@pytest.mark.parametrize("folder", ["s2a_29rkh_20200219", "t43rcp_pair/l2a_20200604", "t43rcp_pair/l2a_20200813", "t48que_20200223_l2a"])
def test_no_real_scene_without_offset_is_taken_for_one_with_it(folder):
    paths = sorted(shared_data(folder).glob("B*.tif"))
    assert radiometry.look_at_pixels({p.stem: (str(p), 1) for p in paths}, Progress()).verdict == "absent"
    for path in paths:  # a single band must not be enough for the opposite
        assert radiometry.look_at_pixels({path.stem: (str(path), 1)}, Progress()).verdict != "present"


def grid_of(size, epsg="EPSG:32633"):
    return Grid(epsg, (0.0, size, 0.0, 0.0, 0.0, -size), 100, 100)


@pytest.mark.parametrize(
    ("sizes", "resolution", "expected"),
    [
        ({"B02": 10, "B05": 20, "B01": 60}, 20, 20),
        ({"B02": 10, "B11": 10}, 20, 20),  # a stack whose 20 m band was resampled before
        ({"B05": 20, "B11": 20}, 10, 10),
        ({"B02": 20, "B05": 20}, 20, 20),  # 10 m band published at 20 m
        ({"B02": 120, "SCL": 120}, 10, 120),  # overviews of the 10 m bands
        ({"B02": 100, "B05": 200, "B01": 600}, 20, 200),
        ({"SCL": 20}, 10, 20),
        ({"dem": 30}, 10, 30),
    ],
)
def test_grid_of_a_stack(sizes, resolution, expected):
    assert stack_grid({name: grid_of(size) for name, size in sizes.items()}, resolution).pixel_size == (expected, expected)


def items_of(path):
    document = json.loads(path.read_text())
    return document.get("features") or [document]


@pytest.mark.parametrize(
    ("pattern", "key", "add_dn", "evidence"),
    [
        ("earth-search_sentinel-2-l2a_S2A_32TPS_20230602.json", "red", 0, "boa_offset_applied"),
        ("earth-search_sentinel-2-c1-l2a_13TDE_2024_10items.json", "red", -1000, "states offset"),
        ("pc_sentinel-2-l2a_35MNM_2020_13items.geojson", "B04", 0, "baseline 02.12"),
        ("pc_sentinel-2-l2a_13TDE_202408_2items.json", "B04", -1000, "baseline 05.11"),
        ("pc_search_page1.json", "B04", -1000, "baseline 04.00"),
        ("pc_sentinel-2-l2a_20240820_zones13_14.json", "B04", -1000, "baseline 05.11"),
        ("cdse_sentinel-2-l2a_T36NYH_20200322_N0500.json", "B04_10m", -1000, "states offset"),
    ],
)
def test_offset_decision_for_every_provider(pattern, key, add_dn, evidence):
    for item in items_of(shared_data("stac") / pattern):
        decision = radiometry.decide(item["properties"], item["assets"][key], item["id"])
        assert (decision.gain, decision.add_dn, decision.certain) == (1, add_dn, True)
        assert evidence in decision.reason


def test_offset_applied_by_earth_search_is_not_applied_again(earth_search_items):
    for item in earth_search_items:
        assert item["assets"]["red"]["raster:bands"][0]["offset"] == -0.1
        assert radiometry.decide(item["properties"], item["assets"]["red"], item["id"]).add_dn == 0


def test_policy_and_ignorance():
    asset = {"raster:bands": [{"scale": 0.0001, "offset": -0.1}]}
    assert radiometry.decide({}, asset, "", "none").add_dn == 0
    assert radiometry.decide({"earthsearch:boa_offset_applied": True}, asset, "", "apply").add_dn == -1000
    assert not radiometry.decide({}, {}, "S2B_MSIL2A_20200223T032739_N9999_R018_T48QUE_20230924T183543").certain
    assert radiometry.decide({}, {}, "S2B_MSIL2A_20220413T150759_N0400_R025_T33XWJ_20220414T082126").add_dn == -1000


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("B4", "B04"),
        ("b08", "B08"),
        ("B8A", "B8A"),
        ("T33TWM_20230815T095031_B04_10m", "B04"),
        ("S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_75_43_B01", "B01"),
        ("SCL_20m", "SCL"),
        ("AOT", None),
        ("B13", None),
        ("WVP", None),
        ("B08/B04", None),
        ("B02-B8", None),
        ("band", None),
    ],
)
def test_band_names_in_texts(text, name):
    assert sentinel2.band_name(text) == name


def test_bands_are_chosen_by_name_number_and_common_name():
    bands = [BandInfo(i + 1, n, "", "uint16", 0, 0.0001, 0) for i, n in enumerate(("B04", "Band 2", "SCL", "B8A"))]
    assert sentinel2.choose_bands(bands, "x", ()) == [1, 2, 4]
    assert sentinel2.choose_bands(bands, "x", ("b8a", "2", "red", "SCL")) == [4, 2, 1, 3]
    for wrong in ("5", "B02;B04", "B04 B8A", "²"):
        with pytest.raises(EngineError, match=f"no band {wrong}"):
            sentinel2.choose_bands(bands, "x", (wrong,))


def test_only_descriptions_of_one_band_identify_it():
    texts = {"B04": "B04", "b4": "B04", "B8A_20m": "B8A", "B04 (red)": "B04", "B08/B04 ratio": "B08/B04 ratio", "std B04": "std B04"}
    for text, name in texts.items():
        assert sentinel2.identify(BandInfo(1, text, "", "uint16", 0, None, 0)) == name


def test_progress_goes_forward_only_and_a_stop_is_seen_while_pixels_are_looked_at(tmp_path):
    rng = np.random.default_rng(0)
    path = write_raster(tmp_path / "s.tif", rng.integers(1, 3000, (2, 700, 700)).astype(np.uint16), names=("B03", "B04"), scale=(1e-4, 0))
    messages = Messages()
    run_stack([path], str(tmp_path / "o.tif"), StackOptions(), None, messages.progress)
    assert messages.fractions == sorted(messages.fractions) and messages.fractions[-1] == 1
    looked = [fraction for fraction in messages.fractions if 0 < fraction < 0.1]
    assert len(looked) > 20

    later = Messages(cancel_after=len(looked) // 2)
    with pytest.raises(Cancelled):
        radiometry.look_at_pixels({"B03": (path, 1), "B04": (path, 2)}, later.progress)
    assert later.fractions and later.fractions[-1] < 0.6
