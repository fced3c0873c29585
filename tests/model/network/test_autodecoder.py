from __future__ import annotations

import numpy as np
import pytest
import torch

from model.network.autodecoder import AutoDecoder, NetworkConfig
from model.network.latent import rotation_matrix

CONFIG = NetworkConfig(latent_size=5, width=24, depth=4, conditioning_width=16)
LOW_RANK = NetworkConfig(latent_size=5, width=24, depth=4, conditioning_width=16, rank=6, frequency=1.0)


@pytest.fixture(scope="module", params=[CONFIG, LOW_RANK], ids=["units", "low rank"])
def decoder(request: pytest.FixtureRequest) -> AutoDecoder:
    return AutoDecoder(request.param, generator=torch.Generator().manual_seed(1)).requires_grad_(False)


@pytest.fixture(scope="module")
def points() -> np.ndarray:
    return np.random.default_rng(2).uniform(-1, 1, (5000, 3)).astype(np.float32)


def test_folded_decoder_equals_the_network_at_every_time(decoder: AutoDecoder, points: np.ndarray) -> None:
    code = torch.linspace(-0.3, 0.4, 5)
    for time in (-1.0, -0.2, 0.37, 1.0):
        whole = decoder(torch.from_numpy(points)[None], torch.tensor([time]), code[None])[0].numpy()
        assert np.abs(decoder.fold(code, time)(points) - whole).max() < 1e-5


def test_folded_rotation_turns_the_cell(decoder: AutoDecoder, points: np.ndarray) -> None:
    """The turned cell at R x is the cell at x."""
    turn = rotation_matrix([0.5, -0.5, 0.1, np.sqrt(1 - 0.51)])
    code = torch.linspace(-0.3, 0.4, 5)
    turned = decoder.fold(code, 0.1, torch.from_numpy(turn))((points @ turn.T).astype(np.float32))
    assert np.abs(turned - decoder.fold(code, 0.1)(points)).max() < 2e-5


def test_a_value_does_not_depend_on_its_neighbours(decoder: AutoDecoder, points: np.ndarray) -> None:
    """To the bit: alone, in another order, in another batch."""
    sdf = decoder.fold(torch.zeros(5), 0.0)
    whole = sdf(points)
    assert (sdf(points[::-1].copy())[::-1] == whole).all()
    assert (sdf(points[1234:1235]) == whole[1234]).all()
    assert (sdf(points[17:4000]) == whole[17:4000]).all()


def test_values_do_not_depend_on_the_number_of_threads(decoder: AutoDecoder, points: np.ndarray) -> None:
    sdf = decoder.fold(torch.zeros(5), 0.0)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(sdf(points))
    finally:
        torch.set_num_threads(before)
    assert (results[0] == results[1]).all()
    assert (results[0] == results[2]).all()


def test_slopes_are_the_lengths_of_the_gradient(decoder: AutoDecoder, points: np.ndarray) -> None:
    code = torch.full((5,), 0.2)
    sdf = decoder.fold(code, 0.5)
    variable = torch.from_numpy(points[:200]).requires_grad_(True)
    decoder(variable[None], torch.tensor([0.5]), code[None]).sum().backward()
    assert variable.grad is not None
    assert np.allclose(sdf.slopes(points[:200]), variable.grad.norm(dim=1).numpy(), rtol=1e-2, atol=1e-3)


def test_first_layer_starts_by_its_own_number_of_inputs(decoder: AutoDecoder) -> None:
    """A first layer that starts as small as a wide one does not learn space."""
    first = decoder.weights[0]
    assert first.shape == (24, 3)
    assert 0.25 < float(first.abs().max()) <= 1 / 3


@pytest.mark.parametrize("config", [CONFIG, LOW_RANK], ids=["units", "low rank"])
def test_same_generator_gives_the_same_network(config: NetworkConfig) -> None:
    first, second = (AutoDecoder(config, generator=torch.Generator().manual_seed(9)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_a_rank_of_zero_is_not_written() -> None:
    """So files and recipes of networks without one keep their bytes."""
    assert "rank" not in CONFIG.model_dump_json()
    for config in (CONFIG, LOW_RANK):
        assert NetworkConfig.model_validate_json(config.model_dump_json()) == config


def test_codes_and_times_change_matrices_by_the_rank_and_no_more() -> None:
    """Scales undone, the matrices of two codes differ by a matrix of that rank; without a rank they do not differ."""
    times, codes = torch.tensor([-0.4, 0.8], dtype=torch.float64), torch.linspace(-2, 2, 10, dtype=torch.float64)
    for config, ranks in ((CONFIG, [0, 0, 0, 0]), (LOW_RANK, [3, 6, 6, 6])):
        network = AutoDecoder(config, generator=torch.Generator().manual_seed(4)).double().requires_grad_(False)
        layers, _ = network.frame_weights(times, codes.view(2, 5))
        scale = network.low_rank(times, codes.view(2, 5)).scale if config.rank else None
        if scale is None:
            scale, _ = network.modulate(times, codes.view(2, 5))
        plain = [weight.transpose(1, 2) / scale[:, layer, :, None] for layer, (weight, _) in enumerate(layers)]
        assert [int(torch.linalg.matrix_rank(both[0] - both[1], atol=1e-6, rtol=0.0)) for both in plain] == ranks
