"""Which scenes exist."""

from qgis.core import (
    QgsCoordinateReferenceSystem,
    QgsFeature,
    QgsFeatureSink,
    QgsField,
    QgsFields,
    QgsGeometry,
    QgsProcessing,
    QgsProcessingParameterFeatureSink,
    QgsWkbTypes,
)
from qgis.PyQt.QtCore import QVariant

from ..engine.stac import find_scenes
from .scenes import GROUP, SceneAlgorithm, add_scene_parameters, area_of_interest, search_options

FIELDS = (
    ("id", QVariant.String),
    ("datetime", QVariant.String),
    ("cloud_cover", QVariant.Double),
    ("platform", QVariant.String),
    ("tile", QVariant.String),
    ("baseline", QVariant.String),
    ("aoi_share", QVariant.Double),
)


class StacSearch(SceneAlgorithm):
    """Footprints of the scenes of an area and a time."""

    ID = "stacsearch"
    TITLE = "Find scenes"
    GROUP = GROUP
    TAGS = ("stac", "catalog", "search")
    HELP = (
        "Finds Sentinel-2 scenes of an area in a STAC catalog and shows their footprints, least cloudy first.\n\n"
        "Each footprint has the scene's id, date and time (UTC), cloud cover in percent of the whole scene, platform, MGRS tile, "
        "processing baseline, and the share of the area that it covers (0 to 1)."
    )

    def define(self):
        add_scene_parameters(self)
        self.add(QgsProcessingParameterFeatureSink("OUTPUT", self.tr("Footprints"), QgsProcessing.SourceType.TypeVectorPolygon))
        self.add_numbers(SCENE_COUNT="Number of scenes")

    def compute(self, parameters, context, progress):
        options = search_options(self, parameters, context)
        scenes = find_scenes(options, area_of_interest(self, parameters, context), progress, self.connection())
        if not scenes:
            progress.warn("No scene was found: choose other dates, a larger cloud cover, or an area that the catalog covers.")
        fields = QgsFields()
        for name, kind in FIELDS:
            fields.append(QgsField(name, kind))
        wgs84 = QgsCoordinateReferenceSystem("EPSG:4326")
        sink, target = self.parameterAsSink(parameters, "OUTPUT", context, fields, QgsWkbTypes.Type.MultiPolygon, wgs84)
        for scene in scenes:
            feature = QgsFeature(fields)
            geometry = QgsGeometry.fromWkt(scene.footprint_wkt())
            geometry.convertToMultiType()
            feature.setGeometry(geometry)
            feature.setAttributes(
                [scene.id, scene.datetime, scene.cloud_cover, scene.platform, scene.tile, scene.baseline, round(scene.aoi_share, 6)]
            )
            sink.addFeature(feature, QgsFeatureSink.Flag.FastInsert)
        return {"OUTPUT": target, "SCENE_COUNT": len(scenes)}
