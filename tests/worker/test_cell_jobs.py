"""Augmentations and evaluations as a worker carries them out: a trained model, real uploads, the library's bytes."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from tiny_model import SIDE, write_masks
from workbench import Service, eventually

from model.augmentation import augment
from model.augmentation_spec import AugmentationSpec
from model.evaluation.request import evaluate_request
from model.evaluation_spec import EvaluationSpec
from model.network.checkpoint import Checkpoint, load_checkpoint
from model.output.verify import verify_result
from model.spec import GenerationSpec
from worker.jobs import Job, JobStatus
from worker.kinds.table import DivisibleSpec
from worker.uploads.store import Uploads

OWNER = "ada"
STEP = 20.0 / (SIDE - 1)  # µm between samples: the model's Ω is 20 µm wide
EVALUATED = {"report.html", "summary.json", "tiny.json"} | {
    f"tiny-{name}.png" for name in ("boxes", "cells", "courses", "nearest", "quantiles")
}


@pytest.fixture(scope="module")
def tiny(service: Service, tiny_models: Path) -> Checkpoint:
    shutil.copytree(tiny_models / "tiny", service.data_dir / "models" / "tiny")
    return load_checkpoint(service.data_dir / "models" / "tiny")


@pytest.fixture(scope="module")
def worker(service: Service, tiny: Checkpoint) -> subprocess.Popen[bytes]:
    return service.start_worker(CYTOSYNTH_PRELOAD="1", CYTOSYNTH_LEASE_SECONDS="60")


def submitted(service: Service, tiny: Checkpoint, spec: Any) -> Job:
    complete = spec.completed()
    job, created = service.jobs.submit(
        kind=spec.KIND, spec=complete.model_dump(mode="json"), model_id="tiny", model_sha256=tiny.card.sha256,
        digest=complete.digest(model_sha256=tiny.card.sha256), owner=OWNER,
        shards=complete.shards() if isinstance(complete, DivisibleSpec) else 1,
    )  # fmt: skip
    assert created
    return job  # type: ignore[no-any-return]


def succeeded(service: Service, job: Job, *, within_s: float = 180.0) -> Path:
    """Wait for the end of a job that must succeed; return the folder of its files, all of which are in order."""
    done = service.ended(job, within_s=within_s)
    assert done.status is JobStatus.SUCCEEDED, done.error
    folder = service.artifacts.path(job.id, "manifest.json").parent
    assert list(verify_result(folder)) == []
    return folder


def failure(service: Service, job: Job) -> tuple[str, str]:
    done = service.ended(job, within_s=60)
    assert done.error is not None
    return done.error.code, done.error.message


# -------------------------------------------------------------------------------------------------------- augmentations


def augmentation(**members: Any) -> AugmentationSpec:
    document = {"model": "tiny", "source": {"kind": "learned", "index": 1}, "seed": 5, "count": 2, "frames": 4}
    return AugmentationSpec.model_validate(document | {"grid": 24, "formats": ["stl", "tiff"]} | members)


def test_an_augmentation_has_the_bytes_of_the_library(
    service: Service, worker: subprocess.Popen[bytes], tiny: Checkpoint, tmp_path: Path
) -> None:
    spec = augmentation()
    folder = succeeded(service, submitted(service, tiny, spec))
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # as the worker computes
    try:
        augment(spec.completed(), tiny, tmp_path)
    finally:
        torch.set_num_threads(before)
    names = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert len(names) == 2 * 5 + 2
    for name in names:
        assert (folder / name).read_bytes() == (tmp_path / name).read_bytes(), name
    rows = json.loads((folder / "augmentation.json").read_bytes())["cells"]
    assert [row["cell"] for row in rows] == [0, 1]
    assert all(row["code_distance"] > 0 for row in rows if row["noise"])


def test_an_uploaded_cell_is_fitted_and_varied(
    service: Service, worker: subprocess.Popen[bytes], tiny: Checkpoint, tmp_path: Path
) -> None:
    volume = (tifffile.imread(write_masks(tmp_path / "masks") / "cell_1.tif") > 0).astype(np.uint8)
    found = uploaded(service, tmp_path, "varied.tif", volume)
    source = {"kind": "uploads", "uploads": ["varied.tif"], "method": "code"}
    still = {"noise": 0.0, "rotation": "none", "mirror": False, "size": [1.0, 1.0], "speed": [1.0, 1.0], "frames": 4}
    spec = augmentation(source=source, **still, count=1, grid=48).with_uploads([found])
    folder = succeeded(service, submitted(service, tiny, spec))
    fit = json.loads((folder / "fit.json").read_bytes())
    assert fit["score"]["dice"] > 0.85
    manifest = json.loads((folder / "manifest.json").read_bytes())
    assert manifest["model"] == {"id": "tiny", "sha256": tiny.card.sha256}
    assert manifest["cells"][0]["latent"] == pytest.approx(fit["latent"]["values"], abs=1e-6)
    # Varied by nothing, the cell is the uploaded one: its volumes are, as far as the code reaches.
    given = [float((frame > 0).sum()) * STEP**3 for frame in volume]
    assert [frame["volume_um3"] for frame in manifest["cells"][0]["frames"]] == pytest.approx(given, rel=0.2)
    few = augmentation(source={**source, "labels": [7]}).with_uploads([found])
    code, message = failure(service, submitted(service, tiny, few))
    assert (code, "does not show the cell" in message) == ("bad_dataset", True)


def test_a_canceled_augmentation_stops_between_frames(
    service: Service, worker: subprocess.Popen[bytes], tiny: Checkpoint
) -> None:
    job = submitted(service, tiny, augmentation(count=40, frames=30, grid=96))
    eventually(service.running(job), within_s=60)
    service.jobs.cancel(job.id, owner=OWNER)
    assert service.ended(job, within_s=30).status is JobStatus.CANCELED


# ---------------------------------------------------------------------------------------------------------- evaluations


def four_cells() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Labels (t, z, y, x) of four breathing ellipsoids side by side."""
    axis = np.linspace(-1.0, 1.0, SIDE)
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    volume = np.zeros((3, SIDE, 2 * SIDE, 2 * SIDE), dtype=np.uint8)
    for number in range(4):
        radii = 0.35 + 0.05 * np.array([number, 3 - number, number % 2])
        row, column = divmod(number, 2)
        place = (slice(None), slice(SIDE * row, SIDE * (row + 1)), slice(SIDE * column, SIDE * (column + 1)))
        for frame in range(3):
            inside = (x / radii[0]) ** 2 + (y / radii[1]) ** 2 + (z / radii[2]) ** 2 < (1.0 + 0.08 * frame) ** 2
            volume[frame][place][inside] = number + 1
    return volume


def uploaded(service: Service, folder: Path, name: str, volume: np.ndarray[Any, Any]) -> tuple[str, int]:
    path = folder / name
    tifffile.imwrite(
        path, volume, imagej=True, resolution=(1.0 / STEP, 1.0 / STEP),
        metadata={"axes": "TZYX", "spacing": STEP, "unit": "um", "finterval": 120.0},
    )  # fmt: skip
    uploads = Uploads(service.data_dir)
    with uploads.arriving(OWNER) as arrived:
        arrived.write(path.read_bytes())
        upload, _ = uploads.keep(OWNER, arrived, name=name, kind="tiff", facts={"shape": list(volume.shape)})
    return upload.sha256, len(volume)


def evaluation(found: tuple[str, int], name: str, **members: Any) -> EvaluationSpec:
    document = {"model": "tiny", "uploads": [name], "count": 4, "draws": 100}
    return EvaluationSpec.model_validate(document | members).with_uploads([found])


@pytest.mark.slow
def test_cells_of_a_job_are_compared_with_uploaded_ones(
    service: Service, worker: subprocess.Popen[bytes], tiny: Checkpoint, tmp_path: Path
) -> None:
    made = GenerationSpec(model="tiny", seed=3, count=4, frames=3, grid=16, formats=["stl"])
    result = service.artifacts.path(succeeded(service, (job := submitted(service, tiny, made))).name, "manifest.json")
    found = uploaded(service, tmp_path, "four.tif", four_cells())
    spec = evaluation(found, "four.tif", job=job.id)
    spec = spec.with_result(json.loads(result.read_bytes()), digest(result))
    folder = succeeded(service, submitted(service, tiny, spec))
    assert {path.name for path in folder.iterdir()} == EVALUATED | {"manifest.json"}
    figures = json.loads((folder / "tiny.json").read_bytes())
    assert figures["sequences"] == {"held-out": 4, "generated": 4, "training": 3, "baseline": 4}
    assert figures["moments"] == 3
    # The uploaded ellipsoids are known: the median volume of their frames, within what their voxels show.
    radii = 10.0 * (0.35 + 0.05 * np.array([[k, 3 - k, k % 2] for k in range(4)]))
    volumes = [4.0 / 3.0 * np.pi * row.prod() * (1.0 + 0.08 * t) ** 3 for row in radii for t in range(3)]
    assert figures["descriptors"]["volume"]["generated"]["median_of_other"] == pytest.approx(
        np.median(volumes), rel=0.05
    )
    page = (folder / "report.html").read_text()
    assert f"Cells of job {job.id} of" in page
    assert "cells of four.tif" in page
    manifest = json.loads((folder / "manifest.json").read_bytes())
    assert (manifest["cells"], manifest["spec"]["job"]) == ([], job.id)
    service.artifacts.remove(job.id)
    code, message = failure(service, submitted(service, tiny, spec.model_copy(update={"draws": 101})))
    assert (code, "files of the job were removed" in message) == ("invalid_spec", True)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_uploads_that_cannot_be_compared_fail_with_a_sentence_that_says_what_to_do(
    service: Service, worker: subprocess.Popen[bytes], tiny: Checkpoint, tmp_path: Path
) -> None:
    volume = four_cells()
    few = uploaded(service, tmp_path, "few.tif", np.where(volume > 3, 0, volume))
    code, message = failure(service, submitted(service, tiny, evaluation(few, "few.tif")))
    assert (code, message) == (
        "bad_dataset",
        "the uploads show 3 usable cells, a comparison needs at least 4: upload more tracked cells",
    )
    blank = volume.copy()
    blank[1] = 0
    empty = uploaded(service, tmp_path, "empty.tif", blank)
    code, message = failure(service, submitted(service, tiny, evaluation(empty, "empty.tif")))
    assert code == "bad_upload"
    assert "frame 1 holds no label" in message
    whole = uploaded(service, tmp_path, "whole.tif", volume)
    code, message = failure(service, submitted(service, tiny, evaluation(whole, "whole.tif", voxel=[9.0, 9.0, 9.0])))
    assert (code, "give the right voxel size" in message) == ("bad_dataset", True)
    Uploads(service.data_dir).remove(OWNER, "whole.tif")
    assert failure(service, submitted(service, tiny, evaluation(whole, "whole.tif")))[0] == "upload_not_found"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_killed_worker_costs_an_evaluation_one_shard_and_not_a_byte(
    service: Service, worker: subprocess.Popen[bytes], tiny: Checkpoint, tmp_path: Path
) -> None:
    volume = four_cells()
    found = uploaded(service, tmp_path, "shards.tif", volume)
    spec = evaluation(found, "shards.tif", seed=9)
    assert spec.shards() == 2
    service.stop_worker(worker)  # the jobs of this test are taken by a worker with a short lease
    mortal = service.start_worker(CYTOSYNTH_PRELOAD="1", CYTOSYNTH_LEASE_SECONDS="10")
    job = submitted(service, tiny, spec)
    eventually(lambda: (shards := service.jobs.get(job.id).shards) is not None and shards.done == 1, within_s=600)
    eventually(lambda: (shards := service.jobs.get(job.id).shards) is not None and shards.running == 1, within_s=60)
    first = service.artifacts.shard(job.id, 0)
    assert first is not None
    made = (first / "part" / "measured.npz").stat()
    service.stop_worker(mortal, how=signal.SIGKILL)
    service.start_worker(CYTOSYNTH_PRELOAD="1", CYTOSYNTH_LEASE_SECONDS="60")
    folder = succeeded(service, job, within_s=900)
    done = service.jobs.get(job.id)
    assert (done.lost, done.attempts) == (1, 1)
    kept = service.artifacts.shard(job.id, 0)  # it was not measured again
    assert kept is not None
    assert (kept / "part" / "measured.npz").stat().st_mtime_ns == made.st_mtime_ns
    assert {path.name for path in folder.iterdir()} == EVALUATED | {"manifest.json"}

    (tmp_path / "given").mkdir()
    shutil.copyfile(tmp_path / "shards.tif", tmp_path / "given" / "shards.tif")
    (tmp_path / "alone").mkdir()
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # as the worker computes
    try:
        evaluate_request(spec, service.data_dir / "models" / "tiny", tmp_path / "alone", uploads=tmp_path / "given")
    finally:
        torch.set_num_threads(before)
    for path in (tmp_path / "alone").iterdir():
        assert (folder / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.slow
def test_a_canceled_evaluation_stops_between_cells(
    service: Service, worker: subprocess.Popen[bytes], tiny: Checkpoint, tmp_path: Path
) -> None:
    found = uploaded(service, tmp_path, "cancel.tif", four_cells())
    job = submitted(service, tiny, evaluation(found, "cancel.tif", count=200))
    eventually(lambda: service.jobs.get(job.id).progress.stage == "measuring", within_s=60)
    service.jobs.cancel(job.id, owner=OWNER)
    assert service.ended(job, within_s=30).status is JobStatus.CANCELED
