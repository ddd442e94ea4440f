"""A network over a raster, tile by tile: the class of every pixel, as if the network had seen the whole image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator, Sequence

import numpy as np

from .blocks import Block, Op, Padding
from .errors import EngineError
from .geotiff import OutputBand
from .grid import Grid, Window
from .legend import NODATA_CODE
from .model_contract import Scaling
from .networks import Network
from .probing import OutputFacts
from .radiometry import RadiometricDecision

ENTROPY_BAND, MARGIN_BAND = OutputBand("entropy", "float32", -1.0), OutputBand("margin", "float32", -1.0)
SEAM_LIMIT = 1.05
"""More changes of class across the lines between tiles than this, relative to elsewhere, are seams."""
BYTE_STEPS = 254
"""Probabilities as bytes are multiples of 1 / 254; 255 is no data."""
STRIP_ROWS = 64
"""Rows of scores compared at once: those of a tile stay in the second-level cache."""
MOST_BYTE_CLASSES = 254


@dataclass(frozen=True)
class Tiling:
    """How a raster is cut.

    Attributes:
        tile: side of what the network gets, pixels.
        margin: pixels on each side whose answers are not used.
        batch: tiles a run.
        multiple: of the places where tiles begin.
        exact: whether the margin is known to be large enough.
        rows: of tiles a window has.
        blended: whether tiles overlap by twice the margin and fade into each other; else their margins are cut off.
    """

    tile: int
    margin: int
    batch: int
    multiple: int = 1
    exact: bool = False
    rows: int = 1
    blended: bool = False

    @property
    def step(self) -> int:
        """Side of what is used of a tile."""
        return self.tile - 2 * self.margin

    def windows(self, grid: Grid) -> Iterator[Window]:
        """Windows of whole tiles, row by row; they begin on multiples of the step."""
        return grid.windows(self.step * (self.rows if self.blended else self.batch), self.step * self.rows)


class Preparation:
    """Stored numbers -> what a network takes. Can be sent to another process."""

    def __init__(self, decisions: Sequence[RadiometricDecision], scaling: Scaling, dtype: str, fill_dn: float) -> None:
        """
        Args:
            decisions: of each band: DN = stored x gain + add_dn.
            fill_dn: for pixels without a value.
        """
        self.gain = np.array([decision.gain for decision in decisions])[:, None, None]
        self.add = np.array([decision.add_dn for decision in decisions])[:, None, None]
        self.scaling = scaling
        self.dtype = np.dtype(dtype)
        self.fill_dn = fill_dn
        self.plain = bool((self.gain == 1).all() and (self.add == 0).all())
        # what becomes of every number of 8 or 16 bits
        self._table: np.ndarray | None = None

    def __call__(self, stored: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """(bands, rows, cols) in the type of the network; whole numbers are clipped, never wrapped."""
        if self.plain and stored.dtype == self.dtype and self.scaling.kind == "none" and not self.scaling.mean:
            limits = np.iinfo(self.dtype) if self.dtype.kind in "iu" else None
            fill = self.fill_dn if limits is None else min(max(round(self.fill_dn), limits.min), limits.max)
            return np.where(valid, stored, self.dtype.type(fill))
        if stored.dtype not in ("uint8", "uint16"):
            return self._computed(stored, valid)
        count = np.iinfo(stored.dtype).max + 1
        if self._table is None or self._table.shape[1] < count:
            every = np.broadcast_to(np.arange(count)[:, None], (len(self.gain), count, 1))
            self._table = self._computed(every, np.True_)[..., 0]
        found = np.empty(stored.shape, self.dtype)
        nothing = self._computed(np.zeros((len(self.gain), 1, 1)), np.False_).ravel()
        for plane, target, table, fill_value in zip(stored, found, self._table, nothing):
            np.take(table, plane, out=target, mode="clip")
            if not valid.all():
                target[~valid] = fill_value
        return found

    def _computed(self, stored: np.ndarray, valid: np.ndarray | np.bool_) -> np.ndarray:
        dn = stored.astype(np.float64)
        if not self.plain:
            dn = dn * self.gain + self.add
        values = self._scaled(np.where(valid, dn, self.fill_dn))
        if self.dtype.kind in "iu":
            limits = np.iinfo(self.dtype)
            values = np.clip(np.rint(values), limits.min, limits.max)
        return values.astype(self.dtype)

    def _scaled(self, dn: np.ndarray) -> np.ndarray:
        own = self.scaling
        if own.kind == "percentile-log":
            low, spread = (np.array(each)[:, None, None] for each in (own.low, own.spread))
            logarithm = np.log(np.maximum(dn, 0) * own.log_factor + 1)
            return np.asarray(1 / (1 + np.exp(-(5 * (logarithm - low) / spread - 1))))
        values = dn * own.factor
        if own.mean:
            values = (values - np.array(own.mean)[:, None, None]) / np.array(own.std)[:, None, None]
        return np.asarray(values)


@dataclass(frozen=True)
class Wanted:
    """Which planes a run gives beside the classes.

    Attributes:
        probabilities: empty, `byte` or `float`.
    """

    probabilities: str = ""
    uncertainty: bool = False


@dataclass(frozen=True)
class Understood:
    """A network and how to talk to it.

    Attributes:
        layout: of its input, `NCHW` or `NHWC`.
        preparation: what makes its input.
        output: where its answers are.
        threshold: of the answers of a single class.
    """

    network: Network
    layout: str
    preparation: Preparation
    output: OutputFacts
    threshold: float = 0.5

    def answers(self, tiles: np.ndarray, raw: bool = False) -> np.ndarray:
        """Probabilities (n, classes, rows, cols) for (n, bands, rows, cols); the numbers (n, 1, rows, cols) of an index map.

        As many pixels as it gets; 0 on the sides where the network gives less.

        Args:
            raw: logits of several classes may stay what they are: the largest is that of the most probable class too.
        """
        batch = tiles if self.layout == "NCHW" else np.moveaxis(tiles, 1, -1)
        scores = self.output.scores(self.network.run(batch))
        if self.output.kind != "index" and not (raw and self.output.kind == "logits"):
            scores = self.output.probabilities(scores)
        scale = self.output.reduction
        if scale > 1:
            scores = scores.repeat(scale, axis=2).repeat(scale, axis=3)
        crop = self.output.crop
        return np.pad(scores, ((0, 0), (0, 0), (crop, crop), (crop, crop))) if crop else scores

    def classes(self, answers: np.ndarray) -> np.ndarray:
        """Numbers of classes (…, rows, cols), from 0, of answers (…, classes, rows, cols)."""
        if self.output.kind == "index":
            numbers = answers[..., 0, :, :]
            return np.rint(numbers) if numbers.dtype.kind == "f" else numbers
        if answers.shape[-3] == 2 and self.output.kind in ("sigmoid", "probability"):
            return np.asarray(answers[..., 1, :, :] >= self.threshold, np.int64)
        return largest_plane(answers) if answers.ndim == 3 else np.asarray(answers.argmax(axis=-3))


def largest_plane(planes: np.ndarray) -> np.ndarray:
    """(rows, cols) number of the largest of planes (n, rows, cols), the first of equal ones, as argmax gives it; NaN is never larger.

    A seventh of the time of argmax, which takes pixel by pixel across the planes.
    """
    n, rows = planes.shape[:2]
    kind = np.dtype(np.uint8 if n <= MOST_BYTE_CLASSES else np.uint16)
    found = np.zeros(planes.shape[1:], kind)
    for top in range(0, rows, STRIP_ROWS):
        here = slice(top, top + STRIP_ROWS)
        best, codes = planes[0, here].copy(), found[here]
        for number, plane in enumerate(planes[1:, here], 1):
            larger = plane > best
            np.maximum(best, plane, out=best)
            # numbers rise: what was larger last is the largest
            np.maximum(codes, larger * kind.type(number), out=codes)
    return found


class Segment(Op):
    """Class of every pixel; if wanted the probability of each class, entropy and margin. Can be sent to another process.

    Entropy is that of the probabilities (Shannon 1948), divided by its largest possible value; the margin is the largest probability minus
    the second.
    """

    trims = True

    def __init__(
        self,
        model: Understood,
        tiling: Tiling,
        *,
        names: Sequence[str] = (),
        wanted: Wanted | None = None,
        augment: bool = False,
        padding: Padding = "reflect",
    ) -> None:
        """
        Args:
            names: of the classes, for the bands of their probabilities.
            augment: average over flips and rotations.
        """
        self.model = model
        self.tiling = tiling
        self.wanted = wanted or Wanted()
        self.augment = augment
        self.padding = padding
        # what fades needs the tiles around a window too
        self.halo = tiling.margin + (tiling.step if tiling.blended else 0)
        n = model.output.n_classes if model.output.kind != "index" else len(names)
        self.n_codes = n
        self.only_classes = not (self.wanted.probabilities or self.wanted.uncertainty or tiling.blended or augment)
        self.outputs = (OutputBand("class", "uint8" if n <= MOST_BYTE_CLASSES else "uint16", NODATA_CODE), *self._further(names))

    def _further(self, names: Sequence[str]) -> tuple[OutputBand, ...]:
        bands: list[OutputBand] = []
        if self.wanted.probabilities == "byte":
            bands += [OutputBand(name, "uint8", 255, scale=1 / BYTE_STEPS) for name in names]
        elif self.wanted.probabilities:
            bands += [OutputBand(name, "float32", -1.0) for name in names]
        return (*bands, *((ENTROPY_BAND, MARGIN_BAND) if self.wanted.uncertainty else ()))

    def effort(self, window: Window) -> int:
        """Tiles that go through the network."""
        beside = 2 if self.tiling.blended else 0
        down, across = -(-window.height // self.tiling.step) + beside, -(-window.width // self.tiling.step) + beside
        return down * across

    def stop(self) -> None:
        """End the run of the network that is going on."""
        self.model.network.stop()

    def __call__(self, block: Block) -> Block:
        step, halo = self.tiling.step, self.halo
        rows, columns = block.valid.shape[1] - 2 * halo, block.valid.shape[2] - 2 * halo
        valid: np.ndarray = np.asarray(block.valid.all(axis=0))
        inner = valid[halo : halo + rows, halo : halo + columns]
        window = Window(block.window.x + halo, block.window.y + halo, columns, rows)
        if not inner.any():
            self.spent += self.effort(window)
            return self._nothing(inner, window)
        pixels = self.model.preparation(np.asarray(block.data), valid)
        down, across = -(-rows // step), -(-columns // step)
        lacking = ((0, 0), (0, down * step - rows), (0, across * step - columns))
        # a window at the edge of the raster has less than whole tiles
        if any(map(any, lacking)):
            pixels = np.pad(pixels, lacking, mode=self.padding)
        whole = self._faded(pixels, down, across) if self.tiling.blended else self._joined(pixels, down, across)
        return self._planes(whole[:, :rows, :columns], inner, window)

    def _joined(self, pixels: np.ndarray, down: int, across: int) -> np.ndarray:
        """(classes, rows, cols) from tiles whose margins are cut off; pixels (bands, rows + 2 margin, cols + 2 margin)."""
        step, margin, tile = self.tiling.step, self.tiling.margin, self.tiling.tile
        corners = [(y * step, x * step) for y in range(down) for x in range(across)]
        if len(corners) == 1:
            return self._inner(pixels[None, :, :tile, :tile])[0][:, margin : margin + step, margin : margin + step]
        scores = self._inner(np.stack([pixels[:, y : y + tile, x : x + tile] for y, x in corners]))
        whole = np.empty((scores.shape[1], down * step, across * step), scores.dtype)
        for (y, x), part in zip(corners, scores):
            whole[:, y : y + step, x : x + step] = part[:, margin : margin + step, margin : margin + step]
        return whole

    def _faded(self, pixels: np.ndarray, down: int, across: int) -> np.ndarray:
        """(classes, rows, cols) from tiles that fade into each other over twice the margin; one more tile on every side of the window."""
        step, margin, tile = self.tiling.step, self.tiling.margin, self.tiling.tile
        ramp = np.minimum((np.arange(tile) + 0.5) / max(2 * margin, 1), 1)
        ramp = np.minimum(ramp, ramp[::-1]).astype(np.float32)
        weight = np.outer(ramp, ramp)
        whole: np.ndarray | None = None
        for y in range(down + 2):
            scores = self._batches(pixels[:, y * step : y * step + tile], across + 2)
            if whole is None:
                whole = np.zeros((scores.shape[1], (down + 2) * step + 2 * margin, (across + 2) * step + 2 * margin), np.float32)
            for x, part in enumerate(scores):
                whole[:, y * step : y * step + tile, x * step : x * step + tile] += part * weight
        return np.asarray(whole)[:, step + margin : -step - margin, step + margin : -step - margin]

    def _batches(self, strip: np.ndarray, count: int) -> np.ndarray:
        """Probabilities of a row of overlapping tiles, some at a time."""
        step, tile, batch = self.tiling.step, self.tiling.tile, self.tiling.batch
        tiles = [strip[:, :, x * step : x * step + tile] for x in range(count)]
        return np.concatenate([self._inner(np.stack(tiles[start : start + batch])) for start in range(0, count, batch)])

    def _nothing(self, inner: np.ndarray, window: Window) -> Block:
        planes = tuple(np.full(inner.shape, band.nodata, band.dtype) for band in self.outputs)
        return Block(planes, np.zeros(inner.shape, bool), window)

    def _inner(self, tiles: np.ndarray) -> np.ndarray:
        """Probabilities (n, classes, tile, tile), or the numbers (n, 1, tile, tile) of an index map; 0 where the network gives less."""
        once = self.model.output.kind == "index" or not self.augment
        found = self.model.answers(tiles, self.only_classes) if once else self._averaged(tiles)
        self.spent += len(tiles)
        return found

    def _averaged(self, tiles: np.ndarray) -> np.ndarray:
        """Mean over flips and rotations."""
        total = None
        for turns in range(4):
            for mirrored in (False, True):
                seen = np.rot90(tiles[..., ::-1] if mirrored else tiles, turns, (2, 3))
                found = np.rot90(self.model.answers(seen), -turns, (2, 3))
                found = found[..., ::-1] if mirrored else found
                total = found / 8 if total is None else total + found / 8
        return np.asarray(total)

    def _has_classes(self, answers: np.ndarray) -> bool:
        """Whether answers (classes, n) tell the class of every pixel; logits may be minus infinity for some classes."""
        raw = self.only_classes and self.model.output.kind == "logits"
        return bool(np.isfinite(answers.max(axis=0) if raw else answers).all())

    def _planes(self, found: np.ndarray, inner: np.ndarray, window: Window) -> Block:
        dtype = self.outputs[0].dtype
        if self.model.output.kind == "index":
            numbers = self.model.classes(found)
            known = inner & (numbers >= 0)
            most = self.n_codes
            if (numbers[known] >= most).any():
                what = f"The model gives the class {int(numbers[known].max())}, more than its class names tell"
                raise EngineError(what, self.model.network.path, "name all classes in CLASS_NAMES, or in the JSON beside the model")
            return Block((np.where(known, numbers + 1, NODATA_CODE).astype(dtype),), known, window)
        # one number that is none makes the sum none; only then it matters which
        if not np.isfinite(found.sum(dtype=np.float64)) and not self._has_classes(found[:, inner]):
            fix = "check SCALE and BANDS: such values come from input that the network does not know, or from float16"
            raise EngineError("The model gives values that are not numbers", f"{self.model.network.path}, {window}", fix)
        planes: list[np.ndarray] = [(self.model.classes(found) + 1).astype(dtype)]
        if self.wanted.probabilities == "byte":
            planes += [np.rint(np.clip(plane, 0, 1) * BYTE_STEPS).astype(np.uint8) for plane in found]
        elif self.wanted.probabilities:
            planes += [plane.astype(np.float32) for plane in found]
        if self.wanted.uncertainty:
            planes += list(uncertainty(found))
        return Block(tuple(planes), inner, window)


def uncertainty(probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Entropy (0: sure, 1: all classes alike) and margin (0 to 1), both (rows, cols) float32, of probabilities (classes, rows, cols)."""
    total = np.maximum(probabilities.sum(axis=0), 1e-30)
    shares = np.clip(probabilities / total, 1e-30, 1)
    entropy = -(shares * np.log(shares)).sum(axis=0) / np.log(max(len(shares), 2))
    ordered = np.partition(probabilities, len(probabilities) - 2, axis=0)
    return np.clip(entropy, 0, 1).astype(np.float32), (ordered[-1] - ordered[-2]).astype(np.float32)


class SeamTally:
    """A sink that measures seams: how much classes change across the lines between tiles, compared with elsewhere.

    Attributes:
        across, elsewhere: pairs of neighbours with different classes, and all pairs, (2,) each. Elsewhere counts only where tiles might
            begin, because networks that halve and double their input change class more often there.
    """

    def __init__(self, tiling: Tiling) -> None:
        self.step, self.multiple = tiling.step, tiling.multiple
        self.across = np.zeros(2, np.int64)
        self.elsewhere = np.zeros(2, np.int64)
        self._above: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._left: tuple[np.ndarray, np.ndarray] | None = None

    def write(self, window: Window, planes: Sequence[np.ndarray] | np.ndarray, valid: np.ndarray) -> None:
        """Count one window of classes; windows come row by row."""
        codes, ok = np.asarray(planes[0]), valid if valid.ndim == 2 else valid[0]
        self._lines(codes, ok, window.x)
        self._lines(codes.T, ok.T, window.y)
        left = self._left if window.x else None
        if left is not None and len(left[0]) == len(codes):
            self._line(left, (codes[:, 0], ok[:, 0]))
        above = self._above.get(window.x)
        if above is not None and len(above[0]) == codes.shape[1]:
            self._line(above, (codes[0], ok[0]))
        self._left = codes[:, -1].copy(), ok[:, -1].copy()
        self._above[window.x] = codes[-1].copy(), ok[-1].copy()

    def _lines(self, codes: np.ndarray, ok: np.ndarray, start: int) -> None:
        both = ok[:, 1:] & ok[:, :-1]
        differ = ((codes[:, 1:] != codes[:, :-1]) & both).sum(axis=0)
        pairs = both.sum(axis=0)
        places = np.arange(start + 1, start + codes.shape[1])
        seam = places % self.step == 0
        alike = (places % self.multiple == 0) & ~seam
        self.across += (differ[seam].sum(), pairs[seam].sum())
        self.elsewhere += (differ[alike].sum(), pairs[alike].sum())

    def _line(self, first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray]) -> None:
        both = first[1] & second[1]
        self.across += (np.count_nonzero((first[0] != second[0]) & both), np.count_nonzero(both))

    @property
    def ratio(self) -> float:
        """Share of changes across the lines / elsewhere; 1: no seams; NaN where there are no lines or no changes."""
        if not self.across[1] or not self.elsewhere[0]:
            return float("nan")
        return float((self.across[0] / self.across[1]) / (self.elsewhere[0] / self.elsewhere[1]))

    @property
    def is_seen(self) -> bool:
        """Whether there are more changes across the lines than elsewhere by more than chance (3 standard deviations of a count) and 5 %."""
        if not self.across[1] or not self.elsewhere[1]:
            return False
        expected = float(self.elsewhere[0] / self.elsewhere[1] * self.across[1])
        return bool(self.across[0] > max(SEAM_LIMIT * expected, expected + 3 * np.sqrt(expected)))
