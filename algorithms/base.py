"""What all algorithms share: errors, progress and cancel adapted once; parameters made from the engine's options."""

import os

from qgis.core import (
    QgsProcessing,
    QgsProcessingAlgorithm,
    QgsProcessingException,
    QgsProcessingOutputNumber,
    QgsProcessingOutputString,
    QgsProcessingParameterBoolean,
    QgsProcessingParameterDefinition,
    QgsProcessingParameterEnum,
    QgsProcessingParameterFileDestination,
    QgsProcessingParameterNumber,
    QgsProcessingParameterRasterDestination,
    QgsProcessingParameterRasterLayer,
    QgsProcessingParameterString,
    QgsProcessingParameterVectorDestination,
)
from qgis.PyQt.QtCore import QCoreApplication
from qgis.PyQt.QtGui import QIcon

from .. import engine
from ..engine.errors import Cancelled, EngineError
from ..engine.options import option_fields
from ..engine.progress import Progress
from .styling import show_classes

ICON = os.path.join(os.path.dirname(os.path.dirname(engine.__file__)), "icon.svg")


class Algorithm(QgsProcessingAlgorithm):
    """Base of the provider's algorithms. A subclass sets the texts and `define`s and `compute`s."""

    ID = ""
    TITLE = ""
    GROUP = ("", "")
    HELP = ""
    TAGS = ()

    def createInstance(self):
        return type(self)()

    def name(self):
        return self.ID

    def displayName(self):
        return self.tr(self.TITLE)

    def group(self):
        return self.tr(self.GROUP[1])

    def groupId(self):
        return self.GROUP[0]

    def tags(self):
        return ["sentinel-2", "land cover", *self.TAGS]

    def icon(self):
        return QIcon(ICON)

    def shortHelpString(self):
        return self.tr(self.HELP)

    def tr(self, text):
        """Translate a text of this algorithm."""
        return QCoreApplication.translate("S2LandCover", text)

    def initAlgorithm(self, config=None):
        self.define()

    def define(self):
        """Add parameters and outputs."""
        raise NotImplementedError

    def compute(self, parameters, context, progress):
        """Do the work; return the outputs by name."""
        raise NotImplementedError

    def checkParameterValues(self, parameters, context):
        """Accept what a script would naturally write for an enumeration: 10 for "10", and "B02, B03" with a space."""
        return super().checkParameterValues({name: self._plain(name, value) for name, value in parameters.items()}, context)

    def _plain(self, name, value):
        definition = self.parameterDefinition(name)
        if not isinstance(definition, QgsProcessingParameterEnum) or not definition.usesStaticStrings():
            return value
        if definition.allowMultiple() and isinstance(value, str):
            return ",".join(text.strip() for text in value.split(","))
        if definition.allowMultiple() and isinstance(value, (list, tuple)):
            return [str(each) for each in value]
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    def processAlgorithm(self, parameters, context, feedback):
        progress = Progress(
            on_fraction=lambda share: feedback.setProgress(100 * share),
            on_info=feedback.pushInfo,
            on_warning=feedback.pushWarning,
            is_cancelled=feedback.isCanceled,
        )
        try:
            return self.compute(parameters, context, progress)
        except Cancelled:
            return {}
        except EngineError as err:
            raise QgsProcessingException(str(err)) from err

    def add(self, parameter, help="", advanced=False):
        """Add a parameter with its help text."""
        if help:
            parameter.setHelp(self.tr(help))
        if advanced:
            parameter.setFlags(parameter.flags() | QgsProcessingParameterDefinition.Flag.FlagAdvanced)
        self.addParameter(parameter)

    def add_raster(self, name="INPUT", label="Raster", help=""):
        """Add a raster input."""
        self.add(QgsProcessingParameterRasterLayer(name, self.tr(label)), help)

    def add_options(self, options_class, only=()):
        """Add a parameter for every option of a dataclass (or for those named)."""
        for field, facts in option_fields(options_class):
            if not only or field.name in only:
                self.add(self._parameter(field, facts), facts.help, facts.advanced)

    def _parameter(self, field, facts):
        name, label = field.name.upper(), self.tr(facts.label)
        if facts.choices:
            default = list(field.default) if facts.multiple else field.default
            optional = facts.multiple and not default
            return QgsProcessingParameterEnum(name, label, list(facts.choices), facts.multiple, default, optional, True)
        if isinstance(field.default, bool):
            return QgsProcessingParameterBoolean(name, label, field.default)
        if isinstance(field.default, (int, float)):
            kinds = QgsProcessingParameterNumber.Type
            kind = kinds.Integer if isinstance(field.default, int) else kinds.Double
            return QgsProcessingParameterNumber(name, label, kind, field.default, False, facts.minimum, facts.maximum)
        return QgsProcessingParameterString(name, label, field.default, False, True)

    def add_choices(self, name, label, choices, default=(), help="", advanced=False):
        """Add an optional enumeration of static strings of which several may be chosen."""
        self.add(QgsProcessingParameterEnum(name, self.tr(label), list(choices), True, list(default), True, True), help, advanced)

    def add_text(self, name, label, help="", advanced=False):
        """Add an optional text."""
        self.add(QgsProcessingParameterString(name, self.tr(label), None, False, True), help, advanced)

    def add_output_raster(self, name, label, optional=False):
        """Add a GeoTIFF destination."""
        self.add(QgsProcessingParameterRasterDestination(name, self.tr(label), None, optional, not optional))

    def add_output_file(self, name, label, kind, optional=True):
        """Add a file destination; kind is `html`, `csv` or `json`."""
        filters = {"html": "HTML files (*.html)", "csv": "CSV files (*.csv)", "json": "JSON files (*.json)"}
        self.add(QgsProcessingParameterFileDestination(name, self.tr(label), self.tr(filters[kind]), None, optional, kind == "html"))

    def add_numbers(self, **labels):
        """Declare numeric outputs, name=label."""
        for name, label in labels.items():
            self.addOutput(QgsProcessingOutputNumber(name, self.tr(label)))

    def add_strings(self, **labels):
        """Declare text outputs, name=label."""
        for name, label in labels.items():
            self.addOutput(QgsProcessingOutputString(name, self.tr(label)))

    def raster(self, parameters, name, context):
        """The file of a raster parameter."""
        layer = self.parameterAsRasterLayer(parameters, name, context)
        if layer is None:
            raise EngineError("The raster cannot be opened", f"{name} {parameters.get(name)}", "choose a raster file or layer that exists")
        return raster_file(layer, name)

    def destination(self, parameters, name, context):
        """Where a raster goes, checked; empty if an optional one is not wanted."""
        path = self.parameterAsOutputLayer(parameters, name, context)
        if path and os.path.splitext(path)[1].lower() not in (".tif", ".tiff"):
            raise EngineError("The output must be a GeoTIFF", f"{name} {path}", "give it a name that ends in .tif")
        return path

    def add_output_polygons(self, name, label):
        """Add an optional GeoPackage destination for polygons."""
        kind = QgsProcessing.SourceType.TypeVectorPolygon
        self.add(QgsProcessingParameterVectorDestination(name, self.tr(label), kind, None, True, False))

    def file(self, parameters, name, context):
        """Where a file goes; empty if it is not wanted."""
        return self.parameterAsFileOutput(parameters, name, context)

    def texts(self, parameters, name, context):
        """A list given as repeated keys or comma-separated text, as a tuple."""
        value = parameters.get(name)
        if isinstance(value, (list, tuple)):
            parts = [str(part) for part in value]
        else:
            definition = self.parameterDefinition(name)
            if isinstance(definition, QgsProcessingParameterEnum):
                parts = self.parameterAsEnumStrings(parameters, name, context)
            else:
                parts = [self.parameterAsString(parameters, name, context)]
        return tuple(text.strip() for part in parts for text in part.split(",") if text.strip())

    def options(self, options_class, parameters, context, **more):
        """An options dataclass filled from the parameters of the same (upper-case) names; `more` are further fields."""
        values = {}
        for field, facts in option_fields(options_class):
            name = field.name.upper()
            if self.parameterDefinition(name) is None:
                continue
            if facts.multiple:
                values[field.name] = self.texts(parameters, name, context)
            elif facts.choices:
                plain = {**parameters, name: self._plain(name, parameters[name])} if name in parameters else parameters
                values[field.name] = self.parameterAsEnumString(plain, name, context)
            elif isinstance(field.default, bool):
                values[field.name] = self.parameterAsBool(parameters, name, context)
            elif isinstance(field.default, int):
                values[field.name] = self.parameterAsInt(parameters, name, context)
            elif isinstance(field.default, float):
                values[field.name] = self.parameterAsDouble(parameters, name, context)
            else:
                values[field.name] = self.parameterAsString(parameters, name, context)
        return options_class(**{**values, **more})

    def style(self, context, path, legend):
        """Show names and colours when the output is loaded into the canvas."""
        show_classes(context, path, legend)


def raster_file(layer, name):
    """The file behind a raster layer.

    Raises:
        EngineError: the layer does not come from a file.
    """
    source = layer.source()
    if layer.providerType() != "gdal":
        raise EngineError("The layer is not a raster file", f"{name} {layer.name()}", "save it as GeoTIFF first")
    return source


RASTER_SOURCE = QgsProcessing.SourceType.TypeRaster
