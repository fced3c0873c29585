"""A worker that has nothing to do ends; one that has, or whose queue holds jobs, does not."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from workbench import submit

from worker.broker.embedded import start_broker
from worker.jobs import JobQueue
from worker.liveness.idle_exit import IdleExit
from worker.liveness.shared_status import SharedStatus


@pytest.fixture
def scene(tmp_path: Path):
    with start_broker(tmp_path / "broker") as broker:
        jobs = JobQueue.connect(broker.url, wake_up=lambda _: None)
        scene = SimpleNamespace(jobs=jobs, status=SharedStatus(), now=0.0, stops=0)

        def stop() -> None:
            scene.stops += 1

        idle_exit = IdleExit(scene.status, jobs, after_s=30.0, stop=stop, now=lambda: scene.now)

        def look(now: float) -> int:
            scene.now = now
            idle_exit.inspect()
            return scene.stops

        scene.look = look
        yield scene
        jobs.close()


def test_an_idle_worker_is_asked_to_stop_once(scene: SimpleNamespace) -> None:
    assert [scene.look(now) for now in (100.0, 129.9, 130.0, 131.0, 500.0)] == [0, 0, 1, 1, 1]


def test_the_time_begins_anew_after_each_job(scene: SimpleNamespace) -> None:
    scene.look(0.0)
    scene.status.hold("a" * 32, 1)
    assert scene.look(40.0) == 0
    scene.status.record_idle()
    assert [scene.look(now) for now in (41.0, 70.9, 71.0)] == [0, 0, 1]


def test_a_worker_stays_while_a_job_is_queued(scene: SimpleNamespace) -> None:
    job = submit(scene.jobs)
    assert [scene.look(now) for now in (0.0, 40.0)] == [0, 0]
    scene.jobs.cancel(job.id)
    assert [scene.look(now) for now in (50.0, 79.9, 80.0)] == [0, 0, 1]
