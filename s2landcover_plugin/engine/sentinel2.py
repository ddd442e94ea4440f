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

_IN_NAME = re.compile(r"(?:^|[^A-Za-z0-9])(B(?:0?[1-9]|1[0-2]|8A)|SCL)(?=$|[^A-Za-z0-9])", re.IGNORECASE)
_BASELINE = re.compile(r"_N(\d{2})(\d{2})_")
_TILE = re.compile(r"(?:^|[^A-Z0-9])T?(\d{2}[C-HJ-NP-X][A-HJ-NP-Z]{2})(?=$|[^A-Z0-9])")


def band_name(text: str) -> str | None:
    """`B04` from a band description or file name (`B4`, `T33TWM_20230815_B04_10m.jp2`), `SCL`, or None."""
    found = _IN_NAME.findall(text)
    if not found:
        return None
    name = found[-1].upper()
    if name == SCL or name in BY_NAME:
        return str(name)
    padded = f"B{name[1:].zfill(2)}"
    return padded if padded in BY_NAME else None


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
    by_description = band_name(band.name)
    if by_description:
        return by_description
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
        if common not in BY_COMMON_NAME or not number.isdigit():
            raise EngineError(f"The band map entry {part!r} cannot be read", "BAND_MAP", f"write red=3,nir=4 with names from {known}")
        if not 1 <= int(number) <= n_bands:
            raise EngineError(f"The raster has no band {number}", f"BAND_MAP {part}", f"use numbers from 1 to {n_bands}")
        result[common] = int(number)
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
        return [band.index for band, name in zip(bands, names) if name != SCL]
    commons = [BY_NAME[name].common_name if name in BY_NAME else "" for name in names]
    chosen = []
    for text in wanted:
        for index, (band, name, common) in enumerate(zip(bands, names, commons), 1):
            if text.lower() in (name.lower(), common, band.name.lower()) or band_name(text) == name:
                chosen.append(index)
                break
        else:
            if not (text.isdigit() and 1 <= int(text) <= len(bands)):
                raise EngineError(
                    f"The raster has no band {text}", path, f"choose from {', '.join(names)} or the numbers 1 to {len(bands)}"
                )
            chosen.append(int(text))
    return chosen
