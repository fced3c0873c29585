"""The service under test: the embedded broker, web processes and workers, perhaps with an object store.

Each is a process of its own that is started again when it dies, as a container engine would.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
import psutil
import redis

from app.settings import AppSettings, child_environment
from benchmarks.object_server import ObjectServer
from worker.broker.embedded import start_broker
from worker.broker.urls import redis_url
from worker.jobs import JobQueue, JobRules
from worker.jobs.redis_client import PREFIX
from worker.launch import worker_command
from worker.storage.stored_artifacts import open_artifacts

ROOT = Path(__file__).parents[2]
LEASE_S = 3.0
WEBHOOK_SECRET = "a secret that only this driver and its service know"
# Everything that is minutes in production is seconds here.
QUICK = {
    "CYTOSYNTH_HEARTBEAT_SECONDS": "0.5",
    "CYTOSYNTH_SWEEP_SECONDS": "0.5",
    "CYTOSYNTH_HINT_AFTER_SECONDS": "1",
    "CYTOSYNTH_JANITOR_SECONDS": "5",
    "CYTOSYNTH_DEAF_SECONDS": "45",
    "CYTOSYNTH_DISK_RESERVE_BYTES": str(2**20),
    "CYTOSYNTH_THREADS": "1",
    "CYTOSYNTH_MAX_RATE": "10000",
    "CYTOSYNTH_MAX_BURST": "10000",
    "CYTOSYNTH_TRAINING_SAVE_SECONDS": "0.5",
    "CYTOSYNTH_WEBHOOK_SECRET": WEBHOOK_SECRET,
    "CYTOSYNTH_WEBHOOK_HTTP": "true",
    "CYTOSYNTH_WEBHOOK_PRIVATE": "true",  # the receiver is on this machine
    "OMP_NUM_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}


@dataclass
class Kept:
    """A process that is started again whenever it ends."""

    name: str
    command: list[str]
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0


@dataclass
class Service:
    """All processes, and the driver's own view of broker and files; a context manager."""

    data_dir: Path
    log_file: Path
    workers: int = 2
    models: Path | None = None  # a folder of models beside the shipped ones
    lease_s: float = LEASE_S
    webs: int = 2
    store: str | None = None  # results, records and uploads are in an object store
    server: ObjectServer | None = None  # that store, for its faults
    pids: set[int] = field(default_factory=set)  # of every process that was ever part of it

    def __enter__(self) -> Self:
        self._others = {child.pid for child in psutil.Process().children(recursive=True)}  # of the driver itself
        self._broker = start_broker(self.data_dir / "broker")
        self.rules = JobRules(lease_s=self.lease_s)
        self.artifacts = open_artifacts(self.data_dir, self.store)
        self.jobs = JobQueue.connect(self._broker.url, artifacts=self.artifacts, rules=self.rules)
        ports = [_free_port() for _ in range(self.webs)]
        self.addresses = [f"http://127.0.0.1:{port}" for port in ports]
        web = [sys.executable, "-m", "app.cli", "web", "--host", "127.0.0.1", "--port"]
        self.kept_webs = [Kept(f"web-{n}", [*web, str(port)]) for n, port in enumerate(ports)]
        self.kept_workers = [Kept(f"worker-{n}", worker_command()) for n in range(self.workers)]
        self.kept = [*self.kept_webs, *self.kept_workers]
        self._closing = threading.Event()
        self._changing = threading.Lock()
        self._keeper = threading.Thread(target=self._keep, name="keeper")
        self._keeper.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._keeper.join()
        self.note_family()
        for kept in self.kept:
            if kept.process is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(kept.process.pid, signal.SIGCONT)
                kept.process.terminate()
        for kept in self.kept:
            if kept.process is not None:
                try:
                    kept.process.wait(25.0)
                except subprocess.TimeoutExpired:
                    kept.process.kill()
                    kept.process.wait()
        self.jobs.close()
        self._broker.close()

    # -------------------------------------------------------------------------------------------------- its processes

    def server_pid(self) -> int:
        """Return the process id of the broker's server, which changes when it was killed."""
        guard = psutil.Process(self._broker._guard.pid)
        while not (children := guard.children()):
            time.sleep(0.02)
        return children[0].pid

    def web_pids(self) -> list[int]:
        """Return the web processes that live."""
        return [kept.process.pid for kept in self.kept_webs if kept.process and kept.process.poll() is None]

    def worker_pids(self) -> list[int]:
        """Return the parents of the workers that live."""
        return [kept.process.pid for kept in self.kept_workers if kept.process and kept.process.poll() is None]

    def computing(self, worker: int) -> int | None:
        """Return the computing process of a worker, if it has one just now."""
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(worker).children()
            return children[0].pid if children else None
        return None

    def busy(self) -> list[int]:
        """Return the computing processes that hold a job, by what they told the broker: host:pid:random."""
        with redis.Redis.from_url(redis_url(self._broker.url), decode_responses=True) as client:
            names = [
                client.hget(f"{PREFIX}job:{lease.partition('/')[0]}", "worker")
                for lease in client.zrange(f"{PREFIX}leases", 0, -1)
            ]
        return [pid for name in names if name and _lives(pid := int(name.split(":")[1]))]

    def leases(self) -> dict[str, float]:
        """Return when each lease ends: of a job, or ``<job>/<token>`` of a shard; raises ``redis.RedisError``."""
        with redis.Redis.from_url(redis_url(self._broker.url), decode_responses=True) as client:
            return dict(client.zrange(f"{PREFIX}leases", 0, -1, withscores=True))

    def note_family(self) -> None:
        """Remember every process that is part of the service now."""
        me = psutil.Process()
        store = self.server.process.pid if self.server and self.server.process else None
        for child in me.children(recursive=True):
            if child.pid not in self._others and child.pid != store:
                self.pids.add(child.pid)

    def leftovers(self) -> list[int]:
        """Return processes of the service that still live; for after it was closed."""
        return [pid for pid in self.pids if _lives(pid)]

    def answers(self) -> bool:
        """Whether every web process does."""
        with contextlib.suppress(httpx.HTTPError):
            return all(httpx.get(f"{address}/livez", timeout=2.0).status_code == 200 for address in self.addresses)
        return False

    def environment(self) -> dict[str, str]:
        """Return what the processes get: this process's own environment, and short times."""
        members = {"data_dir": self.data_dir, "redis_url": self._broker.url, "store": self.store}
        settings = AppSettings().model_copy(update=members | ({"model_dirs": [self.models]} if self.models else {}))
        lease = {"CYTOSYNTH_LEASE_SECONDS": str(self.lease_s)}
        return child_environment(settings, workers=self.workers) | QUICK | lease

    def flush(self) -> None:
        """Make the broker forget everything."""
        with redis.Redis.from_url(redis_url(self._broker.url)) as client:
            client.flushall()

    def _keep(self) -> None:
        while not self._closing.wait(0.1):
            for kept in self.kept:
                if kept.process is None or kept.process.poll() is not None:
                    self._start(kept)

    def _start(self, kept: Kept) -> None:
        if kept.process is not None and kept.process.stdin:
            kept.process.stdin.close()
        with self.log_file.open("ab") as log:
            kept.process = subprocess.Popen(
                kept.command, stdin=subprocess.PIPE, stdout=log, stderr=log, cwd=self.data_dir.parent,
                env=self.environment(), start_new_session=True,
            )  # fmt: skip
        kept.starts += 1
        self.pids.add(kept.process.pid)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def data_folder(folder: Path, *, megabytes: int = 256) -> Iterator[tuple[Path, bool]]:
    """Make an empty folder, on a small disk of its own where that is permitted; yield it and whether it is one."""
    folder.mkdir(parents=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    small = done.returncode == 0
    if not small:
        print(f"no small disk, so no full one: {done.stderr.strip()}")
    try:
        yield folder, small
    finally:
        if small:
            for _ in range(50):
                if subprocess.run(["umount", str(folder)], capture_output=True, check=False).returncode == 0:
                    break
                time.sleep(0.1)


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
