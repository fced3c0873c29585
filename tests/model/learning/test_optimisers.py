"""Muon beside its definition, and who is given to whom."""

from __future__ import annotations

import pytest
import torch

from model.learning.optimisers import Muon, multiplies_bfloat16, optimisers, orthogonalised
from model.network.autodecoder import AutoDecoder, NetworkConfig


def matrices(shape: tuple[int, int, int], values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Matrices with given singular values, and their singular vectors."""
    generator = torch.Generator().manual_seed(0)
    count, rows, columns = shape
    rank = min(rows, columns)
    left = torch.linalg.qr(torch.randn(count, rows, rank, generator=generator))[0]
    right = torch.linalg.qr(torch.randn(count, columns, rank, generator=generator))[0]
    return left @ torch.diag_embed(values.expand(count, rank)) @ right.transpose(1, 2), left, right


@pytest.mark.parametrize("shape", [(3, 48, 48), (2, 64, 24), (2, 24, 64)])
def test_singular_values_come_near_one_and_singular_vectors_stay(shape: tuple[int, int, int]) -> None:
    values = torch.logspace(0.0, -1.5, min(shape[1:]))
    assert values.min() / values.norm() > 0.01
    given, left, right = matrices(shape, values)
    found = orthogonalised(given)
    assert torch.linalg.svdvals(found).min() > 0.65
    assert torch.linalg.svdvals(found).max() < 1.25
    inner = left.transpose(1, 2) @ found @ right
    assert (inner - torch.diag_embed(torch.diagonal(inner, dim1=1, dim2=2))).abs().max() < 1e-5


def test_a_matrix_does_not_see_the_others_of_its_batch() -> None:
    given = torch.randn(4, 32, 32, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(orthogonalised(given)[2:3], orthogonalised(given[2:3]), atol=1e-6)


def test_it_takes_the_steps_of_torchs_own() -> None:
    """That one rounds to bfloat16 within, eight bits: steps agree to about a hundredth."""
    generator = torch.Generator().manual_seed(2)
    start = torch.randn(32, 32, generator=generator)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    one = Muon([{"params": [ours], "lr": 0.01}])
    two = torch.optim.Muon([theirs], lr=0.01, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    for _ in range(6):
        gradient = torch.randn(32, 32, generator=generator)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        one.step()
        two.step()
    assert (ours - theirs).norm() < 0.03 * (theirs - start).norm()


def test_muon_has_the_square_matrices_of_the_trunk_and_adam_the_rest() -> None:
    network = AutoDecoder(NetworkConfig(latent_size=4, width=16, depth=4, conditioning_width=8))
    codes = torch.nn.Parameter(torch.zeros(3, 4))
    adam, muon = optimisers(network, codes, rate=1e-3, latent_rate=2e-3, hidden_rate=5e-4, fused=False)
    hidden = {id(matrix) for matrix in network.weights[1:]}
    assert {id(p) for group in muon.param_groups for p in group["params"]} == hidden
    others = {id(p) for group in adam.param_groups for p in group["params"]}
    assert others == {id(p) for p in network.parameters()} - hidden | {id(codes)}
    assert [group["highest"] for group in adam.param_groups] == [1e-3, 2e-3]
    assert len(optimisers(network, codes, rate=1e-3, latent_rate=2e-3, hidden_rate=0.0, fused=False)) == 1


def test_halves_are_multiplied_only_where_the_processor_has_units_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for flags, expected in (({"avx2": True}, False), ({"avx512_bf16": True}, True), ({"amx_bf16": True}, True)):
        multiplies_bfloat16.cache_clear()
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda flags=flags: flags)
        assert multiplies_bfloat16("cpu") is expected
    multiplies_bfloat16.cache_clear()
