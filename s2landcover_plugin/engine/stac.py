"""Finding Sentinel-2 scenes: any STAC API, an ItemCollection or a static catalog."""

from __future__ import annotations

import datetime as dt
import json
import math
import re
import warnings
from dataclasses import dataclass
from threading import Event
from typing import Any, Iterable, Iterator

from . import addresses, http, sentinel2
from .addresses import public
from .crs import Aoi, geometry_wkt
from .errors import Cancelled, EngineError
from .grid import Bounds
from .http import Connection, Network
from .options import check_options, option
from .packages import require
from .progress import Progress
from .waiting import in_background

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


UNKNOWN_CLOUD = "unknown cloud cover"


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
    def collection(self) -> str:
        """The item's collection, or empty."""
        return str(self.item.get("collection") or "")

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


def find_scenes(options: SearchOptions, aoi: Aoi, progress: Progress, connection: Connection | None = None) -> list[Scene]:
    """Scenes that touch the AOI, least cloudy first; filtered and sorted here whatever the server did.

    Raises:
        EngineError: reversed dates, a catalog that cannot be reached or understood.
        Cancelled: the user asked to stop; also while a request hangs.
    """
    check_options(options)
    address = catalog_address(options)
    dates = date_range(options)

    network = Network(connection or Connection(), home=address)

    def look(stopped: Event) -> list[tuple[Any, str]]:
        return list(_items(address, options, aoi, dates, network))

    with network:
        items = in_background(look, progress, network.unfinished)
    found: dict[tuple[str, str], Scene] = {}
    unreadable = unknown_cloud = 0
    for item, base in items:
        progress.check_cancelled()
        scene = _scene(item, base, aoi)
        if scene is None:
            unreadable += 1
            continue
        reason = _unwanted(scene, options, dates)
        if reason == UNKNOWN_CLOUD:
            unknown_cloud += 1
        if not reason:
            found[(scene.collection, scene.id)] = scene
    if unreadable:
        progress.warn(f"{unreadable} entries of {public(address)} are no STAC items with id, date and footprint; they are left out.")
    if unknown_cloud:
        progress.warn(f"{unknown_cloud} scenes state no cloud cover; they are left out unless MAX_CLOUD_COVER is 100.")
    return sorted(found.values(), key=least_cloudy)[: options.limit]


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
            if text and not re.fullmatch(r"\d{4}-\d\d-\d\d([T ].*)?", text):
                raise ValueError(text)
            days.append(dt.date.fromisoformat(text[:10]).isoformat() if text else "")
        except ValueError as err:
            raise EngineError(f"{text!r} is not a date", name, "write it like 2023-08-15") from err
    if days[0] and days[1] and days[1] < days[0]:
        raise EngineError("The last date is before the first", f"START_DATE {days[0]}, END_DATE {days[1]}", "exchange the two")
    return days[0], days[1]


def _unwanted(scene: Scene, options: SearchOptions, dates: tuple[str, str]) -> str:
    """Why a scene is left out; empty: it is not."""
    if options.collection and scene.collection and scene.collection != options.collection:
        return "another collection"
    if options.scene_ids:
        return "" if scene.id in options.scene_ids else "another scene"
    day, (start, end) = scene.datetime[:10], dates
    if (start and day < start) or (end and day > end):
        return "another date"
    if scene.aoi_share <= 0:
        return "another place"
    if scene.cloud_cover is None:
        return UNKNOWN_CLOUD if options.max_cloud_cover < 100 else ""
    return "cloudy" if scene.cloud_cover > options.max_cloud_cover else ""


def _items(address: str, options: SearchOptions, aoi: Aoi, dates: tuple[str, str], network: Network) -> Iterator[tuple[Any, str]]:
    """Raw items with the address that their hrefs refer to."""
    document, address = http.read_json(address, network)
    kind = document.get("type") if isinstance(document, dict) else None
    if kind == "FeatureCollection" and isinstance(document.get("features"), list):
        yield from ((item, address) for item in document["features"])
    elif kind == "Feature":
        yield document, address
    elif kind in ("Catalog", "Collection") and (document.get("conformsTo") or "search" in _links(document)):
        yield from _search(document, address, options, aoi, dates, network)
    elif kind in ("Catalog", "Collection"):
        if not {"child", "item"} & set(_links(document)):
            raise EngineError(f"The {kind.lower()} lists no items", public(address), "give the root address of its STAC API")
        yield from _walk(document, address, network, set())
    else:
        raise _not_stac(address)


def _not_stac(address: str) -> EngineError:
    return EngineError("The catalog is not STAC", public(address), "give a STAC API, an ItemCollection or a static catalog")


def _links(document: Any) -> dict[str, list[str]]:
    """Hrefs of a document's links by their rel; what is no link is passed over."""
    found: dict[str, list[str]] = {}
    links = document.get("links") if isinstance(document, dict) else None
    for link in links if isinstance(links, list) else []:
        if isinstance(link, dict) and isinstance(link.get("href"), str):
            found.setdefault(str(link.get("rel")), []).append(link["href"])
    return found


def _walk(document: Any, address: str, network: Network, seen: set[str]) -> Iterator[tuple[Any, str]]:
    """Items of a static catalog, by its child and item links; each address once."""
    seen.add(address)
    if len(seen) > MAX_ITEMS:
        raise EngineError("The static catalog is too large", public(address), "give the address of the collection itself")
    links = _links(document)
    for href in [*links.get("item", []), *links.get("child", [])]:
        network.check()
        target = addresses.absolute(href, address)
        if addresses.is_url(address) and not addresses.is_url(target):
            raise EngineError("The catalog names a file of this machine, which a remote catalog must not do", target, "use another catalog")
        if target in seen:
            continue
        inner, target = http.read_json(target, network)
        if not isinstance(inner, dict):
            raise _not_stac(target)
        if inner.get("type") == "Feature":
            yield inner, target
        else:
            yield from _walk(inner, target, network, seen)


def _search(
    document: Any, address: str, options: SearchOptions, aoi: Aoi, dates: tuple[str, str], network: Network
) -> Iterator[tuple[Any, str]]:
    """Page through an API search; what the server does not advertise is not sent."""
    client_module = require("pystac_client")
    posts = _offers(document, "POST") or not _offers(document, "GET")
    seen: set[str] = set()
    # not catch_warnings: two searches at a time would leave its filter behind
    warnings.filterwarnings("ignore", category=require("pystac_client.warnings").PystacClientWarning)
    transport = http.stac_io(network)
    try:
        client = client_module.Client.open(address, stac_io=transport)
        search = client.search(**_query(client, options, aoi, dates), method="POST" if posts else "GET")
        for page in search.pages_as_dicts():
            fresh = [item for item in page.get("features", []) if isinstance(item, dict) and str(item.get("id")) not in seen]
            seen.update(str(item.get("id")) for item in fresh)
            for item in fresh:
                yield item, addresses.absolute((_links(item).get("self") or [address])[0], address)
            network.check()
            if not fresh:  # a server may repeat its last page for ever
                return
            if len(seen) > MAX_ITEMS:
                raise EngineError(f"More than {MAX_ITEMS} scenes match", public(address), "narrow the dates or the area")
    except (Cancelled, EngineError):
        raise
    except Exception as err:  # pystac-client wraps errors of ours, and lets errors of any kind through when a server's answers are odd
        network.check()
        status = getattr(err, "status_code", None)
        raise (http.rejected(status, address) if status in (401, 403) else http.unreachable(err, address)) from err


def _offers(document: Any, method: str) -> bool:
    """Whether an API's search link states a method."""
    links = document.get("links") if isinstance(document, dict) else None
    search = [link for link in (links if isinstance(links, list) else []) if isinstance(link, dict) and link.get("rel") == "search"]
    return any(str(link.get("method") or "GET").upper() == method for link in search)


def _query(client: Any, options: SearchOptions, aoi: Aoi, dates: tuple[str, str]) -> dict[str, Any]:
    start, end = dates
    conformance = require("pystac_client.conformance").ConformanceClasses
    query: dict[str, Any] = {"collections": [options.collection or DEFAULT_COLLECTION], "limit": PAGE_ITEMS}
    if options.scene_ids:
        return {**query, "ids": list(options.scene_ids)}
    boxes = aoi.lonlat_boxes()
    if len(boxes) == 1:
        query["bbox"] = list(boxes[0])
    else:  # servers disagree on a box whose west is east of its east
        query["intersects"] = {"type": "MultiPolygon", "coordinates": [[_corners(box)] for box in boxes]}
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


def _corners(box: Bounds) -> list[list[float]]:
    x0, y0, x1, y1 = box
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]


def _scene(item: Any, base: str, aoi: Aoi) -> Scene | None:
    """A scene from a STAC item; None where it lacks what every item has."""
    item = item if isinstance(item, dict) else {}
    properties, geometry = item.get("properties"), item.get("geometry")
    if not isinstance(properties, dict) or not isinstance(geometry, dict) or not isinstance(item.get("id"), str):
        return None
    when = properties.get("datetime") or properties.get("start_datetime")
    if not isinstance(when, str) or not re.fullmatch(r"\d{4}-\d\d-\d\d([T ][0-9:.Zz+-]*)?", when):
        return None
    product = str(properties.get("s2:product_uri") or item["id"])
    tile_texts = (properties.get("s2:mgrs_tile"), properties.get("grid:code"), product, item["id"])
    baseline = properties.get("s2:processing_baseline") or properties.get("processing:version")
    return Scene(
        item["id"].encode("utf-8", "replace").decode("utf-8"),
        when,
        _percent(properties.get("eo:cloud_cover")),
        str(properties.get("platform") or ""),
        next((tile for text in tile_texts if text and (tile := sentinel2.tile_in(str(text)))), ""),
        str(baseline or sentinel2.baseline_in(product) or ""),
        aoi.share_inside(json.dumps(geometry)),
        geometry,
        item,
        base,
    )


def _percent(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def band_assets(scene: Scene, names: Iterable[str], optional: Iterable[str] = ()) -> dict[str, BandAsset]:
    """The asset of each band of a scene: reflectance in GeoTIFF before JPEG 2000, the native resolution before resampled copies.

    Args:
        optional: bands that are added where the scene has them.

    Raises:
        EngineError: the scene has no such band; the message names those it has.
    """
    candidates: dict[str, list[tuple[tuple[int, float], str, dict[str, Any]]]] = {}
    assets = scene.item.get("assets")
    for key, asset in (assets if isinstance(assets, dict) else {}).items():
        name = _asset_band(key, asset) if isinstance(asset, dict) and isinstance(asset.get("href"), str) else None
        if name:
            candidates.setdefault(name, []).append((_preference(name, asset), key, asset))
    chosen = {}
    for name in dict.fromkeys([*names, *(name for name in optional if name in candidates)]):
        if name not in candidates:
            order = [b.name for b in sentinel2.BANDS] + [sentinel2.SCL]
            have = ", ".join(sorted(candidates, key=order.index)) or "none"
            raise EngineError(f"The scene has no band {name}", scene.id, f"choose from its bands ({have}) in BANDS")
        _, _, asset = min(candidates[name], key=lambda entry: entry[:2])
        chosen[name] = BandAsset(name, addresses.absolute(asset["href"], scene.base), asset)
    return chosen


def _asset_band(key: str, asset: dict[str, Any]) -> str | None:
    """The one band an asset holds, or None for pictures, metadata and anything else."""
    roles = asset.get("roles")
    if isinstance(roles, list) and {"visual", "overview", "thumbnail", "metadata"} & {str(role) for role in roles}:
        return None
    if not str(asset.get("type") or "image/tiff").startswith("image/"):
        return None
    bands = asset.get("eo:bands") or asset.get("bands") or []
    if not isinstance(bands, list) or len(bands) > 1:
        return None
    texts = [str(bands[0].get("name", ""))] if bands and isinstance(bands[0], dict) else []
    for text in [*texts, key, key.partition("-")[0]]:
        name = sentinel2.user_band(text) or sentinel2.band_name(text)
        if name:
            return name
    return None


def _preference(name: str, asset: dict[str, Any]) -> tuple[int, float]:
    """Smaller is better: http(s) or relative before s3, then nearest to the native resolution."""
    scheme = asset["href"].partition("://")[0]
    native = sentinel2.SCL_RESOLUTION_M if name == sentinel2.SCL else sentinel2.BY_NAME[name].resolution_m
    gsd = asset.get("gsd")
    distance = abs(gsd - native) if isinstance(gsd, (int, float)) else 0.0
    return (1 if scheme == "s3" else 0) + (2 if "jp2" in str(asset.get("type", "")) else 0), distance
