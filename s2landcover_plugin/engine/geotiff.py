"""Writing GeoTIFFs: stacks, class rasters with their names and colours, local copies."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Sequence

import numpy as np
from osgeo import gdal

from .crs import quiet_gdal
from .errors import EngineError
from .grid import Grid, Window
from .legend import LegendClass
from .raster import GDAL_TYPES, REMOTE_DRIVERS, gdal_reason, open_dataset

TILE_PX = 512
"""Side of the tiles of written rasters."""
TILED = ["TILED=YES", f"BLOCKXSIZE={TILE_PX}", f"BLOCKYSIZE={TILE_PX}", "BIGTIFF=IF_SAFER"]


@dataclass(frozen=True)
class OutputBand:
    """One band to be written."""

    name: str
    dtype: str
    nodata: float
    common_name: str = ""
    wavelength_um: float | None = None
    scale: float | None = None
    """Written as GDAL scale where given: physical value = stored value x scale + offset."""
    offset: float = 0.0


class RasterWriter:
    """A GeoTIFF written window by window: tiled, DEFLATE, with band names, scale, nodata and colours.

    Use as a context manager around `run_blocks`, on a path given by OutputFiles.
    """

    def __init__(
        self,
        path: str,
        grid: Grid,
        bands: Sequence[OutputBand],
        *,
        metadata: dict[str, str] | None = None,
        legend: Sequence[LegendClass] = (),
    ) -> None:
        """
        Args:
            bands: one per plane; all of one type.
            legend: colours of a class raster.
        """
        self.path = path
        self.bands = tuple(bands)
        dtype = np.dtype(bands[0].dtype)
        predictor = "3" if dtype.kind == "f" else "1" if legend else "2"
        # DEFLATE level 1: a fifth of the CPU of level 6 for 16 % larger class rasters (docs/performance.md)
        options = [*TILED, "INTERLEAVE=BAND", "COMPRESS=DEFLATE", "ZLEVEL=1", f"PREDICTOR={predictor}", "NUM_THREADS=2"]
        with quiet_gdal():
            gdal.ErrorReset()
            try:
                dataset = gdal.GetDriverByName("GTiff").Create(path, grid.width, grid.height, len(bands), GDAL_TYPES[dtype.name], options)
            except RuntimeError:
                dataset = None
            if dataset is None:
                raise EngineError(
                    f"The output cannot be created ({gdal_reason()})", path, "choose a folder you may write to, with enough free space"
                )
            dataset.SetGeoTransform(grid.geotransform)
            if grid.crs:
                dataset.SetProjection(grid.crs)
            dataset.SetMetadata(metadata or {})
            for index, band in enumerate(bands, 1):
                _describe_band(dataset.GetRasterBand(index), band)
            if legend:
                _set_colours(dataset.GetRasterBand(1), legend)
        self._dataset = dataset

    def __enter__(self) -> RasterWriter:
        return self

    def write(self, window: Window, planes: Sequence[np.ndarray] | np.ndarray, valid: np.ndarray) -> None:
        """Write the planes of a window; pixels that are not valid, (rows, cols) or (planes, rows, cols), get nodata."""
        each_valid = np.broadcast_to(valid, (len(planes), *valid.shape[-2:]))
        complete = self._completes_tiles(window)
        with quiet_gdal():
            for index, (band, plane, ok) in enumerate(zip(self.bands, planes, each_valid), 1):
                values = plane if ok.all() else np.where(ok, plane, np.asarray(band.nodata, band.dtype))
                values = values.astype(band.dtype, copy=False)
                gdal.ErrorReset()
                try:
                    target = self._dataset.GetRasterBand(index)
                    failed = target.WriteArray(values, window.x, window.y) != 0
                    if complete:
                        # else hundreds of megabytes would wait in GDAL's cache, and a stopped run would write them in the end
                        target.FlushCache()
                        failed = failed or gdal.GetLastErrorType() >= gdal.CE_Failure
                except RuntimeError:
                    failed = True
                if failed:
                    raise self._write_error()

    def _completes_tiles(self, window: Window) -> bool:
        """Whether a window is made of whole tiles, which are written once."""
        ends = ((window.x + window.width, self._dataset.RasterXSize), (window.y + window.height, self._dataset.RasterYSize))
        return not (window.x % TILE_PX or window.y % TILE_PX) and all(end % TILE_PX == 0 or end == size for end, size in ends)

    def _write_error(self) -> EngineError:
        folder = os.path.dirname(os.path.dirname(self.path))
        return EngineError(f"The output cannot be written ({gdal_reason()})", folder, "free some disk space there")

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        with quiet_gdal():
            gdal.ErrorReset()
            try:
                self._dataset.FlushCache()
                failed = gdal.GetLastErrorType() >= gdal.CE_Failure
                self._dataset = None
                failed = failed or gdal.GetLastErrorType() >= gdal.CE_Failure
            except RuntimeError:
                failed = True
            if failed and kind is None:
                raise self._write_error()


def _describe_band(target: gdal.Band, band: OutputBand) -> None:
    target.SetDescription(band.name)
    target.SetNoDataValue(band.nodata)
    if band.scale is not None:
        target.SetScale(band.scale)
        target.SetOffset(band.offset)
    facts = {"COMMON_NAME": band.common_name}
    if band.wavelength_um is not None:
        facts |= {"WAVELENGTH": f"{band.wavelength_um:g}", "WAVELENGTH_UNITS": "Micrometers"}
    target.SetMetadata({name: value for name, value in facts.items() if value})


def _set_colours(band: gdal.Band, legend: Sequence[LegendClass]) -> None:
    table = gdal.ColorTable()
    table.SetColorEntry(0, (0, 0, 0, 0))
    for each in legend:
        table.SetColorEntry(each.code, (*each.rgb, 255))
    band.SetColorTable(table)


def write_class_table(path: str, legend: Sequence[LegendClass], pixels: Sequence[int], hectares: Sequence[float]) -> None:
    """Put category names and a raster attribute table (code, name, colour, pixels, hectares) beside a class raster."""
    dataset = open_dataset(path)
    band = dataset.GetRasterBand(1)
    names = [""] * (max((each.code for each in legend), default=0) + 1)
    names[0] = "No data"
    for each in legend:
        names[each.code] = each.name
    band.SetRasterCategoryNames(names)
    table = gdal.RasterAttributeTable()
    columns = (
        ("Value", gdal.GFT_Integer, gdal.GFU_MinMax),
        ("Class", gdal.GFT_String, gdal.GFU_Name),
        ("Red", gdal.GFT_Integer, gdal.GFU_Red),
        ("Green", gdal.GFT_Integer, gdal.GFU_Green),
        ("Blue", gdal.GFT_Integer, gdal.GFU_Blue),
        ("Pixels", gdal.GFT_Real, gdal.GFU_PixelCount),
        ("Hectares", gdal.GFT_Real, gdal.GFU_Generic),
    )
    for name, kind, usage in columns:
        table.CreateColumn(name, kind, usage)
    table.SetRowCount(len(legend))
    for row, (each, count, area) in enumerate(zip(legend, pixels, hectares)):
        table.SetValueAsInt(row, 0, each.code)
        table.SetValueAsString(row, 1, each.name)
        for column, value in enumerate(each.rgb, 2):
            table.SetValueAsInt(row, column, value)
        table.SetValueAsDouble(row, 5, float(count))
        table.SetValueAsDouble(row, 6, float(area))
    band.SetDefaultRAT(table)


def copy_window(source: str, window: Window, target: str, progress: Any = None) -> None:
    """Copy a window of one raster, pixel for pixel, into an uncompressed GeoTIFF; GDAL's own reading strategy.

    Args:
        progress: called as progress(share) -> bool from GDAL; False stops the copy.

    Raises:
        EngineError: the source cannot be opened or read.
    """
    dataset = open_dataset(source, REMOTE_DRIVERS)
    with quiet_gdal():
        gdal.ErrorReset()
        try:
            copied = gdal.Translate(
                target,
                dataset,
                srcWin=[window.x, window.y, window.width, window.height],
                creationOptions=TILED,
                callback=(lambda share, _, __: 1 if progress(share) else 0) if progress else None,
            )
        except RuntimeError:
            copied = None
        if copied is None or gdal.GetLastErrorType() >= gdal.CE_Failure:
            raise EngineError(f"The raster cannot be read ({gdal_reason()})", source, "check the connection, and run again")


def stored_bytes(source: str, window: Window) -> int | None:
    """Compressed bytes of the tiles that a window of a GeoTIFF's first band touches; None for other formats.

    Raises:
        EngineError: the source cannot be opened.
    """
    dataset = open_dataset(source, REMOTE_DRIVERS)
    if dataset.GetDriver().ShortName != "GTiff":
        return None
    band = dataset.GetRasterBand(1)
    width, height = band.GetBlockSize()
    columns = range(window.x // width, (window.x + window.width - 1) // width + 1)
    rows = range(window.y // height, (window.y + window.height - 1) // height + 1)
    with quiet_gdal():
        sizes = (band.GetMetadataItem(f"BLOCK_SIZE_{x}_{y}", "TIFF") for x in columns for y in rows)
        return sum(int(size or 0) for size in sizes)
