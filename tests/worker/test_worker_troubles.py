"""Real workers in trouble: what is nobody's fault waits, what hangs is ended, what exists already is not made again."""

from __future__ import annotations

import signal
import subprocess
import time

import pytest
from workbench import Service, eventually, submit

from worker.jobs import JobStatus

Worker = subprocess.Popen[bytes]


def test_a_full_disk_delays_jobs_and_ends_none(without_workers: Service) -> None:
    service = without_workers
    short = service.start_worker(CYTOSYNTH_DISK_RESERVE_BYTES=str(2**60))
    job = submit(service.jobs)
    eventually(lambda: "the storage is out of order, jobs wait" in service.log())
    assert service.jobs.get(job.id).status is JobStatus.QUEUED
    service.start_worker()  # as when there is room again
    done = service.ended(job)
    assert (done.status, done.attempts) == (JobStatus.SUCCEEDED, 1)
    service.stop_worker(short)


def test_a_folder_that_cannot_be_written_delays_jobs_and_costs_no_attempt(service: Service, worker: Worker) -> None:
    staging = service.data_dir / "staging"
    staging.mkdir(exist_ok=True)
    aside = staging.rename(service.data_dir / "aside")
    staging.write_text("in the way")
    said = service.log().count("the storage is out of order")
    job = submit(service.jobs)
    eventually(lambda: service.log().count("the storage is out of order") > said)
    staging.unlink()
    aside.rename(staging)
    done = service.ended(job)
    assert (done.status, done.attempts) == (JobStatus.SUCCEEDED, 1)


def test_a_job_that_fails_to_write_on_a_disk_in_order_is_to_blame(service: Service, worker: Worker) -> None:
    done = service.ended(submit(service.jobs, spec={"fault": "full"}))
    assert (done.status, done.attempts) == (JobStatus.FAILED, 3)
    assert done.error is not None
    assert done.error.code == "export_failed"


def test_a_computing_process_that_hangs_is_replaced_and_its_job_ends(service: Service, worker: Worker) -> None:
    done = service.ended(submit(service.jobs, spec={"fault": "freeze"}))
    assert (done.status, done.attempts) == (JobStatus.FAILED, 3)
    assert done.error is not None
    assert done.error.code == "worker_crashed"
    assert "no heartbeat" in service.log() or "another's" in service.log()
    assert service.ended(submit(service.jobs)).status is JobStatus.SUCCEEDED


def test_a_job_that_takes_too_long_fails_once(without_workers: Service) -> None:
    service = without_workers
    impatient = service.start_worker(CYTOSYNTH_JOB_SECONDS="1")
    done = service.ended(submit(service.jobs, spec={"frames": 1000, "pause_s": 0.02}))
    assert (done.status, done.attempts) == (JobStatus.FAILED, 1)
    assert done.error is not None
    assert done.error.code == "time_limit"
    service.stop_worker(impatient)


@pytest.mark.parametrize("reuse", ["true", "false"])
def test_the_same_content_is_made_once_whoever_asks(without_workers: Service, reuse: str) -> None:
    service = without_workers
    new = service.start_worker(CYTOSYNTH_REUSE=reuse)
    spec = {"frames": 20, "pause_s": 0.05}
    digest = f"the same for {reuse}"
    first, second = (
        service.ended(submit(service.jobs, spec=spec, digest=digest, owner=owner)) for owner in ("ada", "bob")
    )
    assert first.id != second.id
    assert (second.progress.frames == 0) == (reuse == "true")  # nothing was computed
    name = "cell_0000/frame_0019.txt"
    assert service.artifacts.path(first.id, name).samefile(service.artifacts.path(second.id, name))  # one content
    service.jobs.delete(first.id)
    assert service.artifacts.path(second.id, name).read_text() == f"{digest} 19"
    service.stop_worker(new)


def test_wake_ups_of_a_lost_broker_are_made_up_for(service: Service, worker: Worker) -> None:
    waiting = [submit(service.jobs, spec={"frames": 10, "pause_s": 0.02}) for _ in range(6)]
    service.jobs._redis.flushall()
    for job in waiting:
        eventually(lambda job=job: not service.jobs.get(job.id).status.active if _known(service, job.id) else False)
        assert service.jobs.get(job.id).status is JobStatus.SUCCEEDED
        assert service.artifacts.exists(job.id)


def _known(service: Service, job_id: str) -> bool:
    return bool(service.jobs._redis.exists(f"cytosynth:job:{job_id}"))


def test_a_kill_in_the_middle_of_publishing_leaves_all_files_or_none(service: Service, worker: Worker) -> None:
    for number in range(3):
        job = submit(service.jobs, spec={"frames": 30, "pause_s": 0.001})
        time.sleep(0.02 * number)
        for child in [service.computing_process(worker)]:
            child.send_signal(signal.SIGKILL)
        done = service.ended(job)
        assert done.status is JobStatus.SUCCEEDED
        assert [entry["name"] for entry in service.artifacts.manifest(job.id)["files"]] == [
            f"cell_0000/frame_{frame:04d}.txt" for frame in range(30)
        ]
        for frame in range(30):
            assert service.artifacts.path(job.id, f"cell_0000/frame_{frame:04d}.txt").read_text().endswith(f" {frame}")
        eventually(lambda: service.computing_process(worker).pid)
