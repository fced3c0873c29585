"""A real broker for every test here, and real worker processes where a test asks for one."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from workbench import ROOT, Service

from worker.broker.embedded import Broker, start_broker
from worker.jobs import JobQueue, JobRules
from worker.storage.artifacts import Artifacts


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with start_broker(tmp_path_factory.mktemp("service") / "broker") as started:
        yield started


@pytest.fixture(scope="session")
def broker_url(broker: Broker) -> str:
    return broker.url


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(tmp_path)


@pytest.fixture
def wake_ups() -> list[str]:
    """The wake-ups that ``jobs`` sent."""
    return []


@pytest.fixture
def make_jobs(broker_url: str, artifacts: Artifacts, wake_ups: list[str]) -> Iterator[Callable[..., JobQueue]]:
    """Make job records under one prefix of their own; arguments are those of ``JobRules``."""
    prefix, made = f"{uuid4().hex}:", []

    def make(**rules: float) -> JobQueue:
        jobs = JobQueue.connect(
            broker_url, artifacts=artifacts, wake_up=wake_ups.append, rules=JobRules(**rules), prefix=prefix
        )
        made.append(jobs)
        return jobs

    yield make
    for jobs in made:
        jobs.close()


@pytest.fixture
def jobs(make_jobs: Callable[..., JobQueue]) -> JobQueue:
    return make_jobs()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    data_dir = tmp_path_factory.mktemp("path")
    artifacts = Artifacts(data_dir)
    with start_broker(data_dir / "broker") as broker:
        jobs = JobQueue.connect(broker.url, artifacts=artifacts, rules=JobRules(lease_s=2.0, wake_up_after_s=1.0))
        service = Service(data_dir, broker, jobs, artifacts)
        try:
            yield service
        finally:
            for worker in list(service.workers):
                service.stop_worker(worker, how=signal.SIGKILL)
            jobs.close()


@pytest.fixture
def python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a program text in a fresh interpreter."""

    def run(text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", text, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
        )

    return run


@pytest.fixture
def worker(service: Service) -> subprocess.Popen[bytes]:
    """One worker process that lives when the test starts."""
    for one in service.workers:
        if one.poll() is None:
            return one
    return service.start_worker()


@pytest.fixture
def without_workers(service: Service) -> Service:
    """The service with no worker when the test starts, for a test that starts one of its own."""
    for one in list(service.workers):
        service.stop_worker(one)
    return service
