"""Classes: codes, names, colours, and the QGIS style file that shows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence
from xml.sax.saxutils import quoteattr

NODATA_CODE = 0
"""Class rasters are Byte; 0 is nodata, so there are at most 255 classes."""


@dataclass(frozen=True)
class LegendClass:
    """One class of a class raster."""

    code: int
    name: str
    rgb: tuple[int, ...]
    """Red, green, blue, 0 to 255."""

    @property
    def hex(self) -> str:
        """`#rrggbb`."""
        return "#{:02x}{:02x}{:02x}".format(*self.rgb)


def qml(legend: Sequence[LegendClass]) -> str:
    """A QGIS raster style (paletted renderer) with the names and colours; read by QGIS 3.22 and later from `<name>.qml`."""
    entries = "".join(f'<paletteEntry value="{each.code}" label={quoteattr(each.name)} color="{each.hex}" alpha="255"/>' for each in legend)
    return (
        "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
        "<!-- written by S2 Land Cover -->\n"
        '<qgis version="3.22.0" styleCategories="Symbology"><pipe>'
        '<rasterrenderer type="paletted" band="1" opacity="1" alphaBand="-1" nodataColor="">'
        f"<colorPalette>{entries}</colorPalette></rasterrenderer></pipe></qgis>\n"
    )
