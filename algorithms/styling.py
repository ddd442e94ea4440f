"""Names and colours in the map canvas."""

from qgis.core import QgsPalettedRasterRenderer, QgsProcessingLayerPostProcessorInterface
from qgis.PyQt.QtGui import QColor


class ClassStyler(QgsProcessingLayerPostProcessorInterface):
    """Gives a loaded class raster its legend."""

    kept = {}
    """Processing does not own post-processors; they are kept here until their layer is loaded."""

    def __init__(self, path, legend):
        super().__init__()
        self.path = path
        self.legend = legend

    def postProcessLayer(self, layer, context, feedback):
        """Called in the main thread when the output has become a layer."""
        kind = QgsPalettedRasterRenderer.Class
        classes = [kind(each.code, QColor(*each.rgb), each.name) for each in self.legend]
        layer.setRenderer(QgsPalettedRasterRenderer(layer.dataProvider(), 1, classes))
        layer.emitStyleChanged()
        layer.triggerRepaint()
        ClassStyler.kept.pop(self.path, None)


def show_classes(context, path, legend):
    """Style the output at `path` when, and if, it is loaded."""
    if context.willLoadLayerOnCompletion(path):
        styler = ClassStyler(path, legend)
        ClassStyler.kept[path] = styler
        context.layerToLoadOnCompletionDetails(path).setPostProcessor(styler)
