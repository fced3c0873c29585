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

# The files that take longest, longest first: run in parallel, a file at a time, none of them begins when the others are
# done.
LONGEST = [
    "tests/model/test_shipped_models.py",
    "tests/worker/test_worker_process.py",
    "tests/worker/test_worker_troubles.py",
    "tests/model/engine/test_gpu_sparse.py",
    "tests/test_tutorials.py",
    "tests/worker/test_chaos.py",
    "tests/model/test_synthesis.py",
    "tests/model/cli/test_command_line.py",
    "tests/app/cli/test_serve.py",
    "tests/model/phantoms/test_a549.py",
    "tests/model/evaluation/test_comparison.py",
    "tests/model/phantoms/test_celegans.py",
    "tests/hostile/test_hostile_children.py",
    "tests/app/services/test_recovery.py",
    "tests/model/network/test_wiesner2022_import.py",
    "tests/model/engine/test_sparse.py",
    "tests/model/evaluation/test_upsampling.py",
    "tests/worker/test_generation_job.py",
    "tests/model/learning/test_dataset.py",
    "tests/test_request_to_download.py",
    "tests/app/test_contract.py",
    "tests/hostile/test_hostile_requests.py",
    "tests/app/test_slow_clients.py",
]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    rank = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.relative_to(config.rootpath).as_posix(), len(rank)))


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
