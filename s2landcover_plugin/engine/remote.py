"""Remote files for GDAL: every byte that it asks for comes, or the reason why not.

GDAL reads windows its own way, through a server on loopback that lives as long as the run. Behind it stand proxies, certificates,
credentials, retries and the time limit of the run; GDAL sees none of them, so that no secret can end up in a message, a file or a log
of GDAL, and a file that was changed on the server is not taken from GDAL's cache.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import socket
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import IO, Any, Iterator

from osgeo import gdal

from . import addresses
from .access import Source
from .cache import RangeCache, settled_version
from .errors import Cancelled, EngineError
from .http import CHUNK_BYTES, Network, Tries, rejected, short
from .packages import require

GDAL_SETTINGS = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "CPL_VSIL_CURL_ALLOWED_EXTENSIONS": ".tif,.tiff,.jp2",
    "GDAL_HTTP_MAX_RETRY": "0",
    "GDAL_HTTP_TIMEOUT": "0",
    "GDAL_HTTP_LOW_SPEED_TIME": "0",
    "GDAL_HTTP_PROXY": "",
    "CPL_VSIL_CURL_USE_HEAD": "YES",
    "CPL_VSIL_CURL_ADVISE_READ_TOTAL_BYTES_LIMIT": "0",
    "GDAL_HTTP_MULTIRANGE": "YES",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
}
"""Windowed reads from loopback: no directory listing, ranges merged, no proxy; patience is the business of this module."""

GDAL_CHUNK_BYTES = "8192"
"""What GDAL asks for at least: the header of a Sentinel-2 COG (4 kB) in one request. GDAL's 16 kB cost up to half as much again as the
tiles of a small area. GDAL takes the size from its first read over the network in a process; a size that is set already is kept."""
HEAD_BYTES = int(GDAL_CHUNK_BYTES)
RENEWALS = 4
"""How often in a row a token is renewed for the same bytes."""

_first = threading.Lock()
_started: list[bool] = []


def prepare_thread() -> None:
    """Set GDAL up for windowed reads in the calling thread only; layers that QGIS shows keep their own settings."""
    for name, value in GDAL_SETTINGS.items():
        gdal.SetThreadLocalConfigOption(name, value)
    with _first:
        if not _started:
            if gdal.GetConfigOption("CPL_VSIL_CURL_CHUNK_SIZE") is None:
                gdal.SetConfigOption("CPL_VSIL_CURL_CHUNK_SIZE", GDAL_CHUNK_BYTES)
            _started.append(True)


class _Interrupted(Exception):
    """The transfer ended early; it may go on from there."""


class RemoteFile:
    """A file on an HTTP server, read by ranges; several threads may read."""

    def __init__(self, network: Network, source: Source, cache: RangeCache) -> None:
        self._network = network
        self._source = source
        self._cache = cache
        self._lock = threading.Lock()
        self._disk = threading.Lock()
        self._size = -1
        self._version = ""
        self._settled = ""
        self._head: bytes | bytearray = b""
        self._whole: IO[bytes] | None = None

    @property
    def shown(self) -> str:
        """The address, as it may be shown."""
        return addresses.public(self._source.address)

    def size(self) -> int:
        """Bytes of the file; its beginning is read on the way.

        Raises:
            EngineError: there is no such file, or it may not be read.
        """
        with self._lock:
            if self._size < 0:
                self._head = self._fetch(0, HEAD_BYTES)
        return self._size

    def read(self, start: int, stop: int) -> bytes | bytearray:
        """Bytes start to stop (exclusive) of the file; `size` was asked before.

        Raises:
            EngineError: they cannot be had.
        """
        if stop <= len(self._head):
            return self._head[start:stop]
        if self._whole is not None:
            return self._from_disk(start, stop)
        kept = self._cache.get(self._source.address, self._settled, start, stop)
        if kept is not None:
            return kept
        fetched = self._fetch(start, stop)
        self._cache.put(self._source.address, self._settled, start, stop, fetched)
        return fetched

    def close(self) -> None:
        """Remove what was kept on disk."""
        if self._whole is not None:
            self._whole.close()

    def _from_disk(self, start: int, stop: int) -> bytes:
        with self._disk:
            if self._whole is None:
                return b""
            self._whole.seek(start)
            return self._whole.read(stop - start)

    def _fetch(self, start: int, stop: int) -> bytes | bytearray:
        """A range, in as many requests as it takes: what has come is not asked for again."""
        data = bytearray()
        tries = Tries(self._network)
        while start + len(data) < (stop if self._size < 0 else min(stop, self._size)):
            try:
                with self._network.turn(), contextlib.closing(self._ask(start + len(data), stop)) as reply:
                    if self._understand(reply, start + len(data), stop):
                        self._keep_whole(reply)
                        return self._from_disk(start, stop)
                    before = len(data)
                    for chunk in self._chunks(reply):
                        data += chunk
                        tries.progressed()
                    if len(data) == before:
                        raise _Interrupted("the answers are empty")
            except _Interrupted as err:
                if not tries.again():
                    raise self._gave_up(str(err)) from err
        # shortened where it is: a copy of some megabytes costs as much as receiving them
        del data[stop - start :]
        return data

    def _gave_up(self, reason: str) -> EngineError:
        return EngineError(f"The scene's file cannot be read ({reason})", self.shown, "try again later")

    def _ask(self, start: int, stop: int) -> Any:
        """The answer to the request for a range; a refused token is renewed."""
        tries = Tries(self._network)
        while True:
            url, headers = self._source.access.prepare(self._source.address)
            headers = {**headers, "Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
            reply = self._network.get(url, "The scene's file", headers=headers, stream=True)
            if reply.status_code in (301, 400, 401, 403) and self._source.access.refused(url, reply) and tries.again(limit=RENEWALS):
                reply.close()
                continue
            return reply

    def _understand(self, reply: Any, start: int, stop: int) -> bool:
        """Check an answer and learn size and version of the file; True if it is the whole file instead of the range.

        Raises:
            EngineError: it is no answer to the question.
        """
        status = reply.status_code
        if status in (401, 403):
            raise rejected(status, self.shown)
        if status not in (200, 206):
            fix = "choose another scene or catalog" if status in (404, 410) else "try again later"
            raise EngineError(f"The scene's file cannot be opened (HTTP {status} {reply.reason})", self.shown, fix)
        if status == 200:
            return True
        said = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", reply.headers.get("Content-Range", "").strip())
        if reply.headers.get("Content-Range", "").endswith("/*"):
            raise EngineError("The server does not tell the size of the file", self.shown, "use another catalog")
        if not said or int(said[1]) != start or int(said[2]) >= stop:
            raise EngineError("The server answers a request for bytes with others", self.shown, "use another catalog")
        self._learn(int(said[3]), reply)
        return False

    def _learn(self, size: int, reply: Any) -> None:
        version = f"{size} {reply.headers.get('ETag', '')} {reply.headers.get('Last-Modified', '')}"
        if self._size >= 0 and version != self._version:
            raise EngineError("The file was changed on the server while it was read", self.shown, "run again")
        if self._size < 0:
            self._settled = settled_version(size, reply.headers)
        self._size, self._version = size, version

    def _chunks(self, reply: Any) -> Iterator[bytes]:
        errors = require("requests").exceptions
        # urllib3 would throw away what came before an early end; how much was missing is looked at below
        reply.raw.enforce_content_length = False
        try:
            for chunk in reply.iter_content(CHUNK_BYTES):
                self._network.check()
                self._network.count(len(chunk))
                yield chunk
        except (errors.RequestException, OSError) as err:
            raise _Interrupted(short(err)) from err
        stated = reply.headers.get("Content-Length", "")
        if stated.isdigit() and reply.raw.tell() < int(stated):
            raise _Interrupted("the transfer ended early")

    def _keep_whole(self, reply: Any) -> None:
        """Keep a file whose server knows no ranges."""
        with self._disk:
            if self._whole is not None:
                return
            kept = tempfile.TemporaryFile()
            try:
                for chunk in self._chunks(reply):
                    kept.write(chunk)
                self._learn(kept.tell(), reply)
            except BaseException:
                kept.close()
                raise
            self._whole = kept


class Relay:
    """A server on loopback from which GDAL reads remote files. Use as a context manager."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._files: dict[str, RemoteFile] = {}
        self._failures: dict[str, EngineError | Cancelled] = {}
        self._sockets: set[socket.socket] = set()
        self._secret = secrets.token_urlsafe(16)
        self._cache = RangeCache(network.connection.cache_folder)
        self._server = _server(self)

    def __enter__(self) -> Relay:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            self._network.stopped.set()
        self._server.shutdown()
        self._server.server_close()
        for connected in list(self._sockets):
            with contextlib.suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)
        self._cache.trim()
        for path, file in self._files.items():
            file.close()
            gdal.VSICurlPartialClearCache(f"/vsicurl/{self._base}{path}")

    @property
    def _base(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def path(self, source: Source) -> str:
        """What GDAL opens to read a remote file."""
        ending = ".jp2" if ".jp2" in source.address.lower() else ".tif"
        path = f"/{self._secret}/{len(self._files)}{ending}"
        self._files[path] = RemoteFile(self._network, source, self._cache)
        return f"/vsicurl/{self._base}{path}"

    @contextlib.contextmanager
    def reading(self, path: str) -> Iterator[None]:
        """Turn errors of GDAL about such a path into what went wrong with the remote file."""
        name = path[len(f"/vsicurl/{self._base}") :]
        try:
            yield
        except EngineError as err:
            file = self._files.get(name)
            if file is None:
                raise
            raise self._failures.get(name) or EngineError(
                err.what, file.shown, "the file is damaged or cut off; use another scene"
            ) from err
        if name in self._failures:  # whatever GDAL made of it
            raise self._failures[name]

    def find(self, path: str) -> RemoteFile | None:
        """The file behind a path of the server."""
        return self._files.get(path)

    def has_failed(self, path: str) -> bool:
        """Whether a file could not be read."""
        return path in self._failures

    def failed(self, path: str, error: Exception) -> None:
        """Keep why a file could not be read."""
        if isinstance(error, OSError):
            error = EngineError(f"The scene's file cannot be read ({error.strerror})", self._files[path].shown, "free some disk space")
        elif not isinstance(error, (EngineError, Cancelled)):
            what = f"The scene's file cannot be read ({type(error).__name__})"
            error = EngineError(what, self._files[path].shown, "use another catalog")
        self._failures.setdefault(path, error)

    def connected(self, connection: socket.socket, yes: bool) -> None:
        """Keep track of who is connected."""
        if yes:
            self._sockets.add(connection)
        else:
            self._sockets.discard(connection)


def _server(relay: Relay) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        timeout = 600

        def setup(self) -> None:
            super().setup()
            relay.connected(self.connection, True)

        def finish(self) -> None:
            relay.connected(self.connection, False)
            super().finish()

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, body: bool) -> None:
            file = relay.find(self.path)
            if file is None:
                return self._send(404, b"", {})
            try:
                size = file.size()
            except Exception as err:  # told by relay.reading
                relay.failed(self.path, err)
                return self._send(404, b"", {})
            start, stop = _range(self.headers.get("Range"), size)
            if not body:
                return self._send(200, b"", {"Content-Length": str(size), "Accept-Ranges": "bytes"})
            data = self._data(file, start, stop)
            self._send(206 if "Range" in self.headers else 200, data, {"Content-Range": f"bytes {start}-{start + len(data) - 1}/{size}"})

        def _data(self, file: RemoteFile, start: int, stop: int) -> bytes | bytearray:
            """The bytes asked for. After a failure: zeros, because GDAL prints errors of its reading threads where nobody can catch them;
            the failure is raised when GDAL returns, whatever it made of them."""
            if not relay.has_failed(self.path):
                try:
                    if start < stop:
                        return file.read(start, stop)
                    relay.failed(self.path, EngineError("The scene's file is cut off", file.shown, "use another scene"))
                except Exception as err:  # told by relay.reading
                    relay.failed(self.path, err)
            return bytes(max(stop - start, 1))

        def _send(self, status: int, data: bytes | bytearray, headers: dict[str, str]) -> None:
            with contextlib.suppress(OSError):  # nobody listens any more
                self.send_response(status)
                for name, value in {"Content-Length": str(len(data)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing: GDAL's requests interest nobody."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False
        request_queue_size = 128  # GDAL opens a connection for each range; those that find no place come back a second later

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Say nothing about connections that GDAL has dropped."""

    return Server(("127.0.0.1", 0), Handler)


def _range(text: str | None, size: int) -> tuple[int, int]:
    """Start and stop (exclusive) of a Range header; the whole file without one."""
    said = re.fullmatch(r"bytes=(\d+)-(\d*)", text or "")
    if not said:
        return 0, size
    return int(said[1]), min(int(said[2]) + 1, size) if said[2] else size
