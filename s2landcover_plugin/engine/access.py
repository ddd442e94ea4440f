"""Which address a scene's file is read from, and the proof that goes with each request for it."""

from __future__ import annotations

import datetime as dt
import math
import re
import threading
import time
from dataclasses import dataclass
from typing import Any, Mapping, Protocol

from . import addresses
from .credentials import Credentials, s3_address, s3_headers
from .errors import EngineError
from .http import Network, json_of, rejected

PC_CATALOG = "planetarycomputer.microsoft.com"
PC_SAS_URL = "https://planetarycomputer.microsoft.com/api/sas/v1/token"
PC_BLOBS = ".blob.core.windows.net"
PC_ACCOUNT = "sentinel2l2a01"
"""Account of the Planetary Computer's Sentinel-2 files."""
CDSE_S3 = "https://eodata.dataspace.copernicus.eu"
CDSE_OIDC = "https://identity.dataspace.copernicus.eu/auth/realms/CDSE/.well-known/openid-configuration"
OIDC_CLIENT = "cdse-public"
TOKENS = "The server of access tokens"
REMOTE_SCHEMES = ("http", "https", "s3")
RENEW_BEFORE_S = 60.0
"""A token that ends this soon is renewed before it is used."""


class Access(Protocol):
    """How requests for a file prove that they may read it."""

    def prepare(self, address: str) -> tuple[str, dict[str, str]]:
        """The URL and the headers for the next request."""

    def refused(self, url: str, reply: Any) -> bool:
        """Told that a request was refused; True if another try may pass, because a token was renewed."""


class Open:
    """Nothing to prove."""

    def prepare(self, address: str) -> tuple[str, dict[str, str]]:
        """The address itself."""
        return address, {}

    def refused(self, url: str, reply: Any) -> bool:
        """Nothing can be renewed."""
        return False


class SasTokens:
    """Planetary Computer: a token in the query, for each container or each file, that ends after a while.

    Source: https://planetarycomputer.microsoft.com/docs/concepts/sas/
    """

    def __init__(self, network: Network, token_url: str) -> None:
        """
        Args:
            token_url: `…/sas/v1/token`; `…/sas/v1/sign` stands beside it.
        """
        self._network = network
        self._url = token_url.rstrip("/")
        self._known: dict[str, tuple[str, float]] = {}
        self._lock = threading.Lock()

    def prepare(self, address: str) -> tuple[str, dict[str, str]]:
        """The address with a token that is still good."""
        place = _container(address)
        with self._lock:
            token, end = self._known.get(place or address, ("", 0.0))
            if not token or time.time() > end:
                token, end = self._ask(address, place)
                self._known[place or address] = token, end
        return f"{address}{'&' if '?' in address else '?'}{token}", {}

    def refused(self, url: str, reply: Any) -> bool:
        """Forget the token that was refused, if no other thread has done so."""
        with self._lock:
            for place in [place for place, (token, _) in self._known.items() if url.endswith(token)]:
                del self._known[place]
        return True

    def _ask(self, address: str, place: str) -> tuple[str, float]:
        credentials = self._network.connection.credentials
        ours = addresses.host(self._url) == PC_CATALOG or bool(credentials.sas_url)
        key = credentials.subscription_key if ours and addresses.is_private(self._url) else ""
        headers = {"Ocp-Apim-Subscription-Key": key} if key else {}
        if place:
            url = f"{self._url}/{place}"
            answer = json_of(self._network.get(url, TOKENS, headers=headers), url, TOKENS)
            token = answer.get("token") if isinstance(answer, dict) else None
        else:
            url = f"{self._url.rpartition('/')[0]}/sign"
            answer = json_of(self._network.get(url, TOKENS, headers=headers, params={"href": address}), url, TOKENS)
            signed = str(answer.get("href") or "") if isinstance(answer, dict) else ""
            token = signed[len(address) + 1 :] if signed.startswith(address) else None
        if not token or not isinstance(token, str):
            raise EngineError("The Planetary Computer gives no token", url, "try again later, or use another catalog")
        return token.lstrip("?&"), _good_until(answer.get("msft:expiry"))


def _container(address: str) -> str:
    """`account/container` of a file in Azure's blob storage, or empty."""
    parts = addresses.split(address)
    name = (parts.hostname or "").lower()
    container = parts.path.lstrip("/").partition("/")[0]
    return f"{name[: -len(PC_BLOBS)]}/{container}" if name.endswith(PC_BLOBS) and container else ""


def _good_until(text: Any) -> float:
    """Unix time until which a token that ends at an ISO date is used; for ever, that is until it is refused, where it is no date."""
    try:
        moment = dt.datetime.fromisoformat(re.sub(r"\.\d+", "", str(text)).replace("Z", "+00:00"))
    except ValueError:
        return math.inf
    end = (moment if moment.tzinfo else moment.replace(tzinfo=dt.timezone.utc)).timestamp()
    return end - min(RENEW_BEFORE_S, (end - time.time()) / 2)


class S3Keys:
    """S3: every request is signed with a key."""

    def __init__(self, credentials: Credentials, endpoint: str, region: str, payer: str) -> None:
        self._credentials = credentials
        self._endpoint = endpoint
        self._region = region
        self._payer = payer

    def prepare(self, address: str) -> tuple[str, dict[str, str]]:
        """The http(s) address of `s3://…`, and its signature."""
        region = self._region
        url = s3_address(address, self._endpoint, region)
        if _is_yes(self._credentials.s3.get("AWS_NO_SIGN_REQUEST")):
            return url, {}
        return url, s3_headers(url, self._credentials, region, self._payer)

    def refused(self, url: str, reply: Any) -> bool:
        """Whether the bucket lies in another region than thought: then that one is used."""
        region = reply.headers.get("x-amz-bucket-region", "")
        self._region = region or self._region
        # another thread may have learnt it meanwhile: what counts is what this request was signed for
        return bool(region) and f"/{region}/s3/" not in reply.request.headers.get("Authorization", "")


class OidcTokens:
    """A bearer token got for a user name and a password (OpenID Connect, resource owner password grant)."""

    def __init__(self, network: Network, configuration_url: str) -> None:
        self._network = network
        self._url = configuration_url
        self._token = network.connection.credentials.token
        self._lock = threading.Lock()

    def prepare(self, address: str) -> tuple[str, dict[str, str]]:
        """The address, and the token."""
        with self._lock:
            if not self._token:
                self._token = self._log_in()
            return address, {"Authorization": f"Bearer {self._token}"}

    def refused(self, url: str, reply: Any) -> bool:
        """Log in again, if there is a password and no other thread has done so."""
        credentials = self._network.connection.credentials
        if not credentials.password:
            return False
        with self._lock:
            if reply.request.headers.get("Authorization") == f"Bearer {self._token}":
                self._token = ""
        return True

    def _log_in(self) -> str:
        credentials = self._network.connection.credentials
        document = json_of(self._network.get(self._url, TOKENS), self._url, TOKENS)
        url = str(document.get("token_endpoint") or "") if isinstance(document, dict) else ""
        if not addresses.same_house(addresses.host(url), addresses.host(self._url)) or not addresses.is_private(url):
            raise EngineError("The catalog names no safe place to log in", self._url, "use S3 keys, or another catalog")
        form = {"grant_type": "password", "client_id": OIDC_CLIENT, "username": credentials.user, "password": credentials.password}
        reply = self._network.post(url, form, TOKENS)
        if reply.status_code in (301, 302, 303, 307, 308, 400, 401, 403):
            raise rejected(reply.status_code, url)
        answer = json_of(reply, url, TOKENS)
        token = answer.get("access_token") if isinstance(answer, dict) else None
        if not isinstance(token, str) or not token:
            raise EngineError("The server gives no access token", url, "check the user name and the password")
        return token


@dataclass(frozen=True)
class Source:
    """A file of a scene: its address and how it is reached."""

    address: str
    access: Access


class Accesses:
    """Finds the way to each file of a catalog; tokens are shared by its files."""

    def __init__(self, network: Network, catalog: str, provider: str) -> None:
        """
        Args:
            catalog: address searched.
            provider: `planetary-computer`, `copernicus` or another name of a catalog; it says how the files are reached whatever the
                address is.
        """
        self._network = network
        self._catalog = catalog
        self._provider = provider
        self._tokens: dict[str, Access] = {}

    def local_path(self, href: str) -> str:
        """The path of a file of this machine, or empty for a remote one.

        Raises:
            EngineError: a remote catalog names it, or it is one of GDAL's special files.
        """
        scheme = addresses.split(href).scheme
        if len(scheme) > 1 and scheme != "file":  # a single letter is a drive
            return ""
        if addresses.is_url(self._catalog):
            raise EngineError(
                "The catalog names a file of this machine, which a remote catalog must not do",
                addresses.public(href),
                "use another catalog",
            )
        path = addresses.local_path(href)
        if path.startswith("/vsi"):
            raise EngineError("The catalog names a special file", href, "use http(s) addresses or plain paths")
        return path

    def source(self, href: str, asset: Mapping[str, Any], item: Mapping[str, Any]) -> Source:
        """The way to a remote file.

        Raises:
            EngineError: it needs credentials that are not there, or is no kind of address that is read.
        """
        credentials = self._network.connection.credentials
        choices = [(href, asset), *((text, {**asset, **each}) for text, each in _alternates(asset))]
        usable = [(address, facts) for address, facts in choices if addresses.split(address).scheme in REMOTE_SCHEMES]
        for address, facts in usable:
            if addresses.is_url(address) and not facts.get("auth:refs"):
                return Source(address, self._web(address))
        for address, facts in usable:
            if address.startswith("s3://") and (credentials.s3_key or _is_yes(credentials.s3.get("AWS_NO_SIGN_REQUEST"))):
                return Source(address, self._s3(address, facts, item))
        for address, facts in usable:
            if addresses.is_url(address) and (credentials.token or (credentials.user and credentials.password) or credentials.headers):
                return Source(address, self._oidc(address, facts, item))
        if not usable:
            raise EngineError("The scene's file has an address that is not read", addresses.public(href), "use http(s), s3 or plain paths")
        raise EngineError(
            "The scene's files need credentials",
            addresses.public(href),
            "choose an authentication configuration in AUTHCFG, set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (S3), or CDSE_USERNAME and "
            "CDSE_PASSWORD, in the environment; or use a catalog with open files, such as earth-search",
        )

    def _web(self, address: str) -> Access:
        if "sig=" in addresses.split(address).query:
            return Open()
        container, url = _container(address), self._sas_url()
        if container.startswith(PC_ACCOUNT) or (url and (container or self._provider == "planetary-computer")):
            return self._once("sas", SasTokens(self._network, url or PC_SAS_URL))
        return Open()

    def _sas_url(self) -> str:
        """Stated by the user; else, if the catalog is the Planetary Computer's, beside the API (`…/api/stac/v1`, `…/api/sas/v1/token`)."""
        stated = self._network.connection.credentials.sas_url
        root, found, _ = self._catalog.partition("/stac/v1")
        ours = self._provider == "planetary-computer" or addresses.host(self._catalog) == PC_CATALOG
        return stated or (f"{root}/sas/v1/token" if found and ours and addresses.is_url(root) else "")

    def _s3(self, address: str, facts: Mapping[str, Any], item: Mapping[str, Any]) -> Access:
        settings = self._network.connection.credentials.s3
        scheme = _storage_scheme(facts, item)
        endpoint, region = _endpoint(address, scheme, settings)
        properties = item.get("properties") or {}
        payer = settings.get("AWS_REQUEST_PAYER", "")
        if True in (scheme.get("requester_pays"), properties.get("storage:requester_pays")) and not payer:
            raise EngineError(
                "The reader pays for the transfer of the scene's files",
                addresses.public(address),
                "set AWS_REQUEST_PAYER=requester in the environment if you agree, or use another catalog",
            )
        region = region or str(scheme.get("region") or properties.get("storage:region") or "us-east-1")
        if endpoint and not addresses.is_private(endpoint):
            raise EngineError("S3 keys are only used over https", endpoint, "set AWS_S3_ENDPOINT to an https address")
        credentials = self._network.connection.credentials
        return self._once(f"s3 {endpoint} {region} {payer} {address.split('/')[2]}", S3Keys(credentials, endpoint, region, payer))

    def _oidc(self, address: str, facts: Mapping[str, Any], item: Mapping[str, Any]) -> Access:
        credentials = self._network.connection.credentials
        home = addresses.host(self._catalog) if addresses.is_url(self._catalog) else ""
        url = _oidc_url(address, facts, item)
        if not url or (credentials.headers and not credentials.token and not credentials.password):
            return Open()  # headers, or a password that is asked for, go to the catalog's own host only
        # what the environment has is for Copernicus; what was chosen is for the catalog it was chosen for
        house = home if credentials.chosen or addresses.is_loopback(home) else f"stac{addresses.CDSE_HOUSE}"
        at_home = all(addresses.same_house(addresses.host(each), house) for each in (address, url))
        if not at_home or not addresses.is_private(address) or not addresses.is_private(url):
            raise EngineError("The catalog asks for credentials on behalf of a stranger", addresses.public(address), "use another catalog")
        return self._once(f"oidc {url}", OidcTokens(self._network, url))

    def _once(self, key: str, access: Access) -> Access:
        return self._tokens.setdefault(key, access)


def _alternates(asset: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Other addresses of an asset (STAC extension alternate-assets)."""
    others = asset.get("alternate")
    entries = others.values() if isinstance(others, dict) else []
    return [(each["href"], each) for each in entries if isinstance(each, dict) and isinstance(each.get("href"), str)]


def _storage_scheme(facts: Mapping[str, Any], item: Mapping[str, Any]) -> Mapping[str, Any]:
    """The storage that an asset refers to first (STAC extension storage 2), or nothing."""
    schemes = (item.get("properties") or {}).get("storage:schemes") or item.get("storage:schemes")
    refs = facts.get("storage:refs")
    first = refs[0] if isinstance(refs, list) and refs else None
    found = schemes.get(first) if isinstance(schemes, dict) and isinstance(first, str) else None
    return found if isinstance(found, dict) else {}


def _endpoint(address: str, scheme: Mapping[str, Any], settings: Mapping[str, str]) -> tuple[str, str]:
    """Endpoint (empty: AWS) and region (empty: not known) of an S3 address."""
    region = settings.get("AWS_REGION", "") or settings.get("AWS_DEFAULT_REGION", "")
    stated = settings.get("AWS_S3_ENDPOINT", "")
    if stated:
        secure = settings.get("AWS_HTTPS", "YES").upper() not in ("NO", "FALSE", "OFF", "0")
        return stated if "://" in stated else f"{'https' if secure else 'http'}://{stated}", region
    if address.startswith("s3://eodata/"):
        return CDSE_S3, "default"
    platform = scheme.get("platform")
    if isinstance(platform, str) and not re.fullmatch(r"https://[^/]*\.amazonaws\.com/?|https://aws\.amazon\.com/?", platform):
        # signed requests go where the user, not a catalog, says
        fix = f"set AWS_S3_ENDPOINT={addresses.public(platform)} in the environment if you trust it"
        raise EngineError("The scene's files are on an S3 server that is not known", addresses.public(address), fix)
    return "", region


def _oidc_url(address: str, facts: Mapping[str, Any], item: Mapping[str, Any]) -> str:
    """Where the item says one logs in for a file (STAC extension authentication); that of Copernicus Data Space for its files; or empty."""
    schemes = (item.get("properties") or {}).get("auth:schemes") or item.get("auth:schemes")
    refs = facts.get("auth:refs")
    for name in refs if isinstance(refs, list) else []:
        scheme = schemes.get(name) if isinstance(schemes, dict) and isinstance(name, str) else None
        if isinstance(scheme, dict) and isinstance(scheme.get("openIdConnectUrl"), str):
            return str(scheme["openIdConnectUrl"])
    return CDSE_OIDC if addresses.host(address).endswith(addresses.CDSE_HOUSE) else ""


def _is_yes(text: str | None) -> bool:
    return (text or "").upper() in ("YES", "TRUE", "ON", "1")
