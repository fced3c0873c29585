"""Promises of docs/how-to: the programs of these pages run as they stand; other packages in their own environments."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from documented import ROOT, blocks, run_blocks
from environments import make_environment
from served import Served, served

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # some install from a registry


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("how-to"), CYTOSYNTH_THREADS="1") as running:
        yield running


def test_the_client_is_used_as_its_page_shows(service: Served, tmp_path: Path) -> None:
    job, arrays, _, refusals, many = run_blocks("how-to/use-from-python.md", tmp_path, service)
    files = len([path for path in (tmp_path / "cells").rglob("*") if path.is_file()])
    assert f"succeeded {files - 1} files" in job  # beside the manifest
    lines = re.findall(r"(\d+) min +(\d+) µm³ of voxels +(\d+) µm³ of mesh", arrays)
    assert len(lines) == 6
    assert all(abs(int(voxels) / int(mesh) - 1) < 0.1 for _, voxels, mesh in lines)
    assert (tmp_path / "variations" / "cell_0003" / "frame_0002.stl").stat().st_size > 84
    assert "Cells of job" in (tmp_path / "report" / "report.html").read_text()
    assert "/frames" in refusals
    assert len(refusals.splitlines()) == 2
    assert many.splitlines() == [f"{seed} [(32, 32, 32), (32, 32, 32)]" for seed in range(3)]


def test_a_network_is_trained_on_cells_that_arrive_without_end(service: Served, tmp_path: Path) -> None:
    [said] = run_blocks("how-to/pytorch-dataset.md", tmp_path, service)
    assert [line.rpartition(" ")[0] for line in said.splitlines()] == [f"{step} (2, 32, 32, 32)" for step in range(6)]


def test_one_rule_of_snakemake_makes_the_files_it_names(service: Served, tmp_path: Path) -> None:
    programs = make_environment(tmp_path / "environment", "snakemake", str(ROOT / "client"))
    [(_, text)] = blocks("how-to/snakemake.md", service)
    (tmp_path / "Snakefile").write_text(text)
    command = [str(programs / "snakemake"), "--cores", "2", "--quiet", "--config", f"server={service.address}"]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HOME": str(tmp_path)}
    subprocess.run(command, cwd=tmp_path, check=True, env=environment)
    for seed in range(3):
        manifest = json.loads((tmp_path / f"cells/{seed}/manifest.json").read_bytes())
        assert manifest["spec"]["seed"] == seed
        assert all((tmp_path / f"cells/{seed}" / file["name"]).is_file() for file in manifest["files"])
    loud = [word for word in command if word != "--quiet"]
    again = subprocess.run(loud, cwd=tmp_path, check=True, env=environment, capture_output=True)
    assert b"Nothing to be done" in again.stdout + again.stderr


def test_simpleitk_gets_volumes_at_scale(service: Served, tmp_path: Path) -> None:
    programs = make_environment(tmp_path / "environment", "SimpleITK", f"{ROOT / 'client'}[arrays]")
    [said] = run_blocks(
        "how-to/programs/slicer-simpleitk.md", tmp_path / "work", service, python=str(programs / "python")
    )
    found = {int(label): float(volume) for label, volume in re.findall(r"^(\d+) (\d+) µm³", said, flags=re.M)}
    frame = json.loads(
        subprocess.run(
            [sys.executable, "-c", MANIFEST, service.address], capture_output=True, text=True, check=True, cwd=tmp_path
        ).stdout
    )
    assert sorted(found) == frame["labels"] == [2, 3]
    assert sum(found.values()) == pytest.approx(frame["volume_um3"], rel=0.02)
    assert len(list((tmp_path / "work").glob("labels_*.nrrd"))) == 4


MANIFEST = """
import json, sys
from cytosynth import Client
with Client(sys.argv[1]) as client:
    job = client.generate("celegans", seed=7, frames=4, grid=64, formats=["tiff"]).wait()
    print(json.dumps(job.manifest["cells"][0]["frames"][-1]))
"""
