"""Parameters that stacsearch and stacfetch share: catalog, area, dates."""

from qgis.core import (
    QgsProcessingParameterAuthConfig,
    QgsProcessingParameterDateTime,
    QgsProcessingParameterExtent,
    QgsProcessingParameterNumber,
    QgsProcessingParameterPoint,
)
from qgis.PyQt.QtCore import QDateTime

from ..engine.crs import Aoi
from ..engine.errors import EngineError
from ..engine.stac import SearchOptions
from .base import Algorithm
from .network import qgis_connection

GROUP = ("data", "Sentinel-2 data")
DOUBLE = QgsProcessingParameterNumber.Type.Double
DATE = QgsProcessingParameterDateTime.Type.Date


def add_scene_parameters(algorithm):
    """Add catalog, area, dates and cloud cover to an algorithm."""
    algorithm.add_options(SearchOptions, only=("catalog", "stac_url", "collection"))
    algorithm.add(
        QgsProcessingParameterExtent("EXTENT", algorithm.tr("Extent"), None, True),
        "Area of interest in any CRS. Give this, or a centre point with width and height.",
    )
    algorithm.add(QgsProcessingParameterPoint("CENTER", algorithm.tr("Centre point"), None, True), "Centre of the area, in any CRS.")
    for name, label in (("WIDTH_KM", "Width around the centre (km)"), ("HEIGHT_KM", "Height around the centre (km)")):
        algorithm.add(QgsProcessingParameterNumber(name, algorithm.tr(label), DOUBLE, 10.0, False, 0.02, 2000))
    algorithm.add(QgsProcessingParameterDateTime("START_DATE", algorithm.tr("First date"), DATE, None, True), "Included. ISO: 2023-08-01.")
    algorithm.add(QgsProcessingParameterDateTime("END_DATE", algorithm.tr("Last date"), DATE, None, True), "Included.")
    algorithm.add_options(SearchOptions, only=("max_cloud_cover", "limit"))
    algorithm.add(
        QgsProcessingParameterAuthConfig("AUTHCFG", algorithm.tr("Authentication"), None, True),
        "Only for catalogs that ask for it. Copernicus: a configuration with S3 keys (AWS S3, or Basic with access key and secret), or "
        "with e-mail address and password (Basic). It is used for the catalog and its own servers only. Empty: what the environment says.",
        advanced=True,
    )


class SceneAlgorithm(Algorithm):
    """Base of the algorithms that use the network: QGIS's settings are read in the main thread, where they are up to date."""

    def prepareAlgorithm(self, parameters, context, feedback):
        self._found = self._error = None
        try:
            self._found = qgis_connection(self.parameterAsString(parameters, "AUTHCFG", context))
        except EngineError as err:
            self._error = err  # told by processAlgorithm, like every other error
        return super().prepareAlgorithm(parameters, context, feedback)

    def connection(self):
        """How the network is reached.

        Raises:
            EngineError: AUTHCFG cannot be used.
        """
        if self._error:
            raise self._error
        return self._found


def area_of_interest(algorithm, parameters, context):
    """The AOI from EXTENT, or CENTER with WIDTH_KM and HEIGHT_KM.

    Raises:
        EngineError: neither is given.
    """
    if parameters.get("EXTENT"):
        extent = algorithm.parameterAsExtent(parameters, "EXTENT", context)
        crs = algorithm.parameterAsExtentCrs(parameters, "EXTENT", context)
        bounds = extent.xMinimum(), extent.yMinimum(), extent.xMaximum(), extent.yMaximum()
        return Aoi(crs_text(crs, "EXTENT"), bounds)
    if parameters.get("CENTER"):
        point = algorithm.parameterAsPoint(parameters, "CENTER", context)
        crs = algorithm.parameterAsPointCrs(parameters, "CENTER", context)
        size = tuple(algorithm.parameterAsDouble(parameters, name, context) for name in ("WIDTH_KM", "HEIGHT_KM"))
        return Aoi(crs_text(crs, "CENTER"), center=(point.x(), point.y()), size_km=size)
    raise EngineError("There is no area of interest", "EXTENT and CENTER", "give an extent, or a centre point with width and height")


def crs_text(crs, name, fix="write it behind the coordinates: …[EPSG:4326]"):
    """A CRS as text for the engine."""
    if not crs.isValid():
        raise EngineError("The coordinate reference system is missing or not known", name, fix)
    return crs.authid() if crs.authid().startswith("EPSG:") else crs.toWkt()


def search_options(algorithm, parameters, context, **more):
    """SearchOptions from the shared parameters."""
    dates = {name.lower(): iso_date(parameters.get(name)) for name in ("START_DATE", "END_DATE")}
    return algorithm.options(SearchOptions, parameters, context, **dates, **more)


def iso_date(value):
    """A date parameter as text; the engine says what is wrong with a text that is no date."""
    if value is None or value == "":
        return ""
    if isinstance(value, QDateTime):
        return value.date().toString("yyyy-MM-dd")
    if hasattr(value, "toString"):
        return value.toString("yyyy-MM-dd")
    return str(value).strip()
