"""Bands from many files on one grid, as DN = reflectance x 10000 with the BOA offset removed."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any, Sequence

import numpy as np

from . import indices, sentinel2
from .blocks import Block, Op, run_blocks
from .crs import is_geographic
from .features import Feature, FeatureSpace, band_for, index_formula
from .grid import Grid, Window
from .progress import Progress
from .radiometry import REFLECTANCE_SCALE, RadiometricDecision
from .raster import OutputBand, RasterInfo, RasterReader, RasterWriter, StackedReader
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
        return finest
    lead = min(native, key=lambda name: (native[name], spectral[name].pixel_size))
    target = resolution_m * (1.0 if _is_sentinel2_size(finest) else spectral[lead].pixel_size[0] / native[lead])
    for grid in spectral.values():
        if abs(grid.pixel_size[0] - target) < 1e-6 * target:
            return grid
    return finest.scaled(target / finest.pixel_size[0])


def _is_sentinel2_size(grid: Grid) -> bool:
    return not is_geographic(grid.crs) and any(abs(grid.pixel_size[0] - metres) < 0.01 for metres in map(int, RESOLUTIONS))


def source_readers(sources: Sequence[BandSource], grid: Grid, resampling: str) -> StackedReader:
    """Readers that bring every band to the grid: averaging finer bands, resampling coarser ones, nearest for the SCL."""
    readers = []
    for source in sources:
        finer = source.info.grid.pixel_size[0] < grid.pixel_size[0] * 0.999
        how = "nearest" if source.name == sentinel2.SCL else "average" if finer else resampling
        readers.append(RasterReader(source.info, [source.index], grid=grid, resampling=how, nodata=0, need_all=False))
    return StackedReader(readers)


class ToReflectanceDn(Op):
    """Stored numbers -> DN = reflectance x 10000, clipped at 1; 0 is nodata. Can be sent to another process.

    Each band keeps its own nodata pixels; a pixel is valid where any band is. An SCL plane behind the bands masks.
    """

    def __init__(self, sources: Sequence[BandSource], mask_classes: Sequence[int] = ()) -> None:
        """
        Args:
            sources: the bands in order; with mask_classes one more plane follows them: the SCL that masks.
        """
        self.outputs = tuple(source.output() for source in sources)
        self.decisions = tuple(None if source.name == sentinel2.SCL else source.decision for source in sources)
        self.nodata = tuple(source.info.bands[source.index - 1].nodata or 0 for source in sources)
        self.mask_classes = tuple(mask_classes)

    def __call__(self, block: Block) -> Block:
        data = np.asarray(block.data)
        planes = np.empty((len(self.outputs), *block.valid.shape), np.uint16)
        for plane, stored, decision, nodata in zip(planes, data, self.decisions, self.nodata):
            _to_dn(stored, decision, nodata, plane)
        if self.mask_classes:
            planes[:, np.isin(data[-1], self.mask_classes)] = 0
        return Block(planes, np.asarray(planes.any(axis=0)), block.window)


def _to_dn(stored: np.ndarray, decision: RadiometricDecision | None, nodata: float, plane: np.ndarray) -> None:
    valid = stored != nodata
    if stored.dtype.kind == "f":
        valid &= np.isfinite(stored)
    if decision is None or (decision.gain == 1 and decision.add_dn == 0 and stored.dtype == np.uint16):
        np.multiply(stored, valid, out=plane, casting="unsafe")
        return
    values = np.where(valid, stored, 0).astype(np.float64) * decision.gain + decision.add_dn
    np.multiply(np.clip(np.rint(values), 1, DN_MAX), valid, out=plane, casting="unsafe")


class WithIndices(Op):
    """A stack op followed by indices: reflectance 0 to 1 and index values, Float32. Can be sent to another process."""

    def __init__(self, stacked: ToReflectanceDn, space: FeatureSpace) -> None:
        self.stacked = stacked
        self.space = space
        bands = tuple(replace(band, dtype="float32", nodata=indices.NODATA, scale=None) for band in stacked.outputs)
        extra = tuple(OutputBand(feature.name, "float32", indices.NODATA) for feature in space.features if feature.formula)
        self.outputs = (*bands, *extra)

    def __call__(self, block: Block) -> Block:
        result = self.stacked(block)
        dn = np.asarray(result.data)
        bands = np.where(dn > 0, dn * np.float32(REFLECTANCE_SCALE), np.float32(indices.NODATA))
        values = self.space.indices_of(dn.reshape(len(dn), -1), "float64").reshape(-1, *dn.shape[1:])
        for value, formula in zip(values, self.space.formulas):
            needed = [self.space.planes[name] for name in formula.bands]
            value[~(np.isfinite(value) & (dn[needed] > 0).all(axis=0))] = indices.NODATA
        return Block(np.concatenate([bands, values.astype(np.float32)]), result.valid, result.window)


class ValidTally:
    """A sink that counts pixels with any valid band."""

    def __init__(self) -> None:
        self.valid = 0
        self.pixels = 0

    def write(self, window: Window, planes: Any, valid: np.ndarray) -> None:
        """Count one window."""
        self.valid += int(np.count_nonzero(valid))
        self.pixels += valid.size

    @property
    def share(self) -> float:
        """Valid pixels / all pixels."""
        return self.valid / max(self.pixels, 1)


@dataclass(frozen=True)
class StackPlan:
    """All that is needed to write a stack."""

    sources: tuple[BandSource, ...]
    grid: Grid
    resampling: str
    metadata: dict[str, str]
    scl: BandSource | None = None
    """The scene classification to mask with, if any."""
    mask_classes: tuple[int, ...] = ()
    index_names: tuple[str, ...] = ()
    """Spectral indices to add; the stack is then Float32."""


def write_stack(plan: StackPlan, path: str, progress: Progress) -> float:
    """Write a stack under `path` (from OutputFiles); returns the share of valid pixels.

    Raises:
        EngineError: an index needs a band that is not among the sources.
    """
    mask = [plan.scl] if plan.scl and plan.mask_classes else []
    reader = source_readers([*plan.sources, *mask], plan.grid, plan.resampling)
    stacked = ToReflectanceDn(plan.sources, plan.mask_classes if mask else ())
    op = WithIndices(stacked, _index_space(plan.sources, plan.index_names)) if plan.index_names else stacked
    tally = ValidTally()
    with RasterWriter(path, plan.grid, op.outputs, metadata=plan.metadata) as writer:
        run_blocks(reader, op, [writer, tally], progress=progress)
    return tally.share


def _index_space(sources: Sequence[BandSource], names: Sequence[str]) -> FeatureSpace:
    """Indices over the DN planes of a stack."""
    planes = {sentinel2.BY_NAME[s.name].common_name: i for i, s in enumerate(sources) if s.name in sentinel2.BY_NAME}
    have = ", ".join(source.name for source in sources)
    features = []
    for name in names:
        formula = index_formula(name)
        for band in formula.bands:
            planes[band] = band_for(band, planes, have, name)
        features.append(Feature(name, formula.text))
    return FeatureSpace(features, np.full(len(sources), REFLECTANCE_SCALE), np.zeros(len(sources)), planes)


def stack_metadata(algorithm: str, sources: Sequence[BandSource], facts: dict[str, str]) -> dict[str, str]:
    """Provenance of a stack for its GeoTIFF."""
    radiometry = {
        s.name: {"gain": s.decision.gain, "add_dn": s.decision.add_dn, "reason": s.decision.reason}
        for s in sources
        if s.name != sentinel2.SCL
    }
    return {"S2LC_ALGORITHM": algorithm, "S2LC_VERSION": VERSION, "S2LC_RADIOMETRY": json.dumps(radiometry), **facts}
