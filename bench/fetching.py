"""`stacfetch` against gdal_translate on the same windows with as many connections, over loopback with an added latency.

`python -m bench.fetching [--rounds 3] [--latency 50] [--km 20 50]`. The bands of the simulated tile of bench.fulltile become four
cloud-optimized GeoTIFFs behind nginx; every connection goes through a relay that holds all bytes back, half of the latency each way.
gdal_translate runs once for each band, all at the same time, and writes with the options of the plugin. The time of the plugin is that
of the whole process less a start of QGIS; searching, choosing and writing the bands into one stack count.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Iterator

from osgeo import gdal

from demo import servers
from demo.qgis import environment, program
from s2landcover_plugin.engine.crs import Aoi
from s2landcover_plugin.engine.raster import describe

from .fulltile import FOLDER, algorithm, scenes
from .measure import run
from .scenes import FULL

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
    import socket

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


def cogs(folder: Path, tile: str) -> None:
    """One cloud-optimized GeoTIFF for each band, made where it is not there yet."""
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)
    for number, name in enumerate(KEYS, 1):
        path = folder / f"{name}.tif"
        if not path.exists():
            options = ["COMPRESS=DEFLATE", "PREDICTOR=YES", "BLOCKSIZE=1024", "NUM_THREADS=2", "BIGTIFF=NO"]
            gdal.Translate(f"{path}.part", tile, format="COG", bandList=[number], creationOptions=options)
            os.replace(f"{path}.part", path)


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


def translated(base: str, window: tuple[int, int, int, int], folder: Path) -> float:
    """Wall seconds of gdal_translate for all bands at the same time."""
    begun = time.perf_counter()
    options = [text for option in WRITING for text in ("-co", option)]
    env = {**os.environ, "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "GDAL_NUM_THREADS": "1"}
    each = [
        ["gdal_translate", "-q", "-srcwin", *map(str, window), *options, f"/vsicurl/{base}/{name}.tif", str(folder / f"{name}.tif")]
        for name in KEYS
    ]
    running = [subprocess.Popen(command, env=env) for command in each]
    if any([process.wait() for process in running]):
        raise RuntimeError("gdal_translate failed")
    return time.perf_counter() - begun


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--latency", type=float, default=50, help="milliseconds")
    parser.add_argument("--km", type=float, nargs="*", default=[20, 50])
    parser.add_argument("--size", type=int, default=FULL)
    arguments = parser.parse_args()
    gdal.UseExceptions()
    tile = scenes(FOLDER, arguments.size)["tile"]
    folder = FOLDER / f"cogs_{arguments.size}"
    cogs(folder, tile)
    x, _, _, y, _, _ = describe(tile).grid.geotransform
    env = environment()
    with slow_server(folder, arguments.latency) as base, tempfile.TemporaryDirectory() as work:
        items = Path(work) / "items.json"
        items.write_text(json.dumps({"type": "FeatureCollection", "features": [item(tile, base)]}))
        for km in arguments.km:
            side = round(km * 100)
            left = arguments.size // 2 - side // 2
            bounds = (x + 10 * left, x + 10 * (left + side), y - 10 * (left + side), y - 10 * left)
            extent = f"{','.join(f'{each:.1f}' for each in bounds)} [EPSG:32634]"
            found = []
            for _ in range(arguments.rounds):
                start = run([program(), "help", "s2landcover:classareas"], env).wall
                target = f"{work}/stack.tif"
                command = algorithm("stacfetch", STAC_URL=items, BANDS=",".join(KEYS), EXTENT=extent, OUTPUT=target)
                # what was read is kept between runs: each begins without
                shutil.rmtree(Path(env["QGIS_CUSTOM_CONFIG_PATH"]) / "profiles" / "default" / "cache", ignore_errors=True)
                own = run(command, env).wall - start
                found.append((own, translated(base, (left, left, side, side), Path(work))))
                os.unlink(target)
            mine, other = (statistics.median(each) for each in zip(*found))
            megabytes = 8 * side * side / 1e6
            print(
                f"{km:g} x {km:g} km, {arguments.latency:g} ms: stacfetch {mine:.2f} s ({megabytes / mine:.0f} MB of pixels a second), "
                f"gdal_translate {other:.2f} s ({megabytes / other:.0f}): {other / mine:.0%} of its throughput; rounds {found}",
                flush=True,
            )


if __name__ == "__main__":
    main()
