"""The Processing provider `s2landcover`."""

import os

from qgis.core import QgsProcessingProvider
from qgis.PyQt.QtGui import QIcon

from .algorithms import ALGORITHMS
from .engine.version import VERSION

ICON = os.path.join(os.path.dirname(__file__), "icon.svg")


class S2LandcoverProvider(QgsProcessingProvider):
    """Lists the algorithms."""

    def id(self):
        return "s2landcover"

    def name(self):
        return "S2 Land Cover"

    def longName(self):
        return "S2 Land Cover (Sentinel-2)"

    def versionInfo(self):
        return VERSION

    def icon(self):
        return QIcon(ICON)

    def supportedOutputRasterLayerExtensions(self):
        return ["tif"]

    def defaultRasterFileExtension(self, hasGeometry=True):
        return "tif"

    def loadAlgorithms(self):
        for algorithm in ALGORITHMS:
            self.addAlgorithm(algorithm())
