"""IR-MAD: what it must not see, what it must, and its probabilities."""

from __future__ import annotations

import numpy as np
import pytest
from osgeo import gdal
from scipy import stats
from sklearn.cross_decomposition import CCA

from s2landcover_plugin.engine import irmad
from s2landcover_plugin.engine.errors import EngineError
from s2landcover_plugin.engine.irmad import fit_irmad, kept_variance

from .conftest import shared_data

BANDS = 4


def scene(n=20000, seed=0, changed=0.0):
    """Two dates (n, 4) of one correlated landscape, each with noise of its own; a share of the pixels is replaced in the second."""
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(BANDS, BANDS))
    ground = rng.normal(size=(n, BANDS)) @ mix
    before, after = (ground + 0.2 * rng.normal(size=ground.shape) for _ in range(2))
    hit = np.arange(n) < changed * n
    after[hit] = rng.normal(size=(hit.sum(), BANDS)) @ mix * 1.5 + 4
    return before, after, hit


def test_first_round_is_canonical_correlation():
    """Weights of one: the correlations of scikit-learn's CCA, and variates of variance one."""
    before, after, _ = scene(3000)
    reference = CCA(BANDS, max_iter=5000, tol=1e-12).fit(before, after)
    x, y = reference.transform(before, after)
    expected = sorted(np.corrcoef(a, b)[0, 1] for a, b in zip(x.T, y.T))
    found = fit_irmad(before, after, "a, b")
    single = irmad._variates(before, after, np.ones(len(before)), "a, b")
    assert single.correlations == pytest.approx(expected, abs=1e-6)
    for weights, values in ((single.before, before), (single.after, after)):
        np.testing.assert_allclose(np.cov(((values - values.mean(0)) @ weights).T, bias=True), np.eye(BANDS), atol=1e-9)
    assert found.converged and found.rounds > 1


@pytest.mark.parametrize("changed", [0.0, 0.15])
def test_gain_and_offset_of_each_band_change_nothing(changed):
    before, after, _ = scene(changed=changed)
    gain, offset = np.array([0.3, -2.0, 50.0, 1e-4]), np.array([100.0, -3.0, 0.5, 7.0])
    plain, scaled = fit_irmad(before, after, ""), fit_irmad(before, after * gain + offset, "")
    np.testing.assert_allclose(scaled.correlations, plain.correlations, atol=1e-9)
    first = plain.chi_square(before.T, after.T)
    np.testing.assert_allclose(scaled.chi_square(before.T, (after * gain + offset).T), first, rtol=1e-6)
    # also the other date, and bands mixed with each other
    mixed = before @ np.random.default_rng(1).normal(size=(BANDS, BANDS))
    np.testing.assert_allclose(fit_irmad(mixed, after, "").chi_square(mixed.T, after.T), first, rtol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_no_change_probabilities_fit_a_chi_square(seed):
    """Fitted on many pixels, judged on others: squares follow chi-square, probabilities are evenly spread (Kolmogorov-Smirnov)."""
    before, after, _ = scene(400_000, seed)
    found = fit_irmad(before[5000:], after[5000:], "")
    squares = found.chi_square(before[:5000].T, after[:5000].T)
    assert stats.kstest(squares, "chi2", args=(BANDS,)).pvalue > 0.01
    assert stats.kstest(found.no_change(squares), "uniform").pvalue > 0.01
    few = fit_irmad(before[5000:25000], after[5000:25000], "")
    assert stats.kstest(few.chi_square(before[:5000].T, after[:5000].T), "chi2", args=(BANDS,)).statistic < 0.04


@pytest.mark.parametrize("n", [1, 4, 10])
def test_variance_that_weights_leave_by_simulation(n):
    variates = np.random.default_rng(0).normal(size=(400_000, n))
    squares = (variates**2).sum(axis=1)
    weights = stats.chi2.sf(squares, n)
    assert kept_variance(n) == pytest.approx(float((weights * squares).sum() / weights.sum() / n), rel=0.01)


def test_planted_change_is_found():
    before, after, hit = scene(changed=0.15)
    found = fit_irmad(before, after, "")
    marked = found.no_change(found.chi_square(before.T, after.T)) < 0.001
    assert marked[hit].mean() > 0.85 and marked[~hit].mean() < 0.02


def test_reweighting_matters():
    """With 30 % changed one round alone mistakes the change for the normal state."""
    before, after, hit = scene(changed=0.3)
    found = fit_irmad(before, after, "")
    assert found.rounds > 3
    probability = found.no_change(found.chi_square(before.T, after.T))
    assert probability[hit].mean() < 0.05 < 0.2 < probability[~hit].mean()


def test_real_bands_of_two_dates():
    """Two days apart: most pixels are unchanged, and clouds (by ESA's classification) are not."""
    folder = shared_data("earth_search_33twm")
    dates = []
    for date in ("20230815", "20230818"):
        path = next(folder.glob(f"*{date}*"))
        dates.append(np.stack([gdal.Open(str(path / f"{b}.tif")).ReadAsArray() for b in ("B02", "B03", "B04", "B08", "SCL")]))
    use = (dates[0] > 0).all(axis=0) & (dates[1] > 0).all(axis=0) & ~np.isin(dates[0][4], (3, 8, 9, 10))
    before, after = (each[:4, use].T.astype(float) for each in dates)
    found = fit_irmad(before[::7], after[::7], "")
    probability = found.no_change(found.chi_square(before.T, after.T))
    cloud = dates[1][4][use] == 9
    assert (probability[cloud] < 0.01).mean() > 0.95


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda a, b: (a[:100], b[:100]), "only 100 pixels to compare 4 bands"),
        (lambda a, b: (a * [1, 1, 1, 0], b), "constant"),
        (lambda a, b: (a, np.column_stack([b[:, :3], b[:, 0] + b[:, 1]])), "combination of other bands"),
    ],
)
def test_what_cannot_be_fitted_is_one_sentence(spoil, said):
    before, after, _ = scene(2000)
    with pytest.raises(EngineError, match=said):
        fit_irmad(*spoil(before, after), "a.tif, b.tif")


def test_identical_dates_have_no_change():
    before, _, _ = scene(5000)
    found = fit_irmad(before, before, "")
    assert found.correlations == pytest.approx(1)
    assert (found.no_change(found.chi_square(before.T, before.T)) > 0.99).all()
