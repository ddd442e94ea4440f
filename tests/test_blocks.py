"""The block pipeline: independence of block size, threads and processes; bounded blocks in flight; cancel; errors."""

from __future__ import annotations

import threading
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from s2landcover_plugin.engine import blocks
from s2landcover_plugin.engine.errors import Cancelled, EngineError
from s2landcover_plugin.engine.files import OutputFiles
from s2landcover_plugin.engine.geotiff import OutputBand, RasterWriter
from s2landcover_plugin.engine.grid import Window
from s2landcover_plugin.engine.progress import Progress
from s2landcover_plugin.engine.raster import RasterReader, StackedReader, describe

from .conftest import Messages, read


class MeanFilter(blocks.Op):
    """Mean of the valid pixels within `halo` pixels; an op that needs its neighbours."""

    outputs = (OutputBand("mean", "float64", -1.0),)

    def __init__(self, halo):
        self.halo = halo

    def __call__(self, block):
        side = 2 * self.halo + 1
        valid = block.valid[0]
        weight = valid.astype(float)
        total = ndimage.uniform_filter(block.data[0] * weight, side, mode="constant")
        count = ndimage.uniform_filter(weight, side, mode="constant")
        mean = np.where(valid, np.round(total / np.maximum(count, 1e-9), 6), -1)
        return replace(block, data=mean[np.newaxis])


class Plain(blocks.Op):
    """Passes the block on."""

    outputs = (OutputBand("a", "uint16", 0), OutputBand("b", "uint16", 0))

    def __call__(self, block):
        return block


def run(op, source, target, **how):
    reader = RasterReader(describe(source))
    with OutputFiles() as files, RasterWriter(files.path(str(target)), reader.grid, op.outputs) as writer:
        blocks.run_blocks(reader, op, [writer], **how)
    return read(target)


@pytest.mark.parametrize("block_size", [16, 17, 64, 500])
@pytest.mark.parametrize("halo", [0, 3])
def test_result_does_not_depend_on_block_size(make_raster, tmp_path, block_size, halo):
    source = make_raster(bands=1, rows=61, cols=47, invalid_fraction=0.1)
    whole = run(MeanFilter(halo), source, tmp_path / "whole.tif", block_size=1000)
    np.testing.assert_array_equal(run(MeanFilter(halo), source, tmp_path / "parts.tif", block_size=block_size), whole)


def test_halo_sees_the_neighbours_and_nothing_beyond_the_edge(make_raster, tmp_path):
    source = make_raster(bands=1, rows=30, cols=30, invalid_fraction=0.2)
    pixels = read(source)[0].astype(float)
    valid = pixels != 0
    expected = np.full(pixels.shape, -1.0)
    for row, col in np.argwhere(valid):
        around = slice(max(row - 2, 0), row + 3), slice(max(col - 2, 0), col + 3)
        expected[row, col] = pixels[around][valid[around]].mean()
    np.testing.assert_allclose(run(MeanFilter(2), source, tmp_path / "o.tif", block_size=7)[0], expected, atol=1e-6)


@pytest.mark.parametrize("make_executor", [lambda: ThreadPoolExecutor(1), lambda: ThreadPoolExecutor(4), lambda: ProcessPoolExecutor(2)])
def test_result_does_not_depend_on_where_blocks_are_computed(make_raster, tmp_path, make_executor):
    source = make_raster(bands=1, rows=90, cols=70, invalid_fraction=0.1)
    expected = run(MeanFilter(2), source, tmp_path / "default.tif", block_size=32)
    with make_executor() as executor:
        got = run(MeanFilter(2), source, tmp_path / "other.tif", block_size=32, executor=executor)
    np.testing.assert_array_equal(got, expected)


class CountingExecutor(Executor):
    """Runs in threads and notes how many blocks are submitted but not taken yet."""

    def __init__(self):
        self.pool = ThreadPoolExecutor(2)
        self.flying = 0
        self.most = 0
        self.lock = threading.Lock()

    def submit(self, fn, /, *args, **kwargs) -> Future:
        with self.lock:
            self.flying += 1
            self.most = max(self.most, self.flying)
        return self.pool.submit(fn, *args, **kwargs)


def test_blocks_in_flight_are_bounded_and_come_in_order(make_raster):
    reader = RasterReader(describe(make_raster(rows=160, cols=160)))
    executor = CountingExecutor()
    windows = []
    for block in blocks.iter_blocks(reader, block_size=16, executor=executor):
        executor.flying -= 1
        windows.append((block.window.y, block.window.x))
    executor.pool.shutdown()
    assert len(windows) == 100
    assert windows == sorted(windows)
    assert executor.most <= blocks.default_workers() + 2


def test_memory_budget_limits_the_blocks_in_flight(make_raster, monkeypatch):
    reader = RasterReader(describe(make_raster(bands=2, rows=64, cols=64)))
    monkeypatch.setattr(blocks, "MEMORY_BUDGET", 2 * 16 * 16 * 2)
    executor = CountingExecutor()
    for _ in blocks.iter_blocks(reader, block_size=16, executor=executor):
        executor.flying -= 1
    executor.pool.shutdown()
    assert executor.most == 1


def test_cancel_stops_and_leaves_nothing_behind(make_raster, tmp_path):
    source = make_raster(rows=200, cols=200)
    out = tmp_path / "out"
    out.mkdir()
    watcher = Messages(cancel_after=3)
    with pytest.raises(Cancelled):
        run(Plain(), source, out / "o.tif", block_size=16, progress=watcher.progress)
    assert list(out.iterdir()) == []
    assert watcher.fractions and max(watcher.fractions) < 0.1


class SlowOp(Plain):
    """Hangs until told to go on."""

    def __init__(self, gate):
        self.gate = gate
        self.opened = []

    def __call__(self, block):
        self.opened.append(self.gate.wait(5))
        return block


def test_cancel_is_seen_while_a_block_hangs(make_raster, tmp_path):
    """The op waits for the gate, and only somebody who looks whether to cancel opens it."""
    gate = threading.Event()
    watcher = Messages()
    watcher.progress = replace(watcher.progress, is_cancelled=lambda: gate.set() or True)
    op = SlowOp(gate)
    with pytest.raises(Cancelled):
        run(op, make_raster(), tmp_path / "o.tif", progress=watcher.progress)
    assert op.opened == [True]


class TiringOp(SlowOp):
    """Tells that half of its effort is spent, and waits until that was reported."""

    def effort(self, window):
        return 10

    def __call__(self, block):
        self.spent = 5
        return super().__call__(block)


def test_progress_moves_within_a_block(make_raster, tmp_path):
    gate, told = threading.Event(), []

    def take(fraction):
        told.append(fraction)
        if fraction >= 0.5:
            gate.set()

    op = TiringOp(gate)
    run(op, make_raster(), tmp_path / "o.tif", progress=Progress(on_fraction=take))
    assert op.opened == [True]
    assert told == sorted(told) and told[-1] == 1


class StoppableOp(SlowOp):
    """Ends when it is told to stop."""

    def stop(self):
        self.gate.set()


def test_cancel_stops_op_and_reader(make_raster):
    op = StoppableOp(threading.Event())
    reader = StackedReader([RasterReader(describe(make_raster()))])
    with pytest.raises(Cancelled):
        list(blocks.iter_blocks(reader, op, progress=Messages(cancel_after=1).progress))
    assert op.opened == [True]
    with pytest.raises(Cancelled):
        reader.read(Window(0, 0, 5, 5))


class FixedSizeOp(blocks.Op):
    """Like a network with a fixed input: refuses any other size."""

    outputs = (OutputBand("a", "uint16", 0),)
    block_size = 32
    halo = 4

    def __call__(self, block):
        assert np.asarray(block.data).shape == (1, 40, 40)
        return block


@pytest.mark.parametrize("options", [["TILED=NO"], ["TILED=YES", "BLOCKXSIZE=16", "BLOCKYSIZE=16"]])
@pytest.mark.parametrize(("rows", "cols"), [(70, 90), (1, 33), (32, 32), (5, 3)])
def test_op_with_a_fixed_size_always_gets_it(make_raster, tmp_path, options, rows, cols):
    source = make_raster(bands=1, rows=rows, cols=cols, options=options)
    np.testing.assert_array_equal(run(FixedSizeOp(), source, tmp_path / "o.tif"), read(source))


class AloneOp(Plain):
    """Notes how many blocks are computed at once."""

    parallel = False

    def __init__(self):
        self.now = 0
        self.most = 0

    def __call__(self, block):
        self.now += 1
        self.most = max(self.most, self.now)
        threading.Event().wait(0.01)
        self.now -= 1
        return block


def test_op_that_is_not_parallel_runs_alone_in_any_executor(make_raster, tmp_path):
    op = AloneOp()
    with ThreadPoolExecutor(4) as executor:
        run(op, make_raster(rows=64, cols=64), tmp_path / "o.tif", block_size=16, executor=executor)
    assert op.most == 1


class FailingOp(Plain):
    """Fails on the third block."""

    def __call__(self, block):
        if block.window.x == 32:
            raise EngineError("It failed", "here", "do something")
        return block


def test_error_in_a_worker_arrives_whole_and_leaves_the_old_file(make_raster, tmp_path):
    source = make_raster(rows=60, cols=60)
    target = tmp_path / "old.tif"
    target.write_text("old")
    for executor in (None, ProcessPoolExecutor(1)):
        with pytest.raises(EngineError, match="It failed: here; do something."):
            run(FailingOp(), source, target, block_size=16, executor=executor)
    assert target.read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []


def test_progress_only_grows_and_ends_at_one(make_raster, tmp_path, messages):
    run(Plain(), make_raster(rows=100, cols=100), tmp_path / "o.tif", block_size=16, progress=messages.progress)
    assert messages.fractions == sorted(messages.fractions)
    assert messages.fractions[-1] == 1


def test_strips_are_read_as_whole_rows(make_raster):
    reader = RasterReader(describe(make_raster(rows=64, cols=300, options=["TILED=NO"])))
    assert {w.width for w in blocks.block_windows(reader, 64)} == {300}
    tiled = RasterReader(describe(make_raster(rows=64, cols=300, options=["TILED=YES", "BLOCKXSIZE=64", "BLOCKYSIZE=64"])))
    assert {w.width for w in blocks.block_windows(tiled, 64)} == {64, 44}
