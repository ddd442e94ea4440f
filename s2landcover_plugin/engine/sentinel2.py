"""Sentinel-2: bands, scene classes, names in products.

Central wavelengths and native resolutions: ESA, Sentinel-2 MSI Level-2A products (S2A values). Common names: STAC
electro-optical extension 1.1 with the asset names of Earth Search for the red-edge and narrow bands.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Sequence

from .errors import EngineError
from .raster import BandInfo


@dataclass(frozen=True)
class SpectralBand:
    """One band of the MSI instrument."""

    name: str
    common_name: str
    wavelength_um: float
    resolution_m: int


BANDS = (
    SpectralBand("B01", "coastal", 0.4427, 60),
    SpectralBand("B02", "blue", 0.4927, 10),
    SpectralBand("B03", "green", 0.5598, 10),
    SpectralBand("B04", "red", 0.6646, 10),
    SpectralBand("B05", "rededge1", 0.7041, 20),
    SpectralBand("B06", "rededge2", 0.7405, 20),
    SpectralBand("B07", "rededge3", 0.7828, 20),
    SpectralBand("B08", "nir", 0.8328, 10),
    SpectralBand("B8A", "nir08", 0.8647, 20),
    SpectralBand("B09", "nir09", 0.9451, 60),
    SpectralBand("B10", "cirrus", 1.3735, 60),
    SpectralBand("B11", "swir16", 1.6137, 20),
    SpectralBand("B12", "swir22", 2.2024, 20),
)
BY_NAME = {band.name: band for band in BANDS}
BY_COMMON_NAME = {band.common_name: band for band in BANDS}
L2A_BANDS = tuple(band.name for band in BANDS if band.name != "B10")
SCL = "SCL"
SCL_RESOLUTION_M = 20

SCL_CLASSES = {
    0: "no data",
    1: "saturated or defective",
    2: "dark area",
    3: "cloud shadow",
    4: "vegetation",
    5: "not vegetated",
    6: "water",
    7: "unclassified",
    8: "cloud, medium probability",
    9: "cloud, high probability",
    10: "thin cirrus",
    11: "snow or ice",
}
"""Scene classification codes of ESA's Sen2Cor (Level-2A Algorithm Theoretical Basis Document)."""
CLOUD_CLASSES = (3, 8, 9, 10)
UNUSABLE_CLASSES = (0, 1, *CLOUD_CLASSES)
"""No data, saturated or defective, cloud and cloud shadow: pixels that do not show the ground."""

_IN_NAME = re.compile(r"(?:^|[^A-Za-z0-9])(B(?:0?[1-9]|1[0-2]|8A)|SCL)(?=$|[^A-Za-z0-9])", re.IGNORECASE)
_DESCRIPTION = re.compile(r"(B(?:0?[1-9]|1[0-2]|8A)|SCL)(?:[\s_:,(].*)?", re.IGNORECASE | re.DOTALL)
"""A band description that starts with a band's name (`B4`, `B04 (red)`, `B8A_20m`) and goes on as text, not as arithmetic."""
_BASELINE = re.compile(r"_N(\d{2})(\d{2})_")
_TILE = re.compile(r"(?:^|[^A-Z0-9])T?(\d{2}[C-HJ-NP-X][A-HJ-NP-Z]{2})(?=$|[^A-Z0-9])")


def band_name(text: str) -> str | None:
    """`B04` from a text that names one band (`B4`, `T33TWM_20230815_B04_10m.jp2`), `SCL`, or None; None also for several bands."""
    found = {_canonical(name) for name in _IN_NAME.findall(text)}
    return found.pop() if len(found) == 1 else None


def _canonical(name: str) -> str | None:
    upper = name.upper()
    padded = upper if upper in BY_NAME or upper == SCL else f"B{upper[1:].zfill(2)}"
    return padded if padded in BY_NAME or padded == SCL else None


def user_band(text: str) -> str | None:
    """The band that a user means by `B4`, `b04`, `red` or `SCL`; None if it is no such name."""
    if text.lower() in BY_COMMON_NAME:
        return BY_COMMON_NAME[text.lower()].name
    return _canonical(text) if _IN_NAME.fullmatch(text) else None


def is_number(text: str) -> bool:
    """Whether a text is a plain whole number."""
    return text.isascii() and text.isdigit()


def baseline_in(product_name: str) -> str | None:
    """Processing baseline `05.09` from a product name; None without one, and for `N9999` (reprocessed, unknown)."""
    found = _BASELINE.search(product_name)
    return f"{found[1]}.{found[2]}" if found and found[1] != "99" else None


def tile_in(text: str) -> str | None:
    """MGRS tile `33TWM` from a product, scene or grid name."""
    found = _TILE.search(text)
    return found[1] if found else None


def identify(band: BandInfo, path: str = "", *, alone: bool = False) -> str:
    """The name of a band for this project: `B04` or `SCL` where it can be told, else its own description.

    Args:
        path: the file, whose name decides for a band that is `alone` in it.
    """
    by_description = _DESCRIPTION.fullmatch(band.name.strip())
    if by_description:
        return _canonical(by_description[1]) or band.name
    if band.common_name in BY_COMMON_NAME:
        return BY_COMMON_NAME[band.common_name].name
    if alone:
        stem = os.path.splitext(os.path.basename(path))[0]
        return band_name(stem) or (stem if band.name == "Band 1" else band.name)
    return band.name


def parse_band_map(text: str, n_bands: int) -> dict[str, int]:
    """`red=3,nir=4` -> {"red": 3, "nir": 4}; band names (`B04=3`) are turned into common names.

    Raises:
        EngineError: not of that form, an unknown name, or a band that the raster has not.
    """
    known = ", ".join(BY_COMMON_NAME)
    result = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, _, number = (p.strip() for p in part.partition("="))
        common = BY_NAME[name.upper()].common_name if name.upper() in BY_NAME else name.lower()
        if common not in BY_COMMON_NAME or not is_number(number):
            raise EngineError(f"The band map entry {part!r} cannot be read", "BAND_MAP", f"write red=3,nir=4 with names from {known}")
        if not 1 <= int(number) <= n_bands:
            raise EngineError(f"The raster has no band {number}", f"BAND_MAP {part}", f"use numbers from 1 to {n_bands}")
        result[common] = int(number)
    if len(set(result.values())) < len(result):
        raise EngineError("The band map gives one band two names", f"BAND_MAP {text}", "give each name a number of its own")
    return result


def spectral_bands(bands: Sequence[BandInfo], path: str, band_map: str = "") -> dict[str, int]:
    """Common name -> 1-based index of the bands of a raster that are known; the band map wins over descriptions.

    Raises:
        EngineError: from the band map.
    """
    known: dict[str, int] = {}
    for band in bands:
        name = identify(band, path, alone=len(bands) == 1)
        if name in BY_NAME:
            known.setdefault(BY_NAME[name].common_name, band.index)
    return {**known, **parse_band_map(band_map, len(bands))}


def choose_bands(bands: Sequence[BandInfo], path: str, wanted: Sequence[str]) -> list[int]:
    """1-based indexes of bands named by description, Sentinel-2 name, common name or number; all but SCL if none is named.

    Raises:
        EngineError: a band that is not there; the message names those that are.
    """
    names = [identify(band, path, alone=len(bands) == 1) for band in bands]
    if not wanted:
        return [band.index for band, name in zip(bands, names) if name != SCL and not band.is_alpha]
    chosen = []
    for text in dict.fromkeys(wanted):
        spelled = [text.lower(), (user_band(text) or text).lower()]
        matches = [i for i, (band, name) in enumerate(zip(bands, names), 1) if band.name.lower() in spelled or name.lower() in spelled]
        if not matches and is_number(text) and 1 <= int(text) <= len(bands):
            matches = [int(text)]
        if not matches:
            fix = f"choose from {', '.join(names)} or the numbers 1 to {len(bands)}, separated by commas"
            raise EngineError(f"The raster has no band {text}", path, fix)
        chosen.append(matches[0])
    return list(dict.fromkeys(chosen))
