"""Requests: the one place for proxies, certificates, time limits and retries."""

from __future__ import annotations

import contextlib
import fnmatch
import json
import logging
import math
import os
import re
import tempfile
import threading
import time
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from secrets import SystemRandom
from types import TracebackType
from typing import Any, Callable, Iterator, Mapping

from . import addresses
from .addresses import is_url, local_path, public
from .credentials import Credentials, known_credentials
from .errors import Cancelled, EngineError
from .packages import require
from .waiting import POLL_S

CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 30
"""How long a server may send nothing."""
RETRIES = 6
"""Failures in a row, without a byte between them, that are waited out."""
CONNECT_RETRIES = 2
"""The same for a server that is not there at all."""
BACKOFF_S = 0.25
"""First pause; each further one is twice as long, less a random half, so that many clients do not come back together."""
LONGEST_PAUSE_S = 30.0
RETRY_STATUS = (408, 425, 429, 500, 502, 503, 504)
CHUNK_BYTES = 1 << 16
CONNECTIONS = 24
"""Requests to one server at the same time; more wait for their turn."""

_chance = SystemRandom()


@dataclass(frozen=True)
class Connection:
    """How this machine reaches the network; what the program around the engine knows of it."""

    proxies: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Scheme (`http`, `https`) -> address of the proxy; empty: what the environment says."""
    no_proxy: tuple[str, ...] = ()
    """Hosts, or beginnings of URLs, that are reached without it; `*` stands for any text."""
    ca_pem: str = field(default="", repr=False)
    """Certificates (PEM) that are trusted beside those of requests."""
    credentials: Credentials = field(default_factory=known_credentials, repr=False)
    cache_folder: str = ""
    """Where bytes of remote files are kept for the next run; empty: nowhere."""
    deadline: float = math.inf
    """time.monotonic() after which everything stops."""


class Network:
    """The connections of one run, used by several threads. Use as a context manager."""

    def __init__(self, connection: Connection, stopped: threading.Event | None = None, home: str = "") -> None:
        """
        Args:
            stopped: set by whoever waits for the run, when it need not go on.
            home: the catalog; it and its neighbours may have the credentials that the user chose for it.
        """
        self.connection = connection
        self._home = addresses.host(home) if is_url(home) else ""
        self.stopped = stopped or threading.Event()
        self._lock = threading.Lock()
        self._bytes = 0
        self._turns = threading.BoundedSemaphore(CONNECTIONS)
        self.trusted = _bundle(connection.ca_pem) if connection.ca_pem else ""
        self.session = _session(self)

    def __enter__(self) -> Network:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stopped.set()
        self.session.close()
        if self.trusted:
            with contextlib.suppress(OSError):
                os.unlink(self.trusted)

    @property
    def bytes_read(self) -> int:
        """Bytes of the scenes' files received so far, those of failed attempts included."""
        return self._bytes

    def count(self, number: int) -> None:
        """Add to the bytes received."""
        with self._lock:
            self._bytes += number

    def check(self) -> None:
        """Stop where the user or the time limit says so.

        Raises:
            Cancelled, EngineError
        """
        if self.stopped.is_set():
            raise Cancelled
        if time.monotonic() > self.connection.deadline:
            raise EngineError("The time limit is over", "TIME_LIMIT_MIN", "raise it, choose a smaller area, or try again later")

    def unfinished(self) -> float:
        """Share done of work of which nothing is known but that it may go on."""
        self.check()
        return 0.0

    def get(self, url: str, what: str = "The catalog", **settings: Any) -> Any:
        """The answer to a GET request; one with an error status that does not pass is returned as it is.

        Args:
            what: name of the thing for messages.
            settings: `stream`, `headers`, `params` of requests.

        Raises:
            EngineError: no answer came, whatever was tried.
        """
        return self._ask(lambda: self.session.get(url, **settings), url, what)

    def post(self, url: str, form: Mapping[str, str], what: str) -> Any:
        """The answer to a POST request with a form, which follows no redirect: what is in the form is for this address."""
        return self._ask(lambda: self.session.post(url, data=dict(form), allow_redirects=False), url, what)

    def _ask(self, request: Callable[[], Any], url: str, what: str) -> Any:
        errors = require("requests").exceptions
        try:
            return request()
        except errors.InvalidSchema as err:
            if "SOCKS" not in str(err):
                raise EngineError("The address is not valid", public(url), "write it like https://host/path") from err
            raise EngineError(f"{what} cannot be read through a SOCKS proxy", public(url), advice(err)) from err
        except errors.InvalidProxyURL as err:
            raise EngineError("The address of the proxy is not valid", public(url), "correct it in the network settings") from err
        except errors.InvalidHeader as err:
            fix = "correct the credentials: no line breaks, and nothing but Latin letters"
            raise EngineError("A credential holds characters that cannot be sent", public(url), fix) from err
        except (errors.InvalidURL, errors.MissingSchema) as err:
            raise EngineError("The address is not valid", public(url), "write it like https://host/path") from err
        except errors.RequestException as err:
            self.check()
            raise EngineError(f"{what} cannot be read ({short(err)})", public(url), advice(err)) from err
        except OSError as err:  # a file of certificates that is not there
            raise EngineError(f"{what} cannot be read ({err})", public(url), "check REQUESTS_CA_BUNDLE in the environment") from err
        except (EngineError, Cancelled):
            raise
        except Exception as err:  # urllib3 and http.client refuse odd addresses, proxies and headers with errors of any kind
            fix = "check the address, the credentials and the proxy"
            raise EngineError(f"{what} cannot be asked for ({type(err).__name__})", public(url), fix) from err

    def add_credentials(self, request: Any, reply: Any = None) -> bool:
        """Add the user's own headers to a request to the catalog's house, and take them from any other.

        Args:
            reply: an answer to the same request; where it asks for a password, that is added.

        Returns:
            whether something was added because of the answer.
        """
        credentials = self.connection.credentials
        at_home = addresses.same_house(addresses.host(request.url), self._home) and addresses.is_private(request.url)
        for name, value in credentials.headers.items():
            if at_home:
                request.headers.setdefault(name, value)
            elif request.headers.get(name) == value:
                del request.headers[name]
        asked = reply is not None and reply.status_code == 401 and "basic" in reply.headers.get("WWW-Authenticate", "").lower()
        if not (asked and at_home and credentials.chosen and credentials.password) or "Authorization" in request.headers:
            return False
        require("requests").auth.HTTPBasicAuth(credentials.user.encode(), credentials.password.encode())(request)
        return True

    def watched(self, reply: Any) -> Iterator[bytes]:
        """The body of an answer in pieces, until the run is stopped."""
        for chunk in reply.iter_content(CHUNK_BYTES):
            self.check()
            yield chunk

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for one of the CONNECTIONS; a run that was stopped waits no longer."""
        while not self._turns.acquire(timeout=POLL_S):
            self.check()
        try:
            yield
        finally:
            self._turns.release()

    def proxies_for(self, url: str, otherwise: Any) -> Any:
        """The proxies for a URL: those of the connection if it has any."""
        if not self.connection.proxies:
            return otherwise
        return {} if self.bypasses_proxy(url) else dict(self.connection.proxies)

    def bypasses_proxy(self, url: str) -> bool:
        """Whether a URL is reached without the proxy."""
        name = addresses.host(url)
        return any(
            fnmatch.fnmatch(name, pattern) or fnmatch.fnmatch(url, f"{pattern}*") or name.endswith("." + pattern.lstrip("."))
            for pattern in self.connection.no_proxy
            if pattern
        )


class Tries:
    """Counts failures in a row, and pauses after each."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._failures = 0

    def again(self, reply: Any = None, limit: int = RETRIES) -> bool:
        """Pause after a failure; False if it was one too many.

        Args:
            reply: the answer, whose Retry-After is respected up to LONGEST_PAUSE_S.
        """
        self._failures += 1
        if self._failures > limit:
            return False
        pause = BACKOFF_S * 2 ** (self._failures - 1) * _chance.uniform(0.5, 1.0)
        pause = min(max(pause, _retry_after_s(reply)), LONGEST_PAUSE_S)
        self._network.stopped.wait(min(pause, max(self._network.connection.deadline - time.monotonic(), 0)))
        self._network.check()
        return True

    def progressed(self) -> None:
        """Bytes came: the failures before them do not count any more."""
        self._failures = 0


def _retry_after_s(reply: Any) -> float:
    """Seconds to wait that an answer states, as a number or a date."""
    text = reply.headers.get("Retry-After", "") if reply is not None else ""
    if re.fullmatch(r"\d{1,6}", text):
        return float(text)
    try:
        return parsedate_to_datetime(text).timestamp() - time.time()
    except (TypeError, ValueError, IndexError):
        return 0.0


SECRET_HEADERS = ("Authorization", "Ocp-Apim-Subscription-Key", "X-Amz-Security-Token")


def _session(network: Network) -> Any:
    """A requests.Session with the proxies, certificates, credentials, time limits and retries of a network."""
    requests = require("requests")

    class Session(requests.Session):  # type: ignore[misc,name-defined]
        def merge_environment_settings(self, url: str, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
            merged = super().merge_environment_settings(url, proxies, stream, verify, cert)
            if network.trusted:
                merged["verify"] = network.trusted
            return {**merged, "proxies": network.proxies_for(url, merged["proxies"])}

        def rebuild_proxies(self, prepared: Any, proxies: Any) -> Any:
            return network.proxies_for(prepared.url, super().rebuild_proxies(prepared, proxies))

        def rebuild_auth(self, prepared: Any, response: Any) -> None:
            hosts = addresses.host(prepared.url), addresses.host(response.request.url)
            if not addresses.same_house(*hosts) or not addresses.is_private(prepared.url):
                for name in SECRET_HEADERS:
                    prepared.headers.pop(name, None)

    class Adapter(requests.adapters.HTTPAdapter):  # type: ignore[misc,name-defined]
        """Sends each request, also each step of a redirect, until it has an answer."""

        def send(self, request: Any, stream: bool = False, **settings: Any) -> Any:
            errors = requests.exceptions
            settings["timeout"] = (CONNECT_TIMEOUT_S, READ_TIMEOUT_S)
            network.add_credentials(request)
            tries = Tries(network)
            while True:
                network.check()
                try:
                    reply = super().send(request, stream=stream, **settings)
                    if not stream:
                        reply._content = b"".join(network.watched(reply))
                        _check_length(reply)
                except (errors.ConnectionError, errors.Timeout, errors.ChunkedEncodingError) as err:
                    if _is_certificate_error(err) or not tries.again(limit=CONNECT_RETRIES if _nobody_there(err) else RETRIES):
                        raise
                    continue
                if network.add_credentials(request, reply):
                    reply.close()
                    continue
                if reply.status_code not in RETRY_STATUS or not tries.again(reply):
                    return reply
                reply.close()

    def login_of_url(request: Any) -> Any:
        # without an auth of its own, a session would also look into a netrc file, which would replace the credentials that were chosen
        user, password = requests.utils.get_auth_from_url(request.url)
        return requests.auth.HTTPBasicAuth(user, password)(request) if user else request

    session = Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, Adapter(pool_maxsize=CONNECTIONS))
    session.auth = login_of_url
    session.trust_env = not network.connection.proxies
    return session


def _hide(record: logging.LogRecord) -> bool:
    """Take secrets out of what urllib3 logs about a request."""
    if isinstance(record.args, tuple):
        record.args = tuple(public(each) if isinstance(each, str) else each for each in record.args)
    return True


logging.getLogger("urllib3.connectionpool").addFilter(_hide)


def _bundle(pem: str) -> str:
    """A file with further certificates beside those that requests would trust."""
    known = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or require("requests").certs.where()
    with tempfile.NamedTemporaryFile("w", suffix=".pem", delete=False, encoding="utf-8") as file:
        if os.path.isfile(known):
            file.write(Path(known).read_text(encoding="utf-8", errors="ignore"))
        file.write("\n" + pem)
    return file.name


def _check_length(reply: Any) -> None:
    """Raise where an answer that was read ended before its stated length; requests itself may take it for whole."""
    stated = reply.headers.get("Content-Length", "")
    received = reply.raw.tell() if hasattr(reply.raw, "tell") else None
    if stated.isdigit() and reply.request.method != "HEAD" and received is not None and received < int(stated):
        raise require("requests").exceptions.ChunkedEncodingError(f"the answer ended after {received} of {stated} bytes")


def _is_certificate_error(err: BaseException) -> bool:
    return isinstance(err, require("requests").exceptions.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(err)


def _nobody_there(err: BaseException) -> bool:
    return type(_innermost(err)).__name__ in ("NewConnectionError", "NameResolutionError", "ConnectTimeoutError", "ConnectionRefusedError")


def stac_io(network: Network) -> Any:
    """pystac-client's transport over a network."""
    transport = require("pystac_client.stac_api_io").StacApiIO(timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S), max_retries=None)
    transport.session = network.session
    return transport


def read_json(address: str, network: Network) -> tuple[Any, str]:
    """A JSON document from a URL or a file, and the address that it really came from.

    Raises:
        EngineError: it cannot be reached, or is no JSON.
    """
    if is_url(address):
        reply = network.get(address)
        return json_of(reply, address), reply.url if reply.history else address
    try:
        with open(local_path(address), encoding="utf-8") as file:
            return json.load(file), address
    except OSError as err:
        raise EngineError(f"The catalog cannot be read ({err.strerror})", address, "check the path, or give a http(s) address") from err
    except (ValueError, RecursionError) as err:
        raise _no_json(address) from err


def json_of(reply: Any, address: str, what: str = "The catalog") -> Any:
    """The JSON document of an answer.

    Args:
        what: name of the thing for messages.

    Raises:
        EngineError: the answer is an error, or no JSON.
    """
    if reply.status_code in (401, 403):
        raise rejected(reply.status_code, address)
    if reply.status_code >= 400:
        raise EngineError(f"{what} cannot be read (HTTP {reply.status_code} {reply.reason})", public(address), ADVICE)
    try:
        return reply.json()
    except (ValueError, RecursionError) as err:
        if what != "The catalog":
            raise EngineError(f"{what} does not answer with JSON", public(address), "try again later") from err
        raise _no_json(address) from err


def _no_json(address: str) -> EngineError:
    fix = "give the address of a STAC API, or of a STAC ItemCollection"
    return EngineError("The catalog does not answer with JSON", public(address), fix)


ADVICE = "check the address, the collection and the connection"
CREDENTIALS_ADVICE = (
    "choose an authentication configuration with valid credentials in AUTHCFG, or set them in the environment (the README lists the names)"
)


def advice(err: BaseException) -> str:
    """What to do about a request without an answer."""
    if _is_certificate_error(err):
        return "add the certificate of the server, or of the proxy, to the authorities that QGIS trusts (Settings, Options, Authentication)"
    if "SOCKS" in str(err):
        return "install the Python package PySocks, or use an HTTP proxy"
    return ADVICE


def rejected(status: int, address: str) -> EngineError:
    """The sentence for 401 and 403."""
    return EngineError(f"The server refuses access (HTTP {status})", public(address), CREDENTIALS_ADVICE)


def unreachable(err: BaseException, address: str) -> EngineError:
    """The sentence for a catalog that cannot be read."""
    return EngineError(f"The catalog cannot be read ({short(err)})", public(address), advice(err))


def _innermost(err: BaseException) -> Any:
    reason: Any = err
    while True:
        inner = [each for each in (*getattr(reason, "args", ()), getattr(reason, "reason", None)) if isinstance(each, BaseException)]
        if not inner:
            return reason
        reason = inner[-1]


def short(err: BaseException) -> str:
    """The innermost reason of a network error in a few words, without anything secret."""
    reason = _innermost(err)
    text = str(getattr(reason, "strerror", None) or reason) or type(reason).__name__
    if getattr(reason, "status_code", None):
        return f"HTTP {reason.status_code}"
    text = re.sub(r"<[^>]* object at 0x[0-9a-f]+>: |HTTPS?Connection(Pool)?\([^)]*\): ", "", text)
    return public(text).strip()[:160]
