"""`python -m bench.shift REFERENCE IMAGE`: the CPU seconds that finding a shift takes beside reading, and the shift found.

The first run, which imports OpenCV and SciPy, is not counted. Several threads read: the wall time is that of all.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any
from unittest.mock import patch

from s2landcover_plugin.engine.alignment import AlignOptions, estimate_alignment
from s2landcover_plugin.engine.progress import Progress
from s2landcover_plugin.engine.raster import RasterReader, describe

BAND_MAP = "blue=1,green=2,red=3,nir=4"


def main() -> None:
    """Measure and print."""
    reading, lock = [0.0], threading.Lock()
    read = RasterReader.read_into

    def timed(self: RasterReader, *places: Any) -> None:
        begun = time.thread_time()
        try:
            read(self, *places)
        finally:
            with lock:
                reading[0] += time.thread_time() - begun

    infos = [describe(path) for path in sys.argv[1:3]]
    for _ in range(2):
        reading[0] = 0.0
        wall, cpu = time.perf_counter(), time.process_time()
        with patch.object(RasterReader, "read_into", timed):
            found = estimate_alignment(infos[0], infos[1], AlignOptions(), Progress(), (BAND_MAP, BAND_MAP))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(json.dumps({"wall": wall, "cpu": cpu - reading[0], "shift_px": found.shift_px, "trusted": found.trusted}))


if __name__ == "__main__":
    main()
