"""One grid from band files."""

from qgis.core import QgsProcessingParameterExtent, QgsProcessingParameterMultipleLayers

from ..engine.bandfiles import StackOptions, run_stack
from ..engine.crs import Aoi
from ..engine.errors import EngineError
from .base import RASTER_SOURCE, Algorithm, raster_file
from .scenes import GROUP, crs_text


class BandStack(Algorithm):
    """Band files of 10, 20 and 60 m on one grid."""

    ID = "bandstack"
    TITLE = "Stack bands"
    GROUP = GROUP
    TAGS = ("merge", "bands", "layer stack", "resample")
    HELP = (
        "Puts Sentinel-2 band files of 10, 20 and 60 m on one grid and writes a stack of DN = reflectance x 10000 "
        "(UInt16, 0 = nodata, GDAL scale 0.0001), with band names, common names and wavelengths.\n\n"
        "Bands are recognised by their description or by B02, B8A, … in the file name. Coarser bands are resampled, finer ones "
        "averaged, the scene classification (SCL) is nearest. DN 0 is nodata before any scaling; scale and offset of a file are honoured."
    )

    def define(self):
        self.add(QgsProcessingParameterMultipleLayers("INPUTS", self.tr("Band files"), RASTER_SOURCE))
        self.add_text("BANDS", "Bands (empty: all)", "Names, comma-separated (B02,B03,B04,B08), in the order wanted. Empty: all but SCL.")
        self.add_options(StackOptions)
        self.add(QgsProcessingParameterExtent("EXTENT", self.tr("Extent"), None, True), "Empty: everything.")
        self.add_output_raster("OUTPUT", "Stack")
        self.add_numbers(BAND_COUNT="Number of bands", VALID_SHARE="Share of valid pixels (0 to 1)")

    def compute(self, parameters, context, progress):
        layers = self.parameterAsLayerList(parameters, "INPUTS", context)
        if not layers:
            raise EngineError("The rasters cannot be opened", f"INPUTS {parameters.get('INPUTS')}", "choose raster files that exist")
        aoi = None
        if parameters.get("EXTENT"):
            extent = self.parameterAsExtent(parameters, "EXTENT", context)
            crs = self.parameterAsExtentCrs(parameters, "EXTENT", context)
            crs = crs if crs.isValid() else layers[0].crs()
            aoi = Aoi(crs_text(crs, "EXTENT"), (extent.xMinimum(), extent.yMinimum(), extent.xMaximum(), extent.yMaximum()))
        options = self.options(StackOptions, parameters, context, bands=self.texts(parameters, "BANDS", context))
        output = self.destination(parameters, "OUTPUT", context)
        report = run_stack([raster_file(layer, "INPUTS") for layer in layers], output, options, aoi, progress)
        return {"OUTPUT": output, "BAND_COUNT": len(report.bands), "VALID_SHARE": report.valid_share}
