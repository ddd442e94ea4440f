"""Change between two dates: features of both, what is left out, and the methods that decide."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Mapping, Sequence

import numpy as np

from . import sentinel2
from .classification import Nearest
from .errors import EngineError
from .features import Feature
from .fitting import FITS, ClusterFit
from .irmad import IrMad, fit_irmad
from .legend import LegendClass
from .models import ClusterModel, scatter
from .radiometry import ReflectanceScale

METHODS = ("ndvi-drop", "kmeans", "gmm", "irmad")
USED, NO_DATA, CLOUD, WATER, SNOW, SHADOW = range(6)
REASONS = ("used", "no data", "cloud or its shadow", "water", "snow or ice", "dark shadow")
"""Why a pixel is left out, by code."""
DIFFERENCES = ("NDVI_DROP", "BSI_RISE")
SURE = 0.001
"""Probability of no change below which IR-MAD calls a pixel changed."""
LEAST_SPREAD = 0.01
"""NDVI and BSI of unchanged land differ by this much at least, even where two images are copies of each other."""
WORTH_A_WORD = 0.001
"""Share of the sample whose NDVI fell beyond the threshold, for a warning where no cluster is the change."""
LEAST_STEADY = 0.1
"""Share of the sample whose NDVI hardly moved, to start IR-MAD from."""
LEAST_WEIGHT = 1e-3
"""Of a pixel that clearly changed, in the first round of IR-MAD."""
LEAST_UNCHANGED = 0.5
"""Share of the sample that has to look unchanged for IR-MAD to be trusted."""
LEAST_REFLECTANCE = 1e-4
"""One DN: what stacks of this plugin have at least."""
OUTLYING = 5.0
"""Robust standard deviations of the NDVI difference beyond which a pixel may start the cluster of change."""
MAD_DROP = 0.75
"""Share of the NDVI threshold that a pixel has fallen by at least where IR-MAD sees a change: growth and ripening are changes too."""


@dataclass(frozen=True)
class DatePlanes:
    """Where the bands of one date are in a stack of planes.

    Attributes:
        planes: common name -> plane; red and nir at least.
        scales: of the same bands: reflectance = stored x scale + offset.
        scl: plane of the scene classification, or None.
    """

    planes: Mapping[str, int]
    scales: Mapping[str, ReflectanceScale]
    scl: int | None = None


class Seen:
    """Some pixels of one date; each reflectance is computed once.

    Attributes:
        stored: (planes, n).
    """

    def __init__(self, date: DatePlanes, stored: np.ndarray, dtype: str) -> None:
        self.date = date
        self.stored = stored
        self.dtype = np.dtype(dtype)
        self._known: dict[str, np.ndarray] = {}

    def __contains__(self, name: str) -> bool:
        return name in self.date.planes

    @cached_property
    def _reflectances(self) -> np.ndarray:
        """(bands, n) of all bands."""
        values = np.empty((len(self.date.planes), self.stored.shape[1]), self.dtype)
        for row, plane in zip(values, self.date.planes.values()):
            row[:] = self.stored[plane]
        scales = [self.date.scales[name] for name in self.date.planes]
        values *= np.array([[each.scale] for each in scales], self.dtype)
        if any(each.offset for each in scales):
            values += np.array([[each.offset] for each in scales], self.dtype)
        return values

    def reflectances(self, names: Sequence[str]) -> np.ndarray:
        """(len(names), n) reflectance of some bands, not to be written to."""
        own = list(self.date.planes)
        return self._reflectances if own == list(names) else self._reflectances[[own.index(name) for name in names]]

    def positive(self, name: str) -> np.ndarray:
        """(n,) reflectance, at least LEAST_REFLECTANCE: indices of signed numbers have no bounds."""
        if name not in self._known:
            values = self._reflectances[list(self.date.planes).index(name)]
            self._known[name] = values if self._is_bright(name) else np.maximum(values, self.dtype.type(LEAST_REFLECTANCE))
        return self._known[name]

    def _is_bright(self, name: str) -> bool:
        """Whether all are above LEAST_REFLECTANCE for certain: the smallest of whole numbers is found in no time."""
        stored, scale = self.stored[self.date.planes[name]], self.date.scales[name]
        if stored.dtype.kind not in "iu" or not stored.size or scale.scale <= 0:
            return False
        return bool(stored.min() * scale.scale + scale.offset > 2 * LEAST_REFLECTANCE)

    @property
    def classes(self) -> np.ndarray | None:
        """(n,) scene classification, where there is one."""
        return None if self.date.scl is None else self.stored[self.date.scl]


class PairSpace:
    """Features of pixels of two dates. Can be sent to another process.

    NDVI of both dates and its drop; where both dates have blue and SWIR, also BSI (Rikimaru et al. 2002) of both dates and its rise.
    """

    def __init__(self, before: DatePlanes, after: DatePlanes, *, exclude_water: bool = True) -> None:
        self.dates = (before, after)
        self.exclude_water = exclude_water
        bare = all("blue" in date.planes and "swir16" in date.planes for date in self.dates)
        self.names = ("NDVI_BEFORE", "NDVI_AFTER", "NDVI_DROP", *(("BSI_BEFORE", "BSI_AFTER", "BSI_RISE") if bare else ()))
        self.common = tuple(name for name in before.planes if name in after.planes)

    def seen(self, stored: np.ndarray, dtype: str = "float64") -> tuple[Seen, Seen]:
        """Pixels (planes, n) of both dates."""
        return Seen(self.dates[0], stored, dtype), Seen(self.dates[1], stored, dtype)

    def values(self, stored: np.ndarray) -> np.ndarray:
        """(features, n) of stored planes (planes, n); NaN where a pixel is left out or an index is not defined."""
        pixels = self.seen(stored)
        features = self.features(pixels)
        features[:, self.left_out(pixels) != USED] = np.nan
        return features

    def features(self, pixels: tuple[Seen, Seen]) -> np.ndarray:
        """(features, n) of pixels, whether left out or not."""
        rows = np.empty((len(self.names), pixels[0].stored.shape[1]), pixels[0].dtype)
        for row, date in zip(rows, pixels):
            _difference(date.positive("nir"), date.positive("red"), row)
        np.subtract(rows[0], rows[1], out=rows[2])
        if len(rows) > 3:
            for row, date in zip(rows[3:], pixels):
                _difference(date.positive("swir16") + date.positive("red"), date.positive("nir") + date.positive("blue"), row)
            np.subtract(rows[4], rows[3], out=rows[5])
        return rows

    @property
    def n_planes(self) -> int:
        """How many planes both dates have together."""
        return sum(len(date.planes) + (date.scl is not None) for date in self.dates)

    def magnitude(self, features: np.ndarray) -> np.ndarray:
        """(n,) length of the change of NDVI and, where it is there, BSI, of features (features, n): change vectors (Malila 1980)."""
        return np.asarray(np.hypot(features[2], features[5]) if len(features) > 3 else np.abs(features[2]))

    def reflectances(self, pixels: tuple[Seen, Seen]) -> tuple[np.ndarray, np.ndarray]:
        """(bands, n) reflectance of the bands that both dates have, for each date."""
        return pixels[0].reflectances(self.common), pixels[1].reflectances(self.common)

    def left_out(self, pixels: tuple[Seen, Seen]) -> np.ndarray:
        """(n,) uint8, why a pixel is left out (position in REASONS): the reason of the first date, else that of the second."""
        n = len(REASONS)
        # weights instead of codes: a product and a maximum take a fraction of the time of an assignment to some pixels
        weights = np.zeros(pixels[0].stored.shape[1], np.uint8)
        for date, least in zip(pixels, (n, 0)):
            for code, hit in _reasons(date).items():
                if (code != WATER or self.exclude_water) and hit.any():
                    np.maximum(weights, hit * np.uint8(least + n - code), out=weights)
        return ((n - np.arange(2 * n)) % n).astype(np.uint8)[weights]


def _difference(a: np.ndarray, b: np.ndarray, result: np.ndarray) -> None:
    """result = (a - b) / (a + b); both are positive."""
    np.subtract(a, b, out=result)
    result /= a + b


def _reasons(date: Seen) -> dict[int, np.ndarray]:
    """Reason -> where it holds (n,), in the order of weight.

    By the scene classification where there is one; muddy water, which it takes for soil, by indices too. Without it clouds are bright and
    white, snow is bright with an NDSI of 0.4 or more (Hall et al. 1995), shadow is dark in the near infrared too.
    """
    red, nir, classes = date.positive("red"), date.positive("nir"), date.classes
    green, swir, blue = (date.positive(name) if name in date else None for name in ("green", "swir16", "blue"))
    # MNDWI (Xu 2006) above 0 where it can be had: mud brightens the near infrared, not SWIR
    nothing: np.ndarray = np.zeros(len(red), bool)
    wet = nothing if green is None else (green > (nir if swir is None else swir)) & (nir < 0.2)
    dark = (red < 0.03) & (nir < 0.08)
    if classes is not None:
        return {
            NO_DATA: np.isin(classes, (0, 1)),
            CLOUD: np.isin(classes, sentinel2.CLOUD_CLASSES),
            WATER: (classes == 6) | wet,
            SNOW: classes == 11,
            SHADOW: dark & ~wet,
        }
    white, snow = nothing, nothing
    if blue is not None:
        white = (blue > 0.25) & (red < 1.3 * blue)
    if green is not None and swir is not None:
        snow = (green - swir >= 0.4 * (green + swir)) & (green > 0.35)
    return {CLOUD: white & ~snow, WATER: wet & ~snow, SNOW: snow, SHADOW: dark & ~wet}


@dataclass(frozen=True)
class ChangeRule:
    """How a method decides, fitted to a sample.

    Attributes:
        method: one of METHODS.
        sentence: the rule in words, with its figures.
        least_drop: fall of NDVI of a pixel (`ndvi-drop`, `irmad`) or of the mean of its cluster (`kmeans`, `gmm`) at least.
        clusters: of `kmeans` and `gmm`.
        changed: numbers of the clusters that mean change.
        mad: of `irmad`.
        columns: the features that the clusters are made of.
        doubt: what makes its result doubtful, if anything.
    """

    method: str
    sentence: str
    least_drop: float
    clusters: ClusterModel | None = None
    changed: tuple[int, ...] = ()
    mad: IrMad | None = None
    columns: tuple[int, ...] = ()
    doubt: str = ""

    def decide(self, space: PairSpace, pixels: tuple[Seen, Seen], features: np.ndarray) -> np.ndarray:
        """(n,) bool, whether pixels changed.

        Args:
            features: (features, n) of the pixels.
        """
        if self.mad is not None:
            surprising = self.mad.chi_square(*space.reflectances(pixels)) > self.mad.limit(SURE)
            return np.asarray(surprising & (features[2] >= self.least_drop))
        if self.clusters is not None:
            return self._of_clusters(self.clusters, features[list(self.columns)])
        return np.asarray(features[2] > self.least_drop)

    @cached_property
    def _nearest(self) -> Nearest | None:
        return None if self.clusters is None else Nearest(self.clusters)

    def _of_clusters(self, clusters: ClusterModel, values: np.ndarray) -> np.ndarray:
        """Whether features (features, n) belong to a cluster of change."""
        codes = np.zeros(values.shape[1], np.uint8)
        if self.changed and self._nearest is not None:
            close = self._nearest(values, values.astype(np.float32, copy=False), codes)
            if len(close):
                codes[close] = clusters.assign(clusters.scaled(values[:, close].astype(np.float64))) + 1
        # codes begin with 1
        return np.asarray(np.logical_or.reduce([codes == number + 1 for number in self.changed] or [codes > 0]))


def fit_rule(method: str, space: PairSpace, sample: np.ndarray, stored: np.ndarray, options: ChangeFit, where: str) -> ChangeRule:
    """Fit a method to a sample.

    Args:
        sample: (n, features) without NaN.
        stored: (planes, n) of the same pixels.
        where: the rasters, for messages.

    Raises:
        EngineError: there are too few different pixels for it.
    """
    if method == "ndvi-drop":
        return ChangeRule(method, f"NDVI fell by more than {options.ndvi_drop:g}.", options.ndvi_drop)
    if method == "irmad":
        first, second = space.reflectances(space.seen(stored))
        least = MAD_DROP * options.ndvi_drop
        # what clearly fell or grew counts little from the start, or a fifth of changed pixels would pass for the rule
        steady = np.abs(sample[:, 2]) < least
        if steady.mean() < LEAST_STEADY:
            # another season: all fell or rose
            steady = np.abs(sample[:, 2] - np.median(sample[:, 2])) < least
        mad = fit_irmad(first.T, second.T, where, np.where(steady, 1.0, LEAST_WEIGHT))
        figures = ", ".join(f"{value:.3f}" for value in mad.correlations)
        sentence = (
            f"IR-MAD of {', '.join(space.common)}: probability of no change below {SURE:g}, and NDVI fell by at least {least:g}. "
            f"Canonical correlations {figures} after {mad.rounds} rounds{'' if mad.converged else ' (not at rest)'}."
        )
        doubt = ""
        if mad.unchanged < LEAST_UNCHANGED:
            doubt = f"only {100 * mad.unchanged:.0f} % of the sample look unchanged, and the method needs most of them to"
        return ChangeRule(method, sentence, least, mad=mad, doubt=doubt)
    return _cluster_rule(method, list(space.names), sample, options, where)


@dataclass(frozen=True)
class ChangeFit:
    """What the methods need to know."""

    n_clusters: int = 2
    ndvi_drop: float = 0.2
    seed: int = 0


def _cluster_rule(method: str, names: list[str], sample: np.ndarray, options: ChangeFit, where: str) -> ChangeRule:
    """k-means or a mixture on scaled features, and which of its clusters is the change.

    Differences are measured in units of what they are where nothing changes (1.4826 x median absolute deviation), the states of both dates
    in standard deviations: or two clusters would be forest and field.
    """
    least_drop = options.ndvi_drop
    # the state after is that before and the difference: a covariance of all three would be singular
    columns = tuple(i for i, name in enumerate(names) if method == "kmeans" or not name.endswith("_AFTER"))
    sample, names = sample[:, columns], [names[i] for i in columns]
    shift = np.median(sample, axis=0)
    robust = 1.4826 * np.median(np.abs(sample - shift), axis=0)
    spread = np.maximum(np.where([name in DIFFERENCES for name in names], robust, sample.std(axis=0)), LEAST_SPREAD)
    scaled = (sample - shift) / spread
    drop = names.index("NDVI_DROP")

    def means_of(fit: ClusterFit) -> np.ndarray:
        return np.asarray(fit.centers * spread + shift)

    # growth may scatter more than loss: what starts from the loss is kept if it is one
    start = _start(scaled, scaled[:, drop], options, where)
    fit = FITS[method](scaled, options.n_clusters, options.seed, where, start=start)
    if start is not None and means_of(fit)[:, drop].max() < least_drop:
        fit = FITS[method](scaled, options.n_clusters, options.seed, where)
    means = means_of(fit)
    weights, covariances = scatter(scaled, fit.centers) if fit.mixture is None else fit.mixture
    features = tuple(Feature(name) for name in names)
    legend = tuple(LegendClass(number, f"Cluster {number}", (0, 0, 0)) for number in range(1, len(means) + 1))
    model = ClusterModel(features, means, shift, spread, "robust", legend, weights, covariances, method)
    drops = means[:, drop]
    changed = tuple(int(number) for number in np.flatnonzero(drops >= least_drop))
    figures = ", ".join(f"{value:.2f}" for value in drops)
    named = " and ".join(str(number + 1) for number in changed)
    outcome = f"{named} {'is' if len(changed) == 1 else 'are'} the change" if changed else "none is the change"
    sentence = f"Clusters whose mean NDVI fell by at least {least_drop:g} (falls: {figures}): {outcome}."
    fallen = float((sample[:, drop] > least_drop).mean())
    doubt = ""
    if not changed and fallen > WORTH_A_WORD:
        more = "; try 3 clusters" if options.n_clusters < 3 else ""
        doubt = f"no cluster is the change, although NDVI fell by more than {least_drop:g} in {100 * fallen:.2g} % of the sample{more}"
    return ChangeRule(method, sentence, least_drop, clusters=model, changed=changed, columns=columns, doubt=doubt)


def _start(scaled: np.ndarray, drop: np.ndarray, options: ChangeFit, where: str) -> np.ndarray | None:
    """Centres (n_clusters, n_features) to start from: the pixels that changed most, and clusters of the others; None if there are none.

    Random starts seldom find a cluster of one pixel in fifty, even where it has the least inertia by far.
    """
    changed = drop > OUTLYING
    rest = options.n_clusters - 1
    if not changed.any() or np.count_nonzero(~changed) < rest:
        return None
    try:
        others = FITS["kmeans"](scaled[~changed], rest, options.seed, where).centers
    except EngineError:  # fewer different pixels than clusters
        return None
    return np.vstack([others, scaled[changed].mean(axis=0)])


def check_methods(methods: Sequence[str]) -> None:
    """Refuse unknown methods, and none.

    Raises:
        EngineError: there is one.
    """
    unknown = [name for name in methods if name not in METHODS]
    if unknown or not methods:
        raise EngineError(f"{', '.join(unknown) or 'No method'} cannot be used", "METHODS", f"choose from {', '.join(METHODS)}")
