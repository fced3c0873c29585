"""Promises of model.engine.bricks: a dictionary is the oracle of what is stored."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from model.domain import Grid
from model.engine.bricks import SAMPLES, Bricks, claim, claim_brick, locate, reserve

GRID = Grid((17, 9, 24))
# Even indices, which coarse bricks hold, come as often as all others.
index = [st.one_of(st.integers(-1, n), st.integers(0, n // 2).map(lambda half: 2 * half)) for n in GRID.shape]
steps = st.lists(st.tuples(st.booleans(), st.tuples(*index)), min_size=1, max_size=60)


@settings(max_examples=150, deadline=None)
@given(steps)
def test_what_was_stored_is_found_whatever_is_stored_later(steps: list[tuple[bool, tuple[int, int, int]]]) -> None:
    bricks = Bricks(GRID)
    for _ in range(2):  # the second time in the storage of an earlier frame
        given_: dict[tuple[int, int, int], int] = {}
        for number, (whole, sample) in enumerate(steps):
            place = claim_brick if whole else claim
            at = place(bricks.table, bricks.values, bricks.bounds, bricks.state, bricks.used, *sample)
            flat = bricks.state.reshape(-1)
            assert flat[at] == (given_[sample] % 255 + 1 if sample in given_ else 0)
            given_[sample] = number
            bricks.values.reshape(-1)[at], bricks.bounds.reshape(-1)[at] = number, -number
            flat[at] = number % 255 + 1
        places = set()
        for sample, number in given_.items():
            at = locate(bricks.table, *sample)
            places.add(at)
            assert bricks.values.reshape(-1)[at] == number
            assert bricks.bounds.reshape(-1)[at] == -number
            assert bricks.state.reshape(-1)[at] == number % 255 + 1
        assert len(places) == len(given_)
        bricks.clear()
        assert all(locate(bricks.table, *sample) == -1 for sample in given_)


def test_samples_of_even_indices_take_no_whole_brick() -> None:
    bricks = Bricks(GRID)
    before = int(bricks.used[0])
    storage = (bricks.table, bricks.values, bricks.bounds, bricks.state, bricks.used)
    for i, j, k in np.ndindex(8, 4, 12):
        claim(*storage, 2 * i, 2 * j, 2 * k)
    assert int(bricks.used[0]) == before
    claim(*storage, 3, 0, 0)
    assert int(bricks.used[0]) == before + 1


def test_room_is_reserved_beyond_the_memory_of_the_machine() -> None:
    room = reserve(2**31, SAMPLES, np.float32)  # 4 TiB
    room[-1, -1] = 1.0
    assert room.shape == (2**31, SAMPLES)
