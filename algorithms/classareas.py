"""Hectares per class."""

from ..engine.areas import run_areas
from .base import Algorithm
from .clusterraster import GROUP


class ClassAreas(Algorithm):
    """Areas of a class raster."""

    ID = "classareas"
    TITLE = "Class areas"
    GROUP = GROUP
    TAGS = ("hectares", "area", "report", "statistics")
    HELP = (
        "Counts pixels and hectares per class of a class raster. Names and colours come from the raster itself (attribute table, category "
        "names, colour table). In a geographic CRS the area of a pixel is the one on the WGS 84 ellipsoid at its latitude."
    )

    def define(self):
        self.add_raster(label="Class raster")
        self.add_output_file("OUTPUT_TABLE", "Areas (CSV)", "csv")
        self.add_output_file("OUTPUT_HTML", "Report (HTML)", "html")
        self.add_numbers(CLASS_COUNT="Number of classes", TOTAL_HECTARES="Area of all classes (ha)")

    def compute(self, parameters, context, progress):
        source = self.raster(parameters, "INPUT", context)
        table, html = self.file(parameters, "OUTPUT_TABLE", context), self.file(parameters, "OUTPUT_HTML", context)
        report = run_areas(source, table, html, progress)
        return {"OUTPUT_TABLE": table, "OUTPUT_HTML": html, "CLASS_COUNT": len(report.legend), "TOTAL_HECTARES": report.total_hectares}
