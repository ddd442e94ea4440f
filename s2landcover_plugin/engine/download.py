"""Copying the window of every band of every scene, several at a time."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

from .access import Accesses
from .crs import Aoi, same_crs, source_pixels_per_pixel, utm_crs, wkt
from .errors import EngineError
from .geotiff import copy_window, stored_bytes
from .grid import Bounds, Grid, Window
from .http import Network
from .progress import Progress
from .raster import REMOTE_DRIVERS, describe
from .remote import Relay, prepare_thread
from .stac import BandAsset, Scene
from .stack import resampling_for, stack_grid
from .waiting import gather

BANDS_AT_ONCE = 8
"""Bands read at the same time."""
MARGIN_PX = 2
"""Pixels read around the area of bands that are resampled, so that they have their neighbours (cubic reaches 2)."""
TELL_EVERY_S = 5.0


@dataclass(frozen=True)
class SceneFiles:
    """One scene on the way from the catalog to the stack."""

    scene: Scene
    assets: dict[str, BandAsset]
    local: dict[str, str]
    """Band -> the copy of its window."""


@dataclass(frozen=True)
class Order:
    """What is to be copied."""

    bands: tuple[str, ...]
    """Bands of the stack."""
    resolution_m: int
    resampling: str
    aoi: Aoi
    target_crs: str
    """CRS of the output, empty: that of the scene that covers most of the area."""
    max_megabytes: int
    extra: tuple[str, ...] = ()
    """Bands beside those, left out of a scene where they cannot be opened."""

    @property
    def optional(self) -> set[str]:
        """Bands that a scene may lack."""
        return set(self.extra) - set(self.bands)


def scene_files(scene: Scene, assets: dict[str, BandAsset], folder: Path) -> SceneFiles:
    """Where the copies of a scene's bands will be."""
    folder.mkdir()
    return SceneFiles(scene, assets, {name: str(folder / f"{name}.tif") for name in assets})


def copy_windows(
    parts: list[SceneFiles], order: Order, accesses: Accesses, network: Network, progress: Progress
) -> tuple[Grid, list[SceneFiles]]:
    """Copy the windows that an order needs.

    Returns:
        the output grid, and the scenes that have pixels in it, with the bands that were copied.

    Raises:
        EngineError: no scene has pixels in the area, the area is too large, or a file cannot be read.
    """
    _refuse_huge(_stated_megabytes(parts, order, progress), order.max_megabytes)
    pool = ThreadPoolExecutor(BANDS_AT_ONCE, initializer=prepare_thread)
    try:
        with Relay(network) as relay:
            paths = _paths(parts, order, accesses, relay)
            grids = _grids(paths, order, relay, pool, network, progress)
            lead = max(range(len(parts)), key=lambda number: parts[number].scene.aoi_share)
            grid = _output_grid({name: each for (number, name), each in grids.items() if number == lead}, order)
            windows, used = _windows(grids, grid, order)
            if not used:
                raise EngineError("The area lies outside the scene", parts[0].scene.id, "choose an area that overlaps the scene")
            _refuse_huge(2 * sum(w.width * w.height for w in windows.values()) / 1e6, order.max_megabytes)
            meter = _meter(paths, windows, relay, pool, network, progress)
            copies = {
                key: pool.submit(_copy, paths[key], window, parts[key[0]].local[key[1]], relay, meter.watcher(key))
                for key, window in windows.items()
            }
            gather(copies, progress.part(0.2, 1), meter.share)
    finally:
        # after a failure or a cancel nobody waits for a transfer that hangs: the relay has closed its connections
        pool.shutdown(wait=False, cancel_futures=True)
    return grid, [_kept(parts[number], [name for each, name in windows if each == number]) for number in used]


Key = tuple[int, str]
"""Number of a scene, and a band of it."""


def _paths(parts: list[SceneFiles], order: Order, accesses: Accesses, relay: Relay) -> dict[Key, str]:
    """What GDAL opens for each file, without the extra ones that cannot be reached."""
    paths = {}
    for number, part in enumerate(parts):
        for name, asset in part.assets.items():
            try:
                local = accesses.local_path(asset.href)
                paths[number, name] = local or relay.path(accesses.source(asset.href, asset.asset, part.scene.item))
            except EngineError:
                if name not in order.optional:
                    raise
    return paths


def _grids(
    paths: dict[Key, str], order: Order, relay: Relay, pool: ThreadPoolExecutor, network: Network, progress: Progress
) -> dict[Key, Grid]:
    """The grid of each file, without the extra ones that cannot be opened."""

    def grid_of(path: str, optional: bool) -> Grid | None:
        try:
            with relay.reading(path):
                return describe(path, REMOTE_DRIVERS).grid
        except EngineError:
            network.check()
            if optional:
                return None
            raise

    futures = {key: pool.submit(grid_of, path, key[1] in order.optional) for key, path in paths.items()}
    found = gather(futures, progress.part(0, 0.1), network.unfinished)
    return {key: grid for key, grid in found.items() if grid is not None}


def _windows(grids: dict[Key, Grid], grid: Grid, order: Order) -> tuple[dict[Key, Window], list[int]]:
    """The window of each file, and the scenes that have pixels in the output."""
    windows, outside = {}, set()
    for key, each in grids.items():
        window = _window_for(grid, each, key[1], order.resampling)
        if window is not None:
            windows[key] = window
        elif key[1] not in order.optional:
            outside.add(key[0])
    used = sorted({number for number, _ in grids} - outside)
    return {key: window for key, window in windows.items() if key[0] in used}, used


def _window_for(grid: Grid, band_grid: Grid, name: str, resampling: str) -> Window | None:
    """The pixels of a band file that the output needs, None if it has none; a margin only where they are resampled."""
    window = band_grid.window_of(Aoi(grid.crs, grid.bounds).bounds_in(band_grid.crs))
    inside = window.clipped(band_grid.width, band_grid.height)
    if not inside.width or not inside.height:
        return None
    moved = not same_crs(grid.crs, band_grid.crs)
    coarser = max(source_pixels_per_pixel(grid, band_grid)) < 1
    interpolated = coarser and resampling_for(name, band_grid, grid, resampling) != "nearest"
    return inside.grown(MARGIN_PX).clipped(band_grid.width, band_grid.height) if moved or interpolated else inside


def _copy(path: str, window: Window, target: str, relay: Relay, watch: Callable[[float], bool]) -> None:
    with relay.reading(path):
        copy_window(path, window, target, watch)


def _kept(part: SceneFiles, names: list[str]) -> SceneFiles:
    return SceneFiles(part.scene, {name: part.assets[name] for name in names}, {name: part.local[name] for name in names})


class _Meter:
    """How much has been read, in bytes, and of how much."""

    def __init__(self, network: Network, expected: int, progress: Progress) -> None:
        self._network = network
        self._before = network.bytes_read
        self._expected = expected
        self._progress = progress
        self._shares: dict[Key, float] = {}
        self._told = time.monotonic()

    def watcher(self, key: Key) -> Callable[[float], bool]:
        """What GDAL calls while it copies a file."""
        self._shares[key] = 0.0

        def watch(share: float) -> bool:
            self._shares[key] = share
            return not self._network.stopped.is_set()

        return watch

    def share(self) -> float:
        """Share done, 0 to 1; now and then the bytes are told."""
        self._network.check()
        read = self._network.bytes_read - self._before
        if time.monotonic() - self._told > TELL_EVERY_S:
            self._told = time.monotonic()
            of = f" of about {self._expected / 1e6:.1f}" if self._expected else ""
            self._progress.info(f"{read / 1e6:.1f}{of} MB read.")
        copied = sum(self._shares.values()) / max(len(self._shares), 1)
        return max(copied, min(read / self._expected, 0.99) if self._expected else 0.0)


def _meter(
    paths: dict[Key, str], windows: dict[Key, Window], relay: Relay, pool: ThreadPoolExecutor, network: Network, progress: Progress
) -> _Meter:
    """A meter that knows the compressed bytes to be read over the network, where the files tell."""

    def stored(path: str, window: Window) -> int | None:
        with relay.reading(path):
            return stored_bytes(path, window)

    remote = {key: (paths[key], window) for key, window in windows.items() if paths[key].startswith("/vsicurl/")}
    futures = {key: pool.submit(stored, *each) for key, each in remote.items()}
    sizes = gather(futures, progress.part(0.1, 0.2), network.unfinished)
    expected = 0 if None in sizes.values() else sum(size or 0 for size in sizes.values())
    if expected:
        progress.info(f"{expected / 1e6:.2f} MB (compressed) are to be read.")
    return _Meter(network, expected, progress)


def _refuse_huge(needed_mb: float, limit_mb: int) -> None:
    if needed_mb > limit_mb:
        raise EngineError(
            f"The area needs about {needed_mb:,.1f} MB, more than the {limit_mb:,} MB allowed",
            "MAX_MEGABYTES",
            "choose a smaller area or fewer bands, or raise the limit",
        )


def _stated_megabytes(parts: list[SceneFiles], order: Order, progress: Progress) -> float:
    """Uncompressed size of what lies in the area, from what the items state about their files; 0 where they do not.

    Nothing has been read of the files then.
    """
    ring = order.aoi.lonlat_ring()
    x0, y0, x1, y1 = order.aoi.bounds_in(utm_crs(*ring[0]))
    area_m2 = (x1 - x0) * (y1 - y0)
    total = 0.0
    for part in parts:
        for asset in part.assets.values():
            width_m, height_m, pixels = _stated_pixels(asset.asset, part.scene.item)
            if width_m and height_m:
                total += 2 * min(area_m2 * part.scene.aoi_share / (width_m * height_m), pixels) / 1e6
    if total:
        progress.info(f"The area has about {total:,.1f} MB of pixels (uncompressed).")
    return total


def _stated_pixels(asset: dict[str, Any], item: dict[str, Any]) -> tuple[float, float, float]:
    """Width and height of a pixel in metres (0: not stated), and the number of pixels, of an asset with the projection extension."""
    properties = item.get("properties") or {}

    def stated(name: str) -> Any:
        return asset.get(name, properties.get(name))

    try:
        rows, columns = (int(n) for n in stated("proj:shape"))
        width, height = (abs(float(stated("proj:transform")[i])) for i in (0, 4))
        pixels = float(rows * columns)
    except (TypeError, ValueError, IndexError, KeyError, OverflowError):
        return 0.0, 0.0, 0.0
    return (width, height, pixels) if min(width, height) >= 1 else (0.0, 0.0, 0.0)


def _output_grid(grids: dict[str, Grid], order: Order) -> Grid:
    """The area on the scene's own grid, or on a grid of the same pixel size in another CRS."""
    base = stack_grid({name: grids[name] for name in order.bands}, order.resolution_m)
    bounds = order.aoi.bounds_in(order.target_crs or base.crs)
    if order.target_crs and not same_crs(order.target_crs, base.crs):
        base = _lattice_in(order.target_crs, base, bounds)
    grid = base.cropped(base.window_of(bounds))
    _refuse_huge(2 * grid.width * grid.height * len(order.bands) / 1e6, order.max_megabytes)
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
