"""Whole processes measured in turn: wall and CPU seconds, peak memory of the process tree."""

from __future__ import annotations

import os
import resource
import signal
import statistics
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Mapping, Sequence

SAMPLED_S = 0.05
YOUNG_S = 0.2
PAGE = resource.getpagesize()


class Failed(Exception):
    """A measured command did not end well."""


@dataclass(frozen=True)
class Cost:
    """What one process and its children took.

    Attributes:
        wall, cpu: seconds.
        peak_mb: largest sum of resident memory over the process tree seen every SAMPLED_S seconds, million bytes.
        said: standard output.
    """

    wall: float
    cpu: float
    peak_mb: float
    said: str = ""

    def __sub__(self, start: Cost) -> Cost:
        """Without what a start alone takes; the memory stays."""
        return Cost(self.wall - start.wall, self.cpu - start.cpu, self.peak_mb, self.said)


def run(command: Sequence[str], env: Mapping[str, str] | None = None, timeout: float = 3600) -> Cost:
    """Run a command to its end.

    Raises:
        Failed: it did not return 0 in time.
    """
    begun = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=None if env is None else dict(env), start_new_session=True
    )
    peak, over = [0], threading.Event()

    def watch() -> None:
        while not over.wait(SAMPLED_S):
            peak[0] = max(peak[0], _resident(process.pid))
            if time.perf_counter() - begun > timeout:
                os.killpg(process.pid, signal.SIGKILL)
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    over.set()
    watcher.join()
    if process.returncode:
        raise Failed(f"{' '.join(command)[:300]}\nreturned {process.returncode} after {wall:.0f} s:\n{said[-1500:]}")
    return Cost(wall, used.ru_utime + used.ru_stime, peak[0] / 1e6, said)


def _resident(root: int) -> int:
    """Bytes of a process and its descendants. Those just forked share all pages with their parent until they run a program: not counted."""
    total, todo = 0, [root]
    while todo:
        process = todo.pop()
        try:
            if process == root or _age_s(process) > YOUNG_S:
                total += int(Path(f"/proc/{process}/statm").read_text().split()[1]) * PAGE
            for task in os.listdir(f"/proc/{process}/task"):
                todo += [int(child) for child in Path(f"/proc/{process}/task/{task}/children").read_text().split()]
        except (OSError, IndexError):
            continue
    return total


def _age_s(process: int) -> float:
    """Seconds since a process was started."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return float(Path("/proc/uptime").read_text().split()[0]) - int(fields[19]) / os.sysconf("SC_CLK_TCK")


def median(costs: Sequence[Cost]) -> Cost:
    """Medians of the figures, each on its own; of the memory the largest."""
    middle = [statistics.median(getattr(cost, name) for cost in costs) for name in ("wall", "cpu")]
    return Cost(*middle, max(cost.peak_mb for cost in costs))
