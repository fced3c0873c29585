"""What holds for every test: the caller's own settings stay out, and property tests repeat themselves in CI."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from model.network.checkpoint import Checkpoint

for name in [name for name in os.environ if name.startswith("CYTOSYNTH_")]:
    del os.environ[name]
# A console that is made while this is set keeps that width, whatever a test asks for later.
os.environ.pop("COLUMNS", None)

# A deadline would fail a busy machine, not wrong code. In CI the examples are the same on each run.
settings.register_profile("house", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("house")


@pytest.fixture(scope="session", autouse=True)
def empty_working_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where tests, and the processes they start, run: a developer's .env lies in the root and is read from there."""
    before, folder = Path.cwd(), tmp_path_factory.mktemp("empty")
    os.chdir(folder)
    yield folder
    os.chdir(before)


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models that holds one, ``tiny``, trained for this run in a few seconds."""
    from tiny_model import build_tiny_model

    folder = tmp_path_factory.mktemp("tiny")
    build_tiny_model(folder)
    return folder / "models"


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_models: Path) -> Checkpoint:
    from model.network.checkpoint import load_checkpoint

    return load_checkpoint(tiny_models / "tiny")
