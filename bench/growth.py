"""How time and memory of `clusterraster` grow with the size of the raster and with its bands.

`python -m bench.growth [--rounds 3] [--picture docs/growth.png]`: 1024 to 10980 pixels a side with 4 bands, and 4 to 12 bands with 5490
pixels a side. Medians of whole processes, the start of QGIS taken off the times; a straight line is fitted to each row of times.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import matplotlib
import numpy as np

from demo.qgis import ROOT, environment, program

from .fulltile import FOLDER, algorithm
from .measure import Cost, median, run
from .scenes import BANDS, FULL, simulate

SIDES = (1024, 2048, 4096, 6144, 8192, FULL)
COUNTS = (4, 6, 8, 10, 12)
SIDE = 5490
METHODS = {"kmeans": "k-means, k = 8", "gmm": "Gaussian mixture, k = 8"}


def scene(side: int, count: int) -> str:
    """A simulated tile, made where it is not there yet."""
    path = FOLDER / (f"tile_{side}.tif" if count == 4 else f"bands_{count}_{side}.tif")
    if not path.exists():
        simulate(f"{path}.part", side, BANDS[:count])
        os.replace(f"{path}.part", path)
    return str(path)


def measured(rounds: int) -> dict[tuple[str, int, int], Cost]:
    """(method, side, bands) -> cost."""
    env = environment()
    whole = scene(SIDE, COUNTS[-1])
    cases = [(method, side, 4, scene(side, 4)) for method in METHODS for side in SIDES]
    cases += [(method, SIDE, count, whole) for method in METHODS for count in COUNTS]
    found: dict[tuple[str, int, int], list[Cost]] = {case[:3]: [] for case in cases}
    starts = []
    for _ in range(rounds):
        starts.append(run([program(), "help", "s2landcover:classareas"], env))
        for method, side, count, path in cases:
            target = FOLDER / "growth.tif"
            bands = ",".join(BANDS[:count])
            found[method, side, count].append(
                run(algorithm("clusterraster", INPUT=path, BANDS=bands, N_CLUSTERS=8, METHOD=method, OUTPUT=target), env)
            )
    start = median(starts)
    return {case: median(costs) - start for case, costs in found.items()}


def table(found: dict[tuple[str, int, int], Cost]) -> str:
    """All figures as Markdown, and how far each row of times is from a straight line."""
    lines = ["| method | pixels | bands | CPU s | MB |", "| --- | --- | --- | --- | --- |"]
    for (method, side, count), cost in found.items():
        lines.append(f"| {METHODS[method]} | {side} x {side} | {count} | {cost.cpu:.2f} | {cost.peak_mb:.0f} |")
    lines.append("")
    for method, name in METHODS.items():
        for what, x, y in rows(found, method):
            slope, constant = np.polyfit(x, y, 1)
            off = np.abs(np.polyval((slope, constant), x) - y).max() / max(y)
            unit = "million pixels" if what == "size" else "band"
            lines.append(
                f"{name}, {what}: {constant:.2f} s and {slope:.3f} CPU s for each {unit}; largest distance from the line {off:.0%}"
            )
    return "\n".join(lines)


def rows(found: dict[tuple[str, int, int], Cost], method: str) -> list[tuple[str, list[float], list[float]]]:
    """(what grows, how much of it, CPU seconds)."""
    sides = [(side * side / 1e6, found[method, side, 4].cpu) for side in SIDES]
    counts = [(float(count), found[method, SIDE, count].cpu) for count in COUNTS]
    return [(what, [each[0] for each in pairs], [each[1] for each in pairs]) for what, pairs in (("size", sides), ("bands", counts))]


def draw(found: dict[tuple[str, int, int], Cost], path: Path) -> None:
    """Four panels: CPU time and memory against size and bands."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(9, 6), dpi=100, sharey="row", layout="constrained")
    for (method, name), colour, mark in zip(METHODS.items(), ("#0072b2", "#d55e00"), "os"):
        for column, (what, x, y) in enumerate(rows(found, method)):
            keys = [(method, side, 4) for side in SIDES] if what == "size" else [(method, SIDE, count) for count in COUNTS]
            line = np.polyval(np.polyfit(x, y, 1), x)
            axes[0, column].plot(x, line, color=colour, linewidth=1, alpha=0.5)
            axes[0, column].plot(x, y, mark, color=colour, label=name)
            axes[1, column].plot(x, [found[key].peak_mb for key in keys], mark + "-", color=colour, linewidth=1, label=name)
    for axis, text in zip(axes[:, 0], ("CPU time (s)", "Peak memory (MB)")):
        axis.set_ylabel(text)
    for axis, text in zip(axes[1], ("Million pixels, 4 bands", f"Bands, {SIDE} x {SIDE} pixels")):
        axis.set_xlabel(text)
    for axis in axes.flat:
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[1, 1].set_xticks(COUNTS)
    axes[0, 1].set_xticks(COUNTS)
    axes[0, 0].legend(frameon=False, loc="upper left")
    figure.savefig(path)


def main() -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--picture", default=str(ROOT / "docs" / "growth.png"))
    arguments = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    found = measured(arguments.rounds)
    print(table(found))
    draw(found, Path(arguments.picture))


if __name__ == "__main__":
    main()
