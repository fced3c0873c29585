"""A data folder of the version before shards, with its broker or without: every job of it is there, and goes on.

``before_shards/make_folder.py`` made the folder with the code of commit a7b37bc.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from app.schemas import JobView
from worker.broker.embedded import start_broker
from worker.jobs import JobOptions, JobQueue, JobRules, JobStatus, Lease
from worker.kinds.table import kind_of, price_of
from worker.storage.artifacts import Artifacts

OLD = Path(__file__).with_name("before_shards")
RULES = JobRules(retention_s=3e9, record_s=3e9, idempotency_s=3e9)
ENDS = {
    "finished": JobStatus.SUCCEEDED, "pinned": JobStatus.SUCCEEDED, "failed": JobStatus.FAILED,
    "canceled": JobStatus.CANCELED, "queued": JobStatus.QUEUED, "later": JobStatus.QUEUED,
}  # fmt: skip


@pytest.fixture(params=["its broker", "a new broker", "a flushed broker"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[JobQueue, Artifacts, dict[str, str], str]]:
    """The old folder opened by this version, its jobs by name, and what became of its broker."""
    shutil.copytree(OLD / "data", tmp_path / "data")
    artifacts = Artifacts(tmp_path / "data")
    old = json.loads((OLD / "keys.json").read_text())
    with start_broker(tmp_path / "broker") as broker:
        jobs = JobQueue.connect(broker.url, artifacts=artifacts, rules=RULES, wake_up=lambda _: None)
        if request.param == "its broker":
            for command in old["commands"]:
                jobs._redis.execute_command(*command)
        if request.param == "a flushed broker":
            jobs.admin.rebuild()
            jobs._redis.flushall()
        yield jobs, artifacts, old["jobs"], request.param
        jobs.close()


Opened = tuple[JobQueue, Artifacts, dict[str, str], str]


def test_every_job_is_there_in_its_state(opened: Opened) -> None:
    jobs, artifacts, made, broker = opened
    for name, status in ENDS.items():
        job = jobs.get(made[name], owner="bob" if name == "later" else "ada")
        assert (job.status, job.labels, job.priority, job.webhook, job.batch, job.shards) == (
            status, {}, 0, None, None, None,
        ), name  # fmt: skip
        assert JobView.of(job).state is status
        assert (kind_of(job).name, price_of(job)) == ("generation", job.price)
    running = jobs.get(made["running"])
    assert running.status is (JobStatus.RUNNING if broker == "its broker" else JobStatus.QUEUED)
    failed = jobs.get(made["failed"]).error
    assert failed is not None
    assert (failed.code, failed.message) == ("empty_surface", "there is no membrane")
    assert jobs.get(made["pinned"]).pinned
    for name in ("finished", "pinned"):
        path, _ = artifacts.verified(made[name], "cell_0000/frame_0000.stl")
        assert path.read_text() == f"solid {name}\n"
    assert [job.id for job in jobs.list(owner="bob").jobs] == [made["later"]]
    names = ("queued", "running", "canceled", "failed", "pinned", "finished")
    assert [job.id for job in jobs.list(owner="ada").jobs] == [made[name] for name in names]


def test_keys_and_results_of_before_still_answer(opened: Opened) -> None:
    jobs, _, made, _ = opened

    def again(name: str, **changes: Any) -> str:
        old = jobs.get(made[name])
        request = {
            "kind": old.kind, "spec": old.spec, "model_id": old.model_id, "model_sha256": old.model_sha256,
            "digest": old.digest, "owner": "ada",
        }  # fmt: skip
        return jobs.submit(**request | changes)[0].id

    assert again("finished") == made["finished"]
    assert again("queued", idempotency_key="a-key", request_digest="asked") == made["queued"]
    alias = again("finished", idempotency_key="of-a-finished-one", request_digest="same")
    assert alias == made["finished"]
    assert again("finished", options=JobOptions(labels={"new": "label"})) not in made.values()


def test_what_waited_or_ran_is_carried_out(opened: Opened) -> None:
    jobs, artifacts, made, broker = opened
    swept = jobs.admin.sweep()  # the worker of before is gone, and so is its lease
    assert swept.requeued == ([made["running"]] if broker == "its broker" else [])
    jobs.submit(
        kind="generation", spec={}, model_id="m", model_sha256="0" * 64, digest=uuid4().hex, owner="ada", shards=2
    )
    claimed = []
    while lease := jobs.leases.claim(worker="w"):
        claimed.append(lease.job_id)
        if lease.shard is None:
            finish(jobs, artifacts, lease)
    assert set(claimed) >= {made["running"], made["queued"], made["later"]}
    for name in ("running", "queued", "later"):
        assert jobs.get(made[name]).status is JobStatus.SUCCEEDED
    jobs.admin.clean()
    assert artifacts.exists(made["finished"])
    for name in ("finished", "pinned", "failed", "canceled"):
        jobs.delete(made[name])
        assert not artifacts.exists(made[name])


def finish(jobs: JobQueue, artifacts: Artifacts, lease: Lease) -> None:
    staged = artifacts.staging(lease.job_id, lease.token)
    (staged / "manifest.json").write_text(json.dumps({"files": []}))
    artifacts.publish(lease.job_id, staged)
    jobs.leases.finish(lease)
