"""An image written as it lies on its reference."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from .acquisition import inherited
from .alignment import (
    Alignment,
    AlignOptions,
    aligned_reader,
    check_motion,
    estimate_alignment,
    missing_nodata,
    moved_geotransform,
    output_bands,
)
from .areas import ClassTally
from .blocks import run_blocks
from .crs import same_crs
from .files import STYLE_SUFFIX, OutputFiles
from .geotiff import RasterWriter, write_class_table
from .grid import Grid
from .legend import qml
from .options import check_options
from .progress import Progress
from .raster import RasterInfo, RasterReader, Reader, StackedReader, describe, read_legend
from .registration import IDENTITY
from .version import VERSION

NEGLIGIBLE = "The shift is less than 0.1 px: nothing is resampled."
WHOLE_PX = 0.1
"""A shift this near to whole pixels can be mended by moving the grid."""


@dataclass(frozen=True)
class AlignOutputs:
    """Where the results go; empty: not wanted."""

    raster: str
    table: str = ""


def run_alignment(reference: str, image: str, outputs: AlignOutputs, options: AlignOptions, progress: Progress) -> Alignment:
    """Write an image as it lies on its reference.

    An image that is moved comes out on the grid of the reference. One that needs no moving, or for which no trustworthy motion is found,
    comes out as it is.

    Raises:
        EngineError: the rasters cannot be compared, or a file cannot be written.
        Cancelled: the user asked to stop.
    """
    check_options(options)
    first, second = describe(reference), describe(image)
    check_motion(second, first.grid, is_shift=options.motion == "translation")
    alignment = estimate_alignment(first, second, options, progress.part(0, 0.4))
    _tell(alignment, image, progress)
    reader, grid = _as_it_comes_out(first, second, alignment, options)
    bands = output_bands(second)
    byte = len(second.bands) == 1 and second.bands[0].dtype == "uint8"
    legend = tuple(read_legend(image)) if byte else ()
    with OutputFiles([reference, image]) as files:
        path = files.path(outputs.raster)
        tally = ClassTally(grid, 256) if legend else None
        with RasterWriter(path, grid, bands, metadata=_provenance(first, second, alignment, options), legend=legend) as writer:
            run_blocks(reader, None, [writer, *([tally] if tally else [])], progress=progress.part(0.4, 1))
        if tally:
            pixels, hectares = [int(tally.pixels[each.code]) for each in legend], [float(tally.hectares[each.code]) for each in legend]
            write_class_table(path, legend, pixels, hectares)
            files.write_sidecar(outputs.raster, STYLE_SUFFIX, qml(legend))
        if outputs.table:
            files.write_text(outputs.table, alignment.table())
    return alignment


def _as_it_comes_out(reference: RasterInfo, image: RasterInfo, alignment: Alignment, options: AlignOptions) -> tuple[Reader, Grid]:
    own = StackedReader([RasterReader(image, [band.index], nodata=missing_nodata(image)) for band in image.bands])
    if not alignment.moves:
        return own, image.grid
    whole = np.round(alignment.shift_px)
    near = float(np.abs(whole - alignment.shift_px).max()) < WHOLE_PX
    if options.move_grid and near and options.motion == "translation" and same_crs(image.grid.crs, reference.grid.crs):
        matrix = IDENTITY + np.array([[0, 0, whole[0]], [0, 0, whole[1]]])
        return own, replace(image.grid, geotransform=moved_geotransform(image, reference.grid, matrix))
    return aligned_reader(image, reference.grid, alignment.registration.matrix, options.resampling), reference.grid


def _tell(alignment: Alignment, image: str, progress: Progress) -> None:
    x, y = alignment.shift_px
    if not alignment.trusted:
        progress.warn(f"{image} is left as it is, because its shift is not known: {'; '.join(alignment.registration.doubts)}.")
        return
    east, north = alignment.shift_m
    found = alignment.registration
    progress.info(
        f"Shift {x:.3f} px to the right and {y:.3f} px down ({east:.2f} m east, {north:.2f} m north); correlation "
        f"{found.correlation_before:.3f} before, {found.correlation_after:.3f} after; "
        f"{sum(found.agrees)} of {len(found.agrees)} patches agree."
    )
    if not alignment.moves:
        progress.info(NEGLIGIBLE)


def _provenance(reference: RasterInfo, image: RasterInfo, alignment: Alignment, options: AlignOptions) -> dict[str, str]:
    facts = {
        "S2LC_ALGORITHM": "alignrasters",
        "S2LC_VERSION": VERSION,
        "S2LC_INPUT": Path(image.path.partition("?")[0]).name,
        "S2LC_REFERENCE": Path(reference.path.partition("?")[0]).name,
        "S2LC_PARAMETERS": json.dumps(asdict(options)),
        "S2LC_ALIGNED": str(int(alignment.trusted)),
        "S2LC_SHIFT_PX": ",".join(f"{value:.4f}" for value in alignment.shift_px),
    }
    return {**facts, **inherited(image.metadata)}
