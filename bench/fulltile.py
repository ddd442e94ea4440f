"""The plugin on a whole Sentinel-2 tile through qgis_process, against what GDAL alone needs and against other programs.

`python -m bench.fulltile [--size 10980] [--rounds 3] [--only NAME …] [--peers] [--real FOLDER]` (`make bench`, `make bench FULL=1`). In
every round the cases run one after the other; the figures are medians, those of the plugin without the start of QGIS. Scenes and the table
go to build/bench. FOLDER: with real bands, B02.tif, B03.tif, B04.tif and B08.tif, which are mirrored to a tile.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from osgeo import gdal

from demo.qgis import ROOT, environment, program
from s2landcover_plugin.engine.model_contract import read_statements
from s2landcover_plugin.engine.network_setup import Ledger, Request, prepare
from s2landcover_plugin.engine.networks import Network
from s2landcover_plugin.engine.onnx_file import inspect_model
from s2landcover_plugin.engine.progress import Progress
from s2landcover_plugin.engine.raster import describe

from . import fetching, peers
from .measure import Cost, Failed, median, run
from .scenes import BANDS, FULL, mirrored, simulate
from .unet import write_unet

FOLDER = ROOT / "build" / "bench"
SHIFT = (1.37, -0.62)
BAND_MAP = "blue=1,green=2,red=3,nir=4"
START = "start of QGIS"
MOST_NETWORK_PX = 4096
LATENCY_MS = 50
WHOLE = "plugin, kmeans, whole tile"
LEAST = {"GRASS": 8.0, "remotior_sensus": 90.0, "OTB": 15.0}
"""Times the CPU of the plugin that other programs should take at least."""


@dataclass(frozen=True)
class Case:
    """Something to measure.

    Attributes:
        against: the name of the limit or of the other case that it is compared with.
        most: times the limit that it may take.
        most_mb: resident memory that it may take.
        most_s: CPU seconds that it may take.
        least: times the CPU of the plugin that another program should take at least.
        judged: which times are held against `most`.
        is_plugin: a run of qgis_process, whose start is taken off.
        tells: the command prints its own wall and CPU seconds as JSON, which count instead of those of the process.
    """

    name: str
    command: list[str]
    against: str = ""
    most: float | None = None
    most_mb: float | None = None
    most_s: float | None = None
    least: float | None = None
    judged: tuple[str, ...] = ("wall", "CPU")
    is_plugin: bool = True
    tells: bool = False


def algorithm(name: str, **parameters: Any) -> list[str]:
    """A run of qgis_process."""
    return [program(), "run", f"s2landcover:{name}", "--", *(f"{key}={value}" for key, value in parameters.items())]


def limit(name: str, *arguments: str) -> Case:
    """What GDAL alone needs."""
    return Case(name, [sys.executable, "-m", "bench.limit", *arguments], is_plugin=False)


def told(name: str, module: str, *arguments: object, **more: Any) -> Case:
    """A measurement that a module of this folder makes and prints."""
    return Case(name, [sys.executable, "-m", f"bench.{module}", *map(str, arguments)], is_plugin=False, tells=True, **more)


def scenes(folder: Path, size: int) -> dict[str, str]:
    """The scenes, made where they are not there yet."""
    ten, twenty = BANDS[:4], BANDS[4:10]
    plans: dict[str, dict[str, Any]] = {
        "tile": {"size": size, "names": ten},
        "later": {"size": size, "names": ten, "date": 1, "shift": SHIFT},
        "twenty": {"size": size // 2, "names": twenty, "pixel_m": 20},
    }
    paths = {name: str(folder / f"{name}_{size}.tif") for name in plans}
    for name, plan in plans.items():
        if not Path(paths[name]).exists():
            simulate(paths[name] + ".part", **plan)
            os.replace(paths[name] + ".part", paths[name])
        raw = plan["size"] ** 2 * 2 * len(plan["names"])
        print(f"{Path(paths[name]).name}: {raw / 1e6:.0f} MB of pixels, {raw / os.path.getsize(paths[name]):.2f} times smaller", flush=True)
    return paths


def cases(folder: Path, of: dict[str, str]) -> list[Case]:
    """What is measured, each before its limit: a limit writes what the case has written."""
    out = {name: str(folder / f"{name}.tif") for name in ("kmeans", "gmm", "indices", "stack", "change", "aligned", "limit")}
    both = {"BEFORE": of["tile"], "AFTER": of["later"], "BAND_MAP": BAND_MAP, "OUTPUT": out["change"]}
    one, pair = "read the tile, write classes", "read both dates"
    clusters = {"INPUT": of["tile"], "N_CLUSTERS": 8}
    names = "NDVI,NDWI,SAVI,EVI,GNDVI"
    change = {"ndvi-drop": 1.6, "irmad": 2.5, "ndvi-drop,kmeans,gmm,irmad": 5.0}
    return [
        Case(START, [program(), "help", "s2landcover:classareas"], is_plugin=False),
        Case("k-means, k = 8", algorithm("clusterraster", **clusters, METHOD="kmeans", OUTPUT=out["kmeans"]), one, 1.3, 600),
        Case("Gaussian mixture, k = 8", algorithm("clusterraster", **clusters, METHOD="gmm", OUTPUT=out["gmm"]), one, 1.7, 600),
        limit(one, of["tile"], "--result", out["kmeans"], out["limit"]),
        Case(
            "choice of k, 2 to 15",
            algorithm("clusterselection", INPUT=of["tile"], K_MIN=2, K_MAX=15, SAMPLE_SIZE=50000, OUTPUT_TABLE=folder / "k.csv"),
            most_s=15,
        ),
        Case(
            "five indices",
            algorithm("spectralindices", INPUT=of["tile"], INDICES=names, OUTPUT=out["indices"]),
            "read the tile, write five indices",
            1.4,
        ),
        limit("read the tile, write five indices", of["tile"], "--result", out["indices"], out["limit"]),
        Case(
            "stack of 4 + 6 bands",
            [*algorithm("bandstack", OUTPUT=out["stack"]), f"INPUTS={of['tile']}", f"INPUTS={of['twenty']}"],
            "gdalbuildvrt + gdal_translate",
            1.4,
        ),
        limit("gdalbuildvrt + gdal_translate", "--stack", of["tile"], of["twenty"], "--result", out["stack"], out["limit"]),
        *(
            Case(f"change, {methods}", algorithm("detectchange", **both, METHODS=methods), pair, most, 1500)
            for methods, most in change.items()
        ),
        limit(pair, of["tile"], of["later"]),
        Case(
            "align",
            algorithm("alignrasters", REFERENCE=of["tile"], INPUT=of["later"], OUTPUT=out["aligned"]),
            "read a date, write it aligned",
        ),
        limit("read a date, write it aligned", of["later"], "--result", out["aligned"], out["limit"]),
        told("shift of a tile found, after reading", "shift", of["tile"], of["later"], most_s=1),
    ]


def real_cases(folder: Path, bands: Path, size: int) -> list[Case]:
    """k-means and a mixture on a tile of real pixels."""
    tile = folder / f"real_{size}.tif"
    if not tile.exists():
        mirrored(f"{tile}.part", bands, BANDS[:4], size)
        os.replace(f"{tile}.part", tile)
    one, target = "read the real tile, write classes", str(folder / "real.tif")

    def case(name: str, method: str, most: float) -> Case:
        return Case(name, algorithm("clusterraster", INPUT=tile, N_CLUSTERS=8, METHOD=method, OUTPUT=target), one, most, 600)

    own = [case("k-means, real pixels", "kmeans", 1.3), case("Gaussian mixture, real pixels", "gmm", 1.7)]
    return [*own, limit(one, str(tile), "--result", target, str(folder / "limit.tif"))]


def network_cases(folder: Path, tile: str, size: int) -> list[Case]:
    """A U-Net on a part of the tile, and the time in session.run of the same windows."""
    side = min(size, MOST_NETWORK_PX)
    part, model = folder / f"network_{side}.tif", folder / f"unet_{side}.onnx"
    if not model.exists():
        gdal.Translate(str(part), tile, srcWin=[(size - side) // 2] * 2 + [side, side], creationOptions=["TILED=YES", "COMPRESS=DEFLATE"])
        write_unet(model, str(part))
    facts = describe(str(part))
    network = Network(str(model), inspect_model(str(model)), "cpu")
    tiling = prepare(network, facts, read_statements(str(model), {}, {}, Progress()), Request(), Ledger(), Progress()).tiling
    run_it = algorithm("segmentraster", INPUT=part, MODEL=model, SCALE="/10000", PROVIDER="cpu", OUTPUT=folder / "network.tif")
    against = "session.run of its windows"
    return [
        Case(f"U-Net, {side} x {side} px", run_it, against, 1.05),
        told(against, "segmentation", "--bare", model, part, tiling.tile, tiling.margin, tiling.batch),
    ]


def fetch_cases(folder: Path, tile: str, base: str, size: int) -> list[Case]:
    """Half of the tile each way from a server behind a latency, and gdal_translate with as many connections."""
    items, target = folder / "items.json", folder / "fetched.tif"
    items.write_text(json.dumps({"type": "FeatureCollection", "features": [fetching.item(tile, base)]}))
    window = (size // 4, size // 4, size // 2, size // 2)
    fetch = algorithm("stacfetch", STAC_URL=items, BANDS=",".join(fetching.KEYS), EXTENT=fetching.extent(tile, window), OUTPUT=target)
    # what was read is kept between runs: each begins without
    empty = ["bash", "-c", 'rm -rf "$QGIS_CUSTOM_CONFIG_PATH/profiles/default/cache" && exec "$@"', "-"]
    against = "gdal_translate, as many connections"
    return [
        Case(f"stacfetch, {LATENCY_MS} ms", [*empty, *fetch], against, 1.25, judged=("wall",)),
        told(against, "fetching", "--translate", base, *window),
    ]


def measured(todo: list[Case], rounds: int) -> dict[str, Cost]:
    """Medians, those of the plugin without the start of QGIS."""
    env, costs = environment(), {case.name: list[Cost]() for case in todo}
    for number in range(rounds):
        for case in todo:
            try:
                cost = run(case.command, env)
            except Failed as err:
                print(err, file=sys.stderr)
                continue
            if case.tells:
                figures = json.loads(cost.said.strip().splitlines()[-1])
                cost = Cost(figures["wall"], figures["cpu"], cost.peak_mb)
            costs[case.name].append(cost)
            print(f"  {number + 1}: {case.name}: {cost.wall:.2f} s, {cost.cpu:.2f} CPU s, {cost.peak_mb:.0f} MB", flush=True)
    found = {name: median(each) for name, each in costs.items() if each}
    start = found.get(START)
    plugin = {case.name for case in todo if case.is_plugin}
    return {name: cost - start if start and name in plugin else cost for name, cost in found.items()}


def table(todo: list[Case], found: dict[str, Cost]) -> str:
    """All figures beside their targets, as Markdown."""
    lines = ["| | wall s | CPU s | MB | x wall | x CPU | target | |", "| --- | --- | --- | --- | --- | --- | --- | --- |"]
    for case in todo:
        cost = found.get(case.name)
        if cost is None:
            lines.append(f"| {case.name} | failed | | | | | | |")
            continue
        limits = found.get(case.against)
        ratios = ["", ""] if limits is None else [f"{cost.wall / limits.wall:.2f}", f"{cost.cpu / limits.cpu:.2f}"]
        wanted = [f"<= {case.most:g} x{'' if len(case.judged) > 1 else ' ' + case.judged[0]}"] if case.most else []
        wanted += [f"<= {case.most_mb:g} MB"] if case.most_mb else []
        wanted += [f"<= {case.most_s:g} CPU s"] if case.most_s else []
        wanted += [f">= {case.least:g} x CPU"] if case.least else []
        missed = []
        if case.least and limits is not None and cost.cpu < case.least * limits.cpu:
            missed.append("CPU")
        if case.most and limits is not None:
            both = {"wall": cost.wall / limits.wall, "CPU": cost.cpu / limits.cpu}
            missed += [name for name in case.judged if both[name] > case.most]
        missed += ["memory"] if case.most_mb and cost.peak_mb > case.most_mb else []
        missed += ["CPU"] if case.most_s and cost.cpu > case.most_s else []
        verdict = ("missed: " + ", ".join(missed) if missed else "met") if wanted else ""
        figures = [f"{cost.wall:.2f}", f"{cost.cpu:.2f}", f"{cost.peak_mb:.0f}", *ratios]
        lines.append(f"| {case.name} | {' | '.join(figures)} | {', '.join(wanted)} | {verdict} |")
    return "\n".join(lines)


def versions() -> str:
    """What it was measured with."""
    import sklearn

    said = run([program(), "--version"], environment()).said.splitlines()
    qgis = next((line.split(" '")[0] for line in said if line.startswith("QGIS 3")), "QGIS")
    parts = [f"{os.cpu_count()} cores", f"Python {platform.python_version()}", f"GDAL {gdal.__version__}", f"NumPy {np.__version__}"]
    return ", ".join([*parts, f"scikit-learn {sklearn.__version__}", qgis])


def peer_cases(folder: Path, of: dict[str, str], size: int) -> list[Case]:
    """Other programs on a quarter of the tile (GRASS on the whole one too), and the plugin on the same."""
    side = size // 2
    crop = str(folder / f"crop_{side}.tif")
    if not Path(crop).exists():
        options = ["TILED=YES", "BLOCKXSIZE=1024", "BLOCKYSIZE=1024", "COMPRESS=DEFLATE", "PREDICTOR=2", "INTERLEAVE=BAND"]
        window = [size // 4, size // 4, side, side]
        gdal.Translate(crop, of["tile"], srcWin=window, creationOptions=options)
    own = [
        Case(f"plugin, {method}", algorithm("clusterraster", INPUT=crop, N_CLUSTERS=8, METHOD=method, OUTPUT=folder / f"{method}_crop.tif"))
        for method in ("kmeans", "gmm")
    ]
    others = []
    for name, command in peers.commands(crop, folder).items():
        least = next((times for start, times in LEAST.items() if name.startswith(start)), None)
        against = "plugin, gmm" if "GMM" in name or "Bayes" in name else "plugin, kmeans"
        others.append(Case(name, command, against, least=least, is_plugin=False))
    if shutil.which("grass"):
        whole = Case(WHOLE, algorithm("clusterraster", INPUT=of["tile"], N_CLUSTERS=8, OUTPUT=folder / "kmeans_whole.tif"))
        others += [whole, Case("GRASS, whole tile", peers.grass(of["tile"], folder), WHOLE, least=LEAST["GRASS"], is_plugin=False)]
    return [Case(START, [program(), "help", "s2landcover:classareas"], is_plugin=False), *own, *others]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=FULL)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--real", type=Path, help="folder of real bands")
    arguments = parser.parse_args()
    gdal.UseExceptions()
    FOLDER.mkdir(parents=True, exist_ok=True)
    os.chdir(ROOT)
    of = scenes(FOLDER, arguments.size)
    with ExitStack() as servers:
        todo = peer_cases(FOLDER, of, arguments.size) if arguments.peers else cases(FOLDER, of)
        if not arguments.peers:
            base = servers.enter_context(fetching.slow_server(fetching.cogs(FOLDER, of["tile"]), LATENCY_MS))
            todo += [*network_cases(FOLDER, of["tile"], arguments.size), *fetch_cases(FOLDER, of["tile"], base, arguments.size)]
        if arguments.real:
            todo += real_cases(FOLDER, arguments.real, arguments.size)
        if arguments.only:
            wanted = [case for case in todo if any(text in case.name for text in arguments.only)]
            needed = {case.against for case in wanted} | {START}
            todo = [case for case in todo if case in wanted or case.name in needed]
        figures = table(todo, measured(todo, arguments.rounds))
    text = f"{arguments.size} x {arguments.size} px, {arguments.rounds} rounds; {versions()}\n\n{figures}\n"
    print("\n" + text)
    (FOLDER / f"table_{arguments.size}{'_peers' if arguments.peers else ''}.md").write_text(text)


if __name__ == "__main__":
    main()
