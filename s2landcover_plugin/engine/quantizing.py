"""An int8 copy of a network, calibrated on the raster that it is for, and used only where it gives the same map."""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Iterator

import numpy as np

from .blocks import read_block
from .errors import Cancelled
from .grid import Window
from .networks import Network
from .onnx_file import inspect_model
from .packages import require
from .progress import Progress
from .raster import RasterReader
from .segmentation import Tiling, Understood

KEPT = 0.995
"""Share of the pixels of a check that must keep their class."""
CALIBRATION_TILES, CHECK_TILES = 8, 16
SIDE_PX = 256
"""Of these tiles, unless the network takes only others."""
HOPELESS, GLANCE_TILES = 0.95, 2
"""A copy that keeps less than this share on the first tiles is not looked at further."""
MOSTLY = 0.5
"""Share of a tile that must have values."""
PRODUCTS = ("Conv", "ConvTranspose", "MatMul", "Gemm")
BETWEEN = ("Relu", "LeakyRelu", "Clip", "MaxPool", "AveragePool", "Concat", "Resize", "Add")
"""What keeps int8 between products; softmax and arithmetic on DN lose too much by it."""
PLANS = ((*PRODUCTS, *BETWEEN), PRODUCTS)
"""Operators that become int8; the first plan that keeps the classes is taken."""
PROVIDERS = ("cpu", "openvino")
"""What runs int8 faster than float32."""


@dataclass(frozen=True)
class Quantized:
    """What became of a network.

    Attributes:
        model: the int8 copy, or the network as it was.
        outcome: in words, for the user.
        speed: time of the copy / time of the network, on the check; NaN without a copy.
    """

    model: Understood
    outcome: str
    speed: float = float("nan")

    @property
    def accepted(self) -> bool:
        """Whether the copy is used."""
        return self.speed == self.speed


def quantized(model: Understood, reader: RasterReader, tiling: Tiling, folder: str, progress: Progress) -> Quantized:
    """An int8 copy of a network if at least KEPT of the pixels of a check keep their class, else the network as it is.

    Weights are quantised for each channel, activations by the range that they have on tiles of the raster (static quantisation, QDQ;
    Jacob et al. 2018, doi:10.1109/CVPR.2018.00286). The check is made on other tiles than the calibration.

    Args:
        folder: takes the copy; it is needed as long as the network.

    Raises:
        EngineError: the package onnx is missing.
        Cancelled: the user asked to stop.
    """
    require("onnx")
    if model.network.provider not in PROVIDERS:
        return Quantized(model, f"float32: int8 is no faster on {model.network.provider}")
    tiles = _tiles(model, reader, tiling, progress)
    if len(tiles) < 2:
        return Quantized(model, "float32: the raster is too small to calibrate int8 on a part of it and check it on another")
    n = min(CALIBRATION_TILES, len(tiles) // 2)
    calibration, check = tiles[:n], tiles[n:]
    expected = _Answers(model, check, progress)
    found: list[tuple[float, int]] = []
    for number, plan in enumerate(PLANS):
        progress.report(number / len(PLANS))
        path = str(Path(folder) / f"int8_{number}.onnx")
        try:
            _quantize(model, calibration, path, plan, progress)
            copy = replace(model, network=Network(path, inspect_model(path), model.network.provider, model.network.threads))
            answers = _Answers(copy, check, progress)
            kept, n_pixels = _kept(expected, answers)
        except Cancelled:
            raise
        except Exception as err:  # the packages' exceptions have no common class
            text = " ".join(str(err).split())[:200]
            return Quantized(
                model, f"float32: the packages onnx and onnxruntime could not quantise the model ({text or type(err).__name__})"
            )
        if kept >= KEPT:
            return Quantized(copy, f"int8: {kept:.2%} of {n_pixels} checked pixels keep their class", answers.seconds / expected.seconds)
        found.append((kept, n_pixels))
    kept, n_pixels = max(found)
    return Quantized(model, f"float32: with int8 only {kept:.2%} of {n_pixels} checked pixels would keep their class, not {KEPT:.1%}")


@dataclass(frozen=True)
class _Tile:
    """What the network gets, (1, bands, side, side), and which pixels have a value, (side, side)."""

    pixels: np.ndarray
    valid: np.ndarray


def _tiles(model: Understood, reader: RasterReader, tiling: Tiling, progress: Progress) -> list[_Tile]:
    """Tiles from all over the raster, in random order; those of one half of the list share no pixel with the other's."""
    grid = reader.grid
    unit = tiling.multiple
    fixed = model.network.input.shape[2] if model.layout == "NCHW" else model.network.input.shape[1]
    side = fixed or max(min(SIDE_PX, min(grid.width, grid.height) // 2) // unit, 1) * unit
    corners = [(x, y) for y in range(0, grid.height - side + 1, side) for x in range(0, grid.width - side + 1, side)]
    tiles: list[_Tile] = []
    for i in np.random.default_rng(0).permutation(len(corners)):
        progress.check_cancelled()
        x, y = corners[i]
        block = read_block(reader, Window(x, y, side, side))
        valid: np.ndarray = np.asarray(block.valid.all(axis=0))
        if valid.mean() >= MOSTLY:
            tiles.append(_Tile(model.preparation(np.asarray(block.data), valid)[np.newaxis], valid))
        if len(tiles) == CALIBRATION_TILES + CHECK_TILES:
            break
    return tiles


class _Answers:
    """Classes that a network gives on tiles, found as they are asked for.

    Attributes:
        seconds: that the tiles found so far took.
    """

    def __init__(self, model: Understood, tiles: list[_Tile], progress: Progress) -> None:
        self.model, self.tiles, self.progress = model, tiles, progress
        self.seconds = 0.0
        self._found: list[np.ndarray] = []
        # the first run of a network takes longer
        self._ask(tiles[0])

    def of(self, number: int) -> np.ndarray:
        """Class of every pixel of a tile, (side, side)."""
        while len(self._found) <= number:
            begun = time.perf_counter()
            answers = self._ask(self.tiles[len(self._found)])
            self.seconds += time.perf_counter() - begun
            self._found.append(self.model.classes(answers)[0])
        return self._found[number]

    def _ask(self, tile: _Tile) -> np.ndarray:
        with self.model.network.watched(self.progress):
            return self.model.answers(tile.pixels)


def _kept(one: _Answers, other: _Answers) -> tuple[float, int]:
    """Share of the pixels that have the same class, and how many were looked at."""
    same = total = 0
    for number, tile in enumerate(one.tiles):
        same += int((one.of(number) == other.of(number))[tile.valid].sum())
        total += int(tile.valid.sum())
        if number + 1 >= GLANCE_TILES and same < HOPELESS * total:
            break
    return same / total, total


class _Calibration:
    """Inputs for the calibration, one after the other, as onnxruntime asks for them."""

    def __init__(self, model: Understood, tiles: list[_Tile], progress: Progress) -> None:
        self.name = model.network.input.name
        self.repeated = model.network.input.shape[0] or 1
        self.nhwc = model.layout == "NHWC"
        self.tiles = iter(tiles)
        self.progress = progress

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next input, None after the last."""
        self.progress.check_cancelled()
        tile = next(self.tiles, None)
        if tile is None:
            return None
        batch = np.moveaxis(tile.pixels, 1, -1) if self.nhwc else tile.pixels
        return {self.name: np.ascontiguousarray(batch.repeat(self.repeated, axis=0))}


def _quantize(model: Understood, tiles: list[_Tile], path: str, operators: tuple[str, ...], progress: Progress) -> None:
    """Write the int8 copy of a network."""
    tool: Any = require("onnxruntime.quantization")
    simpler = path.replace(".onnx", "_float.onnx")
    with _quiet():
        # folds normalisation into convolutions
        require("onnxruntime.quantization.shape_inference").quant_pre_process(model.network.path, simpler, skip_symbolic_shape=True)
        tool.quantize_static(
            simpler,
            path,
            _Calibration(model, tiles, progress),
            quant_format=tool.QuantFormat.QDQ,
            op_types_to_quantize=list(operators),
            per_channel=True,
            activation_type=tool.QuantType.QUInt8,
            weight_type=tool.QuantType.QInt8,
        )
    Path(simpler).unlink()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps advice for developers of networks away from the user."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
