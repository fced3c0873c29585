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


@given(volumes, st.integers(1, 4))
def test_other_views_are_those_of_the_volume(labels: np.ndarray, every: int) -> None:
    runs = runs_of(labels)
    assert np.array_equal(runs.volume(every=every), labels[::every, ::every, ::every])
    assert np.array_equal(runs.turned_volume(), labels.T)
    assert runs.present() == tuple(np.unique(labels[labels > 0]))
    samples = np.argwhere(np.ones_like(labels, dtype=bool))
    assert np.array_equal(runs.at(samples), labels.reshape(-1))


@given(volumes, volumes, st.integers(1, 3))
def test_labels_of_a_coarser_volume_are_taken_over_within_their_body(
    own: np.ndarray, other: np.ndarray, every: int
) -> None:
    size = tuple(min(a, b) for a, b in zip(own.shape, other.shape, strict=True))
    own, other = (volume[: size[0], : size[1], : size[2]] for volume in (own, other))
    runs, coarse = runs_of(own), np.ascontiguousarray(other[::every, ::every, ::every])
    owner = np.array([-1, 1, 2, 2])  # labels 2 and 3 belong to body 2
    found = runs.overlaid(coarse, every=every, owner=owner, within=runs).volume()
    for place in np.ndindex(*own.shape):
        beside = coarse[tuple(min((i + every // 2) // every, n - 1) for i, n in zip(place, coarse.shape, strict=True))]
        takes = own[place] and owner[beside] == own[place]
        assert found[place] == (beside if takes else own[place])


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
