"""A training as a worker carries it out: from uploads to a model that is used, through kills and a lost broker."""

from __future__ import annotations

import signal
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
import tifffile
from tiny_model import write_masks
from workbench import Service, eventually

from model.card import load_card
from model.output.verify import verify_result
from model.spec import GenerationSpec
from model.training_spec import TrainingSpec
from worker.jobs import BatchJob, Job, JobOptions, JobStatus
from worker.uploads.installed_models import OWNER_FILE
from worker.uploads.sandbox import kind_of
from worker.uploads.store import Uploads, frames_of

OWNER = "ada"
UPLOADS = ["cell_0.tif", "cell_1.tif", "cell_2.tif"]
SMALL = {
    "name": "tiny", "uploads": UPLOADS, "voxel": [0.5, 0.5, 0.5], "interval": 2.0, "seed": 3, "points": 1024,
    "left_out_every": 3, "latent_size": 4, "width": 16, "depth": 2, "steps": 40,
}  # fmt: skip
WORKER = {"CYTOSYNTH_PRELOAD": "1", "CYTOSYNTH_LEASE_SECONDS": "15", "CYTOSYNTH_TRAINING_SAVE_SECONDS": "0.2"}


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_masks(tmp_path_factory.mktemp("cells"))


@pytest.fixture(scope="module")
def worker(service: Service) -> subprocess.Popen[bytes]:
    return service.start_worker(**WORKER)


def submitted(service: Service, folder: Path, *, owner: str = OWNER, **members: Any) -> Job:
    uploads, spec = Uploads(service.data_dir), TrainingSpec.model_validate(SMALL | members)
    found = []
    for name in spec.uploads:
        with uploads.arriving(owner) as arrived:
            arrived.write((folder / name).read_bytes())
            arrived.close()
            kind = kind_of(name)
            upload, _ = uploads.keep(owner, arrived, name=name, kind=kind, facts=arrived.inspect(kind))
        found.append((upload.sha256, frames_of(upload)))
    spec = spec.with_uploads(found).completed().named_for(owner)
    job, created = service.jobs.submit(
        kind="training", spec=spec.model_dump(mode="json"), model_id=spec.model or "", model_sha256="",
        digest=spec.digest(model_sha256=""), owner=owner,
    )  # fmt: skip
    assert created
    return job


@pytest.fixture(scope="module")
def trained(service: Service, worker: subprocess.Popen[bytes], cells: Path) -> Job:
    """A training of an archive that has succeeded."""
    with zipfile.ZipFile(cells / "cells.zip", "w") as archive:
        for name in UPLOADS:
            archive.write(cells / name, name)
    job = service.ended(submitted(service, cells, uploads=["cells.zip"]), within_s=900)
    assert job.status is JobStatus.SUCCEEDED, (job.error, service.log())
    return job


def weights(service: Service, job: Job) -> bytes:
    return service.artifacts.verified(job.id, "trained/weights.safetensors")[0].read_bytes()


@pytest.mark.timeout(1200)
def test_a_trained_model_is_its_owners_and_makes_cells_at_once(service: Service, trained: Job) -> None:
    job = trained
    assert list(verify_result(service.artifacts.path(job.id, "manifest.json").parent)) == []
    installed = service.data_dir / "models" / job.model_id
    assert (installed / OWNER_FILE).read_text() == OWNER
    assert (installed / "weights.safetensors").read_bytes() == weights(service, job)
    card = load_card(installed)
    assert Uploads(service.data_dir).models.installed(OWNER, card)
    assert card.quality.keys() >= {"dice_training_frames", "dice_left_out_frames"}
    assert (installed / "figures.png").is_file()
    assert 0 < card.quality["new_cells"] <= 4
    # Its estimate corrects that of the next training, under whatever name.
    timing = service.jobs.timings.expect(kind="training", model_id="", formats=[], estimated_s=10.0)
    assert timing.jobs == 1

    spec = GenerationSpec(model=card.id, seed=1, frames=2, grid=16, formats=["tiff"]).completed()
    made, _ = service.jobs.submit(
        kind="generation", spec=spec.model_dump(mode="json"), model_id=card.id, model_sha256=card.sha256,
        digest=spec.digest(model_sha256=card.sha256), owner=OWNER,
    )  # fmt: skip
    assert service.ended(made, within_s=300).error is None or "implausible" in service.log()

    assert service.artifacts.stateful() == [job.id]
    service.jobs.admin.clean()
    assert service.artifacts.stateful() == []


def test_a_training_whose_files_are_there_already_has_its_model_again(service: Service, trained: Job) -> None:
    job = trained
    assert Uploads(service.data_dir).models.uninstall(OWNER, job.model_id)
    same = BatchJob(kind=job.kind, spec=job.spec, model_id=job.model_id, model_sha256="", digest=job.digest)
    batch, created = service.jobs.batches.submit([same], owner=OWNER, request_digest="again", options=JobOptions())
    assert created
    (again,) = (one for one in service.jobs.list(limit=50).jobs if one.batch == batch.id)
    assert again.id != job.id
    assert service.ended(again, within_s=300).status is JobStatus.SUCCEEDED
    assert f"job {again.id}: has the files of job {job.id}" in service.log()
    assert (service.data_dir / "models" / job.model_id / "weights.safetensors").read_bytes() == weights(service, again)


def test_data_that_cannot_be_trained_on_end_the_job_with_all_findings(
    service: Service, worker: subprocess.Popen[bytes], cells: Path, tmp_path: Path
) -> None:
    masks = tifffile.imread(cells / "cell_0.tif")
    for name, volume in (("cut.tif", masks[..., masks.shape[-1] // 2 :]), ("short.tif", masks[:2])):
        tifffile.imwrite(tmp_path / name, volume.astype("uint8"))
    done = service.ended(submitted(service, tmp_path, uploads=["cut.tif", "short.tif"]), within_s=300)
    assert done.error is not None
    assert done.error.code == "bad_dataset"
    lines = done.error.message.splitlines()
    assert lines[0] == "none of the 2 sequences can be trained on as it is:"
    assert "cut: error border: the cell is cut by the border of the volume (frames 0-3)" in lines
    assert any(line.startswith("short: error short: 2 frames") for line in lines)


@pytest.mark.slow
def test_a_training_that_is_to_stop_succeeds_with_what_it_has(
    service: Service, worker: subprocess.Popen[bytes], cells: Path
) -> None:
    job = submitted(service, cells, steps=1_000_000, keep_on_cancel=True, seed=11)
    assert not service.artifacts.ask_to_stop("0" * 32)
    eventually(lambda: service.jobs.get(job.id).progress.loss is not None, within_s=300)
    assert service.artifacts.ask_to_stop(job.id)
    done = service.ended(job, within_s=300)
    assert (done.status, [one.code for one in done.warnings]) == (JobStatus.SUCCEEDED, ["stopped_early"]), done.error
    timing = service.jobs.timings.expect(kind="training", model_id="", formats=[], estimated_s=10.0)
    assert timing.jobs <= 1, "what ended early tells nothing of other trainings"
    assert load_card(service.data_dir / "models" / job.model_id).training.steps < 1_000_000


def test_a_canceled_training_leaves_neither_a_model_nor_a_state(
    service: Service, worker: subprocess.Popen[bytes], cells: Path
) -> None:
    job = submitted(service, cells, steps=1_000_000, seed=12)
    eventually(lambda: service.jobs.get(job.id).progress.stage == "training", within_s=300)
    service.jobs.cancel(job.id, owner=OWNER)
    eventually(lambda: service.jobs.admin.clean() == 0 and job.id not in service.artifacts.stateful(), within_s=60)
    assert not (service.data_dir / "models" / job.model_id).exists()


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_a_training_goes_on_after_two_kills_a_drain_and_a_lost_broker_to_the_same_weights(
    service: Service, worker: subprocess.Popen[bytes], cells: Path
) -> None:
    members = {"steps": 8000, "seed": 13}  # enough for four disturbances on a fast machine
    undisturbed = submitted(service, cells, **members)
    assert service.ended(undisturbed, within_s=900).status is JobStatus.SUCCEEDED
    job = submitted(service, cells, owner="bob", **members)
    reached = 0

    def came_further() -> bool:
        nonlocal reached
        now = service.jobs.get(job.id)
        if now.status is not JobStatus.RUNNING or now.progress.stage != "training" or now.progress.frame <= reached:
            return False
        reached = now.progress.frame
        return True

    eventually(came_further, within_s=200)
    service.computing_process(worker).send_signal(signal.SIGKILL)  # its parent starts another
    eventually(came_further, within_s=200)
    service.stop_worker(worker, how=signal.SIGKILL)
    worker = service.start_worker(**WORKER)
    eventually(came_further, within_s=200)
    service.stop_worker(worker, how=signal.SIGTERM)  # drained: the attempt does not count
    worker = service.start_worker(**WORKER)
    eventually(came_further, within_s=200)
    before = service.jobs.get(job.id)
    assert (before.lost, before.attempts) == (2, 3)
    service.jobs._store._redis.flushall()
    eventually(came_further, within_s=200)
    done = service.ended(job, within_s=900)
    assert done.status is JobStatus.SUCCEEDED, done.error
    assert weights(service, job) == weights(service, undisturbed)
    for name in ("curve.csv", "trained/figures.json"):
        ours, theirs = (service.artifacts.verified(one.id, name)[0].read_text() for one in (job, undisturbed))
        assert ours.replace(job.model_id, "") == theirs.replace(undisturbed.model_id, "")
    steps = [int(line.rpartition(" ")[2]) for line in service.log().splitlines() if "goes on from step" in line]
    assert len(steps) == 4
    assert steps == sorted(steps)
    assert steps[0] > 0
