"""Rules of change on the simulated pair with planted landslides, a muddy river and phenology."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import f1_score

from demo.change_pair import BANDS, SHIFT_PX, make_pair
from s2landcover_plugin.engine.change import (
    CLOUD,
    METHODS,
    NO_DATA,
    SHADOW,
    SNOW,
    USED,
    WATER,
    ChangeFit,
    DatePlanes,
    PairSpace,
    check_methods,
    fit_rule,
)
from s2landcover_plugin.engine.errors import EngineError
from s2landcover_plugin.engine.radiometry import ReflectanceScale
from s2landcover_plugin.engine.sentinel2 import BY_NAME

COMMON = [BY_NAME[name].common_name for name in BANDS]
SCALES = {name: ReflectanceScale(1e-4, 0.0) for name in COMMON}


def left_out(space, stored):
    return space.left_out(space.seen(stored))


def features(space, stored):
    return space.features(space.seen(stored))


def planes_of(names, start=0, scl=None):
    return DatePlanes({name: start + i for i, name in enumerate(names)}, SCALES, scl)


def pair_space(names=COMMON, **more):
    return PairSpace(planes_of(names), planes_of(names, len(names)), **more)


@pytest.fixture(scope="module", params=[True, False], ids=["slides", "no change"])
def pair(request):
    """The pair, its second date brought back by the planted shift with SciPy: (stored planes (12, n), pair, usable pixels)."""
    made = make_pair(changed=request.param)
    back = np.stack([ndimage.shift(band.astype(float), (-SHIFT_PX[1], -SHIFT_PX[0]), order=3, mode="nearest") for band in made.after])
    inner = np.zeros(made.scars.shape, bool)
    inner[4:-4, 4:-4] = True
    stored = np.concatenate([made.before, np.clip(np.rint(back), 1, 65535).astype(np.uint16)]).reshape(12, -1)
    return stored[:, inner.ravel()], made, inner


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n_clusters", [2, 3])
def test_planted_slides_are_found_and_nothing_else(pair, method, n_clusters):
    stored, made, inner = pair
    space = pair_space()
    out = left_out(space, stored)
    values = space.values(stored)
    use = np.isfinite(values).all(axis=0)
    np.testing.assert_array_equal(use, out == USED)
    picked = np.random.default_rng(0).choice(np.flatnonzero(use), 20000, replace=False)
    options = ChangeFit(n_clusters=n_clusters)
    rule = fit_rule(method, space, values[:, picked].T, stored[:, picked], options, "before, after")
    marked = np.zeros(stored.shape[1], bool)
    marked[use] = rule.decide(space, space.seen(stored[:, use]), values[:, use])
    assert not marked[made.river[inner]].any(), "the river is no landslide"
    assert rule.sentence.endswith(".")
    if made.scars.any():
        assert f1_score(made.scars[inner], marked) >= 0.85
    else:
        assert marked.mean() < 0.005


def test_water_can_be_kept(pair):
    stored, made, inner = pair
    assert (left_out(pair_space(exclude_water=False), stored)[made.river[inner]] == USED).mean() > 0.9
    assert (left_out(pair_space(), stored)[made.river[inner]] == WATER).all()


def test_features_by_hand():
    """One pixel: NDVI 0.8 and 0.2, BSI by its formula."""
    before, after = [300, 600, 400, 3600, 1800, 900], [900, 1200, 1600, 2400, 3400, 2900]
    stored = np.array([before + after], np.uint16).T
    space = pair_space()
    bsi = [((s + r) - (n + b)) / ((s + r) + (n + b)) for b, g, r, n, s, _ in (before, after)]
    assert features(space, stored)[:, 0] == pytest.approx([0.8, 0.2, 0.6, bsi[0], bsi[1], bsi[1] - bsi[0]])
    assert space.names == ("NDVI_BEFORE", "NDVI_AFTER", "NDVI_DROP", "BSI_BEFORE", "BSI_AFTER", "BSI_RISE")
    few = pair_space(["red", "nir"])
    assert features(few, stored[[2, 3, 8, 9]])[:, 0] == pytest.approx([0.8, 0.2, 0.6]) and len(few.names) == 3


@pytest.mark.parametrize(
    ("spectrum", "reason"),
    [
        ((300, 600, 400, 3600, 1800, 900), USED),
        ((900, 1200, 1600, 2400, 3400, 2900), USED),
        ((400, 450, 300, 200, 100, 80), WATER),
        ((850, 1200, 1350, 700, 160, 120), WATER),
        ((8500, 8400, 8200, 7500, 800, 600), SNOW),
        ((5000, 5000, 5000, 5500, 4500, 3500), CLOUD),
        ((200, 200, 150, 500, 600, 400), SHADOW),
    ],
)
def test_what_is_left_out_without_a_classification(spectrum, reason):
    clear = (300, 600, 400, 3600, 1800, 900)
    stored = np.array([[*spectrum, *clear], [*clear, *spectrum]], np.uint16).T
    assert left_out(pair_space(), stored).tolist() == [reason, reason], "in either date"


@pytest.mark.parametrize(
    ("scl", "reason"), [(4, USED), (5, USED), (6, WATER), (0, NO_DATA), (1, NO_DATA), (3, CLOUD), (9, CLOUD), (11, SNOW)]
)
def test_what_is_left_out_by_the_classification(scl, reason):
    clear = (300, 600, 400, 3600, 1800, 900)
    space = PairSpace(planes_of(COMMON, scl=6), planes_of(COMMON, 7, scl=13))
    assert left_out(space, np.array([[*clear, scl, *clear, 4], [*clear, 5, *clear, scl]], np.uint16).T).tolist() == [reason, reason]


def test_muddy_water_is_water_whatever_the_classification_says():
    space = PairSpace(planes_of(COMMON, scl=6), planes_of(COMMON, 7, scl=13))
    muddy, clear = (850, 1200, 1350, 700, 160, 120), (300, 600, 400, 3600, 1800, 900)
    assert left_out(space, np.array([[*clear, 4, *muddy, 5]], np.uint16).T).tolist() == [WATER]


def test_methods_are_checked():
    check_methods(["irmad", "gmm"])
    with pytest.raises(EngineError, match="otsu cannot be used.*choose from ndvi-drop"):
        check_methods(["otsu", "gmm"])
    with pytest.raises(EngineError, match="No method"):
        check_methods([])
