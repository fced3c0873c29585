"""A worker's parent sees what its computing process does, and ends what hangs."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess

import pytest
from claims import claim_job
from workbench import eventually, submit

from worker.jobs import JobQueue, JobStatus
from worker.jobs.redis_store import QUEUE
from worker.liveness.shared_status import SharedStatus
from worker.liveness.watchdog import Watchdog, WatchdogLimits

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def status() -> SharedStatus:
    return SharedStatus()


@pytest.fixture
def computing() -> Iterator[Callable[..., BaseProcess]]:
    """Start a process that shares our memory, as a pool's child does."""
    started: list[BaseProcess] = []

    def start(target: Callable[..., None], *arguments: object) -> BaseProcess:
        process = FORK.Process(target=target, args=arguments, daemon=True)
        process.start()
        started.append(process)
        return process

    yield start
    for process in started:
        if process.is_alive():
            process.kill()
        process.join()


def hold(status: SharedStatus, job_id: str, token: int, beats: bool) -> None:
    status.take()
    status.hold(job_id, token)
    while True:
        if beats:
            status.record_heartbeat()
        time.sleep(0.01)


def watch(status: SharedStatus, jobs: JobQueue, said: list[str], **changes: float) -> Watchdog:
    limits = {
        "heartbeat_timeout_s": 60.0,
        "lost_lease_grace_s": 60.0,
        "job_s": 3600.0,
        "idle_with_work_timeout_s": 60.0,
    } | changes
    return Watchdog(status, jobs, WatchdogLimits(**limits), give_up=said.append)


def look_until(dog: Watchdog, condition: Callable[[], object], *, within_s: float = 10.0) -> None:
    def looked() -> object:
        dog.inspect()
        return condition()

    eventually(looked, within_s=within_s)


def test_a_look_is_of_one_moment(status: SharedStatus, computing: Callable[..., BaseProcess]) -> None:
    def write() -> None:
        while True:
            for digit in "0123456789abcdef":
                status.hold(digit * 32, int(digit, 16))

    computing(write)
    seen = set()
    until = time.monotonic() + 1.0
    while time.monotonic() < until:
        if (snapshot := status.snapshot()) is not None and snapshot.job_id:
            assert snapshot.job_id == f"{snapshot.token:x}" * 32
            seen.add(snapshot.token)
    assert len(seen) > 4


def test_beats_of_one_thread_do_not_disturb_another(status: SharedStatus) -> None:
    stop = threading.Event()

    def beat() -> None:
        while not stop.is_set():
            status.record_heartbeat()

    thread = threading.Thread(target=beat)
    thread.start()
    for number in range(3000):
        status.hold("a" * 32, number)
        snapshot = status.snapshot()
        assert snapshot is None or snapshot.token == number
    stop.set()
    thread.join()


def test_a_process_that_shows_no_life_is_killed(
    jobs: JobQueue, status: SharedStatus, computing: Callable[..., BaseProcess]
) -> None:
    lease = claim_job(jobs, submit(jobs).id, worker="w")
    assert lease is not None
    process = computing(hold, status, lease.job_id, lease.token, True)
    dog = watch(status, jobs, [], heartbeat_timeout_s=0.3)
    until = time.monotonic() + 1.0
    while time.monotonic() < until:
        dog.inspect()
        time.sleep(0.05)
    assert process.is_alive()
    assert process.pid
    os.kill(process.pid, signal.SIGSTOP)
    look_until(dog, lambda: process.exitcode == -signal.SIGKILL)
    snapshot = status.snapshot()
    assert snapshot is not None
    assert snapshot.pid == 0


def test_a_process_whose_job_is_no_longer_its_own_is_killed(
    jobs: JobQueue, status: SharedStatus, computing: Callable[..., BaseProcess]
) -> None:
    lease = claim_job(jobs, submit(jobs).id, worker="w")
    assert lease is not None
    process = computing(hold, status, lease.job_id, lease.token, True)
    dog = watch(status, jobs, [], lost_lease_grace_s=0.2)
    for _ in range(10):
        dog.inspect()
        time.sleep(0.05)
    assert process.is_alive()
    jobs.leases.release(lease)
    assert claim_job(jobs, lease.job_id, worker="another")  # it runs again, but not here
    look_until(dog, lambda: process.exitcode == -signal.SIGKILL)


def test_a_job_over_the_time_limit_fails_and_its_process_goes(
    jobs: JobQueue, status: SharedStatus, computing: Callable[..., BaseProcess]
) -> None:
    lease = claim_job(jobs, submit(jobs).id, worker="w")
    assert lease is not None
    process = computing(hold, status, lease.job_id, lease.token, True)
    dog = watch(status, jobs, [], job_s=0.3)
    look_until(dog, lambda: process.exitcode == -signal.SIGKILL)
    failed = jobs.get(lease.job_id)
    assert failed.status is JobStatus.FAILED
    assert failed.error is not None
    assert failed.error.code == "time_limit"


def test_a_worker_that_takes_no_wake_ups_gives_up_and_one_that_does_goes_on(
    jobs: JobQueue, status: SharedStatus
) -> None:
    said: list[str] = []
    dog = watch(status, jobs, said, idle_with_work_timeout_s=0.3)
    jobs._redis.rpush(QUEUE, "wake-up")
    try:
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            status.take()
            status.record_idle()
            dog.inspect()
            time.sleep(0.05)
        assert said == []
        look_until(dog, lambda: said)
        assert "takes none" in said[0]
    finally:
        jobs._redis.delete(QUEUE)
    quiet: list[str] = []
    idle = watch(status, jobs, quiet, idle_with_work_timeout_s=0.1)
    for _ in range(10):
        idle.inspect()
        time.sleep(0.05)
    assert quiet == []  # there is nothing to hear
