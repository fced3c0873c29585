"""``python -m model``: what somebody does who never starts the service."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_model import write_masks

from model.__main__ import main
from model.card import load_card

ROOT = Path(__file__).parents[3]

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
        timeout=560,
    )
    assert (done.returncode == 0) == ok, done.stderr + done.stdout
    return " ".join((done.stderr + done.stdout).split())  # rich wraps lines


Ended = Callable[..., tuple[int, str]]


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ended:
    """Run ``python -m model`` in this process, through ``main``; its status and all that it printed."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "300")

    def call(*arguments: str | Path) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["model", *map(str, arguments)])
        with pytest.raises(SystemExit) as ending:
            main()
        printed = capsys.readouterr()
        return int(ending.value.code or 0), printed.err + printed.out

    return call


def test_help_names_every_verb(ended: Ended) -> None:
    text = ended("--help")[1]
    for verb in ("train", "evaluate", "synthesize", "verify"):
        assert verb in text


def test_from_masks_to_a_model_to_files_that_verify(tmp_path: Path, ended: Ended) -> None:
    """Masks in, a servable model out, its cells written, read back, and a damaged one found."""
    masks = write_masks(tmp_path / "masks")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f"warps = 1\n{RECIPE.format(steps=90_000)}")
    models, work = tmp_path / "models", tmp_path / "work"
    steps = ("--steps", "150", "--workers", "1")
    command = ("train", "--config", recipe, "--data", masks, "--models", models, "--work", work, *steps)
    assert ended(*command)[0] == 0
    card = load_card(models / "ellipsoids")
    assert card.training.held_out_frames == "1"
    assert card.training.steps == 150
    assert card.training.recipe.endswith("--steps 150")
    assert card.training.sequences == 3
    assert card.latent_codes == 6, "each has a warped copy"

    figures = tmp_path / "figures.json"
    assert ended(
        "evaluate", "--config", recipe, "--data", masks, "--models", models, "--samples", "2", "--workers", "1",
        "--out", figures, "--keep",
    )[0] == 0  # fmt: skip
    measured = json.loads(figures.read_text())["figures"]
    assert measured["dice_training_frames"] > 0.8
    assert measured["dice_left_out_frames"] > 0.6  # one of four times, far from its neighbours
    assert load_card(models / "ellipsoids").quality == measured

    spec = tmp_path / "spec.json"
    spec.write_text('{"model": "ellipsoids", "seed": 1, "frames": 2, "grid": 24, "formats": ["stl", "tiff"]}')
    assert ended("synthesize", spec, "--models", models, "--out", tmp_path / "cells")[0] == 0
    status, said = ended("verify", tmp_path / "cells")
    assert (status, "every file is what its manifest says" in said) == (0, True)
    (tmp_path / "cells/cell_0000/frame_0001.stl").write_bytes(b"nothing")
    status, said = ended("verify", tmp_path / "cells")
    assert (status, "differs from its checksum" in said) == (1, True)


def test_a_mistake_ends_the_process_with_one_clear_sentence() -> None:
    text = run("evaluate", "--config", "model/recipes/masks.toml", "--models", "nowhere", ok=False)
    assert "there is no model" in text
    assert "Traceback" not in text


def a_result(folder: Path) -> Path:
    """A result by its manifest, with one picture that no reader opens."""
    (folder / "cell_0000").mkdir(parents=True)
    (folder / "cell_0000/picture.png").write_bytes(b"png")
    digest = hashlib.sha256(b"png").hexdigest()
    units = {"micrometres": 1.0, "minutes": 1.0, "spacing": [1.0, 1.0, 1.0]}
    manifest = {
        "spec": {}, "model": {"id": "x", "sha256": "0" * 64}, "software": {"version": "1"}, "device_class": "cpu",
        "units": units,
        "cells": [{"index": 0, "latent": [], "rotation": [1, 0, 0, 0], "seed": 0, "tracks": [], "frames": []}],
        "files": [{"name": "cell_0000/picture.png", "bytes": 3, "sha256": digest, "media_type": "image/png"}],
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_verify_names_files_that_the_manifest_does_not(tmp_path: Path, ended: Ended) -> None:
    """Files of an earlier result that lie beside the new ones are not taken for part of it."""
    folder = a_result(tmp_path / "result [1]")
    (folder / ".DS_Store").write_bytes(b"x")
    assert ended("verify", folder)[0] == 0
    (folder / "cell_0000/frame_0007.stl").write_bytes(b"solid")
    status, said = ended("verify", folder, tmp_path)
    assert status == 2  # the second folder holds no manifest
    assert "result [1]: cell_0000/frame_0007.stl: not in the manifest" in said
    assert "holds no manifest.json" in said
    assert "export_failed" not in said
    assert ended("verify", folder)[0] == 1


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("validate", "nowhere"), 2, "there is no nowhere"),
        (("import", "nowhere", "--out", "x"), 2, "there is no nowhere"),
        (("train", "--config", "missing.toml"), 2, "there is no recipe missing.toml"),
        (("train", "--config", "model/recipes/a549.toml", "--data", "x"), 2, "only one of masks takes a"),
        (
            ("train", "--config", "model/recipes/a549.toml", "--start", "model/checkpoints/celegans"),
            2,
            "has another network",
        ),
        (("evaluate", "--config", "missing.toml"), 2, "there is no recipe missing.toml"),
        (("synthesize", "missing.json", "--out", "x"), 2, "missing.json is not a usable spec: No such file"),
        (("synthesize", "pyproject.toml", "--out", "x"), 2, "is not a usable spec: the document: Invalid JSON"),
        (("verify", "docs"), 2, "error: docs holds no manifest.json"),
        (("fit", "nowhere.tif", "--model", "celegans", "--out", "x"), 2, "there is no nowhere.tif"),
        (("validate", "docs"), 2, "holds no cells"),
        (("validate", "--nonsense"), 2, "No such option"),
    ],
)
def test_an_input_that_cannot_be_read_is_status_2_and_one_sentence(
    arguments: tuple[str, ...], status: int, words: str, ended: Ended
) -> None:
    found, said = ended(*arguments)
    assert found == status
    assert words in said
    for inner in ("Traceback", "pydantic.dev", "Errno", "bad_dataset", "invalid_spec"):
        assert inner not in said


def test_help_tells_what_exit_statuses_mean(ended: Ended) -> None:
    assert "Exit status of every command" in ended("--help")[1]
