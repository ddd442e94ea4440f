"""Figures of confusion matrices, their intervals, and estimates weighted by area."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics

from s2landcover_plugin.engine.confusion import FIGURES, Confusion, area_adjusted, figures, intervals


@pytest.mark.parametrize("n", [2, 4])
def test_figures_equal_scikit_learn(n):
    rng = np.random.default_rng(n)
    truth = rng.integers(0, n, 3000)
    found = np.where(rng.random(3000) < 0.6, truth, rng.integers(0, n, 3000))
    counts = metrics.confusion_matrix(truth, found)
    values = figures(counts, 1)
    expected = (
        metrics.accuracy_score(truth, found),
        metrics.precision_score(truth == 1, found == 1),
        metrics.recall_score(truth == 1, found == 1),
        metrics.f1_score(truth == 1, found == 1),
        metrics.jaccard_score(truth == 1, found == 1),
        metrics.cohen_kappa_score(truth, found),
    )
    assert [float(values[name]) for name in FIGURES] == pytest.approx(expected)
    whole = Confusion(counts, tuple("abcd"[:n]))
    assert (whole.overall_accuracy, whole.kappa, whole.f1[1]) == pytest.approx((expected[0], expected[5], expected[3]))


def test_figures_that_are_not_defined_are_nan():
    nothing = figures(np.array([[5, 0], [0, 0]]), 1)
    assert nothing["overall_accuracy"] == 1
    assert all(np.isnan(nothing[name]) for name in ("precision", "recall", "f1", "iou", "kappa"))
    assert all(np.isnan(value) for value in figures(np.zeros((2, 2)), 1).values())


def test_intervals_of_independent_squares_are_those_of_their_mean():
    """The overall accuracy of equal squares is a mean: its standard error is known."""
    rng = np.random.default_rng(0)
    rates = rng.uniform(0.6, 1.0, 400)
    squares = np.array([[[right // 2, 100 - right], [0, right - right // 2]] for right in np.rint(100 * rates).astype(int)])
    low, high = intervals(squares, 1, 0)["overall_accuracy"]
    mine = squares[:, [0, 1], [0, 1]].sum(axis=1) / 100
    half = 1.96 * mine.std(ddof=1) / np.sqrt(400)
    assert (low, high) == (pytest.approx(mine.mean() - half, abs=0.1 * half), pytest.approx(mine.mean() + half, abs=0.1 * half))
    assert intervals(squares, 1, 0) == intervals(squares, 1, 0)


def test_clumped_errors_give_wider_intervals_than_scattered_ones():
    """The same figures, with the errors in one square out of ten."""
    scattered = np.tile(np.array([[80, 2], [0, 18]]), (100, 1, 1))
    clumped = np.tile(np.array([[82, 0], [0, 18]]), (100, 1, 1))
    clumped[::10] = [[62, 20], [0, 18]]
    np.testing.assert_array_equal(scattered.sum(0), clumped.sum(0))
    widths = [np.diff(intervals(squares, 1, 0)["precision"])[0] for squares in (scattered, clumped)]
    assert widths[0] == 0 and widths[1] > 0.05


def test_no_intervals_from_few_squares():
    assert intervals(np.tile(np.eye(2, dtype=int), (19, 1, 1)), 1, 0) == {}
    mostly_empty = np.zeros((400, 2, 2), int)
    mostly_empty[:5] = 7
    assert intervals(mostly_empty, 1, 0) == {}


def test_published_example_of_area_adjustment():
    """Olofsson et al. 2014, section 5: 640 reference pixels, a map of 10 million Landsat pixels (0.09 ha)."""
    samples = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]])  # rows = map
    found = area_adjusted(samples.T, np.array([200_000, 150_000, 3_200_000, 6_450_000]))
    assert found.overall_accuracy == pytest.approx((0.95, 0.02), abs=0.005)
    np.testing.assert_allclose(found.precision, [[0.88, 0.73, 0.93, 0.96], [0.07, 0.10, 0.04, 0.02]], atol=0.005)
    np.testing.assert_allclose(found.recall, [[0.75, 0.85, 0.93, 0.96], [0.21, 0.25, 0.03, 0.02]], atol=0.005)
    np.testing.assert_allclose(found.share[0, 0] * 1e7 * 0.09, 21_158, atol=1)
    np.testing.assert_allclose(found.share[1, 0] * 1e7 * 0.09, 6_158, atol=1)


def test_a_mapped_class_without_reference_is_not_known():
    found = area_adjusted(np.array([[40, 0], [10, 0]]), np.array([900.0, 100.0]))
    assert np.isnan(found.overall_accuracy[0]) and np.isnan(found.precision[0, 1])
    without = area_adjusted(np.array([[40, 0], [10, 0]]), np.array([900.0, 0.0]))
    assert without.share[0].tolist() == pytest.approx([0.8, 0.2]) and without.overall_accuracy[0] == pytest.approx(0.8)
