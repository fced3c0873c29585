"""What tests of jobs share: submitting, waiting, and a service of a real broker and real worker processes."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

from worker.broker.embedded import Broker
from worker.jobs import Job, JobQueue, JobStatus
from worker.launch import worker_command
from worker.storage.artifacts import Artifacts

ROOT = Path(__file__).parents[2]
PROBE_KINDS = ROOT / "tests" / "worker"  # holds probe_kinds.py, which worker processes load


def submit(jobs: JobQueue, **changes: object) -> Job:
    """Submit a job of which only the digest need differ."""
    request = {"kind": "probe", "spec": {}, "model_id": "m", "model_sha256": "0" * 64, "digest": uuid4().hex} | changes
    return jobs.submit(**request)[0]


def eventually(condition: Callable[[], object], *, within_s: float = 30.0) -> float:
    """Wait until a condition holds; return the seconds that took.

    Looking takes at most a tenth of the time: a request to a service that starts would delay its start.
    """
    started = looked = time.monotonic()
    while not condition():
        now = time.monotonic()
        if now - started > within_s:
            pytest.fail(f"not within {within_s} s: {condition}")
        time.sleep(min(max(0.02, 9.0 * (now - looked)), 0.5))
        looked = time.monotonic()
    return time.monotonic() - started


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def process_tree(pid: int) -> str:
    """What a process and its children do, a line each."""
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return "\n".join(f"{each.pid} {each.status()} {each.num_threads()} threads {each.cmdline()}" for each in family)


@dataclass
class Service:
    """A broker, its data folder, and worker processes with a short lease."""

    data_dir: Path
    broker: Broker
    jobs: JobQueue
    artifacts: Artifacts
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start_worker(self, **environment: str) -> subprocess.Popen[bytes]:
        with (self.data_dir / "worker.log").open("ab") as log:
            worker = subprocess.Popen(
                [*worker_command(), "--include=probe_kinds"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=self.data_dir,
                start_new_session=True,
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join((str(ROOT), str(PROBE_KINDS))),
                    "CYTOSYNTH_REDIS_URL": self.broker.url,
                    "CYTOSYNTH_DATA_DIR": str(self.data_dir),
                    "CYTOSYNTH_LEASE_SECONDS": "1.5",
                    "CYTOSYNTH_HEARTBEAT_SECONDS": "0.3",
                    "CYTOSYNTH_SWEEP_SECONDS": "0.3",
                    "CYTOSYNTH_HINT_AFTER_SECONDS": "1",
                    "CYTOSYNTH_THREADS": "1",
                    "CYTOSYNTH_PRELOAD": "0",  # most kinds here need no torch
                    "CYTOSYNTH_MODEL_DIRS": str(self.data_dir / "models"),
                    **environment,
                },
            )
        self.workers.append(worker)
        eventually(
            lambda: any(beat.pid == worker.pid for beat in self.jobs.admin.workers_alive(within_s=5)), within_s=120
        )
        return worker

    def stop_worker(self, worker: subprocess.Popen[bytes], *, how: signal.Signals = signal.SIGTERM) -> int:
        if worker.poll() is None:
            worker.send_signal(how)
        try:
            code = worker.wait(30)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the worker does not end:\n{process_tree(worker.pid)}\n{self.log()}") from None
        if worker.stdin:
            worker.stdin.close()
        self.workers.remove(worker)
        return code

    def computing_process(self, worker: subprocess.Popen[bytes]) -> psutil.Process:
        return psutil.Process(worker.pid).children()[0]

    def ended(self, job: Job, *, within_s: float = 300.0) -> Job:
        """Wait for a job to end; return it."""
        done = self.jobs.wait(job.id, timeout_s=within_s)
        assert not done.status.active, self.log()
        return done

    def running(self, job: Job, *, frame: int = 1) -> Callable[[], bool]:
        """A condition: the job runs and has come as far as ``frame``."""

        def condition() -> bool:
            now = self.jobs.get(job.id)
            return now.status is JobStatus.RUNNING and now.progress.frame >= frame

        return condition

    def log(self) -> str:
        return (self.data_dir / "worker.log").read_text()
