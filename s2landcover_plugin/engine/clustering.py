"""Land cover by clusters: fit on a sample, streamed prediction, and what is told about the result."""

from __future__ import annotations

import json
import math
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from . import sentinel2
from .acquisition import inherited
from .areas import ClassTally
from .blocks import Op, Sink, SomePlanes, run_blocks
from .classification import CONFIDENCE_BAND, Assign, Judged
from .cost import Stopwatch
from .crs import crs_name
from .features import FeatureSpace, feature_reader
from .files import STYLE_SUFFIX, OutputFiles
from .fitting import FITS, ClusterFit
from .geotiff import RasterWriter, write_class_table
from .grid import Grid
from .legend import LegendClass, qml
from .matching import matched_legend
from .model_file import load_model, to_json
from .models import MAX_CLASSES, ClusterModel, canonical_order, scatter, training_reach
from .naming import named_classes, read_class_table, renamed
from .options import check_options, option
from .packages import DRAWING, importing
from .polygons import check_polygon_path, write_polygons
from .progress import Progress
from .quality import DAVIES_BOULDIN, measure
from .raster import RasterInfo, RasterReader, describe
from .sampling import draw_sample
from .selection import SELECTIONS, Question, Selection, select_n_clusters
from .separability import jeffries_matusita
from .signatures import Suggestion, suggest
from .version import VERSION


@dataclass(frozen=True)
class ClusterOptions:
    """How pixels are grouped. Shared by the Processing dialog and the engine."""

    bands: tuple[str, ...] = ()
    indices: tuple[str, ...] = ()
    band_map: str = ""
    method: str = option(
        "kmeans",
        "Method",
        "kmeans: pixels go to the nearest centre. gmm: a Gaussian mixture with full covariances, for clusters of different size and shape.",
        choices=("kmeans", "gmm"),
    )
    n_clusters: int = option(
        0,
        "Number of clusters (0 = choose)",
        "0 chooses the number from the quality indices, between the two limits below.",
        min=0,
        max=MAX_CLASSES,
    )
    selection: str = option(
        "elbow",
        "How to choose the number of clusters",
        "elbow: the knee of the inertia curve. davies-bouldin, silhouette, calinski-harabasz, bic (mixtures only): the best value of the "
        "index. stability: the largest number whose clusters are the same in every part of the sample. consensus: the most votes of all.",
        choices=SELECTIONS,
    )
    k_min: int = option(2, "Smallest number of clusters to try", min=2, max=MAX_CLASSES)
    k_max: int = option(10, "Largest number of clusters to try", min=2, max=MAX_CLASSES)
    scaling: str = option(
        "standard",
        "Scaling of the features",
        "none: reflectance as it is. standard: mean 0, standard deviation 1. robust: median 0, interquartile range 1.",
        choices=("none", "standard", "robust"),
        advanced=True,
    )
    sample_size: int = option(
        50000,
        "Pixels in the sample",
        "Clusters are found on a seeded sample spread over the raster.",
        min=100,
        max=1_000_000,
        advanced=True,
    )
    seed: int = option(0, "Seed", "The same number and the same input give the same map.", min=0, max=2**31 - 1, advanced=True)
    min_area_ha: float = option(
        0.5,
        "Smallest polygon (ha)",
        "Of the polygons only: smaller pieces go to their largest neighbour. 0 keeps every pixel.",
        min=0,
        max=1e6,
        advanced=True,
    )


@dataclass(frozen=True)
class ClusterOutputs:
    """Where the results go; empty: not wanted."""

    raster: str
    model: str = ""
    table: str = ""
    html: str = ""
    confidence: str = ""
    polygons: str = ""


@dataclass(frozen=True)
class ClusterReport:
    """What a clustering found."""

    n_clusters: int
    inertia: float
    davies_bouldin: float
    legend: tuple[LegendClass, ...]
    pixels: tuple[int, ...]
    hectares: tuple[float, ...]
    selection: Selection | None
    suggestions: tuple[Suggestion, ...]
    """What each class may be, in the order of the legend."""


def scaling_of(values: np.ndarray, scaling: str) -> tuple[np.ndarray, np.ndarray]:
    """shift and spread (n_features,) of a sample (n, n_features); a constant feature gets spread 1."""
    if scaling == "none":
        return np.zeros(values.shape[1]), np.ones(values.shape[1])
    if scaling == "standard":
        shift, spread = values.mean(0), values.std(0)
    else:
        low, shift, high = np.percentile(values, (25, 50, 75), axis=0)
        spread = high - low
    return shift, np.where(spread > 1e-12, spread, 1.0)


def run_clustering(
    source: str, outputs: ClusterOutputs, options: ClusterOptions, progress: Progress, reference: str = "", class_table: str = ""
) -> ClusterReport:
    """Group the pixels of a raster into clusters and write the map, the model, the areas and the report.

    Args:
        reference: model file whose codes, names and colours the clusters get that are its own; empty: none.
        class_table: CSV with code, name and maybe color, which replace the suggested ones; empty: none.

    Raises:
        EngineError: the raster cannot be used, an option is wrong, or there are fewer distinct pixels than clusters.
        Cancelled: the user asked to stop.
    """
    watch = Stopwatch()
    check_options(options)
    check_polygon_path(outputs.polygons)
    known = (load_model(reference), reference) if reference else None
    if class_table:
        read_class_table(class_table)
    info = describe(source)
    reader, space = feature_reader(info, options.bands, options.indices, options.band_map, progress)
    if not reader.grid.crs:
        progress.warn(f"{source} has no coordinate reference system: its pixels are taken to be measured in metres.")
    scaled, shift, spread = _scaled_sample(reader, space, options, progress.part(0, 0.15))
    selection = None
    if options.n_clusters:
        fit = FITS[options.method](scaled, options.n_clusters, options.seed, source)
    else:
        selection = select_n_clusters(scaled, _question(options), source, progress.part(0.15, 0.5))
        fit = selection.fits[selection.chosen]
        progress.info(selection.reason)
    provenance = _provenance(options, info.path, info.metadata)
    index = measure(DAVIES_BOULDIN, scaled, fit, options.method, options.seed)
    training = _training(reader.grid, provenance, len(scaled), fit, index, options)
    model, suggestions = _model(space, fit, (scaled, shift, spread), options, training, known, _is_hazy(info), progress)
    if class_table:
        model = replace(model, legend=renamed(model.legend, class_table, progress))
    facts = (fit.inertia, index, selection, suggestions)
    fitted = _Fitted(reader, space, model, *facts, provenance, (reference, class_table), watch)
    return _write_map(fitted, outputs, options.min_area_ha, progress.part(0.5, 1))


@dataclass(frozen=True)
class _Fitted:
    """All that is known before the first pixel of the map is written."""

    reader: RasterReader
    space: FeatureSpace
    model: ClusterModel
    inertia: float
    davies_bouldin: float
    selection: Selection | None
    suggestions: tuple[Suggestion, ...]
    provenance: dict[str, str]
    tables: tuple[str, ...]
    """Further files that were read; empty texts for none."""
    watch: Stopwatch


def run_selection(source: str, options: ClusterOptions, table: str, html: str, progress: Progress) -> Selection:
    """Judge every number of clusters from k_min to k_max on a sample, and write the figures.

    Raises:
        EngineError, Cancelled: as run_clustering.
    """
    from .report import selection_report_html

    check_options(options)
    info = describe(source)
    reader, space = feature_reader(info, options.bands, options.indices, options.band_map, progress)
    scaled, _, _ = _scaled_sample(reader, space, options, progress.part(0, 0.2))
    selection = select_n_clusters(scaled, replace(_question(options), everything=True), source, progress.part(0.2, 1))
    progress.info(selection.reason)
    with OutputFiles([source]) as files:
        if table:
            files.write_text(table, selection.table())
        if html:
            files.write_text(html, selection_report_html(selection, source, len(scaled), space.names))
    return selection


def _question(options: ClusterOptions) -> Question:
    return Question(options.k_min, options.k_max, options.seed, options.method, options.selection)


def _scaled_sample(
    reader: RasterReader, space: FeatureSpace, options: ClusterOptions, progress: Progress
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A scaled sample (n, n_features) with the shift and spread that scaled it."""
    with importing("sklearn.cluster", "sklearn.metrics", *(["sklearn.mixture"] if options.method == "gmm" else [])):
        values = draw_sample(reader, space, options.sample_size, options.seed, progress).values
    shift, spread = scaling_of(values, options.scaling)
    return (values - shift) / spread, shift, spread


def _training(
    grid: Grid, provenance: dict[str, str], n: int, fit: ClusterFit, davies_bouldin: float, options: ClusterOptions
) -> dict[str, Any]:
    """Where a model comes from, for its file."""
    return {
        "input": provenance["S2LC_INPUT"],
        "scenes": provenance.get("S2LC_SCENES", ""),
        "datetime": provenance.get("S2LC_DATETIME", ""),
        "crs": crs_name(grid.crs),
        "extent": list(grid.bounds),
        "sample_size": n,
        "seed": options.seed,
        "inertia": fit.inertia,
        "davies_bouldin": None if math.isnan(davies_bouldin) else davies_bouldin,
    }


def _model(
    space: FeatureSpace,
    fit: ClusterFit,
    sample: tuple[np.ndarray, np.ndarray, np.ndarray],
    options: ClusterOptions,
    training: dict[str, Any],
    reference: tuple[ClusterModel, str] | None,
    hazy: bool,
    progress: Progress,
) -> tuple[ClusterModel, tuple[Suggestion, ...]]:
    """The fit in canonical order, with names, colours and the reach of its clusters in the sample (scaled values, shift, spread)."""
    scaled, shift, spread = sample
    means = fit.centers * spread + shift
    order = canonical_order(space.features, means)
    known = {name: plane for name, plane in space.planes.items() if plane < space.n_bands}
    suggestions = suggest(space.features, means[order], known, hazy)
    if reference is None:
        legend = tuple(named_classes(suggestions, range(1, len(means) + 1)))
    else:
        found = matched_legend(space.features, means[order], suggestions, reference[0], reference[1], progress)
        by_code = sorted(range(len(order)), key=lambda i: found[i].code)
        order, legend = order[by_code], tuple(found[i] for i in by_code)
        suggestions = [suggestions[i] for i in by_code]
    weights, covariances = scatter(scaled, fit.centers) if fit.mixture is None else fit.mixture
    model = ClusterModel(
        space.features,
        means[order],
        shift,
        spread,
        options.scaling,
        legend,
        weights[order],
        covariances[order],
        options.method,
        training=training,
    )
    return replace(model, reach=training_reach(model, scaled)), tuple(suggestions)


def _is_hazy(info: RasterInfo) -> bool:
    """Whether a raster holds reflectance at the top of the atmosphere: only such products have B10."""
    return any(sentinel2.identify(band, info.path) == "B10" for band in info.bands)


def _provenance(options: ClusterOptions, path: str, metadata: dict[str, str]) -> dict[str, str]:
    facts = {
        "S2LC_ALGORITHM": "clusterraster",
        "S2LC_VERSION": VERSION,
        "S2LC_INPUT": Path(path.partition("?")[0]).name,
        "S2LC_PARAMETERS": json.dumps(asdict(options)),
    }
    return {**facts, **inherited(metadata)}


def _write_map(fitted: _Fitted, outputs: ClusterOutputs, min_area_ha: float, progress: Progress) -> ClusterReport:
    model, grid, provenance = fitted.model, fitted.reader.grid, fitted.provenance
    legend = model.legend
    tally = ClassTally(grid, legend[-1].code + 1)
    with OutputFiles([fitted.reader.path, *filter(None, fitted.tables)]) as files, ExitStack() as open_files:
        raster = files.path(outputs.raster)
        op: Op = Judged(fitted.space, model) if outputs.confidence else Assign(fitted.space, model)
        writer = open_files.enter_context(RasterWriter(raster, grid, op.outputs[:1], metadata=provenance, legend=legend))
        sinks: list[Sink] = [SomePlanes(writer, (0,)), tally]
        if outputs.confidence:
            path = files.path(outputs.confidence)
            sinks.append(SomePlanes(open_files.enter_context(RasterWriter(path, grid, [CONFIDENCE_BAND], metadata=provenance)), (1,)))
        # what draws the page is loaded meanwhile
        with importing(*(DRAWING if outputs.html else ())):
            run_blocks(fitted.reader, op, sinks, progress=progress.part(0, 0.6 if outputs.polygons else 0.9))
        open_files.close()
        pixels = tuple(int(tally.pixels[each.code]) for each in legend)
        hectares = tuple(float(tally.hectares[each.code]) for each in legend)
        write_class_table(raster, legend, pixels, hectares)
        files.write_sidecar(outputs.raster, STYLE_SUFFIX, qml(legend))
        if outputs.polygons:
            write_polygons(raster, outputs.polygons, files, legend, min_area_ha, progress.part(0.6, 0.9))
        facts = (fitted.inertia, fitted.davies_bouldin, legend, pixels, hectares, fitted.selection, fitted.suggestions)
        report = ClusterReport(len(legend), *facts)
        _write_texts(report, fitted, outputs, tally, raster, files)
        progress.report(1.0)
    return report


def _write_texts(
    report: ClusterReport, fitted: _Fitted, outputs: ClusterOutputs, tally: ClassTally, raster: str, files: OutputFiles
) -> None:
    """The model, the table and the page."""
    from .report import cluster_report_html

    separability = jeffries_matusita(fitted.model.scaled_means, fitted.model.covariances)
    if outputs.model:
        files.write_text(outputs.model, to_json(fitted.model))
    if outputs.table:
        files.write_text(outputs.table, tally.table(report.legend, _columns(report, fitted.model, separability)))
    if outputs.html:
        page = cluster_report_html(report, fitted.model, separability, raster, fitted.provenance, fitted.watch.cost())
        files.write_text(outputs.html, page)


def _columns(report: ClusterReport, model: ClusterModel, separability: np.ndarray) -> dict[str, list[str]]:
    """Further columns of the table: what the classes may be and why, the class most like each, and their centres."""
    columns = {
        "suggested_name": [each.text for each in report.suggestions],
        "ambiguous": ["yes" if each.ambiguous else "no" for each in report.suggestions],
        "evidence": [each.evidence for each in report.suggestions],
    }
    if len(report.legend) > 1:
        nearest = (separability + 3 * np.eye(len(separability))).argmin(axis=1)
        columns["most_similar_code"] = [str(report.legend[i].code) for i in nearest]
        columns["jeffries_matusita"] = [f"{separability[i, j]:.6f}" for i, j in enumerate(nearest)]
    for feature, values in zip(model.features, model.means.T):
        columns[f"center_{feature.name}"] = [f"{value:.6f}" for value in values]
    return columns
