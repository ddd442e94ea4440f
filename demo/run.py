"""The main job from end to end by qgis_process: fetch, cluster, report, a picture of the map, and change between two dates.

`python -m demo.run [--live] [--out build/demo]`. Without --live: the simulated area, served by rustac and nginx on loopback.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Iterator

from s2landcover_plugin.engine.sentinel2 import L2A_BANDS

from . import change_pair, scene, servers
from .qgis import environment, qgis_process

AREA = {
    "CENTER": "15.0399,46.9265 [EPSG:4326]",
    "WIDTH_KM": "5.4",
    "HEIGHT_KM": "5.4",
    "START_DATE": "2024-06-01",
    "END_DATE": "2024-06-30",
}
LIVE_AREA = {
    "CENTER": "14.09,46.37 [EPSG:4326]",
    "WIDTH_KM": "12",
    "HEIGHT_KM": "12",
    "START_DATE": "2023-07-01",
    "END_DATE": "2023-08-31",
    "CATALOG": "earth-search",
}
"""Lake Bled and the valley around it, Slovenia."""


@contextlib.contextmanager
def simulated_catalog() -> Iterator[dict[str, str]]:
    """Parameters for a search in the simulated area, while its servers run."""
    with tempfile.TemporaryDirectory() as root, tempfile.TemporaryDirectory() as work:
        Path(root).chmod(0o755)
        items = scene.write_demo(Path(root))
        with servers.file_server(Path(root), Path(work)) as files:
            served = servers.with_base(items, files.url)
            with servers.stac_api([scene.collection()], served, Path(work)) as api:
                print(f"STAC API {api}, COGs {files.url}")
                yield {**AREA, "STAC_URL": api, "COLLECTION": scene.COLLECTION}


def run(out: Path, search: dict[str, str]) -> None:
    """Fetch, stack, index, cluster, count, draw and compare into the folder `out`."""
    fetched, stack, clusters, report = out / "fetched.tif", out / "bands.tif", out / "landcover.tif", out / "landcover.html"
    wanted = ",".join([*L2A_BANDS, "SCL"])
    qgis_process("s2landcover:stacfetch", {**search, "BANDS": wanted, "OUTPUT": fetched, "OUTPUT_LEDGER": out / "ledger.json"})
    qgis_process("s2landcover:bandstack", {"INPUTS": fetched, "MASK_CLOUDS": "true", "OUTPUT": stack})
    qgis_process("s2landcover:spectralindices", {"INPUT": stack, "INDICES": "NDVI,NDWI,BSI", "OUTPUT": out / "indices.tif"})
    outputs = {"OUTPUT": clusters, "OUTPUT_MODEL": out / "model.json", "OUTPUT_TABLE": out / "landcover.csv", "OUTPUT_HTML": report}
    qgis_process("s2landcover:clusterraster", {"INPUT": stack, "N_CLUSTERS": "0", **outputs})
    qgis_process("s2landcover:classareas", {"INPUT": clusters, "OUTPUT_TABLE": out / "areas.csv", "OUTPUT_HTML": out / "areas.html"})
    picture = out / "map.png"
    subprocess.run([sys.executable, "-m", "demo.map_png", str(clusters), str(stack), str(picture)], check=True, env=environment())
    change = change_between_dates(out)
    print(f"\nClass map   {clusters}\nReport      {report}\nPicture     {picture}\nLedger      {out / 'ledger.json'}\nChange      {change}")


def change_between_dates(out: Path) -> Path:
    """Detect planted landslides between two simulated dates; returns the report."""
    before, after, scars = change_pair.write_pair(out)
    report = out / "change.html"
    outputs = {
        "OUTPUT": out / "change.tif",
        "OUTPUT_POLYGONS": out / "change.gpkg",
        "OUTPUT_TABLE": out / "change.csv",
        "OUTPUT_HTML": report,
    }
    qgis_process("s2landcover:detectchange", {"BEFORE": before, "AFTER": after, "REFERENCE": scars, **outputs})
    return report


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--live", action="store_true", help="use Earth Search over the internet")
    parser.add_argument("--out", default="build/demo")
    arguments = parser.parse_args()
    out = Path(arguments.out).absolute()
    out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with contextlib.nullcontext(LIVE_AREA) if arguments.live else simulated_catalog() as search:
        run(out, search)
    print(f"Done in {time.monotonic() - started:.0f} s.")


if __name__ == "__main__":
    main()
