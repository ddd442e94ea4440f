"""Names and colours in the map canvas."""

from qgis.core import QgsPalettedRasterRenderer, QgsProcessingLayerPostProcessorInterface
from qgis.PyQt.QtGui import QColor


class Styler(QgsProcessingLayerPostProcessorInterface):
    """Styles an output when, and if, it is loaded."""

    kept = {}
    """Processing does not own post-processors; they are kept here until their layer is loaded."""

    def __init__(self, path, style):
        super().__init__()
        self.path = path
        self.style = style

    @classmethod
    def expect(cls, context, path, style):
        """Call style(layer) for the output at `path`."""
        if path and context.willLoadLayerOnCompletion(path):
            cls.kept[path] = cls(path, style)
            context.layerToLoadOnCompletionDetails(path).setPostProcessor(cls.kept[path])

    def postProcessLayer(self, layer, context, feedback):
        """Called in the main thread when the output has become a layer."""
        self.style(layer)
        layer.emitStyleChanged()
        layer.triggerRepaint()
        Styler.kept.pop(self.path, None)


def show_classes(context, path, legend):
    """Names and colours of a class raster."""
    kind = QgsPalettedRasterRenderer.Class

    def style(layer):
        classes = [kind(each.code, QColor(*each.rgb), each.name) for each in legend]
        layer.setRenderer(QgsPalettedRasterRenderer(layer.dataProvider(), 1, classes))

    Styler.expect(context, path, style)


def show_own_style(context, path):
    """The style that a GeoPackage carries: Processing loads layers without it."""
    Styler.expect(context, path, lambda layer: layer.loadDefaultStyle())
