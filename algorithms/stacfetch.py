"""Bands of an area from the cloud-optimized GeoTIFFs of a catalog."""

from qgis.core import QgsProcessingParameterCrs

from ..engine.fetch import FetchOptions, run_fetch
from .scenes import GROUP, SceneAlgorithm, add_scene_parameters, area_of_interest, crs_text, search_options


class StacFetch(SceneAlgorithm):
    """The bands of an area as a stack."""

    ID = "stacfetch"
    TITLE = "Fetch bands"
    GROUP = GROUP
    TAGS = ("stac", "cog", "download", "catalog")
    HELP = (
        "Finds Sentinel-2 scenes of an area in a STAC catalog and reads the bands of just that area from their cloud-optimized GeoTIFFs: "
        "of the least cloudy scene, of the newest one, of all scenes of the least cloudy day, or the median of all scenes without "
        "clouds.\n\n"
        "The output is a stack of DN = reflectance x 10000 (UInt16, 0 = nodata, GDAL scale 0.0001) with the BOA offset of processing "
        "baseline 04.00 and later removed where it is still in the pixels; a warning tells where the darkest pixels contradict what the "
        "catalog states. It lies on the scene's own grid, snapped outwards. "
        "Scenes (or days) that cover at least three quarters of what the best one covers compete by cloud cover. Of items that are the "
        "same pixels processed twice the newest baseline is used.\n\n"
        "Files of the Planetary Computer are signed by the plugin; those of Copernicus Data Space need S3 keys or a login, in AUTHCFG or "
        "in the environment. Cloud cover is that of the area, counted in the scene classification.\n\n"
        "The ledger is a JSON file with the scenes found, the one chosen, and the radiometric decision for each band with its reason."
    )

    def define(self):
        add_scene_parameters(self)
        self.add_options(FetchOptions)
        self.add_text("SCENE_IDS", "Scene ids", "Comma-separated; when given, dates and cloud cover are not used.", advanced=True)
        self.add(
            QgsProcessingParameterCrs("TARGET_CRS", self.tr("CRS of the output"), None, True), "Empty: the scene's own.", advanced=True
        )
        self.add_output_raster("OUTPUT", "Bands")
        self.add_output_file("OUTPUT_LEDGER", "Ledger (JSON)", "json")
        self.add_strings(SCENES="Scene ids", DATETIME="Date and time (UTC), or start/end")
        self.add_numbers(
            CLOUD_COVER="Cloud cover of the area in the scenes used (%)",
            VALID_SHARE="Share of valid pixels (0 to 1)",
            BYTES_READ="Bytes read over the network",
        )

    def compute(self, parameters, context, progress):
        search = search_options(self, parameters, context, scene_ids=self.texts(parameters, "SCENE_IDS", context))
        options = self.options(FetchOptions, parameters, context)
        crs = self.parameterAsCrs(parameters, "TARGET_CRS", context)
        target_crs = crs_text(crs, "TARGET_CRS", "give a code such as EPSG:32633") if parameters.get("TARGET_CRS") else ""
        output = self.destination(parameters, "OUTPUT", context)
        ledger = self.file(parameters, "OUTPUT_LEDGER", context)
        aoi = area_of_interest(self, parameters, context)
        report = run_fetch(search, options, aoi, output, ledger, target_crs, progress, self.connection())
        return {
            "OUTPUT": output,
            "OUTPUT_LEDGER": ledger,
            "SCENES": ",".join(scene.id for scene in report.choice.scenes),
            "DATETIME": report.choice.datetime,
            "CLOUD_COVER": report.cloud_cover,
            "VALID_SHARE": report.valid_share,
            "BYTES_READ": report.bytes_read,
        }
