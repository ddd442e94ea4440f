"""The plugin object that QGIS holds."""

from qgis.core import QgsApplication

from .provider import S2LandcoverProvider


class S2LandcoverPlugin:
    """Adds the Processing provider and takes it away again."""

    def __init__(self, iface):
        self.iface = iface
        self.provider = None

    def initProcessing(self):
        """Called by qgis_process, and by initGui."""
        self.provider = S2LandcoverProvider()
        QgsApplication.processingRegistry().addProvider(self.provider)

    def initGui(self):
        """Called by QGIS with its window."""
        self.initProcessing()

    def unload(self):
        """Called when the plugin is switched off."""
        if self.provider is not None:
            QgsApplication.processingRegistry().removeProvider(self.provider)
            self.provider = None
