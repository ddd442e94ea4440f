"""Bands from many files on one grid, as DN = reflectance x 10000 with the BOA offset removed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Sequence

import numpy as np

from . import sentinel2
from .blocks import Block, Op, run_blocks
from .crs import Aoi, is_geographic
from .errors import EngineError
from .files import OutputFiles
from .grid import Grid, Window
from .options import check_options, option
from .progress import Progress
from .radiometry import REFLECTANCE_SCALE, RadiometricDecision, decide_for_file
from .raster import OutputBand, RasterInfo, RasterReader, RasterWriter, StackedReader, describe
from .version import VERSION

RESOLUTIONS = ("10", "20", "60")
RESAMPLINGS = ("bilinear", "nearest", "cubic")
OFFSET_POLICIES = ("auto", "apply", "none")
DN_MAX = 65535

RESAMPLING_OPTION_HELP = "For bands coarser than the output. Finer bands are averaged; the scene classification is always nearest."


@dataclass(frozen=True)
class StackOptions:
    """How band files become one stack."""

    bands: tuple[str, ...] = ()
    resolution: str = option("10", "Resolution (m)", "Grid of the 10, 20 or 60 m bands.", choices=RESOLUTIONS)
    resampling: str = option("bilinear", "Resampling", RESAMPLING_OPTION_HELP, choices=RESAMPLINGS, advanced=True)
    offset_policy: str = option(
        "auto",
        "BOA offset",
        "auto: what the file's own scale and offset say. apply: subtract 1000 from every DN. none: leave the DN.",
        choices=OFFSET_POLICIES,
        advanced=True,
    )
    mask_clouds: bool = option(False, "Mask clouds", "Set clouds, cirrus and cloud shadows of the scene classification (SCL) to nodata.")


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
        return Block(planes, planes.any(axis=0), block.window)


def _to_dn(stored: np.ndarray, decision: RadiometricDecision | None, nodata: float, plane: np.ndarray) -> None:
    valid = stored != nodata
    if stored.dtype.kind == "f":
        valid &= np.isfinite(stored)
    if decision is None or (decision.gain == 1 and decision.add_dn == 0 and stored.dtype == np.uint16):
        np.multiply(stored, valid, out=plane, casting="unsafe")
        return
    values = np.where(valid, stored, 0).astype(np.float64) * decision.gain + decision.add_dn
    np.multiply(np.clip(np.rint(values), 1, DN_MAX), valid, out=plane, casting="unsafe")


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


def write_stack(
    sources: Sequence[BandSource],
    scl: BandSource | None,
    grid: Grid,
    path: str,
    options: Any,
    metadata: dict[str, str],
    progress: Progress,
) -> float:
    """Write the stack under `path` (from OutputFiles); returns the share of valid pixels.

    Args:
        scl: the scene classification to mask with, if any.
        options: has `resampling` and `mask_classes`.
    """
    classes = options.mask_classes if scl else ()
    reader = source_readers([*sources, *([scl] if scl else [])], grid, options.resampling)
    op = ToReflectanceDn(sources, classes)
    tally = ValidTally()
    with RasterWriter(path, grid, op.outputs, metadata=metadata) as writer:
        run_blocks(reader, op, [writer, tally], progress=progress)
    return tally.share


@dataclass(frozen=True)
class StackReport:
    """A written stack."""

    bands: tuple[str, ...]
    grid: Grid
    valid_share: float


def run_stack(inputs: Sequence[str], output: str, options: StackOptions, aoi: Aoi | None, progress: Progress) -> StackReport:
    """Stack band files (one band each, or many) on one grid.

    Raises:
        EngineError: a file cannot be read, a named band is missing or there twice, or the area lies outside the files.
    """
    check_options(options)
    if not inputs:
        raise EngineError("There is nothing to stack", "INPUTS", "choose at least one raster")
    found: dict[str, BandSource] = {}
    for path in inputs:
        for source in file_sources(path, options.offset_policy):
            if source.name in found:
                raise EngineError(
                    f"The band {source.name} is there twice", f"{found[source.name].info.path} and {path}", "leave one of them out"
                )
            found[source.name] = source
    sources = _chosen(found, options.bands)
    scl = found.get(sentinel2.SCL)
    if options.mask_clouds and scl is None:
        raise EngineError(
            "Clouds cannot be masked without the scene classification", "MASK_CLOUDS, INPUTS", "add the SCL file to the inputs"
        )
    grid = stack_grid({source.name: source.info.grid for source in sources}, int(options.resolution))
    if aoi is not None:
        window = grid.window_of(aoi.bounds_in(grid.crs))
        clipped = window.clipped(grid.width, grid.height)
        if not clipped.width or not clipped.height:
            raise EngineError("The area lies outside the rasters", "EXTENT", "choose an extent that overlaps the inputs")
        grid = grid.cropped(clipped)
    unsure = [s.name for s in sources if not s.decision.certain and s.name != sentinel2.SCL]
    if unsure and options.offset_policy == "auto":
        progress.warn(
            f"Nothing in the files says whether {', '.join(unsure)} carry the BOA offset of processing baseline 04.00 and later; "
            "none is assumed. Set OFFSET_POLICY to apply if they do."
        )
    metadata = stack_metadata(
        "bandstack",
        sources,
        {
            "S2LC_PARAMETERS": json.dumps(
                {
                    "resolution": options.resolution,
                    "resampling": options.resampling,
                    "offset_policy": options.offset_policy,
                    "mask_clouds": options.mask_clouds,
                }
            )
        },
    )
    with OutputFiles() as files:
        share = write_stack(
            sources, scl if options.mask_clouds else None, grid, files.path(output), _Mask(options.resampling), metadata, progress
        )
        if share == 0:
            raise EngineError("The stack has no valid pixel", "INPUTS", "choose an area with data: DN 0 is nodata")
    return StackReport(tuple(source.name for source in sources), grid, share)


@dataclass(frozen=True)
class _Mask:
    resampling: str
    mask_classes: tuple[int, ...] = sentinel2.CLOUD_CLASSES


def stack_metadata(algorithm: str, sources: Sequence[BandSource], facts: dict[str, str]) -> dict[str, str]:
    """Provenance of a stack for its GeoTIFF."""
    radiometry = {
        s.name: {"gain": s.decision.gain, "add_dn": s.decision.add_dn, "reason": s.decision.reason}
        for s in sources
        if s.name != sentinel2.SCL
    }
    return {"S2LC_ALGORITHM": algorithm, "S2LC_VERSION": VERSION, "S2LC_RADIOMETRY": json.dumps(radiometry), **facts}


def file_sources(path: str, offset_policy: str) -> list[BandSource]:
    """The bands of a file with their names and radiometry."""
    info = describe(path)
    alone = len(info.bands) == 1
    sources = []
    for band in info.bands:
        name = sentinel2.identify(band, path, alone=alone)
        if name == f"Band {band.index}":
            name = f"{Path(path).stem}_{band.index}"
        sources.append(BandSource(name, info, band.index, decide_for_file(band, path, offset_policy)))
    return sources


def _chosen(found: dict[str, BandSource], wanted: Sequence[str]) -> list[BandSource]:
    if not wanted:
        order = [band.name for band in sentinel2.BANDS]
        spectral = [source for name, source in found.items() if name != sentinel2.SCL] or list(found.values())
        return sorted(spectral, key=lambda s: order.index(s.name) if s.name in order else len(order))
    missing = [name for name in wanted if name not in found]
    if missing:
        raise EngineError(f"The band {missing[0]} is missing", "BANDS, INPUTS", f"add its file, or choose from {', '.join(found)}")
    return [found[name] for name in wanted]
