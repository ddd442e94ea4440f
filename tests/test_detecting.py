"""Change detection from file to file: the simulated pair with planted landslides, real dates, references, and what cannot be compared."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from osgeo import gdal, ogr, osr
from scipy import ndimage
from sklearn import metrics

from demo.change_pair import BANDS, SHIFT_PX, make_pair, write_pair
from s2landcover_plugin.engine.bandfiles import StackOptions, run_stack
from s2landcover_plugin.engine.blocks import iter_blocks
from s2landcover_plugin.engine.change import METHODS, REASONS
from s2landcover_plugin.engine.changemap import LEGEND
from s2landcover_plugin.engine.detecting import DetectInputs, DetectOptions, DetectOutputs, change_numbers, run_change
from s2landcover_plugin.engine.errors import Cancelled, EngineError
from s2landcover_plugin.engine.progress import Progress
from s2landcover_plugin.engine.raster import describe, read_legend
from s2landcover_plugin.engine.references import Reference

from .conftest import Messages, read, shared_data, write_raster

CLEAR, BARE = (300, 600, 400, 3600, 1800, 900), (900, 1200, 1600, 2400, 3400, 2900)
"""Spectra of a forest and of bare soil, DN of BANDS."""


def all_outputs(folder, prefix=""):
    names = ("change.tif", "methods.tif", "magnitude.tif", "aligned.tif", "patches.gpkg", "table.csv", "report.html")
    return DetectOutputs(*(str(folder / f"{prefix}{name}") for name in names))


@pytest.fixture(scope="module", params=[True, False], ids=["slides", "no change"])
def demo(request, tmp_path_factory):
    """The pair of the demo, compared: (report, outputs, inputs, pair)."""
    folder = tmp_path_factory.mktemp("pair")
    before, after, scars = write_pair(folder, changed=request.param)
    inputs = DetectInputs(before, after, Reference(scars) if request.param else None)
    heard = Messages()
    outputs = all_outputs(folder)
    report = run_change(inputs, outputs, DetectOptions(), heard.progress)
    assert heard.fractions == sorted(heard.fractions) and heard.fractions[-1] == 1
    return report, outputs, inputs, make_pair(changed=request.param)


def test_planted_slides(demo):
    report, outputs, _, pair = demo
    codes = read(outputs.methods)
    assert [result.method for result in report.results] == list(METHODS)
    for result, plane in zip(report.results, codes):
        assert not (plane[pair.river] == 2).any(), "the river is no landslide"
        assert result.pixels == (np.count_nonzero(plane == 1), np.count_nonzero(plane == 2))
        assert result.hectares[1] == pytest.approx(0.01 * result.pixels[1])
        if pair.scars.any():
            use = plane > 0
            assert metrics.f1_score(pair.scars[use], plane[use] == 2) >= 0.85
        else:
            assert result.pixels[1] < 0.005 * sum(result.pixels)
    np.testing.assert_array_equal(read(outputs.raster)[0], codes[0])
    np.testing.assert_allclose(report.alignment.shift_px, SHIFT_PX, atol=0.05)


def test_figures_are_those_of_scikit_learn_in_every_output(demo):
    report, outputs, inputs, pair = demo
    codes = read(outputs.methods)
    rows = list(csv.DictReader(Path(outputs.table).read_text().splitlines()))
    page = Path(outputs.html).read_text()
    truths = {"agreement": codes[0] == 2, "accuracy": pair.scars}
    kinds = ["agreement", "accuracy"] if inputs.reference else ["agreement"]
    expected = [(m, kind) for m in METHODS for kind in kinds if (m, kind) != ("ndvi-drop", "agreement")]
    assert [(row["method"], row["kind"]) for row in rows if row["kind"]] == expected
    for row in rows:
        if not row["kind"]:
            assert row["method"] == "ndvi-drop" and row["f1"] == ""
            continue
        plane = codes[METHODS.index(row["method"])]
        truth, found = truths[row["kind"]][plane > 0], plane[plane > 0] == 2
        matrix = [int(row[name]) for name in ("true_no_change", "false_change", "missed_change", "true_change")]
        assert matrix == metrics.confusion_matrix(truth, found, labels=[False, True]).ravel().tolist()
        figures = {
            "overall_accuracy": metrics.accuracy_score(truth, found),
            "precision": metrics.precision_score(truth, found, zero_division=np.nan),
            "recall": metrics.recall_score(truth, found, zero_division=np.nan),
            "f1": metrics.f1_score(truth, found, zero_division=np.nan),
            "iou": metrics.jaccard_score(truth, found, zero_division=0),
        }
        for name, value in figures.items():
            assert row[name] == "" if np.isnan(value) else float(row[name]) == pytest.approx(value, abs=1e-6)
            if not np.isnan(value):
                assert float(row[f"{name}_low"]) - 1e-6 <= value <= float(row[f"{name}_high"]) + 1e-6
                assert f"{value:.3f}" in page
        assert float(row["kappa"]) == pytest.approx(metrics.cohen_kappa_score(truth, found), abs=1e-6)
        assert all(f"{n:,}" in page for n in matrix)
    numbers = change_numbers(report)
    first = rows[1] if not inputs.reference else rows[0]
    assert numbers["CHANGED_HA"] == pytest.approx(float(rows[0]["changed_ha"]))
    if inputs.reference:
        assert numbers["F1"] == pytest.approx(float(first["f1"]), abs=1e-6)
        assert numbers["PRECISION"] == pytest.approx(float(first["precision"]), abs=1e-6)
    else:
        assert np.isnan(numbers["F1"]), "a mask is not compared with itself"
    for word in ("Accuracy", "Agreement", "left out", "NDVI drop", "k-means, 2 clusters", "Gaussian mixture", "IR-MAD"):
        assert (word in page) is (word != "Accuracy" or bool(inputs.reference))


def test_areas_add_up(demo):
    report, outputs, inputs, pair = demo
    grid = describe(inputs.before).grid
    assert sum(report.main.hectares) + sum(report.excluded_ha.values()) == pytest.approx(0.01 * grid.width * grid.height)
    assert set(report.excluded_ha) == set(REASONS[1:])
    assert report.excluded_ha["water"] == pytest.approx(0.01 * np.count_nonzero(pair.river), rel=0.05)
    rows = list(csv.DictReader(Path(outputs.table).read_text().splitlines()))
    assert float(rows[0]["excluded_water_ha"]) == pytest.approx(report.excluded_ha["water"], abs=1e-4)


def test_rasters_say_what_they_are(demo):
    _, outputs, inputs, _ = demo
    assert [each.name for each in read_legend(outputs.raster)] == ["No change", "Change"]
    assert describe(outputs.raster).bands[0].nodata == 0
    assert [band.name for band in describe(outputs.methods).bands] == list(METHODS)
    for path in (outputs.raster, outputs.methods):
        assert "No change" in Path(path).with_suffix(".qml").read_text()
    facts = describe(outputs.raster).metadata
    assert facts["S2LC_BEFORE_DATE"] == "2024-06-03" and set(json.loads(facts["S2LC_RULES"])) == set(METHODS)
    dataset = gdal.Open(outputs.raster)
    table = dataset.GetRasterBand(1).GetDefaultRAT()
    hectares = [table.GetValueAsDouble(row, 6) for row in range(table.GetRowCount())]
    assert hectares == pytest.approx([0.01 * np.count_nonzero(read(outputs.raster) == each.code) for each in LEGEND])


def test_aligned_image_lies_on_the_first(demo):
    """Against SciPy's own shift by the planted amount; cubic kernels differ a little."""
    _, outputs, inputs, pair = demo
    info, source = describe(outputs.aligned), describe(inputs.before)
    assert info.grid == source.grid and [band.name for band in info.bands] == list(BANDS)
    assert [band.scale for band in info.bands] == [band.scale for band in source.bands]
    aligned = read(outputs.aligned).astype(float)
    for plane, band in zip(aligned, pair.after):
        back = ndimage.shift(band.astype(float), (-SHIFT_PX[1], -SHIFT_PX[0]), order=3, mode="nearest")
        inner = np.s_[6:-6, 6:-6]
        assert np.abs(plane - back)[inner].mean() < 0.15 * np.abs(band - back)[inner].mean()


def test_magnitude_by_hand(demo):
    _, outputs, inputs, _ = demo
    before, after = (read(path).astype(float) for path in (inputs.before, outputs.aligned))
    used = read(outputs.raster)[0] > 0

    def ndvi(b):
        return (b[3] - b[2]) / (b[3] + b[2])

    def bsi(b):
        return ((b[4] + b[2]) - (b[3] + b[0])) / ((b[4] + b[2]) + (b[3] + b[0]))

    with np.errstate(invalid="ignore"):
        expected = np.sqrt((ndvi(after) - ndvi(before)) ** 2 + (bsi(after) - bsi(before)) ** 2)
    magnitude = read(outputs.magnitude)[0]
    np.testing.assert_allclose(magnitude[used], expected[used], rtol=1e-4, atol=1e-5)
    assert (magnitude[~used] == -1).all()


def patches_in(path):
    source = ogr.Open(path)
    layer = source.GetLayer(0)
    return [({**each.items()}, each.GetGeometryRef().GetArea()) for each in layer]


def test_patches_equal_labelled_pieces(demo):
    report, outputs, _, pair = demo
    change, magnitude = read(outputs.raster)[0] == 2, read(outputs.magnitude)[0]
    labels, n = ndimage.label(change)
    sizes = ndimage.sum_labels(change, labels, range(1, n + 1))
    means = ndimage.mean(magnitude, labels, range(1, n + 1)) if n else []
    expected = sorted(((0.01 * size, mean) for size, mean in zip(sizes, means) if size >= 10), reverse=True)
    found = patches_in(outputs.polygons)
    assert len(found) == report.n_patches == len(expected)
    assert sorted(((each["hectares"], each["mean_magnitude"]) for each, _ in found), reverse=True) == [
        (pytest.approx(area), pytest.approx(mean, rel=1e-5)) for area, mean in expected
    ]
    for number, (each, area) in enumerate(found, 1):
        assert each["patch"] == number and each["hectares"] == pytest.approx(area / 1e4)
        assert (each["before"], each["after"], each["name"], each["method"]) == ("2024-06-03", "2024-06-28", "Change", "NDVI drop")
    hectares = [each["hectares"] for each, _ in found]
    assert hectares == sorted(hectares, reverse=True)
    assert pair.scars.any() == bool(found)


def test_pictures_of_the_report(demo, monkeypatch):
    """Six panels: the second date, the reference or the first date, and each method, with what is where it should be."""
    _, outputs, inputs, pair = demo
    seen = []
    monkeypatch.setattr("s2landcover_plugin.engine.change_report._drawn", lambda panels, pair: seen.extend(panels) or "")
    run_change(inputs, all_outputs(Path(outputs.html).parent, "again_"), DetectOptions(), Progress())
    titles = [title for title, _ in seen]
    assert titles[0] == "After, 2024-06-28" and len(seen) == 6
    assert titles[1] == ("Reference: scars.tif" if inputs.reference else "Before, 2024-06-03")
    names = ("NDVI drop", "k-means, 2 clusters", "Gaussian mixture, 2 clusters", "IR-MAD")
    assert all(title.startswith(name) for title, name in zip(titles[2:], names))
    step = -(-pair.scars.shape[0] // 420)
    scars = pair.scars[::step, ::step]
    for _, picture in seen[2:]:
        red = (picture[..., 0] > 0.7) & (picture[..., 1] < 0.35)
        assert red[scars].mean() > 0.8 if scars.any() else red.mean() < 0.005
        assert not red[pair.river[::step, ::step]].any()


def test_the_report_has_no_loose_ends(demo):
    page = re.sub(r"base64,[A-Za-z0-9+/=]*", "", Path(demo[1].html).read_text())
    assert not re.search(r"\bnan\b|None|undefined|{{|{%", page)
    assert "px to the right" in page and "it was brought back" in page


@pytest.mark.parametrize("demo", [True], indirect=True, ids=["slides"])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("block_size", [64, 97, 1024])
def test_map_does_not_depend_on_blocks_and_threads(demo, tmp_path, block_size, threads, monkeypatch):
    _, outputs, inputs, _ = demo
    monkeypatch.setattr("s2landcover_plugin.engine.blocks.BLOCK_PX", block_size)
    monkeypatch.setattr("s2landcover_plugin.engine.blocks.default_workers", lambda: threads)
    again = all_outputs(tmp_path)
    report = run_change(inputs, again, DetectOptions(), Progress())
    for name in ("raster", "methods", "magnitude", "aligned"):
        np.testing.assert_array_equal(read(getattr(again, name)), read(getattr(outputs, name)))
    assert Path(again.table).read_text() == Path(outputs.table).read_text()
    assert report.n_patches == len(patches_in(outputs.polygons))


def test_the_first_method_makes_the_map(tmp_path):
    before, after, _ = write_pair(tmp_path)
    target, methods = str(tmp_path / "c.tif"), str(tmp_path / "m.tif")
    report = run_change(
        DetectInputs(before, after), DetectOutputs(target, methods), DetectOptions(methods=("gmm", "irmad"), n_clusters=3), Progress()
    )
    assert [result.title for result in report.results] == ["Gaussian mixture, 3 clusters", "IR-MAD"]
    np.testing.assert_array_equal(read(target)[0], read(methods)[0])
    assert report.main_figures == report.results[0].comparisons[0].figures and not report.results[0].comparisons[0].is_accuracy


def flat_pair(folder, *, size=(80, 90), names=BANDS, after_epsg=32633, after_transform=(500000, 10, 0, 5200000, 0, -10), extra=(), **more):
    """A forest of which the left half is bare at the second date, with some noise: (before, after)."""
    rng = np.random.default_rng(1)
    spectra = np.array([CLEAR, CLEAR, BARE])
    planes = []
    for number, date in enumerate(("before", "after")):
        ground = np.zeros(size, int)
        if number:
            ground[:, : size[1] // 2] = 2
        data = spectra[ground].transpose(2, 0, 1) * rng.normal(1, 0.02, (len(BANDS), *size))
        chosen = [BANDS.index(name) for name in names]
        stack = np.rint(data[chosen]).astype(np.uint16)
        if extra:
            stack = np.concatenate([stack, np.full((1, *size), extra[number], np.uint16)])
        transform, epsg = ((500000, 10, 0, 5200000, 0, -10), 32633) if not number else (after_transform, after_epsg)
        own = [*names, *(["SCL"] if extra else [])]
        path = folder / f"{date}.tif"
        planes.append(write_raster(path, stack, names=own, epsg=epsg, transform=transform, scale=(1e-4, 0), **more))
    return planes


QUICK = DetectOptions(methods=("ndvi-drop",), align=False)


def changed_share(folder, inputs, options=QUICK, messages=None):
    target = str(folder / "c.tif")
    run_change(inputs, DetectOutputs(target), options, messages.progress if messages else Progress())
    codes = read(target)[0]
    return np.count_nonzero(codes == 2) / max(np.count_nonzero(codes), 1), codes


def test_two_bands_are_enough_and_said(tmp_path, messages):
    before, after = flat_pair(tmp_path, names=("B04", "B08"))
    share, codes = changed_share(tmp_path, DetectInputs(before, after), DetectOptions(align=False), messages)
    assert share == pytest.approx(0.5) and (codes > 0).all()
    said = [text for text in messages.warnings if "cannot be told" in text]
    assert len(said) == 2 and "neither SCL nor B02, B03, B11: water, cloud, snow" in said[0]


def test_a_finer_narrow_infrared_stands_in(tmp_path):
    before, after = flat_pair(tmp_path)
    for path in (before, after):
        dataset = gdal.Open(path, gdal.GA_Update)
        dataset.GetRasterBand(4).SetDescription("B8A")
        dataset = None
    assert changed_share(tmp_path, DetectInputs(before, after))[0] == pytest.approx(0.5)


def test_different_band_sets_use_what_both_have(tmp_path, messages):
    before, _ = flat_pair(tmp_path)
    few = tmp_path / "few"
    few.mkdir()
    _, after = flat_pair(few, names=("B08", "B04", "B03", "B02"))
    share, _ = changed_share(tmp_path, DetectInputs(before, after), DetectOptions(align=False), messages)
    assert share == pytest.approx(0.5)
    assert any(text.startswith("B11, B12 of") and "not compared" in text for text in messages.infos)


def test_only_bands_that_are_needed_have_to_be_there(tmp_path):
    before, after = flat_pair(tmp_path)
    dataset = gdal.Open(after, gdal.GA_Update)
    dataset.GetRasterBand(BANDS.index("B12") + 1).WriteArray(np.zeros((10, 90), np.uint16))
    dataset = None
    inputs = DetectInputs(before, after)
    share, codes = changed_share(tmp_path, inputs)
    assert share == pytest.approx(0.5) and (codes > 0).all()
    _, codes = changed_share(tmp_path, inputs, DetectOptions(methods=("ndvi-drop", "irmad"), align=False))
    assert (codes[:10] == 0).all() and (codes[10:] > 0).all()


def test_other_grid_resolution_and_extent(tmp_path):
    """The second date with 20 m pixels from elsewhere on: only the common part, on the grid of the first."""
    before, _ = flat_pair(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    _, after = flat_pair(other, size=(40, 90), after_transform=(500200, 20, 0, 5199900, 0, -20))
    target = str(tmp_path / "c.tif")
    run_change(DetectInputs(before, after), DetectOutputs(target), QUICK, Progress())
    grid = describe(target).grid
    assert grid.bounds == (500200, 5199200, 500900, 5199900) and grid.pixel_size == (10, 10)
    codes = read(target)[0]
    assert (codes == 2).all(), "bare up to 500200 + 45 x 20 m"


def test_other_crs(tmp_path):
    """The second date in degrees: its left half is bare."""
    before, _ = flat_pair(tmp_path)
    source, target = osr.SpatialReference(), osr.SpatialReference()
    source.ImportFromEPSG(32633)
    target.ImportFromEPSG(4326)
    target.SetAxisMappingStrategy(osr.OAMS_TRADITIONAL_GIS_ORDER)
    west, north, _ = osr.CoordinateTransformation(source, target).TransformPoint(500000, 5200000)
    other = tmp_path / "other"
    other.mkdir()
    _, after = flat_pair(other, after_epsg=4326, after_transform=(west, 900 / 90 / 76_000, 0, north, 0, -800 / 80 / 111_200))
    share, codes = changed_share(tmp_path, DetectInputs(before, after))
    assert share == pytest.approx(0.5, abs=0.03) and (codes > 0).mean() > 0.95


def test_degrees_have_areas_on_the_ellipsoid(tmp_path):
    """Both dates in degrees: hectares by pyproj-free hand computation at 47 degrees north."""
    transform = (15.0, 1e-4, 0, 47.0, 0, -1e-4)
    before, _ = flat_pair(tmp_path, after_epsg=4326, after_transform=transform)
    dataset = gdal.Open(before, gdal.GA_Update)
    reference = osr.SpatialReference()
    reference.ImportFromEPSG(4326)
    dataset.SetProjection(reference.ExportToWkt())
    dataset.SetGeoTransform(transform)
    dataset = None
    report = run_change(DetectInputs(before, str(tmp_path / "after.tif")), all_outputs(tmp_path), QUICK, Progress())
    # metres per degree at 46.996 north (series of the WGS 84 meridian and parallel)
    phi = np.radians(46.996)
    down = 111132.954 - 559.822 * np.cos(2 * phi) + 1.175 * np.cos(4 * phi)
    across = 111412.84 * np.cos(phi) - 93.5 * np.cos(3 * phi)
    assert report.main.hectares[1] == pytest.approx(80 * 45 * 1e-8 * down * across / 1e4, rel=1e-4)
    assert sum(each["hectares"] for each, _ in patches_in(str(tmp_path / "patches.gpkg"))) == pytest.approx(report.main.hectares[1])


def test_classification_leaves_clouds_out(tmp_path, messages):
    before, after = flat_pair(tmp_path, extra=(4, 4))
    dataset = gdal.Open(after, gdal.GA_Update)
    scl = np.full((80, 90), 5, np.uint8)
    scl[:20], scl[20:30], scl[30:40], scl[40:50] = 9, 3, 6, 11
    dataset.GetRasterBand(7).WriteArray(scl)
    dataset = None
    target = str(tmp_path / "c.tif")
    report = run_change(DetectInputs(before, after), DetectOutputs(target), QUICK, messages.progress)
    codes = read(target)[0]
    assert (codes[:50] == 0).all() and (codes[50:] > 0).all()
    assert report.excluded_ha == pytest.approx(dict(zip(REASONS[1:], (0, 27, 9, 9, 0))))
    options = DetectOptions(("ndvi-drop",), align=False, exclude_water=False)
    kept = run_change(DetectInputs(before, after), DetectOutputs(target), options, Progress())
    assert kept.excluded_ha["water"] == 0 and (read(target)[0][30:40] > 0).all()


def sources_of(folder):
    return sorted(path.name for path in folder.iterdir())


def refused(folder, inputs, said, options=QUICK):
    """A run that fails with one sentence and leaves no file."""
    before = sources_of(folder)
    with pytest.raises(EngineError, match=said):
        run_change(inputs, all_outputs(folder, "out_"), options, Progress())
    assert sources_of(folder) == before


def test_what_cannot_be_compared(tmp_path):
    before, after = flat_pair(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    _, far = flat_pair(elsewhere, after_transform=(700000, 10, 0, 5200000, 0, -10))
    refused(tmp_path, DetectInputs(before, far), "do not overlap")
    no_red = write_raster(tmp_path / "nored.tif", np.full((2, 80, 90), 500, np.uint16), names=("B03", "B08"))
    refused(tmp_path, DetectInputs(before, no_red), r"B04 \(red\), which is not there.*BAND_MAP")
    no_nir = write_raster(tmp_path / "nonir.tif", np.full((2, 80, 90), 500, np.uint16), names=("B03", "B04"))
    refused(tmp_path, DetectInputs(no_nir, after), r"B08 \(nir\), which is not there")
    plain = np.full((6, 80, 90), 500, np.uint16)
    rotated = write_raster(tmp_path / "rotated.tif", plain, names=BANDS, transform=(5e5, 10, 2, 52e5, 2, -10))
    refused(tmp_path, DetectInputs(before, rotated), r"is rotated: .*rotated\.tif")
    placeless = write_raster(tmp_path / "placeless.tif", plain, names=BANDS, epsg=None)
    refused(tmp_path, DetectInputs(before, placeless), "no coordinate reference system.*placeless")
    refused(tmp_path, DetectInputs(before, after), "No method", DetectOptions(methods=()))
    refused(tmp_path, DetectInputs(before, after), "no reference to weigh", DetectOptions(area_adjusted=True))
    refused(tmp_path, DetectInputs(before, after), "4 is out of range: N_CLUSTERS", DetectOptions(n_clusters=4))
    refused(tmp_path, DetectInputs(before, str(tmp_path / "none.tif")), "cannot be opened")


def test_all_clouds_says_so(tmp_path):
    before, after = flat_pair(tmp_path, extra=(4, 9))
    refused(tmp_path, DetectInputs(before, after), "No pixel can be compared.*100 % cloud or its shadow")


def test_all_nodata_says_so(tmp_path):
    before, _ = flat_pair(tmp_path)
    empty = write_raster(tmp_path / "empty.tif", np.zeros((6, 80, 90), np.uint16), names=BANDS)
    refused(tmp_path, DetectInputs(before, empty), "No pixel can be compared.*100 % no data")


@pytest.mark.parametrize("align", [True, False])
def test_identical_dates_have_no_change_and_say_so(tmp_path, messages, align):
    before, _, _ = write_pair(tmp_path)
    report = run_change(DetectInputs(before, before), all_outputs(tmp_path), DetectOptions(align=align), messages.progress)
    assert [result.pixels[1] for result in report.results] == [0, 0, 0, 0]
    assert any("same image" in text for text in messages.warnings) and "same image" in Path(all_outputs(tmp_path).html).read_text()


def test_uniform_images_are_refused_where_nothing_can_be_fitted(tmp_path):
    planes = np.tile(np.array(CLEAR, np.uint16)[:, None, None], (1, 80, 90))
    plain = [write_raster(tmp_path / f"{n}.tif", planes, names=BANDS) for n in "ab"]
    refused(tmp_path, DetectInputs(*plain), "1 distinct", DetectOptions(methods=("kmeans",)))
    refused(tmp_path, DetectInputs(*plain), "constant", DetectOptions(methods=("irmad",)))
    assert changed_share(tmp_path, DetectInputs(*plain))[0] == 0


def test_dates_that_are_hard_to_compare(tmp_path, messages):
    before, after = flat_pair(tmp_path)
    for path, date, orbit, sun in ((before, "2024-01-10T10:00:00Z", "79", "21.5"), (after, "2023-07-01T10:00:00Z", "122", "63.1")):
        dataset = gdal.Open(path, gdal.GA_Update)
        dataset.SetMetadata({"S2LC_DATETIME": date, "S2LC_RELATIVE_ORBIT": orbit, "S2LC_SUN_ELEVATION": sun})
        dataset = None
    outputs = all_outputs(tmp_path)
    report = run_change(DetectInputs(before, after), outputs, QUICK, messages.progress)
    said = " ".join(report.warnings)
    assert report.warnings == tuple(messages.warnings)
    for text in ("is later than", "172 days apart", "relative orbits differ (79, 122)", "elevation differs by 42 degrees"):
        assert text in said and text in Path(outputs.html).read_text()


def box(path, driver, bounds, epsg):
    """A polygon file with one rectangle."""
    reference = osr.SpatialReference()
    reference.ImportFromEPSG(epsg)
    reference.SetAxisMappingStrategy(osr.OAMS_TRADITIONAL_GIS_ORDER)
    source = ogr.GetDriverByName(driver).CreateDataSource(str(path))
    layer = source.CreateLayer("drawn", reference, ogr.wkbPolygon)
    x0, y0, x1, y1 = bounds
    feature = ogr.Feature(layer.GetLayerDefn())
    feature.SetGeometry(ogr.CreateGeometryFromWkt(f"POLYGON(({x0} {y0},{x1} {y0},{x1} {y1},{x0} {y1},{x0} {y0}))"))
    layer.CreateFeature(feature)
    source = None
    return str(path)


@pytest.mark.parametrize(
    ("codes", "nodata", "options"),
    [
        ((0, 1), None, {}),
        ((0, 255), None, {}),
        ((1, 2), 0, {}),
        ((None, 1), 0, {}),
        ((7, 3), None, {"code": 3}),
        ((0.0, 1.0), None, {}),
        ((0, 5), None, {"code": 5}),
    ],
    ids=["0 and 1", "0 and 255", "1 and 2", "1 beside nodata", "chosen", "real numbers", "five"],
)
def test_masks_as_people_have_them(tmp_path, codes, nodata, options):
    """The reference calls the left third changed; the map the left half."""
    before, after = flat_pair(tmp_path)
    dtype = np.float32 if isinstance(codes[1], float) else np.uint8
    mask = np.full((1, 80, 90), nodata if codes[0] is None else codes[0], dtype)
    mask[:, :, :30] = codes[1]
    reference = Reference(write_raster(tmp_path / "ref.tif", mask, nodata=nodata), **options)
    report = run_change(DetectInputs(before, after, reference), DetectOutputs(str(tmp_path / "c.tif")), QUICK, Progress())
    assert report.main.comparisons[0].confusion.counts.tolist() == [[80 * 45, 80 * 15], [0, 80 * 30]]
    assert report.main_figures["precision"] == pytest.approx(2 / 3) and report.main_figures["recall"] == 1


def test_a_map_of_change_is_a_reference(tmp_path):
    """Our own map of another run: left-out pixels count as unknown."""
    before, after = flat_pair(tmp_path)
    first = str(tmp_path / "first.tif")
    run_change(DetectInputs(before, after), DetectOutputs(first), QUICK, Progress())
    report = run_change(DetectInputs(before, after, Reference(first)), DetectOutputs(str(tmp_path / "c.tif")), QUICK, Progress())
    assert report.main.comparisons[0].confusion.counts.tolist() == [[80 * 45, 0], [0, 80 * 45]]


@pytest.mark.parametrize(("driver", "name"), [("GPKG", "r.gpkg"), ("GeoJSON", "r.geojson"), ("ESRI Shapefile", "r.shp")])
def test_polygons_in_another_crs(tmp_path, driver, name):
    """A rectangle over the left third, drawn in Web Mercator or degrees."""
    before, after = flat_pair(tmp_path)
    epsg = 4326 if driver == "GeoJSON" else 3857
    source, target = osr.SpatialReference(), osr.SpatialReference()
    source.ImportFromEPSG(32633)
    target.ImportFromEPSG(epsg)
    target.SetAxisMappingStrategy(osr.OAMS_TRADITIONAL_GIS_ORDER)
    change = osr.CoordinateTransformation(source, target)
    (x0, y0, _), (x1, y1, _) = change.TransformPoint(499000, 5198000), change.TransformPoint(500300, 5201000)
    reference = Reference(box(tmp_path / name, driver, (x0, y0, x1, y1), epsg))
    report = run_change(DetectInputs(before, after, reference), DetectOutputs(str(tmp_path / "c.tif")), QUICK, Progress())
    counts = report.main.comparisons[0].confusion.counts
    assert counts.sum() == 80 * 90 and abs(counts[1, 1] - 80 * 30) <= 80


def test_references_that_cannot_be_used(tmp_path):
    before, after = flat_pair(tmp_path)

    def run_with(reference, said, options=QUICK):
        refused(tmp_path, DetectInputs(before, after, reference), said, options)

    three = np.zeros((1, 80, 90), np.uint8)
    three[:, :10], three[:, 10:20] = 1, 2
    run_with(Reference(write_raster(tmp_path / "three.tif", three, nodata=None)), "cannot be told.*0, 1, 2.*REFERENCE_CODE")
    run_with(Reference(write_raster(tmp_path / "real.tif", np.random.default_rng(0).random((1, 80, 90)).astype(np.float32))), "no mask")
    far = write_raster(tmp_path / "far.tif", np.ones((1, 80, 90), np.uint8), transform=(7e5, 10, 0, 52e5, 0, -10))
    run_with(Reference(far), "no valid pixel in the area")
    drawn = box(tmp_path / "far.gpkg", "GPKG", (7e5, 51e5, 7.1e5, 51.1e5), 32633)
    run_with(Reference(drawn), "No polygon of the reference lies in the area")
    run_with(Reference(write_raster(tmp_path / "nocrs.tif", np.ones((1, 80, 90), np.uint8), epsg=None)), "no coordinate reference system")


def test_area_adjusted_figures_of_a_whole_reference_are_the_plain_ones(tmp_path):
    before, after = flat_pair(tmp_path)
    mask = np.zeros((1, 80, 90), np.uint8)
    mask[:, :, :30] = 1
    inputs = DetectInputs(before, after, Reference(write_raster(tmp_path / "ref.tif", mask, nodata=None)))
    outputs = all_outputs(tmp_path)
    report = run_change(inputs, outputs, DetectOptions(("ndvi-drop",), align=False, area_adjusted=True), Progress())
    comparison = report.main.comparisons[0]
    assert comparison.adjusted.precision[0, 1] == pytest.approx(comparison.figures["precision"])
    assert comparison.adjusted.overall_accuracy[0] == pytest.approx(comparison.figures["overall_accuracy"])
    row = next(csv.DictReader(Path(outputs.table).read_text().splitlines()))
    assert float(row["adjusted_changed_ha"]) == pytest.approx(80 * 30 * 0.01) and "Olofsson" in Path(outputs.html).read_text()


@pytest.mark.parametrize("after_asked", [0, 3, 10, 30, 60, 100])
def test_cancel_leaves_no_file(tmp_path, after_asked):
    before, after, scars = write_pair(tmp_path)
    files = sources_of(tmp_path)
    heard = Messages(cancel_after=after_asked)
    with pytest.raises(Cancelled):
        run_change(DetectInputs(before, after, Reference(scars)), all_outputs(tmp_path, "out_"), DetectOptions(), heard.progress)
    assert sources_of(tmp_path) == files


def test_an_existing_output_survives_a_failure(tmp_path):
    before, after = flat_pair(tmp_path, extra=(4, 9))
    target = tmp_path / "c.tif"
    target.write_bytes(b"old")
    with pytest.raises(EngineError):
        run_change(DetectInputs(before, after), DetectOutputs(str(target)), QUICK, Progress())
    assert target.read_bytes() == b"old"
    with pytest.raises(EngineError, match="is one of the inputs"):
        run_change(DetectInputs(before, before), DetectOutputs(before), QUICK, Progress())


def stack_of(folder, target):
    files = sorted(str(path) for path in folder.glob("*.tif"))
    names = tuple(Path(path).stem for path in files)
    run_stack(files, str(target), StackOptions(bands=names, resolution="10"), None, Progress())
    return str(target)


def test_real_dates_two_days_apart(tmp_path, messages):
    """33TWM on 13 and 15 August: nothing is resampled, clouds and water are left out, and hardly anything changed."""
    root = shared_data("earth_search_33twm")
    before, after = (stack_of(root / name, tmp_path / f"{name}.tif") for name in ("S2B_33TWM_20230813_0_L2A", "S2A_33TWM_20230815_0_L2A"))
    outputs = all_outputs(tmp_path)
    report = run_change(DetectInputs(before, after), outputs, DetectOptions(), messages.progress)
    assert report.alignment.trusted and not report.alignment.moves
    scl = [read(root / name / "SCL.tif")[0] for name in ("S2B_33TWM_20230813_0_L2A", "S2A_33TWM_20230815_0_L2A")]
    left_out = np.isin(scl[0], (0, 1, 3, 6, 8, 9, 10, 11)) | np.isin(scl[1], (0, 1, 3, 6, 8, 9, 10, 11))
    codes = read(outputs.methods)
    assert not codes[:, left_out].any()
    assert (codes[0][~left_out] > 0).mean() > 0.98
    for plane in codes:
        assert np.count_nonzero(plane == 2) < 0.02 * np.count_nonzero(plane)


def test_real_fields_in_degrees(tmp_path, messages):
    """Punjab in June and August: nearly every field changed, and the shift cannot be trusted."""
    root = shared_data("t43rcp_pair")
    before, after = (stack_of(root / name, tmp_path / f"{name}.tif") for name in ("l2a_20200604", "l2a_20200813"))
    report = run_change(DetectInputs(before, after), all_outputs(tmp_path), DetectOptions(), messages.progress)
    assert not report.alignment.trusted and change_numbers(report)["SHIFT_X_PX"] == 0
    assert any("is not known" in text for text in report.warnings)
    assert any("70 days apart in the year (2020-06-04, 2020-08-13)" in text for text in report.warnings)
    red, nir = (read(root / name / f"{band}.tif")[0].astype(float) for name in ("l2a_20200604",) for band in ("B04", "B08"))
    ndvi = (nir - red) / (nir + red)
    red, nir = (read(root / "l2a_20200813" / f"{band}.tif")[0].astype(float) for band in ("B04", "B08"))
    fell = ndvi - (nir - red) / (nir + red) > 0.2
    codes = read(all_outputs(tmp_path).raster)[0]
    np.testing.assert_array_equal((codes == 2)[codes > 0], fell[codes > 0])


@pytest.mark.parametrize("longest", [100, 20])
def test_counts_in_any_windows(longest):
    """Squares and overview from odd windows equal those of the whole image."""
    from s2landcover_plugin.engine.comparing import Overview, SquareTally
    from s2landcover_plugin.engine.grid import Grid

    grid = Grid("", (0, 1, 0, 0, 0, -1), 533, 211)
    rng = np.random.default_rng(3)
    truth, found = rng.integers(0, 3, (2, 211, 533)).astype(np.uint8)
    valid = rng.random((2, 211, 533)) < 0.7
    whole, pieces = SquareTally(grid), SquareTally(grid)
    picture, small = Overview(grid, 2, longest), Overview(grid, 2, longest)
    for tally, view, windows in ((whole, picture, grid.windows(533, 211)), (pieces, small, grid.windows(97, 31))):
        for window in windows:
            part = np.s_[window.y : window.y + window.height, window.x : window.x + window.width]
            tally.write(window, (truth[part], found[part]), np.ones((2, 1, 1), bool))
            view.write(window, (truth[part], found[part]), valid[(slice(None), *part)])
    np.testing.assert_array_equal(whole.counts, pieces.counts)
    use = (truth > 0) & (found > 0)
    np.testing.assert_array_equal(whole.counts.sum(0), metrics.confusion_matrix(truth[use] == 2, found[use] == 2))
    np.testing.assert_allclose(picture.means, small.means, rtol=1e-6)
    # cells of 6 pixels are taken whole, of cells of 27 every sixth pixel
    step, taken = (6, 1) if longest == 100 else (27, 6)
    assert picture.step == step and picture.means.shape == (2, -(-211 // step), -(-533 // step))
    rows, columns = (np.arange(n)[np.arange(n) % taken == taken // 2] for n in (211, 533))
    corner = np.ix_(rows[rows // step == 5], columns[columns // step == 1])
    assert picture.means[0, 5, 1] == pytest.approx(truth[corner][valid[0][corner]].mean())


def test_op_can_be_sent_to_another_process(tmp_path):
    import pickle

    from s2landcover_plugin.engine.change import ChangeFit, fit_rule
    from s2landcover_plugin.engine.changemap import DecideChange
    from s2landcover_plugin.engine.pairs import open_pair

    before, after = flat_pair(tmp_path)
    pair = open_pair(describe(before), describe(after), None, "", True, Progress())
    rule = fit_rule("ndvi-drop", pair.space, np.zeros((1, 6)), np.zeros((12, 1)), ChangeFit(), "")
    op = pickle.loads(pickle.dumps(DecideChange(pair.space, [rule], 0.2)))
    reader = pickle.loads(pickle.dumps(pair.reader))
    (block,) = iter_blocks(reader, op)
    assert np.count_nonzero(block.data[0] == 2) == 80 * 45


def turned(folder, path, rows=True, columns=False, place=True):
    """The same pixels stored from the south (and from the east), or without any place."""
    source = gdal.Open(path)
    data = source.ReadAsArray()
    _, width, _, _, _, height = source.GetGeoTransform()
    x0, y0 = source.GetGeoTransform()[0], source.GetGeoTransform()[3]
    transform = [x0, width, 0, y0, 0, height]
    if rows:
        data, transform[3], transform[5] = data[:, ::-1], y0 + height * data.shape[1], -height
    if columns:
        data, transform[0], transform[1] = data[:, :, ::-1], x0 + width * data.shape[2], -width
    target = str(folder / f"turned_{Path(path).name}")
    write_raster(
        target,
        np.ascontiguousarray(data),
        names=BANDS,
        scale=(1e-4, 0),
        transform=transform if place else (0, 1, 0, 0, 0, 1),
        epsg=32633 if place else None,
    )
    return target


@pytest.mark.parametrize(("rows", "columns"), [(True, False), (False, True), (True, True)])
def test_rasters_stored_from_the_south_or_east(tmp_path, rows, columns):
    before, after, scars = write_pair(tmp_path)
    plain = str(tmp_path / "plain.tif")
    run_change(DetectInputs(before, after), DetectOutputs(plain), DetectOptions(("ndvi-drop",)), Progress())
    for name, pair in (
        ("both", (turned(tmp_path, before, rows, columns), turned(tmp_path, after, rows, columns))),
        ("second", (before, turned(tmp_path, after, rows, columns))),
    ):
        target = str(tmp_path / f"{name}.tif")
        aligned = str(tmp_path / f"{name}_aligned.tif")
        report = run_change(DetectInputs(*pair), DetectOutputs(target, aligned=aligned), DetectOptions(("ndvi-drop",)), Progress())
        codes = read(target)[0]
        if name == "both":
            codes = codes[:: -1 if rows else 1, :: -1 if columns else 1]
        truth, use = read(scars)[0] == 1, codes > 0
        assert metrics.f1_score(truth[use], codes[use] == 2) > 0.95
        assert (codes == read(plain)[0]).mean() > 0.999
        assert report.alignment.trusted


def test_pictures_without_any_place(tmp_path):
    """Plain images, whose rows GDAL counts to the north: pixels are compared one by one, with the shift mended."""
    before, after, scars = write_pair(tmp_path)
    plain = [turned(tmp_path, path, rows=False, place=False) for path in (before, after)]
    target = str(tmp_path / "c.tif")
    run_change(DetectInputs(*plain), DetectOutputs(target), DetectOptions(("ndvi-drop",)), Progress())
    codes = read(target)[0]
    assert metrics.f1_score((read(scars)[0] == 1)[codes > 0], codes[codes > 0] == 2) > 0.95


def test_a_mask_of_zeros_means_that_nothing_changed(tmp_path, messages):
    before, after = flat_pair(tmp_path)
    zeros = write_raster(tmp_path / "zeros.tif", np.zeros((1, 80, 90), np.uint8), nodata=None)
    report = run_change(DetectInputs(before, after, Reference(zeros)), DetectOutputs(str(tmp_path / "c.tif")), QUICK, messages.progress)
    assert report.main.comparisons[0].confusion.counts.tolist() == [[80 * 45, 80 * 45], [0, 0]]
    assert report.main_figures["precision"] == 0 and np.isnan(report.main_figures["recall"])
    assert any("recall is not defined" in text for text in messages.warnings)


def test_a_mask_of_ones_knows_nothing_outside_of_itself(tmp_path):
    before, after = flat_pair(tmp_path)
    ones = np.zeros((1, 40, 90), np.uint8)
    ones[:, :, :30] = 1
    path = write_raster(tmp_path / "half.tif", ones, nodata=0)
    report = run_change(DetectInputs(before, after, Reference(path)), DetectOutputs(str(tmp_path / "c.tif")), QUICK, Progress())
    assert report.main.comparisons[0].confusion.counts.tolist() == [[40 * 45, 40 * 15], [0, 40 * 30]]


def test_left_out_pixels_of_a_map_stay_unknown_where_nothing_changed(tmp_path):
    """A map of this plugin with one code only."""
    before, after = flat_pair(tmp_path)
    path = write_raster(tmp_path / "map.tif", np.ones((1, 80, 90), np.uint8) * (np.arange(80) < 50)[None, :, None].astype(np.uint8))
    from s2landcover_plugin.engine.geotiff import write_class_table

    write_class_table(path, LEGEND, [0, 0], [0, 0])
    report = run_change(DetectInputs(before, after, Reference(path)), DetectOutputs(str(tmp_path / "c.tif")), QUICK, Progress())
    assert report.main.comparisons[0].confusion.counts.tolist() == [[50 * 45, 50 * 45], [0, 0]]


@pytest.mark.parametrize("n_clusters", [2, 3])
def test_a_patch_painted_into_a_copy(tmp_path, n_clusters):
    """Unchanged pixels are exactly equal: their differences have no spread."""
    before, _, scars = write_pair(tmp_path)
    planes, mask = read(before), read(scars)[0] == 1
    planes[:, mask] = np.array(BARE, np.uint16)[:, None]
    after = write_raster(tmp_path / "painted.tif", planes, names=BANDS, scale=(1e-4, 0), transform=gdal.Open(before).GetGeoTransform())
    options = DetectOptions(n_clusters=n_clusters, align=False)
    report = run_change(DetectInputs(before, after, Reference(scars)), DetectOutputs(str(tmp_path / "c.tif")), options, Progress())
    assert [result.comparisons[-1].figures["f1"] for result in report.results] == [pytest.approx(1, abs=0.01)] * 4


@pytest.mark.parametrize("n_clusters", [2, 3])
def test_as_much_growth_as_loss(tmp_path, n_clusters):
    before, after, scars = write_pair(tmp_path)
    planes, later = read(before), read(after)
    grown = np.zeros(planes.shape[1:], bool)
    grown[400:480, 40:140] = True
    planes[:, grown], later[:, grown] = np.array(BARE, np.uint16)[:, None], np.array(CLEAR, np.uint16)[:, None]
    transform = gdal.Open(before).GetGeoTransform()
    pair = [
        write_raster(tmp_path / f"{n}.tif", p, names=BANDS, scale=(1e-4, 0), transform=transform) for n, p in (("a", planes), ("b", later))
    ]
    options = DetectOptions(("kmeans", "gmm"), n_clusters=n_clusters)
    report = run_change(DetectInputs(*pair, Reference(scars)), DetectOutputs(str(tmp_path / "c.tif")), options, Progress())
    for result in report.results:
        assert result.comparisons[-1].figures["recall"] > 0.95 and result.comparisons[-1].figures["precision"] > 0.9


def test_little_clear_sky_is_enough(tmp_path):
    before, after = flat_pair(tmp_path, size=(400, 400), extra=(4, 4))
    dataset = gdal.Open(after, gdal.GA_Update)
    scl = np.full((400, 400), 9, np.uint8)
    scl[200:212, 190:214] = 5
    dataset.GetRasterBand(7).WriteArray(scl)
    dataset = None
    for seed in range(5):
        options = DetectOptions(("ndvi-drop",), align=False, sample_size=1000, seed=seed)
        share, codes = changed_share(tmp_path, DetectInputs(before, after), options)
        assert np.count_nonzero(codes) == 12 * 24 and share == pytest.approx(10 / 24)


def test_water_of_one_date_is_left_out_by_its_own_bands(tmp_path, messages):
    before, _ = flat_pair(tmp_path)
    planes = read(before)
    planes[:, :20] = np.array((400, 450, 300, 200, 100, 80), np.uint16)[:, None, None]
    write_raster(before, planes, names=BANDS, scale=(1e-4, 0))
    few = tmp_path / "few"
    few.mkdir()
    _, after = flat_pair(few, names=("B04", "B08"))
    _, codes = changed_share(tmp_path, DetectInputs(before, after), QUICK, messages)
    assert (codes[:20] == 0).all() and (codes[20:] > 0).all()


def test_narrow_infrared_of_both_where_one_has_no_other(tmp_path, messages):
    """B08 and B8A differ by a third here: only like is compared with like."""
    before, after = flat_pair(tmp_path)
    planes = np.concatenate([read(before), (read(before)[3:4] * 0.66).astype(np.uint16)])
    write_raster(before, planes, names=[*BANDS, "B8A"], scale=(1e-4, 0))
    later = read(after)
    later[3] = later[3] * 0.66
    write_raster(after, later, names=[name.replace("B08", "B8A") for name in BANDS], scale=(1e-4, 0))
    _, codes = changed_share(tmp_path, DetectInputs(before, after), QUICK, messages)
    assert (codes[:, 45:] == 1).all() and (codes[:, :45] == 2).all()
    assert any("B8A of both dates" in text for text in messages.infos)


def test_the_aligned_image_keeps_its_date(tmp_path):
    before, after, _ = write_pair(tmp_path)
    outputs = all_outputs(tmp_path)
    run_change(DetectInputs(before, after), outputs, QUICK, Progress())
    facts = describe(outputs.aligned).metadata
    assert facts["S2LC_DATETIME"].startswith("2024-06-28") and facts["S2LC_SCENES"] == "S2A_33TWM_20240628_0_L2A"
    assert describe(outputs.raster).metadata["S2LC_BEFORE_SCENES"] == "S2A_33TWM_20240603_0_L2A"


def test_empty_patches_have_the_same_fields(tmp_path):
    before, after = flat_pair(tmp_path)
    kinds = []
    for number, least in enumerate((0.1, 1000.0)):
        path = str(tmp_path / f"p{number}.gpkg")
        options = DetectOptions(("ndvi-drop",), align=False, min_area_ha=least)
        report = run_change(DetectInputs(before, after), DetectOutputs(str(tmp_path / "c.tif"), polygons=path), options, Progress())
        source = ogr.Open(path)
        definition = source.GetLayer(0).GetLayerDefn()
        kinds.append(
            [(definition.GetFieldDefn(i).GetName(), definition.GetFieldDefn(i).GetTypeName()) for i in range(definition.GetFieldCount())]
        )
        assert report.n_patches == 1 - number
    assert kinds[0] == kinds[1] and ("hectares", "Real") in kinds[0]


def test_the_same_day_is_said(tmp_path, messages):
    before, after, _ = write_pair(tmp_path)
    dataset = gdal.Open(after, gdal.GA_Update)
    dataset.SetMetadataItem("S2LC_DATETIME", "2024-06-03T10:00:31Z")
    dataset = None
    run_change(DetectInputs(before, after), DetectOutputs(str(tmp_path / "c.tif")), QUICK, messages.progress)
    assert any("same day (2024-06-03)" in text for text in messages.warnings)


def test_a_reference_that_is_a_sample_is_not_drawn_as_agreeing(tmp_path, monkeypatch):
    before, after = flat_pair(tmp_path)
    mask = np.full((1, 80, 90), 255, np.uint8)
    mask[:, :9, :10], mask[:, :9, 80:] = 1, 0
    reference = Reference(write_raster(tmp_path / "few.tif", mask, nodata=255))
    seen = []
    monkeypatch.setattr("s2landcover_plugin.engine.change_report._drawn", lambda panels, pair: seen.extend(panels) or "")
    report = run_change(DetectInputs(before, after, reference), all_outputs(tmp_path), QUICK, Progress())
    red = (seen[2][1][..., 0] > 0.7) & (seen[2][1][..., 1] < 0.35)
    assert red.sum() == 90 and report.main.comparisons[-1].confusion.total == 180


def test_names_are_made_harmless(tmp_path):
    before, after = flat_pair(tmp_path)
    mask = np.zeros((1, 80, 90), np.uint8)
    mask[:, :, :30] = 1
    path = write_raster(tmp_path / "ref.tif", mask, nodata=None)
    outputs = all_outputs(tmp_path)
    run_change(DetectInputs(before, after, Reference(path, name="=1+1<script>alert(1)</script>")), outputs, QUICK, Progress())
    assert "<script>" not in Path(outputs.html).read_text() and "&lt;script&gt;" in Path(outputs.html).read_text()
    row = next(csv.DictReader(Path(outputs.table).read_text().splitlines()))
    assert row["reference"].startswith("'=1+1")


def test_lines_are_no_reference(tmp_path):
    """A layer of mixed geometries: only what has an inside counts."""
    before, after = flat_pair(tmp_path)
    path = str(tmp_path / "mixed.gpkg")
    source = ogr.GetDriverByName("GPKG").CreateDataSource(path)
    reference = osr.SpatialReference()
    reference.ImportFromEPSG(32633)
    layer = source.CreateLayer("mixed", reference, ogr.wkbUnknown)
    x0, y1 = 500000, 5200000
    shapes = (
        f"LINESTRING({x0} {y1 - 10},{x0 + 900} {y1 - 10})",
        f"MULTIPOLYGON Z((({x0} {y1} 1,{x0 + 300} {y1} 1,{x0 + 300} {y1 - 800} 1,{x0} {y1 - 800} 1,{x0} {y1} 1)))",
    )
    for shape in shapes:
        feature = ogr.Feature(layer.GetLayerDefn())
        feature.SetGeometry(ogr.CreateGeometryFromWkt(shape))
        layer.CreateFeature(feature)
    source = None
    report = run_change(DetectInputs(before, after, Reference(path)), DetectOutputs(str(tmp_path / "c.tif")), QUICK, Progress())
    assert report.main.comparisons[0].confusion.counts.tolist() == [[80 * 45, 80 * 15], [0, 80 * 30]]


def test_a_wrong_folder_is_told_before_anything_is_computed(tmp_path, messages):
    before, after = flat_pair(tmp_path)
    with pytest.raises(EngineError, match="folder does not exist"):
        outputs = DetectOutputs(str(tmp_path / "c.tif"), html=str(tmp_path / "nowhere" / "r.html"))
        run_change(DetectInputs(before, after), outputs, QUICK, messages.progress)
    assert not messages.fractions


def test_gdal_keeps_its_cache(tmp_path):
    """Bounded while it is used, by several at once, and restored after errors."""
    from s2landcover_plugin.engine.raster import CACHE_BYTES, BoundedCache

    was = gdal.GetCacheMax()
    gdal.SetCacheMax(2 * CACHE_BYTES)
    try:
        with BoundedCache():
            with pytest.raises(RuntimeError), BoundedCache():
                raise RuntimeError
            assert gdal.GetCacheMax() == CACHE_BYTES
        assert gdal.GetCacheMax() == 2 * CACHE_BYTES
        gdal.SetCacheMax(CACHE_BYTES // 4)
        with BoundedCache():
            assert gdal.GetCacheMax() == CACHE_BYTES // 4, "never raised"
    finally:
        gdal.SetCacheMax(was)


def test_irmad_says_when_most_has_changed(tmp_path, messages):
    before, after = flat_pair(tmp_path)
    planes = read(after)
    planes[:, :, :72] = (np.array(BARE)[:, None, None] * np.random.default_rng(5).normal(1, 0.02, (6, 80, 72))).astype(np.uint16)
    rng = np.random.default_rng(6)
    planes[2, rng.random((80, 90)) < 0.02] = 3
    write_raster(after, planes, names=BANDS, scale=(1e-4, 0))
    options = DetectOptions(("irmad",), align=False)
    report = run_change(DetectInputs(before, after), DetectOutputs(str(tmp_path / "c.tif")), options, messages.progress)
    assert any("look unchanged" in text for text in messages.warnings) and "look unchanged" in report.warnings[0]


@pytest.mark.parametrize("share", [0.02, 0.2, 0.3, 0.45])
def test_irmad_finds_much_change_in_one_cover(tmp_path, share):
    """A forest with noise of which a part was cleared."""
    rng = np.random.default_rng(1)
    cleared = np.zeros((200, 200), bool)
    cleared[:, : round(200 * share)] = True
    paths = []
    for number in range(2):
        ground = np.where(cleared & bool(number), np.array(BARE)[:, None, None], np.array(CLEAR)[:, None, None])
        planes = np.rint(ground * rng.normal(1, 0.05, (6, 200, 200))).astype(np.uint16)
        paths.append(write_raster(tmp_path / f"{number}.tif", planes, names=BANDS, scale=(1e-4, 0)))
    _, codes = changed_share(tmp_path, DetectInputs(*paths), DetectOptions(("irmad",), align=False))
    assert metrics.f1_score(cleared.ravel(), (codes == 2).ravel()) > 0.98


def test_severe_and_moderate_burns_are_both_change(tmp_path):
    rng = np.random.default_rng(2)
    spectra = np.array([CLEAR, BARE, (600, 900, 1000, 2900, 2600, 1900)])
    ground = np.zeros((90, 90), int)
    ground[:30], ground[30:60] = 1, 2
    planes = [np.rint(spectra[g].transpose(2, 0, 1) * rng.normal(1, 0.02, (6, 90, 90))).astype(np.uint16) for g in (ground * 0, ground)]
    pair = [write_raster(tmp_path / f"{n}.tif", p, names=BANDS, scale=(1e-4, 0)) for n, p in zip("ab", planes)]
    report = run_change(
        DetectInputs(*pair), DetectOutputs(str(tmp_path / "c.tif")), DetectOptions(("kmeans", "gmm"), n_clusters=3, align=False), Progress()
    )
    for result in report.results:
        assert result.pixels[1] == pytest.approx(60 * 90, rel=0.01) and "are the change" in result.rule


def test_negative_reflectance_has_bounded_indices(tmp_path):
    """Signed numbers around zero in deep shade, with a classification that does not name them."""
    before, after = flat_pair(tmp_path, extra=(4, 4))
    for number, path in enumerate((before, after)):
        planes = read(path).astype(np.int16)
        planes[:6, :20] = np.random.default_rng(number).integers(-150, 150, (6, 20, 90))
        write_raster(path, planes, names=[*BANDS, "SCL"], scale=(1e-4, 0), nodata=-9999)
    outputs = all_outputs(tmp_path)
    report = run_change(DetectInputs(before, after), outputs, DetectOptions(("kmeans", "ndvi-drop"), align=False), Progress())
    codes = read(outputs.methods)
    assert (codes[:, :20] == 0).all() and (codes[:, 20:, :45] == 2).all() and (codes[:, 20:, 45:] == 1).all()
    assert read(outputs.magnitude).max() < 3 and report.excluded_ha["dark shadow"] + report.excluded_ha["water"] == pytest.approx(18)


@pytest.mark.parametrize("offset", [0, 4])
def test_alpha_says_where_there_is_something(tmp_path, offset):
    """Transparent pixels are no data, whether the grids coincide or not, and alpha is no band of the aligned image."""
    before, after = flat_pair(tmp_path)
    planes = np.concatenate([read(after), np.full((1, 80, 90), 255, np.uint16)])
    planes[6, :20] = 0
    write_raster(after, planes, names=[*BANDS, "alpha"], transform=(500000 + offset, 10, 0, 5200000, 0, -10), nodata=None)
    dataset = gdal.Open(after, gdal.GA_Update)
    dataset.GetRasterBand(7).SetColorInterpretation(gdal.GCI_AlphaBand)
    dataset = None
    outputs = all_outputs(tmp_path)
    run_change(DetectInputs(before, after), outputs, QUICK, Progress())
    codes = read(outputs.raster)[0]
    assert (codes[:19] == 0).all() and (codes[22:, 2:-2] > 0).all()
    assert len(describe(outputs.aligned).bands) == 6


def test_a_geopackage_with_rasters_is_not_replaced(tmp_path):
    before, after = flat_pair(tmp_path)
    mask = np.zeros((1, 80, 90), np.uint8)
    mask[:, :, :45] = 1
    source = write_raster(tmp_path / "mask.tif", mask, nodata=None)
    package = str(tmp_path / "keep.gpkg")
    gdal.Translate(package, source, format="GPKG", creationOptions=["RASTER_TABLE=truth"])
    outputs = DetectOutputs(str(tmp_path / "c.tif"), polygons=package)
    with pytest.raises(EngineError, match="other layers .truth."):
        run_change(DetectInputs(before, after), outputs, QUICK, Progress())
    own = DetectOutputs(str(tmp_path / "c.tif"), polygons=str(tmp_path / "truth.gpkg"))
    gdal.Translate(own.polygons, source, format="GPKG", creationOptions=["RASTER_TABLE=truth"])
    with pytest.raises(EngineError, match="one of the inputs"):
        run_change(DetectInputs(before, after, Reference(f"GPKG:{own.polygons}:truth", is_vector=False)), own, QUICK, Progress())
    report = run_change(
        DetectInputs(before, after, Reference(f"GPKG:{package}:truth", is_vector=False)), DetectOutputs(outputs.raster), QUICK, Progress()
    )
    assert report.main_figures["f1"] == 1


def test_float_numbers_with_zeros_for_fill(tmp_path):
    before, after = flat_pair(tmp_path)
    planes = read(before).astype(np.float32)
    planes[:, :, 30:] = 0
    write_raster(before, planes, names=BANDS, nodata=None)
    report = run_change(DetectInputs(before, after), DetectOutputs(str(tmp_path / "c.tif")), QUICK, Progress())
    assert report.main.hectares[1] == pytest.approx(0.01 * 80 * 30)


def test_one_band_has_one_name(tmp_path):
    before, after = flat_pair(tmp_path)
    refused(tmp_path, DetectInputs(before, after), "one band two names", DetectOptions(band_map="red=3,nir=3"))
