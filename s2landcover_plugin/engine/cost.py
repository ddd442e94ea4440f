"""What a run costs: time, processor time, memory."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class RunCost:
    """What a run has cost until now.

    Attributes:
        wall_s, cpu_s: seconds passed, and seconds of all processor cores.
        peak_mb: largest resident memory of the process since it started, million bytes; None where the system does not tell.
    """

    wall_s: float
    cpu_s: float
    peak_mb: float | None


class Stopwatch:
    """Started with a run."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def cost(self) -> RunCost:
        """The cost since the start."""
        return RunCost(time.perf_counter() - self._wall, time.process_time() - self._cpu, peak_memory_mb())


def peak_memory_mb() -> float | None:
    """Largest resident memory of this process, million bytes; None on Windows."""
    try:
        import resource
    except ImportError:
        return None
    # Linux counts in KiB, macOS in bytes (getrusage(2))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
