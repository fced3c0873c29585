"""Real worker processes on a real broker: every job ends once, whoever is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from workbench import PROBE_KINDS, ROOT, Service, alive, eventually, submit

from worker.broker.embedded import start_broker
from worker.errors import JobNotFoundError
from worker.jobs import Job, JobQueue, JobRules, JobStatus
from worker.storage.artifacts import Artifacts

Worker = subprocess.Popen[bytes]
SLOW = {"frames": 10_000, "pause_s": 0.02}  # longer than any test waits


def staging_of(service: Service, job: Job) -> list[Path]:
    return list((service.data_dir / "staging").glob(f"{job.id}.*"))


def test_job_runs_reports_and_publishes(service: Service, worker: Worker) -> None:
    job = submit(service.jobs, spec={"frames": 30, "pause_s": 0.02})
    done = service.ended(job)
    assert (done.status, done.attempts, done.result) == (JobStatus.SUCCEEDED, 1, job.id)
    assert (done.progress.frame, done.progress.frames) == (30, 30)
    events = service.jobs.events(job.id)
    reports = [event.data for event in events if event.event == "progress"]
    assert 2 <= len(reports) <= 6  # 0.6 s at most five times a second
    assert all(0 < report["fraction"] <= 1 and report["eta_s"] >= 0 for report in reports)
    assert len(service.artifacts.manifest(job.id)["files"]) == 30
    assert service.artifacts.path(job.id, "cell_0000/frame_0029.txt").read_text() == f"{job.digest} 29"
    assert staging_of(service, job) == []


def test_fault_of_the_spec_ends_the_job_with_its_code(service: Service, worker: Worker) -> None:
    done = service.ended(submit(service.jobs, spec={"fault": "error"}))
    assert (done.status, done.attempts) == (JobStatus.FAILED, 1)
    assert done.error is not None
    assert (done.error.code, done.error.message) == ("empty_surface", "there is no membrane in this field")
    eventually(lambda: not staging_of(service, done))


def test_unforeseen_fault_tells_the_log_and_not_the_client(service: Service, worker: Worker) -> None:
    done = service.ended(submit(service.jobs, spec={"fault": "bug"}))
    assert done.error is not None
    assert done.error.code == "internal"
    assert "secret" not in done.error.message
    assert "a secret of the house" in service.log()
    assert done.id in service.log()


def test_unknown_kind_of_job_fails(service: Service, worker: Worker) -> None:
    done = service.ended(submit(service.jobs, kind="perpetuum mobile"))
    assert done.error is not None
    assert done.error.code == "invalid_spec"


def test_cancel_stops_the_work_between_frames(service: Service, worker: Worker) -> None:
    job = submit(service.jobs, spec=SLOW)
    eventually(service.running(job))
    assert staging_of(service, job)
    service.jobs.cancel(job.id)
    eventually(lambda: not staging_of(service, job))
    assert not service.artifacts.exists(job.id)
    assert service.jobs.get(job.id).status is JobStatus.CANCELED
    assert service.ended(submit(service.jobs)).status is JobStatus.SUCCEEDED


def test_running_job_that_is_canceled_and_removed_stops_too(service: Service, worker: Worker) -> None:
    job = submit(service.jobs, spec=SLOW)
    eventually(service.running(job))
    service.jobs.cancel(job.id)
    service.jobs.delete(job.id)
    eventually(lambda: not staging_of(service, job))
    with pytest.raises(JobNotFoundError):
        service.jobs.get(job.id)


def test_lost_wake_ups_delay_a_job_and_doubled_ones_do_nothing(service: Service, worker: Worker) -> None:
    silent = JobQueue.connect(service.broker.url, artifacts=service.artifacts, wake_up=lambda _: None)
    job = submit(silent)
    assert service.ended(job).status is JobStatus.SUCCEEDED
    silent.close()
    for _ in range(5):
        service.jobs.wake_up(job.id)
    after = service.ended(submit(service.jobs))
    assert after.status is JobStatus.SUCCEEDED
    assert service.jobs.get(job.id).attempts == 1


def test_kill_9_of_the_computing_process_costs_one_attempt(service: Service, worker: Worker) -> None:
    job = submit(service.jobs, spec={"frames": 60, "pause_s": 0.02})
    eventually(service.running(job))
    service.computing_process(worker).kill()
    done = service.ended(job)
    assert (done.status, done.attempts) == (JobStatus.SUCCEEDED, 2)
    eventually(lambda: staging_of(service, job) == [] or service.jobs.admin.clean())


def test_kill_9_of_a_worker_leaves_no_process_and_its_job_to_another(service: Service, worker: Worker) -> None:
    job = submit(service.jobs, spec={"frames": 60, "pause_s": 0.02})
    eventually(service.running(job))
    child = service.computing_process(worker)
    service.stop_worker(worker, how=signal.SIGKILL)
    eventually(lambda: not alive(child.pid), within_s=3)
    service.start_worker()
    done = service.ended(job)
    assert (done.status, done.attempts) == (JobStatus.SUCCEEDED, 2)


def test_sigterm_gives_the_job_back_unharmed(service: Service, worker: Worker) -> None:
    job = submit(service.jobs, spec={"frames": 100, "pause_s": 0.02})
    eventually(service.running(job))
    assert service.stop_worker(worker) == 0
    back = service.jobs.get(job.id)
    assert (back.status, back.attempts) == (JobStatus.QUEUED, 0)
    assert staging_of(service, job) == []
    assert all(beat.pid != worker.pid for beat in service.jobs.admin.workers_alive())
    service.start_worker()
    done = service.ended(job)
    assert (done.status, done.attempts) == (JobStatus.SUCCEEDED, 1)


@pytest.mark.parametrize(("number", "times"), [(signal.SIGTERM, 3), (signal.SIGHUP, 1), (signal.SIGINT, 1)])
def test_signal_to_the_process_group_gives_the_job_back_uncounted_each_time(
    service: Service, worker: Worker, number: signal.Signals, times: int
) -> None:
    # As scancel, systemd and a terminal send it: parent and computing process get it at the same time.
    job = submit(service.jobs, spec={"frames": 60, "pause_s": 0.02})
    lost_before = service.jobs.admin.failure_counts()["leases_lost"]
    for _ in range(times):
        eventually(service.running(job))
        child = service.computing_process(worker)
        os.killpg(worker.pid, number)
        if number is not signal.SIGINT:  # a second SIGINT is Celery's cold shutdown
            os.killpg(worker.pid, number)
        assert worker.wait(90) == 0
        back = service.jobs.get(job.id)
        assert (back.status, back.attempts) == (JobStatus.QUEUED, 0), service.log()
        assert not alive(child.pid)
        assert staging_of(service, job) == []
        service.stop_worker(worker)
        worker = service.start_worker()
    done = service.ended(job)
    assert (done.status, done.attempts) == (JobStatus.SUCCEEDED, 1)
    assert service.jobs.admin.failure_counts()["leases_lost"] == lost_before


def test_sigterm_to_the_computing_process_alone_gives_the_job_back_uncounted(service: Service, worker: Worker) -> None:
    job = submit(service.jobs, spec={"frames": 60, "pause_s": 0.02})
    eventually(service.running(job))
    service.computing_process(worker).terminate()
    done = service.ended(job)
    assert (done.status, done.attempts) == (JobStatus.SUCCEEDED, 1)


def test_a_second_sigterm_does_not_end_the_computing_process_before_its_result_is_sent(
    service: Service, worker: Worker, tmp_path: Path
) -> None:
    service.stop_worker(worker)
    lingering = service.start_worker(PROBE_LINGER=str(tmp_path))
    job = submit(service.jobs, spec=SLOW)
    eventually(service.running(job))
    (tmp_path / "linger").touch()
    child = service.computing_process(lingering)
    os.killpg(lingering.pid, signal.SIGTERM)
    eventually((tmp_path / "lingers").exists)  # the task has ended, its result is not sent
    back = service.jobs.get(job.id)
    assert (back.status, back.attempts) == (JobStatus.QUEUED, 0)
    child.terminate()
    (tmp_path / "go on").touch()
    assert lingering.wait(90) == 0
    assert (tmp_path / "went on").exists()  # else its parent waits ten seconds for a result that nobody sends
    assert not alive(child.pid)
    service.stop_worker(lingering)
    service.jobs.cancel(job.id)


def test_sigterm_to_an_idle_computing_process_ends_it_at_once_and_the_next_does_the_work(
    service: Service, worker: Worker
) -> None:
    service.ended(submit(service.jobs))
    old = service.computing_process(worker)

    def replaced() -> bool:
        if alive(old.pid):
            old.terminate()  # again: the first may come before the task is quite over
        children = psutil.Process(worker.pid).children()
        return bool(children) and children[0].pid != old.pid

    eventually(replaced)
    assert service.ended(submit(service.jobs)).status is JobStatus.SUCCEEDED


def test_frozen_worker_that_wakes_up_late_changes_nothing(service: Service, worker: Worker) -> None:
    job = submit(service.jobs, spec={"frames": 60, "pause_s": 0.02})
    eventually(service.running(job))
    os.killpg(worker.pid, signal.SIGSTOP)  # it leads a session of its own
    second = service.start_worker()
    done = service.ended(job)
    assert (done.status, done.attempts) == (JobStatus.SUCCEEDED, 2)
    os.killpg(worker.pid, signal.SIGCONT)
    eventually(lambda: staging_of(service, job) == [])
    assert service.artifacts.path(job.id, "cell_0000/frame_0059.txt").is_file()
    assert service.jobs.get(job.id) == done
    assert [e.data["state"] for e in service.jobs.events(job.id) if e.event == "state"][-1] == "succeeded"
    service.stop_worker(second)


def test_poison_pill_stops_after_three_workers(service: Service, worker: Worker) -> None:
    job = submit(service.jobs, spec={"fault": "crash"})
    done = service.ended(job)
    assert (done.status, done.attempts) == (JobStatus.FAILED, 3)
    assert done.error is not None
    assert done.error.code == "worker_crashed"


def test_broker_killed_under_a_running_job_delays_nothing_but_reports(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path)
    broker = start_broker(tmp_path / "broker")
    jobs = JobQueue.connect(broker.url, artifacts=artifacts, rules=JobRules(lease_s=1.5))
    service = Service(tmp_path, broker, jobs, artifacts)
    worker = service.start_worker(CYTOSYNTH_LEASE_SECONDS="10")
    try:
        job = submit(jobs, spec={"frames": 60, "pause_s": 0.02})
        waiting = submit(jobs)
        eventually(service.running(job))
        os.kill(broker.server_pid, signal.SIGKILL)
        broker.close()
        time.sleep(0.5)
        service.broker = broker = start_broker(tmp_path / "broker")
        done = service.ended(job)
        assert (done.status, done.attempts) == (JobStatus.SUCCEEDED, 1)
        assert service.ended(waiting).status is JobStatus.SUCCEEDED
    finally:
        service.stop_worker(worker)
        jobs.close()
        broker.close()


def test_worker_ends_when_whoever_started_it_is_killed(service: Service) -> None:
    starter = """
import subprocess, sys, time
from worker.launch import worker_command
worker = subprocess.Popen(worker_command(), stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
print(worker.pid, flush=True)
time.sleep(60)
"""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "CYTOSYNTH_REDIS_URL": service.broker.url,
        "CYTOSYNTH_DATA_DIR": str(service.data_dir),
        "CYTOSYNTH_PRELOAD": "0",
    }
    serve = subprocess.Popen([sys.executable, "-c", starter], stdout=subprocess.PIPE, env=environment, text=True)
    assert serve.stdout
    pid = int(serve.stdout.readline())
    eventually(lambda: any(beat.pid == pid for beat in service.jobs.admin.workers_alive(within_s=5)))
    family = [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    assert len(family) >= 2
    serve.kill()
    serve.communicate()
    eventually(lambda: not any(alive(member) for member in family))


def test_plain_celery_command_works_by_hand(service: Service) -> None:
    for worker in list(service.workers):
        service.stop_worker(worker)
    worker = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "worker.celery_app", "worker", "-c", "1", "--include=probe_kinds"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(PROBE_KINDS))),
            "CYTOSYNTH_DATA_DIR": str(service.data_dir),  # where it finds the embedded broker
            "CYTOSYNTH_PRELOAD": "0",
        },
    )
    try:
        assert service.ended(submit(service.jobs)).status is JobStatus.SUCCEEDED
    finally:
        worker.terminate()
        assert worker.wait(20) == 0


def test_worker_without_a_fit_broker_says_what_is_missing(tmp_path: Path) -> None:
    def start(data_dir: Path, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "worker"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "CYTOSYNTH_DATA_DIR": str(data_dir), **environment},
        )

    missing = start(tmp_path)
    assert missing.returncode != 0
    assert "CYTOSYNTH_REDIS_URL" in missing.stderr
    assert "Traceback" not in missing.stderr
    absent = start(tmp_path, CYTOSYNTH_REDIS_URL="redis://127.0.0.1:1")
    assert absent.returncode != 0
    assert "does not answer" in absent.stderr
    assert "Traceback" not in absent.stderr


@pytest.mark.slow
def test_a_worker_compiles_before_it_claims_its_first_job(service: Service) -> None:
    """The log says that it has warmed up before it says that a job began."""
    for worker in list(service.workers):
        service.stop_worker(worker)
    service.start_worker(CYTOSYNTH_PRELOAD="1")
    job = submit(service.jobs)
    service.ended(job, within_s=300)
    log = service.log()
    assert 0 <= log.rfind("warmed up in") < log.find(f"job {job.id}: attempt 1")
