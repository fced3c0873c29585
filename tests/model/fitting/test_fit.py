from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from tiny_model import FRAMES, SIDE, write_masks
from typer.testing import CliRunner

from model.__main__ import cli
from model.card import find_model
from model.domain import Grid, frame_times
from model.engine.sparse import evaluate_dense
from model.errors import DatasetError
from model.fitting.fit import Fit, FitPlan, TargetFrame, fit_cell, score_fit
from model.fitting.fit_targets import read_target
from model.learning.sources import mask_frames
from model.living_cell import LivingCell
from model.membranes.mask_surface import membrane_of_field
from model.membranes.triangle_distance import CellShape
from model.network.checkpoint import Checkpoint, load_checkpoint
from model.network.latent import rotation_matrix

GRID = Grid((32, 32, 32))
QUICK = FitPlan(restarts=2, steps=60, draws=8, points=256, frames=4)


@pytest.fixture(scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)


def cell_frames(
    checkpoint: Checkpoint, code: np.ndarray, rotation: list[float], frames: int = FRAMES
) -> list[TargetFrame]:
    """Frames of the cell that a code and a rotation name."""
    cell = LivingCell(checkpoint, code, rotation)
    found = []
    for time in frame_times(frames):
        field = evaluate_dense(cell.at(float(time)), GRID)
        step = float(GRID.step[0])
        membrane = membrane_of_field(field, (step, step, step)).placed(np.ones(3), 1.0)
        found.append(TargetFrame(float(time), CellShape([membrane])))
    return found


def unseen(checkpoint: Checkpoint) -> np.ndarray:
    """A code between the learned ones that is none of them."""
    weights = np.array([0.5, 0.3, 0.2], dtype=np.float32)
    return np.asarray(weights @ checkpoint.latent_codes, dtype=np.float32)


def test_the_cell_of_a_hidden_code_is_found_again(tiny_checkpoint: Checkpoint, one_thread: None) -> None:
    target = cell_frames(tiny_checkpoint, unseen(tiny_checkpoint), [1.0, 0.0, 0.0, 0.0])
    fit = fit_cell(tiny_checkpoint, target, plan=QUICK)
    learned = [
        np.mean([s.dice for s in score_fit(fit_of(tiny_checkpoint, code), target, grid=GRID)])
        for code in tiny_checkpoint.latent_codes
    ]
    scores = score_fit(fit, target, grid=GRID)
    dice = np.mean([score.dice for score in scores])
    assert dice > 0.98
    assert 1 - dice < 0.4 * (1 - max(learned))  # far better than the nearest cell that was learned
    assert max(score.mean_distance for score in scores) < 0.3 * GRID.step[0]


def fit_of(checkpoint: Checkpoint, code: np.ndarray) -> Fit:
    return Fit(checkpoint, code, [1.0, 0.0, 0.0, 0.0], np.zeros(3), 0.0, [])


def test_the_same_plan_gives_the_same_code(tiny_checkpoint: Checkpoint, one_thread: None) -> None:
    target = cell_frames(tiny_checkpoint, unseen(tiny_checkpoint), [1.0, 0.0, 0.0, 0.0])
    plan = FitPlan(restarts=1, steps=5, draws=4, points=64)
    first, second = (fit_cell(tiny_checkpoint, target, plan=plan) for _ in range(2))
    assert np.array_equal(first.latent, second.latent)


def test_rotation_and_place_are_found(tiny_checkpoint: Checkpoint, one_thread: None) -> None:
    """The cell is an ellipsoid with three axes: turned back by what was found, it lies in its place."""
    turn = [0.8, 0.1, -0.4, 0.4]
    turn = [float(q) for q in np.array(turn) / np.linalg.norm(turn)]
    target = cell_frames(tiny_checkpoint, tiny_checkpoint.latent_codes[0], turn)
    moved = [
        TargetFrame(
            frame.time, CellShape([part.placed(np.array([-0.06, 0.04, 0.0]), 1.0) for part in frame.shape.parts])
        )
        for frame in target
    ]
    plan = FitPlan(restarts=4, steps=80, draws=4, points=256, frames=4, orientations=32, shift=True)
    fit = fit_cell(tiny_checkpoint, moved, plan=plan)
    assert np.mean([score.dice for score in score_fit(fit, moved, grid=GRID)]) > 0.97
    assert np.allclose(fit.shift, [0.06, -0.04, 0.0], atol=0.02)
    axis = int(np.argmax(np.linalg.norm(target[0].shape.outline.vertices, axis=1)))
    pole = target[0].shape.outline.vertices[axis]
    pole /= np.linalg.norm(pole)
    # the long axis of the cell as the model knows it, turned by what was found, is the long axis that was given
    learned = cell_frames(tiny_checkpoint, fit.latent, [1.0, 0.0, 0.0, 0.0])[0].shape.outline.vertices
    long = learned[int(np.argmax(np.linalg.norm(learned, axis=1)))]
    found = rotation_matrix(fit.rotation) @ (long / np.linalg.norm(long))
    assert abs(found @ pole) > 0.97


def test_adapting_meets_a_cell_that_no_code_does(tiny_checkpoint: Checkpoint, tmp_path: Path, one_thread: None) -> None:
    """A box is no ellipsoid; between the frames given the adapted network still knows the cell."""
    axis = np.arange(SIDE) * 2.0 / (SIDE - 1) - 1.0
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    frames = []
    step = 2.0 / (SIDE - 1)
    for time in frame_times(7):
        field = np.maximum.reduce([np.abs(x) - 0.55, np.abs(y) - 0.4 - 0.05 * float(time), np.abs(z) - 0.35])
        membrane = membrane_of_field(field, (step, step, step)).placed(np.ones(3), 1.0)
        frames.append(TargetFrame(float(time), CellShape([membrane])))
    given, between = frames[::2], frames[1::2]
    plan = FitPlan(restarts=1, steps=40, draws=4, points=256, frames=4, adapt_steps=250, adapt_rate=2e-3)
    before_weights = [tensor.clone() for tensor in tiny_checkpoint.decoder.state_dict().values()]
    fit = fit_cell(tiny_checkpoint, given, plan=plan)
    assert fit.before is not None
    code_only, adapted = (np.mean([s.dice for s in score_fit(f, between, grid=GRID)]) for f in (fit.before, fit))
    assert adapted > 0.9
    assert 1 - adapted < 0.5 * (1 - code_only)
    # the model that was given is as it was
    assert all(
        torch.equal(a, b) for a, b in zip(before_weights, tiny_checkpoint.decoder.state_dict().values(), strict=True)
    )


def test_a_perfect_fit_scores_perfectly_and_a_shifted_one_by_its_shift(tiny_checkpoint: Checkpoint) -> None:
    code = tiny_checkpoint.latent_codes[1]
    target = cell_frames(tiny_checkpoint, code, [1.0, 0.0, 0.0, 0.0])
    perfect = score_fit(fit_of(tiny_checkpoint, code), target, grid=GRID)
    assert min(score.dice for score in perfect) == 1.0
    assert max(score.distance_95 for score in perfect) < 1e-3
    away = [
        TargetFrame(f.time, CellShape([p.placed(np.array([0.1, 0, 0]), 1.0) for p in f.shape.parts])) for f in target
    ]
    shifted = score_fit(fit_of(tiny_checkpoint, code), away, grid=GRID)
    assert all(0.03 < score.mean_distance < 0.1 for score in shifted)  # half of it on average over a sphere
    assert all(0.08 < score.distance_95 <= 0.105 for score in shifted)


def test_from_files_to_a_code_a_spec_and_the_cell_again(tiny_models: Path, tmp_path: Path) -> None:
    """What the command writes can be used: the spec names the adapted model, and its cell is the given one."""
    masks = write_masks(tmp_path / "masks") / "cell_1.tif"
    out = tmp_path / "my cell"
    done = CliRunner().invoke(
        cli,
        ["fit", str(masks), "--model", "tiny", "--models", str(tiny_models), "--out", str(out), "--place", "omega",
         "--adapt", "60", "--frames", "7", "--grid", "32", "--score-grid", "32", "--formats", "tiff"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    document = json.loads((out / "fit.json").read_text())
    assert document["model"] == "tiny"
    assert len(document["latent"]["values"]) == 4
    assert document["score"]["dice"] > 0.9
    assert document["adapted"]["score"]["dice"] > 0.93
    spec = json.loads((out / "spec.json").read_text())
    checkpoint = load_checkpoint(find_model(spec["model"], [out / "models"]))
    assert spec["model"] == document["adapted"]["model"] == "my-cell"
    assert np.allclose(checkpoint.latent_codes[0], spec["latent"]["values"])
    labels = tifffile.imread(out / "cells/cell_0000/labels.tif")
    assert labels.shape == (7, 32, 32, 32)
    truth = mask_frames(masks)[0].transpose(2, 1, 0)
    assert (labels[0] > 0).mean() == pytest.approx(truth.mean(), rel=0.08)


def test_targets_are_placed_as_asked(tmp_path: Path) -> None:
    masks = np.zeros((2, 16, 24, 32), np.uint8)
    masks[:, 4:9, 10:18, 20:28] = 255
    tifffile.imwrite(tmp_path / "cell.tif", masks, metadata={"axes": "TZYX"})
    (first, last) = read_target([tmp_path / "cell.tif"], micrometres=5.0, place="omega")
    assert (first.time, last.time) == (-1.0, 1.0)
    middle = np.array([23.5 / 31, 13.5 / 23, 6.0 / 15]) * 2 - 1
    assert np.allclose(first.shape.outline.centroid, middle, atol=0.02)
    half = np.array([4 / 31, 4 / 23, 2.5 / 15]) * 2
    assert np.allclose(np.ptp(first.shape.outline.vertices, axis=0) / 2, half, rtol=0.1)
    centred = read_target([tmp_path / "cell.tif"], micrometres=5.0, voxel=(0.5, 0.5, 0.5), times=[-0.5, 0.25])
    assert [frame.time for frame in centred] == [-0.5, 0.25]
    assert np.allclose(centred[0].shape.outline.centroid, 0.0, atol=0.02)
    volume = 8 * 8 * 5 * 0.5**3 / 5.0**3
    assert centred[0].shape.outline.volume == pytest.approx(volume, rel=0.12)  # rounded at edges and corners


def test_targets_that_say_too_little_are_refused(tmp_path: Path) -> None:
    labels = np.zeros((2, 16, 16, 16), np.uint16)
    labels[:, 2:7, 2:7, 2:7], labels[:, 9:14, 9:14, 9:14] = 3, 4
    path = tmp_path / "cells.tif"
    tifffile.imwrite(path, labels, metadata={"axes": "TZYX"})
    with pytest.raises(DatasetError, match="give --voxel"):
        read_target([path], micrometres=5.0)
    with pytest.raises(DatasetError, match=r"shows the cells \[3, 4\]; name one with --label"):
        read_target([path], micrometres=5.0, voxel=(1.0, 1.0, 1.0))
    with pytest.raises(DatasetError, match="does not show the cell"):
        read_target([path], micrometres=5.0, voxel=(1.0, 1.0, 1.0), labels=[9])
    with pytest.raises(DatasetError, match="3 times were given for 2 frames"):
        read_target([path], micrometres=5.0, voxel=(1.0, 1.0, 1.0), labels=[3], times=[0.0, 0.5, 1.0])
    assert len(read_target([path], micrometres=5.0, voxel=(1.0, 1.0, 1.0), labels=[3, 4])[0].shape.parts) == 2
