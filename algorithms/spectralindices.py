"""Spectral indices of a stack."""

from ..engine.index_table import INDICES
from ..engine.indices import index_help
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
            "FORMULA",
            "Formula of your own",
            "NAME = formula, with + - * / ** and band names (nir or B08) as reflectance 0 to 1; several are separated by semicolons.",
        )
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
        own = [text.strip() for text in self.parameterAsString(parameters, "FORMULA", context).split(";")]
        names = [*self.texts(parameters, "INDICES", context), *filter(None, own)]
        undefined = run_indices(source, names, self.parameterAsString(parameters, "BAND_MAP", context), output, progress)
        return {"OUTPUT": output, "UNDEFINED_PIXELS": undefined}
