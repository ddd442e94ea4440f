"""The page and the table of a change detection."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any, Sequence

import numpy as np

from .acquisition import acquisition
from .changemap import AFTER, BEFORE, LEFT_OUT, LEGEND, TRUTH, pictures_of
from .comparing import NAMES, Comparison, Overview, columns_of, figure_text, square_px
from .confusion import FIGURES
from .crs import WGS84_A_M, is_geographic, pixel_metres
from .legend import csv_text
from .pairs import DatePair
from .progress import Progress
from .references import Reference
from .report import csv_uri, data_uri, new_figure, render

if TYPE_CHECKING:
    from .cost import RunCost
    from .detecting import DetectReport, MethodResult

HIT_RGB, FALSE_RGB, MISSED_RGB = (0.80, 0.20, 0.07), (0.94, 0.85, 0.15), (0.0, 0.42, 0.73)
"""Vermilion, yellow, blue: told apart in every kind of colour vision (Okabe and Ito 2008)."""
UNTOLD_RGB = (0.60, 0.40, 0.60)
EMPTY_RGB, LEFT_OUT_RGB = (0.92, 0.92, 0.92), (0.80, 0.89, 0.94)
FIGURE_NAMES = {
    "overall_accuracy": "overall accuracy",
    "precision": "precision (user's)",
    "recall": "recall (producer's)",
    "f1": "F1",
    "iou": "IoU",
    "kappa": "kappa",
}
LONGEST_TITLE = 52
"""Characters that fit above a picture."""
SHOWN_AT = 0.5
"""Share of a cell of the picture at which it has the full colour."""


def report_table(report: DetectReport, reference: Reference | None) -> str:
    """CSV: one row for each method and what it is compared with; matrices with rows = reference, columns = predicted.

    Columns `true_…` agree in both; `false_change` is predicted only, `missed_change` in the reference only. 95 % intervals are `_low` and
    `_high`; `adjusted_…` weigh by the mapped areas, `_ci` is half the width of the interval.
    """
    rows = []
    for result in report.results:
        own = {"method": result.method, "rule": result.rule}
        own |= {
            "changed_px": str(result.pixels[1]),
            "changed_ha": f"{result.hectares[1]:.4f}",
            "compared_ha": f"{sum(result.hectares):.4f}",
        }
        left = {f"excluded_{reason.replace(' ', '_')}_ha": f"{hectares:.4f}" for reason, hectares in report.excluded_ha.items()}
        for comparison in result.comparisons or (None,):
            row = {**own, "kind": "", "reference": ""}
            if comparison is not None:
                title = csv_text(reference.title) if reference and comparison.is_accuracy else "NDVI drop"
                row |= {"kind": comparison.kind, "reference": title}
                row |= {**columns_of(comparison), **_adjusted_columns(comparison, sum(result.hectares))}
            rows.append({**row, **left})
    names = list(dict.fromkeys(name for row in sorted(rows, key=len, reverse=True) for name in row))
    text = io.StringIO()
    table = csv.DictWriter(text, names, restval="", lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def _adjusted_columns(comparison: Comparison, mapped_ha: float) -> dict[str, str]:
    columns: dict[str, str] = {}
    for name, (value, half) in _adjusted(comparison, mapped_ha).items():
        columns |= {f"adjusted_{name}": figure_text(value), f"adjusted_{name}_ci": figure_text(half)}
    return columns


def _adjusted(comparison: Comparison, mapped_ha: float) -> dict[str, tuple[float, float]]:
    """Area-adjusted figures with half the width of their intervals; empty where they were not asked for."""
    adjusted = comparison.adjusted
    if adjusted is None:
        return {}
    of_change = {"precision": adjusted.precision, "recall": adjusted.recall, "changed_ha": adjusted.share * mapped_ha}
    found = {name: (float(values[0, 1]), float(values[1, 1])) for name, values in of_change.items()}
    return {"overall_accuracy": adjusted.overall_accuracy, **found}


def change_report_html(
    report: DetectReport,
    pair: DatePair,
    reference: Reference | None,
    overview: Overview,
    provenance: dict[str, str],
    cost: RunCost,
    progress: Progress,
) -> str:
    """The page of `detectchange`."""
    when = [acquisition(info.path, info.metadata).text for info in pair.images]
    files = [provenance["S2LC_BEFORE"], provenance["S2LC_AFTER"]]
    settings = json.loads(provenance["S2LC_PARAMETERS"])
    title = reference.title if reference else "NDVI drop"
    panels = _panels(report, pair, title, bool(reference), overview, when)
    progress.report(0.7)
    return render(
        "change.html",
        title="Change between two dates",
        source=" → ".join(f"{file} ({date})" if date else file for file, date in zip(files, when)),
        report=report,
        legend=LEGEND,
        panels=panels,
        step=overview.step,
        reference=title,
        is_accuracy=bool(reference),
        names=NAMES,
        tables=[_figures_table(report, kind) for kind in ("accuracy", "agreement")],
        figure_names=FIGURE_NAMES,
        square_m=_square_metres(report, pair),
        total_ha=sum(report.main.hectares) + sum(report.excluded_ha.values()),
        bands=pair.space.common,
        features=pair.space.names,
        downloads={
            "figures": csv_uri(csv.reader(io.StringIO(report_table(report, reference)))),
            "patches_of_alignment": csv_uri(csv.reader(io.StringIO(report.alignment.table()))) if report.alignment else "",
        },
        settings=settings,
        cost=cost,
    )


def _square_metres(report: DetectReport, pair: DatePair) -> float | None:
    """Side of the squares behind the intervals, metres; None where there are none."""
    if not any(comparison.intervals for result in report.results for comparison in result.comparisons):
        return None
    return square_px(pair.grid) * pixel_metres(pair.grid)


def _figures_table(report: DetectReport, kind: str) -> dict[str, Any] | None:
    """Rows of figures of one kind of comparison; None where there is none."""
    found: list[tuple[MethodResult, Comparison]] = [(r, c) for r in report.results for c in r.comparisons if c.kind == kind]
    if not found:
        return None
    rows = [
        {
            "title": result.title,
            "figures": [(comparison.figures[name], comparison.intervals.get(name)) for name in FIGURES],
            "counts": comparison.confusion.counts.tolist(),
            "adjusted": _adjusted(comparison, sum(result.hectares)),
        }
        for result, comparison in found
    ]
    return {"kind": kind, "rows": rows}


def _panels(report: DetectReport, pair: DatePair, reference: str, has_reference: bool, overview: Overview, when: Sequence[str]) -> str:
    """Pictures side by side: the second date, the reference (or the first date), and every method over it."""
    means = overview.means
    stretched = _stretched(means[BEFORE], means[AFTER])
    grey = _over(_backdrop(stretched[1]), [(means[LEFT_OUT], LEFT_OUT_RGB)])
    panels: list[tuple[str, np.ndarray]] = [(_named("After", when[1]), stretched[1])]
    if has_reference or all(result.method != "ndvi-drop" for result in report.results):
        panels.append((_clipped(f"Reference: {reference}"), _over(grey, [(means[TRUTH], HIT_RGB)])))
    else:
        # the mask is one of the methods
        panels.append((_named("Before", when[0]), stretched[0]))
    for number, result in enumerate(report.results):
        hit, false, missed, untold = means[pictures_of(number)]
        text = f"{result.title}: {result.hectares[1]:,.1f} ha"
        if result.comparisons:
            figures = result.comparisons[-1].figures
            text += "\n" + ", ".join(f"{FIGURE_NAMES[name].split()[0]} {_short(figures[name])}" for name in ("f1", "precision", "recall"))
        panels.append((text, _over(grey, [(missed, MISSED_RGB), (untold, UNTOLD_RGB), (false, FALSE_RGB), (hit, HIT_RGB)])))
    return _drawn(panels, pair)


def _short(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.2f}"


def _clipped(title: str) -> str:
    return title if len(title) <= LONGEST_TITLE else f"{title[: LONGEST_TITLE - 1]}…"


def _named(text: str, day: str) -> str:
    return f"{text}, {day}" if day else text


def _stretched(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both dates as (rows, cols, 3), 0 to 1, with one stretch for both, so that they can be compared; NaN: light grey."""
    both = np.concatenate([before.reshape(3, -1), after.reshape(3, -1)], axis=1)
    low, high = np.nanpercentile(both, (1, 99), axis=1) if np.isfinite(both).any() else (np.zeros(3), np.ones(3))
    spread = np.maximum(high - low, 1e-6)

    def shown(image: np.ndarray) -> np.ndarray:
        values = np.clip((image - low[:, None, None]) / spread[:, None, None], 0, 1)
        return np.moveaxis(np.where(np.isfinite(values), values, np.array(EMPTY_RGB)[:, None, None]), 0, -1)

    return shown(before), shown(after)


def _backdrop(picture: np.ndarray) -> np.ndarray:
    """A picture in light grey, for colours to lie on."""
    return np.repeat((0.45 + 0.5 * picture.mean(axis=-1))[:, :, None], 3, axis=2)


def _over(backdrop: np.ndarray, layers: Sequence[tuple[np.ndarray, tuple[float, float, float]]]) -> np.ndarray:
    """Shares (rows, cols) in their colours over a backdrop (rows, cols, 3)."""
    picture = backdrop
    for share, colour in layers:
        opacity = np.clip(np.nan_to_num(share) / SHOWN_AT, 0, 1)[:, :, None]
        picture = picture * (1 - opacity) + np.array(colour) * opacity
    return picture


def _drawn(panels: Sequence[tuple[str, np.ndarray]], pair: DatePair) -> str:
    rows = -(-len(panels) // 3)
    height, width = panels[0][1].shape[:2]
    tall, wide = pair.grid.height, pair.grid.width
    aspect = _aspect(pair)
    shape = min(max(aspect * tall / wide, 0.25), 2.5)
    figure = new_figure(11.0, rows * (3.6 * shape + 0.55))
    grid = figure.subplots(rows, 3, squeeze=False)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for axes, (title, picture) in zip(grid.flat, panels):
        axes.imshow(picture, interpolation="nearest", aspect=aspect * (tall / height) / (wide / width))
        axes.set_title(title if "\n" in title else f"\n{title}", fontsize=9.5, loc="left", parse_math=False)
    return data_uri(figure)


def _aspect(pair: DatePair) -> float:
    """Height of a pixel on the ground as a multiple of its width; in degrees it is narrower away from the equator."""
    width, height = pair.grid.pixel_size
    if not is_geographic(pair.grid.crs):
        return height / width
    metres = float(np.radians(height)) * WGS84_A_M
    return metres**2 / pixel_metres(pair.grid) ** 2
