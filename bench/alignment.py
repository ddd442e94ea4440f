"""Planted shifts found again: the plugin beside plain phase correlation and, where it is installed, AROSICS.

    python -m bench.alignment FOLDER        # the folder of the development data

Real images, moved by the Fourier shift theorem; errors in pixels (median, worst) over eight shifts of 0.07 to 28 pixels: for the plugin
only where it trusts the result; `trusted` tells how often. How well two real dates were registered before is not known: `from its own zero`
takes what a method finds without a planted shift for that.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any, Callable, Iterator

import cv2
import numpy as np
from osgeo import gdal, ogr

from s2landcover_plugin.engine.alignment import AlignOptions, estimate_alignment
from s2landcover_plugin.engine.progress import Progress
from s2landcover_plugin.engine.raster import describe
from tests.conftest import write_raster
from tests.test_alignment import SHIFTS, displaced, inner

BANDS = ("B02", "B03", "B04", "B08")
Shift = tuple[float, float]
NONE = [float("nan")]


def stack(folder: Path, names: tuple[str, ...]) -> np.ndarray:
    """Bands of a folder, (n, rows, cols)."""
    return np.stack([gdal.Open(str(folder / f"{name}.tif")).ReadAsArray() for name in names])


def pairs(root: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, first and second image; the scene classification behind the bands where there is one."""
    thailand = stack(root / "t48que_20200223_l2a", BANDS)
    yield "one image", thailand, thailand
    changed = np.clip(np.rint(thailand * 0.7 + 350), 1, 65535).astype(np.uint16)
    changed[:, 300:520, 400:700] = changed[:, 300:520, 400:700][:, ::-1, ::-1]
    yield "other season, a change", thailand, changed
    dates = {date: next((root / "earth_search_33twm").glob(f"*{date}*")) for date in ("20230815", "20230813", "20230820", "20230818")}
    first = stack(dates["20230815"], (*BANDS, "SCL"))
    for date, what in (("20230813", "2 days"), ("20230820", "5 days"), ("20230818", "3 days, 44 % cloud")):
        yield f"real dates, {what}", first, stack(dates[date], (*BANDS, "SCL"))
    fields = root / "t43rcp_pair"
    yield "every field changed", stack(fields / "l2a_20200604", BANDS), stack(fields / "l2a_20200813", BANDS)


def plugin(first: str, second: str) -> tuple[Shift, bool]:
    """The plugin's own."""
    found = estimate_alignment(describe(first), describe(second), AlignOptions(), Progress())
    return found.shift_px, found.trusted


def phase_correlation(first: str, second: str) -> tuple[Shift, bool]:
    """OpenCV's on the near infrared band, Hann window."""
    a, b = (gdal.Open(path).ReadAsArray()[3].astype(np.float32) for path in (first, second))
    return tuple(cv2.phaseCorrelate(a, b, cv2.createHanningWindow(a.shape[::-1], cv2.CV_32F))[0]), True


def _like_newer_gdal() -> None:
    """What AROSICS uses of GDAL 3.8 and GDAL 3.6 lacks: datasets and settings as context managers."""
    for kind, close in ((gdal.Dataset, gdal.Dataset.FlushCache), (ogr.DataSource, ogr.DataSource.Destroy)):
        if not hasattr(kind, "__enter__"):
            kind.__enter__ = lambda dataset: dataset
            kind.__exit__ = lambda dataset, *_, close=close: close(dataset)
    if not hasattr(gdal, "config_options"):

        @contextlib.contextmanager
        def config_options(options: dict[str, str | None], thread_local: bool = True) -> Iterator[None]:
            before = {name: gdal.GetConfigOption(name) for name in options}
            for name, value in options.items():
                gdal.SetConfigOption(name, None if value is None else str(value))
            yield
            for name, value in before.items():
                gdal.SetConfigOption(name, value)

        gdal.config_options = config_options


def arosics(local: bool) -> Callable[[str, str], tuple[Shift, bool]]:
    """AROSICS with its defaults on the near infrared band; its sign is turned to that of the displacement."""
    _like_newer_gdal()
    from arosics import COREG, COREG_LOCAL

    def run(first: str, second: str) -> tuple[Shift, bool]:
        common: dict[str, Any] = {"r_b4match": 4, "s_b4match": 4, "max_shift": 30, "nodata": (0, 0), "q": True, "progress": False}
        if not local:
            found = COREG(first, second, **common)
            found.calculate_spatial_shifts()
            shifts = found.coreg_info["corrected_shifts_px"]
            return (-shifts["x"], -shifts["y"]), bool(found.success)
        table = COREG_LOCAL(first, second, grid_res=80, window_size=(128, 128), CPUs=1, **common).CoRegPoints_table
        good = table[(table.X_SHIFT_PX != -9999) & (~table.OUTLIER.astype(bool))]
        return (-good.X_SHIFT_PX.median(), -good.Y_SHIFT_PX.median()), len(good) > 0

    return run


def methods() -> dict[str, Callable[[str, str], tuple[Shift, bool]]]:
    """What is compared here."""
    found = {"plugin": plugin, "phase correlation": phase_correlation}
    try:
        found |= {"AROSICS, one window": arosics(local=False), "AROSICS, grid": arosics(local=True)}
    except ImportError:
        print("AROSICS is not installed")
    return found


def main(root: Path) -> None:
    """Print the table."""
    warnings.simplefilter("ignore")
    print("| images | method | error px, median | worst | from its own zero, median | worst | trusted | CPU s |\n" + 8 * "| --- " + "|")
    with tempfile.TemporaryDirectory() as folder:
        names = [str(Path(folder) / f"{name}.tif") for name in ("first", "second")]
        for title, first, second in pairs(root):
            errors: dict[str, list[float]] = {}
            cost: dict[str, float] = {}
            trusted: dict[str, int] = {}
            zero: dict[str, Shift] = {}
            relative: dict[str, list[float]] = {}
            for x, y in ((0.0, 0.0), *SHIFTS):
                shifted = displaced(second[:4], x, y)
                if len(second) > 4:
                    shifted = np.concatenate([shifted, np.roll(second[4:], (round(y), round(x)), (1, 2))])
                for path, planes in zip(names, (first, shifted)):
                    write_raster(path, inner(planes).astype(np.uint16), names=(*BANDS, "SCL")[: len(planes)])
                for method, run in methods_here.items():
                    start = time.process_time()
                    try:
                        found, sure = run(*names)
                    except Exception as err:  # a peer may fail in any way
                        print(f"{method}: {err}", file=sys.stderr)
                        found, sure = (np.nan, np.nan), False
                    if (x, y) == (0, 0):
                        zero[method] = found
                        continue
                    cost[method] = cost.get(method, 0.0) + time.process_time() - start
                    trusted[method] = trusted.get(method, 0) + sure
                    if sure:
                        errors.setdefault(method, []).append(float(np.hypot(found[0] - x, found[1] - y)))
                        own_error = np.hypot(found[0] - zero[method][0] - x, found[1] - zero[method][1] - y)
                        relative.setdefault(method, []).append(float(own_error))
            for method in methods_here:
                columns = [f"{np.median(own):.3f} | {max(own):.3f}" for own in (errors.get(method, NONE), relative.get(method, NONE))]
                count = f"{trusted[method]} of {len(SHIFTS)}"
                print(f"| {title} | {method} | {' | '.join(columns)} | {count} | {cost[method] / len(SHIFTS):.1f} |", flush=True)


if __name__ == "__main__":
    methods_here = methods()
    main(Path(sys.argv[1]))
