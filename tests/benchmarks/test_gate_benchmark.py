"""Promises of benchmarks.gate: what it calls dense is, and what it calls wrong is."""

from __future__ import annotations

from benchmarks.gate import check_code, codes, compared
from model import living_cell
from model.network.checkpoint import Checkpoint
from model.spec import GenerationSpec


def test_codes_are_those_that_a_spec_draws_first(tiny_checkpoint: Checkpoint) -> None:
    spec = GenerationSpec.model_validate(
        {"model": "tiny", "seed": 1, "latent": {"kind": "sampled", "temperature": 0.0}}
    )
    cell = living_cell.draw(spec, tiny_checkpoint, 0)
    assert cell.rejected_codes == 0
    assert (list(codes(tiny_checkpoint, 0.0, draws=2))[1] == cell.latent).all()


def test_a_code_is_checked_alike_by_both_bounds_and_by_every_sample(tiny_checkpoint: Checkpoint) -> None:
    checked = check_code(tiny_checkpoint, tiny_checkpoint.latent_codes[0])
    assert checked["card_life"] == checked["measured_life"] == checked["dense_life"]
    assert checked["card"] is checked["dense"] is True
    assert len(checked["dense_life"][0]) == 16


def test_mistakes_are_counted_by_the_way_they_are_wrong() -> None:
    life, other = ([1], [5.0]), ([2], [6.0])
    right = {"card": True, "dense": True, "card_life": life, "measured_life": life, "dense_life": life, "slope": 0.9}
    passed = right | {"dense": False, "dense_life": other, "slope": 1.5}
    row = compared([right, passed, passed | {"card": False, "dense": True}])
    assert (row["draws"], row["refused"], row["steeper_than_card"], row["slope_over_card"]) == (3, 1, 2, 1.5)
    assert (row["card_passes_wrongly"], row["card_refuses_wrongly"], row["card_other_counts"]) == (1, 1, 2)
    assert (row["card_other_samples"], row["measured_other_samples"]) == (2, 2)
