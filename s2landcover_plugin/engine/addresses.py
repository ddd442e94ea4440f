"""Addresses of catalogs and files: URLs, paths, and what of them may be shown."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from .errors import EngineError

CDSE_HOUSE = ".dataspace.copernicus.eu"
"""Catalog, log-in and files of Copernicus Data Space are hosts below it."""


def split(address: str) -> SplitResult:
    """The parts of an address.

    Raises:
        EngineError: it is malformed.
    """
    try:
        parts = urlsplit(address)
        parts.port  # noqa: B018  (reading it checks it)
    except ValueError as err:
        raise EngineError("The address is not valid", public(address), "write it like https://host/path") from err
    return parts


def is_url(address: str) -> bool:
    """Whether an address is http(s)."""
    return split(address).scheme in ("http", "https")


def absolute(href: str, base: str) -> str:
    """A href as seen from the document it stands in (a URL or a path)."""
    if split(href).scheme or (href.startswith("/") and not is_url(base)):
        return href
    if is_url(base):
        return urljoin(base, href)
    folder = local_path(base).replace("\\", "/").rpartition("/")[0]
    plain = unquote(href[2:] if href.startswith("./") else href)
    return f"{folder}/{plain}" if folder else plain


def local_path(address: str) -> str:
    """The path of a `file:` address; any other text as it is."""
    parts = split(address)
    if parts.scheme != "file":
        return address
    host_part = f"//{parts.netloc}" if parts.netloc not in ("", "localhost") else ""
    return host_part + re.sub(r"^/(?=[A-Za-z]:)", "", unquote(parts.path))


def public(text: str) -> str:
    """A text with addresses in it, without what may be secret there: user names, passwords, queries (signatures, tokens), fragments."""
    text = re.sub(r"(?<=://)[^/\s?#]*@", "", text)
    text = re.sub(r"((?:https?|s3)://[^\s?#]*)[?#]\S*", r"\1", text)
    return re.sub(r"\?[^\s?]*=[^\s)]*", "", text)


def host(address: str) -> str:
    """The host of an address in lower case, or empty."""
    return (split(address).hostname or "").lower()


def is_loopback(name: str) -> bool:
    """Whether a host is this machine."""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def same_house(first: str, second: str) -> bool:
    """Whether what is told to one host may be told to the other: it is the same one, or both are of Copernicus Data Space."""
    return bool(first) and (first == second or (first.endswith(CDSE_HOUSE) and second.endswith(CDSE_HOUSE)))


def is_private(url: str) -> bool:
    """Whether nobody on the way can read along."""
    parts = split(url)
    return parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))
