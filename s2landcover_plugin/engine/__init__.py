"""The core engine: numpy, GDAL and the field's libraries. It never imports qgis.

Layers, each importing only those to its right::

    operations (fetch, stack, clustering, areas, ...) -> blocks -> raster -> grid, crs -> errors, progress, options
"""
