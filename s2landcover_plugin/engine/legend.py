"""Classes: codes, names, colours, and the QGIS style file that shows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence
from xml.sax.saxutils import quoteattr

NODATA_CODE = 0
"""Class rasters are Byte; 0 is nodata, so there are at most 255 classes."""


LONGEST_NAME = 100


def clean_name(text: str) -> str:
    """A class name from somebody's file: one line, printable, not endless; control characters would break styles and tables."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:LONGEST_NAME]


def csv_text(text: str) -> str:
    """Somebody's text for a cell of a table: one that a spreadsheet would take for a formula (= + - @) gets an apostrophe first."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


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


def polygon_qml(legend: Sequence[LegendClass]) -> str:
    """A QGIS vector style: one category, with a check box in the layer tree, for each code; read by QGIS 3.22 and later."""
    categories = "".join(
        f'<category value="{each.code}" label={quoteattr(each.name)} symbol="{i}" render="true" type="integer"/>'
        for i, each in enumerate(legend)
    )
    symbols = "".join(_fill_symbol(i, each) for i, each in enumerate(legend))
    return (
        "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
        '<qgis version="3.22.0" styleCategories="Symbology">'
        '<renderer-v2 type="categorizedSymbol" attr="code" symbollevels="0" forceraster="0" enableorderby="0">'
        f"<categories>{categories}</categories><symbols>{symbols}</symbols></renderer-v2></qgis>\n"
    )


def _fill_symbol(number: int, each: LegendClass) -> str:
    colour = ",".join(map(str, (*each.rgb, 255)))
    # the outline has the colour of the fill and closes the seams between neighbours
    facts = {"color": colour, "outline_color": colour, "style": "solid", "outline_style": "solid", "outline_width": "0.1"}
    facts["outline_width_unit"] = "MM"
    options = "".join(f'<Option type="QString" name="{name}" value="{value}"/>' for name, value in facts.items())
    props = "".join(f'<prop k="{name}" v="{value}"/>' for name, value in facts.items())
    return (
        f'<symbol type="fill" name="{number}" alpha="1" clip_to_extent="1" force_rhr="0">'
        f'<layer class="SimpleFill" enabled="1" locked="0" pass="0"><Option type="Map">{options}</Option>{props}</layer></symbol>'
    )
