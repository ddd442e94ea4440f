"""Pixels and hectares per class."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import Mapping, Sequence

import numpy as np

from .blocks import iter_blocks
from .crs import row_hectares
from .errors import EngineError
from .files import OutputFiles
from .grid import Grid, Window
from .legend import LegendClass
from .palette import colours
from .progress import Progress
from .raster import RasterReader, describe, read_legend

MAX_CODES = 65536
FEW_CODES = 16
MAX_CLASSES = 1000
"""More different values mean that the raster holds no classes."""


class ClassTally:
    """A sink that counts codes: pixels and hectares per code.

    Attributes:
        pixels, hectares: (n_codes,) arrays; position = code.
    """

    def __init__(self, grid: Grid, n_codes: int) -> None:
        self.pixels = np.zeros(n_codes, np.int64)
        self.hectares = np.zeros(n_codes)
        self._row_hectares = row_hectares(grid)
        self._uniform = bool(np.all(self._row_hectares == self._row_hectares[0]))

    def write(self, window: Window, planes: Sequence[np.ndarray] | np.ndarray, valid: np.ndarray) -> None:
        """Count one window of the first plane."""
        codes, valid = planes[0], valid[0] if valid.ndim == 3 else valid
        if len(self.pixels) <= FEW_CODES and codes.dtype == np.uint8:
            # one comparison of bytes for each code takes a quarter of the time of bincount, which makes them 64-bit numbers first
            everywhere = bool(valid.all())
            hits = (codes == code for code in range(len(self.pixels)))
            counts = np.array([np.count_nonzero(hit if everywhere else hit & valid) for hit in hits])
        else:
            counts = np.bincount(codes[valid], minlength=len(self.pixels))
        self.pixels += counts
        if self._uniform:
            self.hectares = self.pixels * self._row_hectares[0]
            return
        area = np.broadcast_to(self._row_hectares[window.y : window.y + window.height, None], codes.shape)
        self.hectares += np.bincount(codes[valid], weights=area[valid], minlength=len(self.pixels))

    def table(self, legend: Sequence[LegendClass], more: Mapping[str, Sequence[str]] | None = None) -> str:
        """CSV: code, name, color, pixels, hectares, percent of the valid area, and further columns, one text per class."""
        more = more or {}
        total = sum(self.hectares[each.code] for each in legend) or 1.0
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(("code", "name", "color", "pixels", "hectares", "percent", *more))
        for number, each in enumerate(legend):
            area = self.hectares[each.code]
            own = (each.code, each.name, each.hex, int(self.pixels[each.code]), f"{area:.4f}", f"{100 * area / total:.4f}")
            rows.writerow((*own, *(column[number] for column in more.values())))
        return text.getvalue()


@dataclass(frozen=True)
class AreaReport:
    """Areas of a class raster."""

    legend: tuple[LegendClass, ...]
    pixels: tuple[int, ...]
    hectares: tuple[float, ...]

    @property
    def total_hectares(self) -> float:
        """Area of all classes together."""
        return sum(self.hectares)


def _check_codes(codes: np.ndarray, source: str) -> None:
    if codes.dtype != np.uint8 and codes.size and not 0 <= codes.min() <= codes.max() < MAX_CODES:
        raise EngineError("The raster has codes outside 0 to 65535", source, "choose a class raster, or reclassify it first")


def run_areas(source: str, table: str, html: str, progress: Progress) -> AreaReport:
    """Hectares per class of a class raster; codes without a name in the file get one.

    Raises:
        EngineError: the raster is not one of whole numbers from 0 to 65535, or has no valid pixel.
    """
    from .report import area_report_html

    info = describe(source)
    reader = RasterReader(info, [1], nodata=0)
    if reader.dtype.kind not in "iu":
        raise EngineError(
            "The raster holds real numbers, not class codes", source, "choose a class raster, such as the one of Cluster raster"
        )
    tally = ClassTally(reader.grid, 256 if reader.dtype == np.uint8 else MAX_CODES)
    for block in iter_blocks(reader, progress=progress.part(0, 0.9)):
        codes = np.asarray(block.data)
        _check_codes(codes[block.valid], source)
        tally.write(block.window, codes, block.valid)
    present = [int(code) for code in np.flatnonzero(tally.pixels)]
    if not present:
        raise EngineError("The raster has no valid pixel", source, "choose a raster with classes; the nodata value is not counted")
    if len(present) > MAX_CLASSES:
        raise EngineError(
            f"The raster has {len(present)} different values", source, f"choose a class raster (at most {MAX_CLASSES} classes)"
        )
    if not reader.grid.crs:
        progress.warn(f"{source} has no coordinate reference system: its pixels are taken to be measured in metres.")
    nodata = info.bands[0].nodata
    named = {each.code: each for each in read_legend(source) if 0 < each.code < len(tally.pixels) and each.code != nodata}
    fresh = dict(zip(present, colours(len(present))))
    codes_listed = sorted({*present, *named})
    legend = [named.get(code) or LegendClass(code, f"Class {code}", fresh[code]) for code in codes_listed]
    report = AreaReport(
        tuple(legend), tuple(int(tally.pixels[c.code]) for c in legend), tuple(float(tally.hectares[c.code]) for c in legend)
    )
    with OutputFiles([source]) as files:
        if table:
            files.write_text(table, tally.table(legend))
        if html:
            files.write_text(html, area_report_html(report, source))
    progress.report(1.0)
    return report
