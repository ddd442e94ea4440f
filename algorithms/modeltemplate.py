"""A JSON template for a model."""

from qgis.core import QgsProcessingParameterFile

from ..engine.model_template import run_template
from .base import Algorithm
from .clusterraster import GROUP


class ModelTemplate(Algorithm):
    """What a model states, to be completed."""

    ID = "modeltemplate"
    TITLE = "Describe model (JSON template)"
    GROUP = GROUP
    TAGS = ("onnx", "metadata", "u-net", "deepness")
    HELP = (
        "Writes what an ONNX model states of itself (bands, scaling, tiles, classes), and what its graph tells, as JSON. Fill "
        "in what is null and put the file beside the model (model.json for model.onnx): Segment raster reads it. The entry "
        "hints says what belongs where."
    )

    def define(self):
        model = QgsProcessingParameterFile("MODEL", self.tr("Model (ONNX)"), fileFilter=self.tr("ONNX models (*.onnx)"))
        self.add(model, "A semantic-segmentation network.")
        self.add_output_file("OUTPUT", "Template (JSON)", "json", optional=False)

    def compute(self, parameters, context, progress):
        output = self.file(parameters, "OUTPUT", context)
        run_template(self.parameterAsFile(parameters, "MODEL", context), output, progress)
        return {"OUTPUT": output}
