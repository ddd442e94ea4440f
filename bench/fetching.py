"""`stacfetch` against gdal_translate on the same windows with as many connections, over loopback with an added latency.

A part of `bench.fulltile`. The bands of a tile become four cloud-optimized GeoTIFFs behind nginx; every connection goes through a relay
that holds all bytes back, half of the latency each way. gdal_translate runs once for each band, all at the same time, and writes with the
options of the plugin. `python -m bench.fetching --translate BASE X Y COLUMNS ROWS` runs it and prints its seconds as JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Iterator, Sequence

from osgeo import gdal

from demo import servers
from s2landcover_plugin.engine.crs import Aoi
from s2landcover_plugin.engine.grid import Window
from s2landcover_plugin.engine.raster import describe

CHUNK_BYTES = 1 << 18
KEYS = {"B02": "blue", "B03": "green", "B04": "red", "B08": "nir"}
WRITING = ["TILED=YES", "BLOCKXSIZE=512", "BLOCKYSIZE=512", "COMPRESS=DEFLATE", "PREDICTOR=2", "ZLEVEL=1"]


async def _held_back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float) -> None:
    """Pass on what comes, each piece `delay` seconds later."""
    loop = asyncio.get_running_loop()
    pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(256)

    async def take() -> None:
        while True:
            data = await reader.read(CHUNK_BYTES)
            await pieces.put((loop.time() + delay, data))
            if not data:
                return

    taking = asyncio.create_task(take())
    with contextlib.suppress(ConnectionError):
        while True:
            due, data = await pieces.get()
            if due > loop.time():
                await asyncio.sleep(due - loop.time())
            if not data:
                break
            writer.write(data)
            await writer.drain()
    taking.cancel()
    writer.close()


def _relay(listening: Any, target: int, delay: float) -> None:
    """Serve until killed."""

    async def serve() -> None:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            onward = await asyncio.open_connection("127.0.0.1", target, limit=4 * CHUNK_BYTES)
            await asyncio.gather(_held_back(reader, onward[1], delay), _held_back(onward[0], writer, delay))

        server = await asyncio.start_server(connected, sock=listening, limit=4 * CHUNK_BYTES)
        await server.serve_forever()

    asyncio.run(serve())


@contextlib.contextmanager
def slow_server(root: Path, latency_ms: float) -> Iterator[str]:
    """Address of nginx behind the relay."""
    with tempfile.TemporaryDirectory() as work, servers.file_server(root, Path(work)) as files, socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        target = int(files.url.rpartition(":")[2])
        relay = multiprocessing.get_context("fork").Process(target=_relay, args=(listening, target, latency_ms / 2000), daemon=True)
        relay.start()
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            relay.kill()


def cogs(folder: Path, tile: str) -> Path:
    """A folder with one cloud-optimized GeoTIFF for each band, made where it is not there yet."""
    place = folder / f"cogs_{Path(tile).stem}"
    place.mkdir(exist_ok=True)
    place.chmod(0o755)
    for number, name in enumerate(KEYS, 1):
        path = place / f"{name}.tif"
        if not path.exists():
            options = ["COMPRESS=DEFLATE", "PREDICTOR=YES", "BLOCKSIZE=1024", "NUM_THREADS=2", "BIGTIFF=NO"]
            gdal.Translate(f"{path}.part", tile, format="COG", bandList=[number], creationOptions=options)
            os.replace(f"{path}.part", path)
    return place


def extent(tile: str, window: tuple[int, int, int, int]) -> str:
    """A window (column, row, columns, rows) of a tile as QGIS takes an extent."""
    bounds = describe(tile).grid.cropped(Window(*window)).bounds
    return f"{','.join(f'{bounds[i]:.1f}' for i in (0, 2, 1, 3))} [EPSG:32634]"


def item(tile: str, base: str) -> dict[str, Any]:
    """The tile as a STAC item."""
    grid = describe(tile).grid
    ring = Aoi(grid.crs, grid.bounds).lonlat_ring()
    assets = {key: {"href": f"{base}/{name}.tif", "type": "image/tiff", "roles": ["data"]} for name, key in KEYS.items()}
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": "simulated",
        "collection": "sentinel-2-l2a",
        "geometry": {"type": "Polygon", "coordinates": [[list(point) for point in (*ring, ring[0])]]},
        "properties": {"datetime": "2024-07-01T10:00:31Z", "eo:cloud_cover": 1.0, "earthsearch:boa_offset_applied": True},
        "links": [],
        "assets": assets,
    }


def translated(base: str, window: Sequence[str], folder: str) -> None:
    """gdal_translate for all bands at the same time."""
    options = [text for option in WRITING for text in ("-co", option)]
    env = {**os.environ, "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR"}
    sources = [["-srcwin", *window, *options, f"/vsicurl/{base}/{name}.tif", f"{folder}/{name}.tif"] for name in KEYS]
    running = [subprocess.Popen(["gdal_translate", "-q", *each], env=env) for each in sources]
    if any([process.wait() for process in running]):
        raise RuntimeError("gdal_translate failed")


def main() -> None:
    """Run gdal_translate and print its seconds."""
    _, base, *window = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        translated(base, window, folder)
        wall = time.perf_counter() - begun
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(json.dumps({"wall": wall, "cpu": used.ru_utime + used.ru_stime}))


if __name__ == "__main__":
    main()
