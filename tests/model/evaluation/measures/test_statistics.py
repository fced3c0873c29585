"""Statistics against samples whose distance and whose clusters are known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ks_2samp

from model.evaluation.measures.statistics import compare, compare_sets, distances


def clustered(rng: np.random.Generator, *, sequences: int, frames: int, shift: float = 0.0) -> list[list[float]]:
    """Sequences whose frames hardly differ from each other, as those of one cell do."""
    centres = rng.standard_normal(sequences) + shift
    return [list(centre + 0.05 * rng.standard_normal(frames)) for centre in centres]


def test_the_distance_is_that_of_kolmogorov_and_smirnov() -> None:
    rng = np.random.default_rng(0)
    one, two = rng.normal(0.0, 1.0, (12, 7)), rng.normal(0.5, 1.4, (9, 5))
    found = compare([list(row) for row in one], [list(row) for row in two], rng=rng, draws=50)
    assert found is not None
    assert found.distance == pytest.approx(ks_2samp(one.ravel(), two.ravel()).statistic, abs=1e-12)
    assert found.median == pytest.approx(np.median(one))
    assert found.median_of_other == pytest.approx(np.median(two))


def test_many_frames_of_few_cells_are_not_many_cells() -> None:
    """Frames taken for independent, these samples of one law would differ "significantly"; as sequences they do not."""
    small = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        one, two = clustered(rng, sequences=8, frames=60), clustered(rng, sequences=8, frames=60)
        found = compare(one, two, rng=rng, draws=200)
        assert found is not None
        assert ks_2samp(np.concatenate(one), np.concatenate(two)).pvalue < 1e-3, "what a naive test would say"
        small += found.p < 0.05
    assert small <= 4


def test_samples_far_apart_are_found_apart_and_the_interval_holds_the_distance() -> None:
    rng = np.random.default_rng(3)
    one, two = clustered(rng, sequences=30, frames=10), clustered(rng, sequences=30, frames=10, shift=1.5)
    found = compare(one, two, rng=rng, draws=500)
    assert found is not None
    assert found.p < 0.01
    assert 0.0 <= found.low <= found.distance <= found.high <= 1.0
    assert found.low > 0.2


def test_values_that_are_missing_are_left_out_and_nothing_compares_with_nothing() -> None:
    rng = np.random.default_rng(0)
    assert compare([[float("nan")], []], [[1.0]], rng=rng) is None
    found = compare([[1.0, float("nan")], [2.0]], [[1.0], [2.0]], rng=rng, draws=20)
    assert found is not None
    assert found.distance == 0.0
    assert found.p == 1.0


def test_neighbours_tell_copies_strangers_and_siblings() -> None:
    rng = np.random.default_rng(1)
    reference, siblings = rng.standard_normal((200, 3)), rng.standard_normal((200, 3))
    alike = compare_sets(siblings, reference)
    assert 0.4 < alike.one_nn < 0.6
    copies = compare_sets(reference + 1e-6, reference)
    assert copies.one_nn == 0.0
    assert copies.coverage == 1.0
    apart = compare_sets(siblings + 100.0, reference)
    assert apart.one_nn == 1.0
    assert apart.coverage < 0.1
    assert copies.matching < alike.matching < apart.matching


def test_sets_that_repeat_one_shape_cover_little() -> None:
    rng = np.random.default_rng(2)
    reference = rng.standard_normal((60, 4))
    one_mode = reference[:1] + 0.01 * rng.standard_normal((60, 4))
    assert compare_sets(one_mode, reference).coverage < 0.1


def test_distances_are_euclidean() -> None:
    rng = np.random.default_rng(4)
    one, two = rng.standard_normal((5, 9)), rng.standard_normal((4, 9))
    assert distances(one, two) == pytest.approx(np.linalg.norm(one[:, None] - two[None], axis=2))
