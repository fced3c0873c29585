"""Reconstruction: given frames are kept exactly where that is asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_model import write_masks

from model.domain import Grid
from model.fitting.fit_targets import read_target
from model.fitting.given_cell import kept_frames
from model.living_cell import draw
from model.network.checkpoint import Checkpoint
from model.spec import GenerationSpec

GRID = Grid((48, 48, 48))


def test_kept_frames_are_the_given_shapes_and_the_others_are_fitted(
    tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    micrometres = tiny_checkpoint.card.micrometres
    target = read_target(
        [write_masks(tmp_path) / "cell_2.tif"], micrometres=micrometres, voxel=(20 / 23, 20 / 23, 20 / 23)
    )
    latent = {"kind": "learned", "index": 1}  # another cell than the given one
    recipe = GenerationSpec.model_validate({"model": "tiny", "seed": 0, "latent": latent}).completed()
    times = np.array([-1.0, -0.5, target[1].time, 1.0], dtype=np.float32)
    kept = kept_frames(recipe, tiny_checkpoint, target, shift_um=[0.0, 0.0, 0.0])(0)
    made = zip(kept.frames(times, GRID), draw(recipe, tiny_checkpoint, 0).frames(times, GRID), strict=True)
    for frame, plain in made:
        given = next((one.shape for one in target if abs(one.time - frame.time) < 1e-6), None)
        if given is None:
            np.testing.assert_array_equal(frame.surface.vertices, plain.surface.vertices)
            continue
        assert np.abs(given(frame.surface.vertices)).max() < 0.1 * GRID.step.max(), "on the given membrane"
        assert frame.surface.volume == pytest.approx(sum(part.volume for part in given.parts), rel=0.01)
        assert np.abs(given(plain.surface.vertices)).max() > GRID.step.max(), "the fitted cell is another"
    moved = kept_frames(recipe, tiny_checkpoint, target, shift_um=[micrometres / 10, 0.0, 0.0])(0)
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (50, 3)).astype(np.float32)
    shifted = (points + np.array([0.1, 0.0, 0.0])).astype(np.float32)
    np.testing.assert_allclose(moved.shape(-1.0)(points), kept.shape(-1.0)(shifted), atol=1e-5)
