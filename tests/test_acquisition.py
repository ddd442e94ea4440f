"""When and how an image was taken: from STAC items, metadata and names."""

from __future__ import annotations

import json
from datetime import date

import pytest

from s2landcover_plugin.engine.acquisition import Acquisition, acquisition, differences, inherited, scene_facts

from .conftest import shared_data

PRODUCT = "S2A_MSIL2A_20230815T095031_N0509_R079_T33TWM_20230815T155057"


@pytest.mark.parametrize(
    ("file", "orbit", "sun"),
    [
        ("earth_search_33twm/S2A_33TWM_20230815_0_L2A/S2A_33TWM_20230815_0_L2A.json", "79", "54.95"),
        ("stac/pc_sentinel-2-l2a_35MNM_2020_13items.geojson", "78", "53.60"),
        ("stac/cdse_sentinel-2-l2a_T36NYH_20200322_N0500.json", "135", "65.92"),
    ],
)
def test_facts_of_real_items(file, orbit, sun):
    folder, _, name = file.partition("/")
    document = json.loads((shared_data(folder) / name).read_text())
    properties = (document["features"][0] if "features" in document else document)["properties"]
    facts = scene_facts([(properties, str(properties.get("s2:product_uri", "")))])
    assert facts == {"S2LC_RELATIVE_ORBIT": orbit, "S2LC_SUN_ELEVATION": sun}


def test_scenes_that_differ_state_no_orbit():
    first, second = {"sat:relative_orbit": 79, "view:sun_elevation": 50}, {"sat:relative_orbit": 122, "view:sun_elevation": 54}
    assert scene_facts([(first, ""), (second, "")]) == {"S2LC_SUN_ELEVATION": "52.00"}
    assert scene_facts([(first, ""), ({}, "")]) == {}


@pytest.mark.parametrize(
    ("path", "metadata", "day", "orbit"),
    [
        ("a.tif", {"S2LC_DATETIME": "2023-08-15T09:57:57Z"}, date(2023, 8, 15), None),
        ("a.tif", {"S2LC_SCENES": PRODUCT}, date(2023, 8, 15), 79),
        (f"{PRODUCT}_B04.tif", {}, date(2023, 8, 15), 79),
        ("scene_2023-08-15.tif", {"S2LC_RELATIVE_ORBIT": "22"}, date(2023, 8, 15), 22),
        ("S2A_33TWM_20230231_0_L2A.tif", {}, None, None),
        ("image_120230815.tif", {"S2LC_SUN_ELEVATION": "high"}, None, None),
    ],
)
def test_what_a_raster_tells(path, metadata, day, orbit):
    found = acquisition(f"/data/20200101/{path}", metadata)
    assert (found.day, found.relative_orbit, found.sun_elevation) == (day, orbit, None)


def test_differences_across_the_turn_of_the_year():
    winter, spring = Acquisition(date(2022, 12, 20), 79, 20.0), Acquisition(date(2023, 1, 25), 79, 29.0)
    assert differences(winter, spring) == [], "36 days and 9 degrees"
    assert len(differences(spring, winter)) == 1, "in the wrong order"
    assert differences(Acquisition(None, None, None), spring) == []


def test_rasters_inherit_what_is_known():
    assert inherited({"S2LC_SCENES": "a", "S2LC_SUN_ELEVATION": "50", "AREA_OR_POINT": "Area"}) == {
        "S2LC_SCENES": "a",
        "S2LC_SUN_ELEVATION": "50",
    }
