"""Environments of their own, for programs that are not among the pinned packages."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path


def make_environment(folder: Path, *requirements: str) -> Path:
    """Make an environment that holds what is named and nothing of ours, not even pip; return its folder of programs.

    Raises
    ------
    subprocess.CalledProcessError
        If pip cannot install it; ``stderr`` holds what pip said.
    """
    venv.create(folder, symlinks=True)
    install(folder / "bin", *requirements)
    return folder / "bin"


def install(programs: Path, *requirements: str) -> None:
    """Install something more; modules are compiled when they are imported, and most never are."""
    command = [sys.executable, "-m", "pip", "--python", str(programs / "python"), "install", "--quiet", "--no-compile"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(
        [*command, "--disable-pip-version-check", *requirements],
        check=True, env=environment, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
