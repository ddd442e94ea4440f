"""Coordinate reference systems, areas of interest and areas on the ground."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from typing import Iterator

import numpy as np
from osgeo import gdal, ogr, osr

from .errors import EngineError
from .grid import Bounds, Grid


@contextlib.contextmanager
def quiet_gdal() -> Iterator[None]:
    """Keep GDAL's messages off the console; errors are raised as EngineError instead."""
    gdal.PushErrorHandler("CPLQuietErrorHandler")
    try:
        yield
    finally:
        gdal.PopErrorHandler()


WGS84_A_M = 6378137.0
WGS84_E2 = 0.00669437999014
"""Semi-major axis (m) and squared eccentricity of the WGS 84 ellipsoid (NIMA TR8350.2)."""

TORN = 0.3
"""Neighbouring points of an outline (at most a twentieth of a side apart) that lie this share of its width and height apart have the edge
of the map between them."""
EDGE_POINTS = 21
"""Points a side when a rectangle goes to another CRS, so that its bulge is caught."""


def spatial_reference(crs: str) -> osr.SpatialReference:
    """An osr object with x = easting or longitude, from WKT, `EPSG:…` or any other text that PROJ knows.

    Raises:
        EngineError: the text is no CRS.
    """
    reference = osr.SpatialReference()
    try:
        failed = reference.SetFromUserInput(crs) != 0
    except RuntimeError:
        failed = True
    if failed:
        raise EngineError("The coordinate reference system is not known", crs[:80] or "(empty)", "give an EPSG code such as EPSG:32633")
    reference.SetAxisMappingStrategy(osr.OAMS_TRADITIONAL_GIS_ORDER)
    return reference


def wkt(crs: str) -> str:
    """The WKT of a CRS given in any form."""
    return str(spatial_reference(crs).ExportToWkt())


def same_crs(first: str, second: str) -> bool:
    """Whether two CRS texts mean the same; two empty ones do."""
    if first == second:
        return True
    return bool(first) and bool(second) and bool(spatial_reference(first).IsSame(spatial_reference(second)))


def crs_name(crs: str) -> str:
    """`EPSG:32633`, or the CRS's own name, for people."""
    if not crs:
        return "no CRS"
    reference = spatial_reference(crs)
    code = reference.GetAuthorityCode(None)
    return f"{reference.GetAuthorityName(None)}:{code}" if code else str(reference.GetName())


def is_geographic(crs: str) -> bool:
    """Whether coordinates are degrees."""
    return bool(crs) and bool(spatial_reference(crs).IsGeographic())


def utm_crs(longitude: float, latitude: float) -> str:
    """The WGS 84 / UTM zone of a point in degrees, as `EPSG:…`."""
    zone = min(int(((longitude + 180) % 360) // 6) + 1, 60)
    return f"EPSG:{(32600 if latitude >= 0 else 32700) + zone}"


def _ring(bounds: Bounds) -> list[tuple[float, float]]:
    x0, y0, x1, y1 = bounds
    steps = np.linspace(0.0, 1.0, EDGE_POINTS)[:-1]
    corners = [(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)]
    return [(ax + (bx - ax) * float(t), ay + (by - ay) * float(t)) for (ax, ay), (bx, by) in zip(corners[:-1], corners[1:]) for t in steps]


def transform_points(points: list[tuple[float, float]], source: str, target: str) -> list[tuple[float, float]]:
    """Points (x, y) from one CRS to another.

    Raises:
        EngineError: a point lies where the target CRS is not defined.
    """
    if same_crs(source, target):
        return points
    moved = [(math.inf, math.inf)]
    with contextlib.suppress(RuntimeError, TypeError, ValueError):
        change = osr.CoordinateTransformation(spatial_reference(source), spatial_reference(target), _here(points, source))
        moved = [(p[0], p[1]) for p in change.TransformPoints(points)]
    if not all(math.isfinite(v) for p in moved for v in p):
        raise EngineError(
            "The area cannot be expressed in the coordinate reference system of the scene",
            f"{crs_name(source)} -> {crs_name(target)}",
            "give an extent that lies inside the area where both are used",
        )
    return moved


def _here(points: list[tuple[float, float]], source: str) -> osr.CoordinateTransformationOptions:
    """Options that make PROJ choose the datum operation for the place, as GDAL's warper does."""
    options = osr.CoordinateTransformationOptions()
    plain = osr.CoordinateTransformation(spatial_reference(source), spatial_reference("EPSG:4326"))
    degrees = [(p[0], p[1]) for p in plain.TransformPoints(points) if math.isfinite(p[0]) and math.isfinite(p[1])]
    if degrees:
        west, south, east, north = _hull(degrees)
        if -180 <= west < east <= 180 and -90 <= south < north <= 90:
            options.SetAreaOfInterest(west, south, east, north)
    return options


def _hull(points: list[tuple[float, float]]) -> Bounds:
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    return min(xs), min(ys), max(xs), max(ys)


def _cover(bounds: Bounds, source: str, target: str) -> Bounds:
    """The rectangle in another CRS that covers one; across the antimeridian longitudes go on beyond 180."""
    ring = _ring(bounds)
    points = transform_points(ring, source, target)
    if is_geographic(target):
        return _hull(_unwrapped(points))
    jump = max(math.dist(a, b) for a, b in zip(points, [*points[1:], points[0]]))
    x0, y0, x1, y1 = _hull(points)
    if jump > TORN * (x1 - x0 + y1 - y0):
        where, fix = f"{crs_name(source)} -> {crs_name(target)}", "choose another, such as the UTM zone of the area"
        raise EngineError("The area is torn apart in the coordinate reference system", where, fix)
    return _hull(points)


def _unwrapped(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Points in degrees without jumps from 180 to -180; the westernmost has a longitude from -180 to below 180."""
    xs: list[float] = []
    for x, _ in points:
        xs.append(x + 360 * round((xs[-1] - x) / 360) if xs else x)
    shift = -360 * math.floor((min(xs, default=0.0) + 180) / 360)
    return [(x + shift, y) for x, (_, y) in zip(xs, points)]


@dataclass(frozen=True)
class Aoi:
    """An area of interest: a rectangle in a CRS, or a box of given size around a point."""

    crs: str
    bounds: Bounds | None = None
    center: tuple[float, float] | None = None
    size_km: tuple[float, float] = (10.0, 10.0)
    """Width and height of the box around `center`."""

    def __post_init__(self) -> None:
        numbers = (*(self.bounds or ()), *(self.center or ()), *self.size_km)
        if not all(math.isfinite(number) for number in numbers):
            raise EngineError("The area of interest is not finite", f"EXTENT or CENTER {numbers}", "give plain numbers")
        if self.bounds is not None and not (self.bounds[2] > self.bounds[0] and self.bounds[3] > self.bounds[1]):
            raise EngineError("The extent has no area", f"EXTENT {self.bounds}", "draw a rectangle, or give xmin,xmax,ymin,ymax")

    def bounds_in(self, crs: str) -> Bounds:
        """The rectangle that covers the area in another CRS; around a point: a box of exactly the size asked for."""
        if self.bounds is not None:
            return self.bounds if same_crs(self.crs, crs) else _cover(self.bounds, self.crs, crs)
        if self.center is None:
            raise EngineError("There is no area of interest", "EXTENT and CENTER", "give one of the two")
        if not spatial_reference(crs).GetUTMZone():
            # other projections may stretch: the box is made in UTM and covered
            utm = self._utm()
            return _cover(self.bounds_in(utm), utm, crs)
        x, y = transform_points([self.center], self.crs, crs)[0]
        dx, dy = (500.0 * km for km in self.size_km)
        return x - dx, y - dy, x + dx, y + dy

    def _utm(self) -> str:
        point = self.center or (0.0, 0.0)
        return utm_crs(*transform_points([point], self.crs, "EPSG:4326")[0])

    def lonlat_ring(self) -> list[tuple[float, float]]:
        """The outline in degrees, with points along the edges; not closed. Across the antimeridian longitudes go on beyond 180."""
        if self.bounds is not None:
            return _unwrapped(transform_points(_ring(self.bounds), self.crs, "EPSG:4326"))
        if self.center is None:
            raise EngineError("There is no area of interest", "EXTENT and CENTER", "give one of the two")
        utm = self._utm()
        return _unwrapped(transform_points(_ring(self.bounds_in(utm)), utm, "EPSG:4326"))

    def lonlat_boxes(self) -> list[Bounds]:
        """The rectangle in degrees that covers the area; two where it crosses the antimeridian."""
        west, south, east, north = _hull(self.lonlat_ring())
        if east - west >= 360:
            return [(-180.0, south, 180.0, north)]
        if east <= 180:
            return [(west, south, east, north)]
        return [(west, south, 180.0, north), (-180.0, south, east - 360, north)]

    def share_inside(self, *geometries: str) -> float:
        """The share of the area, 0 to 1, that GeoJSON geometries in degrees cover together."""
        ring = self.lonlat_ring()
        outline = ogr.Geometry(ogr.wkbLinearRing)
        for x, y in [*ring, ring[0]]:
            outline.AddPoint_2D(x, y)
        polygon = ogr.Geometry(ogr.wkbPolygon)
        polygon.AddGeometry(outline)
        together = None
        for geometry in geometries:
            footprint = _valid(_footprint(geometry, (_hull(ring)[0] + _hull(ring)[2]) / 2))
            if footprint is not None:
                together = footprint if together is None else _union(together, footprint)
        if together is None or polygon.GetArea() <= 0:
            return 0.0
        common = _common_area(polygon, together)
        return min(common / polygon.GetArea(), 1.0)


def overlap(first: str, second: str) -> float:
    """Area that two GeoJSON geometries share, as a share of the smaller one."""
    shapes = [_geometry(first)]
    longitude = shapes[0].GetEnvelope()[0] if shapes[0] is not None else 0.0
    shapes = [_footprint(text, longitude) for text in (first, second)]
    areas = [shape.GetArea() for shape in shapes if shape is not None]
    if len(areas) < 2 or min(areas) <= 0:
        return 0.0
    return _common_area(*shapes) / min(areas)


def _valid(shape: ogr.Geometry | None) -> ogr.Geometry | None:
    """A shape whose rings do not cross themselves; None where it cannot be made one."""
    if shape is None:
        return None
    with quiet_gdal():
        try:
            return shape if shape.IsValid() else shape.MakeValid()
        except (RuntimeError, ValueError):  # a ring of one point
            return None


def _union(first: ogr.Geometry, second: ogr.Geometry) -> ogr.Geometry:
    with quiet_gdal():
        try:
            return first.Union(second) or first
        except RuntimeError:
            return first


def _common_area(first: ogr.Geometry, second: ogr.Geometry) -> float:
    one, other = _valid(first), _valid(second)
    if one is None or other is None:
        return 0.0
    with quiet_gdal():
        try:
            common = one.Intersection(other)
        except RuntimeError:
            return 0.0
    return float(common.GetArea()) if common is not None else 0.0


def source_pixels_per_pixel(target: Grid, source: Grid) -> tuple[float, float]:
    """How many source pixels one target pixel is wide and high, at the target's centre; within 10 % of 1 in another CRS counts as 1."""
    if same_crs(target.crs, source.crs):
        ratios = [t / s for t, s in zip(target.pixel_size, source.pixel_size)]
    else:
        x0, y0, x1, y1 = target.bounds
        x, y, (dx, dy) = (x0 + x1) / 2, (y0 + y1) / 2, target.pixel_size
        moved = transform_points([(x, y), (x + dx, y), (x, y + dy)], target.crs, source.crs)
        here, right, up = (source.position(*point) for point in moved)
        ratios = [math.dist(here, right), math.dist(here, up)]
    near = 1e-6 if same_crs(target.crs, source.crs) else 0.1
    width, height = (1.0 if abs(ratio - 1) < near else ratio for ratio in ratios)
    return width, height


def _geometry(geojson: str) -> ogr.Geometry | None:
    with quiet_gdal():
        try:
            shape = ogr.CreateGeometryFromJson(geojson)
        except RuntimeError:
            return None
    return shape if shape is not None and all(math.isfinite(number) for number in shape.GetEnvelope()) else None


def _footprint(geojson: str, longitude: float) -> ogr.Geometry | None:
    """A footprint in degrees in one piece where it crosses the antimeridian, moved by 360 degrees to lie near a longitude.

    There footprints come split in two, with longitudes beyond 180, or with rings that jump from 180 to -180.
    """
    geometry = _geometry(geojson)
    if geometry is None or geometry.IsEmpty():
        return geometry
    west, east, _, _ = geometry.GetEnvelope()
    if east - west <= 180 and abs((west + east) / 2 - longitude) <= 180:
        return geometry
    pieces = ogr.Geometry(ogr.wkbMultiPolygon)
    polygons = [geometry] if geometry.GetGeometryName() == "POLYGON" else list(geometry)
    for polygon in polygons:
        if polygon.GetGeometryName() != "POLYGON":
            return geometry
        piece = ogr.Geometry(ogr.wkbPolygon)
        for ring in polygon:
            points = _unwrapped(ring.GetPoints(2) or [])
            middle = sum(x for x, _ in points) / max(len(points), 1)
            shift = 360 * round((longitude - middle) / 360)
            moved = ogr.Geometry(ogr.wkbLinearRing)
            for x, y in points:
                moved.AddPoint_2D(x + shift, y)
            piece.AddGeometry(moved)
        pieces.AddGeometry(piece)
    return pieces


def geometry_wkt(geojson: str) -> str:
    """A GeoJSON geometry as WKT; empty if it is none."""
    geometry = _geometry(geojson)
    return str(geometry.ExportToWkt()) if geometry is not None else ""


def row_hectares(grid: Grid) -> np.ndarray:
    """Area of one pixel in each row, hectares, shape (height,).

    Projected CRS: pixel width x height in the CRS's unit. Degrees: the area on the WGS 84 ellipsoid between two
    parallels (Snyder 1987, Map Projections, eq. 3-12 and 14-18, the authalic q). Without a CRS pixels are taken as metres.
    """
    if not is_geographic(grid.crs):
        unit_m = spatial_reference(grid.crs).GetLinearUnits() if grid.crs else 1.0
        width, height = grid.pixel_size
        return np.full(grid.height, width * height * unit_m**2 / 1e4)
    edges = grid.geotransform[3] + grid.geotransform[5] * np.arange(grid.height + 1)
    sine = np.sin(np.radians(np.clip(edges, -90, 90)))
    e = math.sqrt(WGS84_E2)
    q = (1 - WGS84_E2) * (sine / (1 - WGS84_E2 * sine**2) + np.arctanh(e * sine) / e)
    return np.abs(np.diff(q)) * WGS84_A_M**2 / 2 * math.radians(grid.pixel_size[0]) / 1e4


def pixel_metres(grid: Grid) -> float:
    """Side of a square as large as a pixel in the middle of the grid, metres."""
    return math.sqrt(float(row_hectares(grid)[grid.height // 2]) * 1e4)
