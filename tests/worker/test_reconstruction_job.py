"""A reconstruction as a worker carries it out: a trained model, an upload, the bytes of the command line."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from tiny_model import write_masks
from typer.testing import CliRunner
from workbench import Service, eventually

from model.__main__ import cli
from model.fitting.reconstruction import reconstruct
from model.network.checkpoint import Checkpoint, load_checkpoint
from model.output.verify import verify_result
from model.reconstruction_spec import ALL_CELLS_SHARDS, ReconstructionSpec
from worker.jobs import Job, JobStatus
from worker.uploads.sandbox import kind_of
from worker.uploads.store import Uploads, frames_of

OWNER = "ada"
STEP = 20.0 / 23.0  # µm between samples of the masks, whose Ω is 20 µm wide


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four frames of a breathing ellipsoid, with the size of its voxels."""
    folder = tmp_path_factory.mktemp("recording")
    masks = tifffile.imread(write_masks(folder) / "cell_1.tif")
    path = folder / "cells.tif"
    tifffile.imwrite(
        path, (masks > 0).astype(np.uint8), imagej=True, resolution=(1.0 / STEP, 1.0 / STEP),
        metadata={"axes": "TZYX", "spacing": STEP, "unit": "um"},
    )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def tiny(service: Service, tiny_models: Path) -> Checkpoint:
    shutil.copytree(tiny_models / "tiny", service.data_dir / "models" / "tiny")
    return load_checkpoint(service.data_dir / "models" / "tiny")


@pytest.fixture(scope="module")
def worker(service: Service, tiny: Checkpoint) -> subprocess.Popen[bytes]:
    return service.start_worker(CYTOSYNTH_PRELOAD="1", CYTOSYNTH_LEASE_SECONDS="60")


def uploaded(service: Service, path: Path, name: str) -> tuple[str, int | None]:
    uploads = Uploads(service.data_dir)
    with uploads.arriving(OWNER) as arrived:
        arrived.write(path.read_bytes())
        arrived.close()
        kind = kind_of(name)
        upload, _ = uploads.keep(OWNER, arrived, name=name, kind=kind, facts=arrived.inspect(kind))
    return upload.sha256, frames_of(upload)


def submitted(
    service: Service, tiny: Checkpoint, found: tuple[str, int | None], *, shards: int = 1, **members: Any
) -> Job:
    document = {"model": "tiny", "uploads": ["cells.tif"], "grid": 32, "frames": 7, "formats": ["stl", "tiff"]}
    spec = ReconstructionSpec.model_validate(document | members).with_uploads([found]).completed()
    job, created = service.jobs.submit(
        kind="reconstruction", spec=spec.model_dump(mode="json"), model_id="tiny", model_sha256=tiny.card.sha256,
        digest=spec.digest(model_sha256=tiny.card.sha256), owner=OWNER, shards=shards,
    )  # fmt: skip
    assert created
    return job


def test_a_reconstruction_has_the_bytes_of_the_command_line(
    service: Service, worker: subprocess.Popen[bytes], tiny: Checkpoint, recording: Path, tmp_path: Path
) -> None:
    found = uploaded(service, recording, "cells.tif")
    job = submitted(service, tiny, found)
    done = service.ended(job, within_s=180)
    assert done.status is JobStatus.SUCCEEDED, done.error
    here = service.artifacts.path(job.id, "manifest.json").parent
    assert list(verify_result(here)) == []

    before = torch.get_num_threads()
    torch.set_num_threads(1)  # as the worker computes
    try:
        ran = CliRunner().invoke(
            cli,
            ["fit", str(recording), "--model", "tiny", "--models", str(service.data_dir / "models"),
             "--out", str(tmp_path / "fitted"), "--frames", "7", "--grid", "32"],
        )  # fmt: skip
    finally:
        torch.set_num_threads(before)
    assert ran.exit_code == 0, ran.output
    there = tmp_path / "fitted"
    cells = sorted(path.relative_to(there / "cells") for path in (there / "cells" / "cell_0000").iterdir())
    assert len(cells) == 8
    pairs = {here / cell: there / "cells" / cell for cell in cells}
    pairs |= {here / "fit.json": there / "fit.json"}
    pairs |= {
        here / "fitted" / name: there / "models" / "fitted" / name for name in ("card.json", "weights.safetensors")
    }
    for ours, theirs in pairs.items():
        assert ours.read_bytes() == theirs.read_bytes(), ours
    manifest = service.artifacts.manifest(job.id)
    assert manifest["model"] == {"id": "tiny", "sha256": tiny.card.sha256}
    assert manifest["spec"] == done.spec
    assert {"fit.json", "fitted/card.json", "fitted/weights.safetensors"} <= {
        file["name"] for file in manifest["files"]
    }
    fit = json.loads((here / "fit.json").read_bytes())
    assert fit["adapted"]["score"]["dice"] > 0.95
    assert len(fit["adapted"]["score"]["frames"]) == 4


def test_a_held_out_frame_is_scored_and_the_code_alone_suffices(
    service: Service, worker: subprocess.Popen[bytes], tiny: Checkpoint, recording: Path
) -> None:
    found = uploaded(service, recording, "cells.tif")
    job = submitted(
        service, tiny, found, method="code", validate=True, times=[-1.0, 0.25, 1.0], frames=None, formats=["stl"]
    )
    done = service.ended(job, within_s=120)
    assert done.status is JobStatus.SUCCEEDED, done.error
    assert done.spec["validate"] is True
    fit = json.loads(service.artifacts.path(job.id, "fit.json").read_bytes())
    assert "adapted" not in fit
    assert (fit["held_out"]["frame"], fit["held_out"]["time"]) == (2, pytest.approx(1 / 3))
    assert fit["held_out"]["dice"] > 0.8
    manifest = service.artifacts.manifest(job.id)
    assert [round(frame["time"], 6) for frame in manifest["cells"][0]["frames"]] == [-1.0, 0.25, 1.0]
    assert manifest["cells"][0]["latent"] == pytest.approx(fit["latent"]["values"])


def failure(service: Service, job: Job) -> tuple[str, str]:
    done = service.ended(job, within_s=60)
    assert done.error is not None
    return done.error.code, done.error.message


def test_unusable_uploads_fail_with_a_sentence_that_says_what_to_do(
    service: Service, worker: subprocess.Popen[bytes], tiny: Checkpoint, recording: Path, tmp_path: Path
) -> None:
    found = uploaded(service, recording, "cells.tif")
    code, message = failure(service, submitted(service, tiny, found, voxel=[5.0, 5.0, 5.0]))
    assert code == "bad_dataset"
    assert "does not fit into the domain of model tiny" in message
    assert "voxel size" in message
    masks = tifffile.imread(recording)

    def changed(name: str, volume: Any) -> Job:
        path = tmp_path / "cells.tif"
        tifffile.imwrite(
            path, volume, imagej=True, resolution=(1.0 / STEP, 1.0 / STEP),
            metadata={"axes": "TZYX", "spacing": STEP, "unit": "um"},
        )  # fmt: skip
        with zipfile.ZipFile(tmp_path / name, "w") as archive:  # in which frames may be empty
            archive.write(path, path.name)
        return submitted(service, tiny, uploaded(service, tmp_path / name, name), uploads=[name])

    empty = masks.copy()
    empty[2] = 0
    code, message = failure(service, changed("empty.zip", empty))
    assert (code, "frame 2 does not show the cell" in message) == ("bad_dataset", True)
    two = masks.copy()
    two[:, :12][two[:, :12] > 0] = 2
    code, message = failure(service, changed("two.zip", two))
    assert (code, "shows the cells [1, 2]" in message, "labels" in message) == ("bad_dataset", True, True)


@pytest.mark.slow
def test_all_tracked_cells_are_fitted_and_written_back_together(
    service: Service, worker: subprocess.Popen[bytes], tiny: Checkpoint, recording: Path, tmp_path: Path
) -> None:
    one = tifffile.imread(recording)
    both = np.concatenate([one, np.where(one > 0, 2, 0).astype(one.dtype)], axis=3)
    path = tmp_path / "both.tif"
    tifffile.imwrite(
        path, both, imagej=True, resolution=(1.0 / STEP, 1.0 / STEP),
        metadata={"axes": "TZYX", "spacing": STEP, "unit": "um"},
    )  # fmt: skip
    found = uploaded(service, path, "both.tif")
    job = submitted(
        service, tiny, found, uploads=["both.tif"], cells="all", refine=2, frames=7, grid=24, formats=["stl"]
    )
    done = service.ended(job, within_s=300)
    assert done.status is JobStatus.SUCCEEDED, done.error
    here = service.artifacts.path(job.id, "manifest.json").parent
    assert list(verify_result(here)) == []
    assert [cell["index"] for cell in service.artifacts.manifest(job.id)["cells"]] == [0, 1]
    fit = json.loads((here / "fit.json").read_bytes())
    assert [cell["labels"] for cell in fit["cells"]] == [[1], [2]]
    assert {path.parent.name for path in (here / "fitted").glob("*/weights.safetensors")} == {"cell_0000", "cell_0001"}
    written = tifffile.imread(here / "recording" / "labels.tif")[::2, ::2, ::2, ::2]
    for label in (1, 2):
        mine, theirs = written == label, both == label
        assert 2.0 * (mine & theirs).sum() / (mine.sum() + theirs.sum()) > 0.9
    assert (here / "recording" / "man_track.txt").read_text() == "1 0 6 0\n2 0 6 0\n"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_killed_worker_costs_all_cells_one_shard_and_not_a_byte(
    service: Service, worker: subprocess.Popen[bytes], tiny: Checkpoint, recording: Path, tmp_path: Path
) -> None:
    one = tifffile.imread(recording)
    path = tmp_path / "pair.tif"
    tifffile.imwrite(
        path, np.concatenate([one, 2 * one], axis=3), imagej=True, resolution=(1.0 / STEP, 1.0 / STEP),
        metadata={"axes": "TZYX", "spacing": STEP, "unit": "um", "finterval": 120.0},
    )  # fmt: skip
    found = uploaded(service, path, "pair.tif")
    service.stop_worker(worker)
    mortal = service.start_worker(CYTOSYNTH_PRELOAD="1", CYTOSYNTH_LEASE_SECONDS="10")
    members = {"uploads": ["pair.tif"], "cells": "all", "frames": 3, "grid": 16, "formats": ["stl"], "seed": 4}
    job = submitted(service, tiny, found, shards=ALL_CELLS_SHARDS, **members)

    def fits_the_second_cell() -> bool:
        now = service.jobs.get(job.id)
        return (
            service.artifacts.shard(job.id, 5) is not None
            and now.shards is not None
            and (now.shards.done, now.shards.running) == (11, 1)
        )

    eventually(fits_the_second_cell, within_s=900)
    first = service.artifacts.shard(job.id, 5)  # has the first cell; other shards have none
    assert first is not None
    made = (first / "part" / "fits.json").stat()
    service.stop_worker(mortal, how=signal.SIGKILL)
    service.start_worker(CYTOSYNTH_PRELOAD="1", CYTOSYNTH_LEASE_SECONDS="60")
    done = service.ended(job, within_s=900)
    assert done.status is JobStatus.SUCCEEDED, done.error
    assert (done.lost, done.attempts) == (1, 1)
    assert (first / "part" / "fits.json").stat().st_mtime_ns == made.st_mtime_ns
    here = service.artifacts.path(job.id, "manifest.json").parent
    assert list(verify_result(here)) == []

    alone = tmp_path / "alone"
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # as the worker computes
    try:
        reconstruct(ReconstructionSpec.model_validate_json(json.dumps(job.spec)), tiny, [path], alone)
    finally:
        torch.set_num_threads(before)
    names = {path.relative_to(alone) for path in alone.rglob("*") if path.is_file()}
    assert names == {path.relative_to(here) for path in here.rglob("*") if path.is_file()}
    assert len([name for name in names if name.name == "weights.safetensors"]) == 2
    for name in names:
        assert (here / name).read_bytes() == (alone / name).read_bytes(), name


def test_a_removed_or_replaced_upload_fails_the_job(
    service: Service, worker: subprocess.Popen[bytes], tiny: Checkpoint, recording: Path
) -> None:
    found = uploaded(service, recording, "gone.tif")
    Uploads(service.data_dir).remove(OWNER, "gone.tif")
    assert failure(service, submitted(service, tiny, found, uploads=["gone.tif"]))[0] == "upload_not_found"
    uploaded(service, recording, "other.tif")
    code, message = failure(service, submitted(service, tiny, ("0" * 64, 4), uploads=["other.tif"]))
    assert (code, "replaced" in message) == ("invalid_spec", True)


def test_a_canceled_reconstruction_stops_within_the_fit(
    service: Service, worker: subprocess.Popen[bytes], tiny: Checkpoint, recording: Path
) -> None:
    found = uploaded(service, recording, "cells.tif")
    job = submitted(service, tiny, found, orientations=16, grid=96, frames=300, seed=5)
    eventually(lambda: service.jobs.get(job.id).progress.stage == "fitting", within_s=60)
    service.jobs.cancel(job.id, owner=OWNER)
    assert service.ended(job, within_s=30).status is JobStatus.CANCELED
