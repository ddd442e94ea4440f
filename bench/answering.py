"""How often a run tells its progress on a whole tile, and how soon it ends when the user asks to stop.

`python -m bench.answering [--size 10980] [--stops 4]`, with the scenes of bench.fulltile: each run is watched once to its end for the
longest time without progress, then stopped at some moments spread over it. In one process without QGIS, whose feedback is a flag like the
one here.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Callable

from osgeo import gdal

from s2landcover_plugin.engine.aligning import AlignOutputs, run_alignment
from s2landcover_plugin.engine.alignment import AlignOptions
from s2landcover_plugin.engine.bandfiles import StackOptions, run_stack
from s2landcover_plugin.engine.clustering import ClusterOptions, ClusterOutputs, run_clustering, run_selection
from s2landcover_plugin.engine.detecting import DetectInputs, DetectOptions, DetectOutputs, run_change
from s2landcover_plugin.engine.errors import Cancelled
from s2landcover_plugin.engine.progress import Progress
from s2landcover_plugin.engine.segmenting import SegmentOptions, SegmentOutputs, run_segmentation
from s2landcover_plugin.engine.spectral import run_indices

from .fulltile import BAND_MAP, FOLDER, MOST_NETWORK_PX, scenes
from .scenes import FULL

Run = Callable[[Progress], Any]


def runs(of: dict[str, str], size: int, out: Path) -> dict[str, Run]:
    """What is watched."""
    target, page = str(out / "o.tif"), str(out / "o.html")
    side = min(size, MOST_NETWORK_PX)
    part, model = str(FOLDER / f"network_{side}.tif"), str(FOLDER / f"unet_{side}.onnx")
    all_methods = ("ndvi-drop", "kmeans", "gmm", "irmad")

    def cluster(progress: Progress, **options: Any) -> Any:
        return run_clustering(of["tile"], ClusterOutputs(target, html=page), ClusterOptions(**options), progress)

    def change(progress: Progress) -> Any:
        inputs, outputs = DetectInputs(of["tile"], of["later"]), DetectOutputs(target, html=page)
        return run_change(inputs, outputs, DetectOptions(methods=all_methods, band_map=BAND_MAP), progress)

    found: dict[str, Run] = {
        "k-means, k chosen": lambda progress: cluster(progress, method="kmeans"),
        "Gaussian mixture, k = 8": lambda progress: cluster(progress, method="gmm", n_clusters=8),
        "choice of k, mixtures": lambda progress: run_selection(of["tile"], ClusterOptions(method="gmm"), str(out / "k.csv"), "", progress),
        "five indices": lambda progress: run_indices(of["tile"], ["NDVI", "NDWI", "SAVI", "EVI", "GNDVI"], "", target, progress),
        "stack of 4 + 6 bands": lambda progress: run_stack([of["tile"], of["twenty"]], target, StackOptions(), None, progress),
        "change, four methods": change,
        "align": lambda progress: run_alignment(of["tile"], of["later"], AlignOutputs(target), AlignOptions(), progress),
    }
    if Path(model).exists():
        options = SegmentOptions(scale="/10000", provider="cpu")
        found["U-Net"] = lambda progress: run_segmentation(part, model, SegmentOutputs(target), options, progress)
    return found


def watched(run: Run) -> tuple[float, float]:
    """Seconds that a run takes, and the longest time in which its progress did not move."""
    moved = [time.perf_counter()]
    last = [0.0]

    def take(fraction: float) -> None:
        if fraction != last[0]:
            last[0] = fraction
            moved.append(time.perf_counter())

    run(Progress(on_fraction=take))
    moved.append(time.perf_counter())
    return moved[-1] - moved[0], max(later - earlier for earlier, later in zip(moved, moved[1:]))


def stopped(run: Run, after: float) -> float | None:
    """Seconds from the wish to stop to the end; None if it ended before."""
    wished = threading.Event()
    asked: list[float] = []

    def wish() -> None:
        asked.append(time.perf_counter())
        wished.set()

    timer = threading.Timer(after, wish)
    timer.start()
    try:
        run(Progress(is_cancelled=wished.is_set))
    except Cancelled:
        return time.perf_counter() - asked[0]
    finally:
        timer.cancel()
    return None


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=FULL)
    parser.add_argument("--stops", type=int, default=4)
    parser.add_argument("--only", nargs="*", default=[])
    arguments = parser.parse_args()
    gdal.UseExceptions()
    of = scenes(FOLDER, arguments.size)
    print("| | s | longest without progress, s | slowest end after a wish to stop, s |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as out:
        for name, run in runs(of, arguments.size, Path(out)).items():
            if arguments.only and not any(text in name for text in arguments.only):
                continue
            whole, gap = watched(run)
            moments = [whole * (number + 0.5) / arguments.stops for number in range(arguments.stops)]
            ends = [each for moment in moments if (each := stopped(run, moment)) is not None]
            print(f"| {name} | {whole:.1f} | {gap:.2f} | {max(ends):.2f} (of {len(ends)}) |", flush=True)


if __name__ == "__main__":
    main()
