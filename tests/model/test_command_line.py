"""``python -m model``: what somebody does who never starts the service."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_model import write_masks

from model.card import load_card

ROOT = Path(__file__).parents[2]

RECIPE = """
id = "ellipsoids"
title = "Ellipsoids"
description = "For tests."
cell_type = "ellipsoids"
threads = 1
[data]
kind = "masks"
folder = "nowhere"
micrometres = 10.0
minutes = 6.0
points_per_frame = 2048
[held_out]
every = 3
offset = 1
[network]
latent_size = 4
width = 24
depth = 3
conditioning_width = 16
[optimisation]
steps = {steps}
frames_per_step = 4
points_per_frame = 256
learning_rate = 3e-3
warm_up = 10
"""


def run(*arguments: str | Path, ok: bool = True) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "model", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert (done.returncode == 0) == ok, done.stderr + done.stdout
    return " ".join((done.stderr + done.stdout).split())  # rich wraps lines


def test_help_names_every_verb() -> None:
    text = run("--help")
    for verb in ("train", "evaluate", "synthesize", "verify"):
        assert verb in text


def test_from_masks_to_a_model_to_files_that_verify(tmp_path: Path) -> None:
    """Masks in, a servable model out, its cells written, read back, and a damaged one found."""
    masks = write_masks(tmp_path / "masks")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE.format(steps=90_000))
    models, work = tmp_path / "models", tmp_path / "work"
    steps = ("--steps", "150", "--workers", "1")
    run("train", "--config", recipe, "--data", masks, "--models", models, "--work", work, *steps)
    card = load_card(models / "ellipsoids")
    assert card.training.held_out_frames == "1"
    assert card.training.steps == 150
    assert card.training.recipe.endswith("--steps 150")
    assert card.latent_codes == 3

    figures = tmp_path / "figures.json"
    run(
        "evaluate",
        "--config",
        recipe,
        "--data",
        masks,
        "--models",
        models,
        "--samples",
        "2",
        "--out",
        figures,
        "--keep",
    )
    measured = json.loads(figures.read_text())["figures"]
    assert measured["dice_training_frames"] > 0.8
    assert measured["dice_left_out_frames"] > 0.6  # one of four times, far from its neighbours
    assert load_card(models / "ellipsoids").quality == measured

    spec = tmp_path / "spec.json"
    spec.write_text('{"model": "ellipsoids", "seed": 1, "frames": 2, "grid": 24, "formats": ["stl", "tiff"]}')
    run("synthesize", spec, "--models", models, "--out", tmp_path / "cells")
    assert "every file is what its manifest says" in run("verify", tmp_path / "cells")
    (tmp_path / "cells/cell_0000/frame_0001.stl").write_bytes(b"nothing")
    assert "differs from its checksum" in run("verify", tmp_path / "cells", ok=False)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("train", "--config", "missing.toml"), "there is no recipe missing.toml"),
        (("train", "--config", "model/recipes/a549.toml", "--data", "x"), "only one of masks takes a"),
        (
            ("train", "--config", "model/recipes/a549.toml", "--start", "model/checkpoints/celegans"),
            "has another network",
        ),
        (("evaluate", "--config", "model/recipes/masks.toml", "--models", "nowhere"), "there is no model"),
        (("synthesize", "missing.json", "--out", "x"), "is not a usable spec"),
        (("verify", "docs"), "holds no manifest.json"),
    ],
)
def test_mistakes_end_with_one_clear_sentence(arguments: tuple[str, ...], words: str) -> None:
    text = run(*arguments, ok=False)
    assert words in text
    assert "Traceback" not in text
