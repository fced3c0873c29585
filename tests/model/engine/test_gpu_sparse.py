"""Promises of model.engine.gpu_sparse, on every torch device at hand; the engine of the processor is the oracle."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapes
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from model import living_cell
from model.card import SHIPPED_MODELS
from model.domain import Grid
from model.engine import gpu_sparse
from model.engine.gpu_marching_cubes import Frame, distinct
from model.engine.gpu_sparse import FrameDistances, evaluate_frames, gpu_frame_batch
from model.engine.marching_cubes import Surface, extract_surface
from model.engine.runs import Runs, bodies
from model.engine.sparse import SignedDistance, evaluate_dense, evaluate_sparse
from model.engine.tracking import remove_bodies
from model.errors import EmptySurfaceError, InvalidFieldError
from model.network.autodecoder import FoldedDecoder, FoldedLayer
from model.network.checkpoint import load_checkpoint
from model.network.stacked_decoders import StackedDecoders
from model.spec import GenerationSpec

UNDECIDED = 2e-6  # so near to the membrane the last bits of a kernel may decide a sample's side
NEAR = 1e-3  # of a step: how far vertices of two kernels may lie apart

sides = st.integers(4, 40)
coordinate = st.floats(-1.125, 1.125, width=32)
balls = st.builds(
    lambda x, y, z, radius: shapes.sphere(radius, centre=(x, y, z)),
    coordinate,
    coordinate,
    coordinate,
    st.floats(0.0625, 0.875, width=32),
)


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("this machine has no CUDA device: the same assertions ran on the processor")
    return torch.device(request.param)


def together(*cells: SignedDistance) -> FrameDistances:
    """One signed distance function a frame."""

    def sdf(points: Tensor, frames: Tensor) -> Tensor:
        values = torch.empty(len(points))
        where = frames.cpu()
        assert (where.diff() >= 0).all()
        for number in where.unique().tolist():
            values[where == number] = torch.from_numpy(cells[number](points.cpu()[where == number].numpy()))
        return values.to(points.device)

    return sdf


def made(cells: Sequence[SignedDistance], grid: Grid, device: torch.device, **options: Any) -> list[Frame]:
    options = {"lipschitz": 1.0} | options
    return list(evaluate_frames(together(*cells), grid, frames=len(cells), device=device, **options))


def assert_same_runs(one: Runs, other: Runs) -> None:
    assert one.shape == other.shape
    for name in ("rows", "first", "stop", "labels"):
        assert np.array_equal(getattr(one, name), getattr(other, name))


def by_edge(surface: Surface, grid: Grid) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Grid edges of the vertices, ascending; the vertices in that order; the triangles as triples of edges, sorted."""
    index = grid.to_index(surface.vertices)
    axis = np.abs(index - index.round()).argmax(axis=1)
    low = index.round().astype(np.int64)
    low[np.arange(len(low)), axis] = np.floor(index[np.arange(len(low)), axis])
    edge = np.ravel_multi_index(tuple((low + 1).T), tuple(n + 2 for n in grid.shape)) * 3 + axis
    assert len(np.unique(edge)) == len(edge)
    faces = edge[surface.faces]
    first = faces.argmin(axis=1)[:, None]
    faces = np.take_along_axis(faces, (first + np.arange(3)) % 3, axis=1)
    return np.sort(edge), surface.vertices[np.argsort(edge)], faces[np.lexsort(faces.T)]


def assert_same_surface(one: Surface, other: Surface, grid: Grid, *, apart: float = 0.0) -> None:
    """The same vertices, at most ``apart`` steps from each other, and the same triangles, whatever their order."""
    (edges, vertices, faces), (edges2, vertices2, faces2) = by_edge(one, grid), by_edge(other, grid)
    assert np.array_equal(edges, edges2)
    assert np.array_equal(faces, faces2)
    assert (np.abs(vertices - vertices2) / grid.step).max() <= apart


# ------------------------------------------------------------------------------------------------- analytic distances


@settings(max_examples=40)
@given(
    st.lists(st.lists(balls, min_size=1, max_size=3), min_size=1, max_size=3),
    st.tuples(sides, sides, sides),
    st.sampled_from([1.0, 1.7, 6.0]),
    st.integers(1, 3),
)
@example([[shapes.sphere(0.0625)]], (64, 64, 64), 1.0, 1)
@example([[shapes.sphere(1.5)], [shapes.sphere(0.5, centre=(1.0, 1.0, 1.0))]], (2, 5, 3), 1.0, 2)
def test_frames_equal_the_dense_engine_on_any_grid(
    device: torch.device,
    parts: list[list[shapes.Shape]],
    shape: tuple[int, int, int],
    lipschitz: float,
    at_once: int,
) -> None:
    """To the bit: the same runs and bodies, the same vertices and triangles."""
    cells, grid = [shapes.union(*part) for part in parts], Grid(shape)
    fields = [evaluate_dense(cell, grid) for cell in cells]
    assume(all((field < 0).any() and (field >= 0).any() for field in fields))
    for field, frame in zip(fields, made(cells, grid, device, lipschitz=lipschitz, at_once=at_once), strict=True):
        assert_same_runs(frame.runs, bodies(field))
        assert_same_surface(frame.surface, extract_surface(field, grid), grid)
        assert frame.surface.is_watertight
        assert frame.evaluations <= grid.size


SLOPES_AND_SHAPES = list(product([0.3, 1.0, 7.0], [(64, 64, 64), (65, 40, 33), (30, 50, 97)]))
QUICK = {(0.3, (30, 50, 97)), (1.0, (65, 40, 33)), (7.0, (30, 50, 97))}


@pytest.mark.parametrize(
    ("slope", "shape"),
    [pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow) for case in SLOPES_AND_SHAPES],
)
def test_cells_with_thin_arms_and_cells_that_divide(
    device: torch.device, shape: tuple[int, int, int], slope: float
) -> None:
    grid = Grid(shape)
    times = (-0.8, 0.1, 0.5, 0.9)
    whole = [shapes.filopodia_cell(time) for time in times] + [shapes.dividing_cell(time) for time in times]
    cells = [shapes.scaled(cell, slope) for cell in whole]
    frames = made(cells, grid, device, lipschitz=slope, at_once=3)
    for cell, frame in zip(cells, frames, strict=True):
        field = evaluate_dense(cell, grid)
        assert_same_runs(frame.runs, bodies(field))
        assert_same_surface(frame.surface, extract_surface(field, grid), grid)
        assert frame.surface.is_watertight
    assert [frame.number for frame in frames] == list(range(8))
    assert (frames[4].runs.labels.max(), frames[7].runs.labels.max()) == (1, 2)


def test_what_leaves_the_domain_is_cut_and_closed(device: torch.device) -> None:
    grid = Grid((33, 40, 37))
    cells = [shapes.sphere(1.3), shapes.sphere(0.5, centre=(1.0, 1.0, 1.0)), shapes.capsule((-2, 0, 0), (2, 0, 0), 0.2)]
    for cell, frame in zip(cells, made(cells, grid, device), strict=True):
        assert_same_surface(frame.surface, extract_surface(evaluate_sparse(cell, grid, lipschitz=1.0), grid), grid)
        assert frame.surface.is_watertight


def test_a_cell_without_its_smaller_bodies_is_what_removing_them_gives(device: torch.device) -> None:
    grid = Grid((48, 41, 50))
    parts = [((-0.3, 0.0, 0.0), 0.4), ((0.7, 0.6, 0.1), 0.15), ((1.0, -0.9, 0.2), 0.2), ((0.5, -0.2, -0.7), 0.04)]
    cell = shapes.union(*(shapes.sphere(radius, centre=centre) for centre, radius in parts))
    (frame,) = made([cell], grid, device)
    assert frame.runs.labels.max() == 4
    for keep in range(1, 5):
        field = evaluate_sparse(cell, grid, lipschitz=1.0)
        found = bodies(field)
        left = extract_surface(remove_bodies(field, found, keep), grid)
        assert_same_surface(frame.largest(keep), left, grid)
        assert frame.largest(keep).is_watertight


def test_a_bound_too_small_is_noticed_and_raised(device: torch.device) -> None:
    grid = Grid((64, 64, 64))
    cell = shapes.union(shapes.sphere(0.3), shapes.sphere(0.05, centre=(0.61, 0.58, 0.55)))
    steep = shapes.scaled(cell, 4.0)
    gentle, raised = made([cell, steep], grid, device, lipschitz=1.5)
    for frame, of in ((gentle, cell), (raised, steep)):
        field = evaluate_dense(of, grid)
        assert_same_runs(frame.runs, bodies(field))
        assert_same_surface(frame.surface, extract_surface(field, grid), grid)


def test_a_cell_lost_on_the_way_is_missed_and_found_again(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault put in on purpose: with the first bound, one cell in 500 is dropped."""
    kept, grid, cells = (
        gpu_sparse.GpuEvaluation._kept,
        Grid((32, 33, 30)),
        [shapes.dividing_cell(0.9), shapes.sphere(0.5)],
    )

    def leaky(run: Any, nodes: Any, blocks: Any, side: int) -> Any:
        found = kept(run, nodes, blocks, side)
        if side > 1 or float(run._bounds.max()) > 1.0:
            return found
        rows = torch.arange(found.place.shape[1], device=device) % 500 != 250
        return type(found)(found.place[:, rows], found.corners[:, rows])

    monkeypatch.setattr(gpu_sparse.GpuEvaluation, "_kept", leaky)
    for cell, frame in zip(cells, made(cells, grid, device), strict=True):
        field = evaluate_dense(cell, grid)
        assert_same_runs(frame.runs, bodies(field))
        assert_same_surface(frame.surface, extract_surface(field, grid), grid)


@pytest.mark.parametrize("seed", range(4))
def test_the_surface_is_closed_even_where_the_bound_lies(device: torch.device, seed: int) -> None:
    """A tilted sheet that no corner of a coarse block sees: flat far away, steep beside the membrane."""
    rng = np.random.default_rng(seed)
    normal = rng.standard_normal(3).astype(np.float32)
    normal /= np.linalg.norm(normal)

    def sheet(points: np.ndarray) -> np.ndarray:
        return np.asarray(np.minimum(0.5, 9.0 * (np.abs(points @ normal) - 0.07)), dtype=np.float32)

    (frame,) = made([sheet], Grid((48, 52, 50)), device, lipschitz=0.8)
    assert frame.surface.is_watertight
    assert frame.surface.components()[0] == 1


def test_memory_follows_the_surface_not_the_volume(device: torch.device) -> None:
    cell, largest = shapes.dividing_cell(0.2), []
    for side in (64, 128):
        with _Largest() as seen:
            made([cell, cell], Grid((side, side, side)), device, at_once=2)
        largest.append(seen.floats)
    assert largest[1] < 4.5 * largest[0]
    assert largest[1] < 0.4 * 2 * 128**3  # of two fields
    grid = Grid((256, 256, 256))
    assert gpu_frame_batch(grid, lipschitz=2.0, device=device) >= 1
    assert gpu_frame_batch(Grid((4000, 4000, 4000)), lipschitz=2.0, device=torch.device("cpu")) == 1


class _Largest(TorchDispatchMode):
    """Remembers the size of the largest tensor of floating point numbers that any operation returned."""

    floats = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.is_floating_point():
            self.floats = max(self.floats, result.numel())
        return result


@pytest.mark.parametrize("everywhere", [5.0, -5.0])
def test_a_frame_without_a_membrane_is_named(device: torch.device, everywhere: float) -> None:
    def constant(points: np.ndarray) -> np.ndarray:
        return np.full(len(points), everywhere, dtype=np.float32)

    cells, grid = [shapes.sphere(), constant, shapes.sphere()], Grid((16, 18, 17))
    for at_once in (1, 3):
        frames = evaluate_frames(together(*cells), grid, frames=3, lipschitz=1.0, device=device, at_once=at_once)
        assert next(frames).number == 0
        with pytest.raises(EmptySurfaceError, match="frame 1: the membrane lies nowhere"):
            next(frames)


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_a_field_that_is_not_finite_is_refused(device: torch.device, poison: float) -> None:
    layers = [
        FoldedLayer(torch.eye(3), torch.zeros(3)),
        FoldedLayer(torch.full((3, 1), 0.3), torch.full((1,), -0.1)),
    ]
    broken = [FoldedLayer(layers[0].weight, torch.full((3,), poison)), layers[1]]
    sdf = StackedDecoders([FoldedDecoder(layers), FoldedDecoder(broken)], device)
    with pytest.raises(InvalidFieldError, match="frame 1"):
        list(evaluate_frames(sdf, Grid((9, 9, 9)), frames=2, lipschitz=1.0, device=device))


@pytest.mark.parametrize("lipschitz", [0.0, -1.0, math.nan, math.inf])
def test_a_bound_that_bounds_nothing_is_refused(lipschitz: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        made([shapes.sphere()], Grid((16, 16, 16)), torch.device("cpu"), lipschitz=lipschitz)


@given(st.lists(st.integers(0, 1000), max_size=200), st.integers(1001, 5000))
def test_distinct_is_unique_without_a_sort(keys: list[int], size: int) -> None:
    tensor = torch.tensor(keys, dtype=torch.int64)
    for one, other in zip(distinct(tensor, size), tensor.unique(return_inverse=True), strict=True):
        assert torch.equal(one, other)


# ----------------------------------------------------------------------------------------------------------- decoders


def decoders(name: str, times: Sequence[float], **latent: object) -> tuple[list[FoldedDecoder], float]:
    checkpoint = load_checkpoint(SHIPPED_MODELS / name)
    spec = {"model": name, "seed": 2, "rotation": "random"} | ({"latent": latent} if latent else {})
    cell = living_cell.draw(GenerationSpec.model_validate(spec).completed(), checkpoint, 0)
    return [cell.at(time) for time in times], cell.lipschitz()


@pytest.mark.parametrize("name", ["celegans", "a549"])
@pytest.mark.parametrize("latent", [{"kind": "sampled"}, {"kind": "interpolated", "first": 3, "second": 8}])
def test_real_cells_are_those_of_the_processors_engine(
    device: torch.device, name: str, latent: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    """Labels may differ where the last bits decide, and only there; without such a sample the triangles agree."""
    grid = Grid((56, 48, 61))
    folded, lipschitz = decoders(name, (-0.9, -0.1, 0.5, 0.95), **latent)
    sdf = StackedDecoders(folded, device)
    for decoder, frame in zip(
        folded, evaluate_frames(sdf, grid, frames=4, lipschitz=lipschitz, device=device), strict=True
    ):
        field = evaluate_dense(decoder, grid)
        differ = (frame.runs.volume() > 0) != (field < 0)
        with capsys.disabled():
            if differ.any():
                print(f"{name}, frame {frame.number}: {differ.sum()} labels differ")  # noqa: T201 - the report
        assert np.abs(field[differ]).max(initial=0.0) < UNDECIDED
        assert frame.surface.is_watertight
        assert frame.least < frame.evaluations
        assert (
            frame.evaluations
            < 1.25 * evaluate_sparse(decoder, grid, lipschitz=lipschitz, exact="certified").evaluations
        )
        if not differ.any():
            assert_same_runs(frame.runs, bodies(field))
            assert_same_surface(frame.surface, extract_surface(field, grid), grid, apart=NEAR)


def test_a_frame_does_not_depend_on_those_beside_it(device: torch.device) -> None:
    """To the bit, whatever the number of frames held at once."""
    grid = Grid((40, 37, 42))
    folded, lipschitz = decoders("celegans", np.linspace(-1, 1, 5).tolist())
    runs = [
        list(
            evaluate_frames(
                StackedDecoders(folded, device), grid, frames=5, lipschitz=lipschitz, device=device, at_once=n
            )
        )
        for n in (1, 2, 5)
    ]
    for frames in runs[1:]:
        for one, other in zip(runs[0], frames, strict=True):
            assert_same_runs(one.runs, other.runs)
            assert np.array_equal(one.surface.vertices, other.surface.vertices)
            assert np.array_equal(one.surface.faces, other.surface.faces)
            assert one.evaluations == other.evaluations


@pytest.mark.parametrize("tiles", [1, 3, 32])
def test_stacked_decoders_give_each_point_the_distance_of_its_frame(device: torch.device, tiles: int) -> None:
    """Frames without points, with one, and with more than a tile."""
    folded, _ = decoders("a549", (-1.0, -0.3, 0.2, 0.4, 1.0))
    frames = torch.tensor([0] * 5000 + [1] + [3] * 700 + [4] * 2048)
    points = torch.from_numpy(np.random.default_rng(1).uniform(-1, 1, (len(frames), 3)).astype(np.float32))
    with torch.inference_mode():
        values = StackedDecoders(folded, device, tiles=tiles)(points.to(device), frames.to(device)).cpu()
    for number, decoder in enumerate(folded):
        own = frames == number
        assert np.abs(values[own].numpy() - decoder(points[own].numpy())).max(initial=0.0) < UNDECIDED


@pytest.mark.parametrize(("name", "most"), [("celegans", 3.0), ("a549", 4.5)])  # composed: distances change faster
def test_evaluations_stay_near_the_least_that_any_method_needs(device: torch.device, name: str, most: float) -> None:
    folded, lipschitz = decoders(name, (0.1,))
    grid = Grid((128, 128, 128))
    sdf = StackedDecoders(folded, device)
    (frame,) = evaluate_frames(sdf, grid, frames=1, lipschitz=lipschitz, device=device)
    cells = np.pad(_crossed(frame.runs.volume() > 0), 1)
    corners = np.zeros(grid.shape, dtype=bool)
    for a, b, c in np.ndindex(2, 2, 2):
        corners |= cells[a : 128 + a, b : 128 + b, c : 128 + c]
    assert frame.least == corners.sum()
    assert frame.evaluations < most * frame.least


def _crossed(inside: np.ndarray) -> np.ndarray:
    """Cells (nx − 1, ny − 1, nz − 1) whose corners differ."""
    nx, ny, nz = (n - 1 for n in inside.shape)
    count = sum(inside[a : nx + a, b : ny + b, c : nz + c].astype(int) for a, b, c in np.ndindex(2, 2, 2))
    return np.asarray((count > 0) & (count < 8))


def test_a_point_that_enters_a_later_layer_again_is_not_forgotten(device: torch.device) -> None:
    rng = np.random.default_rng(0)

    def drawn(*shape: int) -> Tensor:
        return torch.from_numpy(rng.normal(0.0, 0.5, shape).astype(np.float32))

    folded = [
        FoldedDecoder(
            [
                FoldedLayer(drawn(3, 16), drawn(16)),
                FoldedLayer(drawn(16, 13), drawn(13), drawn(3, 13)),
                FoldedLayer(drawn(13, 1), drawn(1)),
            ]
        )
        for _ in range(2)
    ]
    points = rng.uniform(-1, 1, (300, 3)).astype(np.float32)
    frames = torch.arange(2).repeat_interleave(150)
    values = StackedDecoders(folded, device)(torch.from_numpy(points).to(device), frames.to(device)).cpu().numpy()
    expected = np.concatenate([folded[0](points[:150]), folded[1](points[150:])])
    assert np.abs(values - expected).max() < UNDECIDED


def test_products_are_never_shortened_and_the_callers_setting_returns() -> None:
    matmul = torch.backends.cuda.matmul
    before, seen = matmul.fp32_precision, []

    def watched(cell: SignedDistance) -> Callable[[Tensor, Tensor], Tensor]:
        sdf = together(cell)

        def look(points: Tensor, frames: Tensor) -> Tensor:
            seen.append(matmul.fp32_precision)
            return sdf(points, frames)

        return look

    matmul.fp32_precision = "tf32"
    try:
        list(
            evaluate_frames(
                watched(shapes.sphere()), Grid((9, 9, 9)), frames=1, lipschitz=1.0, device=torch.device("cpu")
            )
        )
        assert set(seen) == {"ieee"}
        assert matmul.fp32_precision == "tf32"
    finally:
        matmul.fp32_precision = before


def test_the_benchmark_says_where_it_cannot_run() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device: nothing to refuse")
    script = Path(__file__).parents[3] / "benchmarks" / "gpu.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "no CUDA device" in done.stdout
