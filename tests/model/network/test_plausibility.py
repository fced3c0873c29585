"""The plausibility check gives the result of the whole sequence, and reads no more of it than it must."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.card import SHIPPED_MODELS
from model.network.checkpoint import load_checkpoint
from model.network.latent import balanced_centre
from model.network.plausibility import GATE_FRAMES, bodies_over_time, first_fault, is_plausible, is_plausible_code
from model.spec import GenerationSpec

Topology = Literal["single", "division"]
FRAMES = st.lists(st.tuples(st.integers(0, 3), st.sampled_from([100.0, 110.0, 124.0, 125.0, 150.0])), min_size=1)
LIVES = st.one_of(
    FRAMES,
    st.builds(lambda n, m: [(1, 100.0)] * n + [(2, 100.0)] * m, st.integers(1, 9), st.integers(0, 9)),
)


@given(observed=LIVES, topology=st.sampled_from(["single", "division"]))
def test_the_first_fault_is_one_of_the_whole_and_there_is_none_before_it(
    observed: list[tuple[int, float]], topology: Topology
) -> None:
    read = 0

    def frames() -> Iterator[tuple[int, float]]:
        nonlocal read
        for life in observed:
            read += 1
            yield life

    def plausible(part: list[tuple[int, float]]) -> bool:
        return is_plausible([count for count, _ in part], np.array([volume for _, volume in part]), topology)

    fault = first_fault(frames(), topology)
    assert (fault is None) == plausible(observed)
    if fault is not None:
        assert read == min(fault + 1, len(observed))
        before = observed[:fault]
        late = topology == "division" and before and before[-1][0] == 1  # the division may still come
        assert not before or plausible([*before, (2, before[-1][1])] if late else before)


@pytest.mark.parametrize(
    ("name", "seeds"),
    [
        ("celegans", range(3)), ("a549", range(3)),
        *(pytest.param(name, range(3, 43), marks=pytest.mark.slow) for name in ("celegans", "a549")),
    ],
)  # fmt: skip
def test_results_are_those_of_all_frames(name: str, seeds: range) -> None:
    """Codes of temperature 2, of which many are implausible."""
    checkpoint = load_checkpoint(SHIPPED_MODELS / name)
    for seed in seeds:
        around = balanced_centre(GenerationSpec(model=name, seed=seed), 0, len(checkpoint.latent_codes))
        code = checkpoint.prior.sample(np.random.default_rng([seed, 0]), temperature=2.0, around=around)
        counts, volumes = bodies_over_time(checkpoint, code)
        assert len(counts) in (1, GATE_FRAMES)
        assert is_plausible_code(checkpoint, code) == is_plausible_code(checkpoint, code) == is_plausible(
            counts, volumes, checkpoint.card.topology
        ), seed  # fmt: skip
