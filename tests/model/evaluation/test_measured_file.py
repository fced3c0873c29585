"""What workers measure of an evaluation in parts is what one worker measures, also after its way through a file."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.evaluation.comparison import MeasuredSets, compare_sides, measure_sets, put_together, sides_of
from model.evaluation.measured_file import read_measured, write_measured
from model.evaluation.sequence_sources import RealSequences
from model.learning.sources import MaskSource


@pytest.fixture(scope="module")
def sets(tiny_training: Path) -> dict[str, RealSequences]:
    source = MaskSource(kind="masks", folder=tiny_training / "masks", micrometres=10.0, minutes=6.0)
    chosen = {"generated": (0, 1), "training": (2,), "held_out": (1,), "searched": (2, 0)}
    return {name: RealSequences(source, some, has_protrusions=True) for name, some in chosen.items()}


@pytest.fixture(scope="module")
def whole(sets: dict[str, RealSequences]) -> MeasuredSets:
    return measure_sets(**sets)


def same(one: Any, other: Any) -> bool:
    """Whether two values have the same types and the same bits."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if is_dataclass(one):
        return all(same(getattr(one, field.name), getattr(other, field.name)) for field in fields(one))
    return repr(one) == repr(other)  # repr: NaN is the same as NaN


def test_parts_put_together_are_the_whole(sets: dict[str, RealSequences], whole: MeasuredSets) -> None:
    parts = [measure_sets(**sets, part=(number, 2)) for number in range(2)]
    assert [len(part.generated) for part in parts] == [1, 1]
    assert same(put_together(parts), whole)


def test_a_file_keeps_every_bit_and_the_comparison(whole: MeasuredSets, tmp_path: Path) -> None:
    write_measured(whole, tmp_path / "one.npz")
    write_measured(whole, tmp_path / "other.npz")
    read = read_measured(tmp_path / "one.npz")
    assert same(read, whole)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "other.npz").read_bytes()
    compared = [
        compare_sides(sides_of(sets), topology="single", rng=np.random.default_rng(1), draws=100)
        for sets in (read, whole)
    ]
    assert repr(compared[0]) == repr(compared[1])


def test_sets_that_there_are_not_stay_apart_from_empty_ones(whole: MeasuredSets, tmp_path: Path) -> None:
    some = MeasuredSets(whole.generated, [], None, None)
    write_measured(some, tmp_path / "some.npz")
    read = read_measured(tmp_path / "some.npz")
    assert (read.training, read.held_out, read.searched) == ([], None, None)
    halves = put_together([some, MeasuredSets([], whole.training, None, None)])
    assert (len(halves.generated), len(halves.training), halves.held_out) == (2, 1, None)


def test_a_file_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "one.npz").touch()
    with pytest.raises(FileExistsError):
        write_measured(MeasuredSets([], []), tmp_path / "one.npz")
