"""Promises of model.engine.runs: label volumes are their oracle."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from model.domain import Grid
from model.engine.runs import bodies, inside, overlaps, runs_of
from model.engine.sparse import SparseField

volumes = arrays(np.uint16, st.tuples(*[st.integers(1, 7)] * 3), elements=st.integers(0, 3))
fields = arrays(np.float32, st.tuples(*[st.integers(2, 7)] * 3), elements=st.sampled_from([-1.0, -0.25, 0.0, 0.5, 2.0]))


@given(volumes)
def test_a_label_volume_survives_as_runs(labels: np.ndarray) -> None:
    runs = runs_of(labels)
    assert np.array_equal(runs.volume(), labels)
    assert np.array_equal(runs.sizes()[1:], np.bincount(labels.reshape(-1), minlength=1)[1:])
    for label in np.unique(labels[labels > 0]):
        assert np.allclose(runs.centroids()[label], np.argwhere(labels == label).mean(axis=0))


@given(volumes, st.integers(0, 2**32 - 1))
def test_overlaps_count_shared_samples(labels: np.ndarray, seed: int) -> None:
    other = np.random.default_rng(seed).integers(0, 4, labels.shape).astype(np.uint16)
    table = overlaps(runs_of(labels), runs_of(other))
    for first in range(1, table.shape[0]):
        for second in range(1, table.shape[1]):
            assert table[first, second] == ((labels == first) & (other == second)).sum()


@settings(max_examples=200)
@given(fields)
def test_bodies_are_the_18_connected_sets_largest_first(field: np.ndarray) -> None:
    expected, count = ndimage.label(field < 0, structure=ndimage.generate_binary_structure(3, 2))
    for found in (bodies(field), bodies(SparseField.of(field, Grid(field.shape)))):
        labels = found.volume()
        assert labels.max() == count
        pairs = {(int(a), int(b)) for a, b in zip(expected.reshape(-1), labels.reshape(-1), strict=True)}
        assert len(pairs) == count + int((field >= 0).any())
        sizes = found.sizes()[1:]
        assert (np.diff(sizes) <= 0).all()
        assert np.array_equal(inside(field), field < 0)


def test_names_are_given_by_position() -> None:
    runs = runs_of(np.array([[[1, 1, 0, 2]]], dtype=np.uint16)).relabelled(np.array([0, 7, 0]))
    assert runs.volume().tolist() == [[[7, 7, 0, 0]]]
    assert runs.sizes().tolist() == [1, 0, 0, 0, 0, 0, 0, 2]
