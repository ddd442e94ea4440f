"""A real STAC API (rustac) and a real HTTP server with byte ranges (nginx) on loopback, for the demo and the tests."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator

NGINX_CONF = """
daemon off;
pid {work}/nginx.pid;
error_log {work}/error.log;
{user}
events {{}}
http {{
  log_format bytes '$request_method $status $body_bytes_sent $uri';
  access_log {work}/access.log bytes;
  client_body_temp_path {work}; proxy_temp_path {work}; fastcgi_temp_path {work}; uwsgi_temp_path {work}; scgi_temp_path {work};
  server {{ listen 127.0.0.1:{port}; root {root}; }}
}}
"""
START_TIMEOUT_S = 15


def free_port() -> int:
    """A TCP port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def rustac_program() -> str:
    """rustac of this virtual environment, or of the PATH."""
    beside = Path(sys.executable).with_name("rustac")
    found = str(beside) if beside.exists() else shutil.which("rustac")
    if not found:
        raise RuntimeError("rustac is not installed; run 'make setup'")
    return found


def nginx_program() -> str:
    """nginx of the PATH, or of /usr/sbin."""
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if not found:
        raise RuntimeError("nginx is not installed; run 'make setup'")
    return found


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args} ended with code {process.returncode}")
        try:
            urllib.request.urlopen(url, timeout=1).close()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"{url} does not answer")


@contextlib.contextmanager
def _running(command: list[str], url: str, log: Path) -> Iterator[None]:
    with open(log, "wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            _wait_for(url, process)
            yield
        finally:
            process.terminate()
            process.wait(10)


@dataclass(frozen=True)
class FileServer:
    """nginx serving a folder."""

    url: str
    log: Path

    def bytes_sent(self, *endings: str) -> int:
        """Bytes of response bodies sent so far, of paths with one of the endings (all if none is given)."""
        total = 0
        for line in self.log.read_text().splitlines():
            _, _, sent, path = line.split(" ", 3)
            if not endings or path.endswith(endings):
                total += int(sent)
        return total


@contextlib.contextmanager
def file_server(root: Path, work: Path) -> Iterator[FileServer]:
    """Serve `root` (which everyone may read) over HTTP with byte ranges; `work` takes logs."""
    import os

    port = free_port()
    user = "user root;" if os.name == "posix" and os.geteuid() == 0 else ""
    conf = work / "nginx.conf"
    conf.write_text(NGINX_CONF.format(work=work, port=port, root=root, user=user))
    url = f"http://127.0.0.1:{port}"
    command = [nginx_program(), "-c", str(conf), "-e", str(work / "error.log")]
    with _running(command, url, work / "nginx.out"):
        yield FileServer(url, work / "access.log")


@contextlib.contextmanager
def stac_api(collections: list[dict[str, Any]], items: list[dict[str, Any]], work: Path) -> Iterator[str]:
    """A rustac STAC API over the items; yields its root address."""
    paths = []
    for collection in collections:
        path = work / f"collection-{collection['id']}.json"
        path.write_text(json.dumps(collection))
        paths.append(str(path))
    path = work / "items.json"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with _running([rustac_program(), "serve", "--addr", f"127.0.0.1:{port}", *paths, str(path)], url, work / "rustac.out"):
        yield url


def with_base(items: list[dict[str, Any]], base: str) -> list[dict[str, Any]]:
    """Copies of the items whose relative hrefs are turned into addresses below `base`."""
    copies = json.loads(json.dumps(items))
    for item in copies:
        for asset in item["assets"].values():
            if "://" not in asset["href"]:
                asset["href"] = f"{base}/{asset['href'][2:] if asset['href'].startswith('./') else asset['href']}"
    return list(copies)
