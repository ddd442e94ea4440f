"""A picture of a class map as QGIS draws it, with its legend and a true-colour view: `python -m demo.map_png classes bands picture`."""

from __future__ import annotations

import os
import sys

from osgeo import gdal
from qgis.core import (
    QgsApplication,
    QgsContrastEnhancement,
    QgsLayerTree,
    QgsLayoutExporter,
    QgsLayoutItemLabel,
    QgsLayoutItemLegend,
    QgsLayoutItemMap,
    QgsLayoutItemScaleBar,
    QgsLayoutPoint,
    QgsLayoutSize,
    QgsMapLayerLegendUtils,
    QgsMultiBandColorRenderer,
    QgsPrintLayout,
    QgsProject,
    QgsRasterLayer,
    QgsUnitTypes,
)
from qgis.PyQt.QtCore import Qt
from qgis.PyQt.QtGui import QFont


def place(layout, item, x, y, width, height):
    """Put an item on the page; millimetres."""
    layout.addLayoutItem(item)
    millimetres = QgsUnitTypes.LayoutUnit.LayoutMillimeters
    item.attemptMove(QgsLayoutPoint(x, y, millimetres))
    item.attemptResize(QgsLayoutSize(width, height, millimetres))


def add_map(layout, layer, x):
    """A square map of one layer."""
    item = QgsLayoutItemMap(layout)
    place(layout, item, x, 22, 105, 105)
    item.setLayers([layer])
    item.setCrs(layer.crs())
    item.setExtent(layer.extent())
    item.setFrameEnabled(True)
    return item


def add_label(layout, text, x, y, width, size):
    """A line of text."""
    label = QgsLayoutItemLabel(layout)
    label.setText(text)
    label.setFont(QFont("Open Sans", size))
    place(layout, label, x, y, width, 9)


def true_colour(path):
    """The bands B04, B03, B02 of a stack, stretched."""
    layer = QgsRasterLayer(path, "True colour")
    names = [layer.bandName(i + 1).split(": ")[-1] for i in range(layer.bandCount())]
    red, green, blue = (names.index(name) + 1 for name in ("B04", "B03", "B02"))
    layer.setRenderer(QgsMultiBandColorRenderer(layer.dataProvider(), red, green, blue))
    layer.setContrastEnhancement(QgsContrastEnhancement.ContrastEnhancementAlgorithm.StretchToMinimumMaximum)
    return layer


def draw(classes_path, bands_path, picture):
    """Write the picture."""
    project = QgsProject.instance()
    classes = QgsRasterLayer(classes_path, "Land-cover clusters")
    colour = true_colour(bands_path)
    project.setCrs(classes.crs())
    project.addMapLayers([classes, colour])
    layout = QgsPrintLayout(project)
    layout.initializeDefaults()
    layout.pageCollection().page(0).setPageSize(QgsLayoutSize(280, 140, QgsUnitTypes.LayoutUnit.LayoutMillimeters))
    add_label(layout, "Sentinel-2 land cover", 8, 5, 200, 18)
    add_label(layout, "True colour", 8, 15, 80, 10)
    add_label(layout, "k-means clusters", 118, 15, 80, 10)
    add_map(layout, colour, 8)
    map_item = add_map(layout, classes, 118)
    legend = QgsLayoutItemLegend(layout)
    legend.setAutoUpdateModel(False)
    root = QgsLayerTree()
    node = root.addLayer(classes)
    node.setName("Clusters")
    legend.model().setRootGroup(root)
    entries = legend.model().layerLegendNodes(node)
    coloured = [i for i, entry in enumerate(entries) if not entry.data(Qt.ItemDataRole.DisplayRole).startswith("Band 1")]
    QgsMapLayerLegendUtils.setLegendNodeOrder(node, coloured)
    legend.model().refreshLayerLegend(node)
    place(layout, legend, 226, 20, 50, 100)
    bar = QgsLayoutItemScaleBar(layout)
    bar.setLinkedMap(map_item)
    bar.setUnits(QgsUnitTypes.DistanceUnit.DistanceKilometers)
    bar.setUnitLabel("km")
    bar.setUnitsPerSegment(max(1, round(classes.extent().width() / 6000)))
    bar.setNumberOfSegments(2)
    bar.setNumberOfSegmentsLeft(0)
    place(layout, bar, 118, 128, 60, 10)
    settings = QgsLayoutExporter.ImageExportSettings()
    settings.dpi = 120
    return QgsLayoutExporter(layout).exportToImage(picture, settings)


if __name__ == "__main__":
    app = QgsApplication([], True)
    app.initQgis()
    gdal.PushErrorHandler("CPLQuietErrorHandler")  # QGIS tries to georeference the PNG, which GDAL refuses with a message
    outcome = draw(*sys.argv[1:4])
    sys.stdout.flush()
    os._exit(0 if outcome == QgsLayoutExporter.ExportResult.Success else 1)
