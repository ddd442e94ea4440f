"""Spectral indices: published formulas, a user's own, undefined pixels, and what is no formula."""

from __future__ import annotations

import re

import numpy as np
import pytest
from osgeo import gdal

from s2landcover_plugin.engine import indices
from s2landcover_plugin.engine.errors import EngineError
from s2landcover_plugin.engine.index_table import INDICES
from s2landcover_plugin.engine.progress import Progress
from s2landcover_plugin.engine.spectral import run_indices

from .conftest import read, write_raster

NAMES = ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12"]


def nd(a, b):
    return (a - b) / (a + b)


def expected_indices(a, b, g, r, e1, e2, e3, n, n2, s1, s2):
    """All indices written again from their papers; arguments are the reflectances of NAMES in order."""
    eta = (2 * (n * n - r * r) + 1.5 * n + 0.5 * r) / (n + r + 0.5)
    return {
        "NDVI": nd(n, r),
        "EVI": 2.5 * (n - r) / (1 + n + 6 * r - 7.5 * b),
        "EVI2": 2.5 * (n - r) / (1 + n + 2.4 * r),
        "SAVI": (n - r) / (n + r + 0.5) * 1.5,
        "MSAVI": 0.5 * (2 * n + 1 - np.sqrt((2 * n + 1) ** 2 - 8 * (n - r))),
        "OSAVI": (n - r) / (0.16 + n + r),
        "ARVI": nd(n, r - (b - r)),
        "GNDVI": nd(n, g),
        "DVI": n - r,
        "SR": n / r,
        "MSR": (n / r - 1) / np.sqrt(n / r + 1),
        "WDRVI": nd(0.2 * n, r),
        "GEMI": eta * (1 - eta / 4) - (r - 0.125) / (1 - r),
        "NIRV": nd(n, r) * n,
        "TVI": 0.5 * (120 * (n - g) - 200 * (r - g)),
        "CVI": n * r / (g * g),
        "VARI": (g - r) / (g + r - b),
        "GLI": ((g - r) + (g - b)) / (2 * g + r + b),
        "NGRDI": nd(g, r),
        "NDYI": nd(g, b),
        "CIG": (n - g) / g,
        "CIRE": (e3 - e1) / e1,
        "NDRE": nd(n2, e1),
        "RENDVI": nd(e2, e1),
        "MTCI": (e2 - e1) / (e1 - r),
        "MCARI": (0.8 * e1 - r + 0.2 * g) * e1 / r,
        "TCARI": 3 * (e1 - r) - 0.6 * (e1 - g) * e1 / r,
        "IRECI": (e3 - r) / (e1 / e2),
        "S2REP": 705 + 35 * ((e3 + r) / 2 - e1) / (e2 - e1),
        "PSRI": (r - b) / e2,
        "SIPI": (n - a) / (n - r),
        "NDWI": nd(g, n),
        "MNDWI": nd(g, s1),
        "AWEINSH": 4 * g - 4 * s1 - 0.25 * n - 2.75 * s2,
        "AWEISH": b + 2.5 * g - 1.5 * n - 1.5 * s1 - 0.25 * s2,
        "WI2015": 1.7204 + 171 * g + 3 * r - 70 * n - 45 * s1 - 71 * s2,
        "WRI": (r + g) / (s1 + n),
        "SWM": (b + g) / (s1 + n),
        "NDTI": nd(r, g),
        "NDPI": nd(s1, g),
        "NDCI": nd(e1, r),
        "NDMI": nd(n, s1),
        "MSI": s1 / n,
        "GVMI": nd(n + 0.1, s2 + 0.02),
        "NMDI": nd(n, s1 - s2),
        "NDBI": nd(s1, n),
        "UI": nd(s2, n),
        "BSI": nd(s1 + r, n + b),
        "DBSI": nd(s1, g) - nd(n, r),
        "NDSOI": nd(s2, g),
        "BI": np.sqrt((r * r + g * g) / 2),
        "NBR": nd(n, s2),
        "NBR2": nd(s1, s2),
        "MIRBI": 10 * s2 - 9.8 * s1 + 2,
        "BAI": 1 / ((r - 0.1) ** 2 + (n - 0.06) ** 2),
        "BAIS2": (1 - np.sqrt(e2 * e3 * n2 / r)) * ((s2 - n2) / np.sqrt(s2 + n2) + 1),
        "CSI": n / s2,
        "NDSI": nd(g, s1),
        "S3": n * (r - s1) / ((n + r) * (n + s1)),
    }


def test_published_indices_equal_their_papers(tmp_path):
    rng = np.random.default_rng(2)
    data = rng.integers(50, 6000, (len(NAMES), 24, 21)).astype(np.uint16)
    source = write_raster(tmp_path / "s.tif", data, names=NAMES, scale=(0.0001, 0))
    expected = expected_indices(*(data * 0.0001))
    assert list(expected) == [index.name for index in INDICES]
    run_indices(source, list(expected), "", str(tmp_path / "i.tif"), Progress())
    dataset = gdal.Open(str(tmp_path / "i.tif"))
    for number, (name, values) in enumerate(expected.items(), 1):
        band = dataset.GetRasterBand(number)
        assert band.GetDescription() == name
        np.testing.assert_allclose(band.ReadAsArray(), np.where(np.isfinite(values), values, -9999), rtol=1e-4, atol=1e-5, err_msg=name)


def test_every_index_has_title_range_and_dated_source():
    assert len(INDICES) >= 40 and len({index.name for index in INDICES}) == len(INDICES)
    for index in INDICES:
        assert index.title and index.range
        assert re.search(r"(19[6-9]|20[0-2])\d", index.source) or "USGS" in index.source


@pytest.mark.parametrize("text", ["MINE = (nir - red) / nir", "MINE=(B08-b04)/B08"])
def test_formula_of_the_user(tmp_path, text):
    data = np.array([[[1000, 2000]], [[4000, 0]]], np.uint16)
    source = write_raster(tmp_path / "s.tif", data, names=["B04", "B08"], scale=(0.0001, 0))
    run_indices(source, ("NDVI", text), "", str(tmp_path / "i.tif"), Progress())
    np.testing.assert_allclose(read(tmp_path / "i.tif")[:, 0], [[0.6, -9999], [0.75, -9999]], rtol=1e-6)
    assert gdal.Open(str(tmp_path / "i.tif")).GetRasterBand(2).GetDescription() == "MINE"
    with pytest.raises(EngineError, match="NDVI is no name"):
        run_indices(source, ("NDVI = nir",), "", str(tmp_path / "e.tif"), Progress())
    with pytest.raises(EngineError, match="The index NDXX is not known"):
        run_indices(source, ("NDXX",), "", str(tmp_path / "e.tif"), Progress())


def test_huge_powers_are_infinite_at_once():
    with np.errstate(all="ignore"):
        assert np.isinf(indices.Formula("nir + 9 ** 9 ** 9")({"nir": np.ones(2)})).all()


def test_division_by_zero_is_nodata_and_counted(tmp_path, messages):
    data = np.array([[[0.1, 0.5, 0.0]], [[-0.1, 0.3, 0.0]]], np.float32)
    source = write_raster(tmp_path / "s.tif", data, nodata=-9999, names=["B08", "B04"])
    assert run_indices(source, ("NDVI",), "", str(tmp_path / "i.tif"), messages.progress) == 2
    np.testing.assert_allclose(read(tmp_path / "i.tif")[0], [[-9999, 0.25, -9999]], rtol=1e-6)
    assert any("2 index values are undefined" in text for text in messages.warnings)


def test_band_map_names_the_bands_of_a_foreign_file(tmp_path):
    data = np.array([[[1000]], [[3000]]], np.uint16)
    source = write_raster(tmp_path / "s.tif", data, scale=(0.0001, 0))
    run_indices(source, ("NDVI",), "red=1, nir=2", str(tmp_path / "i.tif"), Progress())
    assert read(tmp_path / "i.tif")[0, 0, 0] == pytest.approx(0.5)
    for text, said in (("", "needs the band B08"), ("red=1,nir=9", "no band 9"), ("red", "cannot be read"), ("pink=1", "cannot be read")):
        with pytest.raises(EngineError, match=said):
            run_indices(source, ("NDVI",), text, str(tmp_path / "e.tif"), Progress())
    assert not (tmp_path / "e.tif").exists()


@pytest.mark.parametrize("text", ["__import__('os')", "nir.real", "nir if red else blue", "pink + 1", "nir +", "(lambda: 1)()", "'a'"])
def test_formulas_are_arithmetic_only(text):
    with pytest.raises(EngineError, match="formula"):
        indices.Formula(text)
