"""Reading the bands of an area of interest from the scenes of a catalog, by windows."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Callable

from . import http, sentinel2
from .crs import Aoi, same_crs, source_pixels_per_pixel, wkt
from .errors import EngineError
from .files import OutputFiles
from .geotiff import copy_window
from .grid import Bounds, Grid, Window
from .options import check_options, option
from .progress import Progress
from .radiometry import decide, look_at_pixels, weigh
from .raster import REMOTE_DRIVERS, describe
from .stac import DEFAULT_COLLECTION, Scene, SearchOptions, band_assets, catalog_address, find_scenes, least_cloudy
from .stack import (
    OFFSET_POLICIES,
    RESAMPLING_OPTION_HELP,
    RESAMPLINGS,
    RESOLUTIONS,
    BandSource,
    StackPlan,
    resampling_for,
    stack_grid,
    stack_metadata,
    tell_assumptions,
    write_stack,
)
from .version import VERSION
from .waiting import gather

CONNECTIONS = 8
"""Bands read at the same time."""
MARGIN_PX = 2
"""Pixels read around the area of bands that are resampled, so that they have their neighbours (cubic reaches 2)."""
COVERAGE = 0.75
"""Scenes that cover at least this share of what the best one covers compete by cloud cover alone."""


@dataclass(frozen=True)
class FetchOptions:
    """What is read of a scene, and how it becomes a stack."""

    bands: tuple[str, ...] = option(("B02", "B03", "B04", "B08"), "Bands", choices=(*sentinel2.L2A_BANDS, "SCL"), multiple=True)
    resolution: str = option("10", "Resolution (m)", "Grid of the 10, 20 or 60 m bands of the scene.", choices=RESOLUTIONS)
    selection: str = option(
        "least-cloudy",
        "Which scene",
        "least-cloudy: the scene with the smallest cloud cover among those that cover the area. newest: the latest of them.",
        choices=("least-cloudy", "newest"),
    )
    mask_clouds: bool = option(False, "Mask clouds", "Set the scene classes chosen below to nodata.")
    mask_classes: tuple[str, ...] = option(
        tuple(str(code) for code in sentinel2.CLOUD_CLASSES),
        "Scene classes to mask",
        "Codes of the scene classification: " + ", ".join(f"{code} {name}" for code, name in sentinel2.SCL_CLASSES.items()) + ".",
        choices=tuple(str(code) for code in sentinel2.SCL_CLASSES if code),
        multiple=True,
        advanced=True,
    )
    offset_policy: str = option(
        "auto",
        "BOA offset",
        "auto: decided for each scene and band from what the provider states. apply: subtract 1000 from every DN. none: leave the DN.",
        choices=OFFSET_POLICIES,
        advanced=True,
    )
    resampling: str = option("bilinear", "Resampling", RESAMPLING_OPTION_HELP, choices=RESAMPLINGS, advanced=True)
    max_megabytes: int = option(
        4000,
        "Largest download (MB)",
        "Uncompressed size of what is to be read; larger areas are refused before anything is read.",
        min=1,
        max=1_000_000,
        advanced=True,
    )


@dataclass(frozen=True)
class FetchReport:
    """What was fetched."""

    scene: Scene
    bands: tuple[str, ...]
    grid: Grid
    valid_share: float
    bytes_read: int


def choose_scene(scenes: list[Scene], selection: str, progress: Progress) -> Scene:
    """One scene out of those found: enough of the area covered first, then cloud cover or date."""
    best = max(scene.aoi_share for scene in scenes)
    enough = [scene for scene in scenes if scene.aoi_share >= COVERAGE * best]
    key = least_cloudy if selection == "least-cloudy" else lambda s: (0.0, least_cloudy(s)[1])
    scene = min(enough, key=key)
    cloud = "unknown" if scene.cloud_cover is None else f"{scene.cloud_cover:.2f} %"
    progress.info(
        f"Scene {scene.id} of {scene.datetime} chosen from {len(scenes)}: cloud cover {cloud}, {100 * scene.aoi_share:.1f} % of the area."
    )
    if scene.aoi_share < 0.999:
        progress.warn(f"The scene {scene.id} covers {100 * scene.aoi_share:.1f} % of the area; the rest is nodata.")
    return scene


def run_fetch(
    search: SearchOptions, options: FetchOptions, aoi: Aoi, output: str, ledger: str, target_crs: str, progress: Progress
) -> FetchReport:
    """Find scenes, choose one, and write the bands of the area as one stack.

    Args:
        ledger: JSON with every decision, empty: none.
        target_crs: CRS of the output, empty: the scene's own.

    Raises:
        EngineError: no scene, a missing band, an unreachable server, an area that is too large, or no valid pixel in it.
        Cancelled: the user asked to stop.
    """
    check_options(options)
    if not options.bands:
        raise EngineError("No band is chosen", "BANDS", "choose at least one band")
    scenes = find_scenes(search, aoi, progress.part(0, 0.1))
    if not scenes:
        raise _no_scene(search)
    scene = choose_scene(scenes, options.selection, progress)
    with OutputFiles() as files:
        destination = files.path(output)
        folder = files.folder(output)
        grid, local, decided, spent = _fetch_bands(
            scene, options, aoi, target_crs, folder, catalog_address(search), progress.part(0.1, 0.7)
        )
        sources = [local[name] for name in dict.fromkeys(options.bands)]
        tell_assumptions(sources, progress)
        scl = local.get(sentinel2.SCL) if options.mask_clouds else None
        facts = {
            "S2LC_SCENES": scene.id,
            "S2LC_DATETIME": scene.datetime,
            "S2LC_PARAMETERS": json.dumps({**asdict(search), **asdict(options)}),
        }
        metadata = stack_metadata("stacfetch", sources, facts)
        classes = tuple(int(code) for code in options.mask_classes)
        plan = StackPlan(tuple(sources), grid, options.resampling, metadata, scl, classes)
        share = write_stack(plan, destination, progress.part(0.7, 1.0))
        if share == 0:
            raise EngineError(
                "The scene has no valid pixel in the area",
                scene.id,
                "choose another date or a larger cloud cover, or switch MASK_CLOUDS off",
            )
        report = FetchReport(scene, options.bands, grid, share, spent)
        if ledger:
            files.write_text(ledger, _ledger(report, scenes, decided, catalog_address(search)))
    progress.info(f"{spent / 1e6:.2f} MB read over the network.")
    return report


def _no_scene(search: SearchOptions) -> EngineError:
    dates = f"{search.start_date[:10] or 'any date'} to {search.end_date[:10] or 'any date'}"
    collection = search.collection or DEFAULT_COLLECTION
    where = f"{catalog_address(search)}, collection {collection}, {dates}, cloud cover up to {search.max_cloud_cover:g} %"
    if search.scene_ids:
        where = f"{catalog_address(search)}, SCENE_IDS {', '.join(search.scene_ids)}"
    return EngineError(
        "No scene was found for the area", where, "choose other dates, a larger cloud cover, or an area that the catalog covers"
    )


def _needed(options: FetchOptions) -> list[str]:
    extra = [sentinel2.SCL] if options.mask_clouds and sentinel2.SCL not in options.bands else []
    return [*options.bands, *extra]


def _fetch_bands(
    scene: Scene, options: FetchOptions, aoi: Aoi, target_crs: str, folder: str, catalog: str, progress: Progress
) -> tuple[Grid, dict[str, BandSource], dict[str, Any], int]:
    """Copy the window of every band into `folder`, several at a time.

    Returns:
        the output grid, band sources over the local copies, the decisions for the ledger, and the bytes read over the network.
    """
    assets = band_assets(scene, _needed(options))
    paths = {name: http.gdal_path(asset.href, catalog) for name, asset in assets.items()}
    decisions = {name: decide(scene.properties, asset.asset, scene.product, options.offset_policy) for name, asset in assets.items()}
    shares = dict.fromkeys(paths, 0.0)
    stopped = threading.Event()
    before = http.bytes_downloaded(paths.values())
    pool = ThreadPoolExecutor(CONNECTIONS, initializer=http.prepare_thread)
    try:
        opened = {name: pool.submit(_grid_of, path) for name, path in paths.items()}
        grids = gather(opened, progress, lambda: 0.0)
        grid = _output_grid(grids, options, aoi, target_crs)
        windows = {name: _window_for(grid, each, name, options, scene.id) for name, each in grids.items()}
        _refuse_huge(sum(w.width * w.height for w in windows.values()), options.max_megabytes)
        copies = {}
        for name, path in paths.items():
            copies[name] = pool.submit(copy_window, path, windows[name], _local(folder, name), _watcher(shares, name, stopped))
        gather(copies, progress, lambda: sum(shares.values()) / len(shares))
    finally:
        # after a failure or a cancel nobody waits for a transfer that hangs: it ends by its time limit
        stopped.set()
        pool.shutdown(wait=False, cancel_futures=True)
    spent = http.bytes_downloaded(paths.values()) - before
    pixels = look_at_pixels({name: (_local(folder, name), 1) for name in paths if name != sentinel2.SCL})
    decisions = weigh(decisions, pixels, scene.id, options.offset_policy, progress)
    local = {name: BandSource(name, describe(_local(folder, name)), 1, decisions[name]) for name in paths}
    ledger = {
        name: {
            "href": assets[name].href,
            "gain": d.gain,
            "add_dn": d.add_dn,
            "reason": d.reason,
            "evidence": d.evidence,
            "certain": d.certain,
        }
        for name, d in decisions.items()
        if name != sentinel2.SCL
    }
    return grid, local, ledger, spent


def _local(folder: str, name: str) -> str:
    return str(Path(folder) / f"{name}.tif")


def _watcher(shares: dict[str, float], name: str, stopped: threading.Event) -> Callable[[float], bool]:
    def watch(share: float) -> bool:
        shares[name] = share
        return not stopped.is_set()

    return watch


def _grid_of(path: str) -> Grid:
    http.forget_failure(path)
    return describe(path, REMOTE_DRIVERS).grid


def _window_for(grid: Grid, band_grid: Grid, name: str, options: FetchOptions, scene_id: str) -> Window:
    """The pixels of a band file that the output needs; a margin only where they are resampled."""
    window = band_grid.window_of(Aoi(grid.crs, grid.bounds).bounds_in(band_grid.crs))
    inside = window.clipped(band_grid.width, band_grid.height)
    if not inside.width or not inside.height:
        raise EngineError("The area lies outside the scene", scene_id, "choose an area that overlaps the scene")
    moved = not same_crs(grid.crs, band_grid.crs)
    coarser = max(source_pixels_per_pixel(grid, band_grid)) < 1
    interpolated = coarser and resampling_for(name, band_grid, grid, options.resampling) != "nearest"
    return inside.grown(MARGIN_PX).clipped(band_grid.width, band_grid.height) if moved or interpolated else inside


def _refuse_huge(pixels: int, limit_mb: int) -> None:
    needed = 2 * pixels / 1e6
    if needed > limit_mb:
        raise EngineError(
            f"The area needs {needed:,.0f} MB, more than the {limit_mb:,} MB allowed",
            "MAX_MEGABYTES",
            "choose a smaller area or fewer bands, or raise the limit",
        )


def _output_grid(grids: dict[str, Grid], options: FetchOptions, aoi: Aoi, target_crs: str) -> Grid:
    """The area on the scene's own grid, or on a grid of the same pixel size in another CRS."""
    base = stack_grid({name: grids[name] for name in options.bands}, int(options.resolution))
    bounds = aoi.bounds_in(target_crs or base.crs)
    if target_crs and not same_crs(target_crs, base.crs):
        base = _lattice_in(target_crs, base, bounds)
    grid = base.cropped(base.window_of(bounds))
    _refuse_huge(grid.width * grid.height * len(options.bands), options.max_megabytes)
    return grid


def _lattice_in(crs: str, base: Grid, bounds: Bounds) -> Grid:
    """A lattice in another CRS from its origin, with pixels about as large on the ground as those of `base`.

    Where the CRS is true to scale within 2 % the pixel size is that of `base`; else it is rounded to three digits.
    """
    unit = (bounds[2] - bounds[0]) / 1000
    trial = Grid(wkt(crs), (bounds[0], unit, 0.0, bounds[3], 0.0, -unit), 1000, max(1, round((bounds[3] - bounds[1]) / unit)))
    size = unit / max(source_pixels_per_pixel(trial, base))
    size = base.pixel_size[0] if abs(size / base.pixel_size[0] - 1) < 0.02 else float(f"{size:.3g}")
    return Grid(trial.crs, (0.0, size, 0.0, 0.0, 0.0, -size), 1, 1)


def _ledger(report: FetchReport, scenes: list[Scene], decided: dict[str, Any], catalog: str) -> str:
    """What was found, what was chosen and why, as JSON."""
    document = {
        "version": VERSION,
        "catalog": catalog,
        "scene": {
            "id": report.scene.id,
            "datetime": report.scene.datetime,
            "cloud_cover": report.scene.cloud_cover,
            "tile": report.scene.tile,
            "processing_baseline": report.scene.baseline,
            "share_of_area": round(report.scene.aoi_share, 6),
        },
        "found": [
            {"id": s.id, "datetime": s.datetime, "cloud_cover": s.cloud_cover, "share_of_area": round(s.aoi_share, 6)} for s in scenes
        ],
        "bands": decided,
        "valid_share": report.valid_share,
        "bytes_read": report.bytes_read,
    }
    return json.dumps(document, indent=1) + "\n"
