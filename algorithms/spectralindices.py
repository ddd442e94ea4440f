"""Spectral indices of a stack."""

from ..engine.indices import INDICES, index_help
from ..engine.spectral import run_indices
from .base import Algorithm
from .scenes import GROUP


class SpectralIndices(Algorithm):
    """One band per index."""

    ID = "spectralindices"
    TITLE = "Spectral indices"
    GROUP = GROUP
    TAGS = ("ndvi", "ndwi", "bsi", "vegetation index")
    HELP = (
        "Computes spectral indices from reflectance, one Float32 band each (nodata -9999). A pixel where a formula divides by zero "
        "becomes nodata; their number is told.\n\n" + index_help()
    )

    def define(self):
        self.add_raster(help="A stack with band names (B04, …), or any raster with the band map below.")
        self.add_choices("INDICES", "Indices", [index.name for index in INDICES], ["NDVI"])
        self.add_text(
            "BAND_MAP",
            "Band map",
            "For files without band names: red=3,nir=4. Names: "
            + "coastal, blue, green, red, rededge1, rededge2, rededge3, nir, nir08, nir09, swir16, swir22.",
            advanced=True,
        )
        self.add_output_raster("OUTPUT", "Indices")
        self.add_numbers(UNDEFINED_PIXELS="Pixels where a formula is undefined")

    def compute(self, parameters, context, progress):
        source = self.raster(parameters, "INPUT", context)
        output = self.destination(parameters, "OUTPUT", context)
        names = self.texts(parameters, "INDICES", context)
        undefined = run_indices(source, names, self.parameterAsString(parameters, "BAND_MAP", context), output, progress)
        return {"OUTPUT": output, "UNDEFINED_PIXELS": undefined}
