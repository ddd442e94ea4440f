"""Searching a pgstac server, which has the query, filter and sort extensions and pages by token (make test-pgstac)."""

from __future__ import annotations

import os

import pytest
import requests

from s2landcover_plugin.engine.crs import Aoi
from s2landcover_plugin.engine.progress import Progress
from s2landcover_plugin.engine.stac import SearchOptions, find_scenes

from .pgstac_items import N_ITEMS, item

pytestmark = pytest.mark.pgstac
AOI = Aoi("EPSG:4326", (10.2, 46.2, 10.8, 46.8))


@pytest.fixture
def api():
    if "PGSTAC_URL" not in os.environ:
        pytest.skip("no pgstac server (run make test-pgstac)")
    return os.environ["PGSTAC_URL"]


def expected(start, end, max_cloud):
    """Ids in the order that the items themselves say."""
    items = [item(i) for i in range(N_ITEMS)]
    kept = []
    for each in items:
        properties = each["properties"]
        cloud = properties.get("eo:cloud_cover", 100.0)
        if start <= properties["datetime"][:10] <= end and cloud <= max_cloud:
            kept.append((properties.get("eo:cloud_cover", 101.0), each["id"]))
    return [name for _, name in sorted(kept)]


def test_the_server_is_a_pgstac_with_extensions(api):
    conforms = requests.get(api, timeout=10).json()["conformsTo"]
    assert any("item-search#query" in c for c in conforms) and any("#sort" in c for c in conforms)


@pytest.mark.parametrize("max_cloud", [5, 20, 60, 99.5, 100])
@pytest.mark.parametrize(("start", "end"), [("2023-01-01", "2023-12-31"), ("2023-02-03", "2023-02-03"), ("2023-03-01", "2023-04-15")])
def test_search_equals_the_items_themselves(api, max_cloud, start, end):
    options = SearchOptions(stac_url=api, start_date=start, end_date=end, max_cloud_cover=max_cloud, limit=1000)
    found = find_scenes(options, AOI, Progress())
    assert sorted(s.id for s in found) == sorted(expected(start, end, max_cloud))
    clouds = [101.0 if s.cloud_cover is None else s.cloud_cover for s in found]
    assert clouds == sorted(clouds)


def test_scene_ids(api):
    found = find_scenes(SearchOptions(stac_url=api, scene_ids=("S2A_T32TPS_007", "S2A_T32TPS_100")), AOI, Progress())
    assert {s.id for s in found} == {"S2A_T32TPS_007", "S2A_T32TPS_100"}
