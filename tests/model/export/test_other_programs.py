"""Other projects read our files: each in the version that docs/reference/formats.md names."""

from __future__ import annotations

import json
import re
import subprocess
import venv
from pathlib import Path
from typing import Any

import pytest

from model.card import SHIPPED_MODELS
from model.network.checkpoint import load_checkpoint
from model.spec import GenerationSpec
from model.synthesis import synthesize

ROOT = Path(__file__).parents[3]
PROGRAMS = ("py-ctcmetrics==1.3.3", "SimpleITK==2.5.7", "numpy-stl==4.1.1", "pyvista==0.49.1", "vtk==9.7.2")
FRAMES = 8

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """The manifest's entry of a dividing cell, and what other programs found in its files."""
    folder = tmp_path_factory.mktemp("programs")
    venv.create(folder / "venv", with_pip=True)
    install = [folder / "venv/bin/pip", "install", "--quiet", "--disable-pip-version-check", *PROGRAMS]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"the programs cannot be installed here: {done.stderr.strip().splitlines()[-1]}")
    spec = GenerationSpec(
        model="celegans", seed=7, frames=FRAMES, grid=48, formats=["stl", "stl-series", "vtk", "ctc", "tiff-frames"]
    )
    manifest = synthesize(spec.completed(), load_checkpoint(SHIPPED_MODELS / "celegans"), folder / "cells")
    script = Path(__file__).parent / "open_elsewhere.py"
    read = [folder / "venv/bin/python", script, folder / "cells" / "cell_0000"]
    done = subprocess.run(read, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return manifest["cells"][0], json.loads(done.stdout)


def test_the_challenges_tools_find_the_truth_equal_to_itself(opened: Any) -> None:
    cell, found = opened
    assert [track["parent"] for track in cell["tracks"]] == [0, 1, 1]  # it divides
    assert found["challenge"] == {
        "valid": 1, "SEG": 1.0, "TRA": 1.0, "DET": 1.0, "LNK": 1.0, "CT": 1.0, "TF": 1.0, "BC(0)": 1.0,
    }  # fmt: skip


def test_vtk_reads_surfaces_labels_and_minutes(opened: Any) -> None:
    cell, found = opened
    frames = cell["frames"]
    assert found["paraview"]["minutes"] == [frame["minutes"] for frame in frames]
    assert found["paraview"]["labels"] == [frame["labels"] for frame in frames]
    assert found["paraview"]["closed"] == [True] * FRAMES
    assert found["paraview"]["volumes"] == pytest.approx([frame["volume_um3"] for frame in frames], rel=1e-4)


def test_numpy_stl_and_simpleitk_read_ours(opened: Any) -> None:
    cell, found = opened
    frames = cell["frames"]
    assert found["stl"] == pytest.approx([frame["volume_um3"] for frame in frames], rel=1e-4)
    assert found["itk"]["sizes"] == [[48, 48, 48]] * FRAMES
    assert found["itk"]["labels"] == [max(frame["labels"]) for frame in frames]


def test_the_page_names_these_versions() -> None:
    text = (ROOT / "docs" / "reference" / "formats.md").read_text(encoding="utf-8")
    for pin in PROGRAMS:
        name, version = pin.split("==")
        assert re.search(rf"{re.escape(name)} {re.escape(version)}", text), pin
