"""What clusters are called, how they are coloured, how far they lie apart, and their polygons."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import time
from xml.etree import ElementTree

import numpy as np
import pytest
from osgeo import gdal, ogr
from scipy import ndimage
from scipy.stats import norm
from sklearn.cluster import KMeans

from s2landcover_plugin.engine.clustering import ClusterOptions, ClusterOutputs, run_clustering
from s2landcover_plugin.engine.cost import Stopwatch
from s2landcover_plugin.engine.errors import Cancelled, EngineError
from s2landcover_plugin.engine.features import Feature
from s2landcover_plugin.engine.files import OutputFiles
from s2landcover_plugin.engine.legend import LegendClass
from s2landcover_plugin.engine.model_file import load_model
from s2landcover_plugin.engine.naming import TONES, named_classes, read_class_table, renamed
from s2landcover_plugin.engine.polygons import merge_small, write_polygons
from s2landcover_plugin.engine.progress import Progress
from s2landcover_plugin.engine.separability import jeffries_matusita
from s2landcover_plugin.engine.signatures import Suggestion, suggest

from .conftest import Messages, read, shared_data, write_raster

SIX = ("B02", "B03", "B04", "B08", "B11", "B12")
HLS = ("B01", "B02", "B03", "B04", "B8A", "B11", "B12")


def name_of(spectrum, names=SIX):
    return suggest([Feature(name) for name in names], np.array([spectrum]))[0]


@pytest.mark.parametrize(
    ("spectrum", "name"),
    [
        # surface reflectances typical of each cover, chosen by hand; the second water is that of a muddy reservoir in a real scene
        ((0.05, 0.045, 0.03, 0.02, 0.01, 0.008), "Water"),
        ((0.105, 0.148, 0.141, 0.084, 0.064, 0.043), "Water"),
        ((0.03, 0.06, 0.03, 0.42, 0.23, 0.11), "Dense vegetation"),
        ((0.06, 0.09, 0.09, 0.23, 0.26, 0.17), "Sparse vegetation"),
        ((0.12, 0.17, 0.24, 0.30, 0.41, 0.35), "Bare soil"),
        ((0.17, 0.18, 0.20, 0.24, 0.25, 0.22), "Built-up"),
        ((0.85, 0.84, 0.82, 0.75, 0.08, 0.06), "Snow"),
        ((0.50, 0.50, 0.50, 0.55, 0.45, 0.35), "Cloud"),
        ((0.02, 0.02, 0.015, 0.05, 0.06, 0.04), "Shadow"),
    ],
)
def test_typical_spectra(spectrum, name):
    found = name_of(spectrum)
    assert found.text == name and not found.ambiguous
    assert f"NDVI {(spectrum[3] - spectrum[2]) / (spectrum[3] + spectrum[2]):.2f}" in found.evidence


def test_what_lies_between_is_ambiguous_and_says_so():
    soil_or_town = name_of((0.15, 0.18, 0.22, 0.27, 0.36, 0.32))
    assert soil_or_town.ambiguous and set(soil_or_town.names) == {"Bare soil", "Built-up"}
    assert soil_or_town.text in ("Bare soil or built-up", "Built-up or bare soil")
    bright = name_of((0.8, 0.8, 0.8, 0.8), SIX[:4])
    assert bright.text == "Snow or cloud", "without SWIR nothing tells the two apart"
    assert name_of((0.03, 0.05, 0.04, 0.145), SIX[:4]).text == "Dense or sparse vegetation"


def test_without_the_bands_there_is_no_name():
    found = suggest([Feature("B02"), Feature("B04"), Feature("NDVI", "(nir-red)/(nir+red)")], np.array([[0.1, 0.1, 0.5]] * 2))
    assert [each.text for each in found] == ["", ""] and "without B03, B08" in found[0].evidence
    assert [each.name for each in named_classes(found, (1, 2))] == ["Cluster 1", "Cluster 2"]


@pytest.mark.parametrize(("stem", "names"), [("SeaLake", {"Water"}), ("Forest", {"Dense vegetation", "Dense or sparse vegetation"})])
def test_real_chips_of_known_cover(stem, names):
    bands = ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B8A"]
    for path in sorted(shared_data("eurosat_ms").glob(f"{stem}*.tif")):
        mean = gdal.Open(str(path)).ReadAsArray().reshape(13, -1).mean(axis=1) * 1e-4
        assert name_of(mean, bands).text in names


def test_names_of_real_clusters_against_worldcover():
    """Clusters of labelled chips, one chip of each place: the names that are given without a doubt are mostly right."""
    folder = shared_data("hls_worldcover_30m")
    of_place = {row["site"]: row["file"] for row in csv.DictReader(open(folder / "chips.csv"))}
    given = {10: [], 80: [], "land": []}
    for file in of_place.values():
        data = gdal.Open(str(folder / file)).ReadAsArray().reshape(9, -1)
        values, flags, label = data[:7].T * 1e-4, data[7], data[8]
        use = (flags != 255) & (flags & 0b1010 == 0) & ((flags >> 5 & 1) == (label == 80))
        values, label = values[use], label[use]
        if len(values) < 2000:
            continue
        fit = KMeans(6, n_init=2, random_state=0).fit((values - values.mean(0)) / values.std(0))
        for number in range(6):
            mine = fit.labels_ == number
            code, share = max(((c, (label[mine] == c).mean()) for c in np.unique(label[mine])), key=lambda each: each[1])
            found = name_of(values[mine].mean(axis=0), HLS)
            if share > 0.8 and found.names and not found.ambiguous:
                given.setdefault(code, []).append(found.text)
                given["land"] += [found.text] if code != 80 else []
    assert len(given[10]) > 10 and len(given[80]) >= 5 and len(given["land"]) > 30
    assert given[10].count("Dense vegetation") / len(given[10]) > 0.75
    assert given[80].count("Water") / len(given[80]) > 0.75
    assert "Water" not in given["land"] and "Snow" not in given["land"]


def test_same_names_are_numbered_and_names_of_others_left_alone():
    kinds = [("Water",), ("Bare soil",), ("Bare soil",), (), ("Bare soil", "Built-up")]
    legend = named_classes([Suggestion(names, "", {}) for names in kinds], range(1, 6))
    assert [each.name for each in legend] == ["Water", "Bare soil 1", "Bare soil 2", "Cluster 4", "Bare soil or built-up"]
    more = named_classes([Suggestion(("Water",), "", {}), Suggestion(("Bare soil",), "", {})], (6, 7), legend)
    assert [each.name for each in more] == ["Water 1", "Bare soil 3"]
    assert not {each.rgb for each in more} & {each.rgb for each in legend}


@pytest.mark.parametrize("others", [[], ["Bare soil"] * 3, ["Snow", "Shadow", ""], ["Dense vegetation"] * 2 + ["Sparse vegetation"] * 4])
def test_the_colour_goes_with_the_name(others):
    """Water is the same blue whatever else is in the map."""
    for place in range(len(others) + 1):
        kinds = [*others[:place], "Water", *others[place:]]
        legend = named_classes([Suggestion((name,) if name else (), "", {}) for name in kinds], range(1, len(kinds) + 1))
        assert legend[place].rgb == TONES["Water"][0]
        assert len({each.rgb for each in legend}) == len(legend)


@pytest.mark.parametrize("name", TONES)
def test_no_class_gets_a_colour_of_another_name(name):
    legend = named_classes([Suggestion((name,), "", {})] * 12, range(1, 13))
    foreign = {rgb for other, tones in TONES.items() if other != name for rgb in tones}
    assert not {each.rgb for each in legend} & foreign and len({each.rgb for each in legend}) == 12


@pytest.fixture
def scene(tmp_path):
    """Water, forest and soil in stripes, six bands, 60 x 90."""
    rng = np.random.default_rng(2)
    spectra = np.array([(500, 450, 300, 200, 100, 80), (300, 600, 300, 4200, 2300, 1100), (1200, 1700, 2400, 3000, 4100, 3500)])
    planted = np.arange(3).repeat(30)[None].repeat(60, 0)
    data = (spectra[planted].transpose(2, 0, 1) + rng.normal(0, 15, (6, 60, 90))).round().astype(np.uint16)
    data[:, :3, :4] = 0
    return write_raster(tmp_path / "scene.tif", data, names=SIX, scale=(0.0001, 0))


def all_outputs(folder, stem="o"):
    return ClusterOutputs(*(str(folder / f"{stem}{ending}") for ending in (".tif", ".json", ".csv", ".html", "_c.tif", ".gpkg")))


def test_names_reach_every_output(scene, tmp_path):
    out = all_outputs(tmp_path)
    report = run_clustering(scene, out, ClusterOptions(n_clusters=3), Progress())
    names = ["Water", "Dense vegetation", "Bare soil"]
    assert [each.name for each in report.legend] == names
    assert [each["name"] for each in json.loads(open(out.model).read())["classes"]] == names
    rows = list(csv.DictReader(open(out.table)))
    assert [row["name"] for row in rows] == [row["suggested_name"] for row in rows] == names
    assert [row["ambiguous"] for row in rows] == ["no"] * 3 and all(row["evidence"].startswith("NDVI") for row in rows)
    band = gdal.Open(out.raster)
    band.GetGeoTransform()
    assert band.GetRasterBand(1).GetRasterCategoryNames() == ["No data", *names]
    page = open(out.html).read()
    assert all(row["evidence"] in page for row in rows)


def test_a_table_of_the_user_replaces_names_and_colours(scene, tmp_path, messages):
    first = all_outputs(tmp_path)
    run_clustering(scene, first, ClusterOptions(n_clusters=3), Progress())
    edited = open(first.table).read().replace("1,Water,#332288", "1,Lago di “Bled” <b>,#0102ff").replace("3,Bare soil,", "3,Acker; Brache,")
    (tmp_path / "mine.csv").write_text(edited, encoding="utf-8-sig")
    second = all_outputs(tmp_path, "p")
    table = str(tmp_path / "mine.csv")
    report = run_clustering(scene, second, ClusterOptions(n_clusters=3), messages.progress, class_table=table)
    assert [each.name for each in report.legend] == ["Lago di “Bled” <b>", "Dense vegetation", "Acker; Brache"]
    assert [each.hex for each in report.legend] == ["#0102ff", "#117733", "#ddcc77"]
    np.testing.assert_array_equal(read(first.raster), read(second.raster))
    page = open(second.html).read()
    assert "Lago di “Bled” &lt;b&gt;" in page and "<b>,#" not in page and 'value="1" label="Lago di' in (tmp_path / "p.qml").read_text()
    assert not messages.warnings


@pytest.mark.parametrize("text", ["code;name\n1;See\n", "Name\tCODE\tcolour\nSee\t 1\t\n", "code,name,color\r\n1,See,#aabbcc\r\n"])
def test_tables_as_spreadsheets_write_them(tmp_path, text):
    (tmp_path / "t.csv").write_bytes(text.encode())
    assert read_class_table(str(tmp_path / "t.csv")) == {1: ("See", (170, 187, 204) if "#" in text else None)}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "no columns code and name"),
        (b"1,Water\n", "no columns"),
        (b"code,name\nx,Water\n", "x is no class code.*line 2"),
        (b"code,name\n1,Water\n\n1,Lake\n", "code 1 is there twice.*line 4"),
        (b"code,name\n1,\n", "class 1 has no name.*line 2"),
        (b'code,name\n1,"Water\n2,Soil\n', "cannot be read .unexpected end of data.*line"),
        (b"code,name\n1," + 200_000 * b"x" + b"\n", "cannot be read .field larger"),
        (b"code,name\n1\n", "line 2"),
        (b"code,name,color\n1,Water,blue\n", "blue is no colour"),
        (b"code,name\n1,\xe4\n", "not UTF-8"),
        (b"x" * 2_000_000, "too large"),
        (None, "cannot be read"),
    ],
)
def test_a_wrong_table_is_one_sentence_and_no_file(scene, tmp_path, text, said):
    folder = tmp_path / "out"
    folder.mkdir()
    if text is not None:
        (tmp_path / "t.csv").write_bytes(text)
    with pytest.raises(EngineError, match=said):
        run_clustering(scene, all_outputs(folder), ClusterOptions(n_clusters=3), Progress(), class_table=str(tmp_path / "t.csv"))
    assert list(folder.iterdir()) == []


def test_a_table_with_a_code_that_the_map_lacks_warns(tmp_path, messages):
    (tmp_path / "t.csv").write_text("code,name\n2,Lake\n9,Sea\n")
    legend = renamed([LegendClass(1, "A", (1, 2, 3)), LegendClass(2, "B", (4, 5, 6))], str(tmp_path / "t.csv"), messages.progress)
    assert [(each.name, each.rgb) for each in legend] == [("A", (1, 2, 3)), ("Lake", (4, 5, 6))]
    assert "9" in messages.warnings[0]


def test_separability_by_integration():
    """JM = 2 (1 - integral of sqrt(p q)), here numerically for normal distributions of one feature."""
    means, deviations = np.array([0.0, 1.5, 1.5]), np.array([1.0, 0.4, 2.0])
    found = jeffries_matusita(means[:, None], (deviations**2)[:, None, None])
    x = np.linspace(-20, 20, 400_001)
    densities = [norm.pdf(x, m, s) for m, s in zip(means, deviations)]
    for i in range(3):
        for j in range(3):
            overlap = np.sqrt(densities[i] * densities[j]).sum() * (x[1] - x[0])
            assert found[i, j] == pytest.approx(2 * (1 - overlap), abs=1e-6)


def test_report_and_its_csv_downloads_have_the_figures(scene, tmp_path):
    out = all_outputs(tmp_path)
    report = run_clustering(scene, out, ClusterOptions(k_max=5), Progress())
    page = open(out.html).read()
    assert "http://" not in page and "https://" not in page and "<script" not in page
    links = dict(re.findall(r'download="(\w+)\.csv" href="data:text/csv;charset=utf-8;base64,([^"]+)"', page))
    tables = {name: list(csv.reader(io.StringIO(base64.b64decode(text).decode()))) for name, text in links.items()}
    assert set(tables) == {"spectra", "separability", "run", "number_of_clusters"}
    model = json.loads(open(out.model).read())
    assert [float(v) for v in tables["spectra"][1][2:]] == [each["center"][0] for each in model["classes"]]
    run = dict(tables["run"])
    assert float(run["inertia"]) == report.inertia and float(run["wall_s"]) > 0 and float(run["cpu_s"]) > 0 and float(run["peak_mb"]) > 50
    assert [row[0] for row in tables["number_of_clusters"]] == ["n_clusters", "2", "3", "4", "5"]
    rows = list(csv.DictReader(open(out.table)))
    shown = np.array(tables["separability"])[1:, 1:].astype(float)
    for number, row in enumerate(rows):
        others = np.delete(shown[number], number)
        assert float(row["jeffries_matusita"]) == pytest.approx(others.min(), abs=1e-6)
        assert shown[number, int(row["most_similar_code"]) - 1] == others.min()
    assert "Separability of the clusters" in page and "Peak memory" in page


def test_cost_counts_time_and_work():
    watch = Stopwatch()
    total = 0
    while watch.cost().cpu_s < 0.05:
        total += sum(range(1000))
    time.sleep(0.05)
    cost = watch.cost()
    assert cost.wall_s >= 0.05 and 0.05 <= cost.cpu_s < 5 and cost.peak_mb > 20


LEGEND = [LegendClass(code, f"C{code} <&\"'>", (20 * code, 90, 250 - 20 * code)) for code in range(1, 6)]


@pytest.fixture
def noisy(tmp_path):
    """A class raster with large fields, much salt and pepper, holes of nodata and an island: (path, codes)."""
    rng = np.random.default_rng(6)
    codes = rng.integers(1, 5, (10, 9)).repeat(20, 0).repeat(20, 1).astype(np.uint8)
    codes = np.where(rng.random(codes.shape) < 0.3, rng.integers(1, 5, codes.shape), codes).astype(np.uint8)
    codes[:60, :60] = 0
    codes[20:24, 20:25] = 5
    codes[rng.random(codes.shape) < 0.01] = 0
    return write_raster(tmp_path / "codes.tif", codes[None], options=["TILED=YES", "BLOCKXSIZE=32", "BLOCKYSIZE=32"]), codes


def polygons_of(path):
    """code -> (attributes, geometry) of a GeoPackage written by the plugin."""
    source = ogr.Open(str(path))
    return {feature["code"]: (feature.items(), feature.geometry().Clone()) for feature in source.GetLayer(0)}


def test_polygons_of_every_pixel(noisy, tmp_path):
    """Without a smallest area they are the pixels: pieces counted by SciPy, area by class."""
    source, codes = noisy
    with OutputFiles([source]) as files:
        write_polygons(source, str(tmp_path / "p.gpkg"), files, LEGEND, 0, Progress())
    found = polygons_of(tmp_path / "p.gpkg")
    assert set(found) == {1, 2, 3, 4, 5}
    for code, (items, geometry) in found.items():
        assert items == {"code": code, "name": f"C{code} <&\"'>", "hectares": pytest.approx(0.01 * (codes == code).sum())}
        assert geometry.GetGeometryCount() == ndimage.label(codes == code)[1]
        assert geometry.GetArea() == pytest.approx(100 * (codes == code).sum()) and geometry.IsValid()
    assert ogr.Open(str(tmp_path / "p.gpkg")).GetLayer(0).GetSpatialRef().GetAuthorityCode(None) == "32633"


def test_polygons_have_no_piece_below_the_smallest_area(noisy, tmp_path, messages):
    source, codes = noisy
    with OutputFiles([source]) as files:
        write_polygons(source, str(tmp_path / "p.gpkg"), files, LEGEND, 0.5, messages.progress)
    found = polygons_of(tmp_path / "p.gpkg")
    # the island of class 5 has 20 pixels, and only nodata around it
    assert set(found) == {1, 2, 3, 4} and any("Islands of less than 0.5 ha, 0.20 ha together" in text for text in messages.infos)
    for items, geometry in found.values():
        pieces = [geometry.GetGeometryRef(i).GetArea() for i in range(geometry.GetGeometryCount())]
        assert min(pieces) >= 5000 and geometry.IsValid()
        assert items["hectares"] == pytest.approx(sum(pieces) / 1e4)
    whole = sum(geometry.GetArea() for _, geometry in found.values())
    assert whole == pytest.approx(100 * ((codes > 0) & (codes != 5)).sum()), "what is too small has gone to its neighbours"


def sieved_by_hand(codes, min_px):
    """Reference: pieces by SciPy, the smallest goes to its largest neighbour until all are large enough; islands go."""
    codes = codes.copy()
    while True:
        labels, sizes, owner = np.zeros(codes.shape, int), [0], [0]
        for code in np.unique(codes[codes > 0]):
            marked, n = ndimage.label(codes == code)
            labels[marked > 0] = marked[marked > 0] + len(sizes) - 1
            sizes += np.bincount(marked.ravel())[1:].tolist()
            owner += [code] * n
        small = [i for i in range(1, len(sizes)) if sizes[i] < min_px]
        if not small:
            return codes
        piece = min(small, key=lambda i: sizes[i])
        ring = ndimage.binary_dilation(labels == piece) & (labels != piece) & (labels > 0)
        neighbours = np.unique(labels[ring])
        codes[labels == piece] = owner[max(neighbours, key=lambda i: sizes[i])] if len(neighbours) else 0


@pytest.mark.parametrize("case", ["fields", "island", "noise"])
def test_small_pieces_without_large_neighbours_are_merged(tmp_path, messages, case):
    """Where GDAL's own sieve does nothing: equal fields below the limit, an island of two small pieces, noise only."""
    rng = np.random.default_rng(3)
    codes = np.zeros((60, 60), np.uint8)
    if case == "fields":
        codes[:] = (np.add.outer(np.arange(60) // 6, np.arange(60) // 6 * 2) % 3 + 1).astype(np.uint8)
    elif case == "island":
        codes[10:16, 10:15], codes[10:16, 15:21], codes[40:42, 40:42] = 1, 2, 3
    else:
        codes[:] = rng.integers(1, 4, codes.shape)
    source = write_raster(tmp_path / "c.tif", codes[None])
    with OutputFiles([source]) as files:
        write_polygons(source, str(tmp_path / "p.gpkg"), files, LEGEND, 0.5, messages.progress)
    found = polygons_of(tmp_path / "p.gpkg")
    pieces = [g.GetGeometryRef(i).GetArea() for _, g in found.values() for i in range(g.GetGeometryCount())]
    assert min(pieces) >= 5000 and all(g.IsValid() for _, g in found.values())
    kept = np.count_nonzero(codes) - (4 if case == "island" else 0)
    assert sum(pieces) == pytest.approx(100 * kept)
    assert sum(items["hectares"] for items, _ in found.values()) == pytest.approx(0.01 * kept)
    if case == "island":
        assert set(found) == {2} and set(np.unique(sieved_by_hand(codes, 50))) == {0, 2}
        assert any("0.04 ha together" in text for text in messages.infos)


def test_merging_by_hand():
    """Four pieces in a row of 3, 4, 10 and 2 pixels, and an island of 1; none may be smaller than 5."""
    codes, pixels = np.array([1, 2, 3, 1, 2]), np.array([3, 4, 10, 2, 1])
    neighbours = np.array([(1, 2), (2, 3), (3, 4)])
    # 4 (2 px) goes to 3; 1 (3 px) to 2, which is large enough then
    assert merge_small(codes, pixels, neighbours, 5).tolist() == [0, 2, 2, 3, 3, 0]
    assert merge_small(codes, pixels, neighbours, 8).tolist() == [0, 3, 3, 3, 3, 0]


def test_smallest_area_of_a_giant_is_no_overflow(tmp_path, messages):
    source = write_raster(tmp_path / "c.tif", np.ones((1, 9, 9), np.uint8), transform=(0, 0.01, 0, 0, 0, -0.01))
    with OutputFiles([source]) as files:
        write_polygons(source, str(tmp_path / "p.gpkg"), files, LEGEND[:1], 1e6, messages.progress)
    assert polygons_of(tmp_path / "p.gpkg") == {} and messages.warnings


@pytest.mark.parametrize("name", ["gpkg_contents", "layer_styles", "sqlite_x", "ünicode 1", "rtree_"])
def test_any_file_name_makes_a_layer(tmp_path, name):
    source = write_raster(tmp_path / "c.tif", np.ones((1, 9, 9), np.uint8))
    with OutputFiles([source]) as files:
        write_polygons(source, str(tmp_path / f"{name}.gpkg"), files, LEGEND[:1], 0, Progress())
    assert set(polygons_of(tmp_path / f"{name}.gpkg")) == {1}


def test_other_layers_of_a_geopackage_are_not_lost(scene, tmp_path):
    target = tmp_path / "mine.gpkg"
    dataset = ogr.GetDriverByName("GPKG").CreateDataSource(str(target))
    dataset.CreateLayer("parcels", None, ogr.wkbPoint)
    dataset = None
    before = target.read_bytes()
    with pytest.raises(EngineError, match=r"other layers \(parcels\).*new file"):
        run_clustering(scene, ClusterOutputs(str(tmp_path / "o.tif"), polygons=str(target)), ClusterOptions(n_clusters=3), Progress())
    assert target.read_bytes() == before and not (tmp_path / "o.tif").exists()
    own = ClusterOutputs(str(tmp_path / "o.tif"), polygons=str(tmp_path / "own.gpkg"))
    for _ in range(2):  # its own file may be replaced
        run_clustering(scene, own, ClusterOptions(n_clusters=3), Progress())
    assert len(polygons_of(tmp_path / "own.gpkg")) == 3


def test_polygons_in_degrees_have_the_hectares_of_the_ellipsoid(tmp_path):
    codes = np.ones((1, 400, 300), np.uint8)
    codes[0, 200:] = 2
    source = write_raster(tmp_path / "d.tif", codes, epsg=4326, transform=(10, 0.001, 0, 60, 0, -0.001))
    with OutputFiles([source]) as files:
        write_polygons(source, str(tmp_path / "p.gpkg"), files, LEGEND[:2], 1, Progress())
    found = polygons_of(tmp_path / "p.gpkg")
    # 0.3 degrees between the parallels 60, 59.8 and 59.6: authalic sphere, radius 6371.0072 km, with authalic latitudes to first order
    for code, top in ((1, 60.0), (2, 59.8)):
        bounds = [np.radians(lat - 0.1282 * np.sin(2 * np.radians(lat))) for lat in (top, top - 0.2)]
        expected = 6371007.2**2 * np.radians(0.3) * (np.sin(bounds[0]) - np.sin(bounds[1])) / 1e4
        assert found[code][0]["hectares"] == pytest.approx(expected, rel=2e-4)


def test_cancel_while_polygons_are_made_leaves_nothing(noisy, tmp_path):
    source, _ = noisy
    folder = tmp_path / "out"
    folder.mkdir()

    def make(watcher):
        with OutputFiles([source]) as files:
            write_polygons(source, str(folder / "p.gpkg"), files, LEGEND, 0.5, watcher.progress)

    whole = Messages()
    make(whole)
    (folder / "p.gpkg").unlink()
    for stop in range(0, whole.asked, 7):
        with pytest.raises(Cancelled):
            make(Messages(cancel_after=stop))
        assert list(folder.iterdir()) == []


def test_a_fault_while_polygons_are_written_is_one_sentence_of_the_users_folder(noisy, tmp_path, monkeypatch):
    """A commit that fails, as on a full disk: after the work, and while another error is on its way."""
    source, _ = noisy
    folder = tmp_path / "out"
    folder.mkdir()

    def full(self):
        gdal.Error(gdal.CE_Failure, gdal.CPLE_FileIO, "disk full")
        raise RuntimeError("disk full")

    monkeypatch.setattr(gdal.Dataset, "CommitTransaction", full)
    first = Messages()
    with pytest.raises(EngineError, match="disk full") as caught, OutputFiles([source]) as files:
        write_polygons(source, str(folder / "p.gpkg"), files, LEGEND, 0.5, first.progress)
    assert f": {folder}; free some disk space" in str(caught.value) and list(folder.iterdir()) == []
    last = Messages(cancel_after=first.asked - 1)  # the last question before the commit
    with pytest.raises(Cancelled), OutputFiles([source]) as files:
        write_polygons(source, str(folder / "p.gpkg"), files, LEGEND, 0.5, last.progress)
    assert list(folder.iterdir()) == []


def test_polygons_go_into_a_geopackage(scene, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    outputs = ClusterOutputs(str(folder / "o.tif"), polygons=str(folder / "p.shp"))
    with pytest.raises(EngineError, match=r"must be a GeoPackage.*\.gpkg"):
        run_clustering(scene, outputs, ClusterOptions(n_clusters=3), Progress())
    assert list(folder.iterdir()) == []


def test_polygons_of_a_map_smaller_than_the_smallest_area_are_empty_with_a_warning(tmp_path, messages):
    source = write_raster(tmp_path / "c.tif", np.ones((1, 5, 5), np.uint8))
    with OutputFiles([source]) as files:
        write_polygons(source, str(tmp_path / "p.gpkg"), files, LEGEND[:1], 1, messages.progress)
    assert polygons_of(tmp_path / "p.gpkg") == {} and any("smaller MIN_AREA_HA" in text for text in messages.warnings)


def test_haze_leaves_soil_and_built_up_undecided():
    """With B10 in the raster the reflectance is that at the top of the atmosphere."""
    town = np.array([[0.17, 0.18, 0.20, 0.24, 0.25, 0.22]])
    features = [Feature(name) for name in SIX]
    assert suggest(features, town)[0].text == "Built-up"
    assert set(suggest(features, town, hazy=True)[0].names) == {"Bare soil", "Built-up"}


def test_thin_cloud_is_not_built_up():
    """Mean of the cluster that ESA's classification calls cloud (86 %) in the 33TWM scene of 18 August 2023; four bands."""
    assert name_of((0.36, 0.35, 0.34, 0.44), SIX[:4]).names[0] == "Cloud"
    assert "Cloud" in name_of((0.29, 0.28, 0.28, 0.34), SIX[:4]).names


def test_bands_told_by_a_map_are_known_to_the_names(scene, tmp_path):
    """A file without band names, and the B10 that only its description tells."""
    data = read(scene)[:4]
    plain = write_raster(tmp_path / "plain.tif", data, scale=(0.0001, 0))
    options = ClusterOptions(n_clusters=3, band_map="blue=1,green=2,red=3,nir=4")
    report = run_clustering(plain, ClusterOutputs(str(tmp_path / "o.tif")), options, Progress())
    assert [each.name for each in report.legend] == ["Water", "Dense vegetation", "Bare soil"]
    hazy = write_raster(tmp_path / "hazy.tif", np.concatenate([read(scene), read(scene)[:1]]), names=[*SIX, "B10"], scale=(0.0001, 0))
    report = run_clustering(hazy, ClusterOutputs(str(tmp_path / "o.tif")), ClusterOptions(n_clusters=3, bands=SIX), Progress())
    assert set(report.suggestions[2].names) == {"Bare soil", "Built-up"}


@pytest.mark.parametrize("name", ["Cost $x_{$", "_hidden", "x" * 5000, "Wa\x07ter\uffff", "two\nlines", "<b>&amp;\"'"])
def test_odd_names_reach_every_output(scene, tmp_path, name):
    with open(tmp_path / "t.csv", "w", newline="") as file:
        csv.writer(file).writerows([("code", "name"), (1, name)])
    out = all_outputs(tmp_path)
    report = run_clustering(scene, out, ClusterOptions(n_clusters=3), Progress(), class_table=str(tmp_path / "t.csv"))
    shown = report.legend[0].name
    assert shown == " ".join(name.replace("\x07", " ").replace("\uffff", "").split())[:100]
    style = ElementTree.parse(tmp_path / "o.qml")
    assert style.find(".//paletteEntry").get("label") == shown
    source = ogr.Open(out.polygons)
    styles = source.GetLayerByName("layer_styles").GetNextFeature()["styleQML"]
    assert ElementTree.fromstring(styles).find(".//category").get("label") == shown
    assert polygons_of(out.polygons)[1][0]["name"] == shown
    assert next(csv.DictReader(open(out.table)))["name"] == shown
    assert load_model(out.model).legend[0].name == shown


def test_a_table_that_the_run_reads_is_not_replaced(scene, tmp_path):
    (tmp_path / "t.csv").write_text("code,name\n1,Lake\n")
    out = ClusterOutputs(str(tmp_path / "o.tif"), table=str(tmp_path / "t.csv"))
    with pytest.raises(EngineError, match="output is one of the inputs"):
        run_clustering(scene, out, ClusterOptions(n_clusters=3), Progress(), class_table=str(tmp_path / "t.csv"))
    assert (tmp_path / "t.csv").read_text() == "code,name\n1,Lake\n"


def test_two_classes_of_one_colour_warn(scene, tmp_path, messages):
    (tmp_path / "t.csv").write_text("code,name,color\n3,Acker,#332288\n")
    out = ClusterOutputs(str(tmp_path / "o.tif"))
    run_clustering(scene, out, ClusterOptions(n_clusters=3), messages.progress, class_table=str(tmp_path / "t.csv"))
    assert any("1 Water and 3 Acker have the same colour" in text for text in messages.warnings)


def test_a_raster_without_crs_warns(scene, tmp_path, messages):
    plain = write_raster(tmp_path / "plain.tif", read(scene), names=SIX, scale=(0.0001, 0), epsg=None)
    run_clustering(plain, ClusterOutputs(str(tmp_path / "o.tif")), ClusterOptions(n_clusters=3), messages.progress)
    assert any("no coordinate reference system" in text for text in messages.warnings)
