"""Raster files: what is in them, windowed readers and the writer. The only place with GDAL datasets."""

from __future__ import annotations

import contextlib
import os
import threading
from dataclasses import dataclass
from typing import Any, Iterator, Sequence

import numpy as np
from osgeo import gdal

from .crs import same_crs, source_pixels_per_pixel
from .errors import EngineError
from .grid import Grid, Window
from .legend import LegendClass

GDAL_TYPES = {
    "uint8": gdal.GDT_Byte,
    "uint16": gdal.GDT_UInt16,
    "int16": gdal.GDT_Int16,
    "uint32": gdal.GDT_UInt32,
    "int32": gdal.GDT_Int32,
    "float32": gdal.GDT_Float32,
    "float64": gdal.GDT_Float64,
}
NUMPY_TYPES = {code: name for name, code in GDAL_TYPES.items()}
READ_DRIVERS = [
    "GTiff",
    "JP2OpenJPEG",
    "VRT",
    "HFA",
    "ENVI",
    "netCDF",
    "GPKG",
    "MEM",
    "SAGA",
    "AAIGrid",
    "RST",
    "KEA",
    "ERS",
    "PNG",
    "JPEG",
]
"""Formats read. A closed list: GDAL has drivers that run what a file says (WMS, PostGIS, plugins)."""
REMOTE_DRIVERS = ["GTiff", "JP2OpenJPEG"]
"""Formats read over the network: nothing that can name further files."""
TILE_PX = 512
"""Side of the tiles of written rasters."""


@dataclass(frozen=True)
class BandInfo:
    """One band of a raster file."""

    index: int
    """1-based position in the file."""
    name: str
    """Band description (`B04`), or `Band 1`."""
    common_name: str
    """STAC common name (`red`), or empty."""
    dtype: str
    nodata: float | None
    scale: float | None
    """physical value = stored value x scale + offset; None where the file states no scale."""
    offset: float


@dataclass(frozen=True)
class RasterInfo:
    """What a raster file says about itself."""

    path: str
    grid: Grid
    bands: tuple[BandInfo, ...]
    tile: tuple[int, int]
    """Width and height of its internal tiles or strips."""
    metadata: dict[str, str]


@dataclass(frozen=True)
class OutputBand:
    """One band to be written."""

    name: str
    dtype: str
    nodata: float
    common_name: str = ""
    wavelength_um: float | None = None
    scale: float | None = None
    """Written as GDAL scale where given: physical value = stored value x scale."""


@contextlib.contextmanager
def quiet_gdal() -> Iterator[None]:
    """Keep GDAL's messages off the console; errors are raised as EngineError instead."""
    gdal.PushErrorHandler("CPLQuietErrorHandler")
    try:
        yield
    finally:
        gdal.PopErrorHandler()


def _cause() -> str:
    return str(gdal.GetLastErrorMsg()).strip() or "no reason given"


def open_dataset(path: str, drivers: Sequence[str] = READ_DRIVERS) -> gdal.Dataset:
    """Open a raster for reading.

    Raises:
        EngineError: it does not exist, is no raster, or is cut off.
    """
    known = [name for name in drivers if gdal.GetDriverByName(name) is not None]
    with quiet_gdal():
        gdal.ErrorReset()
        try:
            dataset = gdal.OpenEx(path, gdal.OF_RASTER, allowed_drivers=known)
        except RuntimeError:
            dataset = None
        if dataset is None or dataset.RasterCount == 0:
            raise EngineError(
                f"The raster cannot be opened ({_cause()})", path, "check the path, and that the file is a complete raster such as GeoTIFF"
            )
    return dataset


def describe(path: str, drivers: Sequence[str] = READ_DRIVERS) -> RasterInfo:
    """Grid, bands and metadata of a raster file.

    Raises:
        EngineError: it cannot be opened, or is rotated.
    """
    dataset = open_dataset(path, drivers)
    return RasterInfo(
        path,
        Grid(str(dataset.GetProjection() or ""), tuple(dataset.GetGeoTransform()), dataset.RasterXSize, dataset.RasterYSize),
        tuple(_band_info(dataset.GetRasterBand(i + 1), i + 1, path) for i in range(dataset.RasterCount)),
        tuple(dataset.GetRasterBand(1).GetBlockSize()),
        dict(dataset.GetMetadata() or {}),
    )


def _band_info(band: gdal.Band, index: int, path: str) -> BandInfo:
    dtype = NUMPY_TYPES.get(band.DataType)
    if dtype is None:
        raise EngineError(
            f"Band {index} has a type that cannot be used ({gdal.GetDataTypeName(band.DataType)})",
            path,
            "convert it to an integer or real type",
        )
    return BandInfo(
        index,
        band.GetDescription() or f"Band {index}",
        band.GetMetadataItem("COMMON_NAME") or band.GetMetadataItem("common_name") or "",
        dtype,
        band.GetNoDataValue(),
        band.GetScale(),
        band.GetOffset() or 0.0,
    )


class RasterReader:
    """Windows of some bands of one raster, on its own grid or brought to another. Can be sent to another process.

    Attributes:
        grid: the grid that windows refer to.
        bands: the BandInfo of each plane that `read` returns.
        dtype: the common type of the planes.
        tile: width and height of the file's tiles, as a hint for efficient windows.
    """

    def __init__(
        self,
        info: RasterInfo,
        indexes: Sequence[int] | None = None,
        *,
        grid: Grid | None = None,
        resampling: str = "nearest",
        nodata: float | None = None,
        need_all: bool = True,
    ) -> None:
        """
        Args:
            info: the file, from `describe`.
            indexes: 1-based bands to read, all if None.
            grid: target grid, the file's own if None.
            resampling: GDAL's name (`nearest`, `bilinear`, `cubic`, `average`); used only where pixels do not coincide.
            nodata: the nodata value of bands that state none.
            need_all: a pixel is valid where all bands are (True), or where at least one is (False; the others hold nodata).
        """
        self.path = info.path
        self.indexes = tuple(indexes or range(1, len(info.bands) + 1))
        self.bands = tuple(info.bands[i - 1] for i in self.indexes)
        self.grid = grid or info.grid
        self.dtype = np.result_type(*(band.dtype for band in self.bands))
        self.tile = info.tile
        self.resampling = resampling
        self.need_all = need_all
        self._nodata = tuple(nodata if band.nodata is None else band.nodata for band in self.bands)
        self._offset = self.grid.offset_in(info.grid) if same_crs(self.grid.crs, info.grid.crs) else None
        self._file_grid = info.grid
        self._open = threading.local()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_open"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open = threading.local()

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Pixels of a window inside the grid.

        Returns:
            data (bands, rows, cols) in stored values, and valid (rows, cols).

        Raises:
            EngineError: the file is damaged or no longer there.
        """
        if self._offset is None:
            data = self._fetch(self._warped(), window)
        else:
            data = self._shifted(window)
        return data, self._validity(data)

    def _shifted(self, window: Window) -> np.ndarray:
        columns, rows = self._offset or (0, 0)
        source = Window(window.x + columns, window.y + rows, window.width, window.height)
        inside = source.clipped(self._file_grid.width, self._file_grid.height)
        if inside == source:
            return self._fetch(self._dataset(), source)
        data = np.empty((len(self.bands), window.height, window.width), self.dtype)
        for plane, nodata in zip(data, self._nodata):
            plane[:] = 0 if nodata is None else nodata
        if inside.width and inside.height:
            rows, columns = inside.y - source.y, inside.x - source.x
            data[:, rows : rows + inside.height, columns : columns + inside.width] = self._fetch(self._dataset(), inside)
        return data

    def _fetch(self, dataset: gdal.Dataset, window: Window) -> np.ndarray:
        data = np.empty((len(self.bands), window.height, window.width), self.dtype)
        with quiet_gdal():
            try:
                done = [
                    dataset.GetRasterBand(i).ReadAsArray(window.x, window.y, window.width, window.height, buf_obj=plane)
                    for i, plane in zip(self.indexes, data)
                ]
            except RuntimeError:
                done = [None]
            if any(plane is None for plane in done):
                raise EngineError(f"The raster cannot be read ({_cause()})", self.path, "the file is damaged or cut off: get it again")
        return data

    def _validity(self, data: np.ndarray) -> np.ndarray:
        valid: np.ndarray | None = None
        for plane, nodata in zip(data, self._nodata):
            ok = np.isfinite(plane) if plane.dtype.kind == "f" else None
            if nodata is not None and not np.isnan(nodata):
                differs = plane != plane.dtype.type(nodata) if plane.dtype.kind == "f" else plane != nodata
                ok = differs if ok is None else ok & differs
            if ok is None:
                ok = np.ones(plane.shape, bool)
            if valid is None:
                valid = ok
            elif self.need_all:
                valid &= ok
            else:
                valid = valid | ok
        if valid is None:
            raise EngineError("No band was asked for", self.path, "name at least one band")
        return valid

    def _dataset(self) -> gdal.Dataset:
        if not hasattr(self._open, "dataset"):
            self._open.dataset = open_dataset(self.path)
        return self._open.dataset

    def _warped(self) -> gdal.Dataset:
        if not hasattr(self._open, "warped"):
            if not self.grid.crs or not self._dataset().GetProjection():
                raise EngineError(
                    "The raster has no coordinate reference system and lies on another grid", self.path, "assign its CRS first"
                )
            floating = self.dtype.kind == "f"
            values = [("nan" if floating else 0) if n is None else n for n in self._nodata]
            bounds = self.grid.bounds
            with quiet_gdal():
                self._open.warped = gdal.Warp(
                    "",
                    self._dataset(),
                    format="VRT",
                    dstSRS=self.grid.crs,
                    outputBounds=bounds,
                    width=self.grid.width,
                    height=self.grid.height,
                    resampleAlg=self.resampling,
                    errorThreshold=0,
                    overviewLevel="NONE",
                    srcNodata=" ".join(str(v) for v in values) if any(n is not None for n in self._nodata) else None,
                    dstNodata=" ".join(str(v) for v in values),
                    warpOptions=["UNIFIED_SRC_NODATA=NO", *self._scale_options()],
                )
            if self._open.warped is None:
                raise EngineError(f"The raster cannot be brought to the output's grid ({_cause()})", self.path, "check its CRS")
        return self._open.warped

    def _scale_options(self) -> list[str]:
        """The kernel's width for the whole grid: GDAL would guess it anew for every chunk, from the chunk's shape."""
        columns, rows = source_pixels_per_pixel(self.grid, self._file_grid)
        return [f"XSCALE={1 / columns:.9g}", f"YSCALE={1 / rows:.9g}"]


class StackedReader:
    """Several readers on one grid, their planes one after the other. Can be sent to another process."""

    def __init__(self, readers: Sequence[RasterReader]) -> None:
        self.readers = tuple(readers)
        self.grid = readers[0].grid
        self.bands = tuple(band for reader in readers for band in reader.bands)
        self.dtype = np.result_type(*(reader.dtype for reader in readers))
        self.tile = readers[0].tile

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """As RasterReader.read, for all readers together."""
        data = np.empty((len(self.bands), window.height, window.width), self.dtype)
        valid: np.ndarray | None = None
        start = 0
        for reader in self.readers:
            planes, ok = reader.read(window)
            data[start : start + len(planes)] = planes
            start += len(planes)
            valid = ok if valid is None else (valid & ok if reader.need_all else valid | ok)
        return data, valid if valid is not None else np.zeros(data.shape[1:], bool)


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
        planes: slice = slice(None),
        compress: bool = True,
    ) -> None:
        """
        Args:
            planes: which planes of the blocks go into this file.
            legend: colours of a class raster.
        """
        self.path = path
        self.bands = tuple(bands)
        self.planes = planes
        dtype = np.dtype(bands[0].dtype)
        options = ["TILED=YES", f"BLOCKXSIZE={TILE_PX}", f"BLOCKYSIZE={TILE_PX}", "BIGTIFF=IF_SAFER", "INTERLEAVE=BAND"]
        if compress:
            # DEFLATE level 1: a tenth of the CPU of level 6 for 16 % larger class rasters (docs/performance.md)
            predictor = "3" if dtype.kind == "f" else "1" if legend else "2"
            options += ["COMPRESS=DEFLATE", "ZLEVEL=1", f"PREDICTOR={predictor}", "NUM_THREADS=2"]
        with quiet_gdal():
            gdal.ErrorReset()
            try:
                dataset = gdal.GetDriverByName("GTiff").Create(path, grid.width, grid.height, len(bands), GDAL_TYPES[dtype.name], options)
            except RuntimeError:
                dataset = None
            if dataset is None:
                raise EngineError(
                    f"The output cannot be created ({_cause()})", path, "choose a folder you may write to, with enough free space"
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
        """Write the planes of a window; pixels that are not valid get nodata."""
        with quiet_gdal():
            for index, (band, plane) in enumerate(zip(self.bands, planes[self.planes]), 1):
                values = np.where(valid, plane, np.asarray(band.nodata, band.dtype)).astype(band.dtype, copy=False)
                gdal.ErrorReset()
                try:
                    failed = self._dataset.GetRasterBand(index).WriteArray(values, window.x, window.y) != 0
                except RuntimeError:
                    failed = True
                if failed:
                    raise self._write_error()

    def _write_error(self) -> EngineError:
        return EngineError(f"The output cannot be written ({_cause()})", os.path.dirname(self.path), "free some disk space")

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
        target.SetOffset(0.0)
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


def read_legend(path: str) -> list[LegendClass]:
    """The classes that a raster names itself: attribute table, else category names, with its colours; maybe none."""
    dataset = open_dataset(path)
    band = dataset.GetRasterBand(1)
    colours = band.GetColorTable()
    names = _table_names(band.GetDefaultRAT())
    for code, name in enumerate(band.GetRasterCategoryNames() or []):
        if name and code != band.GetNoDataValue():
            names.setdefault(code, name)
    legend = []
    for code, name in sorted(names.items()):
        known = colours is not None and 0 <= code < colours.GetCount()
        rgb = tuple(colours.GetColorEntry(code)[:3]) if known else (128, 128, 128)
        legend.append(LegendClass(code, name, rgb))
    return legend


def _table_names(table: gdal.RasterAttributeTable | None) -> dict[int, str]:
    if table is None:
        return {}
    code, name = table.GetColOfUsage(gdal.GFU_MinMax), table.GetColOfUsage(gdal.GFU_Name)
    if code < 0 or name < 0:
        return {}
    return {table.GetValueAsInt(row, code): table.GetValueAsString(row, name) for row in range(table.GetRowCount())}


def read_preview(path: str, indexes: Sequence[int], longest_px: int = 900) -> np.ndarray:
    """A decimated copy (nearest) of some bands for quicklooks, shape (bands, rows, cols), longest side at most `longest_px`."""
    dataset = open_dataset(path)
    factor = min(1.0, longest_px / max(dataset.RasterXSize, dataset.RasterYSize))
    size = max(1, round(dataset.RasterXSize * factor)), max(1, round(dataset.RasterYSize * factor))
    planes = [dataset.GetRasterBand(i).ReadAsArray(buf_xsize=size[0], buf_ysize=size[1]) for i in indexes]
    return np.stack(planes)


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
                creationOptions=["TILED=YES", f"BLOCKXSIZE={TILE_PX}", f"BLOCKYSIZE={TILE_PX}", "BIGTIFF=IF_SAFER"],
                callback=(lambda share, _, __: 1 if progress(share) else 0) if progress else None,
            )
        except RuntimeError:
            copied = None
        if copied is None or gdal.GetLastErrorType() >= gdal.CE_Failure:
            raise EngineError(f"The raster cannot be read ({_cause()})", source, "check the connection, and run again")
