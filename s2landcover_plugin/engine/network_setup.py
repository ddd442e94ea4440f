"""A network and a raster brought together: bands, scaling, answers, tiles and classes, each decided and the decision kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Callable

import numpy as np

from . import sentinel2
from .blocks import read_block
from .crs import pixel_metres
from .errors import EngineError
from .grid import Grid, Window
from .legend import LegendClass
from .model_contract import USUAL_BANDS, Decision, Statements, rounded_up, scaling_from
from .networks import Network, layout_of
from .palette import colours
from .probing import OutputFacts, Reach, check_size, find_output, measure_reach
from .progress import Progress
from .radiometry import decide_for_file
from .raster import RasterInfo, RasterReader
from .sampling import sample_cells
from .segmentation import MOST_BYTE_CLASSES, Preparation, Tiling, Understood

PROBES_PX = (128, 256, 512)
"""Sides of the pieces that a network without a fixed size is asked about: larger ones if it looks farther than the smaller ones tell."""
USUAL_TILE = 512
"""Where nothing tells: the margin costs 40 % less than with 256, and memory stays small."""
BATCH_PX = 512 * 512
"""Pixels a run where BATCH_SIZE is 0."""
GPU_BATCHES = 8
OTHER_PX = 32
"""By how much a second piece is larger, to see whether the answer grows with it."""
UNTOLD_MULTIPLE = 32
"""Of networks for which no shift was found that does; most halve their input up to five times."""
MUCH_EFFORT = 4
"""Times that each pixel goes through the network, for a warning."""
ALIKE = 1.25
"""Pixels that differ by less than this factor from those a model was trained on are no matter for a warning."""
FADING_BYTES = 1e9
"""That a window in which tiles fade may take, about."""
BLENDED_ROWS = 6
"""Rows and columns of tiles a window has where tiles fade: those around it are computed twice."""
KNOWN_COLOURS = {
    "water": "#419bdf",
    "trees": "#397d49",
    "grass": "#88b053",
    "flooded_vegetation": "#7a87c6",
    "crops": "#e49635",
    "shrub_and_scrub": "#dfc35a",
    "built": "#c4281b",
    "bare": "#a59b8f",
    "snow_and_ice": "#b39fe1",
}
"""Published colours of Dynamic World's classes, by name."""


@dataclass
class Ledger:
    """Decisions as they are made."""

    entries: list[Decision] = field(default_factory=list)

    def add(self, what: str, value: Any, source: str) -> None:
        """Keep one."""
        self.entries.append(Decision(what, str(value), source))


@dataclass(frozen=True)
class Request:
    """What of the user's wishes no statement about a model can say."""

    band_map: str = ""
    batch_size: int = 0


@dataclass(frozen=True)
class Prepared:
    """A network that is understood, over the bands that it takes."""

    model: Understood
    reader: RasterReader
    tiling: Tiling
    known_codes: int
    """Of an index map: how many codes the samples have."""


def prepare(network: Network, info: RasterInfo, stated: Statements, request: Request, ledger: Ledger, progress: Progress) -> Prepared:
    """Find out what a network needs and gives, over the bands of a raster.

    Args:
        stated: what the parameters, the metadata and the JSON beside the model say.
        ledger: takes every decision.

    Raises:
        EngineError: the raster lacks bands or has no valid pixel, or the network does not give one class per pixel.
        Cancelled: the user asked to stop.
    """
    return _Setup(network, info, stated, request, ledger, progress).prepared()


@dataclass(frozen=True)
class _Margin:
    """How far tiles overlap and where they may begin.

    Attributes:
        px: margin on each side.
        enough: the margin that is known to be large enough, if one is.
    """

    px: int
    source: str
    multiple: int
    multiple_source: str
    enough: int | None


@dataclass(frozen=True)
class _Setup:
    """What is decided from, and where decisions go."""

    network: Network
    info: RasterInfo
    stated: Statements
    request: Request
    ledger: Ledger
    progress: Progress

    def prepared(self) -> Prepared:
        """All decisions, one after the other."""
        network, stated, ledger = self.network, self.stated, self.ledger
        if stated.get("model_type") is not None:
            self.progress.warn(f"{network.path} says that its kind is {str(stated.get('model_type'))[:40]!r}, not a segmentation model.")
        self._compare_resolution()
        layout, why = stated.get("layout"), stated.source("layout")
        if layout is None:
            layout, why = layout_of(network.input.shape, len(stated.get("bands") or ()) or None)
        ledger.add("layout", layout, why)
        ledger.add("type of the input", network.input.dtype, "graph")
        names, numbers = self._bands(network.input.shape[1 if layout == "NCHW" else 3])
        samples = _Samples(self._reader(numbers), self._preparation(names, numbers), layout, self.progress)
        side, source = self._tile(layout)
        fixed, unit = source == "graph", int(stated.get("multiple") or 1)
        tiles = samples.of(side if fixed else rounded_up(PROBES_PX[0], unit))
        answers = [network.run(each) for each in tiles]
        output = find_output(network, tiles[0], answers, layout, stated, self.progress)
        if not fixed:
            check_size(network, samples.of(rounded_up(PROBES_PX[0] + OTHER_PX, unit))[0], layout, output)
        ledger.add(
            "answers", f"{output.kind} of {output.n_classes or 'unknown'} classes, {output.layout}", stated.source("output") or "measured"
        )
        if output.reduction > 1 or output.crop:
            ledger.add("size of the answers", f"1 / {output.reduction}, {output.crop} px less on each side", "measured")

        def measured() -> Reach:
            reach = measure_reach(network, tiles, answers, layout, output)
            for larger in () if fixed else PROBES_PX[1:]:
                if reach.margin is not None:
                    break
                wide = samples.of(rounded_up(larger, unit))
                reach = measure_reach(network, wide, [network.run(each) for each in wide], layout, output)
            return reach

        tiling = self._tiling(side, source, measured, output)
        threshold = 0.5 if stated.get("threshold") is None else stated.get("threshold")
        if output.kind in ("sigmoid", "probability"):
            ledger.add("threshold", threshold, stated.source("threshold") or "assumed")
        codes = int(output.scores(answers[0]).max()) + 1 if output.kind == "index" else 0
        return Prepared(Understood(network, layout, samples.preparation, output, threshold), samples.reader, tiling, codes)

    def _reader(self, numbers: list[int]) -> RasterReader:
        """Of the bands that the network takes; zeros are no data in whole numbers without a statement, but not in 8 bits."""
        whole = all(band.dtype.startswith("uint") and band.dtype != "uint8" for band in self.info.bands)
        return RasterReader(self.info, numbers, nodata=0 if whole else None)

    def _preparation(self, names: list[str], numbers: list[int]) -> Preparation:
        """How stored numbers become what the network was trained on."""
        bands = [self.info.bands[number - 1] for number in numbers]
        decisions = [decide_for_file(band, self.info.path, "auto") for band in bands]
        dtype = self.network.input.dtype
        pictures = all(band.dtype == "uint8" and d.gain == 1 and not d.add_dn for band, d in zip(bands, decisions))
        scaling, source = scaling_from(self.stated, names, dtype if dtype.startswith("uint") else "", pictures, self.progress)
        self.ledger.add("scaling", scaling.text, source)
        fill = self.stated.get("nodata")
        self.ledger.add("pixels without a value become", f"DN {0 if fill is None else fill:g}", self.stated.source("nodata") or "assumed")
        return Preparation(decisions, scaling, dtype, fill or 0.0)

    def _compare_resolution(self) -> None:
        """Warn where the pixels are not of the size that the model was trained on."""
        if self.stated.get("resolution") is None:
            return
        trained, own = self.stated.get("resolution") / 100, pixel_metres(self.info.grid)
        if not 1 / ALIKE < own / trained < ALIKE:
            self.progress.warn(
                f"{self.network.path} was trained on pixels of {trained:g} m, {self.info.path} has {own:.4g} m: resample it first."
            )

    def _bands(self, n_bands: int | None) -> tuple[list[str], list[int]]:
        """Names and 1-based numbers of the bands, in the order of the network.

        Raises:
            EngineError: bands are missing, or there are not as many as the network takes.
        """
        info, ledger = self.info, self.ledger
        known = sentinel2.spectral_bands(info.bands, info.path, self.request.band_map)
        all_numbers = sentinel2.choose_bands(info.bands, info.path, ())
        names = [sentinel2.identify(band, info.path, alone=len(info.bands) == 1) for band in info.bands]
        wanted, source = self.stated.get("bands"), self.stated.source("bands")
        if wanted is None and n_bands is not None and n_bands != len(all_numbers):
            usual = USUAL_BANDS.get(n_bands, ())
            have = {sentinel2.BY_COMMON_NAME[name].name for name in known}
            if usual and set(usual) <= have:
                wanted, source = usual, "assumed"
                self.progress.warn(
                    f"The model takes {n_bands} bands and does not tell which: {', '.join(usual)} are assumed. BANDS tells others."
                )
        if wanted is None:
            if n_bands is not None and n_bands != len(all_numbers):
                what = (
                    f"The model takes {n_bands} bands, the raster has {len(all_numbers)} ({', '.join(names[i - 1] for i in all_numbers)})"
                )
                raise EngineError(what, info.path, "name the bands that it takes, in its order, in BANDS")
            ledger.add("bands", ", ".join(names[i - 1] for i in all_numbers), "assumed: those of the raster, in its order")
            return [names[i - 1] for i in all_numbers], all_numbers
        numbers, missing = [], []
        for name in wanted:
            band = sentinel2.BY_NAME.get(name)
            number = known.get(band.common_name) if band else None
            if number is None and name in names:
                number = names.index(name) + 1
            if number is None and sentinel2.is_number(name) and len(name) < 6 and 1 <= int(name) <= len(names):
                number = int(name)
            if number is None:
                missing.append(name)
            else:
                numbers.append(number)
        if missing:
            fix = f"its bands are {', '.join(names)}; add the missing ones, or tell which band is which with BANDS or BAND_MAP"
            raise EngineError(f"The model needs {', '.join(missing)}, which the raster lacks", info.path, fix)
        if n_bands is not None and len(numbers) != n_bands:
            raise EngineError(
                f"The model takes {n_bands} bands, not {len(numbers)}",
                f"BANDS {', '.join(wanted)}",
                f"name {n_bands} bands of {self.network.path}",
            )
        ledger.add("bands", ", ".join(wanted), source)
        return [names[number - 1] for number in numbers], numbers

    def _tile(self, layout: str) -> tuple[int, str]:
        """Side of the tiles and where it comes from; `graph`: fixed.

        Raises:
            EngineError: the network takes rectangles only.
        """
        rows, columns = self.network.input.shape[2:] if layout == "NCHW" else self.network.input.shape[1:3]
        if rows is not None and columns is not None:
            if rows != columns:
                raise EngineError(f"The model takes tiles of {rows} x {columns} pixels", self.network.path, "use a model with square tiles")
            return rows, "graph"
        if self.stated.get("tile_size"):
            return int(self.stated.get("tile_size")), self.stated.source("tile_size")
        return USUAL_TILE, "assumed"

    def _margin(self, tile: int, fixed: bool, measured: Callable[[], Reach], output: OutputFacts) -> _Margin:
        """Multiple and margin as stated, else as measured, else assumed.

        Args:
            tile: side of the tiles; fixed: it cannot be another.
            measured: measures the reach; asked only if something is not stated.
        """
        stated = self.stated
        multiple, multiple_source = stated.get("multiple"), stated.source("multiple")
        margin, source = stated.get("margin"), stated.source("margin")
        # what is stated for both is believed
        enough = margin
        if multiple is None or margin is None:
            reach = measured()
            enough = reach.margin
            if multiple is None:
                multiple, multiple_source = reach.multiple, "measured"
        if multiple is None or fixed and (tile % multiple or 4 * multiple > tile):
            largest = 2 ** max(int(np.log2(max(tile, 1))) - 2, 0)
            multiple, multiple_source, enough = min(UNTOLD_MULTIPLE, largest), "assumed", None
            if fixed:
                multiple = int(np.gcd(tile, multiple))
            margin = margin if source == "parameter" else None
        multiple = int(np.lcm(multiple, output.reduction))
        if margin is None and enough is not None:
            # weak influence does not show in an index map
            margin, source = enough * (2 if output.kind == "index" else 1), "measured"
        if margin is None:
            overlap = stated.get("overlap_percent")
            margin = round(tile * (overlap if overlap is not None else 50) / 200)
            source = stated.source("overlap_percent") or "assumed"
            self.progress.warn(
                f"{self.network.path}: a pixel's class can depend on the whole tile, so that there is no margin beyond which tiles agree; "
                f"they overlap by {2 * margin} px."
            )
        # where nothing is known to fit, the step between tiles alone is on the multiple
        margin = rounded_up(max(margin, output.crop), 1 if multiple_source == "assumed" else multiple)
        if fixed and 2 * margin >= tile:
            fitting = rounded_up(tile // 4, multiple) if tile >= 4 * multiple else 0
            self.progress.warn(f"{self.network.path}: tiles of {tile} px are too small for a margin of {margin} px; {fitting} px are used.")
            margin, source = fitting, "assumed"
        return _Margin(margin, source, multiple, multiple_source, enough)

    def _tiling(self, side: int, side_source: str, measured: Callable[[], Reach], output: OutputFacts) -> Tiling:
        """Tile, margin and batch: origins on the multiple, the margin large enough where that can be told.

        Args:
            side_source: where the side of the tiles comes from; `graph`: fixed.
            measured: measures the reach.
        """
        grid, network, ledger = self.info.grid, self.network, self.ledger
        fixed, tile = side_source == "graph", side
        found = self._margin(tile, fixed, measured, output)
        margin, multiple = found.px, found.multiple
        if not fixed:
            # small rasters need no large tile
            longest = max(grid.width, grid.height) + 2 * margin
            tile = rounded_up(max(min(tile, longest) if side_source == "assumed" else tile, 2 * margin + multiple), multiple)
            if side_source != "parameter":
                tile = _evened(tile, margin, multiple, grid)
        # the step between tiles is on the multiple too
        margin += (tile - 2 * margin) % multiple // 2
        step = max(tile - 2 * margin, 1)
        batch = self.request.batch_size or max(1, BATCH_PX * (1 if network.provider == "cpu" else GPU_BATCHES) // (tile * tile))
        batch = min(max(batch, network.input.shape[0] or 1), -(-grid.width // step))
        effort = (tile / step) ** 2
        if effort > MUCH_EFFORT:
            self.progress.warn(
                f"With a margin of {margin} px in tiles of {tile} px the network sees each pixel {effort:.0f} times. A larger TILE_SIZE, "
                "if the model can take one, or a smaller OVERLAP, which may leave seams, is faster."
            )
        ledger.add("tile size", f"{tile} px{'' if tile == side else f' ({side} px, made to fit)'}", side_source)
        ledger.add("tiles begin on multiples of", f"{multiple} px", found.multiple_source)
        ledger.add("margin", f"{margin} px", found.source)
        ledger.add("tiles a run", batch, "parameter" if self.request.batch_size else "graph" if network.input.shape[0] else "assumed")
        exact = found.enough is not None and margin >= found.enough and output.kind != "index"
        rows = 1
        blended = not exact and output.kind != "index" and not output.crop and margin > 0
        if blended:
            ledger.add("tiles", f"fade into each other over {2 * margin} px", "measured")
            # what fades is kept as real numbers for every class
            rows = max(1, min(BLENDED_ROWS, int((FADING_BYTES / (20 * max(output.n_classes, 1))) ** 0.5 / step) - 2))
        return Tiling(tile, margin, batch, multiple, exact, rows, blended)


class _Samples:
    """Inputs of a network for trying it out."""

    def __init__(self, reader: RasterReader, preparation: Preparation, layout: str, progress: Progress) -> None:
        self.reader, self.preparation, self.layout, self.progress = reader, preparation, layout, progress

    def of(self, side: int) -> tuple[np.ndarray, np.ndarray]:
        """Two inputs (1, …) of the network: real pixels, and noise of their range.

        Raises:
            EngineError: the raster has no valid pixel.
        """
        best: tuple[float, np.ndarray, np.ndarray] | None = None
        for cell in sample_cells(self.reader.grid, 0)[:24]:
            x, y = cell.x + max(0, (cell.width - side) // 2), cell.y + max(0, (cell.height - side) // 2)
            window = Window(x, y, side, side).clipped(self.reader.grid.width, self.reader.grid.height)
            self.progress.check_cancelled()
            block = read_block(self.reader, window)
            share = float(block.valid.all(axis=0).mean())
            if best is None or share > best[0]:
                best = share, np.asarray(block.data), np.asarray(block.valid.all(axis=0))
            if share > 0.9:
                break
        if best is None or not best[2].any():
            raise EngineError("The raster has no valid pixel", self.reader.path, "choose an area or a date with data")
        _, stored, valid = best
        lacking = ((0, 0), (0, side - stored.shape[1]), (0, side - stored.shape[2]))
        stored, valid = np.pad(stored, lacking, mode="reflect"), np.pad(valid, lacking[1:], mode="reflect")
        rng = np.random.default_rng(0)
        # twice as bright as the brightest: differences that no network can miss
        noise = np.stack([rng.uniform(0, 2 * max(float(np.abs(plane[valid]).max()), 1.0), plane.shape) for plane in stored])
        if stored.dtype.kind in "iu":
            noise = np.minimum(noise, np.iinfo(stored.dtype).max)
        noise = noise.astype(stored.dtype)
        tiles = [self.preparation(each, np.ones_like(valid)) for each in (np.where(valid, stored, stored[:, valid][:, :1, None]), noise)]
        batch = np.stack(tiles)
        batch = batch if self.layout == "NCHW" else np.moveaxis(batch, 1, -1)
        return batch[:1], batch[1:]


def _evened(tile: int, margin: int, multiple: int, grid: Grid) -> int:
    """The smallest tile, not larger than one given, with which a raster takes no more tiles: the last ones are not mostly empty."""
    step = tile - 2 * margin
    needed = max(-(-size // -(-size // step)) for size in (grid.width, grid.height))
    return min(tile, rounded_up(needed + 2 * margin, multiple))


def model_legend(output: OutputFacts, seen: int, stated: Statements, ledger: Ledger) -> list[LegendClass]:
    """Codes 1, 2, … for the classes 0, 1, … of the model, with names and colours."""
    names = dict(stated.get("class_names") or {})
    source = stated.source("class_names")
    if output.n_classes == 2 and len(names) == 1 and output.kind in ("sigmoid", "probability"):
        # one name: that of the class, the rest is not it
        (only,) = names.values()
        names = {0: f"Not {only}", 1: only}
    count = max(output.n_classes, max(names, default=-1) + 1 if output.kind == "index" else 0, seen)
    if output.kind == "index" and not names:
        count = MOST_BYTE_CLASSES
    given = dict(stated.get("colors") or {})
    taken = [
        tuple(bytes.fromhex(KNOWN_COLOURS[name][1:])) if (name := names.get(i, "").lower()) in KNOWN_COLOURS else None for i in range(count)
    ]
    fresh = colours(min(count, MOST_BYTE_CLASSES))
    legend = [LegendClass(i + 1, names.get(i, f"Class {i}"), given.get(i) or taken[i] or fresh[i % len(fresh)]) for i in range(count)]
    ledger.add("names of classes", ", ".join(each.name for each in legend[:12]) + (" …" if count > 12 else ""), source or "assumed")
    if count > MOST_BYTE_CLASSES:
        ledger.add("type of the map", "UInt16, because a byte holds 254 classes", "graph")
    return legend
