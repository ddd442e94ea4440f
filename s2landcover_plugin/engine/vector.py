"""Polygons of class rasters: sieved, traced, and written into a GeoPackage that carries its own style."""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Callable, Mapping, Sequence

import numpy as np
from osgeo import gdal, ogr, osr

from .crs import quiet_gdal, spatial_reference
from .errors import EngineError
from .files import shown_folder
from .geotiff import TILED
from .grid import Grid
from .legend import LegendClass, polygon_qml
from .progress import Progress
from .raster import BoundedCache, gdal_callback, gdal_reason, open_dataset

CODE = "code"
EDGE_STEPS = 100
"""Pieces that the longer side of a polygon is cut into before it goes to another CRS, where straight lines are bent."""
VECTOR_DRIVERS = ("GPKG", "ESRI Shapefile", "GeoJSON", "FlatGeobuf", "GML", "KML", "LIBKML", "MapInfo File", "SQLite")
"""Formats read. A closed list, as for rasters."""
GROWTH = 1.5
"""Each pass of the sieve takes pieces up to this many times larger than the one before."""


class _GeoPackage:
    """A new GeoPackage that is closed when its block ends, however it ends: an open one outlives its folder, and complains."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._dataset = _try(lambda: gdal.GetDriverByName("GPKG").Create(path, 0, 0, 0, gdal.GDT_Unknown), path)
        # one transaction: a commit for each polygon writes gigabytes
        self._dataset.StartTransaction()

    def add_layer(self, name: str, crs: str, kind: int, options: Sequence[str]) -> ogr.Layer:
        """A new layer; empty CRS: none."""
        reference: osr.SpatialReference | None = spatial_reference(crs) if crs else None
        return _try(partial(self._dataset.CreateLayer, name, reference, kind, options=list(options)), self.path)

    def __enter__(self) -> _GeoPackage:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        # committed after an error too: when it closes, the driver would miss tables that were rolled back
        dataset, self._dataset = self._dataset, None
        try:
            _try(dataset.CommitTransaction, self.path)
            _try(dataset.FlushCache, self.path)
        except EngineError:
            if kind is None:
                raise


def sieve(source: str, target: str, min_px: int, progress: Progress) -> None:
    """Write a copy of a class raster in which most pieces of less than `min_px` pixels have gone to their largest neighbour.

    In passes from small to large, because GDAL's sieve leaves a piece whose neighbours are all smaller than the limit; some are left even
    so. Pixels touch by their sides; nodata neither gives nor takes.

    Raises:
        EngineError: a file cannot be read or written.
        Cancelled: the user asked to stop.
    """
    steps = [2]
    while steps[-1] < min_px:
        steps.append(min(int(steps[-1] * GROWTH) + 1, min_px))
    with quiet_gdal(), BoundedCache():
        copied = _try(
            lambda: gdal.GetDriverByName("GTiff").CreateCopy(target, open_dataset(source), options=[*TILED, "COMPRESS=LZW"]), target
        )
        band = copied.GetRasterBand(1)
        for number, step in enumerate(steps if min_px > 1 else []):
            watch = gdal_callback(progress.part(number / len(steps), (number + 1) / len(steps)))
            _try(partial(gdal.SieveFilter, band, band.GetMaskBand(), band, step, 4, [], watch), target, progress)
        _try(copied.FlushCache, target)


def layers_in(path: str) -> list[str]:
    """Names of the layers of a GeoPackage, of vectors, rasters and tables; none where there is no such file."""
    if not Path(path).is_file():
        return []
    query = "SELECT table_name FROM gpkg_contents UNION SELECT name FROM sqlite_master WHERE name = 'layer_styles'"
    try:
        with contextlib.closing(sqlite3.connect(f"{Path(path).absolute().as_uri()}?mode=ro", uri=True)) as package:
            return [str(name) for (name,) in package.execute(query)]
    except sqlite3.Error:
        return []


def trace(raster: str, parts: str, progress: Progress) -> None:
    """Write one polygon for each piece of a class raster into a GeoPackage `parts`, with its code.

    Raises:
        EngineError, Cancelled: as sieve.
    """
    with quiet_gdal(), BoundedCache():
        dataset = open_dataset(raster)
        band = dataset.GetRasterBand(1)
        with _GeoPackage(parts) as target:
            layer = target.add_layer(
                "parts", str(dataset.GetProjection() or ""), ogr.wkbPolygon, ["SPATIAL_INDEX=NO", "GEOMETRY_NAME=geom"]
            )
            layer.CreateField(ogr.FieldDefn(CODE, ogr.OFTInteger))
            _try(partial(gdal.Polygonize, band, band.GetMaskBand(), layer, 0, [], gdal_callback(progress)), parts, progress)


def has_polygons(path: str, layer: str = "") -> bool:
    """Whether a file is a vector file with a polygon layer (that of this name)."""
    with quiet_gdal():
        source = _open_vector(path)
        return source is not None and _polygon_layer(source, layer) is not None


def _open_vector(path: str) -> gdal.Dataset | None:
    known = [name for name in VECTOR_DRIVERS if gdal.GetDriverByName(name) is not None]
    try:
        return gdal.OpenEx(path, gdal.OF_VECTOR, allowed_drivers=known)
    except RuntimeError:
        return None


def _polygon_layer(source: gdal.Dataset, name: str) -> ogr.Layer | None:
    layers = (source.GetLayer(number) for number in range(source.GetLayerCount()))
    flat = (ogr.wkbPolygon, ogr.wkbMultiPolygon, ogr.wkbCurvePolygon, ogr.wkbMultiSurface, ogr.wkbUnknown, ogr.wkbGeometryCollection)
    return next((each for each in layers if (not name or each.GetName() == name) and ogr.GT_Flatten(each.GetGeomType()) in flat), None)


def burn_mask(path: str, layer_name: str, grid: Grid, target: str, progress: Progress) -> int:
    """Write a Byte raster on a grid: 2 where the centre of a pixel lies inside a polygon of a file, else 1.

    Returns:
        the number of polygons in the area.

    Raises:
        EngineError: the file cannot be read, states no CRS while the grid has one, or no polygon lies in the area.
        Cancelled: the user asked to stop.
    """
    with quiet_gdal(), BoundedCache():
        memory = gdal.GetDriverByName("Memory" if gdal.GetDriverByName("Memory") else "MEM").Create("", 0, 0, 0, gdal.GDT_Unknown)
        inside = memory.CreateLayer("inside", spatial_reference(grid.crs) if grid.crs else None, ogr.wkbUnknown)
        _collect(path, layer_name, grid, inside, progress.part(0, 0.5))
        count = int(inside.GetFeatureCount())
        if not count:
            raise EngineError("No polygon of the reference lies in the area", path, "choose a reference of the same area")
        options = [*TILED, "COMPRESS=LZW"]
        mask = _try(partial(gdal.GetDriverByName("GTiff").Create, target, grid.width, grid.height, 1, gdal.GDT_Byte, options), target)
        mask.SetGeoTransform(grid.geotransform)
        if grid.crs:
            mask.SetProjection(grid.crs)
        band = mask.GetRasterBand(1)
        band.Fill(1)
        burn = partial(gdal.RasterizeLayer, mask, [1], inside, burn_values=[2], callback=gdal_callback(progress.part(0.5, 1)))
        _try(burn, target, progress)
        _try(mask.FlushCache, target)
    return count


def _collect(path: str, layer_name: str, grid: Grid, inside: ogr.Layer, progress: Progress) -> None:
    """Put the polygons of a file that touch a grid into a layer, in its CRS."""
    source = _open_vector(path)
    layer = _polygon_layer(source, layer_name) if source is not None else None
    if layer is None:
        raise EngineError("The reference has no layer of polygons", path, "choose a layer of polygons, or a raster of codes")
    reference = layer.GetSpatialRef()
    if bool(reference) != bool(grid.crs):
        raise EngineError("The reference or the map has no coordinate reference system", path, "assign the CRS first")
    change = _transformation(reference, grid.crs)
    x0, y0, x1, y1 = grid.bounds
    failed = 0
    for number, each in enumerate(layer):
        if number % 256 == 0:
            progress.check_cancelled()
        shape = each.GetGeometryRef()
        # a line has no inside; curves become polygons
        if shape is None or shape.IsEmpty() or shape.GetDimension() != 2:
            continue
        shape = shape.GetLinearGeometry()
        if change is not None:
            west, east, south, north = shape.GetEnvelope()
            shape.Segmentize(max(east - west, north - south, 1e-9) / EDGE_STEPS)
            try:
                failed += shape.Transform(change) != 0
            except RuntimeError:
                failed += 1
        west, east, south, north = shape.GetEnvelope()
        if west < x1 and east > x0 and south < y1 and north > y0:
            _try(partial(inside.CreateFeature, _feature(inside, shape)), path)
    if failed:
        progress.warn(f"{failed} polygons of {path} reach to where the CRS of the map is not defined: they may be incomplete.")


def _transformation(source: osr.SpatialReference | None, crs: str) -> osr.CoordinateTransformation | None:
    """From a layer's CRS to another; None where they are the same."""
    if source is None or not crs:
        return None
    source.SetAxisMappingStrategy(osr.OAMS_TRADITIONAL_GIS_ORDER)
    target = spatial_reference(crs)
    return None if source.IsSame(target) else osr.CoordinateTransformation(source, target)


@dataclass(frozen=True)
class Column:
    """A field of polygons: its type (int, float or str) and its value by the id of a polygon."""

    kind: type
    values: Mapping[int, Any]


def write_patches(
    parts: str, target: str, layer_name: str, columns: Mapping[str, Column], crs: str, style: str, progress: Progress
) -> None:
    """Write some polygons of `parts` into a GeoPackage with a style inside.

    Args:
        columns: by the name of the field; the ids of the first are those written, in that order.

    Raises:
        EngineError, Cancelled: as sieve.
    """
    kinds = {int: ogr.OFTInteger64, float: ogr.OFTReal, str: ogr.OFTString}
    order = list(next(iter(columns.values())).values)
    with quiet_gdal():
        source = gdal.OpenEx(parts, gdal.OF_VECTOR)
        shapes = source.GetLayer(0)
        with _GeoPackage(target) as package:
            layer = package.add_layer(layer_name, crs, ogr.wkbPolygon, ["GEOMETRY_NAME=geom"])
            for name, column in columns.items():
                layer.CreateField(ogr.FieldDefn(name, kinds[column.kind]))
            for number, piece in enumerate(order):
                if number % 1024 == 0:
                    progress.report(number / len(order))
                own = {name: column.values[piece] for name, column in columns.items()}
                shape = shapes.GetFeature(piece)
                _try(partial(layer.CreateFeature, _feature(layer, shape.GetGeometryRef(), own)), target)
            _add_style(package, layer_name, style)


def pieces(parts: str, grid: Grid, progress: Progress) -> tuple[np.ndarray, np.ndarray]:
    """Codes and numbers of pixels of the polygons of `parts`, both (n,), in the order of their ids (1 to n).

    Raises:
        Cancelled: the user asked to stop.
    """
    width, height = grid.pixel_size
    with quiet_gdal():
        source = gdal.OpenEx(parts, gdal.OF_VECTOR)
        layer = source.GetLayer(0)
        n = layer.GetFeatureCount()
        codes, areas = np.zeros(n, np.int64), np.zeros(n)
        for number, each in enumerate(layer):
            if number % 4096 == 0:
                progress.report(number / n)
            codes[number], areas[number] = each.GetField(CODE), each.GetGeometryRef().GetArea()
    return codes, np.rint(areas / (width * height)).astype(np.int64)


def burn_ids(parts: str, raster: str, target: str, progress: Progress) -> None:
    """Write a raster like `raster` with the id of the polygon at each pixel; 0 where there is none.

    Raises:
        EngineError, Cancelled: as sieve.
    """
    with quiet_gdal(), BoundedCache():
        model = open_dataset(raster)
        source = gdal.OpenEx(parts, gdal.OF_VECTOR)
        driver, options = gdal.GetDriverByName("GTiff"), [*TILED, "COMPRESS=LZW"]
        size = model.RasterXSize, model.RasterYSize
        ids = _try(partial(driver.Create, target, *size, 1, gdal.GDT_Int32, options), target)
        ids.SetGeoTransform(model.GetGeoTransform())
        ids.SetProjection(model.GetProjection())
        numbered = source.ExecuteSQL("SELECT geom, CAST(fid AS INTEGER) + 0 AS number FROM parts")
        burn = partial(gdal.RasterizeLayer, ids, [1], numbered, options=["ATTRIBUTE=number"], callback=gdal_callback(progress))
        _try(burn, target, progress)
        source.ReleaseResultSet(numbered)
        _try(ids.FlushCache, target)


def write_dissolved(
    parts: str, target: str, layer_name: str, classes: Sequence[tuple[LegendClass, float]], crs: str, progress: Progress
) -> None:
    """Write a GeoPackage with one multipolygon for each class (code, name, hectares), and a style with its names and colours inside.

    Raises:
        EngineError, Cancelled: as sieve.
    """
    with quiet_gdal():
        source = gdal.OpenEx(parts, gdal.OF_VECTOR)
        with _GeoPackage(target) as package:
            layer = package.add_layer(layer_name, crs, ogr.wkbMultiPolygon, ["GEOMETRY_NAME=geom"])
            for name, kind in ((CODE, ogr.OFTInteger), ("name", ogr.OFTString), ("hectares", ogr.OFTReal)):
                layer.CreateField(ogr.FieldDefn(name, kind))
            for number, (each, hectares) in enumerate(classes):
                progress.report(number / len(classes))
                own = source.GetLayer(0)
                own.SetAttributeFilter(f"{CODE} = {each.code}")
                whole = ogr.Geometry(ogr.wkbMultiPolygon)
                for piece in own:
                    whole.AddGeometry(piece.GetGeometryRef())
                if not whole.IsEmpty():
                    feature = _feature(layer, whole, {CODE: each.code, "name": each.name, "hectares": hectares})
                    _try(partial(layer.CreateFeature, feature), target)
            _add_style(package, layer_name, polygon_qml([each for each, _ in classes]))


def _add_style(package: _GeoPackage, layer_name: str, qml: str) -> None:
    """Put a QGIS style into a GeoPackage, in the table that QGIS looks for when it opens the layer."""
    table = package.add_layer("layer_styles", "", ogr.wkbNone, [])
    texts = ("f_table_catalog", "f_table_schema", "f_table_name", "f_geometry_column", "styleName", "styleQML", "styleSLD")
    for name in (*texts, "description", "owner", "ui"):
        table.CreateField(ogr.FieldDefn(name, ogr.OFTString))
    flag = ogr.FieldDefn("useAsDefault", ogr.OFTInteger)
    flag.SetSubType(ogr.OFSTBoolean)
    table.CreateField(flag)
    moment = ogr.FieldDefn("update_time", ogr.OFTDateTime)
    moment.SetDefault("CURRENT_TIMESTAMP")
    table.CreateField(moment)
    values: dict[str, Any] = {"f_table_catalog": "", "f_table_schema": "", "f_table_name": layer_name, "f_geometry_column": "geom"}
    values |= {"styleName": layer_name, "styleQML": qml, "styleSLD": "", "useAsDefault": 1, "owner": "", "ui": ""}
    values["description"] = "Written by S2 Land Cover"
    table.CreateFeature(_feature(table, None, values))


def _feature(layer: ogr.Layer, geometry: ogr.Geometry | None, values: dict[str, Any] | None = None) -> ogr.Feature:
    feature = ogr.Feature(layer.GetLayerDefn())
    for name, value in (values or {}).items():
        feature.SetField(name, value)
    if geometry is not None:
        feature.SetGeometry(geometry)
    return feature


def _try(action: Callable[[], Any], path: str, progress: Progress | None = None) -> Any:
    """The result of a GDAL call.

    Raises:
        EngineError: it failed.
        Cancelled: the user had stopped it.
    """
    gdal.ErrorReset()
    try:
        result = action()
    except RuntimeError:
        result = None
    if progress is not None:
        progress.check_cancelled()
    if gdal.GetLastErrorType() >= gdal.CE_Failure:
        fix = "free some disk space there, or choose another folder"
        raise EngineError(f"The polygons cannot be written ({gdal_reason()})", shown_folder(path), fix)
    return result
