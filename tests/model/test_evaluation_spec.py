"""Into which shards a request is divided: they follow from the spec alone, and together they are the whole."""

from __future__ import annotations

import pytest

from model.evaluation_spec import START_SECONDS, EvaluationSpec
from model.reconstruction_spec import ALL_CELLS_SHARDS, ReconstructionSpec
from model.spec import SHARD_SECONDS


@pytest.mark.parametrize(("count", "shards"), [(4, 2), (5, 3), (20, 10), (200, 100)])
def test_an_evaluation_is_divided_into_shards_of_bounded_time(count: int, shards: int) -> None:
    spec = EvaluationSpec(model="celegans", count=count)
    assert spec.shards() == shards
    costs = [spec.shard_cost(number) for number in range(shards)]
    assert sum(cost.frames for cost in costs) == spec.cost().frames
    assert sum(cost.seconds for cost in costs) == pytest.approx(spec.cost().seconds - START_SECONDS)
    assert all(0.0 < cost.seconds <= SHARD_SECONDS for cost in costs)


def test_one_cell_is_reconstructed_in_one_piece_and_all_cells_in_several() -> None:
    one = ReconstructionSpec(model="celegans", uploads=["cell.tif"])
    every = one.model_copy(update={"cells": "all"})
    assert (one.shards(), every.shards()) == (1, ALL_CELLS_SHARDS)
    assert every.shard_cost(0).seconds == 0.0  # how many cells there are is not known
    assert every.shard_cost(0).bytes > 0
