"""Reading the bands of an area of interest from the scenes of a catalog, by windows."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Callable

from . import http, sentinel2
from .choosing import SELECTIONS, Choice, choose
from .crs import Aoi, same_crs, source_pixels_per_pixel, wkt
from .errors import EngineError
from .files import OutputFiles
from .geotiff import copy_window
from .grid import Bounds, Grid, Window
from .options import check_options, option
from .progress import Progress
from .radiometry import RadiometricDecision, decide, look_at_pixels, weigh
from .raster import REMOTE_DRIVERS, describe
from .stac import DEFAULT_COLLECTION, BandAsset, Scene, SearchOptions, band_assets, catalog_address, find_scenes
from .stack import (
    OFFSET_POLICIES,
    RESAMPLING_OPTION_HELP,
    RESAMPLINGS,
    RESOLUTIONS,
    BandSource,
    SceneBands,
    StackPlan,
    radiometry_facts,
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


@dataclass(frozen=True)
class FetchOptions:
    """What is read of a scene, and how it becomes a stack."""

    bands: tuple[str, ...] = option(("B02", "B03", "B04", "B08"), "Bands", choices=(*sentinel2.L2A_BANDS, "SCL"), multiple=True)
    resolution: str = option("10", "Resolution (m)", "Grid of the 10, 20 or 60 m bands of the scene.", choices=RESOLUTIONS)
    selection: str = option(
        "least-cloudy",
        "Which scenes",
        "least-cloudy: the scene with the smallest cloud cover among those that cover the area. newest: the latest of them. mosaic: all "
        "scenes of the least cloudy day. median: the median of all scenes, clouds masked by the scene classification.",
        choices=SELECTIONS,
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
    mask_dilation_m: float = option(
        0.0,
        "Widen the mask by (m)",
        "Pixels this near to a masked one of the area are masked too: haze around clouds.",
        min=0,
        max=5000,
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

    choice: Choice
    bands: tuple[str, ...]
    grid: Grid
    valid_share: float
    bytes_read: int

    @property
    def scene(self) -> Scene:
        """The scene, or the preferred one of several."""
        return self.choice.scenes[0]


@dataclass(frozen=True)
class _SceneFiles:
    """One scene on the way from the catalog to the stack."""

    scene: Scene
    assets: dict[str, BandAsset]
    paths: dict[str, str]
    """Band -> what GDAL reads."""
    local: dict[str, str]
    """Band -> the copy of its window."""


def run_fetch(
    search: SearchOptions, options: FetchOptions, aoi: Aoi, output: str, ledger: str, target_crs: str, progress: Progress
) -> FetchReport:
    """Find scenes, choose among them, and write the bands of the area as one stack.

    Args:
        ledger: JSON with every decision, empty: none.
        target_crs: CRS of the output, empty: that of the scene that covers most of the area.

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
    choice = choose(scenes, options.selection, aoi, progress)
    with OutputFiles() as files:
        destination = files.path(output)
        folder = Path(files.folder(output))
        parts = [_scene_files(scene, options, folder / str(i), catalog_address(search)) for i, scene in enumerate(choice.scenes)]
        grid, parts, spent = _copy_windows(parts, options, aoi, target_crs, progress.part(0.1, 0.7))
        choice = replace(choice, scenes=tuple(part.scene for part in parts))
        decided = {part.scene.id: _decisions(part, options, progress) for part in parts}
        facts = {
            "S2LC_SCENES": ",".join(scene.id for scene in choice.scenes),
            "S2LC_DATETIME": choice.datetime,
            "S2LC_PARAMETERS": json.dumps({**asdict(search), **asdict(options)}),
        }
        plan = _plan(parts, decided, grid, options, facts)
        for scene in plan.scenes:
            tell_assumptions(scene.sources, progress)
        share = write_stack(plan, destination, progress.part(0.7, 1.0))
        if share == 0:
            raise EngineError(
                "There is no valid pixel in the area",
                facts["S2LC_SCENES"],
                "choose another date or a larger cloud cover, or switch MASK_CLOUDS off",
            )
        report = FetchReport(choice, options.bands, grid, share, spent)
        if ledger:
            files.write_text(ledger, _ledger(report, scenes, parts, decided, catalog_address(search)))
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


def _scene_files(scene: Scene, options: FetchOptions, folder: Path, catalog: str) -> _SceneFiles:
    masks = options.mask_clouds or options.selection == "median"
    needed = dict.fromkeys([*options.bands, *([sentinel2.SCL] if masks else [])])
    assets = band_assets(scene, needed)
    folder.mkdir()
    paths = {name: http.gdal_path(asset.href, catalog) for name, asset in assets.items()}
    return _SceneFiles(scene, assets, paths, {name: str(folder / f"{name}.tif") for name in assets})


def _copy_windows(
    parts: list[_SceneFiles], options: FetchOptions, aoi: Aoi, target_crs: str, progress: Progress
) -> tuple[Grid, list[_SceneFiles], int]:
    """Copy the window of every band of every scene, several at a time.

    Returns:
        the output grid, the scenes that have pixels in it, and the bytes read over the network.

    Raises:
        EngineError: no scene has pixels in the area, or the area is too large.
    """
    paths = {f"{number} {name}": path for number, part in enumerate(parts) for name, path in part.paths.items()}
    targets = {f"{number} {name}": path for number, part in enumerate(parts) for name, path in part.local.items()}
    shares = dict.fromkeys(paths, 0.0)
    stopped = threading.Event()
    before = http.bytes_downloaded(paths.values())
    pool = ThreadPoolExecutor(CONNECTIONS, initializer=http.prepare_thread)
    try:
        grids = gather({key: pool.submit(_grid_of, path) for key, path in paths.items()}, progress, lambda: 0.0)
        lead = max(range(len(parts)), key=lambda number: parts[number].scene.aoi_share)
        grid = _output_grid({name: grids[f"{lead} {name}"] for name in parts[lead].paths}, options, aoi, target_crs)
        windows, outside = {}, set()
        for key, each in grids.items():
            number, name = key.split(" ")
            window = _window_for(grid, each, name, options)
            if window is None:
                outside.add(int(number))
            else:
                windows[key] = window
        used = [part for number, part in enumerate(parts) if number not in outside]
        if not used:
            raise EngineError("The area lies outside the scene", parts[0].scene.id, "choose an area that overlaps the scene")
        windows = {key: window for key, window in windows.items() if int(key.split(" ")[0]) not in outside}
        _refuse_huge(sum(w.width * w.height for w in windows.values()), options.max_megabytes)
        copies = {
            key: pool.submit(copy_window, paths[key], window, targets[key], _watcher(shares, key, stopped))
            for key, window in windows.items()
        }
        gather(copies, progress, lambda: sum(shares.values()) / len(shares))
    finally:
        # after a failure or a cancel nobody waits for a transfer that hangs: it ends by its time limit
        stopped.set()
        pool.shutdown(wait=False, cancel_futures=True)
    return grid, used, http.bytes_downloaded(paths.values()) - before


def _decisions(part: _SceneFiles, options: FetchOptions, progress: Progress) -> dict[str, RadiometricDecision]:
    """The radiometric decision for every band of a scene, checked against its pixels."""
    scene = part.scene
    decisions = {name: decide(scene.properties, asset.asset, scene.product, options.offset_policy) for name, asset in part.assets.items()}
    spectral = {name: decision for name, decision in decisions.items() if name != sentinel2.SCL}
    pixels = look_at_pixels({name: (part.local[name], 1) for name in spectral})
    return {**decisions, **weigh(spectral, pixels, scene.id, options.offset_policy, progress)}


def _plan(
    parts: list[_SceneFiles], decided: dict[str, dict[str, RadiometricDecision]], grid: Grid, options: FetchOptions, facts: dict[str, str]
) -> StackPlan:
    median = options.selection == "median"
    scenes = []
    for part in parts:
        local = {name: BandSource(name, describe(path), 1, decided[part.scene.id][name]) for name, path in part.local.items()}
        sources = tuple(local[name] for name in dict.fromkeys(options.bands))
        scenes.append(SceneBands(sources, local.get(sentinel2.SCL) if options.mask_clouds or median else None))
    metadata = stack_metadata("stacfetch", scenes[0].sources, facts)
    if len(parts) > 1:
        each = {part.scene.id: radiometry_facts(scene.sources) for part, scene in zip(parts, scenes)}
        metadata["S2LC_RADIOMETRY"] = json.dumps(each)
    classes = tuple(int(code) for code in options.mask_classes)
    return StackPlan(tuple(scenes), grid, options.resampling, metadata, classes, options.mask_dilation_m, "median" if median else "first")


def _watcher(shares: dict[str, float], name: str, stopped: threading.Event) -> Callable[[float], bool]:
    def watch(share: float) -> bool:
        shares[name] = share
        return not stopped.is_set()

    return watch


def _grid_of(path: str) -> Grid:
    http.forget_failure(path)
    return describe(path, REMOTE_DRIVERS).grid


def _window_for(grid: Grid, band_grid: Grid, name: str, options: FetchOptions) -> Window | None:
    """The pixels of a band file that the output needs, None if it has none; a margin only where they are resampled."""
    window = band_grid.window_of(Aoi(grid.crs, grid.bounds).bounds_in(band_grid.crs))
    inside = window.clipped(band_grid.width, band_grid.height)
    if not inside.width or not inside.height:
        return None
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


def _ledger(
    report: FetchReport,
    found: list[Scene],
    parts: list[_SceneFiles],
    decided: dict[str, dict[str, RadiometricDecision]],
    catalog: str,
) -> str:
    """What was found, what was chosen and why, as JSON."""

    def brief(scene: Scene) -> dict[str, Any]:
        share = round(scene.aoi_share, 6)
        return {"id": scene.id, "datetime": scene.datetime, "cloud_cover": scene.cloud_cover, "share_of_area": share}

    def bands(part: _SceneFiles) -> dict[str, Any]:
        spectral = {name: asset for name, asset in part.assets.items() if name != sentinel2.SCL}
        return {name: {"href": asset.href, **asdict(decided[part.scene.id][name])} for name, asset in spectral.items()}

    used = [{**brief(p.scene), "tile": p.scene.tile, "processing_baseline": p.scene.baseline, "bands": bands(p)} for p in parts]
    document = {
        "version": VERSION,
        "catalog": catalog,
        "scenes": used,
        "duplicates_left_out": [scene.id for scene in report.choice.duplicates],
        "found": [brief(scene) for scene in found],
        "cloud_cover": report.choice.cloud_cover,
        "share_of_area": round(report.choice.aoi_share, 6),
        "valid_share": report.valid_share,
        "bytes_read": report.bytes_read,
    }
    return json.dumps(document, indent=1) + "\n"
