"""Promises of docs/tutorial: every command and program in it runs as it stands, in order, against a running service."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from served import Served, environment, served

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
ADDRESS = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("tutorial"), CYTOSYNTH_THREADS="1") as running:
        yield running


def run_blocks(page: str, folder: Path, service: Served) -> list[str]:
    """Run the bash and python blocks of a tutorial in one folder; return what each printed."""
    said = []
    for language, block in BLOCK.findall((ROOT / "docs" / "tutorial" / page).read_text(encoding="utf-8")):
        text = block.replace(ADDRESS, service.address)
        command = ["bash", "-euo", "pipefail", "-c", text] if language == "bash" else [sys.executable, "-c", text]
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=900, check=False,
            env=environment(CYTOSYNTH_SERVER=service.address, PATH=path, PYTHONPATH=str(ROOT)),
        )  # fmt: skip
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        said.append(done.stdout)
    return said


@pytest.mark.slow
def test_first_cell(service: Served, tmp_path: Path) -> None:
    said = run_blocks("first-cell.md", tmp_path, service)
    assert "(12, 64, 64, 64) uint16" in said[2]
    assert "in 1 body" in said[2]
    assert "in 2 bodies" in said[2]
    mine, theirs = tmp_path / "from-the-command-line" / "cell_0000", tmp_path / "cell" / "cell_0000"
    assert (mine / "labels.tif").read_bytes() == (theirs / "labels.tif").read_bytes()


@pytest.mark.slow
def test_first_data_set(service: Served, tmp_path: Path) -> None:
    said = run_blocks("first-data-set.md", tmp_path, service)
    assert '"within_limits":true' in said[0].replace(" ", "")
    assert said[2].count("(3, 64, 64, 64)") == 4
    assert "cell_0001/labels.tif" in said[3]


@pytest.mark.slow
def test_own_cells(service: Served, tmp_path: Path) -> None:
    run_blocks("own-cells.md", tmp_path, service)
    assert (tmp_path / "models" / "imported" / "card.json").is_file()
    assert (tmp_path / "new-cell" / "cell_0000" / "frame_0005.stl").stat().st_size > 84
