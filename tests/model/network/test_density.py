"""The density of new codes: chosen by likelihood, kept with the weights, and drawn from."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from scipy import stats

from model.errors import CheckpointError, UploadError
from model.network.checkpoint import DENSITY_KEY, Checkpoint, _with_metadata, load_checkpoint, save_checkpoint
from model.network.density import (
    Candidate,
    _log_density,
    candidates,
    choose_density,
    composed_density,
    fit_density,
    group,
)
from model.network.latent import Density, fit_prior
from model.spec import PARTS_MAX
from model.upload_checks import weights

RNG = np.random.default_rng(3)
TURN = np.linalg.qr(RNG.normal(size=(5, 5)))[0]
ROUND = (RNG.normal(0.0, [1.0, 0.7, 0.5, 0.3, 0.1], (600, 5)) @ TURN + 0.4).astype(np.float32)
APART = np.repeat([[4.0, 0, 0, 0, 0], [-4.0, 2.0, 0, 0, 0], [0, -6.0, 0, 0, 1.0]], 60, axis=0)
THREE = (APART + RNG.normal(0.0, 0.3, APART.shape)).astype(np.float32)


def test_the_density_of_a_gaussian_is_that_of_its_definition() -> None:
    table = ROUND.astype(np.float64)
    known, others = table[:500], table[500:]
    expected = stats.multivariate_normal(known.mean(axis=0), np.cov(known.T, bias=True)).logpdf(others)
    assert _log_density(others, known, Candidate("gaussian")) == pytest.approx(expected)
    covariance = np.cov(known.T, bias=True)
    shrunk = 0.7 * covariance + 0.3 * np.trace(covariance) / 5 * np.eye(5)
    expected = stats.multivariate_normal(known.mean(axis=0), shrunk).logpdf(others)
    assert _log_density(others, known, Candidate("shrunk", 0.3)) == pytest.approx(expected)


def test_the_density_of_kernels_is_the_mean_of_gaussians_around_moved_codes() -> None:
    known, others = ROUND[:30].astype(np.float64), ROUND[500:503].astype(np.float64)
    mean, width = known.mean(axis=0), 0.6
    covariance = np.cov(known.T, bias=True)
    shrunk = width**2 * (0.9 * covariance + 0.1 * np.trace(covariance) / 5 * np.eye(5))
    each = [stats.multivariate_normal(mean + 0.8 * (code - mean), shrunk).pdf(others) for code in known]
    found = _log_density(others, known, Candidate("kernel", 0.1, bandwidth=width))
    assert found == pytest.approx(np.log(np.mean(each, axis=0)))


def test_every_density_integrates_to_one() -> None:
    """In one dimension, by the trapezium rule."""
    codes = THREE[:, :1].astype(np.float64)
    line = np.linspace(-40.0, 40.0, 4001)[:, None]
    for candidate in candidates():
        mass = np.trapezoid(np.exp(_log_density(line, codes, candidate)), line[:, 0])
        assert mass == pytest.approx(1.0, abs=1e-3), candidate


def test_what_codes_are_drawn_from_is_found() -> None:
    prior, compared = choose_density(ROUND)
    assert prior.density is not None
    assert prior.density.kind in ("gaussian", "shrunk")
    assert prior.density.shrinkage <= 0.03, "600 codes of 5 numbers need no more"
    assert prior.density.components == ()
    assert compared.keys() == {"gaussian", "shrunk", "mixture", "kernel"}
    prior, compared = choose_density(THREE)
    assert prior.density is not None
    assert prior.density.kind == "mixture"
    assert len(set(prior.density.components)) == 3
    assert compared["mixture"] > compared["shrunk"] + 0.3
    again, _ = choose_density(THREE)
    assert again.density == prior.density
    assert np.array_equal(again.factor, prior.factor)


def test_draws_have_the_moments_of_the_density() -> None:
    prior = fit_density(THREE, Candidate("mixture", groups=3))
    drawn = np.stack([prior.sample(np.random.default_rng(seed)) for seed in range(3000)])
    assert np.abs(drawn.mean(axis=0) - THREE.mean(axis=0)).max() < 0.3
    nearest = np.linalg.norm(drawn[:, None] - np.unique(APART, axis=0)[None], axis=2)
    assert (nearest.min(axis=1) < 1.5).all(), "none lies between the groups"
    within = drawn - np.unique(APART, axis=0)[nearest.argmin(axis=1)]
    assert np.cov(within.T) == pytest.approx(0.09 * np.eye(5), abs=0.03)


def test_temperature_is_as_before() -> None:
    prior = fit_density(ROUND, Candidate("shrunk", 0.1))
    known = prior.sample(np.random.default_rng(0), temperature=0.0, around=7)
    assert known == pytest.approx(ROUND[7], abs=1e-6)
    spread = []
    for temperature in (0.5, 1.0, 2.0):
        around = [prior.sample(np.random.default_rng(n), temperature=temperature, around=n) for n in range(500)]
        spread.append([np.linalg.norm(around - ROUND[:500], axis=1).mean(), np.var(around, axis=0).sum()])
    assert spread[0][0] < spread[1][0] < spread[2][0]
    assert spread[0][1] == pytest.approx(spread[1][1], rel=0.1), "up to 1 the spread is that of the learned codes"
    assert spread[2][1] == pytest.approx(4.0 * spread[1][1], rel=0.1)


def test_a_direction_in_which_codes_do_not_vary_stays_constant() -> None:
    flat = np.column_stack([ROUND, np.full((600, 1), 2.5, dtype=np.float32)])
    prior, _ = choose_density(flat)
    drawn = np.stack([prior.sample(np.random.default_rng(seed)) for seed in range(20)])
    assert drawn[:, 5] == pytest.approx(2.5, abs=1e-6)


def test_few_codes_are_drawn_as_before() -> None:
    prior, compared = choose_density(ROUND[:9])
    assert compared == {}
    assert prior.density is None
    assert np.array_equal(prior.factor, fit_prior(ROUND[:9]).factor)


def test_groups_are_numbered_and_used() -> None:
    assert np.array_equal(np.unique(group(THREE.astype(np.float64), 3)), [0, 1, 2])
    same = group(THREE.astype(np.float64), 3).reshape(3, 60)
    assert (same == same[:, :1]).all()
    assert len(np.unique(group(np.zeros((20, 2)), 4))) == 1, "equal codes are one group"


@pytest.fixture
def chosen(tiny_checkpoint: Checkpoint, tmp_path: Path) -> Checkpoint:
    """The tiny model with a mixture of its three codes."""
    density = Density(kind="mixture", shrinkage=0.25, components=(0, 1, 0))
    prior = replace(tiny_checkpoint.prior, bandwidth=1.0, density=density)
    card = tiny_checkpoint.card.model_dump(exclude={"sha256", "parameters", "latent_size", "latent_codes"})
    return save_checkpoint(tmp_path / "tiny", decoder=tiny_checkpoint.decoder, prior=prior, card=card)


def test_a_density_travels_with_the_weights(chosen: Checkpoint, tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    assert chosen.prior.density == Density(kind="mixture", shrinkage=0.25, components=(0, 1, 0))
    data = (tmp_path / "tiny" / "weights.safetensors").read_bytes()
    assert weights.read_weights(memoryview(data))["latent_codes"] == 3
    mean = (chosen.latent_codes[0].astype(float) + chosen.latent_codes[2]) / 2
    noise = np.random.default_rng(1).standard_normal(len(chosen.prior.factor)) @ chosen.prior.factor.astype(float)
    assert chosen.prior.sample(np.random.default_rng(1), around=2) == pytest.approx(mean + noise, abs=1e-6)


def test_a_composed_density_travels_with_the_weights(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    prior = composed_density(tiny_checkpoint.latent_codes, parts=2, near=0.6, bandwidth=0.1)
    card = tiny_checkpoint.card.model_dump(exclude={"sha256", "parameters", "latent_size", "latent_codes"})
    again = save_checkpoint(tmp_path / "tiny", decoder=tiny_checkpoint.decoder, prior=prior, card=card)
    assert again.prior.density == Density(kind="composed", shrinkage=0.0, parts=2, near=0.6)
    weights.read_weights(memoryview((tmp_path / "tiny" / "weights.safetensors").read_bytes()))
    assert np.array_equal(again.prior.draw(np.random.default_rng(8)), prior.draw(np.random.default_rng(8)))


def test_weights_without_a_density_are_written_and_drawn_from_as_ever(
    tiny_checkpoint: Checkpoint, tiny_models: Path, tmp_path: Path
) -> None:
    card = tiny_checkpoint.card.model_dump(exclude={"sha256", "parameters", "latent_size", "latent_codes"})
    save_checkpoint(tmp_path / "tiny", decoder=tiny_checkpoint.decoder, prior=tiny_checkpoint.prior, card=card)
    again, before = (folder / "tiny" / "weights.safetensors" for folder in (tmp_path, tiny_models))
    assert again.read_bytes() == before.read_bytes()
    assert DENSITY_KEY.encode() not in again.read_bytes()
    prior = tiny_checkpoint.prior
    assert prior.density is None
    centre, mean, width = prior.centres[1].astype(float), prior.mean.astype(float), min(prior.bandwidth * 2.0, 1.0)
    noise = np.random.default_rng(4).standard_normal(len(prior.factor)) @ prior.factor.astype(float)
    by_hand = np.asarray(mean + np.sqrt(1.0 - width**2) * (centre - mean) + width * noise, dtype=np.float32)
    assert np.array_equal(prior.sample(np.random.default_rng(4), temperature=2.0, around=1), by_hand)


@pytest.mark.parametrize(
    "density",
    [
        {"kind": "spline", "shrinkage": 0.1},
        {"kind": "shrunk", "shrinkage": 1.5},
        {"kind": "shrunk"},
        {"kind": "mixture", "shrinkage": 0.1, "components": [0, 1]},
        {"kind": "mixture", "shrinkage": 0.1, "components": [0, 2, 0]},
        {"kind": "mixture", "shrinkage": 0.1, "components": [0, -1, 0]},
        {"kind": "gaussian", "shrinkage": 0.0, "more": 1},
        {"kind": "composed", "shrinkage": 0.0},
        {"kind": "composed", "shrinkage": 0.0, "parts": 5},
        {"kind": "composed", "shrinkage": 0.0, "parts": 2, "near": 0.0},
        {"kind": "composed", "shrinkage": 0.0, "parts": 2, "components": [0, 1, 0]},
        {"kind": "gaussian", "shrinkage": 0.0, "parts": 2},
        {"kind": "composed", "shrinkage": 0.0, "parts": 2, "mirrors": 3},
        [],
    ],
)
def test_a_density_that_is_not_one_is_refused(chosen: Checkpoint, tmp_path: Path, density: object) -> None:
    """By the reader of uploads, and by the library."""
    folder = tmp_path / "tiny"
    data = _with_metadata((folder / "weights.safetensors").read_bytes(), DENSITY_KEY, json.dumps(density))
    with pytest.raises(UploadError, match="density"):
        weights.read_weights(memoryview(data))
    import hashlib

    (folder / "weights.safetensors").write_bytes(data)
    chosen.card.model_copy(update={"sha256": hashlib.sha256(data).hexdigest()}).write(folder)
    with pytest.raises(CheckpointError):
        load_checkpoint(folder)


def test_the_reader_of_uploads_knows_the_librarys_densities() -> None:
    assert weights.DENSITY_KEY == DENSITY_KEY
    assert set(weights.DENSITY_MEMBERS) == set(Density.model_fields)
    assert set(weights.DENSITIES) == set(get_args(Density.model_fields["kind"].annotation))
    assert {candidate.kind for candidate in candidates()} == set(weights.DENSITIES) - {"composed"}
    assert weights.PARTS_MAX == PARTS_MAX
