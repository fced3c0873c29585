"""Measures of labels by runs equal those of SciPy, which looks at each label's box."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import ndimage

from model.readers.bodies import measure_labels

TOUCHING = np.ones((3, 3, 3))
VOLUMES = st.sampled_from([np.uint8, np.int16, np.uint32, np.int64]).flatmap(
    lambda kind: arrays(kind, st.tuples(*[st.integers(1, 6)] * 3), elements=st.sampled_from([0, 0, 1, 2, 100]))
)


def by_scipy(volume: NDArray[Any]) -> list[tuple[int, int, list[int], list[int], list[float], list[int]]]:
    found = []
    for label in np.unique(volume[volume != 0]):
        inside = volume == label
        (box,) = ndimage.find_objects(inside.astype(int))
        numbers, _ = ndimage.label(inside, TOUCHING)
        low, high = [side.start for side in box][::-1], [side.stop for side in box][::-1]
        centre = [*ndimage.center_of_mass(inside[box])][::-1]
        found.append((int(label), int(inside.sum()), low, high, centre, sorted(np.bincount(numbers.reshape(-1))[1:])))
    return found


def by_runs(volume: NDArray[Any]) -> list[tuple[int, int, list[int], list[int], list[float], list[int]]]:
    return [
        (cell.label, cell.voxels, [*cell.low], [*cell.high], [*(cell.sums / cell.voxels)], sorted(cell.bodies))
        for cell in measure_labels(volume)
    ]


@given(VOLUMES)
def test_every_volume_is_measured_as_by_scipy(volume: NDArray[Any]) -> None:
    assert by_runs(volume) == by_scipy(volume)


@pytest.mark.parametrize(
    ("shape", "bodies"), [("spiral", [38]), ("corners", [4]), ("columns", [8] * 16), ("nothing", [])]
)
def test_known_bodies(shape: str, bodies: list[int]) -> None:
    volume = np.zeros((8, 8, 8), np.uint16)
    if shape == "spiral":  # one body whose parts meet at its end only
        volume[1, 0], volume[1, :, 7], volume[1, 7], volume[1, 2:, 0], volume[1, 2, :6] = 1, 1, 1, 1, 1
        volume[1, 2:6, 5], volume[1, 5, 2:6] = 1, 1
    elif shape == "corners":
        for k in range(4):
            volume[k, 3 - k, k] = 9
    elif shape == "columns":
        volume[:, ::2, ::2] = 5
    assert [sorted(cell.bodies) for cell in measure_labels(volume)] == ([bodies] if bodies else [])
