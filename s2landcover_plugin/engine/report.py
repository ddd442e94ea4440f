"""HTML reports: one file each, with everything in it, readable offline. Charts by matplotlib, pages by Jinja2."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterable, Mapping, Sequence

import numpy as np

from .legend import LegendClass, csv_text
from .packages import require
from .raster import read_preview
from .version import VERSION

if TYPE_CHECKING:
    from .applying import ApplyReport
    from .areas import AreaReport
    from .clustering import ClusterReport
    from .cost import RunCost
    from .models import ClusterModel
    from .segmenting import SegmentReport
    from .selection import Selection

MATRIX_CLASSES = 16
"""Classes up to which all their distances fit on the page."""
NAMED_LINES = 20
"""Spectra that a chart can name beside it; more are told by their colours only."""
CHART_CLASSES = 60
"""Bars in a chart of areas."""
TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, **values: Any) -> str:
    """A page from a template; every value is escaped, because names in files are other people's text."""
    jinja2 = require("jinja2")
    loader = jinja2.FileSystemLoader(str(TEMPLATES))
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["zip"] = zip
    return str(environment.get_template(template).render(version=VERSION, **values))


def new_figure(width_in: float, height_in: float) -> Any:
    figure = require("matplotlib.figure").Figure(figsize=(width_in, height_in), layout="constrained")
    require("matplotlib.backends.backend_agg").FigureCanvasAgg(figure)
    return figure


def data_uri(figure: Any) -> str:
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    return "data:image/png;base64," + base64.b64encode(picture.getvalue()).decode("ascii")


def quicklook(path: str, legend: Sequence[LegendClass]) -> str:
    """The class map as a picture (data URI); nodata is light grey."""
    (codes,), (valid,) = read_preview(path, [1])
    lookup = np.full((65536, 3), 235, np.uint8)
    for each in legend:
        lookup[each.code] = each.rgb
    picture = lookup[np.where(valid & (codes >= 0) & (codes < len(lookup)), codes, 0)]
    # narrow rasters are repeated across, so that there is something to see
    picture = picture.repeat(max(1, 40 // picture.shape[0]), axis=0).repeat(max(1, 40 // picture.shape[1]), axis=1)
    image = io.BytesIO()
    require("matplotlib.image").imsave(image, picture, format="png")
    return "data:image/png;base64," + base64.b64encode(image.getvalue()).decode("ascii")


def _short(name: str) -> str:
    """A name that fits into a chart."""
    return name if len(name) < 40 else name[:37] + "…"


def area_chart(legend: Sequence[LegendClass], hectares: Sequence[float]) -> str:
    """Horizontal bars, one per class in its colour, with hectares and percent; of many classes the largest."""
    total = sum(hectares) or 1.0
    largest = sorted(sorted(range(len(legend)), key=lambda i: -hectares[i])[:CHART_CLASSES])
    legend, hectares = [legend[i] for i in largest], [hectares[i] for i in largest]
    figure = new_figure(6.4, max(1.2, 0.34 * len(legend) + 0.7))
    axes = figure.subplots()
    bars = axes.barh(range(len(legend)), hectares, color=[each.hex for each in legend], edgecolor="#444444", linewidth=0.5)
    axes.bar_label(bars, [f"{ha:,.1f} ha ({100 * ha / total:.1f} %)" for ha in hectares], padding=4, fontsize=9)
    axes.set_yticks(range(len(legend)), [_short(each.name) for each in legend], parse_math=False)
    axes.invert_yaxis()
    axes.set_xlim(0, (max(hectares, default=0.0) or 1.0) * 1.35)
    axes.set_xlabel("hectares")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 10 else f"{value:g}")
    axes.spines[["top", "right"]].set_visible(False)
    return data_uri(figure)


def selection_chart(selection: Selection) -> str:
    """Each index against the number of clusters, with the choices marked."""
    ks = list(selection.fits)
    rows = math.ceil(len(selection.indices) / 2)
    figure = new_figure(8.4, 2.9 * rows)
    grid = figure.subplots(rows, 2, squeeze=False)
    for axes in grid.flat[len(selection.indices) :]:
        axes.set_visible(False)
    for axes, index in zip(grid.flat, selection.indices):
        values, best = [selection.values[index.name][k] for k in ks], selection.votes[index.name]
        axes.plot(ks, values, color="#332288", marker="o", markersize=4)
        axes.plot(
            [best], [values[ks.index(best)]], "o", markersize=12, markerfacecolor="none", markeredgecolor="#cc3311", markeredgewidth=2
        )
        if best != selection.chosen:
            axes.axvline(selection.chosen, color="#888888", linestyle=":", linewidth=1)
        axes.set_title(index.title, fontsize=10, loc="left")
        axes.set_title(f"k = {best}", fontsize=10, loc="right", color="#cc3311")
        axes.set_xlabel("number of clusters k")
        axes.xaxis.set_major_locator(require("matplotlib.ticker").MaxNLocator(integer=True))
        axes.margins(x=0.08, y=0.2)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    return data_uri(figure)


def spectra_chart(model: ClusterModel, legend: Sequence[LegendClass]) -> str:
    """Reflectance of every cluster centre against wavelength; empty if fewer than two bands have a known wavelength."""
    known = [(f.wavelength_um, i) for i, f in enumerate(model.features) if f.wavelength_um is not None]
    if len(known) < 2:
        return ""
    known.sort()
    columns = [i for _, i in known]
    nanometres = [1000 * w for w, _ in known if w is not None]
    figure = new_figure(8.4, 3.6)
    axes = figure.subplots()
    for each, center in zip(legend, model.means):
        axes.plot(nanometres, center[columns], color=each.hex, marker="o", markersize=3.5)
    # matplotlib leaves out names that begin with an underscore
    names = ["\u200b" + _short(each.name) for each in legend]
    axes.set_xlabel("wavelength (nm)")
    axes.set_ylabel("reflectance")
    top = axes.secondary_xaxis("top")
    top.set_xticks(nanometres, [model.features[i].name for i in columns], fontsize=7, rotation=90)
    axes.spines[["right"]].set_visible(False)
    axes.grid(alpha=0.25)
    if len(legend) <= NAMED_LINES:
        shown = axes.legend(axes.get_lines(), names, fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
        for text in shown.get_texts():
            text.set_parse_math(False)
    return data_uri(figure)


def _rows(legend: Sequence[LegendClass], pixels: Sequence[int], hectares: Sequence[float]) -> list[dict[str, Any]]:
    total = sum(hectares) or 1.0
    return [
        {"code": c.code, "name": c.name, "color": c.hex, "pixels": n, "hectares": ha, "percent": 100 * ha / total}
        for c, n, ha in zip(legend, pixels, hectares)
    ]


def area_report_html(report: AreaReport, source: str) -> str:
    """The page of `classareas`."""
    return render(
        "areas.html",
        title="Class areas",
        source=Path(source).name,
        quicklook=quicklook(source, report.legend),
        chart=area_chart(report.legend, report.hectares),
        rows=_rows(report.legend, report.pixels, report.hectares),
        total=report.total_hectares,
    )


def csv_uri(rows: Iterable[Sequence[Any]]) -> str:
    """A table as an address that a link can offer as a file."""
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return "data:text/csv;charset=utf-8;base64," + base64.b64encode(text.getvalue().encode()).decode("ascii")


def _separability(legend: Sequence[LegendClass], distances: np.ndarray) -> dict[str, Any] | None:
    """What the page says of the Jeffries-Matusita distances (k, k); None of one cluster. Large matrices are left to the CSV."""
    k = len(legend)
    if k < 2:
        return None
    first, second = divmod(int((distances + 3 * np.eye(k)).argmin()), k)
    least = distances[first, second]
    verdict = "hardly to be told apart" if least < 1 else "overlapping" if least < 1.9 else "well separated"
    pair = f"{legend[first].name} and {legend[second].name}"
    sentence = f"The two clusters most alike are {pair}: {least:.2f}, {verdict}."
    matrix = [[None if i == j else distances[i, j] for j in range(k)] for i in range(k)] if k <= MATRIX_CLASSES else None
    return {"sentence": sentence, "matrix": matrix}


def _downloads(
    report: ClusterReport, model: ClusterModel, separability: np.ndarray, settings: Mapping[str, Any], cost: RunCost
) -> dict[str, str]:
    """The figures of the page that the table of the run does not have, as CSV."""
    codes = [each.code for each in report.legend]
    nanometres = [1000 * f.wavelength_um if f.wavelength_um is not None else "" for f in model.features]
    spectra = zip((f.name for f in model.features), nanometres, *model.means)
    facts: list[tuple[str, Any]] = [
        ("n_clusters", report.n_clusters),
        ("inertia", report.inertia),
        ("davies_bouldin", report.davies_bouldin),
    ]
    facts += [("wall_s", cost.wall_s), ("cpu_s", cost.cpu_s), ("peak_mb", cost.peak_mb), ("sample_size", model.training["sample_size"])]
    tables = {
        "spectra": csv_uri([("feature", "wavelength_nm", *(f"code_{code}" for code in codes)), *spectra]),
        "separability": csv_uri([("code", *codes), *((code, *row) for code, row in zip(codes, separability))]),
        "run": csv_uri([("figure", "value"), *facts, *settings.items()]),
    }
    if report.selection:
        tables["number_of_clusters"] = csv_uri(csv.reader(io.StringIO(report.selection.table())))
    return tables


def cluster_report_html(
    report: ClusterReport, model: ClusterModel, separability: np.ndarray, raster: str, provenance: dict[str, str], cost: RunCost
) -> str:
    """The page of `clusterraster`; separability (k, k) in Jeffries-Matusita distances."""
    settings = json.loads(provenance["S2LC_PARAMETERS"])
    return render(
        "clusters.html",
        title="Land-cover clusters",
        source=provenance["S2LC_INPUT"],
        scenes=provenance.get("S2LC_SCENES", ""),
        quicklook=quicklook(raster, report.legend),
        chart=area_chart(report.legend, report.hectares),
        rows=_rows(report.legend, report.pixels, report.hectares),
        total=sum(report.hectares),
        selection=report.selection,
        curves=selection_chart(report.selection) if report.selection else "",
        spectra=spectra_chart(model, report.legend),
        features=[feature.name for feature in model.features],
        suggestions=report.suggestions,
        separability=_separability(report.legend, separability),
        downloads=_downloads(report, model, separability, settings, cost),
        cost=cost,
        report=report,
        sample_size=model.training["sample_size"],
        settings=settings,
    )


def apply_report_html(report: ApplyReport, model: ClusterModel, raster: str, provenance: dict[str, str]) -> str:
    """The page of `applyclusters`."""
    return render(
        "applied.html",
        title="A saved model applied",
        source=provenance["S2LC_INPUT"],
        scenes=provenance.get("S2LC_SCENES", ""),
        model_name=provenance["S2LC_MODEL"],
        model=model,
        report=report,
        quicklook=quicklook(raster, report.legend),
        chart=area_chart(report.legend, report.hectares),
        rows=_rows(report.legend, report.pixels, report.hectares),
        total=sum(report.hectares),
        spectra=spectra_chart(model, report.legend),
    )


def segment_report_html(report: SegmentReport, raster: str, provenance: dict[str, str], cost: RunCost) -> str:
    """The page of `segmentraster`."""
    present = [i for i, n in enumerate(report.pixels) if n] or [0]
    legend, pixels = [report.legend[i] for i in present], [report.pixels[i] for i in present]
    hectares = [report.hectares[i] for i in present]
    return render(
        "segments.html",
        title="Segmentation by a network",
        source=provenance["S2LC_INPUT"],
        scenes=provenance.get("S2LC_SCENES", ""),
        model_name=provenance["S2LC_MODEL"],
        report=report,
        quicklook=quicklook(raster, report.legend),
        chart=area_chart(legend, hectares),
        rows=_rows(legend, pixels, hectares),
        total=sum(report.hectares),
        cost=cost,
        downloads={
            "decisions": csv_uri([("what", "value", "source"), *((d.what, csv_text(d.value), d.source) for d in report.decisions)]),
            "areas": csv_uri(
                [("code", "name", "pixels", "hectares"), *((c.code, csv_text(c.name), n, h) for c, n, h in zip(legend, pixels, hectares))]
            ),
        },
    )


def selection_report_html(selection: Selection, source: str, sample_size: int, features: Sequence[str]) -> str:
    """The page of `clusterselection`."""
    return render(
        "selection.html",
        title="Number of clusters",
        source=Path(source).name,
        selection=selection,
        curves=selection_chart(selection),
        sample_size=sample_size,
        features=features,
    )
