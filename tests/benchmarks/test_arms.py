"""Promises of benchmarks.arms: that the baseline is the released method, and that both arms are evaluated alike."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from tiny_model import write_masks

from benchmarks.arms import published
from benchmarks.arms.__main__ import QUICK_EFFORT, Size, describe
from benchmarks.arms.measures import (
    Effort,
    OverMaximum,
    Seen,
    apart,
    fits,
    look_at_known,
    new_cells,
    new_codes,
    overlap,
    reconstruction,
)
from benchmarks.arms.methods import (
    ARMS,
    hidden_matrices,
    make_codes,
    make_network,
    make_optimisers,
    our_optimisation,
    penalty,
    penalty_weight,
    schedule,
)
from benchmarks.arms.report import COLUMNS, better, rows, table
from benchmarks.arms.sequences import GROUPS, Sequences, build, masks_of, real, split
from benchmarks.arms.soap import Soap
from benchmarks.arms.training import HELD_OUT, Clock, Run, train_arm
from model.domain import Grid
from model.fitting.fit import FitPlan
from model.network.checkpoint import Checkpoint, load_checkpoint
from model.network.plausibility import bodies_over_time

ROOT = Path(__file__).parents[2]
EFFORT = Effort(
    cells=2, every=2, fits=1, new_cells=2, side=24, moments=2, plan=FitPlan(restarts=1, steps=2, draws=1, adapt_steps=2)
)


@pytest.fixture(scope="module")
def ellipsoids(tmp_path_factory: pytest.TempPathFactory) -> Sequences:
    """Three cells of four frames at 24³, one of them held out, with both kinds of points."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("arms")
    sequences = real(
        "ellipsoids", write_masks(folder / "masks"), folder / "data", cells=None, around_learned=False, points=1024
    )
    build(sequences, workers=1)
    return sequences


@pytest.fixture(scope="module")
def trained(ellipsoids: Sequences, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    """Both arms after a second of training each."""
    folder, clock = tmp_path_factory.mktemp("models"), Clock(seconds=1.0, frames=2, points=128, compiled=False)
    return {name: train_arm(ARMS[name], ellipsoids, folder / name, clock=clock) for name in ("released", "ours")}


@pytest.fixture(scope="module")
def known(ellipsoids: Sequences) -> dict[str, list[Seen]]:
    groups = {group: ellipsoids.measurable(group) for group in GROUPS}
    return {
        group: [look_at_known(cells, index, EFFORT) for index in range(len(cells))] for group, cells in groups.items()
    }


def lumps(side: int) -> np.ndarray:
    """Smooth random lumps (side, side, side), True inside."""
    noise = ndimage.gaussian_filter(np.random.default_rng(3).standard_normal((side,) * 3), 3.0)
    return np.asarray(noise > np.quantile(noise, 0.8))


def test_networks_of_all_arms_have_equal_numbers_of_weights() -> None:
    counts = {
        name: sum(weight.numel() for weight in make_network(arm, torch.Generator()).parameters())
        for name, arm in ARMS.items()
    }
    assert counts["released"] == 216_137
    assert all(abs(count / 216_137 - 1.0) < 0.02 for count in counts.values())


def test_released_network_starts_with_the_wrong_number_of_inputs() -> None:
    decoder = published.initial_decoder(published.NETWORK, torch.Generator().manual_seed(0))
    for layer, weight in enumerate(decoder.weights):
        inputs = weight.shape[1]
        bound = 1 / 196 if layer == 0 else math.sqrt(6 / inputs) / 30
        assert 0.95 * bound < float(weight.detach().abs().max()) <= bound


def test_initial_codes_have_the_released_spread() -> None:
    codes = make_codes(ARMS["released"], 500, torch.Generator().manual_seed(0))
    assert codes.shape == (500, 192)
    assert float(codes.detach().var()) == pytest.approx(1 / 192, rel=0.02)


def test_voxel_distances_are_those_of_a_distance_transform() -> None:
    mask, grid = lumps(24), Grid((24, 24, 24))
    step = float(grid.step[0])
    expected = step * (ndimage.distance_transform_edt(~mask) - ndimage.distance_transform_edt(mask))
    found = published.VoxelDistance(mask, grid)
    values = found(np.arange(grid.size)).reshape(mask.shape)
    np.testing.assert_allclose(values, expected, atol=2e-6)
    assert np.abs(values).min() == pytest.approx(step, rel=1e-5)  # never below one voxel
    short = np.abs(expected).max() - found.largest()  # a voxel is never farther than two from one that is looked at
    assert -1e-6 <= short <= 2 * math.sqrt(3) * step


def test_released_points_are_voxels_seven_tenths_of_them_near() -> None:
    mask = np.linalg.norm(np.indices((32,) * 3) - 15.5, axis=0) < 8
    points = published.sampled_frame(mask, np.random.default_rng(0), most=10_000)
    assert len(points) == round(0.06 * 32**3)
    index = Grid((32, 32, 32)).to_index(points[:, :3])
    np.testing.assert_allclose(index, index.round(), atol=1e-4)
    np.testing.assert_array_equal(points[:, 3] < 0, mask[tuple(index.round().astype(int).T)])
    near = np.abs(points[:, 3]) <= 0.3
    assert near.mean() == pytest.approx(0.7, abs=0.001)
    assert np.abs(points[: len(points) // 2, 3] <= 0.3).mean() == pytest.approx(0.7, abs=0.05)  # in random order
    assert np.abs(points[:, 3]).max() <= 1.0 + 1e-6
    assert len(published.sampled_frame(mask, np.random.default_rng(0), most=500)) == 500


def test_new_codes_are_drawn_as_published() -> None:
    codes = np.random.default_rng(1).standard_normal((5, 192)).astype(np.float32)
    rng = np.random.default_rng(0)
    near = published.new_code(codes, rng, around_learned=True)
    assert np.abs(codes - near).std(axis=1).min() < 0.02
    assert published.new_code(codes, rng, around_learned=False).std() == pytest.approx(0.1, rel=0.2)


def test_clips_of_one_cell_are_never_on_both_sides() -> None:
    files = [Path(f"cell{cell}_{clip:02d}.tif") for cell in range(1, 14) for clip in (1, 2)]
    groups = split(files)
    cells = {group: {path.stem.partition("_")[0] for path in members} for group, members in groups.items()}
    assert cells["training"].isdisjoint(cells["held-out"])
    assert sorted(groups["training"] + groups["held-out"]) == sorted(files)
    assert len(split([Path(f"cell_{n:03d}.tif") for n in range(39)])["training"]) == 33


@pytest.mark.parametrize("name", sorted(ARMS))
def test_every_parameter_has_one_optimiser(name: str) -> None:
    arm = ARMS[name]
    decoder = make_network(arm, torch.Generator())
    codes = make_codes(arm, 3, torch.Generator())
    groups = [group for optimiser in make_optimisers(arm, decoder, codes) for group in optimiser.param_groups]
    moved = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(moved) == sorted([*map(id, decoder.parameters()), id(codes)])
    highest = {group["highest"] for group in groups}
    if arm.optimiser == "released":
        assert highest == {1e-4, 1e-3}
    else:
        assert our_optimisation().latent_learning_rate in highest
        assert (arm.optimiser != "muon") or our_optimisation().hidden_learning_rate in highest
    assert all(min(matrix.shape) > 1 for matrix in hidden_matrices(decoder))


@pytest.mark.parametrize("name", ["released", "ours"])
def test_rates_end_low_however_long_the_run(name: str) -> None:
    factors = [schedule(ARMS[name], done) for done in np.linspace(0.0, 0.9999, 400)]
    assert max(factors) == pytest.approx(1.0, abs=0.01)
    assert factors[-1] < 0.011
    after = factors[20:]
    assert all(later <= sooner for sooner, later in pairwise(after))


def test_the_release_pulls_codes_by_their_length_and_ours_by_its_square() -> None:
    codes, one = torch.tensor([[3.0, 4.0], [0.0, 1.0]]), torch.tensor(1.0)
    assert float(penalty(ARMS["released"], codes, one)) == pytest.approx(3.0)
    assert float(penalty(ARMS["ours"], codes, one)) == pytest.approx(13.0)
    assert penalty_weight(ARMS["released"], 0.0) == 0.0
    assert penalty_weight(ARMS["released"], 0.5) == pytest.approx(1e-4)


def test_soap_descends_where_one_direction_is_a_thousand_times_steeper() -> None:
    found = []
    for _ in range(2):
        generator = torch.Generator().manual_seed(0)
        basis = torch.linalg.qr(torch.randn(8, 8, generator=generator))[0]
        steep = basis @ torch.diag(torch.logspace(-3, 0, 8)) @ basis.T
        matrix = torch.nn.Parameter(torch.randn(8, 8, generator=generator))
        start = float((matrix.detach() * (steep @ matrix.detach())).sum())
        optimiser = Soap([{"params": [matrix]}], lr=0.05)
        for _ in range(200):
            optimiser.zero_grad()
            (matrix * (steep @ matrix)).sum().backward()
            optimiser.step()
        assert float((matrix.detach() * (steep @ matrix.detach())).sum()) < 1e-3 * start
        found.append(matrix.detach())
    assert torch.equal(*found)


def test_both_kinds_of_points_show_the_same_frames(ellipsoids: Sequences) -> None:
    ours, released = ellipsoids.samples("ours"), ellipsoids.samples("released")
    assert len(ours) == len(released) == 2
    for cell, (one, two) in enumerate(zip(ours, released, strict=True)):
        assert one.shape[0] == two.shape[0] == 4
        for frame, mask in enumerate(masks_of(ellipsoids.source, cell, side=0)):
            index = Grid((24, 24, 24)).to_index(two[frame, :, :3]).round().astype(int)
            np.testing.assert_array_equal(two[frame, :, 3] < 0, mask[tuple(index.T)])
            index = Grid((24, 24, 24)).to_index(one[frame, :, :3]).round().astype(int)
            far = np.abs(one[frame, :, 3]) > 0.1
            np.testing.assert_array_equal(one[frame, far, 3] < 0, mask[tuple(index[far].T)])


@pytest.mark.parametrize("name", sorted(ARMS))
def test_some_steps_lower_the_error(name: str, ellipsoids: Sequences) -> None:
    arm = ARMS[name]
    run = Run(arm, ellipsoids.samples(arm.points), Clock(seconds=1.0, frames=2, points=64, compiled=False))
    batch = run.draw(np.random.default_rng([1, 0]))
    none = torch.tensor(0.0)
    before = float(run.loss(*batch, none).detach())
    for _ in range(40):
        run.advance(0.5)
    assert float(run.loss(*batch, none).detach()) < before


def test_no_step_draws_a_frame_that_is_left_out(ellipsoids: Sequences) -> None:
    run = Run(ARMS["ours"], ellipsoids.samples("ours"), Clock(seconds=1.0, frames=64, points=1, compiled=False))
    left_out = HELD_OUT.frames(4)
    assert left_out == [2]
    times = run.draw(np.random.default_rng(0))[2]
    assert set(times.tolist()) == {np.float32(2 * frame / 3 - 1) for frame in range(4) if frame not in left_out}


def test_an_arm_trains_for_its_time_and_no_longer(trained: dict[str, Checkpoint]) -> None:
    for name, checkpoint in trained.items():
        assert checkpoint.card.training.minutes == pytest.approx(1 / 60, abs=1e-3)
        assert checkpoint.card.training.steps > 0
        assert checkpoint.card.id == name
        assert len(checkpoint.latent_codes) == 2


def test_every_arm_is_evaluated_by_every_measure(
    trained: dict[str, Checkpoint], ellipsoids: Sequences, known: dict[str, list[Seen]]
) -> None:
    evaluated = {}
    for name, checkpoint in trained.items():
        arm = ARMS[name]
        evaluated[name] = {
            "training": {"steps": checkpoint.card.training.steps},
            "reconstruction": reconstruction(checkpoint, ellipsoids, EFFORT),
            "fits": fits(arm, checkpoint, ellipsoids, EFFORT),
            "new_cells": new_cells(arm, checkpoint, ellipsoids, EFFORT, known),
        }
    assert 0.0 <= evaluated["ours"]["reconstruction"]["dice_left_out_frames"] <= 1.0
    assert "dice_adapted" in evaluated["ours"]["fits"]
    assert "dice_adapted" not in evaluated["released"]["fits"]
    document = {"arms": evaluated, "training_cells": apart(known["training"], known["held-out"])}
    found = rows(document)
    assert [row["arm"] for row in found] == ["released", "ours", "(training cells)"]
    assert len(table(found).splitlines()) == 5
    assert {"fits", "reconstruction"} <= better(document).keys()
    json.dumps(document)


def test_known_cells_are_whole_and_their_own_nearest(known: dict[str, list[Seen]]) -> None:
    for cell in known["training"]:
        assert (cell.strays, cell.empty) == (0, 0)
        assert overlap(cell, known["training"]) == 1.0
        assert all(0.9 < value <= 1.02 for value in cell.values["sphericity"])
    assert 0.0 < overlap(known["held-out"][0], known["training"]) < 1.0
    assert overlap(known["held-out"][0], []) == 0.0


def test_targets_of_the_released_network_are_divided_by_their_maximum(ellipsoids: Sequences) -> None:
    shape = ellipsoids.target(0)[0].shape
    divided = OverMaximum(shape)
    points = np.random.default_rng(0).uniform(-1, 1, (200, 3)).astype(np.float32)
    corner = float(shape(np.ones((1, 3), dtype=np.float32))[0])
    np.testing.assert_allclose(divided(points), shape(points) / corner, rtol=1e-3)
    assert divided(np.ones((1, 3), dtype=np.float32))[0] == pytest.approx(1.0, abs=1e-3)


def test_priors_differ_and_repeat_themselves(trained: dict[str, Checkpoint], ellipsoids: Sequences) -> None:
    for name, checkpoint in trained.items():
        first, again = (new_codes(ARMS[name], checkpoint, ellipsoids, 3) for _ in range(2))
        np.testing.assert_array_equal(first, again)
        assert len({code.tobytes() for code in first}) == 3
        assert len(bodies_over_time(checkpoint, first[0])[0]) >= 1


def test_ahead_means_more_overlap_and_less_distance() -> None:
    def arm(dice: float, gap: float) -> dict[str, object]:
        return {
            "reconstruction": {"dice_left_out_frames": dice, "steps_apart_left_out_frames": gap},
            "new_cells": {"D_volume": {"distance": gap}},
        }

    found = better({"arms": {"ours": arm(0.9, 0.25), "released": arm(0.75, 0.5)}})
    assert found == {
        "reconstruction": {"dice_left_out_frames": 0.15, "steps_apart_left_out_frames": 0.25},
        "new_cells": {"D_volume": 0.25},
    }
    assert better({"arms": {"ours": arm(0.9, 0.25)}}) == {}


def test_figures_that_were_not_measured_leave_their_column_empty() -> None:
    found = rows({"arms": {"ours": {"fits": {"dice_code": 0.5}}}, "training_cells": {}})
    assert found[0]["Dice, unseen cell"] == "0.500"
    assert {found[0][heading] for heading in COLUMNS} == {"", "0.500"}


def test_real_cells_that_are_not_there_are_skipped(tmp_path: Path) -> None:
    assert describe("tcells", tmp_path, real_folder=tmp_path, size=Size()) is None
    assert describe("a549", tmp_path, real_folder=tmp_path, size=Size()) is not None


@pytest.mark.slow
def test_the_command_compares_and_skips_with_a_reason(tmp_path: Path) -> None:
    write_masks(tmp_path / "real" / "celegans")
    command = [sys.executable, "-m", "benchmarks.arms", "--quick", "--data", "real-celegans,tcells"]
    command += ["--real", str(tmp_path / "real"), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "tcells is skipped: there are no masks" in done.stdout
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert set(summary["data"]["real-celegans"]["arms"]) == {"released", "ours"}
    assert summary["data"]["tcells"] == {"skipped": "no masks"}
    assert load_checkpoint(tmp_path / "out" / "models" / "real-celegans" / "ours").card.topology == "single"
    assert QUICK_EFFORT.plan.adapt_steps > 0
