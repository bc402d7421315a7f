"""Measures of representations against cases computed by hand."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from kit.measure.representations import (
    cka,
    cka_matrix,
    class_separation,
    effective_rank,
    linear_probe,
    project,
    spectrum,
)

RNG = np.random.default_rng(0)


def orthonormal(rows, columns):
    return np.linalg.qr(RNG.normal(size=(rows, columns)))[0]


@pytest.mark.parametrize("rank", [1, 3, 10])
def test_rank_r_has_effective_rank_r(rank):
    matrix = orthonormal(40, rank) @ (3.0 * orthonormal(20, rank).T)  # r equal singular values
    assert effective_rank(matrix, centre=False) == pytest.approx(rank, abs=1e-9)


def test_centred_rank_r_has_effective_rank_r():
    left = RNG.normal(size=(40, 5))
    left = np.linalg.qr(left - left.mean(0))[0]
    assert effective_rank(left @ orthonormal(20, 5).T + 7) == pytest.approx(5, abs=1e-9)


def test_effective_rank_is_at_most_the_rank():
    matrix = RNG.normal(size=(40, 4)) @ RNG.normal(size=(4, 20))
    assert 1 < effective_rank(matrix, centre=False) < 4
    assert effective_rank(np.ones((5, 3))) == 0


def test_effective_rank_by_hand():
    values = np.array([3.0, 1.0])
    share = values / 4
    assert effective_rank(np.diag(values), centre=False) == pytest.approx(np.exp(-(share * np.log(share)).sum()))


def test_spectrum_is_that_of_the_centred_features():
    z = RNG.normal(size=(30, 6)) + 5
    expected = np.sqrt(np.linalg.eigvalsh(np.cov(z.T) * 29)[::-1])
    assert spectrum(z) == pytest.approx(expected)


@pytest.mark.parametrize("width", [8, 200])  # feature form and Gram form
def test_cka_of_itself_is_one_whatever_rotation_and_scale(width):
    z = RNG.normal(size=(50, width))
    assert cka(z, z) == pytest.approx(1, abs=1e-9)
    assert cka(z, -3.7 * z @ orthonormal(width, width) + 2) == pytest.approx(1, abs=1e-9)


def test_cka_has_one_value_in_both_forms():
    a, b = RNG.normal(size=(50, 8)), RNG.normal(size=(50, 30))
    padded = np.pad(b, ((0, 0), (0, 100)))  # wider than the samples: the Gram form
    assert cka(a, b) == pytest.approx(cka(a, padded), abs=1e-12)
    assert cka(a, b) == pytest.approx(cka(b, a), abs=1e-12)
    assert cka_matrix([a, b])[0, 1] == pytest.approx(cka(a, b))


def test_cka_with_a_constant_is_zero():
    assert cka(RNG.normal(size=(10, 3)), np.ones((10, 3))) == 0


def test_cka_wants_the_same_samples():
    with pytest.raises(ValueError, match="same samples, but there are 10 and 9"):
        cka(np.ones((10, 2)), np.ones((9, 2)))


def test_class_separation_is_the_definition():
    z, y = RNG.normal(size=(30, 5)) + 1, np.repeat([0, 1, 2], [5, 10, 15])
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    distance = 1 - unit @ unit.T
    pairs = [[distance[np.ix_(y == i, y == j)].mean() for j in range(3)] for i in range(3)]
    assert class_separation(z, y) == pytest.approx(1 - np.trace(pairs) / 3 / np.mean(pairs))


def test_class_separation_of_perfect_and_of_no_classes():
    y = np.repeat([0, 1], 10)
    assert class_separation(np.eye(2)[y], y) == pytest.approx(1)
    assert class_separation(np.tile(np.eye(2), (10, 1)), y) == pytest.approx(0, abs=1e-12)
    assert class_separation(np.ones((20, 2)), y) == 0


def test_linear_probe_reads_what_is_there_and_nothing_else():
    x, y = load_digits(return_X_y=True)
    assert linear_probe(x[:400], y[:400]) > 0.85
    assert linear_probe(np.eye(10)[y[:200]], y[:200]) == 1
    assert linear_probe(RNG.normal(size=(400, 5)), y[:400]) < 0.25


def test_linear_probe_is_repeatable():
    x, y = load_digits(return_X_y=True)
    assert linear_probe(x[:200], y[:200], seed=3) == linear_probe(x[:200], y[:200], seed=3)


def test_fewer_samples_than_classes_are_refused():
    z, y = RNG.normal(size=(12, 3)), np.arange(12)
    with pytest.raises(ValueError, match="12 samples of 12 classes, 1 of the rarest. Take more samples"):
        linear_probe(z, y)
    with pytest.raises(ValueError, match="take samples of at least 2 classes"):
        class_separation(z, np.zeros(12))


def test_projections():
    z = RNG.normal(size=(40, 6)) * [9, 5, 1, 1, 1, 1]
    by_hand = (z - z.mean(0)) @ np.linalg.svd(z - z.mean(0), full_matrices=False)[2][:2].T
    assert np.abs(project(z)) == pytest.approx(np.abs(by_hand), abs=1e-9)
    assert project(z, "tsne", perplexity=10).shape == (40, 2)
    assert project(z[:, :1]).shape == (40, 2)


def test_tsne_with_more_neighbours_than_points_is_refused():
    with pytest.raises(ValueError, match="perplexity=30 with 20 points: .* choose less than 20"):
        project(np.ones((20, 3)), "tsne", perplexity=30)


def test_other_bad_input():
    with pytest.raises(ValueError, match="unknown projection 'umap'"):
        project(np.ones((20, 3)), "umap")
    with pytest.raises(ValueError, match="at least 3 points, but there are 2"):
        project(np.ones((2, 3)))
    with pytest.raises(ValueError, match="features have shape"):
        spectrum(np.ones(3))
    with pytest.raises(ValueError, match="not all finite"):
        spectrum(np.full((3, 3), np.nan))
