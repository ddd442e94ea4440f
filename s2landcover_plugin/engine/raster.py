"""Raster files: what is in them, windowed readers and the writer. The only place with GDAL datasets."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from typing import Any, Protocol, Sequence

import numpy as np
from osgeo import gdal

from .crs import quiet_gdal, same_crs, source_pixels_per_pixel
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
    is_alpha: bool = False


@dataclass(frozen=True)
class RasterInfo:
    """What a raster file says about itself."""

    path: str
    grid: Grid
    bands: tuple[BandInfo, ...]
    tile: tuple[int, int]
    """Width and height of its internal tiles or strips."""
    metadata: dict[str, str]
    has_mask: bool = False
    """Whether a mask for all bands goes with the file (GMF_PER_DATASET)."""


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
        bool(dataset.GetRasterBand(1).GetMaskFlags() & gdal.GMF_PER_DATASET),
    )


def _band_info(band: gdal.Band, index: int, path: str) -> BandInfo:
    dtype = NUMPY_TYPES.get(band.DataType)
    if dtype is None or band.GetMetadataItem("PIXELTYPE", "IMAGE_STRUCTURE") == "SIGNEDBYTE":
        name = gdal.GetDataTypeName(band.DataType) if dtype is None else "signed byte"
        raise EngineError(f"Band {index} has a type that cannot be used ({name})", path, "convert it to Int16 or Float32")
    scale, offset = band.GetScale(), band.GetOffset() or 0.0
    if scale == 0 or not np.isfinite(offset) or (scale is not None and not np.isfinite(scale)):
        raise EngineError(f"Band {index} states scale {scale} and offset {offset}", path, "correct the file's metadata")
    return BandInfo(
        index,
        band.GetDescription() or f"Band {index}",
        band.GetMetadataItem("COMMON_NAME") or band.GetMetadataItem("common_name") or "",
        dtype,
        _usable_nodata(band.GetNoDataValue(), dtype),
        scale,
        offset,
        band.GetColorInterpretation() == gdal.GCI_AlphaBand,
    )


def _usable_nodata(nodata: float | None, dtype: str) -> float | None:
    """The nodata value, or None if no pixel of this type can have it."""
    kind = np.dtype(dtype)
    if nodata is None or kind.kind == "f":
        return nodata
    limits = np.iinfo(kind)
    return nodata if float(nodata).is_integer() and limits.min <= nodata <= limits.max else None


class Reader(Protocol):
    """Where pixels come from: a raster, several together, or something computed. Must be picklable."""

    grid: Grid
    bands: tuple[BandInfo, ...]
    dtype: np.dtype
    tile: tuple[int, int]

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """data and valid, both (bands, rows, cols), of a window inside the grid."""


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
    ) -> None:
        """
        Args:
            info: the file, from `describe`.
            indexes: 1-based bands to read, all if None.
            grid: target grid, the file's own if None.
            resampling: GDAL's name (`nearest`, `bilinear`, `cubic`, `average`); used only where pixels do not coincide.
            nodata: the nodata value of bands that state none.
        """
        self.path = info.path
        self.indexes = tuple(range(1, len(info.bands) + 1) if indexes is None else indexes)
        self.bands = tuple(info.bands[i - 1] for i in self.indexes)
        self.grid = grid or info.grid
        self.dtype = np.result_type(*(band.dtype for band in self.bands))
        self.tile = info.tile
        self.resampling = resampling
        self._nodata = tuple(nodata if band.nodata is None else band.nodata for band in self.bands)
        self._has_mask = info.has_mask
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
            data (bands, rows, cols) in stored values, and valid (bands, rows, cols): inside the file, not masked, not nodata, finite.

        Raises:
            EngineError: the file is damaged or no longer there.
        """
        data, covered = self._read_warped(window) if self._offset is None else self._read_shifted(window)
        valid = np.empty(data.shape, bool)
        for plane, ok, nodata in zip(data, valid, self._nodata):
            _usable(plane, nodata, ok)
            if covered is not None:
                ok &= covered
        return data, valid

    def _read_shifted(self, window: Window) -> tuple[np.ndarray, np.ndarray | None]:
        """Pixels that coincide with the file's; covered (rows, cols) is None where all are inside and unmasked."""
        columns, rows = self._offset or (0, 0)
        source = Window(window.x + columns, window.y + rows, window.width, window.height)
        inside = source.clipped(self._file_grid.width, self._file_grid.height)
        dataset = self._dataset()
        if inside == source:
            return self._fetch(dataset, source), self._fetch(dataset, source, mask=True)[0] > 0 if self._has_mask else None
        data = np.zeros((len(self.bands), window.height, window.width), self.dtype)
        covered = np.zeros((window.height, window.width), bool)
        if inside.width and inside.height:
            there = (
                slice(inside.y - source.y, inside.y - source.y + inside.height),
                slice(inside.x - source.x, inside.x - source.x + inside.width),
            )
            data[(slice(None), *there)] = self._fetch(dataset, inside)
            covered[there] = self._fetch(dataset, inside, mask=True)[0] > 0 if self._has_mask else True
        return data, covered

    def _read_warped(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        if not hasattr(self._open, "warped"):
            self._open.warped = self._warp()
        planes = self._fetch(self._open.warped, window, list(range(1, len(self.bands) + 2)))
        return planes[:-1], planes[-1] > 0

    def _fetch(self, dataset: gdal.Dataset, window: Window, indexes: Sequence[int] = (), mask: bool = False) -> np.ndarray:
        """Read a window of bands of a dataset (or of the mask of its first), (bands, rows, cols)."""
        numbers = [1] if mask else list(indexes or self.indexes)
        data = np.empty((len(numbers), window.height, window.width), np.uint8 if mask else self.dtype)
        with quiet_gdal():
            gdal.ErrorReset()
            done = True
            for number, plane in zip(numbers, data):
                band = dataset.GetRasterBand(number)
                source = band.GetMaskBand() if mask else band
                try:
                    done = done and source.ReadAsArray(window.x, window.y, window.width, window.height, buf_obj=plane) is not None
                except RuntimeError:
                    done = False
            if not done:
                raise EngineError(f"The raster cannot be read ({_cause()})", self.path, "the file is damaged or cut off: get it again")
        return data

    def _dataset(self) -> gdal.Dataset:
        if not hasattr(self._open, "dataset"):
            self._open.dataset = open_dataset(self.path)
        return self._open.dataset

    def _warp(self) -> gdal.Dataset:
        """A VRT of the bands on the target grid, with an alpha band behind them that tells where there is data."""
        source = self._dataset()
        if not self.grid.crs or not source.GetProjection():
            raise EngineError("The raster has no coordinate reference system and lies on another grid", self.path, "assign its CRS first")
        stated = [n is not None for n in self._nodata]
        values = " ".join("nan" if n is None and self.dtype.kind == "f" else str(0 if n is None else n) for n in self._nodata)
        columns, rows = source_pixels_per_pixel(self.grid, self._file_grid)
        with quiet_gdal():
            gdal.ErrorReset()
            try:
                chosen = gdal.Translate("", source, format="VRT", bandList=list(self.indexes))
                warped = gdal.Warp(
                    "",
                    chosen,
                    format="VRT",
                    dstSRS=self.grid.crs,
                    outputBounds=self.grid.bounds,
                    width=self.grid.width,
                    height=self.grid.height,
                    resampleAlg=self.resampling,
                    errorThreshold=0,
                    overviewLevel="NONE",
                    srcNodata=values if any(stated) else None,
                    dstNodata=values if any(stated) else None,
                    dstAlpha=True,
                    # GDAL would guess the kernel's width anew for every chunk, from the chunk's shape
                    warpOptions=["UNIFIED_SRC_NODATA=NO", f"XSCALE={1 / columns:.9g}", f"YSCALE={1 / rows:.9g}"],
                )
            except RuntimeError:
                warped = None
        if warped is None:
            raise EngineError(f"The raster cannot be brought to the output's grid ({_cause()})", self.path, "check its CRS")
        self._open.chosen = chosen  # the warped VRT refers to it
        return warped


def _usable(plane: np.ndarray, nodata: float | None, ok: np.ndarray) -> None:
    """ok = the value of a pixel is finite and not nodata."""
    if plane.dtype.kind == "f":
        np.isfinite(plane, out=ok)
        if nodata is not None and np.isfinite(nodata):
            ok &= plane != plane.dtype.type(nodata)
    elif nodata is None:
        ok[:] = True
    else:
        np.not_equal(plane, nodata, out=ok)


class StackedReader:
    """Several readers on one grid, their planes one after the other. Can be sent to another process."""

    def __init__(self, readers: Sequence[Reader]) -> None:
        self.readers = tuple(readers)
        self.grid = readers[0].grid
        self.bands = tuple(band for reader in readers for band in reader.bands)
        self.dtype = np.result_type(*(reader.dtype for reader in readers))
        self.tile = readers[0].tile

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """As RasterReader.read, for all readers together."""
        data = np.empty((len(self.bands), window.height, window.width), self.dtype)
        valid = np.empty(data.shape, bool)
        start = 0
        for reader in self.readers:
            here = slice(start, start + len(reader.bands))
            data[here], valid[here] = reader.read(window)
            start = here.stop
        return data, valid


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
            # DEFLATE level 1: a fifth of the CPU of level 6 for 16 % larger class rasters (docs/performance.md)
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
        """Write the planes of a window; pixels that are not valid, (rows, cols) or (planes, rows, cols), get nodata."""
        each_valid = np.broadcast_to(valid, (len(planes), *valid.shape[-2:]))[self.planes]
        with quiet_gdal():
            for index, (band, plane, ok) in enumerate(zip(self.bands, planes[self.planes], each_valid), 1):
                values = np.where(ok, plane, np.asarray(band.nodata, band.dtype)).astype(band.dtype, copy=False)
                gdal.ErrorReset()
                try:
                    failed = self._dataset.GetRasterBand(index).WriteArray(values, window.x, window.y) != 0
                except RuntimeError:
                    failed = True
                if failed:
                    raise self._write_error()

    def _write_error(self) -> EngineError:
        folder = os.path.dirname(os.path.dirname(self.path))
        return EngineError(f"The output cannot be written ({_cause()})", folder, "free some disk space there")

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
    table_rgb = _table_colours(band.GetDefaultRAT())
    legend = []
    for code, name in sorted(names.items()):
        known = colours is not None and 0 <= code < colours.GetCount()
        rgb = tuple(colours.GetColorEntry(code)[:3]) if known else table_rgb.get(code)
        legend.append(LegendClass(code, name, rgb or (128, 128, 128)))
    return legend


def _table_colours(table: gdal.RasterAttributeTable | None) -> dict[int, tuple[int, ...]]:
    if table is None:
        return {}
    columns = [table.GetColOfUsage(usage) for usage in (gdal.GFU_MinMax, gdal.GFU_Red, gdal.GFU_Green, gdal.GFU_Blue)]
    if min(columns) < 0:
        return {}
    rows = ([table.GetValueAsInt(row, column) for column in columns] for row in range(table.GetRowCount()))
    return {row[0]: tuple(min(max(value, 0), 255) for value in row[1:]) for row in rows}


def _table_names(table: gdal.RasterAttributeTable | None) -> dict[int, str]:
    if table is None:
        return {}
    code, name = table.GetColOfUsage(gdal.GFU_MinMax), table.GetColOfUsage(gdal.GFU_Name)
    if code < 0 or name < 0:
        return {}
    return {table.GetValueAsInt(row, code): table.GetValueAsString(row, name) for row in range(table.GetRowCount())}


def read_preview(path: str, indexes: Sequence[int], longest_px: int = 900) -> tuple[np.ndarray, np.ndarray]:
    """A decimated copy (nearest) of some bands, longest side at most `longest_px`.

    Returns:
        data and valid, both (bands, rows, cols).

    Raises:
        EngineError: the file cannot be read.
    """
    info = describe(path)
    dataset = open_dataset(path)
    factor = min(1.0, longest_px / max(dataset.RasterXSize, dataset.RasterYSize))
    size = max(1, round(dataset.RasterXSize * factor)), max(1, round(dataset.RasterYSize * factor))
    with quiet_gdal():
        try:
            planes = [dataset.GetRasterBand(i).ReadAsArray(buf_xsize=size[0], buf_ysize=size[1]) for i in indexes]
        except RuntimeError:
            planes = [None]
        if any(plane is None for plane in planes):
            raise EngineError(f"The raster cannot be read ({_cause()})", path, "the file is damaged or cut off: get it again")
    data = np.stack(planes)
    valid = np.empty(data.shape, bool)
    for plane, ok, index in zip(data, valid, indexes):
        _usable(plane, info.bands[index - 1].nodata, ok)
    return data, valid


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
