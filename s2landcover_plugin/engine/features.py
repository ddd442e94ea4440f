"""Features of a pixel: reflectances of chosen bands, and spectral indices of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Mapping, Sequence

import numpy as np

from . import indices, sentinel2
from .errors import EngineError
from .progress import Progress
from .radiometry import reflectance_scales
from .raster import RasterInfo, RasterReader


@dataclass(frozen=True)
class Feature:
    """One feature: a band, or an index of bands."""

    name: str
    """`B04`, or `NDVI`."""
    formula: str = ""
    """Empty for a band."""
    wavelength_um: float | None = None


class FeatureSpace:
    """Turns stored numbers of some planes into features. Can be sent to another process.

    Attributes:
        features: bands first (plane i is feature i for i < n_bands), then indices.
        scale, offset: (planes,) reflectance = stored x scale + offset; planes beyond n_bands only feed indices.
    """

    def __init__(self, features: Sequence[Feature], scale: np.ndarray, offset: np.ndarray, planes: dict[str, int]) -> None:
        self.features = tuple(features)
        self.scale = scale
        self.offset = offset
        self.planes = dict(planes)
        self.n_bands = sum(not feature.formula for feature in features)
        self.formulas = tuple(indices.Formula(feature.formula) for feature in features if feature.formula)

    @property
    def names(self) -> list[str]:
        """Names of the features in order."""
        return [feature.name for feature in self.features]

    def indices_of(self, stored: np.ndarray, dtype: str) -> np.ndarray:
        """The index features of pixels: (planes, n) stored values -> (n_indices, n); not finite where a formula is undefined."""
        used = {name for formula in self.formulas for name in formula.bands}
        reflectance = {
            name: stored[self.planes[name]].astype(dtype) * np.dtype(dtype).type(self.scale[self.planes[name]])
            + np.dtype(dtype).type(self.offset[self.planes[name]])
            for name in used
        }
        result = np.empty((len(self.formulas), stored.shape[1]), dtype)
        for row, formula in zip(result, self.formulas):
            row[:] = formula(reflectance)
        return result

    def valid_indices(self, stored: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Indices of a block: (planes, rows, cols) stored and valid -> values and valid, both (n_indices, rows, cols).

        An index is valid where its bands are and its formula is defined.
        """
        values = self.indices_of(stored.reshape(len(stored), -1), "float64").reshape(-1, *stored.shape[1:])
        defined = np.isfinite(values)
        for ok, formula in zip(defined, self.formulas):
            ok &= valid[[self.planes[name] for name in formula.bands]].all(axis=0)
        return values, defined

    def usable(self, stored: np.ndarray) -> np.ndarray:
        """(n,) bool: every valid pixel is."""
        return np.ones(stored.shape[1], bool)

    def values(self, stored: np.ndarray) -> np.ndarray:
        """All features of pixels: (planes, n) stored values -> (n_features, n) float64."""
        bands = stored[: self.n_bands].astype(np.float64) * self.scale[: self.n_bands, None] + self.offset[: self.n_bands, None]
        return np.concatenate([bands, self.indices_of(stored, "float64")]) if self.formulas else bands


def feature_reader(
    info: RasterInfo,
    bands: Sequence[str],
    index_names: Sequence[str],
    band_map: str,
    progress: Progress,
    *,
    with_bands: bool = True,
    formulas: Sequence[tuple[str, indices.Formula]] = (),
) -> tuple[RasterReader, FeatureSpace]:
    """A reader of the planes that the features need, and the feature space over them.

    Args:
        bands: names or numbers; all bands but SCL if empty.
        index_names: names from index_table.INDICES, or formulas `NAME = …`.
        band_map: `red=3,nir=4` for foreign files.
        with_bands: whether bands are features themselves; else only the indices are.
        formulas: further indices, as a saved model has them.

    Raises:
        EngineError: a band or index that does not exist, or that an index needs and the raster lacks.
    """
    chosen = sentinel2.choose_bands(info.bands, info.path, bands) if with_bands else []
    known = sentinel2.spectral_bands(info.bands, info.path, band_map)
    features = [_band_feature(info, index) for index in chosen]
    have = f"{info.path} (bands: {', '.join(band.name for band in info.bands)})"
    extra = []
    for name, formula in [*map(index_formula, dict.fromkeys(index_names)), *formulas]:
        for needed in formula.bands:
            index = known[needed] = band_for(needed, known, have, name)
            if index not in chosen and index not in extra:
                extra.append(index)
        features.append(Feature(name, formula.text))
    if not features:
        raise EngineError("The raster has no band to use", info.path, "choose a raster of reflectance bands, or name a band in BANDS")
    unsigned = all(band.dtype.startswith("uint") for band in info.bands)
    reader = RasterReader(info, [*chosen, *extra], nodata=0 if unsigned else None)
    scales = reflectance_scales(reader.bands, info.path, progress)
    planes = {name: reader.indexes.index(index) for name, index in known.items() if index in reader.indexes}
    space = FeatureSpace(features, np.array([s.scale for s in scales]), np.array([s.offset for s in scales]), planes)
    return reader, space


def _band_feature(info: RasterInfo, index: int) -> Feature:
    name = sentinel2.identify(info.bands[index - 1], info.path, alone=len(info.bands) == 1)
    spectral = sentinel2.BY_NAME.get(name)
    return Feature(name, "", spectral.wavelength_um if spectral else None)


def index_formula(text: str) -> tuple[str, indices.Formula]:
    """Name and formula of an index: a published one by its name, or a user's own, `NAME = formula`.

    Raises:
        EngineError: there is no such index, or the formula cannot be read.
    """
    if text in indices.BY_NAME:
        return text, indices.Formula(indices.BY_NAME[text].formula)
    if text.isidentifier():
        raise EngineError(f"The index {text} is not known", "INDICES", f"use {', '.join(indices.BY_NAME)}")
    return indices.parse_user_formula(text)


def band_for(common_name: str, known: Mapping[str, int], have: str, index_name: str) -> int:
    """Where the band that an index needs is; B8A stands in for a missing B08.

    Args:
        known: common name -> position.
        have: what there is instead, for the message.

    Raises:
        EngineError: there is none.
    """
    if common_name in known:
        return known[common_name]
    if common_name == "nir" and "nir08" in known:
        return known["nir08"]
    band = sentinel2.BY_COMMON_NAME[common_name]
    raise EngineError(
        f"{index_name} needs the band {band.name} ({common_name}), which is not there",
        have,
        f"add the band, or tell which one it is with BAND_MAP ({common_name}=1)",
    )
