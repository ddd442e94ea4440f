"""Network settings: the one place for time limits, retries, and how GDAL reads over HTTP."""

from __future__ import annotations

import json
import re
import threading
from typing import Any, Iterable
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

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
    "GDAL_HTTP_LOW_SPEED_TIME": "20",
    "GDAL_HTTP_LOW_SPEED_LIMIT": "1",
    "GDAL_HTTP_MAX_RETRY": str(RETRIES),
    "GDAL_HTTP_RETRY_DELAY": "1",
    "GDAL_HTTP_MULTIRANGE": "YES",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "CPL_VSIL_NETWORK_STATS_ENABLED": "YES",
}
"""Windowed reads: no directory listing, ranges merged, a stalled transfer ends after 20 s. HEAD stays on: without it GDAL asks for
the whole file to learn its size."""

CHUNK_BYTES = "8192"
"""What GDAL asks for at least: the header of a Sentinel-2 COG (4 kB) in one request. GDAL's 16 kB cost up to half as much again as the
tiles of a small area. GDAL takes the size from its first read over the network in a process; a size that is set already is kept."""

_first = threading.Lock()
_started: list[bool] = []


def _split(address: str) -> SplitResult:
    try:
        parts = urlsplit(address)
        parts.port  # noqa: B018  (reading it checks it)
    except ValueError as err:
        raise EngineError("The address is not valid", address, "write it like https://host/path") from err
    return parts


def is_url(address: str) -> bool:
    """Whether an address is http(s)."""
    return _split(address).scheme in ("http", "https")


def absolute(href: str, base: str) -> str:
    """A href as seen from the document it stands in (a URL or a path)."""
    if _split(href).scheme or (href.startswith("/") and not is_url(base)):
        return href
    if is_url(base):
        return urljoin(base, href)
    folder = local_path(base).replace("\\", "/").rpartition("/")[0]
    plain = unquote(href[2:] if href.startswith("./") else href)
    return f"{folder}/{plain}" if folder else plain


def local_path(address: str) -> str:
    """The path of a `file:` address; any other text as it is."""
    parts = _split(address)
    return unquote(parts.path) if parts.scheme == "file" else address


def gdal_path(href: str, catalog: str) -> str:
    """The path that GDAL reads an asset under.

    Raises:
        EngineError: a kind of address that is not read, or a file of this machine named by a remote catalog.
    """
    scheme = _split(href).scheme
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
    path = local_path(href)
    if path.startswith("/vsi"):
        raise EngineError("The catalog names a special file", href, "use http(s) addresses or plain paths")
    return path


def prepare_thread() -> None:
    """Set GDAL up for windowed reads in the calling thread only; layers that QGIS shows keep their own settings."""
    for name, value in GDAL_SETTINGS.items():
        gdal.SetThreadLocalConfigOption(name, value)
    with _first:
        if not _started:
            if gdal.GetConfigOption("CPL_VSIL_CURL_CHUNK_SIZE") is None:
                gdal.SetConfigOption("CPL_VSIL_CURL_CHUNK_SIZE", CHUNK_BYTES)
            # GDAL looks once whether to count, at its first read over the network; this makes it look again
            gdal.NetworkStatsReset()
            _started.append(True)


def forget_failure(path: str) -> None:
    """Make GDAL ask again for a file: it remembers a 404 for the life of the process."""
    if path.startswith("/vsicurl/"):
        gdal.VSICurlPartialClearCache(path)


def bytes_downloaded(paths: Iterable[str]) -> int:
    """Bytes that GDAL has received over the network for these files since the process began to count."""
    statistics = json.loads(gdal.NetworkStatsGetAsSerializedJSON() or "{}")
    files = statistics.get("handlers", {}).get("vsicurl", {}).get("files", {})
    methods = (method for path in paths for method in files.get(path, {}).get("methods", {}).values())
    return sum(int(method.get("downloaded_bytes", 0)) for method in methods)


def _retry() -> Any:
    return require("urllib3").Retry(
        total=RETRIES, backoff_factor=0.5, status_forcelist=RETRY_STATUS, allowed_methods=None, raise_on_status=False
    )


def stac_io() -> Any:
    """pystac-client's transport with the time limits and retries of this module."""
    module = require("pystac_client.stac_api_io")
    return module.StacApiIO(timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S), max_retries=_retry())


def read_json(address: str) -> Any:
    """A JSON document from a URL or a file.

    Raises:
        EngineError: it cannot be reached, or is no JSON.
    """
    if is_url(address):
        return _fetch_json(address)
    try:
        with open(local_path(address), encoding="utf-8") as file:
            return json.load(file)
    except OSError as err:
        raise EngineError(f"The catalog cannot be read ({err.strerror})", address, "check the path, or give a http(s) address") from err
    except (ValueError, RecursionError) as err:
        raise _no_json(address) from err


def _fetch_json(address: str) -> Any:
    requests = require("requests")
    with requests.Session() as session:
        for scheme in ("http://", "https://"):
            session.mount(scheme, requests.adapters.HTTPAdapter(max_retries=_retry()))
        try:
            reply = session.get(address, timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S))
            reply.raise_for_status()
        except (requests.exceptions.InvalidURL, requests.exceptions.MissingSchema, UnicodeError) as err:
            raise EngineError("The address is not valid", address, "write it like https://host/path") from err
        except requests.RequestException as err:
            raise unreachable(err, address) from err
        try:
            return reply.json()
        except (ValueError, RecursionError) as err:
            raise _no_json(address) from err


def _no_json(address: str) -> EngineError:
    return EngineError("The catalog does not answer with JSON", address, "give the address of a STAC API, or of a STAC ItemCollection")


def unreachable(err: BaseException, address: str) -> EngineError:
    """The sentence for a catalog that cannot be read."""
    return EngineError(f"The catalog cannot be read ({_short(err)})", address, "check the address, the collection and the connection")


def _short(err: BaseException) -> str:
    """The innermost reason of a network error in a few words."""
    reason: Any = err
    while getattr(reason, "args", None) and isinstance(reason.args[0], BaseException):
        reason = reason.args[0]
    text = str(getattr(reason, "reason", reason) or type(reason).__name__)
    return re.sub(r"<[^>]* object at 0x[0-9a-f]+>: ", "", text).strip()[:160]
