"""Spectral indices of a raster, written as one band each."""

from __future__ import annotations

from typing import Sequence

import numpy as np

from . import indices
from .acquisition import inherited
from .blocks import Block, Op, run_blocks
from .errors import EngineError
from .features import FeatureSpace, feature_reader
from .files import OutputFiles
from .geotiff import OutputBand, RasterWriter
from .grid import Window
from .progress import Progress
from .raster import describe
from .version import VERSION


class IndexOp(Op):
    """Index features of a block; NaN where the bands are valid and the formula is not defined. Can be sent to another process."""

    def __init__(self, space: FeatureSpace) -> None:
        self.space = space
        self.outputs = tuple(OutputBand(feature.name, "float32", indices.NODATA) for feature in space.features)

    def __call__(self, block: Block) -> Block:
        values, defined = self.space.valid_indices(np.asarray(block.data), block.valid)
        bands_valid = [block.valid[[self.space.planes[name] for name in f.bands]].all(axis=0) for f in self.space.formulas]
        values = np.where(np.stack(bands_valid) & ~defined, np.nan, values).astype(np.float32)
        return Block(values, defined, block.window)


class UndefinedTally:
    """A sink that counts defined index values, and undefined ones (NaN) of valid pixels."""

    def __init__(self) -> None:
        self.undefined = 0
        self.defined = 0

    def write(self, window: Window, planes: Sequence[np.ndarray] | np.ndarray, valid: np.ndarray) -> None:
        """Count one window."""
        self.defined += int(np.count_nonzero(valid))
        self.undefined += int(np.count_nonzero(np.isnan(planes)))


def run_indices(source: str, names: Sequence[str], band_map: str, output: str, progress: Progress) -> int:
    """Write spectral indices of a raster; returns how many pixels are undefined, over all indices.

    Raises:
        EngineError: no index is named, a band is missing, or the raster has no valid pixel.
    """
    if not names:
        raise EngineError("No index is chosen", "INDICES", f"use {', '.join(indices.BY_NAME)}")
    info = describe(source)
    reader, space = feature_reader(info, (), names, band_map, progress, with_bands=False)
    op, tally = IndexOp(space), UndefinedTally()
    metadata = {"S2LC_ALGORITHM": "spectralindices", "S2LC_VERSION": VERSION}
    metadata |= inherited(info.metadata)
    with OutputFiles([source]) as files:
        with RasterWriter(files.path(output), reader.grid, op.outputs, metadata=metadata) as writer:
            run_blocks(reader, op, [writer, tally], progress=progress)
        if not tally.defined and not tally.undefined:
            fix = "choose an area or a date with data; 0 and the nodata value are not used"
            raise EngineError("The raster has no valid pixel", source, fix)
        if not tally.defined:
            raise EngineError("No index is defined anywhere (division by zero)", source, "check the raster's scale and the band map")
    if tally.undefined:
        progress.warn(f"{tally.undefined} index values are undefined (division by zero) and became nodata.")
    return tally.undefined
