"""Promises of model.network.sine_kernel: the network in float64 is its oracle."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from model.network.sine_kernel import POINTS, Kernel

Layers = list[tuple[NDArray[np.float32], NDArray[np.float32] | None, NDArray[np.float32]]]


def layers(widths: list[int], *, point_again: tuple[int, ...] = (), seed: int = 0) -> Layers:
    """Random layers of a sine network; those named in ``point_again`` see the point too."""
    rng = np.random.default_rng(seed)
    sizes = [3, *widths, 1]
    made: Layers = []
    for number, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        scale = 8.0 if number == 0 else 2.0
        weight = (rng.standard_normal((inputs, outputs)) * scale / np.sqrt(inputs)).astype(np.float32)
        point = rng.standard_normal((3, outputs)).astype(np.float32) if number in point_again else None
        made.append((weight, point, rng.uniform(-3, 3, outputs).astype(np.float32)))
    return made


def exact(net: Layers, points: NDArray[np.float32]) -> NDArray[np.float64]:
    hidden = x = points.astype(np.float64)
    for number, (weight, point, bias) in enumerate(net):
        hidden = hidden @ weight + bias + (0.0 if point is None else x @ point)
        hidden = np.sin(hidden) if number < len(net) - 1 else hidden
    return np.asarray(hidden[:, 0])


def some_points(count: int) -> NDArray[np.float32]:
    return np.random.default_rng(1).uniform(-1.0, 1.0, (count, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("widths", "point_again"),
    [([128] * 6, ()), ([128] * 8, (2, 5, 8)), ([8], ()), ([5, 77, 130], (1,)), ([256, 9], (1, 2))],
)
def test_values_are_those_of_the_network(widths: list[int], point_again: tuple[int, ...]) -> None:
    net, points = layers(widths, point_again=point_again), some_points(1000)
    assert np.abs(Kernel(net)(points) - exact(net, points)).max() < 2e-4 * max(1, len(widths) - 2)


def test_sine_is_right_to_the_last_bits_over_many_turns() -> None:
    """One unit, weight w: the distance is sin(w x)."""
    for turns in (1.0, 30.0, 300.0):
        net: Layers = [
            (np.array([[turns], [0], [0]], dtype=np.float32), None, np.zeros(1, dtype=np.float32)),
            (np.ones((1, 1), dtype=np.float32), None, np.zeros(1, dtype=np.float32)),
        ]
        points = some_points(20_000)
        angle = (np.float32(turns) * points[:, 0]).astype(np.float64)  # as the kernel rounds it
        assert np.abs(Kernel(net)(points) - np.sin(angle)).max() < 1.5e-7


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5 * POINTS + 3), st.integers(1, 4))
def test_a_value_depends_on_its_point_alone(count: int, threads: int) -> None:
    net = layers([24, 24], point_again=(1,))
    kernel, points = Kernel(net), some_points(5 * POINTS + 3)
    whole = kernel(points)
    order = np.random.default_rng(count).permutation(len(points))[:count]
    assert np.array_equal(kernel(points[order], threads=threads), whole[order])


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_threads_do_not_change_a_bit(threads: int) -> None:
    kernel, points = Kernel(layers([64, 64])), some_points(50_001)
    assert np.array_equal(kernel(points, threads=threads), kernel(points))


def test_several_callers_at_once() -> None:
    kernel, points = Kernel(layers([64, 64])), some_points(20_000)
    expected, found = kernel(points), []

    def call() -> None:
        found.append(kernel(points, threads=2))

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(found) == 4
    assert all(np.array_equal(values, expected) for values in found)


def test_damaged_weights_give_no_finite_distance() -> None:
    for poison in (np.nan, np.inf):
        net = layers([16, 16])
        net[1][0][3, 4] = poison
        assert not np.isfinite(Kernel(net)(some_points(100))).any()


def test_no_points_give_no_values() -> None:
    assert Kernel(layers([8]))(np.empty((0, 3), dtype=np.float32)).shape == (0,)


def test_only_a_network_from_points_to_a_distance_is_accepted() -> None:
    net = layers([8])
    with pytest.raises(ValueError, match="3 coordinates to 1 distance"):
        Kernel(net[1:])
