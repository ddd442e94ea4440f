"""k-means land cover: fit on a sample, streamed prediction, and what is told about the result."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass
from typing import Any, Sequence

import numpy as np

from . import palette
from .areas import ClassTally
from .blocks import Block, Op, run_blocks
from .features import Feature, FeatureSpace, feature_reader
from .files import OutputFiles
from .legend import NODATA_CODE, LegendClass, qml
from .options import check_options, option
from .packages import require
from .progress import Progress
from .raster import OutputBand, RasterReader, RasterWriter, describe, write_class_table
from .sampling import draw_sample
from .selection import ClusterFit, Selection, fit_kmeans, select_n_clusters
from .version import VERSION

MODEL_SCHEMA = 1
MAX_CLUSTERS = 254
CHUNK_PX = 1 << 14
"""Pixels per step of the kernel: scores of 8 clusters in float32 stay in 1 MiB of second-level cache (measured: 2^13 to 2^14 best)."""


@dataclass(frozen=True)
class ClusterOptions:
    """How pixels are grouped. Shared by the Processing dialog and the engine."""

    bands: tuple[str, ...] = ()
    indices: tuple[str, ...] = ()
    band_map: str = ""
    method: str = option("kmeans", "Method", "k-means groups pixels around centres of equal weight.", choices=("kmeans",))
    n_clusters: int = option(
        0,
        "Number of clusters (0 = choose)",
        "0 chooses the number from the quality indices, between the two limits below.",
        min=0,
        max=MAX_CLUSTERS,
    )
    selection: str = option(
        "elbow",
        "How to choose the number of clusters",
        "elbow: the knee of the inertia curve. davies-bouldin: the smallest Davies-Bouldin index.",
        choices=("elbow", "davies-bouldin"),
    )
    k_min: int = option(2, "Smallest number of clusters to try", min=2, max=MAX_CLUSTERS)
    k_max: int = option(10, "Largest number of clusters to try", min=2, max=MAX_CLUSTERS)
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


@dataclass(frozen=True)
class ClusterModel:
    """A fitted k-means, in canonical order: cluster 1 is the darkest.

    Attributes:
        centers: (k, n_features) in feature units (reflectance 0 to 1, index values).
        shift, spread: (n_features,) a feature is scaled as (value - shift) / spread before distances are taken.
    """

    features: tuple[Feature, ...]
    centers: np.ndarray
    shift: np.ndarray
    spread: np.ndarray
    scaling: str
    seed: int
    sample_size: int
    inertia: float

    def legend(self) -> list[LegendClass]:
        """Codes, names and colours."""
        return [LegendClass(i, f"Cluster {i}", rgb) for i, rgb in enumerate(palette.colours(len(self.centers)), 1)]

    def to_json(self, source: dict[str, Any]) -> str:
        """The model file: readable, diffable, nothing in it is ever executed.

        Args:
            source: where the training pixels came from.
        """
        legend = self.legend()
        document = {
            "schema": "s2landcover-cluster-model",
            "schema_version": MODEL_SCHEMA,
            "method": "kmeans",
            "features": [{k: v for k, v in asdict(feature).items() if v} for feature in self.features],
            "radiometry": "reflectance 0 to 1 (DN x 0.0001, BOA offset removed)",
            "scaling": {"method": self.scaling, "shift": self.shift.tolist(), "spread": self.spread.tolist()},
            "classes": [
                {"code": each.code, "name": each.name, "color": each.hex, "center": center}
                for each, center in zip(legend, self.centers.tolist())
            ],
            "training": {"sample_size": self.sample_size, "seed": self.seed, "inertia": self.inertia, **source},
            "versions": {
                "s2landcover": VERSION,
                "numpy": np.__version__,
                "scikit-learn": require("sklearn").__version__,
                "python": platform.python_version(),
            },
        }
        return json.dumps(document, indent=1) + "\n"


class NearestCenter(Op):
    """Code of the nearest centre (1 to k) for every valid pixel. Can be sent to another process.

    Scores are 2 c.z - |c|^2 with scaling and reflectance folded into one (k, features + 1) matrix; float32, and where two scores are
    closer than float32 can tell, again in float64: labels equal those of float64 throughout.
    """

    def __init__(self, space: FeatureSpace, model: ClusterModel) -> None:
        self.space = space
        self.model = model
        self.outputs = (OutputBand("class", "uint8", NODATA_CODE),)
        scaled = (model.centers - model.shift) / model.spread
        weights = 2 * scaled / model.spread
        constant = -(scaled**2).sum(1) - weights @ model.shift
        n = space.n_bands
        constant = constant + weights[:, :n] @ space.offset[:n]
        weights[:, :n] *= space.scale[:n]
        self.weights = np.concatenate([weights, constant[:, None]], axis=1)

    def __call__(self, block: Block) -> Block:
        data = np.asarray(block.data)
        stored = data.reshape(len(data), -1)
        codes = np.empty(stored.shape[1], np.uint8)
        defined = self._assign(stored, codes)
        valid = block.valid if defined is None else block.valid & defined.reshape(block.valid.shape)
        return Block((codes.reshape(data.shape[1:]),), valid, block.window)

    def _assign(self, stored: np.ndarray, codes: np.ndarray) -> np.ndarray | None:
        """Fill codes; the result tells which pixels have all their indices defined (None: all)."""
        k, width = self.weights.shape
        bands = self.space.n_bands
        weights = self.weights.astype(np.float32)
        magnitude = np.abs(weights)
        features = np.ones((width, CHUNK_PX), np.float32)
        scores = np.empty((k, CHUNK_PX), np.float32)
        best = np.empty(CHUNK_PX, np.float32)
        close = np.empty((k, CHUNK_PX), bool)
        higher = np.empty(CHUNK_PX, bool)
        defined = np.ones(stored.shape[1], bool) if self.space.formulas else None
        for start in range(0, stored.shape[1], CHUNK_PX):
            chunk = stored[:, start : start + CHUNK_PX]
            n = chunk.shape[1]
            x, s, b, c, h, code = features[:, :n], scores[:, :n], best[:n], close[:, :n], higher[:n], codes[start : start + n]
            x[:bands] = chunk[:bands]
            if defined is not None:
                x[bands:-1] = self.space.indices_of(chunk, "float32")
                defined[start : start + n] = np.isfinite(x[bands:-1]).all(axis=0)
            np.matmul(weights, x, out=s)
            _running_argmax(s, b, h, code)
            # bound of the rounding error of a float32 dot product (Higham 2002, eq. 3.5), for two scores
            reach = np.nan_to_num(np.abs(x).max(axis=1), posinf=0.0)
            b -= np.float32(4 * width * np.finfo(np.float32).eps * float((magnitude @ reach).max()))
            np.greater_equal(s, b, out=c)
            near = np.flatnonzero(np.add.reduce(c.view(np.uint8), axis=0, dtype=np.uint8) != 1)
            if len(near):
                code[near] = self._assign_exactly(chunk[:, near])
        return defined

    def _assign_exactly(self, stored: np.ndarray) -> np.ndarray:
        z = (self.space.values(stored) - self.model.shift[:, None]) / self.model.spread[:, None]
        scaled = (self.model.centers - self.model.shift) / self.model.spread
        scores: np.ndarray = 2 * scaled @ z - (scaled**2).sum(1)[:, None]
        return (scores.argmax(axis=0) + 1).astype(np.uint8)


def _running_argmax(scores: np.ndarray, best: np.ndarray, higher: np.ndarray, code: np.ndarray) -> None:
    """code = 1 + argmax over the rows of scores, best = their maximum; four SIMD passes per row, no masked copies."""
    best[:] = scores[0]
    code[:] = 1
    number = higher.view(np.uint8)
    for j in range(1, len(scores)):
        np.greater(scores[j], best, out=higher)
        np.maximum(best, scores[j], out=best)
        np.multiply(number, np.uint8(j + 1), out=number)
        np.maximum(code, number, out=code)


@dataclass(frozen=True)
class ClusterOutputs:
    """Where the results go; empty: not wanted."""

    raster: str
    model: str = ""
    table: str = ""
    html: str = ""


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


def canonical_order(features: Sequence[Feature], centers: np.ndarray) -> np.ndarray:
    """Order of centres from dark to bright: mean over the bands, then band by band; the same whatever order the fit gave."""
    bands = [i for i, feature in enumerate(features) if not feature.formula] or list(range(len(features)))
    keys = np.round(centers, 9)
    brightness = keys[:, bands].mean(1)
    return np.lexsort((*keys.T[::-1], np.round(brightness, 9)))


def run_clustering(source: str, outputs: ClusterOutputs, options: ClusterOptions, progress: Progress) -> ClusterReport:
    """Group the pixels of a raster into clusters and write the map, the model, the areas and the report.

    Raises:
        EngineError: the raster cannot be used, an option is wrong, or there are fewer distinct pixels than clusters.
        Cancelled: the user asked to stop.
    """
    check_options(options)
    info = describe(source)
    reader, space = feature_reader(info, options.bands, options.indices, options.band_map, progress)
    scaled, shift, spread = _scaled_sample(reader, space, options, progress.part(0, 0.15))
    selection = None
    if options.n_clusters:
        fit = fit_kmeans(scaled, options.n_clusters, options.seed, source)
    else:
        selection = select_n_clusters(scaled, _limits(options), options.selection, source, progress.part(0.15, 0.5))
        fit = selection.fits[selection.chosen]
        progress.info(selection.reason)
    model = _model(space, fit, shift, spread, len(scaled), options)
    return _write_map(reader, space, model, outputs, fit, selection, _provenance(options, info.path, info.metadata), progress)


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
    selection = select_n_clusters(scaled, _limits(options), options.selection, source, progress.part(0.2, 1))
    progress.info(selection.reason)
    with OutputFiles([source]) as files:
        if table:
            files.write_text(table, selection.table())
        if html:
            files.write_text(html, selection_report_html(selection, source, len(scaled), space.names))
    return selection


def _limits(options: ClusterOptions) -> tuple[int, int, int]:
    return options.k_min, options.k_max, options.seed


def _scaled_sample(
    reader: RasterReader, space: FeatureSpace, options: ClusterOptions, progress: Progress
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A scaled sample (n, n_features) with the shift and spread that scaled it."""
    values = draw_sample(reader, space, options.sample_size, options.seed, progress).values
    shift, spread = scaling_of(values, options.scaling)
    return (values - shift) / spread, shift, spread


def _model(space: FeatureSpace, fit: ClusterFit, shift: np.ndarray, spread: np.ndarray, n: int, options: ClusterOptions) -> ClusterModel:
    centers = fit.centers * spread + shift
    order = canonical_order(space.features, centers)
    return ClusterModel(space.features, centers[order], shift, spread, options.scaling, options.seed, n, fit.inertia)


def _provenance(options: ClusterOptions, path: str, metadata: dict[str, str]) -> dict[str, str]:
    facts = {
        "S2LC_ALGORITHM": "clusterraster",
        "S2LC_VERSION": VERSION,
        "S2LC_INPUT": path.replace("\\", "/").rsplit("/", 1)[-1],
        "S2LC_PARAMETERS": json.dumps(asdict(options)),
    }
    return {**facts, **{key: metadata[key] for key in ("S2LC_SCENES", "S2LC_DATETIME") if key in metadata}}


def _write_map(
    reader: RasterReader,
    space: FeatureSpace,
    model: ClusterModel,
    outputs: ClusterOutputs,
    fit: ClusterFit,
    selection: Selection | None,
    provenance: dict[str, str],
    progress: Progress,
) -> ClusterReport:
    from .report import cluster_report_html

    legend = model.legend()
    tally = ClassTally(reader.grid, len(legend) + 1)
    op = NearestCenter(space, model)
    with OutputFiles([reader.path]) as files:
        raster = files.path(outputs.raster)
        with RasterWriter(raster, reader.grid, op.outputs, metadata=provenance, legend=legend) as writer:
            run_blocks(reader, op, [writer, tally], progress=progress.part(0.5, 0.95))
        pixels = [int(tally.pixels[each.code]) for each in legend]
        hectares = [float(tally.hectares[each.code]) for each in legend]
        write_class_table(raster, legend, pixels, hectares)
        with open(files.sidecar(outputs.raster, ".qml"), "w", encoding="utf-8") as style:
            style.write(qml(legend))
        report = ClusterReport(len(legend), fit.inertia, fit.davies_bouldin, tuple(legend), tuple(pixels), tuple(hectares), selection)
        if outputs.model:
            files.write_text(outputs.model, model.to_json({"input": provenance["S2LC_INPUT"], "scenes": provenance.get("S2LC_SCENES", "")}))
        if outputs.table:
            files.write_text(outputs.table, tally.table(legend))
        if outputs.html:
            files.write_text(outputs.html, cluster_report_html(report, model, raster, provenance))
        progress.report(1.0)
    return report
