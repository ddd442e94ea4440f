"""The one loop over the pixels of an image.

A reader gives windows, an op turns a block into a block, sinks take the results in window order. Reading and computing
run in the workers of a `concurrent.futures.Executor` (threads here; processes or a cluster work alike, for readers and ops can
be pickled); writing, progress and cancel stay with the caller.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import deque
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Callable, Generator, Iterable, Literal, Protocol, Sequence

import numpy as np

from .geotiff import TILE_PX, OutputBand
from .grid import Window
from .packages import one_blas_thread
from .progress import Progress
from .raster import CACHE_BYTES, SMALL_CACHE_BYTES, BoundedCache, Reader
from .waiting import POLL_S

BLOCK_PX = 1024
"""Side of a block: a multiple of the written tiles (512), and the tile size of the Sentinel-2 COGs."""
Padding = Literal["edge", "reflect"]
"""How pixels outside the grid are made up, as NumPy's pad calls it."""
MEMORY_BUDGET = 256 * 2**20
"""Bytes of input that all blocks in flight may hold together."""


@dataclass(frozen=True)
class Block:
    """Pixels of a window, and which of them count."""

    data: np.ndarray | tuple[np.ndarray, ...]
    """(bands, rows, cols), or one (rows, cols) array per plane where their types differ."""
    valid: np.ndarray
    """bool, True = use: (planes, rows, cols), or (rows, cols) where all planes share it."""
    window: Window

    @property
    def all_valid(self) -> np.ndarray:
        """(rows, cols): pixels that are valid in every plane."""
        return self.valid if self.valid.ndim == 2 else np.asarray(self.valid.all(axis=0))


class Op(ABC):
    """What is computed: a block in, a block of the same window out. Instances are sent to workers, so they must be picklable."""

    halo: int = 0
    """Pixels needed around the window on every side; edge-replicated and invalid outside the grid."""
    outputs: tuple[OutputBand, ...] = ()
    """One per plane of the result."""
    block_size: int | None = None
    """Inner window side if it must be a fixed one (windows at the edges are padded, then cut), else None."""
    parallel: bool = True
    """Whether it may run in several workers at once."""
    trims: bool = False
    """Whether its result is that of the inner window already (else the halo is cut off); what is made up outside the grid is then valid."""
    padding: Padding = "edge"
    """How pixels outside the grid are made up, as NumPy's pad calls it: `edge` or `reflect`."""

    spent: int = 0
    """How much of the efforts of all blocks was made so far, where blocks take seconds; it is looked at from another thread."""

    @abstractmethod
    def __call__(self, block: Block) -> Any:
        """The result for one block; an op without halo may return anything to `iter_blocks`."""

    def effort(self, window: Window) -> int:
        """What a window takes, in the unit of `spent`."""
        return 1

    def stop(self) -> None:  # noqa: B027
        """Called from another thread when a result is no longer wanted: the op may raise whatever it likes."""


class Sink(Protocol):
    """Where results go."""

    def write(self, window: Window, planes: Sequence[np.ndarray] | np.ndarray, valid: np.ndarray) -> None:
        """Take the result of one window; called in window order from one thread."""


@dataclass(frozen=True)
class SomePlanes:
    """A sink that hands some of the planes to another one."""

    sink: Sink
    planes: tuple[int, ...]

    def write(self, window: Window, planes: Sequence[np.ndarray] | np.ndarray, valid: np.ndarray) -> None:
        """Take the result of one window."""
        self.sink.write(window, [planes[i] for i in self.planes], valid if valid.ndim == 2 else valid[list(self.planes)])


def default_workers() -> int:
    """Threads that read and compute: the processor's cores, at most 4 (more only wait for each other)."""
    return max(1, min(4, os.cpu_count() or 1))


def block_windows(reader: Reader, block_size: int = BLOCK_PX, *, fixed: bool = False) -> list[Window]:
    """Windows that tile the reader's grid; whole rows where the file is stored in strips, unless the size is fixed."""
    grid = reader.grid
    if not fixed and reader.tile[0] >= grid.width > block_size:
        rows = max(1, block_size * block_size // grid.width)
        return list(grid.windows(grid.width, rows))
    return list(grid.windows(block_size, block_size))


def read_block(reader: Reader, window: Window, halo: int = 0, padding: Padding = "edge", counts: bool = False) -> Block:
    """A window of the reader with its halo, made up by padding where it reaches beyond the grid; that is invalid, unless it `counts`."""
    wanted = window.grown(halo)
    inside = wanted.clipped(reader.grid.width, reader.grid.height)
    data, valid = reader.read(inside)
    if inside != wanted:
        rows = inside.y - wanted.y, wanted.y + wanted.height - inside.y - inside.height
        columns = inside.x - wanted.x, wanted.x + wanted.width - inside.x - inside.width
        data = np.pad(data, ((0, 0), rows, columns), mode=padding)
        outside: dict[str, Any] = {"mode": padding} if counts else {"mode": "constant", "constant_values": False}
        valid = np.pad(valid, ((0, 0), rows, columns), **outside)
    return Block(data, valid, wanted)


def compute_block(reader: Reader, op: Op | None, window: Window) -> Any:
    """Read one window, run the op on it and cut the halo off: the unit of work that a worker gets."""
    if op is None:
        return read_block(reader, window)
    side = op.block_size
    wanted = Window(window.x, window.y, side, side) if side else window
    result = op(read_block(reader, wanted, op.halo, op.padding, op.trims))
    if op.trims or not op.halo and wanted == window:
        return result
    inner = (..., slice(op.halo, op.halo + window.height), slice(op.halo, op.halo + window.width))
    data = result.data
    cut = tuple(plane[inner] for plane in data) if isinstance(data, tuple) else data[inner]
    return replace(result, data=cut, valid=result.valid[inner], window=window)


def iter_blocks(
    reader: Reader,
    op: Op | None = None,
    *,
    windows: Iterable[Window] | None = None,
    block_size: int | None = None,
    executor: Executor | None = None,
    in_flight: int | None = None,
    progress: Progress | None = None,
    writes: bool = False,
) -> Generator[Any, None, None]:
    """Results of an op (or the plain blocks) in window order, with a bounded number in flight.

    An op without halo may return anything that can be pickled: samples, counts, sums.

    Args:
        windows: where to look, in order; by default windows that tile the grid.
        block_size: side of those default windows; results do not depend on it.
        executor: where blocks are read and computed; by default a thread pool that ends with the iteration.
        in_flight: most blocks submitted and not yet taken; by default what this machine's threads need.
        writes: whether a raster is written from the results as they come.

    Raises:
        Cancelled: the user asked to stop.
        EngineError: from the reader or the op; nothing is in flight any more when it arrives.
    """
    watch = progress or Progress()
    fixed = op.block_size if op else None
    todo = list(windows) if windows is not None else block_windows(reader, fixed or block_size or BLOCK_PX, fixed=fixed is not None)
    workers = default_workers()
    largest = max((w.width * w.height for w in todo), default=1) * len(reader.bands) * np.dtype(reader.dtype).itemsize
    ahead = max(1, min(in_flight or workers + 2, MEMORY_BUDGET // max(largest, 1)))
    if op is not None and not op.parallel:
        ahead = 1
    with ExitStack() as stack:
        # tiles that are written by several windows would be pushed out of a small cache before they are complete
        whole = not writes or all(w.x % TILE_PX == 0 and w.y % TILE_PX == 0 for w in todo)
        once = not (op and op.halo) and whole and reader.reads_once(todo)
        stack.enter_context(BoundedCache(SMALL_CACHE_BYTES if once else CACHE_BYTES))
        # a second thread of the same product waits more than it computes, and takes the reader's core
        stack.enter_context(one_blas_thread())
        pool = executor or stack.enter_context(ThreadPoolExecutor(min(workers, ahead)))
        flying: deque[Future[Any]] = deque()
        stack.callback(_drain, flying)
        upcoming = iter(todo)
        work = _Work(reader, op, todo, watch)
        for _ in todo:
            while len(flying) < ahead and (window := next(upcoming, None)) is not None:
                flying.append(pool.submit(compute_block, reader, op, window))
            yield _wait_for(flying.popleft(), flying, work)
            work.blocks_done += 1
            work.look()


def collect_blocks(
    reader: Reader, op: Op, windows: Sequence[Window], first: int, enough: Callable[[list[Any]], bool], progress: Progress
) -> list[Any]:
    """Results of an op on the first windows, and on further ones until there are enough.

    Args:
        op: never gives None.
        first: how many windows are looked at in any case.
        enough: told all results so far, whether no more are wanted.

    Raises:
        Cancelled, EngineError: as iter_blocks.
    """
    results = list(iter_blocks(reader, op, windows=windows[:first], progress=progress.part(0, 0.7)))
    # a run of its own, for blocks are read ahead: those that are not needed would be read in vain
    more = iter_blocks(reader, op, windows=windows[first:], progress=progress.part(0.7, 1))
    while not enough(results) and (result := next(more, None)) is not None:
        results.append(result)
    more.close()
    return results


class _Work:
    """How far a run is: by blocks, or by what its op has spent where that is more."""

    def __init__(self, reader: Reader, op: Op | None, todo: Sequence[Window], progress: Progress) -> None:
        self.reader, self.op, self.progress = reader, op, progress
        self.blocks, self.blocks_done = len(todo), 0
        self.total = sum(op.effort(window) for window in todo) if op else 0

    def look(self) -> None:
        """Tell it, and raise Cancelled if the user asked to stop."""
        spent = self.op.spent / self.total if self.op and self.total else 0.0
        self.progress.report(max(self.blocks_done / self.blocks, spent))

    def stop(self) -> None:
        """Tell those who are at it that nothing is wanted any more."""
        self.reader.stop()
        if self.op is not None:
            self.op.stop()


def _wait_for(future: Future[Any], flying: deque[Future[Any]], work: _Work) -> Any:
    while True:
        try:
            return future.result(timeout=POLL_S)
        except FutureTimeout:
            if future.done():
                return future.result()
            try:
                work.look()
            except BaseException:
                flying.appendleft(future)
                work.stop()
                raise


def _drain(flying: deque[Future[Any]]) -> None:
    for future in flying:
        future.cancel()
    wait(flying)


def run_blocks(
    reader: Reader,
    op: Op | None,
    sinks: Sequence[Sink],
    *,
    windows: Iterable[Window] | None = None,
    block_size: int | None = None,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> None:
    """Run an op (or none: pixels as they are) over a whole raster and hand every result to all sinks.

    Raises:
        Cancelled, EngineError: as iter_blocks.
    """
    for block in iter_blocks(reader, op, windows=windows, block_size=block_size, executor=executor, progress=progress, writes=True):
        for sink in sinks:
            sink.write(block.window, block.data, block.valid)
