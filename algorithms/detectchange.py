"""Change between two dates."""

from qgis.core import (
    QgsProcessing,
    QgsProcessingFeedback,
    QgsProcessingParameterMapLayer,
    QgsProcessingParameterNumber,
    QgsProcessingUtils,
    QgsVectorLayer,
)

from ..engine.changemap import LEGEND
from ..engine.detecting import DetectInputs, DetectOptions, DetectOutputs, change_numbers, run_change
from ..engine.errors import EngineError
from ..engine.references import Reference
from .alignrasters import GROUP
from .base import Algorithm, raster_file
from .styling import show_own_style

FORMATS = ["gpkg", "shp", "geojson", "fgb", "gml", "kml"]
"""Vector formats that the engine reads itself; other layers are copied."""


class DetectChange(Algorithm):
    """Changed land, by several methods."""

    ID = "detectchange"
    TITLE = "Detect change"
    GROUP = GROUP
    TAGS = ("landslide", "deforestation", "burn scar", "ndvi", "bsi", "irmad", "mad", "k-means", "gmm", "difference")
    HELP = (
        "Finds land that lost its vegetation or was laid bare between two dates: landslides, clearings, burns, construction.\n\n"
        "Both dates are brought to the grid of the first (CRS, resolution and extent may differ) and aligned to a few "
        "hundredths of a pixel. Water, cloud, cloud shadow and snow of either date are left out, by the scene classification "
        "(SCL) where the stack has it, else by indices; their areas are told. Then any of four methods, each by a stated rule:\n\n"
        "ndvi-drop: NDVI fell by more than the threshold. kmeans, gmm: two or three clusters of NDVI, BSI (where there are blue "
        "and SWIR) and their differences; those whose mean NDVI fell by at least the threshold are the change. irmad: IR-MAD "
        "(Nielsen 2007) on all bands, probability of no change below 0.001, and NDVI fell by at least three quarters of the "
        "threshold.\n\n"
        "Every method is compared with the NDVI-drop mask: that is agreement, not accuracy, because both come from the same "
        "images. Accuracy needs a REFERENCE of its own: a raster of codes, or polygons around what changed, drawn for the whole "
        "area. Intervals are 95 %, from drawing squares of ground (of areas large enough to have twenty of them). Dates of "
        "another season, relative orbit or height of the sun give a warning.\n\n"
        "The map has 1 = no change, 2 = change, 0 = left out. The magnitude is the length of the change of NDVI and BSI. "
        "PRECISION, RECALL and F1 are those of the map (the first of METHODS) against the REFERENCE, else the NDVI-drop mask; "
        "of that mask itself they are not a number."
    )

    def define(self):
        self.add_raster("BEFORE", "Before", "A stack with at least red and near infrared.")
        self.add_raster("AFTER", "After", "A stack of the later date; it may have another grid or CRS.")
        self.add_options(DetectOptions)
        self.add_text("BAND_MAP", "Band map", "For files of both dates without band names: red=3,nir=4.", advanced=True)
        kinds = [QgsProcessing.SourceType.TypeRaster, QgsProcessing.SourceType.TypeVectorPolygon]
        reference = QgsProcessingParameterMapLayer("REFERENCE", self.tr("Reference"), None, True, kinds)
        self.add(reference, "What really changed: a raster of codes (0 = no change, 1 = change, say), or polygons around all that changed.")
        number = QgsProcessingParameterNumber.Type.Integer
        code = QgsProcessingParameterNumber("REFERENCE_CODE", self.tr("Code of change in the reference"), number, None, True)
        self.add(code, "Of a raster with other codes than 0 and 1, or 1 and 2.", advanced=True)
        self.add_output_raster("OUTPUT", "Change")
        self.add_output_raster("OUTPUT_METHODS", "Change by every method", optional=True)
        self.add_output_raster("OUTPUT_MAGNITUDE", "Magnitude", optional=True)
        self.add_output_raster("OUTPUT_ALIGNED", "After, aligned", optional=True)
        self.add_output_polygons("OUTPUT_POLYGONS", "Changed patches")
        self.add_output_file("OUTPUT_TABLE", "Methods compared (CSV)", "csv")
        self.add_output_file("OUTPUT_HTML", "Report (HTML)", "html")
        self.add_numbers(
            SHIFT_X_PX="Shift to the right (pixels)",
            SHIFT_Y_PX="Shift down (pixels)",
            CHANGED_HA="Changed area (ha)",
            PRECISION="Precision of the map",
            RECALL="Recall of the map",
            F1="F1 of the map",
        )

    def compute(self, parameters, context, progress):
        before, after = (self.raster(parameters, name, context) for name in ("BEFORE", "AFTER"))
        rasters = [self.destination(parameters, f"OUTPUT{name}", context) for name in ("", "_METHODS", "_MAGNITUDE", "_ALIGNED")]
        polygons = self.parameterAsOutputLayer(parameters, "OUTPUT_POLYGONS", context)
        table, html = (self.file(parameters, name, context) for name in ("OUTPUT_TABLE", "OUTPUT_HTML"))
        band_map = self.parameterAsString(parameters, "BAND_MAP", context)
        options = self.options(DetectOptions, parameters, context, band_map=band_map)
        inputs = DetectInputs(before, after, self._reference(parameters, context))
        report = run_change(inputs, DetectOutputs(*rasters, polygons, table, html), options, progress)
        for path in rasters[:2]:
            self.style(context, path, LEGEND)
        show_own_style(context, polygons)
        names = ("OUTPUT", "OUTPUT_METHODS", "OUTPUT_MAGNITUDE", "OUTPUT_ALIGNED", "OUTPUT_POLYGONS", "OUTPUT_TABLE", "OUTPUT_HTML")
        return {**dict(zip(names, (*rasters, polygons, table, html))), **change_numbers(report)}

    def _reference(self, parameters, context):
        """The reference, or None."""
        if parameters.get("REFERENCE") in (None, ""):
            return None
        layer = self.parameterAsLayer(parameters, "REFERENCE", context)
        if layer is None:
            raise EngineError("The reference cannot be opened", f"REFERENCE {parameters['REFERENCE']}", "choose a layer that exists")
        code = self.parameterAsInt(parameters, "REFERENCE_CODE", context) if parameters.get("REFERENCE_CODE") is not None else None
        if not isinstance(layer, QgsVectorLayer):
            return Reference(raster_file(layer, "REFERENCE"), code=code, name=layer.name(), is_vector=False)
        convert = QgsProcessingUtils.convertToCompatibleFormatAndLayerName
        path, name = convert(layer, False, "reference", FORMATS, "gpkg", context, QgsProcessingFeedback())
        return Reference(path, layer=name, name=layer.name(), is_vector=True)
