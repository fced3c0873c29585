"""What holds for every test.

The caller's own settings stay out, property tests repeat themselves in CI, a process computes with one thread, and the
files that take longest come first.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from object_server import ObjectServer, find_weed, object_server

if TYPE_CHECKING:
    from model.network.checkpoint import Checkpoint

for name in [name for name in os.environ if name.startswith("CYTOSYNTH_")]:
    del os.environ[name]
# A console that is made while this is set keeps that width, whatever a test asks for later.
os.environ.pop("COLUMNS", None)
# Read when torch and numpy are imported, here and in the processes that tests start. Threads of several processes on
# the same cores mostly wait for each other; what promises something of threads sets their number itself.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Compiled modules are kept whatever the caller's environment says: tests start hundreds of processes, and each would
# compile the same files again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A deadline would fail a busy machine, not wrong code. In CI the examples are the same on each run.
settings.register_profile("house", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("house")

# Seconds of each test that takes more than half a second, and of each slow one, as last written with --write-durations.
DURATIONS = Path(__file__).with_name("durations.json")
BRIEF_S = 0.5
UNMEASURED_S = {True: 60.0, False: 0.0}  # of a test that is not there, by whether it is slow


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-durations", action="store_true", help=f"write what this run took to tests/{DURATIONS.name}"
    )


def pytest_configure(config: pytest.Config) -> None:
    # Under nohup every process that a test starts would ignore SIGHUP, as it should, and tests that send it would wait.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if config.getoption("--write-durations") and "PYTEST_XDIST_WORKER" not in os.environ:
        config.pluginmanager.register(DurationsWriter())


@pytest.hookimpl(trylast=True)  # when what -m and -k leave out is gone
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort files by what their tests took, longest first.

    In parallel a process takes one file after another: none that takes long may begin when the others are done.
    """
    known = json.loads(DURATIONS.read_text())
    seconds: dict[Path, float] = defaultdict(float)
    for item in items:
        unmeasured_s = UNMEASURED_S[item.get_closest_marker("slow") is not None]
        seconds[item.path] += known.get(item.nodeid, unmeasured_s)
    items.sort(key=lambda item: -seconds[item.path])


class DurationsWriter:
    """Writes what the tests of this run took; of tests that did not run, what is known already stays."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)
        self._brief: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._seconds[report.nodeid] += report.duration
        if "slow" not in report.keywords:
            self._brief.add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        known = json.loads(DURATIONS.read_text()) | {test: round(took, 1) for test, took in self._seconds.items()}
        left = {test: took for test, took in sorted(known.items()) if took > BRIEF_S or test not in self._brief}
        DURATIONS.write_text(json.dumps(left, indent=0, ensure_ascii=False) + "\n")


@pytest.fixture(scope="session", autouse=True)
def empty_working_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where tests, and the processes they start, run: a developer's .env lies in the root and is read from there."""
    before, folder = Path.cwd(), tmp_path_factory.mktemp("empty")
    os.chdir(folder)
    yield folder
    os.chdir(before)


@contextmanager
def once_a_run(factory: pytest.TempPathFactory, name: str) -> Iterator[Path]:
    """Give the place of something that all processes of a run share, to one of them at a time."""
    mine = factory.getbasetemp()
    shared = (mine.parent if "PYTEST_XDIST_WORKER" in os.environ else mine) / name
    with shared.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # ends with the process that holds it
        yield shared


@pytest.fixture(scope="session")
def tiny_training(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``build_tiny_model`` makes, once a run: the first process that asks trains. Tests change nothing in it."""
    from tiny_model import build_tiny_model

    with once_a_run(tmp_path_factory, "tiny-training") as shared:
        if not shared.exists():
            folder = tmp_path_factory.mktemp("tiny")
            build_tiny_model(folder)
            folder.rename(shared)
    return shared


@pytest.fixture(scope="session")
def tiny_models(tiny_training: Path) -> Path:
    """A folder of models that holds one, ``tiny``, trained for this run in a few seconds."""
    return tiny_training / "models"


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_models: Path) -> Checkpoint:
    from model.network.checkpoint import load_checkpoint

    return load_checkpoint(tiny_models / "tiny")


@pytest.fixture(scope="session")
def object_storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    """A running object store, whose variables the tests that use it set: one for each process of tests."""
    with once_a_run(tmp_path_factory, "weed-environment") as shared:
        weed = find_weed(shared)
    with object_server(tmp_path_factory.mktemp("object-store"), weed) as server:
        yield server
