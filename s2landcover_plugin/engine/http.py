"""Network settings: the one place for time limits, retries, and how GDAL reads over HTTP."""

from __future__ import annotations

import contextlib
import json
import re
from typing import Any, Iterator
from urllib.parse import urljoin, urlsplit

from osgeo import gdal

from .errors import EngineError
from .packages import require

CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 60
RETRIES = 3
RETRY_STATUS = (429, 500, 502, 503, 504)

GDAL_SETTINGS = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "CPL_VSIL_CURL_ALLOWED_EXTENSIONS": ".tif,.tiff,.jp2",
    "GDAL_HTTP_CONNECTTIMEOUT": str(CONNECT_TIMEOUT_S),
    "GDAL_HTTP_TIMEOUT": "300",
    "GDAL_HTTP_LOW_SPEED_TIME": str(READ_TIMEOUT_S),
    "GDAL_HTTP_LOW_SPEED_LIMIT": "1",
    "GDAL_HTTP_MAX_RETRY": str(RETRIES),
    "GDAL_HTTP_RETRY_DELAY": "1",
    "GDAL_HTTP_MULTIRANGE": "YES",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "CPL_VSIL_NETWORK_STATS_ENABLED": "YES",
}
"""Windowed reads: no directory listing, ranges merged, a stalled transfer ends after a minute. HEAD stays on: without it GDAL
asks for the whole file to learn its size."""


def is_url(address: str) -> bool:
    """Whether an address is http(s)."""
    return urlsplit(address).scheme in ("http", "https")


def absolute(href: str, base: str) -> str:
    """A href as seen from the document it stands in (a URL or a path with forward slashes)."""
    if urlsplit(href).scheme or href.startswith("/") and not is_url(base):
        return href
    if is_url(base):
        return urljoin(base, href)
    folder = base.replace("\\", "/").rpartition("/")[0]
    return f"{folder}/{href[2:] if href.startswith('./') else href}" if folder else href


def gdal_path(href: str, catalog: str) -> str:
    """The path that GDAL reads an asset under.

    Raises:
        EngineError: a kind of address that is not read, or a file of this machine named by a remote catalog.
    """
    scheme = urlsplit(href).scheme
    if scheme in ("http", "https"):
        return f"/vsicurl/{href}"
    if scheme == "s3":
        raise EngineError(
            "The scene's files need S3 credentials, which are not supported yet",
            href,
            "use a catalog with https assets, such as earth-search",
        )
    if is_url(catalog):
        raise EngineError("The catalog names a file of this machine, which a remote catalog must not do", href, "use another catalog")
    path = href[7:] if scheme == "file" else href
    if path.startswith("/vsi"):
        raise EngineError("The catalog names a special file", href, "use http(s) addresses or plain paths")
    return path


@contextlib.contextmanager
def gdal_network() -> Iterator[None]:
    """GDAL's HTTP settings for windowed reads in this block; the values before are put back."""
    before = {name: gdal.GetConfigOption(name) for name in GDAL_SETTINGS}
    for name, value in GDAL_SETTINGS.items():
        gdal.SetConfigOption(name, value)
    gdal.VSICurlClearCache()  # GDAL remembers a 404 for the life of the process
    try:
        yield
    finally:
        for name, old in before.items():
            gdal.SetConfigOption(name, old)


def bytes_downloaded() -> int:
    """Bytes that GDAL has received over the network in this process, since statistics were switched on."""
    statistics = json.loads(gdal.NetworkStatsGetAsSerializedJSON() or "{}")
    return sum(int(method.get("downloaded_bytes", 0)) for method in statistics.get("methods", {}).values())


def stac_io() -> Any:
    """pystac-client's transport with the time limits and retries of this module."""
    retry = require("urllib3").Retry(
        total=RETRIES, backoff_factor=0.5, status_forcelist=RETRY_STATUS, allowed_methods=None, raise_on_status=False
    )
    module = require("pystac_client.stac_api_io")
    return module.StacApiIO(timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S), max_retries=retry)


def read_json(address: str) -> Any:
    """A JSON document from a URL or a file.

    Raises:
        EngineError: it cannot be reached, or is no JSON.
    """
    try:
        if is_url(address):
            requests = require("requests")
            reply = requests.get(address, timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S))
            reply.raise_for_status()
            return reply.json()
        with open(address, encoding="utf-8") as file:
            return json.load(file)
    except ValueError as err:  # first: requests' JSON error is an OSError too
        raise EngineError(
            "The catalog does not answer with JSON", address, "give the address of a STAC API, or of a STAC ItemCollection"
        ) from err
    except OSError as err:
        raise EngineError(f"The catalog cannot be read ({_short(err)})", address, "check the address and the connection") from err


def _short(err: BaseException) -> str:
    """The innermost reason of a network error in a few words."""
    reason: Any = err
    while getattr(reason, "args", None) and isinstance(reason.args[0], BaseException):
        reason = reason.args[0]
    text = str(getattr(reason, "reason", reason) or type(reason).__name__)
    return re.sub(r"<[^>]* object at 0x[0-9a-f]+>: ", "", text)[:160]


def unreachable(err: BaseException, address: str) -> EngineError:
    """The sentence for a catalog that does not answer."""
    return EngineError(f"The catalog does not answer ({_short(err)})", address, "check the address and the connection, or try again later")
