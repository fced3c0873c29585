"""What is particular to thin filopodia; what they share with thick ones is in test_a549.py."""

from functools import cache

import numpy as np
import pytest
from scipy.spatial import cKDTree

from model.learning.dataset import sample_points
from model.phantoms import a549, make_phantom
from model.phantoms.filopodia import axis_of, outside_lengths
from model.phantoms.wandering import beside

STEP = 2.0 / 127.0  # of a grid of 128³
TIMES = (-0.7, 0.37)


@cache
def _cell(seed=0):
    return make_phantom("a549_thin", seed)


def _alone(cell, t):
    """Points (n, 3), tangents, radii, lengths and places of axes of filopodia on the body, away from all else."""
    times = np.array([t])
    pose, axes, chains = cell.body.at(times), [], []
    for filopodium in cell.filopodia:
        parent = axes[filopodium.parent] if filopodium.level > 1 else None
        axes.append(axis_of(filopodium, times, body=pose, parent=parent))
        chains.append(axes[-1].chain()[0])
    found = []
    for place, axis in enumerate(axes):
        extent = float(axis.extent[0])
        if cell.filopodia[place].level > 1 or extent < 0.3:
            continue
        along = np.linspace(axis.buried + 0.12, extent - 0.01, 20)[None]
        points, tangents = axis.place(along)
        others = np.concatenate([c for k, c in enumerate(chains) if k != place and axes[k].extent[0] > 0.0])
        apart = np.linalg.norm(points[0][:, None] - others[None, :, :3], axis=2).min(axis=1)
        free = (apart > 0.15) & (pose.levels(points)[0] > 0.1)
        found.append((points[0][free], tangents[0][free], axis.radius(along)[0][0][free], place))
    return [each for each in found if len(each[0]) >= 5]


@pytest.mark.parametrize("t", TIMES)
def test_filopodia_are_round_and_taper_from_1_5_to_1_2_steps(t):
    cell, seen = _cell(), 0
    implicit = cell.implicit(t)
    turns = np.linspace(0.0, 2.0 * np.pi, 16, endpoint=False)
    for points, tangents, radii, _ in _alone(cell, t):
        seen += 1
        aside = beside(np.broadcast_to([0.3, 0.5, 0.8], tangents.shape), tangents)
        other = np.cross(tangents, aside)
        ring = aside[:, None] * np.cos(turns)[:, None] + other[:, None] * np.sin(turns)[:, None]  # (n, 16, 3)
        values = implicit((points[:, None] + radii[:, None, None] * ring).reshape(-1, 3)).reshape(-1, 16)
        assert np.abs(values).max() < 0.03 * STEP, "the membrane is a circle around the axis"
        assert (np.diff(radii) <= 0.0).all()
        assert radii.min() > 1.19 * STEP
        assert radii.max() < 1.9 * STEP, "past the foot"
    assert seen >= 3


@pytest.mark.parametrize("t", TIMES)
def test_training_points_reach_every_filopodium_and_their_distances_are_exact(t):
    cell = _cell()
    coarse = cell.moment(t)
    assert coarse.bodies() == 1, "a piece of a filopodium that the mesh of training points misses"
    tree = cKDTree(coarse.surface_points)
    checked = 0
    for points, _, radii, _ in _alone(cell, t):
        apart, _ = tree.query(points)
        assert (apart < radii + 0.03).all()
        assert (apart > 0.5 * radii).all(), "triangles of the coarse mesh are chords"
        checked += len(points)
    assert checked >= 15
    points = sample_points(coarse.surface_points, 2048, np.random.default_rng(3), bend_share=0.5)
    exact, found = cell.frame(t)(points), coarse.projected(points)
    assert np.array_equal(found < 0.0, exact < 0.0)
    error = np.abs(found - exact)[np.abs(exact) < 0.05]
    assert np.quantile(error, 0.99) < 1.5e-3
    assert error.max() < 6e-3


def test_filopodia_are_thinner_longer_and_more_than_those_of_a549():
    times = np.linspace(-1.0, 1.0, 59)
    thin = [_cell(seed) for seed in (0, 1, 2)]
    thick = [a549.make(seed) for seed in (0, 1, 2)]
    lengths = [[outside_lengths(cell.filopodia, times) for cell in cells] for cells in (thin, thick)]
    seen = [np.mean([(each > 0.05).sum(axis=1).mean() for each in sort]) for sort in lengths]
    assert seen[0] > 1.5 * seen[1]
    means = [np.mean(np.concatenate([each[each > 0.05] for each in sort])) for sort in lengths]
    assert means[0] > 1.05 * means[1]
    radii = [max(f.style.base_radius for cell in cells for f in cell.filopodia) for cells in (thin, thick)]
    assert radii[0] < 0.5 * radii[1]
