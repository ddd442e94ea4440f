"""Land cover by an ONNX network."""

from qgis.core import QgsProcessingParameterFile

from ..engine.errors import EngineError
from ..engine.segmenting import SegmentOptions, SegmentOutputs, run_segmentation
from .base import Algorithm
from .clusterraster import GROUP


class SegmentRaster(Algorithm):
    """Semantic segmentation."""

    ID = "segmentraster"
    TITLE = "Segment raster (ONNX)"
    GROUP = GROUP
    TAGS = ("onnx", "u-net", "deep learning", "neural network", "semantic segmentation", "dynamic world", "deepness")
    HELP = (
        "Runs a semantic-segmentation network (ONNX) over a raster and writes the map that the network would give on the whole "
        "image at once: tiles begin where the network wants them to, and of each only what does not depend on its border is "
        "used. How far a network looks is measured by changing pixels, if the model does not state it.\n\n"
        "Bands, scaling, layout, tile size, margin, kind of output and class names come from the parameters, else from the "
        "model's metadata (those of deepness are read too), else from a JSON file beside it (model.json for model.onnx), else "
        "from the graph and the answers. The report lists every decision and where it comes from; what had to be assumed is "
        "warned about.\n\n"
        "Classes 0, 1, … of the model become the codes 1, 2, …; 0 is no data. Entropy is 0 (sure) to 1 (all classes alike), "
        "margin the largest probability minus the second. A ratio of seams tells how much more often classes change across the "
        "lines between tiles than elsewhere: 1 is none."
    )

    def define(self):
        self.add_raster(help="A stack with the bands that the model takes.")
        model = QgsProcessingParameterFile("MODEL", self.tr("Model (ONNX)"), fileFilter=self.tr("ONNX models (*.onnx)"))
        self.add(model, "A semantic-segmentation network. Data files of a large model must lie beside it.")
        self.add_text("BANDS", "Bands (empty: as the model states)", "Names or numbers in the model's order (B04,B03,B02 or 3,2,1).")
        self.add_text("CLASS_NAMES", "Class names (empty: as the model states)", "In the model's order, comma-separated.")
        self.add_options(SegmentOptions)
        self.add_text("BAND_MAP", "Band map", "For files without band names: red=3,nir=4.", advanced=True)
        self.add_output_raster("OUTPUT", "Classes")
        self.add_output_raster("OUTPUT_PROBABILITIES", "Probabilities", optional=True)
        self.add_output_raster("OUTPUT_UNCERTAINTY", "Uncertainty", optional=True)
        self.add_output_file("OUTPUT_HTML", "Report (HTML)", "html")
        self.add_strings(PROVIDER_USED="What ran the network")
        self.add_numbers(SEAM_RATIO="Changes of class across the lines between tiles / elsewhere")

    def compute(self, parameters, context, progress):
        source = self.raster(parameters, "INPUT", context)
        rasters = [self.destination(parameters, f"OUTPUT{name}", context) for name in ("", "_PROBABILITIES", "_UNCERTAINTY")]
        html = self.file(parameters, "OUTPUT_HTML", context)
        model = self.parameterAsFile(parameters, "MODEL", context)
        if not model:
            raise EngineError("There is no model", "MODEL", "choose an .onnx file")
        texts = {name.lower(): self.parameterAsString(parameters, name, context) for name in ("BAND_MAP", "CLASS_NAMES")}
        options = self.options(SegmentOptions, parameters, context, bands=self.texts(parameters, "BANDS", context), **texts)
        report = run_segmentation(source, model, SegmentOutputs(*rasters, html), options, progress)
        self.style(context, rasters[0], report.legend)
        names = ("OUTPUT", "OUTPUT_PROBABILITIES", "OUTPUT_UNCERTAINTY", "OUTPUT_HTML")
        found = {"PROVIDER_USED": report.provider, "SEAM_RATIO": report.seam_ratio}
        return {**dict(zip(names, (*rasters, html))), **found}
