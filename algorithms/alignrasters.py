"""Co-registration of two dates."""

from ..engine.aligning import AlignOutputs, run_alignment
from ..engine.alignment import AlignOptions
from .base import Algorithm

GROUP = ("change", "Change")


class AlignRasters(Algorithm):
    """One image brought onto another."""

    ID = "alignrasters"
    TITLE = "Align rasters"
    GROUP = GROUP
    TAGS = ("ecc", "co-registration", "coregistration", "shift", "georeferencing")
    HELP = (
        "Finds how far an image is displaced against a reference, to a few hundredths of a pixel, and writes it where it belongs, on the "
        "grid of the reference.\n\n"
        "The edges of both images are compared, not their brightness, so that seasons, crops and sensors may differ: coarsely by phase "
        "correlation, then by ECC (enhanced correlation coefficient, Evangelidis and Psarakis 2008) in up to 25 patches without clouds "
        "(scene classification) and nodata. The motion is trusted if the patches agree so well that it is known to less than 0.1 pixel, "
        "and if phase correlation confirms it. If not, the image stays as it is, a warning says why, and ALIGNED is 0. A shift of less "
        "than 0.1 pixel is not mended, because resampling would blur more than it helps.\n\n"
        "SHIFT_X_PX and SHIFT_Y_PX tell how far to the right and down the image lay, in pixels of the reference, at its middle; 0 where "
        "it is not known."
    )

    def define(self):
        self.add_raster("REFERENCE", "Reference", "The raster that lies where it should.")
        self.add_raster("INPUT", "Raster to align", "The raster that is moved; it may have another grid or CRS.")
        self.add_text("BAND", "Band to compare (empty: near infrared)", "Name or number. Empty: near infrared, or what both have.")
        self.add_options(AlignOptions)
        self.add_output_raster("OUTPUT", "Aligned")
        self.add_output_file("OUTPUT_TABLE", "Patches (CSV)", "csv")
        self.add_numbers(
            SHIFT_X_PX="Shift to the right (pixels)",
            SHIFT_Y_PX="Shift down (pixels)",
            SHIFT_EAST_M="Shift to the east (metres)",
            SHIFT_NORTH_M="Shift to the north (metres)",
            CORRELATION_BEFORE="Correlation of the edges before",
            CORRELATION_AFTER="Correlation of the edges after",
            RESIDUAL_PX="Median residual of the patches (pixels)",
            ALIGNED="Whether the shift is known (1) or not (0)",
        )

    def compute(self, parameters, context, progress):
        reference, source = (self.raster(parameters, name, context) for name in ("REFERENCE", "INPUT"))
        outputs = AlignOutputs(self.destination(parameters, "OUTPUT", context), self.file(parameters, "OUTPUT_TABLE", context))
        options = self.options(AlignOptions, parameters, context, band=self.parameterAsString(parameters, "BAND", context).strip())
        found = run_alignment(reference, source, outputs, options, progress)
        return {"OUTPUT": outputs.raster, "OUTPUT_TABLE": outputs.table, **alignment_numbers(found)}


def alignment_numbers(found):
    """The declared numbers of an alignment; the shift is that which was mended, 0 if it is not known."""
    known = found.trusted
    return {
        "SHIFT_X_PX": found.shift_px[0] if known else 0.0,
        "SHIFT_Y_PX": found.shift_px[1] if known else 0.0,
        "SHIFT_EAST_M": found.shift_m[0] if known else 0.0,
        "SHIFT_NORTH_M": found.shift_m[1] if known else 0.0,
        "CORRELATION_BEFORE": found.registration.correlation_before,
        "CORRELATION_AFTER": found.registration.correlation_after if known else found.registration.correlation_before,
        "RESIDUAL_PX": found.residual_px,
        "ALIGNED": int(known),
    }
