from functools import cache

import numpy as np
import pytest
from scipy import ndimage
from skimage.measure import marching_cubes

from model.phantoms import a549, a549_thin
from model.phantoms.star import sphere

QUICK, MORE = (("a549", 0), ("a549_thin", 1)), (("a549", 2), ("a549", 3), ("a549_thin", 0))
CELLS = (*QUICK, *MORE)
MAKERS = {"a549": a549.make, "a549_thin": a549_thin.make}
VOXEL = 2.0 / 127.0  # of a grid of 128³
FRAMES = np.linspace(-1.0, 1.0, 30)


@pytest.fixture(
    scope="module", params=[*QUICK, *(pytest.param(cell, marks=pytest.mark.slow) for cell in MORE)], ids=str
)
def cell(request):
    return _cell(*request.param)


@cache
def _cell(name, seed):
    return MAKERS[name](seed)


def _is_thin(cell):
    return cell.cell_type == "a549_thin"


def _grid(samples):
    axis = np.linspace(-1.0, 1.0, samples)
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1)


def _sampled(implicit, samples):
    """Values on a grid of samples³; blocks of 4³ samples that are far from the surface share one value."""
    side = samples // 4
    blocks = _grid(samples).reshape(side, 4, side, 4, side, 4, 3).transpose(0, 2, 4, 1, 3, 5, 6)
    centres = blocks.mean(axis=(3, 4, 5))
    coarse = implicit(centres.reshape(-1, 3)).reshape(centres.shape[:3])
    near = np.abs(coarse) < 2.5 * 4.0 / samples * np.sqrt(3.0)
    values = np.broadcast_to(coarse[..., None, None, None], blocks.shape[:-1]).copy()
    values[near] = implicit(blocks[near].reshape(-1, 3)).reshape(-1, 4, 4, 4)
    return values.transpose(0, 3, 1, 4, 2, 5).reshape(samples, samples, samples)


def _gradient(function, points, step):
    shifts = np.eye(3) * step
    return np.stack([(function(points + s) - function(points - s)) / (2.0 * step) for s in shifts], axis=1)


def _near_surface(implicit, rng, width, count=150_000):
    points = rng.uniform(-1.0, 1.0, (count, 3))
    return points[np.abs(implicit(points)) < width]


def _on_surface(implicit, rng):
    """Points of the zero set, by Newton steps."""
    points = _near_surface(implicit, rng, 0.03)
    for _ in range(8):
        gradients = _gradient(implicit, points, 1e-5)
        squared = np.maximum((gradients**2).sum(axis=1), 1e-6)
        points = points - gradients * (implicit(points) / squared)[:, None]
    return points[np.abs(implicit(points)) < 1e-9]


def test_a_cell_is_one_component_without_holes_or_handles(cell):
    for t in FRAMES[::7]:
        values = _sampled(cell.implicit(t), 128 if _is_thin(cell) else 96)
        assert ndimage.label(values < 0.0)[1] == 1
        vertices, faces, _, _ = marching_cubes(values, 0.0)
        edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
        euler = len(vertices) - len(np.unique(edges, axis=0)) + len(faces)
        assert euler == 2, f"at {t}: a sphere has 2, every handle takes 2 away"


def test_signed_distances_are_exact(cell):
    rng = np.random.default_rng(1)
    implicit, frame = cell.implicit(0.37), cell.frame(0.37)
    assert frame.components == 1
    surface = _on_surface(implicit, rng)
    assert len(surface) > 1000
    errors = np.abs(frame(surface.astype(np.float32)))
    assert np.quantile(errors, 0.999) < 0.1 * VOXEL
    assert np.quantile(errors, 0.99) < 0.01 * VOXEL
    band = _near_surface(implicit, rng, 0.08)[:3000]
    slopes = np.linalg.norm(_gradient(lambda p: frame(p.astype(np.float32)).astype(float), band, 1e-3), axis=1)
    assert np.mean(np.abs(slopes - 1.0) < 0.02) > 0.985, "all but the medial axis"
    assert np.array_equal(frame(band.astype(np.float32)) < 0.0, implicit(band.astype(np.float32).astype(float)) < 0.0)


def test_volume_is_that_of_a549_cells_and_changes_slowly(cell):
    grid = _grid(44).reshape(-1, 3)
    grid = grid[np.linalg.norm(grid, axis=1) < a549.REACH]
    voxel = (2.0 / 43.0 * cell.micrometres) ** 3
    volumes = np.array([np.count_nonzero(cell.implicit(t)(grid) < 0.0) * voxel for t in FRAMES])
    assert volumes.min() > (1300.0 if _is_thin(cell) else 1500.0)
    assert volumes.max() < (2900.0 if _is_thin(cell) else 4000.0)
    assert np.abs(np.diff(volumes) / volumes[:-1]).max() < 0.04


def test_a_cell_stays_inside_its_ball(cell):
    # It is one component and holds the origin: if no point of the sphere is inside, no point beyond it is. The samples
    # are 0.024 apart; the thinnest parts are 0.076 and 0.038 thick.
    directions = sphere(20_000)
    for t in FRAMES[::2]:
        implicit = cell.implicit(t)
        assert implicit(np.zeros((1, 3)))[0] < 0.0
        assert implicit(a549.REACH * directions).min() > 0.0


def test_filopodia_are_born_and_retract_and_the_right_number_is_seen(cell):
    times = np.linspace(-1.0, 1.0, 59)
    lengths = cell.lengths(times)
    seen = lengths > 0.05
    fewest, most, longest = (6, 18, 0.6) if _is_thin(cell) else (3, 9, 0.5)
    assert seen.sum(axis=1).min() >= fewest
    assert seen.sum(axis=1).max() <= most
    assert np.count_nonzero((lengths[0] == 0.0) & seen.any(axis=0)) >= 2, "born"
    assert np.count_nonzero(seen.any(axis=0) & ~seen[-1]) >= 2, "gone"
    assert lengths.max() <= longest


def test_growth_takes_five_frames_and_a_life_eight_or_more(cell):
    frame = FRAMES[1] - FRAMES[0]
    for filopodium in cell.filopodia:
        life = filopodium.life
        full = life.times[np.argmax(life.levels)]
        assert full - life.times[0] >= 4.99 * frame
        assert 8.0 * frame <= life.times[-1] - life.times[0] <= 45.0 * frame
        assert 0.12 <= filopodium.length <= (0.6 if _is_thin(cell) else 0.5)


def test_a_branch_lives_only_where_its_parent_has_grown(cell):
    times = np.linspace(-1.5, 1.5, 2000)
    grown = [f.life.at(times) * (f.buried + f.length) for f in cell.filopodia]
    for filopodium, extent in zip(cell.filopodia, grown, strict=True):
        if filopodium.level == 1:
            assert filopodium.parent == -1
            continue
        assert filopodium.level == cell.filopodia[filopodium.parent].level + 1
        assert (grown[filopodium.parent][extent > 0.0] > filopodium.along).all()


@pytest.mark.slow
def test_branches_have_at_most_three_levels():
    levels = [_cell(*cell).levels for cell in CELLS]
    assert max(map(max, levels)) in (2, 3)
    assert min(map(min, levels)) == 1


def test_nothing_jumps_when_filopodia_and_branches_are_born_or_vanish(cell):
    rng = np.random.default_rng(2)
    moments = np.concatenate([f.life.times[[0, -1]] for f in cell.filopodia])
    moments = moments[np.abs(moments) < 1.0]
    assert len(moments) >= 4
    for moment in moments:
        before, after = cell.implicit(moment - 1e-4), cell.implicit(moment + 1e-4)
        points = _near_surface(before, rng, 0.05, count=20_000)
        assert np.abs(after(points) - before(points)).max() < 1e-3


@pytest.mark.parametrize(("name", "seed"), QUICK)
def test_the_same_seed_gives_the_same_cell(name, seed):
    first, second = _cell(name, seed), MAKERS[name](seed)
    points = np.random.default_rng(4).uniform(-1.0, 1.0, (2000, 3))
    for t in (-1.0, 0.21, 1.0):
        assert np.array_equal(first.implicit(t)(points), second.implicit(t)(points))


@pytest.mark.slow
def test_seeds_give_different_cells():
    grid = _grid(40).reshape(-1, 3)
    cells = [_cell(*cell) for cell in CELLS]
    inside = [cell.implicit(0.0)(grid) < 0.0 for cell in cells]
    for i in range(len(inside)):
        for j in range(i):
            dice = 2.0 * np.count_nonzero(inside[i] & inside[j]) / (inside[i].sum() + inside[j].sum())
            assert dice < 0.88
    assert len({cell.levels for cell in cells}) == len(CELLS)


@pytest.mark.slow
def test_cells_lie_along_the_x_axis_on_the_whole():
    spread = np.zeros(3)
    for cell in (_cell(*cell) for cell in CELLS):
        for t in (-1.0, 0.0, 1.0):
            spread += (cell.shape(t, resolution=48).surface_points ** 2).mean(axis=0)
    assert spread.argmax() == 0
