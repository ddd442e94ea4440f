"""A small scene on a server that may fail or ask for credentials, and the fixtures of the tests that reach it."""

from __future__ import annotations

import contextlib
import json
import shutil
import ssl
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from urllib.request import Request, urlopen

import numpy as np
import pytest

from s2landcover_plugin.engine.credentials import Credentials
from s2landcover_plugin.engine.crs import Aoi
from s2landcover_plugin.engine.errors import EngineError
from s2landcover_plugin.engine.fetch import FetchOptions, run_fetch
from s2landcover_plugin.engine.http import Connection
from s2landcover_plugin.engine.stac import SearchOptions

from .conftest import Messages, read, write_raster
from .fault_server import Reply

AOI = Aoi("EPSG:32633", (500400, 5197400, 502600, 5199600))


BANDS = ("B03", "B04")


SIDE = 500


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """Two bands and a classification in tiles of 64 pixels, one scene: (folder, pixels of the bands in the AOI)."""
    folder = tmp_path_factory.mktemp("faults")
    rng = np.random.default_rng(3)
    options = ["TILED=YES", "BLOCKXSIZE=64", "BLOCKYSIZE=64", "COMPRESS=DEFLATE"]
    where = {"transform": (500000, 10, 0, 5200000, 0, -10), "options": options}
    pixels = {name: rng.integers(1, 4000, (1, SIDE, SIDE)).astype(np.uint16) for name in BANDS}
    for name, data in pixels.items():
        write_raster(folder / f"{name}.tif", data, **where)
    write_raster(folder / "SCL.tif", rng.integers(4, 7, (1, SIDE, SIDE)).astype(np.uint8), **where)
    (folder / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": [item()]}))
    return folder, np.concatenate([data[:, 40:260, 40:260] for data in pixels.values()])


def item(**assets):
    ring = Aoi("EPSG:32633", (500000, 5195000, 505000, 5200000)).lonlat_ring()
    names = {"B03": "green", "B04": "red", "SCL": "scl"}
    common = {"type": "image/tiff", "roles": ["data"]}
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": "one",
        "collection": "sentinel-2-l2a",
        "geometry": {"type": "Polygon", "coordinates": [[list(p) for p in (*ring, ring[0])]]},
        "properties": {"datetime": "2024-07-01T10:00:31Z", "eo:cloud_cover": 1.0, "earthsearch:boa_offset_applied": True},
        "links": [],
        "assets": {key: {"href": assets.get(name, f"{name}.tif"), **common} for name, key in names.items()},
    }


SECRETS = ("hunter2", "SECRETKEY", "sig=", "bearer-", "shh")


KEYS = {"MYKEY": "SECRETKEY/+abc"}


def fetch(address, folder, provider="custom", credentials=None, messages=None, bands=("B04",), **connection):
    """Fetch, and look for secrets in everything that was said and written."""
    messages = messages or Messages()
    search = SearchOptions(catalog=provider, stac_url=address)
    how = Connection(credentials=credentials or Credentials(), **connection)
    said = []
    try:
        return run_fetch(search, FetchOptions(bands=bands), AOI, str(folder / "o.tif"), str(folder / "o.json"), "", messages.progress, how)
    except EngineError as err:
        said = [str(err), repr(err)]
        raise
    finally:
        said += [*messages.infos, *messages.warnings, repr(how), repr(how.credentials)]
        written = [path.read_bytes().decode("latin-1") for path in folder.iterdir() if path.is_file()]
        assert not [(secret, text[:200]) for text in (*said, *written) for secret in SECRETS if secret in text]


def catalog(server, folder, name="items.json", **assets):
    """Put an item with these hrefs on the server; its address."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(item(**assets)))
    return f"{server.url}/{name}"


@pytest.fixture
def root(scene, tmp_path):
    """A copy of the scene's folder, and its pixels of B04."""
    folder = tmp_path / "root"
    shutil.copytree(scene[0], folder)
    return folder, scene[1][1]


@pytest.fixture
def out(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def same(out, expected):
    np.testing.assert_array_equal(read(out / "o.tif")[0], expected)


def s3_items(root):
    """Files in a bucket; one with a character that has to be escaped."""
    bucket = root / "eodata" / "a b"
    bucket.mkdir(parents=True)
    for name in ("B03", "B04", "SCL"):
        shutil.copy(root / f"{name}.tif", bucket / f"{name}.tif")
    return {name: f"s3://eodata/a b/{name}.tif" for name in ("B03", "B04", "SCL")}


def bucket_path(request):
    """Serve `/eodata/a%20b/…` from the folder of that name."""
    request.path = request.path.replace("%20", " ")


def file_reply(root, request):
    """A range of a file whose path is percent-encoded."""
    data = (root / request.path.lstrip("/").replace("%20", " ")).read_bytes()
    start, stop = (int(n) for n in request.headers["Range"].removeprefix("bytes=").split("-"))
    stop = min(stop + 1, len(data))
    return Reply(206, data[start:stop], {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"})


def cdse_item(server):
    """The real item's shape: S3 hrefs, https alternates that need a token."""
    made = item(**{name: f"s3://eodata/x/{name}.tif" for name in ("B03", "B04", "SCL")})
    schemes = {"oidc": {"type": "openIdConnect", "openIdConnectUrl": f"{server.url}/realm/.well-known/openid-configuration"}}
    made["properties"]["auth:schemes"] = {"s3": {"type": "s3"}, **schemes}
    for key, name in (("green", "B03"), ("red", "B04"), ("scl", "SCL")):
        https = {"href": f"{server.url}/odata/{name}.tif/$value", "auth:refs": ["oidc"], "storage:refs": []}
        made["assets"][key].update({"auth:refs": ["s3"], "alternate": {"https": https}})
    return made


class Proxy(BaseHTTPRequestHandler):
    """A forward proxy that keeps what passed."""

    protocol_version = "HTTP/1.1"
    passed: list = []

    def do_GET(self):
        self.passed.append(self.path)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "proxy-connection", "connection")}
        with contextlib.suppress(OSError), urlopen(Request(self.path, headers=headers), timeout=10) as reply:
            body = reply.read()
            self.send_response(reply.status)
            for name in ("Content-Range", "ETag"):
                if reply.headers[name]:
                    self.send_header(name, reply.headers[name])
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving(handler, wrap=None):
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        if wrap:
            server.socket = wrap(server.socket)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture
def proxy():
    Proxy.passed = []
    with serving(Proxy) as address:
        yield address


@pytest.fixture
def certificate(tmp_path):
    """A certificate of our own for 127.0.0.1: (PEM text, path of certificate and key)."""
    key, pem = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(pem), "-days", "2"]
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, *subject], check=True, capture_output=True)
    return pem.read_text(), pem, key


@contextlib.contextmanager
def files_over_https(folder, pem, key):
    """A folder served with a certificate that nobody knows yet; yields host:port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, key)

    class Files(SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def log_message(self, *_):
            pass

    with serving(Files, lambda plain: context.wrap_socket(plain, server_side=True)) as address:
        yield address
