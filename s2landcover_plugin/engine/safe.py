"""Sentinel-2 products as ESA ships them: a .SAFE folder or its .zip, read in place.

Level-1C and Level-2A, compact and older naming. Radiometry from the product's own metadata: reflectance = (DN + offset) / quantification
value (ESA, Sentinel-2 Products Specification Document 14.9).
"""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Iterable

from . import acquisition, sentinel2
from .errors import EngineError
from .radiometry import BOA_OFFSET_DN, OFFSET_SINCE_BASELINE, QUANTIFICATION, RadiometricDecision
from .raster import describe
from .stack import BandSource

METADATA_NAME = re.compile(r"(?:MTD_MSIL(?:1C|2A)|S2[A-D]_(?:OPER|USER)_MTD_SAFL(?:1C|2A)_\w+)\.xml")
"""Compact naming (since December 2016), and the one before."""
MAX_METADATA_BYTES = 50_000_000
_IMAGE = re.compile(r"<IMAGE_(?:FILE|ID)[^>]*>\s*([^<\s]+)\s*<")
_RESOLUTION = re.compile(r"_(10|20|60)m$")


@dataclass(frozen=True)
class Product:
    """What a product's metadata and its list of files say."""

    name: str
    sensing_time: str
    baseline: str
    quantification: float
    offsets: dict[str, float]
    """Band -> offset in DN; empty where the metadata state none."""
    files: dict[str, str]
    """Band -> path that GDAL reads, at the band's native resolution where there are several."""
    missing: tuple[str, ...]
    """Image files that the metadata name and the product lacks, bands and SCL only."""


def product_sources(path: str, policy: str, wanted: Iterable[str] = ()) -> list[BandSource]:
    """The bands of a product with their radiometry.

    Args:
        path: the .SAFE folder, its .zip, or the metadata file MTD_MSIL1C.xml / MTD_MSIL2A.xml in it.
        policy: OFFSET_POLICY.
        wanted: bands that will be used; all if empty. A missing file of one of them is an error.

    Raises:
        EngineError: no product, damaged metadata, or missing band files, which are named.
    """
    product = read_product(path)
    names = [sentinel2.user_band(text) or text for text in wanted]
    lacking = [file for file in product.missing if not names or sentinel2.band_name(PurePosixPath(file).name) in names]
    lacking = [file for file in lacking if sentinel2.band_name(PurePosixPath(file).name) not in product.files]
    if lacking:
        files = ", ".join(sorted({PurePosixPath(file).name for file in lacking}))
        raise EngineError(f"The product lacks the band files {files}", path, "get the product again, or name the bands to use in BANDS")
    sources = []
    for name, file in product.files.items():
        if not names or name in names or name == sentinel2.SCL:
            info = describe(file, ["JP2OpenJPEG", "GTiff"])
            facts = {
                **info.metadata,
                acquisition.SCENES: product.name,
                acquisition.DATETIME: product.sensing_time,
                **acquisition.scene_facts([({}, product.name)]),
            }
            sources.append(BandSource(name, replace(info, metadata=facts), 1, decide_for_product(product, name, policy)))
    return sources


def decide_for_product(product: Product, band: str, policy: str = "auto") -> RadiometricDecision:
    """Decide for one band: the user's policy, the offset in the metadata, the processing baseline."""
    gain = QUANTIFICATION / product.quantification
    evidence = {"quantification": product.quantification, "offset": product.offsets.get(band), "processing_baseline": product.baseline}
    if policy != "auto":
        return RadiometricDecision(gain, BOA_OFFSET_DN if policy == "apply" else 0, f"OFFSET_POLICY says {policy}", evidence)
    if band in product.offsets:
        offset = product.offsets[band]
        return RadiometricDecision(gain, offset * gain, f"the product's metadata state offset {offset:g} for the band", evidence)
    numbers = tuple(int(part) for part in product.baseline.split(".")[:2]) if re.fullmatch(r"\d+\.\d+", product.baseline) else (99, 99)
    if numbers[0] == 99:
        return RadiometricDecision(
            gain, 0, "the product states neither an offset nor a known baseline; none is assumed", evidence, certain=False
        )
    since = numbers >= OFFSET_SINCE_BASELINE
    reason = f"processing baseline {product.baseline} {'carries' if since else 'is older than'} the offset of 04.00"
    return RadiometricDecision(gain, BOA_OFFSET_DN * gain if since else 0, reason, evidence)


def read_product(path: str) -> Product:
    """Read a product's metadata and find its band files.

    Raises:
        EngineError: it is no Sentinel-2 product, or its metadata cannot be read.
    """
    root = Path(path).parent if METADATA_NAME.fullmatch(Path(path).name) else Path(path)
    try:
        files, prefix, text = _read_zip(root) if root.is_file() else _read_folder(root)
    except (OSError, zipfile.BadZipFile) as err:
        raise EngineError(f"The product cannot be read ({err})", path, "check the path, or get the product again") from err
    if not text:
        fix = "choose the .SAFE folder, its .zip, or MTD_MSIL2A.xml / MTD_MSIL1C.xml in it"
        raise EngineError("This is no Sentinel-2 product: it has no MTD_MSIL1C.xml or MTD_MSIL2A.xml", path, fix)
    quantification = _first(text, "(?:BOA_)?QUANTIFICATION_VALUE")
    if not quantification or not float(quantification) > 0:
        raise EngineError("The product's metadata state no quantification value", path, "get the product again")
    images = [name for name in files if "IMG_DATA" in name and PurePosixPath(name).suffix.lower() in (".jp2", ".tif")]
    tiles = sorted({tile for name in images if (tile := sentinel2.tile_in(PurePosixPath(name).stem))})
    if len(tiles) > 1:
        fix = "unpack it, and stack the band files of one tile (INPUTS)"
        raise EngineError(f"The product holds several tiles ({', '.join(tiles)})", path, fix)
    present = {PurePosixPath(name).stem for name in images}
    named = [name for name in _IMAGE.findall(text) if sentinel2.band_name(PurePosixPath(name).name)]
    return Product(
        _first(text, "PRODUCT_URI") or root.name,
        _first(text, "PRODUCT_START_TIME"),
        _first(text, "PROCESSING_BASELINE"),
        float(quantification),
        _offsets(text),
        {name: f"{prefix}{file}" for name, file in _native(images).items()},
        tuple(name for name in named if PurePosixPath(name).stem not in present),
    )


def _read_folder(root: Path) -> tuple[list[str], str, str]:
    """Files of a folder (relative, forward slashes), the prefix of their paths, and the text of the metadata; empty without."""
    files = [file.relative_to(root).as_posix() for file in root.rglob("*") if file.is_file()] if root.is_dir() else []
    metadata = [name for name in files if METADATA_NAME.fullmatch(name)]
    text = (root / metadata[0]).read_text(encoding="utf-8", errors="replace") if metadata else ""
    return files, f"{root.as_posix()}/", text


def _read_zip(path: Path) -> tuple[list[str], str, str]:
    """As _read_folder, for a zip with one .SAFE folder in it."""
    with zipfile.ZipFile(path) as archive:
        files = [item.filename for item in archive.infolist() if not item.is_dir()]
        metadata = [item for item in archive.infolist() if METADATA_NAME.fullmatch(PurePosixPath(item.filename).name)]
        metadata = [item for item in metadata if item.filename.count("/") <= 1 and item.file_size < MAX_METADATA_BYTES]
        text = archive.read(metadata[0]).decode("utf-8", errors="replace") if metadata else ""
    return files, f"/vsizip/{path.as_posix()}/", text


def _first(text: str, element: str) -> str:
    found = re.search(rf"<{element}(?:\s[^>]*)?>\s*([^<]*?)\s*<", text)
    return found[1] if found else ""


def _offsets(text: str) -> dict[str, float]:
    """Band -> offset; the metadata number bands as the instrument does: B8A follows B08."""
    found = re.findall(r"<(?:BOA|RADIO)_ADD_OFFSET\s[^>]*band_id=\"(\d+)\"[^>]*>\s*(-?[\d.]+)\s*<", text)
    return {sentinel2.BANDS[int(number)].name: float(value) for number, value in found if int(number) < len(sentinel2.BANDS)}


def _native(images: list[str]) -> dict[str, str]:
    """Band -> file nearest to its native resolution, in the instrument's order."""
    best: dict[str, tuple[float, str]] = {}
    for file in images:
        stem = PurePosixPath(file).stem
        name = sentinel2.band_name(stem)
        if name is None:
            continue
        native = sentinel2.SCL_RESOLUTION_M if name == sentinel2.SCL else sentinel2.BY_NAME[name].resolution_m
        stated = _RESOLUTION.search(stem)
        distance = abs(int(stated[1]) - native) if stated else 0.0
        if name not in best or (distance, file) < best[name]:
            best[name] = (distance, file)
    order = [band.name for band in sentinel2.BANDS] + [sentinel2.SCL]
    return {name: best[name][1] for name in order if name in best}
