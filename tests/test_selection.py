"""The number of clusters: each index against scikit-learn, planted mixtures, the votes."""

from __future__ import annotations

import csv
import math

import numpy as np
import pytest
from sklearn import metrics
from sklearn.cluster import KMeans
from sklearn.mixture import GaussianMixture

from s2landcover_plugin.engine import quality
from s2landcover_plugin.engine.clustering import ClusterOptions, run_clustering, run_selection
from s2landcover_plugin.engine.errors import Cancelled, EngineError
from s2landcover_plugin.engine.fitting import fit_kmeans, fit_mixture
from s2landcover_plugin.engine.progress import Progress
from s2landcover_plugin.engine.selection import Question, select_n_clusters

from .conftest import Messages
from .test_clustering import outputs


def planted(k, seed, n=2000, n_features=4):
    """k normal clusters with covariances of their own, means at least 7 standard deviations apart."""
    rng = np.random.default_rng((k, seed))
    means = [rng.uniform(-12, 12, n_features)]
    while len(means) < k:
        candidate = rng.uniform(-12, 12, n_features)
        if min(np.linalg.norm(candidate - mean) for mean in means) > 7:
            means.append(candidate)
    labels = rng.choice(k, n, p=rng.dirichlet(np.full(k, 8.0)))
    shapes = [np.linalg.qr(rng.normal(size=(n_features, n_features)))[0] * rng.uniform(0.5, 1.0, n_features) for _ in range(k)]
    values = np.array([means[label] + shapes[label] @ rng.normal(size=n_features) for label in labels])
    return (values - values.mean(0)) / values.std(0)


@pytest.mark.parametrize("method", ["kmeans", "gmm"])
def test_indices_equal_scikit_learns(method):
    values = planted(4, 0)
    fit = (fit_kmeans if method == "kmeans" else fit_mixture)(values, 5, 3, "x")
    if method == "kmeans":
        labels = KMeans(5, init=fit.centers, n_init=1, max_iter=1).fit(values).labels_
    else:
        mixture = GaussianMixture(5)
        mixture.weights_, mixture.covariances_ = fit.mixture
        mixture.means_ = fit.centers
        mixture.precisions_cholesky_ = np.array([np.linalg.inv(np.linalg.cholesky(c)).T for c in mixture.covariances_])
        labels = mixture.predict(values)
        assert quality.measure(quality.BIC, values, fit, method, 3) == pytest.approx(mixture.bic(values), rel=1e-9)
    expected = {
        quality.DAVIES_BOULDIN: metrics.davies_bouldin_score(values, labels),
        quality.CALINSKI_HARABASZ: metrics.calinski_harabasz_score(values, labels),
        quality.SILHOUETTE: metrics.silhouette_score(values, labels),  # the whole sample: it has fewer than 3000 pixels
        quality.ELBOW: sum(((values[labels == c] - fit.centers[c]) ** 2).sum() for c in range(5)),
    }
    for index, value in expected.items():
        assert quality.measure(index, values, fit, method, 3) == pytest.approx(value, rel=1e-6), index.name


def test_the_silhouette_of_a_large_sample_is_that_of_a_seeded_part():
    values = planted(3, 0, n=5000)
    fit = fit_kmeans(values, 3, 0, "x")
    expected = metrics.silhouette_score(values, fit.labels, sample_size=3000, random_state=7)
    assert quality.measure(quality.SILHOUETTE, values, fit, "kmeans", 7) == pytest.approx(expected, rel=1e-9)


def test_stability_is_one_for_what_is_there_and_less_for_what_is_not():
    values = planted(4, 1)
    assert quality.stability(values, 4, "kmeans", 0) > 0.99 > 0.95 > quality.stability(values, 6, "kmeans", 0)
    noise = np.random.default_rng(0).normal(size=(2000, 4))
    assert quality.stability(noise, 5, "kmeans", 0) < 0.7


@pytest.mark.parametrize("method", ["kmeans", "gmm"])
def test_planted_mixtures_are_recovered(method):
    """k = 3 to 9; the two methods together 105 seeded trials in `make test`."""
    trials = 70 if method == "kmeans" else 35
    found = dict.fromkeys((*quality.BY_NAME, "consensus"), 0)
    for trial in range(trials):
        k = 3 + trial % 7
        question = Question(2, 11, trial, method, "consensus")
        selection = select_n_clusters(planted(k, trial, n=700), question, "x", Progress())
        for name, vote in selection.votes.items():
            found[name] += vote == k
        found["consensus"] += selection.chosen == k
    assert found["consensus"] >= 0.9 * trials and found["elbow"] >= 0.9 * trials, found
    if method == "gmm":
        assert found["bic"] >= 0.9 * trials, found


@pytest.mark.parametrize(
    ("votes", "chosen"),
    [
        ({"a": 4, "b": 4, "c": 2}, 4),
        ({"a": 2, "b": 5, "c": 9}, 5),
        ({"a": 2, "b": 2, "c": 7, "d": 7, "e": 6}, 7),
        ({"a": 3, "b": 4}, 3),
    ],
)
def test_consensus_by_hand(votes, chosen):
    assert quality.consensus(votes) == chosen


def test_rules_by_hand():
    values = {2: 0.5, 3: math.nan, 4: 0.97, 5: 0.2, 6: 0.96, 7: 0.2}
    assert {name: rule(values) for name, rule in quality.RULES.items()} == {
        "davies-bouldin": 5,
        "silhouette": 4,
        "calinski-harabasz": 4,
        "stability": 6,
        "bic": 5,
    }
    assert quality.RULES["stability"]({2: 0.3, 3: 0.6}) == 3


def test_every_index_is_in_the_table_and_the_page(stack, tmp_path):
    source, _ = stack
    options = ClusterOptions(method="gmm", k_max=6, selection="consensus")
    selection = run_selection(source, options, str(tmp_path / "k.csv"), str(tmp_path / "k.html"), Progress())
    rows = list(csv.DictReader(open(tmp_path / "k.csv")))
    columns = ["n_clusters", "inertia", "davies_bouldin", "silhouette", "calinski_harabasz", "stability", "bic", "chosen_by"]
    assert list(rows[0]) == columns and [int(row["n_clusters"]) for row in rows] == [2, 3, 4, 5, 6]
    assert selection.chosen == 4 and "consensus" in rows[2]["chosen_by"] and "bic" in rows[2]["chosen_by"]
    page = (tmp_path / "k.html").read_text()
    assert "chosen by consensus" in page and "Rousseeuw" in page and "http" not in page


def test_the_map_uses_the_index_that_was_asked_for(stack, tmp_path):
    source, _ = stack
    for name in ("silhouette", "calinski-harabasz", "stability", "consensus"):
        report = run_clustering(source, outputs(tmp_path, name), ClusterOptions(selection=name, k_max=6), Progress())
        assert report.n_clusters == 4 and name in (tmp_path / f"{name}.html").read_text()
    with pytest.raises(EngineError, match="BIC is defined for mixtures only"):
        run_clustering(source, outputs(tmp_path), ClusterOptions(selection="bic"), Progress())


def test_cancel_between_the_indices(stack, tmp_path):
    source, _ = stack
    folder = tmp_path / "out"
    folder.mkdir()
    complete = Messages()
    options = ClusterOptions(k_max=4, selection="consensus")
    run_clustering(source, outputs(tmp_path, "whole"), options, complete.progress)
    assert complete.fractions == sorted(complete.fractions)
    for stop in range(0, complete.asked, 4):
        with pytest.raises(Cancelled):
            run_clustering(source, outputs(folder), options, Messages(cancel_after=stop).progress)
        assert list(folder.iterdir()) == []
