"""Finding Sentinel-2 scenes: any STAC API, an ItemCollection or a static catalog."""

from __future__ import annotations

import datetime as dt
import json
import re
import warnings
from dataclasses import dataclass
from typing import Any, Iterable, Iterator

from . import http, sentinel2
from .crs import Aoi, geometry_wkt
from .errors import EngineError
from .options import check_options, option
from .packages import require
from .progress import Progress

CATALOGS = {
    "earth-search": "https://earth-search.aws.element84.com/v1",
    "planetary-computer": "https://planetarycomputer.microsoft.com/api/stac/v1",
    "copernicus": "https://stac.dataspace.copernicus.eu/v1",
    "custom": "",
}
DEFAULT_COLLECTION = "sentinel-2-l2a"
PAGE_ITEMS = 100
MAX_ITEMS = 5000
"""A search that finds more is refused: it is a mistake in the dates or the area."""


@dataclass(frozen=True)
class SearchOptions:
    """Which scenes. Shared by the Processing dialog and the engine."""

    catalog: str = option("earth-search", "Catalog", "Where to look; custom uses the address below.", choices=tuple(CATALOGS))
    stac_url: str = option(
        "",
        "Other STAC catalog (URL or file)",
        "API root, ItemCollection or static catalog. When given, it is used whatever the catalog above is.",
    )
    collection: str = option("", "Collection", "Empty: sentinel-2-l2a.")
    start_date: str = ""
    end_date: str = ""
    max_cloud_cover: float = option(20.0, "Largest cloud cover (%)", "Of the whole scene, as the catalog states it.", min=0, max=100)
    limit: int = option(100, "Most scenes", "The least cloudy ones are kept.", min=1, max=MAX_ITEMS, advanced=True)
    scene_ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scene:
    """One STAC item, with what the plugin asks of it."""

    id: str
    datetime: str
    """ISO 8601, UTC."""
    cloud_cover: float | None
    """Percent of the whole scene; None where the catalog does not say."""
    platform: str
    tile: str
    baseline: str
    aoi_share: float
    """Share of the AOI inside the footprint, 0 to 1."""
    geometry: dict[str, Any]
    item: dict[str, Any]
    base: str
    """Address that relative hrefs refer to."""

    @property
    def properties(self) -> dict[str, Any]:
        """The item's properties."""
        return dict(self.item.get("properties") or {})

    def footprint_wkt(self) -> str:
        """The footprint in degrees as WKT."""
        return geometry_wkt(json.dumps(self.geometry))

    @property
    def product(self) -> str:
        """The SAFE product name where it is known, else the item's id."""
        return str(self.properties.get("s2:product_uri") or self.id)


@dataclass(frozen=True)
class BandAsset:
    """Where a band of a scene is."""

    band: str
    href: str
    asset: dict[str, Any]


def find_scenes(options: SearchOptions, aoi: Aoi, progress: Progress) -> list[Scene]:
    """Scenes that touch the AOI, least cloudy first; filtered and sorted here whatever the server did.

    Raises:
        EngineError: reversed dates, a catalog that cannot be reached or understood.
        Cancelled: the user asked to stop.
    """
    check_options(options)
    address = catalog_address(options)
    start, end = date_range(options)
    found = {}
    for item, base in _items(address, options, aoi, start, end, progress):
        scene = _scene(item, base, aoi)
        if scene is not None and _wanted(scene, options, start, end):
            found[(scene.item.get("collection"), scene.id)] = scene
    scenes = sorted(found.values(), key=least_cloudy)
    return scenes[: options.limit]


def least_cloudy(scene: Scene) -> tuple[float, str]:
    """Sort key: cloud cover (unknown last), then the newest."""
    cloud = 101.0 if scene.cloud_cover is None else scene.cloud_cover
    return cloud, "".join(chr(0x10FFFF - ord(c)) for c in scene.datetime)


def catalog_address(options: SearchOptions) -> str:
    """The address to search.

    Raises:
        EngineError: the catalog is `custom` without an address.
    """
    address = options.stac_url.strip() or CATALOGS[options.catalog]
    if not address:
        raise EngineError("No catalog is given", "CATALOG custom, STAC_URL", "write the address of a STAC API in STAC_URL")
    return address


def date_range(options: SearchOptions) -> tuple[str, str]:
    """First and last day as ISO dates, both included; empty: open.

    Raises:
        EngineError: not a date, or the last before the first.
    """
    days = []
    for name, text in (("START_DATE", options.start_date), ("END_DATE", options.end_date)):
        try:
            days.append(dt.date.fromisoformat(text[:10]).isoformat() if text else "")
        except ValueError as err:
            raise EngineError(f"{text!r} is not a date", name, "write it like 2023-08-15") from err
    if days[0] and days[1] and days[1] < days[0]:
        raise EngineError("The last date is before the first", f"START_DATE {days[0]}, END_DATE {days[1]}", "exchange the two")
    return days[0], days[1]


def _wanted(scene: Scene, options: SearchOptions, start: str, end: str) -> bool:
    if options.scene_ids:
        return scene.id in options.scene_ids
    day = scene.datetime[:10]
    if (start and day < start) or (end and day > end) or scene.aoi_share <= 0:
        return False
    cloud = 100.0 if scene.cloud_cover is None else scene.cloud_cover
    return cloud <= options.max_cloud_cover


def _items(
    address: str, options: SearchOptions, aoi: Aoi, start: str, end: str, progress: Progress
) -> Iterator[tuple[dict[str, Any], str]]:
    """Raw items with the address that their hrefs refer to."""
    document = http.read_json(address)
    if not isinstance(document, dict):
        raise EngineError("The catalog is not STAC", address, "give a STAC API, an ItemCollection or a static catalog")
    kind = document.get("type")
    if kind == "FeatureCollection":
        yield from ((item, _self_href(item, address)) for item in document.get("features", []))
    elif kind == "Feature":
        yield document, _self_href(document, address)
    elif kind in ("Catalog", "Collection") and (document.get("conformsTo") or _has_search(document)):
        yield from _search(address, options, aoi, start, end, progress)
    elif kind in ("Catalog", "Collection"):
        yield from _walk(document, address, progress, 0)
    else:
        raise EngineError("The catalog is not STAC", address, "give a STAC API, an ItemCollection or a static catalog")


def _has_search(document: dict[str, Any]) -> bool:
    return any(link.get("rel") == "search" for link in document.get("links") or [])


def _self_href(item: dict[str, Any], address: str) -> str:
    for link in item.get("links") or []:
        if link.get("rel") == "self" and http.is_url(str(link.get("href", ""))):
            return str(link["href"])
    return address


def _walk(document: dict[str, Any], address: str, progress: Progress, depth: int) -> Iterator[tuple[dict[str, Any], str]]:
    """Items of a static catalog, by its child and item links."""
    progress.check_cancelled()
    if depth > 8:
        raise EngineError("The static catalog is nested too deeply", address, "give the address of the collection itself")
    for link in document.get("links") or []:
        if link.get("rel") not in ("child", "item"):
            continue
        target = http.absolute(str(link.get("href")), address)
        if http.is_url(address) and not http.is_url(target):
            raise EngineError("The catalog names a file of this machine, which a remote catalog must not do", target, "use another catalog")
        inner = http.read_json(target)
        if inner.get("type") == "Feature":
            yield inner, target
        else:
            yield from _walk(inner, target, progress, depth + 1)


def _search(
    address: str, options: SearchOptions, aoi: Aoi, start: str, end: str, progress: Progress
) -> Iterator[tuple[dict[str, Any], str]]:
    """Page through an API search; what the server does not advertise is not sent."""
    client_module, errors = require("pystac_client"), require("pystac_client.exceptions")
    requests = require("requests")
    failures = (errors.APIError, requests.RequestException, require("pystac").STACError, ValueError, KeyError)
    count = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transport = http.stac_io()
        try:
            client = client_module.Client.open(address, stac_io=transport)
            search = client.search(**_query(client, options, aoi, start, end))
            for page in search.pages_as_dicts():
                progress.check_cancelled()
                for item in page.get("features", []):
                    count += 1
                    yield item, _self_href(item, address)
                if count > MAX_ITEMS:
                    raise EngineError(f"More than {MAX_ITEMS} scenes match", address, "narrow the dates or the area")
        except failures as err:
            raise http.unreachable(err, address) from err
        finally:
            transport.session.close()


def _query(client: Any, options: SearchOptions, aoi: Aoi, start: str, end: str) -> dict[str, Any]:
    conformance = require("pystac_client.conformance").ConformanceClasses
    query: dict[str, Any] = {"collections": [options.collection or DEFAULT_COLLECTION], "limit": PAGE_ITEMS}
    if options.scene_ids:
        return {**query, "ids": list(options.scene_ids)}
    query["bbox"] = list(aoi.lonlat_bounds())
    if start or end:
        query["datetime"] = f"{start + 'T00:00:00Z' if start else '..'}/{end + 'T23:59:59.999Z' if end else '..'}"
    if options.max_cloud_cover < 100:
        if client.conforms_to(conformance.QUERY):
            query["query"] = {"eo:cloud_cover": {"lte": options.max_cloud_cover}}
        elif client.conforms_to(conformance.FILTER):
            query["filter_lang"] = "cql2-json"
            query["filter"] = {"op": "<=", "args": [{"property": "eo:cloud_cover"}, options.max_cloud_cover]}
    if client.conforms_to(conformance.SORT):
        query["sortby"] = [{"field": "properties.eo:cloud_cover", "direction": "asc"}]
    return query


def _scene(item: dict[str, Any], base: str, aoi: Aoi) -> Scene | None:
    properties, geometry = item.get("properties") or {}, item.get("geometry")
    when = properties.get("datetime") or properties.get("start_datetime")
    if not item.get("id") or not geometry or not when:
        return None
    cloud = properties.get("eo:cloud_cover")
    tile_texts = (properties.get("s2:mgrs_tile"), properties.get("grid:code"), properties.get("s2:product_uri"), item["id"])
    baseline = properties.get("s2:processing_baseline") or properties.get("processing:version")
    product = str(properties.get("s2:product_uri") or item["id"])
    return Scene(
        str(item["id"]),
        str(when),
        float(cloud) if isinstance(cloud, (int, float)) else None,
        str(properties.get("platform") or ""),
        next((tile for text in tile_texts if text and (tile := sentinel2.tile_in(str(text)))), ""),
        str(baseline or sentinel2.baseline_in(product) or ""),
        aoi.share_inside(json.dumps(geometry)),
        geometry,
        item,
        base,
    )


def band_assets(scene: Scene, names: Iterable[str]) -> dict[str, BandAsset]:
    """The asset of each band of a scene: reflectance in GeoTIFF before JPEG 2000, the native resolution before resampled copies.

    Raises:
        EngineError: the scene has no such band; the message names those it has.
    """
    candidates: dict[str, list[tuple[tuple[int, float], str, dict[str, Any]]]] = {}
    for key, asset in (scene.item.get("assets") or {}).items():
        name = _asset_band(key, asset)
        if name:
            candidates.setdefault(name, []).append((_preference(name, asset), key, asset))
    chosen = {}
    for name in names:
        if name not in candidates:
            order = [b.name for b in sentinel2.BANDS] + [sentinel2.SCL]
            have = ", ".join(sorted(candidates, key=order.index)) or "none"
            raise EngineError(f"The scene has no band {name}", scene.id, f"choose from its bands ({have}) in BANDS")
        _, _, asset = min(candidates[name], key=lambda entry: entry[:2])
        chosen[name] = BandAsset(name, http.absolute(str(asset.get("href", "")), scene.base), asset)
    return chosen


def _asset_band(key: str, asset: dict[str, Any]) -> str | None:
    """The one band an asset holds, or None for pictures, metadata and anything else."""
    roles = set(asset.get("roles") or ())
    if roles & {"visual", "overview", "thumbnail", "metadata"}:
        return None
    if not str(asset.get("type", "image/tiff")).startswith("image/"):
        return None
    bands = asset.get("eo:bands") or asset.get("bands") or []
    if len(bands) > 1:
        return None
    texts = [str(bands[0].get("name", ""))] if bands else []
    texts += [key, key.partition("-")[0]]
    for text in texts:
        name = sentinel2.band_name(text)
        if name:
            return name
        if text in sentinel2.BY_COMMON_NAME:
            return sentinel2.BY_COMMON_NAME[text].name
    return sentinel2.SCL if re.fullmatch(r"scl(-\w+)?", key, re.IGNORECASE) else None


def _preference(name: str, asset: dict[str, Any]) -> tuple[int, float]:
    """Smaller is better: http(s) or relative before s3, then nearest to the native resolution."""
    scheme = str(asset.get("href", "")).partition("://")[0]
    native = sentinel2.SCL_RESOLUTION_M if name == sentinel2.SCL else sentinel2.BY_NAME[name].resolution_m
    gsd = asset.get("gsd") or native
    return (1 if scheme == "s3" else 0) + (2 if "jp2" in str(asset.get("type", "")) else 0), abs(float(gsd) - native)
