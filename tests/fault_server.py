"""An HTTP server on loopback with ranges that misbehaves on a seeded schedule, and stand-ins for the servers of the providers."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import hmac
import json
import random
import socket
import struct
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Callable
from urllib.parse import parse_qs, urlsplit

FAULTS = (*2 * ("503", "500", "429", "reset", "reset midway", "truncated", "slow"), "hang", "expired")
HANG_S = 0.8


@dataclass
class Reply:
    """What a handler of a path wants to be answered."""

    status: int
    body: bytes = b""
    headers: dict = field(default_factory=dict)


@dataclass
class FaultServer:
    """Serves a folder; `fault(path, n)` names what goes wrong with the n-th request for a path."""

    root: Path
    fault: Callable[[str, int], str] = lambda path, n: "none"
    refuse: Callable[[BaseHTTPRequestHandler], Reply | None] = lambda request: None
    """Looks at a request first; what it returns is the answer."""
    special: Callable[[BaseHTTPRequestHandler], Reply | None] = lambda request: None
    """Answers for paths that are no files."""
    delay_s: float = 0.0
    requests: list = field(default_factory=list)
    """(method, path, bytes of the body sent)"""
    faults: Counter = field(default_factory=Counter)
    first: dict = field(default_factory=dict)
    """fault -> when it came first"""
    most_at_once: int = 0
    url: str = ""

    def __post_init__(self):
        self._lock = threading.Lock()
        self._count = Counter()
        self._now = 0

    def next_fault(self, path):
        with self._lock:
            self._count[path] += 1
            name = self.fault(path, self._count[path])
            self.faults[name] += 1
            self.first.setdefault(name, time.monotonic())
            return name

    @contextlib.contextmanager
    def counted(self):
        with self._lock:
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            yield
        finally:
            with self._lock:
                self._now -= 1

    def bytes_sent(self, ending):
        return sum(sent for _, path, sent in self.requests if path.endswith(ending))


def seeded(seed, share, refusals):
    """A schedule: the same faults for the same requests, a given share of them; refused tokens for the scenes' files only."""

    def fault(path, n):
        chance = random.Random(f"{seed} {path} {n}")
        names = FAULTS if refusals and path.endswith(".tif") else FAULTS[:-1]
        return chance.choice(names) if chance.random() < share else "none"

    return fault


@contextlib.contextmanager
def running(server: FaultServer):
    """Run a FaultServer; yields it with its address."""
    httpd = _Server(("127.0.0.1", 0), _handler(server))
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    server.url = f"http://127.0.0.1:{httpd.server_address[1]}"
    try:
        yield server
    finally:
        httpd.shutdown()
        httpd.server_close()


def _handler(server):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self):
            with server.counted():
                time.sleep(server.delay_s)
                self._answer()

        do_POST = do_HEAD = do_GET

        def _answer(self):
            if self.command == "POST":
                self.form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            path = urlsplit(self.path).path
            fault = server.next_fault(path)
            if fault == "reset":
                return self._reset()
            if fault == "hang":
                time.sleep(HANG_S)
                return self._reset()
            if fault in ("503", "500", "429", "expired"):
                status = 403 if fault == "expired" else int(fault)
                return self._send(Reply(status, b"no", {"Retry-After": "0"}), "none")
            reply = server.refuse(self) or server.special(self) or self._file(path)
            self._send(reply, fault)

        def _file(self, path):
            file = server.root / path.lstrip("/")
            if not file.is_file():
                return Reply(404)
            data = file.read_bytes()
            wanted = self.headers.get("Range")
            if not wanted:
                return Reply(200, data)
            first, last = wanted.removeprefix("bytes=").split("-")
            start, stop = int(first), min(int(last) + 1, len(data))
            if start >= len(data):
                return Reply(416, b"", {"Content-Range": f"bytes */{len(data)}"})
            headers = {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}", "ETag": f'"{file.stat().st_mtime_ns}"'}
            return Reply(206, data[start:stop], headers)

        def _send(self, reply, fault):
            self.send_response(reply.status)
            for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            body = b"" if self.command == "HEAD" else reply.body
            sent = body[: len(body) // 2] if fault in ("truncated", "reset midway") else body
            server.requests.append((self.command, urlsplit(self.path).path, len(sent)))
            with contextlib.suppress(OSError):
                if fault == "trickle":
                    for start in range(len(sent)):
                        self.wfile.write(sent[start : start + 1])
                        time.sleep(0.05)
                elif fault == "slow":
                    step = max(len(sent) // 5, 1)
                    for start in range(0, len(sent), step):
                        self.wfile.write(sent[start : start + step])
                        time.sleep(0.002)
                else:
                    self.wfile.write(sent)
            if fault == "reset midway":
                self._reset()
            elif fault == "truncated":
                self.close_connection = True

        def _reset(self):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
            self.rfile = self.wfile = _Nothing()

        def log_message(self, *_):
            pass

    return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request, client_address):
        pass


class _Nothing:
    """Stands for the files of a closed connection."""

    closed = True

    def __getattr__(self, name):
        return lambda *_: b""


class SasServer:
    """Stand-in for the Planetary Computer: `/api/sas/v1/token/…` and `/sign`, files only with a token that has not expired."""

    def __init__(self, life_s=30.0, uses=None, stated_s=None):
        self.life_s, self.uses, self.stated_s = life_s, uses, stated_s or life_s
        self.tokens = {}
        self.refused = 0
        self.issued = 0
        self._lock = threading.Lock()

    def _issue(self):
        with self._lock:
            self.issued += 1
            token = f"se=2030&sig=secret{self.issued}"
            self.tokens[token] = [time.time() + self.life_s, self.uses]
        return token

    def special(self, request):
        parts = urlsplit(request.path)
        if "/sas/v1/" not in parts.path:
            return None
        token = self._issue()
        expiry = dt.datetime.fromtimestamp(time.time() + self.stated_s, dt.timezone.utc).isoformat().replace("+00:00", "Z")
        if parts.path.endswith("/sign"):
            answer = {"href": f"{parse_qs(parts.query)['href'][0]}?{token}"}
        else:
            answer = {"token": token}
        return Reply(200, json.dumps({"msft:expiry": expiry, **answer}).encode())

    def refuse(self, request):
        parts = urlsplit(request.path)
        if not parts.path.endswith(".tif"):
            return None
        with self._lock:
            known = self.tokens.get(parts.query)
            if not known or time.time() > known[0] or known[1] == 0:
                self.refused += 1
                return Reply(403, b"AuthenticationFailed")
            if known[1] is not None:
                known[1] -= 1
        return None


def s3_refusal(request, keys):
    """The answer of an S3 server to a request that is not signed with one of the keys (Signature Version 4 in the header)."""
    said = request.headers.get("Authorization", "")
    if not said.startswith("AWS4-HMAC-SHA256 "):
        return Reply(403, b"AccessDenied")
    parts = dict(part.strip().split("=", 1) for part in said.removeprefix("AWS4-HMAC-SHA256 ").split(","))
    key, day, region, service, _ = parts["Credential"].split("/")
    names = parts["SignedHeaders"].split(";")
    url = urlsplit(request.path)
    lines = [request.command, url.path, url.query]
    lines += [f"{name}:{' '.join(request.headers[name].split())}" for name in names]
    lines += ["", ";".join(names), request.headers["x-amz-content-sha256"]]
    scope = f"{day}/{region}/{service}/aws4_request"
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    text = "\n".join(["AWS4-HMAC-SHA256", request.headers["x-amz-date"], scope, digest])
    secret = b"AWS4" + keys.get(key, "").encode()
    for part in (day, region, service, "aws4_request"):
        secret = hmac.digest(secret, part.encode(), "sha256")
    good = hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()
    return None if key in keys and hmac.compare_digest(good, parts["Signature"]) else Reply(403, b"SignatureDoesNotMatch")
