"""Raster files: what is in them, and windowed readers. Only here and in geotiff.py are there GDAL datasets."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from itertools import chain, product
from typing import Any, Callable, Protocol, Sequence

import numpy as np
from osgeo import gdal

from .crs import quiet_gdal, same_crs, source_pixels_per_pixel
from .errors import Cancelled, EngineError
from .grid import Grid, Window
from .legend import LegendClass
from .progress import Progress
from .shifting import TYPES, Lattice, between, lattice_between

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
CACHE_BYTES = 448 * 2**20
"""Blocks that GDAL may keep: two rows of tiles (1024 px) of four bands of a full tile and of a second date take 350 MB."""
SMALL_CACHE_BYTES = 64 * 2**20
"""Where each block is read once."""
REMOTE_DRIVERS = ["GTiff", "JP2OpenJPEG"]
"""Formats read over the network: nothing that can name further files."""


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

    @property
    def alpha(self) -> int | None:
        """1-based number of the alpha band, which tells where the others are valid."""
        return next((band.index for band in self.bands if band.is_alpha), None)


class BoundedCache:
    """Keeps GDAL's block cache below some bytes while any block of it is active, and restores what was set before.

    GDAL takes a twentieth of the memory, for rasters that are read once. Runs may overlap in time: the largest wish counts; a size
    that somebody else sets meanwhile is overwritten when the last of them ends.
    """

    _lock = threading.Lock()
    _wishes: list[int] = []
    _before = 0

    def __init__(self, most: int = CACHE_BYTES) -> None:
        self.most = most

    def __enter__(self) -> None:
        with BoundedCache._lock:
            if not BoundedCache._wishes:
                BoundedCache._before = gdal.GetCacheMax()
            BoundedCache._wishes.append(self.most)
            self._set()

    def __exit__(self, *_: object) -> None:
        with BoundedCache._lock:
            BoundedCache._wishes.remove(self.most)
            self._set()

    @staticmethod
    def _set() -> None:
        gdal.SetCacheMax(min([BoundedCache._before, *([max(BoundedCache._wishes)] if BoundedCache._wishes else [])]))


def gdal_reason() -> str:
    """What GDAL said about its last failure."""
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
                f"The raster cannot be opened ({gdal_reason()})",
                path,
                "check the path, and that the file is a complete raster such as GeoTIFF",
            )
    return dataset


def describe(path: str, drivers: Sequence[str] = READ_DRIVERS) -> RasterInfo:
    """Grid, bands and metadata of a raster file.

    Raises:
        EngineError: it cannot be opened, or is rotated.
    """
    dataset = open_dataset(path, drivers)
    try:
        grid = Grid(str(dataset.GetProjection() or ""), tuple(dataset.GetGeoTransform()), dataset.RasterXSize, dataset.RasterYSize)
    except EngineError as err:
        raise EngineError(err.what, f"{path} ({err.where})", err.fix) from err
    return RasterInfo(
        path,
        grid,
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

    def reads_once(self, windows: Sequence[Window]) -> bool:
        """Whether no two of the windows need the same tile of a file."""

    def stop(self) -> None:
        """Called from another thread when nothing is wanted any more: reads end early, by raising Cancelled."""


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
        geotransform: Sequence[float] | None = None,
    ) -> None:
        """
        Args:
            info: the file, from `describe`.
            geotransform: where the file really lies, if not where it says; it may be rotated.
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
        self._alpha = info.alpha if info.alpha not in self.indexes else None
        self._moved = tuple(geotransform) if geotransform is not None else None
        coincides = self._moved is None and same_crs(self.grid.crs, info.grid.crs)
        self._offset = self.grid.offset_in(info.grid) if coincides else None
        self._file_grid = info.grid
        self._lattice: Lattice | None = None
        if self._offset is None and self.dtype.name in TYPES and resampling in ("nearest", "bilinear", "cubic"):
            self._lattice = self._own_lattice(bool(self._moved) or same_crs(self.grid.crs, info.grid.crs))
        self._forget()

    def _forget(self) -> None:
        """Nothing is open."""
        self._stopped = False
        self._open = threading.local()
        self._shared: list[gdal.Dataset] = []
        self._one_at_a_time = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_open", "_shared", "_one_at_a_time")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Pixels of a window inside the grid.

        Returns:
            data (bands, rows, cols) in stored values, and valid (bands, rows, cols): inside the file, not masked, not nodata, finite.

        Raises:
            EngineError: the file is damaged or no longer there.
        """
        data = np.empty((len(self.bands), window.height, window.width), self.dtype)
        valid = np.empty(data.shape, bool)
        self.read_into(window, data, valid)
        return data, valid

    def read_into(self, window: Window, data: np.ndarray, valid: np.ndarray) -> None:
        """As read, into arrays that are there: data in the type of the reader, valid bool, both (bands, rows, cols)."""
        if self._lattice is not None:
            return self._read_between(window, self._lattice, data, valid)
        if self._offset is not None:
            covered = self._read_shifted(window, *self._offset, data)
        else:
            data[:], covered = self._read_warped(window)
        self._find_usable(data, covered, valid)

    def _find_usable(self, data: np.ndarray, covered: np.ndarray | None, valid: np.ndarray) -> None:
        """valid = where data is a value."""
        for plane, ok, nodata in zip(data, valid, self._nodata):
            _usable(plane, nodata, ok)
            if covered is not None:
                ok &= covered

    def stop(self) -> None:
        """As Reader has it."""
        self._stopped = True

    def reads_once(self, windows: Sequence[Window]) -> bool:
        """As Reader has it."""
        if self._offset is None:
            return False
        across, down = self.tile
        seen: set[tuple[int, int]] = set()
        for window in windows:
            x, y = window.x + self._offset[0], window.y + self._offset[1]
            columns, rows = range(x // across, -(-(x + window.width) // across)), range(y // down, -(-(y + window.height) // down))
            tiles = set(product(columns, rows))
            if not seen.isdisjoint(tiles):
                return False
            seen |= tiles
        return True

    def _own_lattice(self, is_same_crs: bool) -> Lattice | None:
        """How the grid lies between the pixels of the file, if it is not turned and no coarser."""
        if not is_same_crs or not self.grid.crs and self._moved is None:
            return None
        return lattice_between(self.grid, self._moved or self._file_grid.geotransform, self._file_grid.width, self._file_grid.height)

    def _read_between(self, window: Window, lattice: Lattice, data: np.ndarray, valid: np.ndarray) -> None:
        """Pixels at places between those of the file; valid where the nearest one is."""
        rows, columns = lattice.places(window.y, window.height, "y"), lattice.places(window.x, window.width, "x")
        (x, width), (y, height) = lattice.needed(columns), lattice.needed(rows)
        around = Window(x, y, width, height)
        found = np.empty((len(self.bands), height, width), self.dtype)
        # neighbouring windows share tiles: GDAL keeps those of one dataset only for that dataset
        with self._one_at_a_time:
            if not self._shared:
                self._shared.append(open_dataset(self.path))
            covered = self._read_shifted(around, 0, 0, found, self._shared[0])
        known: np.ndarray = np.empty(found.shape, bool)
        self._find_usable(found, covered, known)
        if self.resampling == "nearest":
            down = np.floor(rows + 0.5 + 1e-10).astype(int)[:, None] - y
            across = np.floor(columns + 0.5 + 1e-10).astype(int) - x
            data[:], valid[:] = found[:, down, across], known[:, down, across]
        else:
            between((found, known), rows - y, columns - x, lattice.factor, self.resampling, self._nodata, (data, valid))

    def _read_shifted(
        self, window: Window, columns: int, rows: int, data: np.ndarray, dataset: gdal.Dataset | None = None
    ) -> np.ndarray | None:
        """Read pixels that coincide with the file's; covered (rows, cols) is None where all are inside and unmasked."""
        source = Window(window.x + columns, window.y + rows, window.width, window.height)
        inside = source.clipped(self._file_grid.width, self._file_grid.height)
        dataset = dataset or self._dataset()
        if inside == source:
            self._fetch(dataset, source, data)
            return self._covered(dataset, source)
        data[:] = 0
        covered: np.ndarray = np.zeros((window.height, window.width), bool)
        if inside.width and inside.height:
            there = (
                slice(inside.y - source.y, inside.y - source.y + inside.height),
                slice(inside.x - source.x, inside.x - source.x + inside.width),
            )
            self._fetch(dataset, inside, data[(slice(None), *there)])
            mask = self._covered(dataset, inside)
            covered[there] = True if mask is None else mask
        return covered

    def _covered(self, dataset: gdal.Dataset, window: Window) -> np.ndarray | None:
        """(rows, cols), where the file's mask or its alpha band shows something; None if it has neither."""
        if self._alpha is None and not self._has_mask:
            return None
        found = np.empty((1, window.height, window.width), np.uint8 if self._alpha is None else self.dtype)
        self._fetch(dataset, window, found, [self._alpha or 1], mask=self._alpha is None)
        return np.asarray(found[0] > 0)

    def _read_warped(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        # GDAL warps to north-up grids only: other grids are read from the mirrored place
        _, width, _, _, _, height = self.grid.geotransform
        x = window.x if width > 0 else self.grid.width - window.x - window.width
        y = window.y if height < 0 else self.grid.height - window.y - window.height
        there = Window(x, y, window.width, window.height)
        # as in _read_between; a warp whose blocks another thread pushes out of the cache is done again for every band
        with self._one_at_a_time:
            if not self._shared:
                self._shared += self._warp()
            planes = np.empty((len(self.bands) + 1, window.height, window.width), self.dtype)
            self._fetch(self._shared[0], there, planes, list(range(1, len(planes) + 1)))
        planes = planes[:, :: -1 if height > 0 else 1, :: -1 if width < 0 else 1]
        return planes[:-1], planes[-1] > 0

    def _fetch(self, dataset: gdal.Dataset, window: Window, data: np.ndarray, indexes: Sequence[int] = (), mask: bool = False) -> None:
        """Read a window of bands of a dataset, or their masks, into data (bands, rows, cols)."""
        with quiet_gdal():
            gdal.ErrorReset()
            done = True
            for number, plane in zip(indexes or self.indexes, data):
                if self._stopped:
                    raise Cancelled
                band = dataset.GetRasterBand(number)
                source = band.GetMaskBand() if mask else band
                try:
                    done = done and source.ReadAsArray(window.x, window.y, window.width, window.height, buf_obj=plane) is not None
                except RuntimeError:
                    done = False
            if not done:
                raise EngineError(f"The raster cannot be read ({gdal_reason()})", self.path, "the file is damaged or cut off: get it again")

    def _dataset(self) -> gdal.Dataset:
        if not hasattr(self._open, "dataset"):
            self._open.dataset = open_dataset(self.path)
        return self._open.dataset

    def _warp(self) -> list[gdal.Dataset]:
        """A VRT of the bands on the target grid, with an alpha band behind them that tells where there is data; then what it refers to."""
        source = open_dataset(self.path)
        if bool(self.grid.crs) != bool(source.GetProjection()) or not self.grid.crs and self._moved is None:
            raise EngineError("The raster has no coordinate reference system and lies on another grid", self.path, "assign its CRS first")
        stated = [n is not None for n in self._nodata]
        values = " ".join("nan" if n is None and self.dtype.kind == "f" else str(0 if n is None else n) for n in self._nodata)
        columns, rows = source_pixels_per_pixel(self.grid, self._file_grid)
        with quiet_gdal():
            gdal.ErrorReset()
            try:
                masked = {"maskBand": self._alpha} if self._alpha is not None else {}
                chosen = gdal.Translate("", source, format="VRT", bandList=list(self.indexes), **masked)
                if self._moved is not None:
                    chosen.SetGeoTransform(self._moved)
                warped = gdal.Warp(
                    "",
                    chosen,
                    format="VRT",
                    dstSRS=self.grid.crs or None,
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
            raise EngineError(f"The raster cannot be brought to the output's grid ({gdal_reason()})", self.path, "check its CRS")
        return [warped, chosen, source]


def _usable(plane: np.ndarray, nodata: float | None, ok: np.ndarray) -> None:
    """ok = the value of a pixel is finite and not nodata."""
    if plane.dtype.kind == "f":
        np.isfinite(plane, out=ok)
        if nodata is not None and np.isfinite(nodata):
            ok &= plane != plane.dtype.type(nodata)
    elif nodata is None:
        ok[:] = True
    else:
        np.not_equal(plane, plane.dtype.type(nodata), out=ok)


class StackedReader:
    """Several readers on one grid, their planes one after the other. Can be sent to another process."""

    def __init__(self, readers: Sequence[Reader]) -> None:
        # a stack in a stack would copy its planes once more
        nested = [reader.readers if isinstance(reader, StackedReader) else (reader,) for reader in readers]
        self.readers: tuple[Reader, ...] = tuple(chain.from_iterable(nested))
        self.grid = readers[0].grid
        self.bands = tuple(band for reader in readers for band in reader.bands)
        self.dtype = np.result_type(*(reader.dtype for reader in readers))
        self.tile = readers[0].tile

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """As RasterReader.read, for all readers together."""
        if len(self.readers) == 1:
            return self.readers[0].read(window)
        data = np.empty((len(self.bands), window.height, window.width), self.dtype)
        valid = np.empty(data.shape, bool)
        start = 0
        for reader in self.readers:
            here = slice(start, start + len(reader.bands))
            if isinstance(reader, RasterReader) and reader.dtype == self.dtype:
                reader.read_into(window, data[here], valid[here])
            else:
                data[here], valid[here] = reader.read(window)
            start = here.stop
        return data, valid

    def reads_once(self, windows: Sequence[Window]) -> bool:
        """As Reader has it."""
        return all(reader.reads_once(windows) for reader in self.readers)

    def stop(self) -> None:
        """As Reader has it."""
        for reader in self.readers:
            reader.stop()


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


def read_preview(
    path: str, indexes: Sequence[int], longest_px: int = 900, progress: Progress | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """A decimated copy (nearest) of some bands, longest side at most `longest_px`.

    Returns:
        data and valid, both (bands, rows, cols).

    Raises:
        EngineError: the file cannot be read.
        Cancelled: the user asked to stop.
    """
    watch = progress or Progress()
    info = describe(path)
    dataset = open_dataset(path)
    factor = min(1.0, longest_px / max(dataset.RasterXSize, dataset.RasterYSize))
    size = max(1, round(dataset.RasterXSize * factor)), max(1, round(dataset.RasterYSize * factor))
    with quiet_gdal():
        try:
            planes = [
                dataset.GetRasterBand(index).ReadAsArray(
                    buf_xsize=size[0],
                    buf_ysize=size[1],
                    callback=gdal_callback(watch.part(number / len(indexes), (number + 1) / len(indexes))),
                )
                for number, index in enumerate(indexes)
            ]
        except RuntimeError:
            planes = [None]
        watch.check_cancelled()
        if any(plane is None for plane in planes):
            raise EngineError(f"The raster cannot be read ({gdal_reason()})", path, "the file is damaged or cut off: get it again")
    data = np.stack(planes)
    valid = np.empty(data.shape, bool)
    for plane, ok, index in zip(data, valid, indexes):
        _usable(plane, info.bands[index - 1].nodata, ok)
    return data, valid


def gdal_callback(progress: Progress) -> Callable[[float, str, object], int]:
    """What GDAL calls while it works, to tell the share done and to ask whether to go on; nothing may be raised there."""

    def go_on(share: float, _message: str, _data: object) -> int:
        try:
            progress.report(share)
        except Cancelled:
            return 0
        return 1

    return go_on
