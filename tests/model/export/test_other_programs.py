"""Other projects read our files: each in the version that docs/reference/formats.md names."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from environments import make_environment

from model.card import SHIPPED_MODELS
from model.network.checkpoint import load_checkpoint
from model.spec import GenerationSpec
from model.synthesis import synthesize

ROOT = Path(__file__).parents[3]
PROGRAMS = (
    "py-ctcmetrics==1.3.3", "SimpleITK==2.5.7", "numpy-stl==4.1.1", "pyvista==0.49.1", "vtk==9.7.2",
    "ome-types==0.7.0", "yaozarrs==0.3.4", "zarr==3.1.6", "ome-zarr-models==1.7",
    "bioio==3.6.0", "bioio-ome-tiff==1.4.0", "bioio-ome-zarr==3.8.1", "h5py==3.16.0",
    "geff==1.3.1.1.3", "traccuracy==0.4.3",
)  # fmt: skip
VALIDATOR = "gltf-validator@2.0.0-dev.3.10"
FRAMES = 8

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # installs from a registry


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any], Path]:
    """The manifest's entry of a dividing cell, what other programs found in its files, and the files."""
    folder = tmp_path_factory.mktemp("programs")
    try:
        make_environment(folder / "venv", *PROGRAMS)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"the programs cannot be installed here: {error.stderr.strip().splitlines()[-1]}")
    spec = GenerationSpec(
        model="celegans", seed=7, frames=FRAMES, grid=48,
        formats=[
            "stl", "stl-series", "vtk", "ctc", "tiff-frames", "tiff", "ome-tiff", "ome-zarr", "glb",
            "geff", "sdf", "sdf-hdf5",
        ],
    )  # fmt: skip
    manifest = synthesize(spec.completed(), load_checkpoint(SHIPPED_MODELS / "celegans"), folder / "cells")
    script = Path(__file__).parent / "open_elsewhere.py"
    read = [folder / "venv/bin/python", script, folder / "cells" / "cell_0000"]
    done = subprocess.run(read, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return manifest["cells"][0], json.loads(done.stdout), folder / "cells"


def test_the_challenges_tools_find_the_truth_equal_to_itself(opened: Any) -> None:
    cell, found, _ = opened
    assert [track["parent"] for track in cell["tracks"]] == [0, 1, 1]  # it divides
    assert found["challenge"] == {
        "valid": 1, "SEG": 1.0, "TRA": 1.0, "DET": 1.0, "LNK": 1.0, "CT": 1.0, "TF": 1.0, "BC(0)": 1.0,
    }  # fmt: skip


def test_traccuracy_loads_the_truth_and_finds_the_division(opened: Any) -> None:
    cell, found, _ = opened
    assert found["traccuracy"] == {
        "nodes": sum(len(frame["labels"]) for frame in cell["frames"]),
        "AOGM": 0.0, "TRA": 1.0, "DET": 1.0, "LNK": 1.0, "Division F1": 1.0, "Total GT Divisions": 1,
    }  # fmt: skip


def test_vtk_reads_surfaces_labels_and_minutes(opened: Any) -> None:
    cell, found, _ = opened
    frames = cell["frames"]
    assert found["paraview"]["minutes"] == [frame["minutes"] for frame in frames]
    assert found["paraview"]["labels"] == [frame["labels"] for frame in frames]
    assert found["paraview"]["closed"] == [True] * FRAMES
    assert found["paraview"]["volumes"] == pytest.approx([frame["volume_um3"] for frame in frames], rel=1e-4)


def test_numpy_stl_and_simpleitk_read_ours(opened: Any) -> None:
    cell, found, _ = opened
    frames = cell["frames"]
    assert found["stl"] == pytest.approx([frame["volume_um3"] for frame in frames], rel=1e-4)
    assert found["itk"]["sizes"] == [[48, 48, 48]] * FRAMES
    assert found["itk"]["labels"] == [max(frame["labels"]) for frame in frames]


def test_ome_tools_read_ome_tiff_and_ome_zarr(opened: Any) -> None:
    """Types by the schema, a label image by both validators, and the same voxels in each reader and level."""
    cell, found, _ = opened
    minutes = [frame["minutes"] for frame in cell["frames"]]
    assert found["ome"]["increment"] == [pytest.approx(minutes[1] - minutes[0], abs=1e-5), "min"]
    assert found["ome"]["kind"] == "ImageLabel"
    assert found["ome"]["equal"] == [True] * 5
    assert found["ome"]["sizes"] == [pytest.approx(list(reversed(found["ome"]["spacing"])))] * 2


def test_the_library_of_geff_reads_the_lineage(opened: Any) -> None:
    cell, found, _ = opened
    frames, graph = cell["frames"], found["geff"]
    assert [node[:2] for node in graph["nodes"]] == [[f["frame"], label] for f in frames for label in f["labels"]]
    assert [node[2] for node in graph["nodes"]] == pytest.approx(
        [frame["minutes"] for frame in frames for _ in frame["labels"]], rel=1e-5
    )
    for frame in frames:
        mine = [v for node, v in zip(graph["nodes"], graph["volumes"], strict=True) if node[0] == frame["frame"]]
        assert sum(mine) == pytest.approx(frame["volume_um3"], rel=1e-4)
    assert graph["lineages"] == [1]
    assert graph["divisions"] == [[1, 2, 3]]
    assert graph["edges"] == len(graph["nodes"]) - 1  # a tree
    assert graph["axes"] == [["t", "frame"], ["z", "micrometer"], ["y", "micrometer"], ["x", "micrometer"]]


def test_zarr_and_h5py_read_the_same_distances(opened: Any) -> None:
    cell, found, _ = opened
    minutes = [pytest.approx(frame["minutes"], abs=1e-5) for frame in cell["frames"]]
    assert found["distances"] == {"equal": True, "inside": True, "clamped": True, "minutes": [minutes] * 2}


def test_the_gltf_validator_reports_nothing(opened: Any, tmp_path: Path) -> None:
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed here")
    install = ["npm", "install", "--silent", "--no-audit", "--no-fund", VALIDATOR]
    done = subprocess.run(install, cwd=tmp_path, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"the glTF validator cannot be installed here: {done.stderr.strip()[-200:]}")
    code = (
        "const v = require('gltf-validator'); const b = require('fs').readFileSync(process.argv[1]);"
        "v.validateBytes(new Uint8Array(b)).then(r => console.log(JSON.stringify([r.issues, r.info])))"
    )
    file = opened[2] / "cell_0000" / "cell.glb"
    done = subprocess.run(["node", "-e", code, file], cwd=tmp_path, capture_output=True, text=True, check=True)
    issues, info = json.loads(done.stdout)
    assert [issues[kind] for kind in ("numErrors", "numWarnings", "numInfos", "numHints")] == [0, 0, 0, 0]
    assert (info["animationCount"], info["materialCount"]) == (1, 3)


def test_the_page_names_these_versions() -> None:
    text = (ROOT / "docs" / "reference" / "formats.md").read_text(encoding="utf-8")
    for pin in (*PROGRAMS, VALIDATOR.replace("@", "==")):
        name, version = pin.split("==")
        assert re.search(rf"{re.escape(name)} {re.escape(version)}", text), pin
