"""Promises of model.membranes.triangle_tree: the nearest of many triangles, as a search through all finds it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from model.membranes.triangle_tree import TriangleTree

RNG = np.random.default_rng(5)
SOUP = RNG.uniform(-1, 1, (400, 1, 3)) + 0.1 * RNG.normal(size=(400, 3, 3))
NEEDLES = SOUP * np.array([1.0, 0.05, 1.0])
POINTS = np.concatenate([RNG.uniform(-1.5, 1.5, (300, 3)), SOUP.reshape(-1, 3)[:100], SOUP.mean(axis=1)[:100]])
CORNERS_OF = {0: (0,), 1: (1,), 2: (2,), 3: (0, 1), 4: (1, 2), 5: (2, 0), 6: (0, 1, 2)}


def tree_of(corners: NDArray[np.float64]) -> TriangleTree:
    return TriangleTree(corners, low=np.full(3, -2.0), side=4.0)


def squares(corners: NDArray[np.float64], point: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared distance of a point to every triangle: the least over its plane, its edges and its corners."""
    a, b, c = np.moveaxis(corners, 1, 0)
    found = np.full(len(corners), np.inf)
    for start, stop in ((a, b), (b, c), (c, a)):
        along = stop - start
        share = np.clip(np.einsum("ij,ij->i", point - start, along) / np.einsum("ij,ij->i", along, along), 0.0, 1.0)
        found = np.minimum(found, ((point - start - share[:, None] * along) ** 2).sum(axis=1))
    for n, (one, two, here) in enumerate(zip(b - a, c - a, point - a, strict=True)):
        (v, w), *_ = np.linalg.lstsq(np.stack([one, two], axis=1), here, rcond=None)
        if v >= 0.0 and w >= 0.0 and v + w <= 1.0:
            found[n] = min(found[n], float(((here - v * one - w * two) ** 2).sum()))
    return found


@pytest.mark.parametrize("corners", [SOUP, NEEDLES, SOUP[:1], SOUP[:5]], ids=["soup", "needles", "one", "five"])
def test_no_triangle_is_nearer_than_the_one_found(corners: NDArray[np.float64]) -> None:
    tree = tree_of(corners)
    found = tree.nearest(POINTS)
    for point, distance, face in zip(POINTS, found.distances, found.faces, strict=True):
        every = squares(tree.corners, point)
        assert distance == pytest.approx(np.sqrt(every.min()), abs=1e-7)
        assert every[face] == pytest.approx(every.min(), abs=1e-12)


def test_weights_and_features_tell_the_foot() -> None:
    tree = tree_of(SOUP)
    found = tree.nearest(POINTS)
    feet = np.einsum("ij,ijk->ik", found.weights, tree.corners[found.faces])
    assert np.linalg.norm(POINTS - feet, axis=1) == pytest.approx(found.distances, abs=1e-7)
    assert found.weights.sum(axis=1) == pytest.approx(np.ones(len(POINTS)))
    assert found.weights.min() > -1e-12
    for weights, feature in zip(found.weights, found.features, strict=True):
        assert set(np.flatnonzero(weights > 1e-12)) <= set(CORNERS_OF[int(feature)])
    assert set(found.features.tolist()) == set(CORNERS_OF)


def test_the_order_says_which_triangle_is_which() -> None:
    tree = tree_of(SOUP)
    assert np.array_equal(tree.corners, SOUP[tree.order])
    assert sorted(tree.order.tolist()) == list(range(len(SOUP)))


def test_pruning_misses_no_more_than_it_says() -> None:
    tree = tree_of(SOUP)
    exact, pruned = tree.nearest(POINTS).distances, tree.nearest(POINTS, pruning=0.9).distances
    assert (pruned >= exact - 1e-12).all()
    assert (pruned**2 * 0.9 <= exact**2 + 1e-12).all()
