"""Run inside QGIS by screenshots.sh: open the toolbox, a dialog and a clustering result, and save pictures."""

import os
import traceback

import processing
from qgis.core import QgsContrastEnhancement, QgsMultiBandColorRenderer, QgsProject, QgsRasterLayer
from qgis.PyQt.QtCore import QEventLoop, QTimer
from qgis.PyQt.QtWidgets import QApplication, QDockWidget
from qgis.utils import iface

SHOTS, DEMO = os.environ["SHOTS"], os.environ["DEMO"]


def spin(milliseconds):
    """Let QGIS work for a while."""
    loop = QEventLoop()
    QTimer.singleShot(milliseconds, loop.quit)
    loop.exec()


def toolbox():
    """The provider's algorithms in the Processing Toolbox."""
    window = iface.mainWindow()
    window.resize(1500, 900)
    dock = window.findChild(QDockWidget, "ProcessingToolbox")
    dock.show()
    dock.setMinimumWidth(330)
    tree = dock.algorithmTree
    model = tree.model()
    for row in range(model.rowCount()):
        index = model.index(row, 0)
        if "S2 Land Cover" in str(index.data()):
            tree.expandRecursively(index)
            tree.scrollTo(index, tree.ScrollHint.PositionAtTop)
    spin(800)


def load_bands():
    """The bands of the demo in true colour."""
    bands = QgsRasterLayer(f"{DEMO}/bands.tif", "Sentinel-2 bands")
    names = [bands.bandName(i + 1).split(": ")[-1] for i in range(bands.bandCount())]
    bands.setRenderer(QgsMultiBandColorRenderer(bands.dataProvider(), *(names.index(n) + 1 for n in ("B04", "B03", "B02"))))
    bands.setContrastEnhancement(QgsContrastEnhancement.ContrastEnhancementAlgorithm.StretchToMinimumMaximum)
    QgsProject.instance().addMapLayer(bands)
    spin(500)


def dialog():
    """The dialog of Cluster raster."""
    (bands,) = QgsProject.instance().mapLayers().values()
    widget = processing.createAlgorithmDialog("s2landcover:clusterraster", {"INPUT": bands.id()})
    widget.show()
    widget.resize(1000, 700)
    spin(1200)
    widget.grab().save(f"{SHOTS}/dialog.png")
    widget.close()


def canvas():
    """A clustering run from the toolbox, with its legend."""
    (bands,) = QgsProject.instance().mapLayers().values()
    os.makedirs(f"{DEMO}/canvas", exist_ok=True)
    target = f"{DEMO}/canvas/landcover.tif"
    processing.runAndLoadResults("s2landcover:clusterraster", {"INPUT": bands, "OUTPUT": target})
    spin(500)
    layer = next(each for each in QgsProject.instance().mapLayers().values() if each.source() == target)
    layer.setName("Land cover")
    iface.layerTreeView().refreshLayerSymbology(layer.id())
    for node in QgsProject.instance().layerTreeRoot().findLayers():
        node.setExpanded(False)
        node.setExpanded(node.layer() is layer)
    iface.mapCanvas().setExtent(layer.extent())
    iface.mapCanvas().refresh()
    iface.mapCanvas().waitWhileRendering()
    spin(1500)
    iface.mainWindow().grab().save(f"{SHOTS}/canvas.png")


def main():
    """Take all pictures, then leave."""
    for step in (toolbox, load_bands, dialog, canvas):
        try:
            step()
        except Exception:
            traceback.print_exc()
    QgsProject.instance().clear()
    iface.actionExit().trigger()
    QTimer.singleShot(3000, QApplication.instance().quit)


QTimer.singleShot(3000, main)
