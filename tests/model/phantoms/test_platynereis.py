"""What the phantoms of Platynereis promise."""

import numpy as np
import pytest

from model.phantoms import make_phantom
from model.phantoms.platynereis import GROWTH, RADIUS, REACH, Platynereis, make
from model.phantoms.star import sphere

SEEDS = tuple(range(6))
FRAMES = np.linspace(-1.0, 1.0, 30)


@pytest.fixture(scope="module", params=SEEDS)
def cell(request: pytest.FixtureRequest) -> Platynereis:
    return make(request.param)


def test_a_cell_grows_as_it_says(cell: Platynereis) -> None:
    """The volume inside the triangles is the prescribed one, and never falls."""
    volumes = []
    for t in FRAMES[::7]:
        shape = cell.shape(float(t), resolution=64)
        assert shape.bodies() == shape.components == 1
        assert shape.volume == pytest.approx(cell.target_volume(float(t)), rel=0.012)
        volumes.append(cell.target_volume(float(t)))
    assert np.diff(volumes).min() > 0.0
    assert GROWTH[0] <= cell.target_volume(1.0) / cell.target_volume(-1.0) <= GROWTH[1]
    assert RADIUS[0] <= (0.75 / np.pi * cell.target_volume(1.0)) ** (1 / 3) <= RADIUS[1]


def test_a_cell_is_star_shaped_and_stays_within_reach(cell: Platynereis) -> None:
    directions = sphere(3000)
    for t in FRAMES[::6]:
        pose = cell.body.at(np.array([t]))
        levels = pose.levels((pose.centre[:, None] + 0.02 * directions)[:1])
        assert levels.max() < 0.0
        assert pose.reach() <= REACH + 1e-9
        shape = cell.shape(float(t), resolution=64)
        assert np.linalg.norm(shape.vertices, axis=1).max() < REACH + 0.01


def test_distances_are_true(cell: Platynereis) -> None:
    """Slope 1 near the membrane, and the sign of the implicit function."""
    rng = np.random.default_rng(cell.seed)
    shape = cell.frame(0.3)
    points = shape.surface_points[rng.integers(len(shape.surface_points), size=300)] + rng.normal(0.0, 0.03, (300, 3))
    points = points.astype(np.float32)
    step = 2e-3
    shifts = (np.eye(3) * step).astype(np.float32)
    slopes = np.stack([(shape(points + s) - shape(points - s)) / (2.0 * step) for s in shifts], axis=1)
    assert np.abs(np.linalg.norm(slopes, axis=1) - 1.0).max() < 0.02
    assert np.array_equal(shape(points) < 0.0, shape.contains(points))


def test_nothing_jumps(cell: Platynereis) -> None:
    points = sphere(500) * 0.5
    for t in FRAMES[1:]:
        before, after = (cell.body.at(np.array([time])).levels(points[None])[0] for time in (t - 1e-4, t))
        assert np.abs(after - before).max() < 1e-3


def test_the_same_seed_gives_the_same_cell_and_others_differ() -> None:
    points = np.random.default_rng(0).uniform(-1.0, 1.0, (4000, 3)).astype(np.float32)
    masks = [make_phantom("platynereis", seed).frame(0.0).contains(points) for seed in (0, 0, 1, 2)]
    assert np.array_equal(masks[0], masks[1])
    assert not np.array_equal(masks[0], masks[2])
    assert not np.array_equal(masks[2], masks[3])
