"""A saved cluster model on another scene."""

from qgis.core import QgsProcessingParameterFile

from ..engine.applying import ApplyOptions, ApplyOutputs, run_apply
from .base import Algorithm
from .clusterraster import GROUP


class ApplyClusters(Algorithm):
    """The classes of a saved model."""

    ID = "applyclusters"
    TITLE = "Apply clusters"
    GROUP = GROUP
    TAGS = ("k-means", "gmm", "model", "predict")
    HELP = (
        "Gives every pixel of a raster the class of its nearest (k-means) or most likely (Gaussian mixture) cluster of a model that "
        "Cluster raster has written: the same codes, names and colours on another scene or date.\n\n"
        "Bands are found by name, whatever their order; the model is checked completely before it is used. The distance raster is the "
        "distance of a pixel from the training data (of a model with one cluster: the Mahalanobis distance). Where many pixels are farther "
        "away than nearly all training pixels were, the model has seen nothing like them, and a warning says so."
    )

    def define(self):
        self.add_raster(help="A stack with the bands of the model.")
        model = QgsProcessingParameterFile("MODEL", self.tr("Model (JSON)"), fileFilter=self.tr("JSON files (*.json)"))
        self.add(model, "Written by Cluster raster.")
        self.add_options(ApplyOptions)
        self.add_text("BAND_MAP", "Band map", "For files without band names: red=3,nir=4.", advanced=True)
        self.add_output_raster("OUTPUT", "Classes")
        self.add_output_raster("OUTPUT_DISTANCE", "Distance from the training data", optional=True)
        self.add_output_file("OUTPUT_TABLE", "Areas (CSV)", "csv")
        self.add_output_file("OUTPUT_HTML", "Report (HTML)", "html")
        self.add_numbers(OUTSIDE_SHARE="Share of pixels outside of what the model has seen (0 to 1)")

    def compute(self, parameters, context, progress):
        source = self.raster(parameters, "INPUT", context)
        output, distance = (self.destination(parameters, name, context) for name in ("OUTPUT", "OUTPUT_DISTANCE"))
        table, html = (self.file(parameters, name, context) for name in ("OUTPUT_TABLE", "OUTPUT_HTML"))
        band_map = self.parameterAsString(parameters, "BAND_MAP", context)
        options = self.options(ApplyOptions, parameters, context, band_map=band_map)
        model = self.parameterAsFile(parameters, "MODEL", context)
        report = run_apply(source, model, ApplyOutputs(output, distance, table, html), options, progress)
        self.style(context, output, report.legend)
        return {
            "OUTPUT": output,
            "OUTPUT_DISTANCE": distance,
            "OUTPUT_TABLE": table,
            "OUTPUT_HTML": html,
            "OUTSIDE_SHARE": report.outside_share,
        }
