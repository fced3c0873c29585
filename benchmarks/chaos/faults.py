"""What goes wrong, one function a kind: each does its damage, waits for as long as that lasts, and takes it back."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.chaos.service import ROOT, Service

AT_FDCWD, RENAME_EXCHANGE = -100, 2
Fault = Callable[[Service, random.Random], None]


def kill_computing(service: Service, rng: random.Random) -> None:
    if (pid := _computing(service, rng)) is not None:
        _send(pid, signal.SIGKILL)


def kill_worker(service: Service, rng: random.Random) -> None:
    _send(_worker(service, rng), signal.SIGKILL)


def stop_worker(service: Service, rng: random.Random) -> None:
    """Warm: the job is given back and does not count."""
    _send(_worker(service, rng), signal.SIGTERM)


def kill_web(service: Service, rng: random.Random) -> None:
    """One of them; clients of the others notice nothing."""
    if pids := service.web_pids():
        _send(rng.choice(pids), signal.SIGKILL)


def kill_broker(service: Service, rng: random.Random) -> None:
    _send(service.server_pid(), signal.SIGKILL)


def restart_broker(service: Service, rng: random.Random) -> None:
    _send(service.server_pid(), signal.SIGTERM)


def kill_everything(service: Service, rng: random.Random) -> None:
    """As near to a power cut as a program gets."""
    for pid in (*service.worker_pids(), service.server_pid(), *service.web_pids()):
        _send(pid, signal.SIGKILL)


def freeze_worker(service: Service, rng: random.Random) -> None:
    """Beyond its lease; it wakes up and believes that the job is still its own."""
    pid = _worker(service, rng)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGSTOP)  # it leads a session of its own
        time.sleep(service.lease_s + rng.uniform(0.5, 1.5))
        os.killpg(pid, signal.SIGCONT)


def freeze_computing(service: Service, rng: random.Random) -> None:
    """For good: its parent must find out."""
    if (pid := _computing(service, rng)) is not None:
        _send(pid, signal.SIGSTOP)


def freeze_broker(service: Service, rng: random.Random) -> None:
    pid = service.server_pid()
    _send(pid, signal.SIGSTOP)
    time.sleep(rng.uniform(0.5, 6.0))
    _send(pid, signal.SIGCONT)


def flush_broker(service: Service, rng: random.Random) -> None:
    """The service must find out by itself."""
    service.flush()


def flush_and_rebuild(service: Service, rng: random.Random) -> None:
    """As an operator does it."""
    service.flush()
    command = [sys.executable, "-m", "app.cli", "rebuild", "--data-dir", str(service.data_dir)]
    subprocess.run(
        command, cwd=ROOT, env=service.environment(), check=True, timeout=120, stdout=subprocess.DEVNULL,
    )  # fmt: skip


def deny_folder(service: Service, rng: random.Random) -> None:
    """EACCES; for the superuser, whom no permission stops, ENOTDIR."""
    folder = service.data_dir / rng.choice(["staging", "requests", "results", "blobs"])
    with _denied(folder):
        time.sleep(rng.uniform(0.5, 2.0))


def fill_disk(service: Service, rng: random.Random) -> None:
    """No byte is left for a while, for the broker's log neither."""
    ballast = service.data_dir / "ballast"
    try:
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(2**20))
        with contextlib.suppress(OSError), ballast.open("ab", buffering=0) as file:
            while True:
                file.write(b"\0" * 512)
        time.sleep(rng.uniform(0.5, 2.0))
    finally:
        ballast.unlink(missing_ok=True)


def freeze_store(service: Service, rng: random.Random) -> None:
    """It takes connections and does not answer."""
    assert service.server is not None
    service.server.signal(signal.SIGSTOP)
    time.sleep(rng.uniform(0.5, 6.0))
    service.server.signal(signal.SIGCONT)


def kill_store(service: Service, rng: random.Random) -> None:
    """Connections are cut, and refused until it is there again."""
    assert service.server is not None
    service.server.kill()
    time.sleep(rng.uniform(0.0, 2.0))
    service.server.start()


# How often each comes, relative to the others.
KINDS: dict[Fault, int] = {
    kill_computing: 5, kill_worker: 4, stop_worker: 2, kill_web: 4, kill_broker: 4, restart_broker: 2,
    kill_everything: 1, freeze_worker: 2, freeze_computing: 2, freeze_broker: 2, flush_broker: 2, flush_and_rebuild: 2,
    deny_folder: 2, fill_disk: 2,
}  # fmt: skip
KINDS_OF_STORE: dict[Fault, int] = {freeze_store: 3, kill_store: 3}
# Those that cost a running job an attempt, or may.
COSTLY = frozenset({kill_computing, kill_worker, kill_everything, freeze_worker, freeze_computing, deny_folder})


def deck(count: int, *, small_disk: bool, store: bool, rng: random.Random) -> list[Fault]:
    """Return faults in random order: every kind, each as often as it should come."""
    common = KINDS | KINDS_OF_STORE if store else KINDS
    kinds = [kind for kind in common if small_disk or kind is not fill_disk]
    weights = [common[kind] for kind in kinds]
    drawn = kinds[:count] + rng.choices(kinds, weights, k=max(0, count - len(kinds)))
    rng.shuffle(drawn)
    return drawn


def _worker(service: Service, rng: random.Random) -> int:
    while not (pids := service.worker_pids()):
        time.sleep(0.05)
    return rng.choice(pids)


def _computing(service: Service, rng: random.Random) -> int | None:
    """Return a computing process, one with a job if there is one."""
    if busy := service.busy():
        return rng.choice(busy)
    idle = [pid for worker in service.worker_pids() if (pid := service.computing(worker)) is not None]
    return rng.choice(idle) if idle else None


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


@contextlib.contextmanager
def _denied(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid():
        folder.chmod(0)
        try:
            yield
        finally:
            folder.chmod(0o700)
        return
    aside = folder.with_name(f".{folder.name}.aside")
    aside.write_text("in the way")
    _exchange(folder, aside)
    try:
        yield
    finally:
        _exchange(folder, aside)
        aside.unlink()


def _exchange(one: Path, other: Path) -> None:
    """Swap two names in one step (Linux, renameat2(2)), so that nobody ever finds neither."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE):
        raise OSError(ctypes.get_errno(), "renameat2", str(one))
