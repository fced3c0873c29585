"""The command that restores a queue, and a service that notices when one of its parts has died or stands still."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
from served import cytosynth_here, environment
from workbench import ROOT, alive, eventually, submit

from worker.broker.embedded import running_broker, start_broker
from worker.broker.urls import redis_url
from worker.jobs import JobQueue, JobStatus
from worker.storage.artifacts import Artifacts

SERVE = """
import sys
from pathlib import Path
from app.settings import AppSettings
from app.cli.supervisor import Plan, run_service
settings = AppSettings(port=0, data_dir=Path(sys.argv[1]))
run_service(Plan(settings=settings, heartbeat_timeout_s=8.0), announce=lambda address: print(address, flush=True))
"""


def flush(url: str) -> None:
    import redis

    with redis.Redis.from_url(redis_url(url)) as client:
        client.flushall()


def test_rebuild_restores_the_queue_of_a_running_broker_and_of_one_that_stands_still(tmp_path: Path) -> None:
    with start_broker(tmp_path / "broker") as broker:
        jobs = JobQueue.connect(broker.url, artifacts=Artifacts(tmp_path), wake_up=lambda _: None)
        kept, canceled = submit(jobs), submit(jobs)
        jobs.cancel(canceled.id)
        flush(broker.url)
        done = cytosynth_here("rebuild", "--data-dir", str(tmp_path))
        assert done.exit_code == 0, done.output
        assert "2 jobs restored" in done.output
        assert "1 queued" in done.output
        assert [jobs.get(job.id).status for job in (kept, canceled)] == [JobStatus.QUEUED, JobStatus.CANCELED]
        again = cytosynth_here("rebuild", "--data-dir", str(tmp_path))
        assert "0 jobs restored; now 1 queued, 1 canceled" in again.output
        flush(broker.url)
        jobs.close()
    done = cytosynth_here("rebuild", "--data-dir", str(tmp_path))  # starts a broker of its own for the moment
    assert "2 jobs restored" in done.output
    with start_broker(tmp_path / "broker") as broker:
        jobs = JobQueue.connect(broker.url, artifacts=Artifacts(tmp_path), wake_up=lambda _: None)
        jobs.admin.sweep()
        assert jobs.admin.counts()[JobStatus.QUEUED] == 1
        jobs.close()


def test_a_frozen_worker_is_replaced_and_a_dead_broker_comes_back(tmp_path: Path) -> None:
    quick = {"CYTOSYNTH_HEARTBEAT_SECONDS": "0.5", "CYTOSYNTH_PRELOAD": "0"}
    with (tmp_path / "serve.log").open("wb") as log:
        service = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(tmp_path / "data")],
            stdout=subprocess.PIPE, stderr=log, env=environment(**quick), cwd=ROOT, text=True, start_new_session=True,
        )  # fmt: skip
    assert service.stdout
    family: list[int] = []
    try:
        assert service.stdout.readline().startswith("http")
        artifacts = Artifacts(tmp_path / "data")
        url = running_broker(tmp_path / "data" / "broker")
        assert url is not None
        jobs = JobQueue.connect(url, artifacts=artifacts, wake_up=lambda _: None)
        eventually(lambda: jobs.admin.workers_alive(within_s=5.0), within_s=60)
        time.sleep(3.0)  # the service has seen it alive
        (old,) = {beat.pid for beat in jobs.admin.workers_alive(within_s=5.0)}
        family = [child.pid for child in psutil.Process(service.pid).children(recursive=True)]
        os.killpg(old, signal.SIGSTOP)
        eventually(lambda: {beat.pid for beat in jobs.admin.workers_alive(within_s=2.0)} - {old}, within_s=60)
        assert not alive(old)

        server = int(jobs._redis.info("server")["process_id"])
        os.kill(server, signal.SIGKILL)
        eventually(lambda: running_broker(tmp_path / "data" / "broker") == url)
        assert not alive(server)
        assert jobs.admin.counts()[JobStatus.QUEUED] == 0
        assert service.poll() is None
        family += [child.pid for child in psutil.Process(service.pid).children(recursive=True)]
        jobs.close()
    finally:
        service.terminate()
        service.communicate(timeout=40)
    assert service.returncode == 0, (tmp_path / "serve.log").read_text()
    eventually(lambda: not any(alive(pid) for pid in family))
