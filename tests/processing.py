"""Running the plugin's algorithms by qgis_process, and the areas and dates that tests ask for."""

from __future__ import annotations

import re

from demo.qgis import results, run_process

EXTENT = "501005,504005,5196005,5199005 [EPSG:32633]"
"""Inside the simulated area."""
JUNE = {"START_DATE": "2024-06-01", "END_DATE": "2024-06-30"}
INSIDE = "540000,560000,5130000,5150000 [EPSG:32633]"
"""Inside the real tile 33TWM."""
AUGUST = {"START_DATE": "2023-08-01", "END_DATE": "2023-08-31"}


def run(algorithm, parameters):
    """Run an algorithm that must succeed; its results."""
    done = run_process(algorithm if "/" in algorithm else f"s2landcover:{algorithm}", parameters)
    assert done.returncode == 0, done.stdout + done.stderr
    return results(done.stdout)


def fails(algorithm, parameters, said, folder):
    """Run an algorithm that must fail with one sentence, exit code 1, and no file."""
    before = sorted(folder.iterdir())
    done = run_process(f"s2landcover:{algorithm}", parameters)
    assert done.returncode == 1
    assert re.search(said, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(folder.iterdir()) == before
