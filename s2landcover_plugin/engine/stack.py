"""Bands from many files on one grid, as DN = reflectance x 10000 with the BOA offset removed."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import dataclass, replace
from typing import Any, Sequence

import numpy as np

from . import indices, sentinel2
from .blocks import Block, Op, run_blocks
from .crs import is_geographic, pixel_metres, source_pixels_per_pixel
from .features import Feature, FeatureSpace, band_for, index_formula
from .geotiff import OutputBand, RasterWriter
from .grid import Grid, Window
from .packages import require
from .progress import Progress
from .radiometry import REFLECTANCE_SCALE, RadiometricDecision
from .raster import RasterInfo, RasterReader, StackedReader
from .version import VERSION

RESOLUTIONS = ("10", "20", "60")
RESAMPLINGS = ("bilinear", "nearest", "cubic")
OFFSET_POLICIES = ("auto", "apply", "none")
DN_MAX = 65535

RESAMPLING_OPTION_HELP = "For bands coarser than the output. Finer bands are averaged; the scene classification is always nearest."


@dataclass(frozen=True)
class BandSource:
    """One band of a stack: where its numbers are and what they mean."""

    name: str
    info: RasterInfo
    index: int
    decision: RadiometricDecision

    def output(self) -> OutputBand:
        """The band as it is written."""
        band = sentinel2.BY_NAME.get(self.name)
        if self.name == sentinel2.SCL:
            return OutputBand(self.name, "uint16", 0)
        return OutputBand(self.name, "uint16", 0, band.common_name if band else "", band.wavelength_um if band else None, REFLECTANCE_SCALE)


def stack_grid(grids: dict[str, Grid], resolution_m: int) -> Grid:
    """The grid of a stack: pixels of 10, 20 or 60 m on a lattice of the files themselves.

    Files whose finest pixels are neither 10, 20 nor 60 m (overviews, degrees) are scaled alike: a 10 m band that comes at 120 m stays
    at 120 m when 10 m are asked for. Without any Sentinel-2 band: the finest file's own grid.

    Args:
        grids: band name -> grid of the whole file it stands in, so that the result lies on the scene's own grid.
    """
    spectral = {name: grid for name, grid in grids.items() if name != sentinel2.SCL} or grids
    finest = min(spectral.values(), key=lambda grid: grid.pixel_size)
    native = {name: sentinel2.BY_NAME[name].resolution_m for name in spectral if name in sentinel2.BY_NAME}
    if not native:
        return _upright(finest)
    lead = min(native, key=lambda name: (native[name], spectral[name].pixel_size))
    target = resolution_m * (1.0 if _is_sentinel2_size(finest) else spectral[lead].pixel_size[0] / native[lead])
    for grid in spectral.values():
        if abs(grid.pixel_size[0] - target) < 1e-6 * target:
            return _upright(grid)
    return _upright(finest).scaled(target / finest.pixel_size[0])


def _upright(grid: Grid) -> Grid:
    """North up; without a CRS as it is, because there nothing tells where north is."""
    return grid.north_up() if grid.crs else grid


def _is_sentinel2_size(grid: Grid) -> bool:
    return not is_geographic(grid.crs) and any(abs(grid.pixel_size[0] - metres) < 0.01 for metres in map(int, RESOLUTIONS))


def resampling_for(name: str, band_grid: Grid, grid: Grid, resampling: str) -> str:
    """How a band comes to the output's grid: nearest for the SCL, the average of finer pixels, else as chosen."""
    if name == sentinel2.SCL:
        return "nearest"
    finer = max(source_pixels_per_pixel(grid, band_grid)) > 1
    return "average" if finer else resampling


def source_readers(sources: Sequence[BandSource], grid: Grid, resampling: str) -> StackedReader:
    """Readers that bring every band to the grid; neighbouring bands of one file are read together. DN 0 is nodata."""
    readers = []

    def key(source: BandSource) -> tuple[RasterInfo, str]:
        return source.info, resampling_for(source.name, source.info.grid, grid, resampling)

    for (info, method), group in itertools.groupby(sources, key=key):
        readers.append(RasterReader(info, [source.index for source in group], grid=grid, resampling=method, nodata=0))
    return StackedReader(readers)


class ToReflectanceDn(Op):
    """Stored numbers -> DN = reflectance x 10000, clipped at 1; 0 is nodata. Can be sent to another process.

    Each band keeps its own nodata pixels. DN 0 of whole numbers is nodata before any scaling, whatever else a file states. An SCL plane
    behind the bands masks.
    """

    def __init__(self, sources: Sequence[BandSource], mask_classes: Sequence[int] = (), dilation_px: float = 0.0) -> None:
        """
        Args:
            sources: the bands in order; with mask_classes one more plane follows them: the SCL that masks.
            dilation_px: pixels whose centre is this near to that of a masked one are masked too.
        """
        self.outputs = tuple(source.output() for source in sources)
        self.decisions = tuple(None if source.name == sentinel2.SCL else source.decision for source in sources)
        self.mask_classes = tuple(mask_classes)
        self.dilation_px = dilation_px if mask_classes else 0.0
        self.halo = math.floor(self.dilation_px + 1e-9)

    def __call__(self, block: Block) -> Block:
        data = np.asarray(block.data)
        count = len(self.outputs)
        valid = block.valid[:count]
        if data.dtype.kind in "iu":
            valid = valid & (data[:count] != 0)
        if self.mask_classes:
            valid = valid & ~self._dilated(np.isin(data[-1], self.mask_classes) & block.valid[-1])
        planes = np.zeros((count, *data.shape[1:]), np.uint16)
        for plane, stored, ok, decision in zip(planes, data, valid, self.decisions):
            _to_dn(stored, ok, decision, plane)
        return Block(planes, valid, block.window)

    def _dilated(self, masked: np.ndarray) -> np.ndarray:
        if not self.halo or not masked.any():
            return masked
        distance: np.ndarray = require("scipy.ndimage").distance_transform_edt(~masked)
        return distance <= self.dilation_px + 1e-9


def _to_dn(stored: np.ndarray, valid: np.ndarray, decision: RadiometricDecision | None, plane: np.ndarray) -> None:
    if decision is None or (decision.gain == 1 and decision.add_dn == 0 and stored.dtype == np.uint16):
        np.copyto(plane, stored, where=valid, casting="unsafe")
        return
    values = np.where(valid, stored, 0).astype(np.float64) * decision.gain + decision.add_dn
    np.copyto(plane, np.clip(np.rint(values), 1, DN_MAX), where=valid, casting="unsafe")


class WithIndices(Op):
    """A stack op followed by indices: reflectance 0 to 1 and index values, Float32. Can be sent to another process."""

    def __init__(self, stacked: ToReflectanceDn, space: FeatureSpace) -> None:
        self.stacked = stacked
        self.space = space
        self.scale = np.array([1.0 if band.scale is None else band.scale for band in stacked.outputs], np.float32)[:, None, None]
        bands = tuple(replace(band, dtype="float32", nodata=indices.NODATA, scale=None) for band in stacked.outputs)
        extra = tuple(OutputBand(feature.name, "float32", indices.NODATA) for feature in space.features if feature.formula)
        self.outputs = (*bands, *extra)
        self.halo = stacked.halo

    def __call__(self, block: Block) -> Block:
        result = self.stacked(block)
        dn = np.asarray(result.data)
        values, defined = self.space.valid_indices(dn, result.valid)
        data = np.concatenate([dn * self.scale, values.astype(np.float32)])
        return Block(data, np.concatenate([result.valid, defined]), result.window)


class Composite(Op):
    """Several scenes on one grid become one: the first valid pixel, or the median of the valid ones. Can be sent to another process.

    The median of an even number of values is the mean of the two in the middle, rounded half to even. The SCL, being codes, is always
    that of the first scene with a valid one.
    """

    def __init__(self, scenes: Sequence[tuple[ToReflectanceDn, int]], how: str) -> None:
        """
        Args:
            scenes: the op of each scene and the number of planes it takes, in the order of preference.
            how: `first` or `median`.
        """
        self.scenes = tuple(scenes)
        self.how = how
        self.outputs = scenes[0][0].outputs
        self.halo = max(op.halo for op, _ in scenes)

    def __call__(self, block: Block) -> Block:
        data = np.asarray(block.data)
        planes, valids, start = [], [], 0
        for op, count in self.scenes:
            here = slice(start, start + count)
            result = op(Block(data[here], block.valid[here], block.window))
            planes.append(np.asarray(result.data))
            valids.append(result.valid)
            start += count
        values, valid = np.stack(planes), np.stack(valids)
        composite = first_valid(values, valid)
        if self.how == "median":
            codes = [band.name == sentinel2.SCL for band in self.outputs]
            composite = np.where(np.array(codes)[:, None, None], composite, median_of_valid(values, valid))
        return Block(composite, np.asarray(valid.any(axis=0)), block.window)


def first_valid(values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """(scenes, ...) values and valid -> (...): the value of the first scene that is valid there; 0 where none is."""
    first = valid.argmax(axis=0)[np.newaxis]
    chosen: np.ndarray = np.take_along_axis(values, first, axis=0)[0]
    return np.where(valid.any(axis=0), chosen, values.dtype.type(0))


def median_of_valid(values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """(scenes, ...) values and valid -> (...): the median over the scenes that are valid there, rounded half to even; 0 where none is."""
    count = valid.sum(axis=0)
    ordered = np.sort(np.where(valid, values, np.iinfo(values.dtype).max), axis=0)
    low = np.take_along_axis(ordered, np.maximum(count - 1, 0)[np.newaxis] // 2, axis=0)[0]
    high = np.take_along_axis(ordered, np.minimum(count // 2, len(values) - 1)[np.newaxis], axis=0)[0]
    middle = np.rint((low.astype(np.float64) + high) / 2).astype(values.dtype)
    return np.where(count > 0, middle, values.dtype.type(0))


class ValidTally:
    """A sink that counts valid pixels, per plane and of any plane but the SCL."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.counted = [i for i, name in enumerate(names) if name != sentinel2.SCL] or list(range(len(names)))
        self.per_plane = np.zeros(len(names), np.int64)
        self.valid = 0
        self.pixels = 0

    def write(self, window: Window, planes: Any, valid: np.ndarray) -> None:
        """Count one window."""
        self.per_plane += valid.sum(axis=(1, 2))
        self.valid += int(np.count_nonzero(valid[self.counted].any(axis=0)))
        self.pixels += valid[0].size

    @property
    def share(self) -> float:
        """Pixels with any valid band / all pixels."""
        return self.valid / max(self.pixels, 1)

    @property
    def empty(self) -> list[str]:
        """Bands without any valid pixel."""
        return [name for name, count in zip(self.names, self.per_plane) if not count]


@dataclass(frozen=True)
class SceneBands:
    """The bands of one scene, and the scene classification to mask with, if any."""

    sources: tuple[BandSource, ...]
    scl: BandSource | None = None


@dataclass(frozen=True)
class StackPlan:
    """All that is needed to write a stack."""

    scenes: tuple[SceneBands, ...]
    """In the order of preference; all with the same bands."""
    grid: Grid
    resampling: str
    metadata: dict[str, str]
    mask_classes: tuple[int, ...] = ()
    mask_dilation_m: float = 0.0
    composite: str = "first"
    """How several scenes become one: `first` or `median`."""
    index_names: tuple[str, ...] = ()
    """Spectral indices to add to a single scene; the stack is then Float32."""


def write_stack(plan: StackPlan, path: str, progress: Progress) -> float:
    """Write a stack under `path` (from OutputFiles); returns the share of valid pixels.

    Raises:
        EngineError: an index needs a band that is not among the sources.
    """
    sources: list[BandSource] = []
    ops = []
    dilation_px = plan.mask_dilation_m / pixel_metres(plan.grid)
    for scene in plan.scenes:
        mask = [scene.scl] if scene.scl and plan.mask_classes else []
        op = ToReflectanceDn(scene.sources, plan.mask_classes if mask else (), dilation_px)
        ops.append((op, len(scene.sources) + len(mask)))
        sources += [*scene.sources, *mask]
    whole: Op = ops[0][0] if len(ops) == 1 else Composite(ops, plan.composite)
    if plan.index_names:
        whole = WithIndices(ops[0][0], _index_space(plan.scenes[0].sources, plan.index_names))
    reader = source_readers(sources, plan.grid, plan.resampling)
    tally = ValidTally([band.name for band in whole.outputs])
    with RasterWriter(path, plan.grid, whole.outputs, metadata=plan.metadata) as writer:
        run_blocks(reader, whole, [writer, tally], progress=progress)
    if tally.valid and tally.empty:
        progress.warn(f"Without any valid pixel: {', '.join(tally.empty)}.")
    return tally.share


def _index_space(sources: Sequence[BandSource], names: Sequence[str]) -> FeatureSpace:
    """Indices over the DN planes of a stack."""
    planes = {sentinel2.BY_NAME[s.name].common_name: i for i, s in enumerate(sources) if s.name in sentinel2.BY_NAME}
    have = ", ".join(source.name for source in sources)
    features = []
    for name, formula in map(index_formula, dict.fromkeys(names)):
        for band in formula.bands:
            planes[band] = band_for(band, planes, have, name)
        features.append(Feature(name, formula.text))
    return FeatureSpace(features, np.full(len(sources), REFLECTANCE_SCALE), np.zeros(len(sources)), planes)


def stack_metadata(algorithm: str, sources: Sequence[BandSource], facts: dict[str, str]) -> dict[str, str]:
    """Provenance of a stack for its GeoTIFF."""
    radiometry = json.dumps(radiometry_facts(sources))
    return {"S2LC_ALGORITHM": algorithm, "S2LC_VERSION": VERSION, "S2LC_RADIOMETRY": radiometry, **facts}


def radiometry_facts(sources: Sequence[BandSource]) -> dict[str, dict[str, Any]]:
    """Band -> gain, offset (DN) and reason of its decision."""
    spectral = [source for source in sources if source.name != sentinel2.SCL]
    return {s.name: {"gain": s.decision.gain, "add_dn": s.decision.add_dn, "reason": s.decision.reason} for s in spectral}


def tell_assumptions(sources: Sequence[BandSource], progress: Progress) -> None:
    """Warn about decisions that rest on an assumption, once per kind of assumption."""
    assumed: dict[str, list[str]] = {}
    for source in sources:
        if not source.decision.certain and source.name != sentinel2.SCL:
            assumed.setdefault(source.decision.reason, []).append(source.name)
    for reason, names in assumed.items():
        progress.warn(
            f"{', '.join(names)}: {reason}. If the pixels carry the BOA offset of processing baseline 04.00 and later, "
            "set OFFSET_POLICY to apply."
        )
