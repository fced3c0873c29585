"""A training whose host dies goes on at another one, from the state that the store has."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from object_server import ObjectServer
from tiny_model import write_masks
from workbench import Service, eventually

from model.training_spec import TrainingSpec
from worker.broker.embedded import start_broker
from worker.jobs import Job, JobQueue, JobRules, JobStatus
from worker.storage.objects import open_store
from worker.storage.stored_artifacts import open_artifacts
from worker.uploads.store import Uploads, frames_of

pytestmark = pytest.mark.slow

OWNER, NAMES = "ada", ["cell_0.tif", "cell_1.tif"]
SPEC = {
    "name": "tiny", "uploads": NAMES, "voxel": [0.5, 0.5, 0.5], "interval": 2.0, "seed": 3, "points": 1024,
    "left_out_every": 0, "latent_size": 4, "width": 16, "depth": 2, "steps": 1500,
}  # fmt: skip
WORKER = {"CYTOSYNTH_PRELOAD": "1", "CYTOSYNTH_LEASE_SECONDS": "10", "CYTOSYNTH_TRAINING_SAVE_SECONDS": "0.2"}


@pytest.fixture
def service(object_storage: ObjectServer, tmp_path: Path) -> Iterator[Service]:
    url = object_storage.url()
    with start_broker(tmp_path / "broker") as broker, pytest.MonkeyPatch.context() as patch:
        for name, value in {**object_storage.environment(), "CYTOSYNTH_STORE": url}.items():
            patch.setenv(name, value)
        artifacts = open_artifacts(tmp_path / "driver", url)
        jobs = JobQueue.connect(broker.url, artifacts=artifacts, rules=JobRules(lease_s=10.0, wake_up_after_s=1.0))
        running = Service(tmp_path, broker, jobs, artifacts)
        try:
            yield running
        finally:
            for worker in list(running.workers):
                running.stop_worker(worker, how=signal.SIGKILL)
            jobs.close()


def submitted(service: Service, folder: Path, *, owner: str) -> Job:
    uploads = Uploads(service.data_dir / "driver", store=open_store(service.artifacts._store._url))  # type: ignore[attr-defined]
    found = []
    for name in NAMES:
        with uploads.arriving(owner) as arrived:
            arrived.write((folder / name).read_bytes())
            arrived.close()
            upload, _ = uploads.keep(owner, arrived, name=name, kind="tiff", facts=arrived.inspect("tiff"))
        found.append((upload.sha256, frames_of(upload)))
    spec = TrainingSpec.model_validate(SPEC).with_uploads(found).completed().named_for(owner)
    job, _ = service.jobs.submit(
        kind="training", spec=spec.model_dump(mode="json"), model_id=spec.model or "", model_sha256="",
        digest=spec.digest(model_sha256=""), owner=owner,
    )  # fmt: skip
    return job


@pytest.mark.timeout(1200)
def test_a_training_goes_on_at_another_host_after_a_kill(service: Service, tmp_path: Path) -> None:
    cells = write_masks(tmp_path / "cells")
    hosts = [{**WORKER, "CYTOSYNTH_DATA_DIR": str(tmp_path / name)} for name in ("a", "b")]
    first = service.start_worker(**hosts[0])
    job = submitted(service, cells, owner=OWNER)
    eventually(
        lambda: service.jobs.get(job.id).progress.frame > 200 and service.artifacts.has_state(job.id), within_s=400
    )
    service.stop_worker(first, how=signal.SIGKILL)
    assert service.jobs.get(job.id).status is JobStatus.RUNNING
    assert list((tmp_path / "a" / "states").iterdir())

    service.start_worker(**hosts[1])
    done = service.ended(job, within_s=600)
    assert done.status is JobStatus.SUCCEEDED, (done.error, service.log())
    steps = [int(line.rpartition(" ")[2]) for line in service.log().splitlines() if "goes on from step" in line]
    assert len(steps) == 1
    assert steps[0] > 0

    same = submitted(service, cells, owner="bob")  # undisturbed
    assert service.ended(same, within_s=600).status is JobStatus.SUCCEEDED
    ours, theirs = (
        service.artifacts.verified(one.id, "trained/weights.safetensors")[0].read_bytes() for one in (job, same)
    )
    assert ours == theirs
    service.jobs.admin.clean()
    eventually(lambda: service.artifacts.stateful() == [], within_s=60)
