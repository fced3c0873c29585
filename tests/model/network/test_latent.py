from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from model.network.latent import (
    balanced_centre,
    draw_code,
    draw_rotation,
    fit_prior,
    rotation_matrix,
    sequence_generator,
)
from model.spec import (
    ExplicitLatent,
    GenerationSpec,
    InterpolatedLatent,
    LearnedLatent,
    NearbyLatent,
    SampledLatent,
)

CODES = np.random.default_rng(5).normal(0.1, 0.3, (40, 6)).astype(np.float32)
PRIOR = fit_prior(CODES)


def draw(latent: object, seed: int = 0) -> np.ndarray:
    return draw_code(latent, prior=PRIOR, rng=np.random.default_rng(seed))


def spec(**changes: object) -> GenerationSpec:
    return GenerationSpec.model_validate({"model": "m", "seed": 7} | changes)


def test_random_rotations_are_uniform_on_so3() -> None:
    """Each turned axis is uniform on the sphere: its components are uniform in [-1, 1], for all three axes."""
    turned = []
    for index in range(3000):
        quaternion = draw_rotation(spec(rotation="random"), sequence_generator(spec(), index))
        matrix = rotation_matrix(quaternion)
        assert np.allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(matrix) == pytest.approx(1.0)
        turned.append(matrix)
    for component in np.array(turned).reshape(-1, 9).T:
        assert stats.kstest(component, stats.uniform(-1, 2).cdf).pvalue > 1e-3


def test_quaternion_is_normalised_and_turns_as_stated() -> None:
    quaternion = draw_rotation(spec(rotation=[2.0, 0.0, 0.0, 2.0]), np.random.default_rng(0))
    assert rotation_matrix(quaternion) @ [1, 0, 0] == pytest.approx([0, 1, 0])  # a quarter turn about z
    assert draw_rotation(spec(rotation="none"), np.random.default_rng(0)) == [1.0, 0.0, 0.0, 0.0]


def test_prior_has_the_moments_of_the_codes() -> None:
    drawn = np.array([PRIOR.sample(np.random.default_rng(seed)) for seed in range(6000)])
    assert np.allclose(drawn.mean(axis=0), CODES.mean(axis=0), atol=0.02)
    assert np.trace(np.cov(drawn.T)) == pytest.approx(np.trace(np.cov(CODES.T, bias=True)), rel=0.05)


def test_prior_of_few_codes_stays_in_their_span() -> None:
    few = CODES[:3]
    drawn = fit_prior(few).sample(np.random.default_rng(0)) - few.mean(axis=0)
    basis = np.linalg.svd(few - few.mean(axis=0))[2][:2]
    assert np.abs(drawn - drawn @ basis.T @ basis).max() < 1e-5


def test_temperature_zero_repeats_learned_cells_and_more_is_more_novel() -> None:
    def novelty(temperature: float) -> float:
        drawn = np.array([draw(SampledLatent(temperature=temperature), seed) for seed in range(50)])
        return float(np.linalg.norm(drawn[:, None] - CODES, axis=2).min(axis=1).mean())

    assert novelty(0.0) < 1e-6
    assert 0 < novelty(0.5) < novelty(1.0) < novelty(2.0)


def test_kinds_of_code() -> None:
    assert np.array_equal(draw(LearnedLatent(kind="learned", index=3)), CODES[3])
    assert np.array_equal(draw(NearbyLatent(kind="nearby", index=3, noise=0.0)), CODES[3])
    near = draw(NearbyLatent(kind="nearby", index=3, noise=0.1))
    assert 0 < np.linalg.norm(near - CODES[3]) < np.linalg.norm(CODES[4] - CODES[3])
    values = [0.5, -0.25, 0.0, 1.0, 2.0, 3.0]
    assert draw(ExplicitLatent(kind="explicit", values=values)).tolist() == values


def test_interpolation_meets_both_ends_and_keeps_the_distance_from_the_mean() -> None:
    def between(weight: float) -> np.ndarray:
        return draw(InterpolatedLatent(kind="interpolated", first=1, second=2, weight=weight))

    assert np.allclose(between(0.0), CODES[1], atol=1e-6)
    assert np.allclose(between(1.0), CODES[2], atol=1e-6)
    ends = [np.linalg.norm(CODES[i] - PRIOR.mean) for i in (1, 2)]
    assert min(ends) * 0.9 < np.linalg.norm(between(0.5) - PRIOR.mean) < max(ends) * 1.1
    same = InterpolatedLatent(kind="interpolated", first=4, second=4, weight=0.3)
    assert np.allclose(draw(same), CODES[4], atol=1e-6)


def test_any_sequence_can_be_remade_alone() -> None:
    drawn = [draw_code(SampledLatent(), prior=PRIOR, rng=sequence_generator(spec(), i)) for i in range(9)]
    alone = draw_code(SampledLatent(), prior=PRIOR, rng=sequence_generator(spec(count=5), 8))
    assert np.array_equal(drawn[8], alone)
    assert len({code.tobytes() for code in drawn}) == 9


def test_a_data_set_meets_every_learned_cell_once_before_any_twice() -> None:
    """Also from one round to the next: each has its own order, and the seed decides it."""

    def order(seed: int, lap: int) -> list[int]:
        return [balanced_centre(spec(seed=seed), lap * 40 + place, 40) for place in range(40)]

    rounds = [order(7, 0), order(7, 1), order(8, 0)]
    assert all(sorted(found) == list(range(40)) for found in rounds)
    assert len({tuple(found) for found in rounds}) == 3


def test_the_first_cells_of_seeds_in_a_row_go_through_the_learned_ones() -> None:
    first = [balanced_centre(spec(seed=seed), 0, 40) for seed in range(120)]
    blocks = [first[start : start + 40] for start in (0, 40, 80)]
    assert all(sorted(block) == list(range(40)) for block in blocks)
    assert len({tuple(block) for block in blocks}) == 3
    second = [balanced_centre(spec(seed=seed), 1, 40) for seed in range(400)]
    assert stats.chisquare(np.bincount(second, minlength=40)).pvalue > 1e-3, "what follows is drawn for each seed"


def test_a_code_is_drawn_around_the_learned_one_that_is_named() -> None:
    latent = SampledLatent(temperature=0.0)
    drawn = [draw_code(latent, prior=PRIOR, rng=np.random.default_rng(3), around=number) for number in range(40)]
    assert np.allclose(drawn, CODES, atol=1e-6)
