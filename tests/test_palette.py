"""Class colours: different, and apart for people with a colour vision deficiency."""

from __future__ import annotations

import numpy as np
import pytest

from s2landcover_plugin.engine.naming import TONES
from s2landcover_plugin.engine.palette import APART, BASE, colours, distinct

# Machado, Oliveira and Fernandes 2009 (IEEE TVCG 15), severity 1.0, on linear RGB
DEFICIENCIES = {
    "normal": np.eye(3),
    "protanopia": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
    "deuteranopia": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]),
    "tritanopia": np.array([[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]),
}


def to_lab(rgb, matrix):
    """CIE L*a*b* (D65) of sRGB colours seen through a deficiency."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ matrix.T, 0, 1)
    xyz = linear @ np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]).T
    t = xyz / [0.95047, 1, 1.08883]
    f = np.where(t > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


def nearest_pair(rgb, deficiency):
    """Smallest distance of two of the colours."""
    lab = to_lab(np.array(rgb) / 255, DEFICIENCIES[deficiency])
    return np.linalg.norm(lab[:, None] - lab[None], axis=2)[np.triu_indices(len(rgb), 1)].min()


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
@pytest.mark.parametrize(("n", "apart"), [(8, 10), (10, 8)])
def test_first_colours_stay_apart(deficiency, n, apart):
    assert nearest_pair(colours(n), deficiency) > apart


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_main_colours_of_the_names_stay_apart(deficiency):
    assert nearest_pair([tones[0] for tones in TONES.values()], deficiency) > 15


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
@pytest.mark.parametrize("seed", range(10))
def test_colours_of_any_twelve_names_stay_apart(deficiency, seed):
    tones = [*TONES.values(), ()]
    wanted = [tones[i] for i in np.random.default_rng(seed).integers(0, len(tones), 12)]
    assert nearest_pair(distinct(wanted), deficiency) > 0.99 * APART


def test_colours_in_use_are_left_alone():
    used = [tones[0] for tones in TONES.values()]
    fresh = distinct(list(TONES.values()), used)
    assert not set(fresh) & set(used) and len(set(fresh)) == len(fresh)


def test_any_number_of_classes_gets_different_colours():
    assert colours(12) == list(BASE)
    for n in (1, 13, 100, 255):
        assert len(set(colours(n))) == n
