"""`segmentraster` against a bare onnxruntime loop over the same tiles, which neither reads nor writes.

`python -m bench.segmentation MODELS BANDS`. MODELS: a folder with dynamicworld_rawdn_nchw_u16.onnx; BANDS: one with B02.tif … B12.tif.
The scene is mirrored to twice its size. Wall and CPU time of both, taken in turns; the ratio is what counts.
`python -m bench.segmentation --bare MODEL SCENE TILE MARGIN BATCH`: the loop alone over reflectance, its seconds as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable

import numpy as np
import onnxruntime
from osgeo import gdal

from s2landcover_plugin.engine.bandfiles import StackOptions, run_stack
from s2landcover_plugin.engine.progress import Progress
from s2landcover_plugin.engine.raster import describe
from s2landcover_plugin.engine.segmentation import Tiling
from s2landcover_plugin.engine.segmenting import SegmentOptions, SegmentOutputs, run_segmentation

from .scenes import create

ROUNDS = 3
BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B11", "B12")


def doubled(folder: Path, target: str) -> np.ndarray:
    """The scene and its mirror images as a stack of nine bands."""
    small = target.replace(".tif", "_small.tif")
    files = [str(path) for path in sorted(folder.glob("B*.tif"))]
    run_stack(files, small, StackOptions(bands=BANDS, resolution="10"), None, Progress())
    pixels = gdal.Open(small).ReadAsArray()
    pixels = np.concatenate([pixels, pixels[:, ::-1]], axis=1)
    pixels = np.concatenate([pixels, pixels[:, :, ::-1]], axis=2)
    result = create(target, pixels.shape[2], pixels.shape[1], BANDS, 256, 10)
    result.WriteArray(pixels)
    result.FlushCache()
    return np.asarray(pixels)


def timed(action: Callable[[], Any]) -> tuple[float, float, Any]:
    """Wall and CPU seconds, and the result."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = action()
    return time.perf_counter() - wall, time.process_time() - cpu, result


def opened(model: str) -> Any:
    """A session with a thread for each core."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = os.cpu_count() or 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def loop(session: Any, pixels: np.ndarray, scene: str, tiling: Tiling) -> Callable[[], None]:
    """The network over all tiles of pixels (bands, rows, cols) in memory."""
    padded = np.pad(pixels, ((0, 0), *([(tiling.margin, tiling.tile)] * 2)), mode="reflect")
    windows = list(tiling.windows(describe(scene).grid))
    name = session.get_inputs()[0].name

    def bare() -> None:
        for window in windows:
            corners = [window.x + n * tiling.step for n in range(-(-window.width // tiling.step))]
            batch = np.stack([padded[:, window.y : window.y + tiling.tile, x : x + tiling.tile] for x in corners])
            session.run(None, {name: batch})

    return bare


def compared(source: str, model: str, tile: int, pixels: np.ndarray, session: Any) -> tuple[tuple[float, ...], Tiling]:
    """(wall ratio, CPU ratio, seconds of the plugin, of the loop), and the tiles."""
    outputs = SegmentOutputs(source.replace("scene", "classes"))
    wall, cpu, report = timed(lambda: run_segmentation(source, model, outputs, SegmentOptions(tile_size=tile), Progress()))
    bare_wall, bare_cpu, _ = timed(loop(session, pixels, source, report.tiling))
    return (wall / bare_wall, cpu / bare_cpu, wall, bare_wall), report.tiling


def bare(model: str, scene: str, tile: int, margin: int, batch: int) -> None:
    """Print what the loop takes."""
    pixels = gdal.Open(scene).ReadAsArray().astype(np.float32) / 10000
    wall, cpu, _ = timed(loop(opened(model), pixels, scene, Tiling(tile, margin, batch)))
    print(json.dumps({"wall": wall, "cpu": cpu}))


def main() -> None:
    """Measure and print."""
    if sys.argv[1] == "--bare":
        return bare(*sys.argv[2:4], *map(int, sys.argv[4:7]))
    models, bands = map(Path, sys.argv[1:3])
    model = str(models / "dynamicworld_rawdn_nchw_u16.onnx")
    with tempfile.TemporaryDirectory() as work:
        source = f"{work}/scene.tif"
        pixels = doubled(bands, source)
        session = opened(model)
        for tile in (0, 256):
            found = [compared(source, model, tile, pixels, session) for _ in range(ROUNDS)]
            median = np.median([figures for figures, _ in found], axis=0)
            tiling = found[0][1]
            print(
                f"tile {tiling.tile} px, margin {tiling.margin}, {pixels.shape[2]} x {pixels.shape[1]} px: plugin {median[2]:.1f} s, "
                f"bare loop {median[3]:.1f} s; wall x {median[0]:.3f}, CPU x {median[1]:.3f} (medians of {ROUNDS})"
            )


if __name__ == "__main__":
    main()
