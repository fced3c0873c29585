"""Runs the commands and programs of a page of docs/ as they stand, in order, against a running service."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from served import Served, environment

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
ADDRESS = "http://127.0.0.1:8000"


def blocks(page: str, service: Served) -> list[tuple[str, str]]:
    """Return language and text of each bash and python block of a page below docs/, for a service."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return [(language, block.replace(ADDRESS, service.address)) for language, block in BLOCK.findall(text)]


def run_blocks(page: str, folder: Path, service: Served, *, python: str = sys.executable) -> list[str]:
    """Run the blocks of a page in one folder; return what each printed."""
    said = []
    folder.mkdir(exist_ok=True)
    for language, text in blocks(page, service):
        command = ["bash", "-euo", "pipefail", "-c", text] if language == "bash" else [python, "-c", text]
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=900, check=False,
            env=environment(CYTOSYNTH_SERVER=service.address, PATH=path, PYTHONPATH=str(ROOT)),
        )  # fmt: skip
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        said.append(done.stdout)
    return said
