"""Reading the bands of an area of interest from the scenes of a catalog, by windows."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from . import acquisition, sentinel2
from .access import Accesses
from .addresses import public
from .choosing import SELECTIONS, Choice, choose
from .clouds import CloudCover, cloud_cover, together
from .crs import Aoi
from .download import Order, SceneFiles, copy_windows, scene_files
from .errors import EngineError
from .files import OutputFiles
from .grid import Grid
from .http import Connection, Network
from .options import check_options, option
from .progress import Progress
from .radiometry import RadiometricDecision, decide, for_real_numbers, look_at_pixels, weigh
from .raster import describe
from .stac import DEFAULT_COLLECTION, Scene, SearchOptions, band_assets, catalog_address, find_scenes
from .stack import (
    OFFSET_POLICIES,
    RESAMPLING_OPTION_HELP,
    RESAMPLINGS,
    RESOLUTIONS,
    BandSource,
    SceneBands,
    StackPlan,
    radiometry_facts,
    stack_metadata,
    tell_assumptions,
    write_stack,
)
from .version import VERSION


@dataclass(frozen=True)
class FetchOptions:
    """What is read of a scene, and how it becomes a stack."""

    bands: tuple[str, ...] = option(
        ("B02", "B03", "B04", "B08"),
        "Bands",
        "B10 exists in Level-1C collections only, SCL in Level-2A ones.",
        choices=(*(band.name for band in sentinel2.BANDS), "SCL"),
        multiple=True,
    )
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
    time_limit_min: float = option(
        120.0, "Time limit (min)", "The run ends with an error when the network takes longer.", min=0.01, max=10_000, advanced=True
    )


@dataclass(frozen=True)
class FetchReport:
    """What was fetched."""

    choice: Choice
    bands: tuple[str, ...]
    grid: Grid
    valid_share: float
    bytes_read: int
    clouds: dict[str, CloudCover]
    """Scene id -> cloud cover of the area, of the scenes that have a classification."""

    @property
    def scene(self) -> Scene:
        """The scene, or the preferred one of several."""
        return self.choice.scenes[0]

    @property
    def cloud_cover(self) -> float | None:
        """Percent of the area that is cloud in the scenes used; that of the whole scenes where they have no classification."""
        if len(self.clouds) < len(self.choice.scenes):
            return self.choice.cloud_cover
        return together(list(self.clouds.values()))


def run_fetch(
    search: SearchOptions,
    options: FetchOptions,
    aoi: Aoi,
    output: str,
    ledger: str,
    target_crs: str,
    progress: Progress,
    connection: Connection | None = None,
) -> FetchReport:
    """Find scenes, choose among them, and write the bands of the area as one stack.

    Args:
        ledger: JSON with every decision, empty: none.
        target_crs: CRS of the output, empty: that of the scene that covers most of the area.
        connection: proxies, certificates and credentials.

    Raises:
        EngineError: no scene, a missing band, an unreachable server, an area that is too large, or no valid pixel in it.
        Cancelled: the user asked to stop.
    """
    check_options(options)
    if not options.bands:
        raise EngineError("No band is chosen", "BANDS", "choose at least one band")
    connection = replace(connection or Connection(), deadline=time.monotonic() + 60 * options.time_limit_min)
    catalog = catalog_address(search)
    scenes = find_scenes(search, aoi, progress.part(0, 0.1), connection)
    if not scenes:
        raise _no_scene(search)
    choice = choose(scenes, options.selection, aoi, progress)
    with OutputFiles() as files, Network(connection, home=catalog) as network:
        destination = files.path(output)
        ledger_path = files.path(ledger) if ledger else ""
        folder = Path(files.folder(output))
        parts = [_scene_files(scene, options, folder / str(i)) for i, scene in enumerate(choice.scenes)]
        order = Order(
            options.bands,
            int(options.resolution),
            options.resampling,
            aoi,
            target_crs,
            options.max_megabytes,
            () if _masks(options) else (sentinel2.SCL,),
        )
        grid, parts = copy_windows(parts, order, Accesses(network, catalog, search.catalog), network, progress.part(0.1, 0.7))
        choice = replace(choice, scenes=tuple(part.scene for part in parts))
        clouds = _clouds(parts, grid, progress.part(0.7, 0.75))
        decided = {part.scene.id: _decisions(part, options, progress.part(0.75, 0.75)) for part in parts}
        facts = {
            acquisition.SCENES: ",".join(scene.id for scene in choice.scenes),
            acquisition.DATETIME: choice.datetime,
            **acquisition.scene_facts([(scene.properties, scene.product) for scene in choice.scenes]),
            "S2LC_PARAMETERS": json.dumps({**asdict(search), "stac_url": public(search.stac_url), **asdict(options)}),
        }
        plan = _plan(parts, decided, grid, options, facts)
        for scene in plan.scenes:
            tell_assumptions(scene.sources, progress)
        share = write_stack(plan, destination, progress.part(0.75, 1.0))
        if share == 0:
            raise EngineError(
                "There is no valid pixel in the area",
                facts[acquisition.SCENES],
                "choose another date or a larger cloud cover, or switch MASK_CLOUDS off",
            )
        report = FetchReport(choice, options.bands, grid, share, network.bytes_read, clouds)
        if ledger:
            files.write(ledger_path, ledger, _ledger(report, scenes, parts, decided, public(catalog)))
    _tell(report, progress)
    return report


def _tell(report: FetchReport, progress: Progress) -> None:
    if len(report.clouds) < len(report.choice.scenes):
        progress.info("Without the scene classification of every scene, the cloud cover told is that of the whole scenes.")
    elif report.cloud_cover is not None:
        progress.info(f"Cloud cover of the area {report.cloud_cover:.2f} %, valid pixels {100 * report.valid_share:.1f} %.")
    progress.info(f"{report.bytes_read / 1e6:.2f} MB read over the network.")


def _no_scene(search: SearchOptions) -> EngineError:
    dates = f"{search.start_date[:10] or 'any date'} to {search.end_date[:10] or 'any date'}"
    collection = search.collection or DEFAULT_COLLECTION
    where = f"{public(catalog_address(search))}, collection {collection}, {dates}, cloud cover up to {search.max_cloud_cover:g} %"
    if search.scene_ids:
        where = f"{public(catalog_address(search))}, SCENE_IDS {', '.join(search.scene_ids)}"
    return EngineError(
        "No scene was found for the area", where, "choose other dates, a larger cloud cover, or an area that the catalog covers"
    )


def _masks(options: FetchOptions) -> bool:
    """Whether the scene classification masks; else it is read for the cloud cover of the area alone."""
    return options.mask_clouds or options.selection == "median"


def _scene_files(scene: Scene, options: FetchOptions, folder: Path) -> SceneFiles:
    assets = band_assets(scene, dict.fromkeys([*options.bands, *([sentinel2.SCL] if _masks(options) else [])]), (sentinel2.SCL,))
    return scene_files(scene, assets, folder)


def _clouds(parts: list[SceneFiles], grid: Grid, progress: Progress) -> dict[str, CloudCover]:
    """Cloud cover of the area in each scene with a classification."""
    files = {part.scene.id: part.local[sentinel2.SCL] for part in parts if sentinel2.SCL in part.local}
    count = len(files)
    return {name: cloud_cover(path, grid, progress.part(i / count, (i + 1) / count)) for i, (name, path) in enumerate(files.items())}


def _decisions(part: SceneFiles, options: FetchOptions, progress: Progress) -> dict[str, RadiometricDecision]:
    """The radiometric decision for every band of a scene, checked against its pixels."""
    scene = part.scene
    decisions = {name: decide(scene.properties, asset.asset, scene.product, options.offset_policy) for name, asset in part.assets.items()}
    spectral = {name: for_real_numbers(d, part.local[name]) for name, d in decisions.items() if name != sentinel2.SCL}
    pixels = look_at_pixels({name: (part.local[name], 1) for name in spectral}, progress)
    return {**decisions, **weigh(spectral, pixels, scene.id, options.offset_policy, progress)}


def _plan(
    parts: list[SceneFiles], decided: dict[str, dict[str, RadiometricDecision]], grid: Grid, options: FetchOptions, facts: dict[str, str]
) -> StackPlan:
    median = options.selection == "median"
    scenes = []
    for part in parts:
        local = {name: BandSource(name, describe(path), 1, decided[part.scene.id][name]) for name, path in part.local.items()}
        sources = tuple(local[name] for name in dict.fromkeys(options.bands))
        scenes.append(SceneBands(sources, local.get(sentinel2.SCL) if _masks(options) else None))
    metadata = stack_metadata("stacfetch", scenes[0].sources, facts)
    if len(parts) > 1:
        each = {part.scene.id: radiometry_facts(scene.sources) for part, scene in zip(parts, scenes)}
        metadata["S2LC_RADIOMETRY"] = json.dumps(each)
    classes = tuple(int(code) for code in options.mask_classes)
    return StackPlan(tuple(scenes), grid, options.resampling, metadata, classes, options.mask_dilation_m, "median" if median else "first")


def _ledger(
    report: FetchReport,
    found: list[Scene],
    parts: list[SceneFiles],
    decided: dict[str, dict[str, RadiometricDecision]],
    catalog: str,
) -> str:
    """What was found, what was chosen and why, as JSON."""

    def brief(scene: Scene) -> dict[str, Any]:
        share = round(scene.aoi_share, 6)
        return {"id": scene.id, "datetime": scene.datetime, "cloud_cover": scene.cloud_cover, "share_of_area": share}

    def seen(scene: Scene) -> dict[str, Any]:
        cover = report.clouds.get(scene.id)
        return {"cloud_cover_of_area": cover.percent if cover else None}

    def bands(part: SceneFiles) -> dict[str, Any]:
        spectral = {name: asset for name, asset in part.assets.items() if name != sentinel2.SCL}
        return {name: {"href": public(asset.href), **asdict(decided[part.scene.id][name])} for name, asset in spectral.items()}

    def facts(part: SceneFiles) -> dict[str, Any]:
        return {"tile": part.scene.tile, "processing_baseline": part.scene.baseline, "bands": bands(part)}

    used = [{**brief(part.scene), **seen(part.scene), **facts(part)} for part in parts]
    document = {
        "version": VERSION,
        "catalog": catalog,
        "scenes": used,
        "duplicates_left_out": [scene.id for scene in report.choice.duplicates],
        "found": [brief(scene) for scene in found],
        "cloud_cover": report.choice.cloud_cover,
        "cloud_cover_of_area": report.cloud_cover,
        "share_of_area": round(report.choice.aoi_share, 6),
        "valid_share": report.valid_share,
        "bytes_read": report.bytes_read,
    }
    return json.dumps(document, indent=1) + "\n"
