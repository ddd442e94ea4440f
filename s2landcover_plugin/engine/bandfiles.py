"""Stacking band files that the user has."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Sequence

from . import acquisition, sentinel2
from .crs import Aoi
from .errors import EngineError
from .files import OutputFiles
from .grid import Grid
from .indices import BY_NAME as INDEX_BY_NAME
from .options import check_options, option
from .progress import Progress
from .radiometry import decide_for_file, look_at_pixels, weigh
from .raster import describe
from .safe import product_sources
from .stack import (
    OFFSET_POLICIES,
    RESAMPLING_OPTION_HELP,
    RESAMPLINGS,
    RESOLUTIONS,
    BandSource,
    SceneBands,
    StackPlan,
    stack_grid,
    stack_metadata,
    tell_assumptions,
    write_stack,
)


@dataclass(frozen=True)
class StackOptions:
    """How band files become one stack."""

    bands: tuple[str, ...] = ()
    resolution: str = option("10", "Resolution (m)", "Grid of the 10, 20 or 60 m bands.", choices=RESOLUTIONS)
    resampling: str = option("bilinear", "Resampling", RESAMPLING_OPTION_HELP, choices=RESAMPLINGS, advanced=True)
    offset_policy: str = option(
        "auto",
        "BOA offset",
        "auto: what the file's own scale and offset say. apply: subtract 1000 from every DN. none: leave the DN.",
        choices=OFFSET_POLICIES,
        advanced=True,
    )
    indices: tuple[str, ...] = option(
        (),
        "Spectral indices to add",
        "The stack is then Float32: reflectance 0 to 1 and index values, nodata -9999.",
        choices=tuple(INDEX_BY_NAME),
        multiple=True,
    )
    mask_clouds: bool = option(False, "Mask clouds", "Set clouds, cirrus and cloud shadows of the scene classification (SCL) to nodata.")


@dataclass(frozen=True)
class StackReport:
    """A written stack."""

    bands: tuple[str, ...]
    grid: Grid
    valid_share: float


def run_stack(
    inputs: Sequence[str], output: str, options: StackOptions, aoi: Aoi | None, progress: Progress, *, product: str = ""
) -> StackReport:
    """Stack band files (one band each, or many), or the bands of a Sentinel-2 product, on one grid.

    Args:
        inputs: band files; none where a product is given.
        product: a .SAFE folder, its .zip, or its metadata file.

    Raises:
        EngineError: a file cannot be read, a named band is missing or there twice, or the area lies outside the files.
    """
    check_options(options)
    if product and inputs:
        raise EngineError("Band files and a product are given", "INPUTS, PRODUCT", "leave one of them out")
    if product:
        found = {source.name: source for source in product_sources(product, options.offset_policy, options.bands)}
    else:
        found = _all_sources(inputs, options.offset_policy)
    sources = _checked(_chosen(found, options.bands), options.offset_policy, progress)
    scl = found.get(sentinel2.SCL) if options.mask_clouds else None
    if options.mask_clouds and scl is None:
        raise EngineError(
            "Clouds cannot be masked without the scene classification",
            "MASK_CLOUDS, INPUTS",
            "add the SCL file to the inputs (Level-1C products have none)",
        )
    grid = _cropped(stack_grid({source.name: source.info.grid for source in sources}, int(options.resolution)), aoi)
    tell_assumptions(sources, progress)
    metadata = stack_metadata("bandstack", sources, {"S2LC_PARAMETERS": json.dumps(asdict(options)), **_inherited(sources)})
    scene = SceneBands(tuple(sources), scl)
    plan = StackPlan((scene,), grid, options.resampling, metadata, sentinel2.CLOUD_CLASSES, index_names=options.indices)
    with OutputFiles(inputs) as files:
        share = write_stack(plan, files.path(output), progress.part(0.1, 1))
        if share == 0:
            raise EngineError("The stack has no valid pixel", product or ", ".join(inputs), "choose an area with data: DN 0 is nodata")
    return StackReport((*(source.name for source in sources), *options.indices), grid, share)


def _all_sources(inputs: Sequence[str], offset_policy: str) -> dict[str, BandSource]:
    if not inputs:
        raise EngineError("There is nothing to stack", "INPUTS and PRODUCT", "choose band files, or a product")
    found: dict[str, BandSource] = {}
    for path in inputs:
        for source in file_sources(path, offset_policy):
            if source.name in found:
                where = f"{found[source.name].info.path} and {path}"
                raise EngineError(f"The band {source.name} is there twice", where, "leave one of them out")
            found[source.name] = source
    return found


def _checked(sources: Sequence[BandSource], policy: str, progress: Progress) -> list[BandSource]:
    """The sources with their radiometry checked against the pixels, as those of one scene."""
    whole = [s for s in sources if s.name in sentinel2.BY_NAME and not s.info.bands[s.index - 1].dtype.startswith("float")]
    pixels = look_at_pixels({source.name: (source.info.path, source.index) for source in whole}, progress.part(0, 0.1))
    weighed = weigh({source.name: source.decision for source in whole}, pixels, "The files", policy, progress)
    return [replace(source, decision=weighed.get(source.name, source.decision)) for source in sources]


def _cropped(grid: Grid, aoi: Aoi | None) -> Grid:
    if aoi is None:
        return grid
    if not grid.crs:
        raise EngineError("The rasters have no coordinate reference system, so no extent can be cut out", "EXTENT, INPUTS", "assign a CRS")
    clipped = grid.window_of(aoi.bounds_in(grid.crs)).clipped(grid.width, grid.height)
    if not clipped.width or not clipped.height:
        raise EngineError("The area lies outside the rasters", "EXTENT", "choose an extent that overlaps the inputs")
    return grid.cropped(clipped)


def _inherited(sources: Sequence[BandSource]) -> dict[str, str]:
    """Scene and date, where all files that state them agree."""
    facts = {}
    for key in acquisition.KEYS:
        stated = {source.info.metadata[key] for source in sources if key in source.info.metadata}
        if len(stated) == 1:
            facts[key] = stated.pop()
    return facts


def file_sources(path: str, offset_policy: str) -> list[BandSource]:
    """The bands of a file with their names and radiometry."""
    info = describe(path)
    alone = len(info.bands) == 1
    sources = []
    for band in info.bands:
        name = sentinel2.identify(band, path, alone=alone)
        if name == f"Band {band.index}":
            name = f"{Path(path).stem}_{band.index}"
        sources.append(BandSource(name, info, band.index, decide_for_file(band, path, offset_policy)))
    return sources


def _chosen(found: dict[str, BandSource], wanted: Sequence[str]) -> list[BandSource]:
    if not wanted:
        order = [band.name for band in sentinel2.BANDS]
        spectral = [source for name, source in found.items() if name != sentinel2.SCL] or list(found.values())
        return sorted(spectral, key=lambda s: order.index(s.name) if s.name in order else len(order))
    names = list(dict.fromkeys(text if text in found else sentinel2.user_band(text) or text for text in wanted))
    missing = [name for name in names if name not in found]
    if missing:
        raise EngineError(f"The band {missing[0]} is missing", "BANDS, INPUTS", f"add its file, or choose from {', '.join(found)}")
    return [found[name] for name in names]
