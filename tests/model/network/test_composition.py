"""Cells composed of parts of learned cells: a code for each sector of directions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from model.card import SHIPPED_MODELS
from model.domain import Grid, frame_times
from model.engine.runs import inside
from model.engine.sparse import Exact, evaluate_dense, evaluate_sparse
from model.errors import SpecError
from model.living_cell import LivingCell, Variation, draw
from model.network.checkpoint import Checkpoint, load_checkpoint
from model.network.composition import (
    SMOOTH,
    ComposedDecoder,
    Composition,
    bind,
    draw_directions,
    smooth_union,
    spread_of,
)
from model.network.density import composed_density
from model.network.latent import Density, Prior, draw_code
from model.network.stacked_decoders import StackedDecoders
from model.spec import ExplicitLatent, GenerationSpec, SampledLatent, parts_of

GRID = Grid((40, 40, 40))
RNG = np.random.default_rng(0)
SIZE = 192  # of the codes of a549
ONES = np.ones((3, 3), dtype=np.float32)
POINTS = RNG.uniform(-1.0, 1.0, (5000, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def a549() -> Checkpoint:
    return load_checkpoint(SHIPPED_MODELS / "a549")


@pytest.fixture(scope="module")
def prior(a549: Checkpoint) -> Prior:
    return composed_density(a549.latent_codes, parts=3, near=0.5, bandwidth=0.05)


@pytest.fixture(scope="module")
def code(prior: Prior) -> np.ndarray:
    return prior.draw(np.random.default_rng(1))


def test_codes_are_told_apart_by_their_length() -> None:
    assert [parts_of(count, 96) for count in (96, 204, 306, 408, 510, 102, 95, 0)] == [1, 2, 3, 4, 0, 0, 0, 0]
    assert Composition.of(np.zeros(96, np.float32), 96) is None
    with pytest.raises(ValueError, match="no code of 96"):
        Composition.of(np.zeros(97, np.float32), 96)
    with pytest.raises(ValueError, match="no length"):
        Composition.of(np.zeros(204, np.float32), 96)
    whole = Composition(RNG.standard_normal((2, 5)).astype(np.float32), draw_directions(2, RNG), -ONES[:2])
    again = Composition.of(whole.values, 5)
    assert again is not None
    assert np.array_equal(again.codes, whole.codes)
    assert np.array_equal(again.signs, whole.signs)
    assert again.directions == pytest.approx(whole.directions, abs=1e-7)


@pytest.mark.parametrize(("parts", "cosine"), [(2, -1.0), (3, -0.5), (4, -1 / 3)])
def test_directions_are_far_apart_and_uniform(parts: int, cosine: float) -> None:
    rng = np.random.default_rng(2)
    drawn = np.stack([draw_directions(parts, rng) for _ in range(2000)])
    products = drawn @ drawn.transpose(0, 2, 1)
    apart = ~np.eye(parts, dtype=bool)
    assert products[:, apart] == pytest.approx(cosine, abs=1e-6)
    assert np.einsum("nkk->nk", products) == pytest.approx(1.0, abs=1e-6)
    assert np.abs(drawn.mean(axis=0)).max() < 0.06
    assert np.abs((drawn**2).mean(axis=0) - 1 / 3).max() < 0.04


def test_equal_parts_are_the_cell_itself(a549: Checkpoint) -> None:
    one = a549.latent_codes[5]
    whole = Composition(np.stack([one] * 3), draw_directions(3, np.random.default_rng(3)), ONES)
    expected = a549.decoder.fold(torch.from_numpy(one), 0.2)(POINTS)
    values = bind(a549.decoder, whole.values, 0.2)(POINTS)
    assert (values <= expected + 2e-6).all()
    assert (values >= expected - SMOOTH / 3 - 2e-6).all(), "grown by two unions at most"
    assert 0.5 < (np.abs(values - expected) < 2e-6).mean() < 0.97
    assert np.array_equal(bind(a549.decoder, one, 0.2)(POINTS), expected)


def test_each_sector_follows_its_code_and_parts_unite_at_borders(a549: Checkpoint, code: np.ndarray) -> None:
    whole = Composition.of(code, SIZE)
    assert whole is not None
    blended = bind(a549.decoder, code, -0.3)
    assert isinstance(blended, ComposedDecoder)
    values = blended(POINTS)
    alone = np.stack([a549.decoder.fold(torch.from_numpy(part), -0.3)(POINTS) for part in whole.codes], axis=1)
    lifts = blended.lifts(POINTS)
    nearest = (POINTS @ whole.directions.T).argmax(axis=1)
    assert np.array_equal(np.argwhere(lifts == 0.0)[:, 1], nearest)
    least = (alone + lifts).min(axis=1)
    assert (values <= least).all()
    assert (values >= least - SMOOTH / 3).all()
    own = np.isfinite(lifts).sum(axis=1) == 1
    assert 0.2 < own.mean() < 0.9, "elsewhere other parts may count"
    assert np.array_equal(values[own], alone[np.arange(len(alone)), nearest][own])
    assert np.isfinite(lifts[np.linalg.norm(POINTS, axis=1) < 0.01]).all()
    line = np.linspace(-1.0, 1.0, 20_001)[:, None] * np.array([[0.3, -0.5, 0.4]]) + np.array([[0.2, 0.1, -0.2]])
    steps = np.abs(np.diff(blended(line.astype(np.float32)).astype(np.float64)))
    assert steps.max() < 5e-4, "no jump from one sector to the next"


def test_a_value_depends_on_its_point_alone(a549: Checkpoint, code: np.ndarray) -> None:
    bound = bind(a549.decoder, code, 0.5)
    values = bound(POINTS)
    assert np.array_equal(bound(POINTS[::7].copy(), threads=1), values[::7])
    assert np.array_equal(bound(POINTS[::-1].copy(), threads=2)[::-1], values)


def test_directions_turn_and_grow_with_the_cell(a549: Checkpoint, code: np.ndarray) -> None:
    straight = LivingCell(a549, code, [1.0, 0.0, 0.0, 0.0])
    turn = Rotation.random(random_state=4)
    x, y, z, w = (float(q) for q in turn.as_quat())
    turned = LivingCell(a549, code, [w, x, y, z]).at(0.1)(turn.apply(POINTS).astype(np.float32))
    assert turned == pytest.approx(straight.at(0.1)(POINTS), abs=2e-5)
    grown = LivingCell(a549, code, [1.0, 0.0, 0.0, 0.0], variation=Variation(size=1.25)).at(0.1)(POINTS * 1.25)
    assert grown == pytest.approx(1.25 * straight.at(0.1)(POINTS), abs=2e-5)
    mirrored = LivingCell(a549, code, [1.0, 0.0, 0.0, 0.0], variation=Variation(mirrored=True)).at(0.1)
    assert mirrored(POINTS * np.float32([-1, 1, 1])) == pytest.approx(straight.at(0.1)(POINTS), abs=2e-5)


@pytest.mark.parametrize("exact", ["adaptive", "certified"])
def test_sparse_evaluation_is_that_of_every_sample(a549: Checkpoint, code: np.ndarray, exact: Exact) -> None:
    cell = LivingCell(a549, code, [1.0, 0.0, 0.0, 0.0])
    dense = evaluate_dense(cell.at(0.0), GRID)
    found = evaluate_sparse(cell.at(0.0), GRID, lipschitz=cell.lipschitz(), exact=exact)
    assert np.array_equal(inside(found), dense < 0)


def test_parts_may_be_mirror_images(a549: Checkpoint, prior: Prior) -> None:
    signs = np.float32([-1.0, 1.0, -1.0])
    codes = np.stack([a549.latent_codes[5]] * 3)
    mirrored = Composition(codes, draw_directions(3, np.random.default_rng(3)), np.stack([signs] * 3))
    whole = Composition(codes, mirrored.directions * signs, ONES)
    values = bind(a549.decoder, mirrored.values, 0.2)(POINTS)
    assert values == pytest.approx(bind(a549.decoder, whole.values, 0.2)(POINTS * signs), abs=2e-5)
    assert prior.density is not None
    both = replace(prior, density=prior.density.model_copy(update={"mirrors": True}))
    drawn = np.stack([_signs(both, seed) for seed in range(200)])
    assert np.abs(drawn.mean(axis=0)).max() < 0.3
    assert set(np.unique(drawn)) == {-1.0, 1.0}
    assert (np.stack([_signs(prior, seed) for seed in range(20)]) == 1.0).all()


def _signs(prior: Prior, seed: int) -> np.ndarray:
    composition = Composition.of(prior.draw(np.random.default_rng(seed)), SIZE)
    assert composition is not None
    return composition.signs


def test_an_accelerator_computes_the_same_cell(a549: Checkpoint, code: np.ndarray) -> None:
    """On the processor here: the code is that of any torch device."""
    cell = LivingCell(a549, code, [0.6, 0.8, 0.0, 0.0])
    times = [-0.5, 0.4]
    stacked = StackedDecoders([cell.at(time) for time in times], torch.device("cpu"))
    frames = torch.from_numpy(np.repeat([0, 1], 2500))
    found = stacked(torch.from_numpy(POINTS), frames).numpy()
    for number, time in enumerate(times):
        part = slice(2500 * number, 2500 * (number + 1))
        assert found[part] == pytest.approx(cell.at(time)(POINTS[part]), abs=2e-5)


def test_draws_are_of_near_codes_and_differ(prior: Prior) -> None:
    rng = np.random.default_rng(5)
    drawn = [Composition.of(prior.draw(rng, around=7), SIZE) for _ in range(40)]
    width = prior.bandwidth
    known = {}
    for one in drawn:
        assert one is not None
        mean = prior.mean.astype(np.float64)
        apart = [
            np.linalg.norm(mean + np.sqrt(1 - width**2) * (prior.centres - mean) - part, axis=1) for part in one.codes
        ]
        numbers = tuple(int(distance.argmin()) for distance in apart)
        assert numbers[0] == 7
        assert len(set(numbers)) == 3
        known[numbers] = True
        away = np.linalg.norm(prior.centres - prior.centres[7], axis=1)
        assert set(numbers[1:]) <= set(np.argsort(away)[: 1 + len(away) // 2].tolist())
    assert len(known) > 35
    assert prior.draw(np.random.default_rng(6)).tobytes() == prior.draw(np.random.default_rng(6)).tobytes()
    still = prior.draw(np.random.default_rng(6), temperature=0.0, around=3)
    assert np.array_equal(still, prior.centres[3]), "a temperature of 0 repeats a learned cell"
    plain = replace(prior, density=None)
    assert np.array_equal(plain.draw(np.random.default_rng(6)), plain.sample(np.random.default_rng(6)))


def test_a_drawn_cell_is_made_again_from_its_code(a549: Checkpoint, prior: Prior) -> None:
    model = replace(a549, prior=prior)
    spec = GenerationSpec(model="a549", seed=3, count=2).completed()
    cell = draw(spec, model, 1)
    assert parts_of(len(cell.latent), SIZE) == 3
    explicit = ExplicitLatent(kind="explicit", values=[float(value) for value in cell.latent])
    again = spec.model_copy(update={"latent": explicit, "rotation": tuple(cell.rotation), "count": 1})
    again.check_fits(latent_codes=256, latent_size=SIZE)
    assert np.array_equal(draw_code(explicit, prior=prior, rng=np.random.default_rng(0)), cell.latent)
    with pytest.raises(SpecError, match="k times 198"):
        spec.model_copy(update={"latent": ExplicitLatent(kind="explicit", values=[0.0] * (SIZE + 1))}).check_fits(
            latent_codes=256, latent_size=SIZE
        )
    frames = list(cell.frames(frame_times(3), GRID))
    assert all(frame.surface.euler_number <= 2 for frame in frames)
    surface = frames[1].surface
    exact = cell.distances(0.0, surface)(surface.vertices[:50].astype(np.float32))
    assert np.abs(exact).max() < 1e-5, "distances are those from the surface, not the blend"


def test_noise_of_an_augmentation_leaves_directions_alone(code: np.ndarray) -> None:
    spread = spread_of(code, np.arange(float(SIZE)))
    assert np.array_equal(spread, [*np.tile(np.arange(float(SIZE)), 3), *np.zeros(18)])
    assert np.array_equal(spread_of(np.zeros(4), np.arange(4.0)), np.arange(4.0))


def test_only_a_composed_density_has_parts() -> None:
    assert Density(kind="shrunk", shrinkage=0.1).model_dump() == {"kind": "shrunk", "shrinkage": 0.1, "components": ()}
    stated = Density(kind="composed", shrinkage=0.0, parts=3, near=0.5)
    assert Density.model_validate_json(stated.model_dump_json()) == stated
    for wrong in (
        {"kind": "kernel", "parts": 2},
        {"kind": "composed"},
        {"kind": "composed", "parts": 9},
        {"kind": "composed", "parts": 2, "components": (0, 1)},
    ):
        with pytest.raises(ValueError, match=r"parts|components"):
            Density(shrinkage=0.0, **wrong)  # type: ignore[arg-type]


def test_a_sampled_latent_of_a_composed_density_is_composed(prior: Prior) -> None:
    drawn = draw_code(SampledLatent(kind="sampled"), prior=prior, rng=np.random.default_rng(1), around=2)
    assert parts_of(len(drawn), SIZE) == 3


def test_a_smooth_union_is_the_least_but_near_equality() -> None:
    first, second = np.float32([0.1, 0.1, 0.1, np.inf, np.inf]), np.float32([0.3, 0.1, 0.115, 0.2, np.inf])
    united = smooth_union(first, second, 0.03)
    assert united[:4] == pytest.approx([0.1, 0.1 - 0.005, 0.1 - 0.015**3 / (6 * 0.03**2), 0.2], abs=1e-7)
    assert united[4] == np.inf
