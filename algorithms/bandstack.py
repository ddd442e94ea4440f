"""One grid from band files."""

from qgis.core import QgsProcessingParameterExtent, QgsProcessingParameterFile, QgsProcessingParameterMultipleLayers

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
        "Puts Sentinel-2 band files of 10, 20 and 60 m, or the bands of a product (SAFE folder or zip, read in place), on one grid and "
        "writes a stack of DN = reflectance x 10000 (UInt16, 0 = nodata, GDAL scale 0.0001), with band names, common names and "
        "wavelengths.\n\n"
        "Bands are recognised by their description or by B02, B8A, … in the file name. Coarser bands are resampled, finer ones "
        "averaged, the scene classification (SCL) is nearest. DN 0 is nodata before any scaling; scale and offset of a file are honoured."
    )

    def define(self):
        self.add(QgsProcessingParameterMultipleLayers("INPUTS", self.tr("Band files"), RASTER_SOURCE, None, True))
        product = QgsProcessingParameterFile("PRODUCT", self.tr("Or a Sentinel-2 product (SAFE)"), optional=True)
        self.add(product, "The .zip of a product, or MTD_MSIL1C.xml / MTD_MSIL2A.xml in its .SAFE folder; a folder may be typed.")
        self.add_text("BANDS", "Bands (empty: all)", "Names, comma-separated (B02,B03,B04,B08), in the order wanted. Empty: all but SCL.")
        self.add_options(StackOptions)
        self.add(QgsProcessingParameterExtent("EXTENT", self.tr("Extent"), None, True), "Empty: everything.")
        self.add_output_raster("OUTPUT", "Stack")
        self.add_numbers(BAND_COUNT="Number of bands", VALID_SHARE="Share of valid pixels (0 to 1)")

    def compute(self, parameters, context, progress):
        product = self.parameterAsFile(parameters, "PRODUCT", context)
        layers = self.parameterAsLayerList(parameters, "INPUTS", context)
        if not layers and not product:
            given = parameters.get("INPUTS") or "nothing"
            raise EngineError("There are no rasters that can be opened", f"INPUTS {given}", "choose raster files, or a PRODUCT")
        aoi = None
        if parameters.get("EXTENT"):
            extent = self.parameterAsExtent(parameters, "EXTENT", context)
            crs = self.parameterAsExtentCrs(parameters, "EXTENT", context)
            crs = layers[0].crs() if layers and not crs.isValid() else crs
            aoi = Aoi(crs_text(crs, "EXTENT"), (extent.xMinimum(), extent.yMinimum(), extent.xMaximum(), extent.yMaximum()))
        options = self.options(StackOptions, parameters, context, bands=self.texts(parameters, "BANDS", context))
        output = self.destination(parameters, "OUTPUT", context)
        files = [raster_file(layer, "INPUTS") for layer in layers]
        report = run_stack(files, output, options, aoi, progress, product=product)
        return {"OUTPUT": output, "BAND_COUNT": len(report.bands), "VALID_SHARE": report.valid_share}
