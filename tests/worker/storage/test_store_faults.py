"""A store that is slow, refuses, is gone, or loses connections in the middle of an upload: jobs wait, and none ends."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from object_server import ObjectServer
from store_proxy import StoreProxy, store_proxy
from workbench import Service, eventually, submit

from worker.broker.embedded import start_broker
from worker.errors import StoreUnavailableError
from worker.jobs import Job, JobQueue, JobRules, JobStatus
from worker.storage.objects import PART, Objects
from worker.storage.stored_artifacts import StoredArtifacts, open_artifacts

pytestmark = pytest.mark.slow

JOB = "0123456789abcdef" * 2
SHORT, LONG = b"solid" * 100, os.urandom(2 * PART + 54_321)  # the second is sent in three parts


@pytest.fixture(scope="module")
def way(object_storage: ObjectServer) -> Iterator[StoreProxy]:
    """What lies between this host and the store; ``AWS_ENDPOINT_URL`` leads there."""
    with store_proxy(object_storage.endpoint) as proxy, pytest.MonkeyPatch.context() as patch:
        for name, value in object_storage.environment(proxy.url).items():
            patch.setenv(name, value)
        yield proxy


@pytest.fixture
def stored(way: StoreProxy, object_storage: ObjectServer, tmp_path: Path) -> StoredArtifacts:
    return StoredArtifacts(tmp_path, Objects(object_storage.url()))


def staged(artifacts: StoredArtifacts, token: int = 1) -> Path:
    folder, files = artifacts.staging(JOB, token), []
    for name, content in {"long.bin": LONG, "short.stl": SHORT}.items():
        (folder / name).write_bytes(content)
        files.append({"name": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()})
    (folder / "manifest.json").write_text(json.dumps({"files": files}))
    return folder


def assert_whole(artifacts: StoredArtifacts) -> None:
    assert artifacts.verified(JOB, "long.bin", reread=True)[0].read_bytes() == LONG
    assert artifacts.verified(JOB, "short.stl", reread=True)[0].read_bytes() == SHORT


def test_a_part_whose_connection_is_lost_is_sent_again(stored: StoredArtifacts, way: StoreProxy) -> None:
    before = way.cut
    way.cut_next(2, after=3_000_000)
    stored.publish(JOB, staged(stored))
    assert way.cut - before == 2
    assert_whole(stored)


def test_an_upload_that_never_gets_through_leaves_nothing_to_see(stored: StoredArtifacts, way: StoreProxy) -> None:
    way.cut_next(10**6, after=3_000_000)
    with pytest.raises(StoreUnavailableError):
        stored.publish(JOB, staged(stored))
    way.cut_next(0, after=0)
    assert not stored.exists(JOB)
    sizes = {info.bytes for info in Objects(stored._store._url).below("results/")}  # type: ignore[attr-defined]
    assert sizes <= {len(SHORT)}
    stored.publish(JOB, staged(stored, token=2))
    assert_whole(stored)


def test_a_slow_store_takes_time_and_nothing_else(stored: StoredArtifacts, way: StoreProxy) -> None:
    with way.slow(0.02):
        stored.publish(JOB, staged(stored))
        assert_whole(stored)


@pytest.mark.parametrize("mode", ["refuse", "drop"])
def test_nothing_is_published_while_the_store_is_away(
    stored: StoredArtifacts, way: StoreProxy, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.storage.objects.RETRIES", 1)
    with way.refusing(mode), pytest.raises(StoreUnavailableError):
        stored.publish(JOB, staged(stored))
    assert not stored.exists(JOB)
    stored.publish(JOB, staged(stored, token=2))
    assert_whole(stored)


# -------------------------------------------------------------------------------------------------------- real workers


@pytest.fixture(scope="module")
def host(way: StoreProxy, object_storage: ObjectServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    data_dir, url = tmp_path_factory.mktemp("host"), object_storage.url()
    with start_broker(data_dir / "broker") as broker, pytest.MonkeyPatch.context() as patch:
        patch.setenv("CYTOSYNTH_STORE", url)  # of the workers
        artifacts = open_artifacts(data_dir, url)
        jobs = JobQueue.connect(broker.url, artifacts=artifacts, rules=JobRules(lease_s=2.0, wake_up_after_s=1.0))
        service = Service(data_dir, broker, jobs, artifacts)
        try:
            yield service
        finally:
            for worker in list(service.workers):
                service.stop_worker(worker, how=signal.SIGKILL)
            jobs.close()


def assert_succeeded(host: Service, job: Job, *, frames: int, size: int) -> Job:
    done = host.ended(job, within_s=240)
    assert done.status is JobStatus.SUCCEEDED, (done.error, host.log())
    files = host.artifacts.manifest(job.id)["files"]
    assert len(files) == frames
    for frame, entry in enumerate(files):
        file, _ = host.artifacts.verified(job.id, entry["name"], reread=True)
        assert file.read_bytes() == f"{job.digest} {frame}".encode().ljust(size)
    return done


def test_a_job_waits_for_a_store_that_is_away(host: Service, way: StoreProxy) -> None:
    host.start_worker()
    job = submit(host.jobs, spec={"frames": 8, "pause_s": 0.25, "bytes": 1000})
    eventually(host.running(job))
    with way.refusing():
        refused = way.refused
        eventually(lambda: "cannot write" in host.log() or "out of order" in host.log(), within_s=120)
        assert way.refused > refused
        with pytest.raises(StoreUnavailableError):
            host.artifacts.exists(job.id)
    done = assert_succeeded(host, job, frames=8, size=1000)
    assert done.lost == 0  # neither the job nor its worker is blamed


def test_a_worker_killed_while_it_sends_loses_nothing(
    host: Service, way: StoreProxy, object_storage: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = host.workers[0] if host.workers else host.start_worker()
    monkeypatch.setenv("AWS_ENDPOINT_URL", object_storage.endpoint)
    objects = Objects(host.artifacts._store._url)  # type: ignore[attr-defined]
    assert objects.below("none/") == []  # opened by now, beside the slow way
    # Eight files are sent at a time, so four are sent once the first has arrived.
    with way.slow(0.1):
        job = submit(host.jobs, spec={"frames": 12, "bytes": PART // 2})
        eventually(lambda: objects.below(f"results/{job.id}/"), within_s=120)
        assert not host.artifacts.exists(job.id)
        host.computing_process(worker).kill()
        sent = {info.key: info for info in objects.below(f"results/{job.id}/")}
    done = assert_succeeded(host, job, frames=12, size=PART // 2)
    assert done.attempts >= 2
    now = {info.key: info for info in objects.below(f"results/{job.id}/")}
    assert {key: now[key] for key in sent} == sent  # what had arrived was not sent again


def test_what_a_worker_does_beside_jobs_survives_its_forks(host: Service) -> None:
    """The parent sweeps and cleans by the store, forks another computing process, and that one uses the store too."""
    worker = host.workers[0] if host.workers else host.start_worker()
    host.jobs.admin.try_lock("none", seconds=1)
    for _ in range(2):
        failed = submit(host.jobs, spec={"fault": "error"})
        assert host.ended(failed).status is JobStatus.FAILED
        host.computing_process(worker).kill()
        job = submit(host.jobs, spec={"frames": 1, "bytes": 10})
        assert_succeeded(host, job, frames=1, size=len(job.digest) + 2)
    assert worker.poll() is None


def test_a_flushed_broker_gets_everything_back_from_the_store(host: Service) -> None:
    if not host.workers:
        host.start_worker()
    jobs = [submit(host.jobs, spec={"frames": 2, "pause_s": 0.2, "bytes": 100}) for _ in range(4)]
    eventually(lambda: any(host.jobs.get(job.id).status is JobStatus.RUNNING for job in jobs))
    host.jobs._redis.flushall()
    for job in jobs:
        assert_succeeded(host, job, frames=2, size=100)
    time.sleep(1.0)
    host.jobs._redis.flushall()
    assert {host.jobs.get(job.id).status for job in jobs} == {JobStatus.SUCCEEDED}
