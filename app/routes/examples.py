"""Examples for the API documentation. Each request runs unchanged on a new installation, within seconds.

But fits, evaluations and trainings: these take a minute, or as long as their description says.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from fastapi.openapi.models import Example

from app.problems.types import TABLE, TOO_FAST
from app.services.example_upload import EXAMPLE_UPLOAD
from model import __version__
from model.errors import TooLargeError
from worker.kinds.table import KINDS


def _example(summary: str, description: str, value: dict[str, Any]) -> Example:
    return Example(summary=summary, description=description, value=value)


NAMED = f"{EXAMPLE_UPLOAD} comes with the service; PUT /v1/uploads/{{name}} uploads your own TIFF of label volumes."

AUGMENTATIONS: dict[str, Example] = {
    "of-a-learned-cell": _example(
        "Four variations of a learned cell",
        "Noise in the code, rotation, mirror image, size and speed, with the strength of each in augmentation.json.",
        {"model": "celegans", "source": {"kind": "learned", "index": 0}, "seed": 4, "count": 4, "frames": 3, "grid": 48,
         "formats": ["stl"]},
    ),
    "turned-only": _example(
        "The same cell in other orientations",
        "Nothing but the rotation is drawn.",
        {"model": "a549", "source": {"kind": "learned", "index": 1}, "seed": 4, "count": 3, "noise": 0.0,
         "mirror": False, "size": [1.0, 1.0], "speed": [1.0, 1.0], "frames": 2, "grid": 48, "formats": ["stl"]},
    ),
    "of-your-cell": _example(
        "Variations of a cell that you upload",
        f"{NAMED} The cell is fitted first, then varied.",
        {"model": "celegans",
         "source": {"kind": "uploads", "uploads": [EXAMPLE_UPLOAD], "labels": [3], "method": "code"},
         "seed": 4, "count": 2, "frames": 2, "grid": 48, "formats": ["stl"]},
    ),
}  # fmt: skip

EVALUATIONS: dict[str, Example] = {
    "model": _example(
        "New cells of a model against its reference cells",
        "Four cells in each set, for a first look: the intervals in the report are wide.",
        {"model": "celegans", "count": 4, "draws": 200},
    ),
    "against-your-cells": _example(
        "New cells of a model against cells that you upload",
        f"{NAMED} At least four tracked cells are needed.",
        {"model": "celegans", "uploads": [EXAMPLE_UPLOAD], "count": 4, "draws": 200},
    ),
}

RECONSTRUCTIONS: dict[str, Example] = {
    "finer": _example(
        "A coarse recording, at four times the grid and more frames",
        f"{NAMED} It shows four cells, so labels names one. Fitting takes about a minute.",
        {"model": "celegans", "uploads": [EXAMPLE_UPLOAD], "labels": [1], "frames": 29, "grid": 128,
         "formats": ["tiff", "stl"]},
    ),
    "quick": _example(
        "The code alone, evaluated on a frame that was not used",
        "The network is not adapted: faster, and less like the given cell.",
        {"model": "celegans", "uploads": [EXAMPLE_UPLOAD], "labels": [2], "method": "code", "validate": True,
         "frames": 8, "grid": 48, "formats": ["stl"]},
    ),
}  # fmt: skip

TRAININGS: dict[str, Example] = {
    "defaults": _example(
        "The default recipe",
        f"{NAMED} The default 24,000 steps take some 20 to 40 minutes on one core; POST /v1/jobs/{{id}}/cancel keeps "
        "the best model so far.",
        {"name": "my-cells", "uploads": [EXAMPLE_UPLOAD], "keep_on_cancel": True},
    ),
    "quick": _example(
        "A quick look, within some minutes",
        "A small network and few steps: enough to see whether the files are read as they should be. voxel and interval "
        "go before what the file says.",
        {"name": "a-look", "uploads": [EXAMPLE_UPLOAD], "voxel": [0.87, 0.87, 0.87], "interval": 4.3, "points": 4096,
         "latent_size": 8, "width": 64, "depth": 4, "steps": 2000, "minutes": 5.0, "seed": 1},
    ),
}  # fmt: skip

GENERATIONS: dict[str, Example] = {
    "new-cell": _example(
        "A new C. elegans cell that divides",
        "Six frames, from one cell to two, as surfaces. The latent code is drawn: this cell is new.",
        {"model": "celegans", "seed": 7, "frames": 6, "grid": 48, "formats": ["stl"]},
    ),
    "protrusions": _example(
        "An A549 cell that grows filopodia",
        "Surfaces, and label volumes for ImageJ, Fiji or napari.",
        {"model": "a549", "seed": 3, "frames": 4, "grid": 64, "formats": ["stl", "tiff"]},
    ),
    "label-volumes": _example(
        "Label volumes only, on a grid that is not cubic",
        "Training images for segmentation and tracking often have fewer planes than rows.",
        {"model": "celegans", "seed": 11, "frames": 4, "grid": [64, 64, 48], "formats": ["tiff"]},
    ),
    "several-cells": _example(
        "Three cells in random orientations",
        "The code of each cell is drawn from the seed and the number of the cell.",
        {
            "model": "celegans",
            "seed": 21,
            "count": 3,
            "frames": 2,
            "grid": 48,
            "rotation": "random",
            "formats": ["stl"],
        },
    ),
    "learned-cell": _example(
        "A cell of the training set",
        "The first training sequence, as the network reproduces it.",
        {
            "model": "a549",
            "seed": 1,
            "frames": 3,
            "grid": 48,
            "latent": {"kind": "learned", "index": 0},
            "formats": ["ply"],
        },
    ),
    "variation": _example(
        "A variation of a learned cell",
        "A learned code with noise; the noise is in units of the spread of the learned codes.",
        {
            "model": "celegans",
            "seed": 5,
            "frames": 4,
            "grid": 48,
            "latent": {"kind": "nearby", "index": 1, "noise": 0.3},
            "formats": ["obj"],
        },
    ),
    "between-two": _example(
        "Halfway between two learned cells",
        "The code is the mean of the codes of the first two training sequences.",
        {
            "model": "celegans",
            "seed": 5,
            "frames": 4,
            "grid": 48,
            "latent": {"kind": "interpolated", "first": 0, "second": 1, "weight": 0.5},
            "formats": ["stl"],
        },
    ),
    "slow-motion": _example(
        "Chosen times, close to the division",
        "Time is continuous: give any times in τ = [-1, 1] instead of a number of frames.",
        {"model": "celegans", "seed": 7, "times": [-0.2, -0.1, 0.0, 0.1, 0.2], "grid": 48, "formats": ["stl"]},
    ),
}

BATCHES: dict[str, Example] = {
    "three-grids": _example(
        "One cell at three resolutions",
        "Each request is one of the others of this interface, with its kind.",
        {
            "jobs": [
                {"kind": "generation", "spec": {"model": "celegans", "seed": 7, "frames": 2, "grid": grid,
                                                "formats": ["stl"]}}
                for grid in (32, 40, 48)
            ],
            "labels": {"project": "resolutions"},
        },
    ),
}  # fmt: skip

FINISHED_JOB: dict[str, Any] = {
    "id": "0197f3a2b4c55d0e8f6a7b1c2d3e4f50",
    "kind": "generation",
    "state": "succeeded",
    "progress": {"fraction": 1.0, "stage": "frames", "frame": 6, "frames": 6, "eta_s": 0.0, "loss": None, "dice": None},
    "queue_position": None,
    "attempts": 1,
    "lost": 0,
    "lease": None,
    "shards": None,
    "created_at": "2026-03-02T11:59:50Z",
    "started_at": "2026-03-02T11:59:51Z",
    "finished_at": "2026-03-02T12:00:00Z",
    "expires_at": "2026-03-09T12:00:00Z",
    "pinned": False,
    "labels": {"project": "actin"},
    "webhook": None,
    "batch": None,
    "priority": 0,
    "spec": {
        "model": "celegans", "seed": 7, "count": 1, "frames": 6, "times": None, "grid": 48,
        "latent": {"kind": "sampled", "temperature": 1.0}, "rotation": "none", "formats": ["stl"],
        "fragments": "remove", "exact": "adaptive",
    },
    "model": {"id": "celegans", "sha256": "c45d63aafa35141c4d4c708c5ce014d2e12b4e58c0272dd54046512b27a843ad"},
    "links": {
        name: "/v1/jobs/0197f3a2b4c55d0e8f6a7b1c2d3e4f50" + tail
        for name, tail in (
            ("self", ""), ("events", "/events"), ("cancel", "/cancel"), ("pin", "/pin"), ("manifest", "/manifest"),
            ("files", "/files"), ("archive", "/archive"),
        )
    },
    "error": None,
    "warnings": [],
}  # fmt: skip
QUEUED_JOB: dict[str, Any] = {
    **FINISHED_JOB,
    "state": "queued",
    "progress": {"fraction": 0.0, "stage": "", "frame": 0, "frames": 0, "eta_s": None, "loss": None, "dice": None},
    "queue_position": 1,
    "attempts": 0,
    "started_at": None,
    "finished_at": None,
    "expires_at": None,
}
RUNNING_JOB: dict[str, Any] = {
    **QUEUED_JOB,
    "state": "running",
    "progress": {"fraction": 0.5, "stage": "frames", "frame": 3, "frames": 6, "eta_s": 1.5, "loss": None, "dice": None},
    "queue_position": None,
    "attempts": 1,
    "lease": {"worker": "node-7:4121:3f9a1c2b", "since": "2026-03-02T11:59:51Z"},
    "started_at": "2026-03-02T11:59:51Z",
}
CANCELED_JOB: dict[str, Any] = {
    **QUEUED_JOB,
    "state": "canceled",
    "queue_position": None,
    "finished_at": "2026-03-02T12:00:00Z",
}
ENDED_BATCH: dict[str, Any] = {
    "id": "0197f3a2b4c55d0e8f6a7b1c2d3e4f51",
    "state": "ended",
    "jobs": {"queued": 0, "running": 0, "succeeded": 3, "failed": 0, "canceled": 0, "expired": 0},
    "labels": {"project": "resolutions"},
    "webhook": None,
    "created_at": "2026-03-02T11:59:50Z",
    "ended_at": "2026-03-02T12:00:20Z",
    "links": {
        "self": "/v1/batches/0197f3a2b4c55d0e8f6a7b1c2d3e4f51",
        "events": "/v1/batches/0197f3a2b4c55d0e8f6a7b1c2d3e4f51/events",
        "cancel": "/v1/batches/0197f3a2b4c55d0e8f6a7b1c2d3e4f51/cancel",
        "jobs": "/v1/jobs?batch=0197f3a2b4c55d0e8f6a7b1c2d3e4f51",
    },
}
QUEUED_BATCH: dict[str, Any] = {
    **ENDED_BATCH, "state": "active", "jobs": {**ENDED_BATCH["jobs"], "queued": 3, "succeeded": 0}, "ended_at": None,
}  # fmt: skip
CANCELED_BATCH: dict[str, Any] = {**ENDED_BATCH, "jobs": {**ENDED_BATCH["jobs"], "succeeded": 1, "canceled": 2}}
ESTIMATE: dict[str, Any] = {
    "kind": "generation",
    "cost": {"frames": 6, "points": 663552, "painted": 0, "evaluations": 112612, "bytes": 1040895, "seconds": 0.791},
    "seconds": {"expected": 0.93, "low": 0.71, "high": 1.27, "jobs": 12},
    "limits": {"points": 2013265920, "seconds": 300000.0, "bytes": 8589934592, "steps": None, "sequences": None,
               "minutes": None},
    "within_limits": True,
}  # fmt: skip
TRAINING_ESTIMATE: dict[str, Any] = {
    "kind": "training",
    "cost": {"frames": 30, "points": 98304000, "painted": 0, "evaluations": 0, "bytes": 24117248, "seconds": 1163.365},
    "seconds": {"expected": 1163.365, "low": 290.84, "high": 4653.46, "jobs": 0},
    "limits": {"points": 2013265920, "seconds": 300000.0, "bytes": 8589934592, "steps": 200000, "sequences": 1000,
               "minutes": 1440.0},
    "within_limits": True,
}  # fmt: skip


@cache
def answers() -> dict[tuple[str, str], dict[str, Any]]:
    """Return the example of every JSON answer, by operation and status.

    ``answers.json`` holds bodies that a service sent; they are read when the description of the API is built.
    """
    sent = json.loads(Path(__file__).with_name("answers.json").read_bytes())
    installed, own, upload = sent["installed_model"], sent["own_model"], sent["upload"]
    uploads = [upload, sent["upload_of_weights"]]
    kinds = [kind.document() for kind in (TABLE[TooLargeError], TOO_FAST)]
    return {
        ("createGeneration", "200"): FINISHED_JOB,
        ("createGeneration", "202"): QUEUED_JOB,
        ("createEstimate", "200"): ESTIMATE,
        **{(f"create{kind.capitalize()}Estimate", "200"): {**ESTIMATE, "kind": kind} for kind in KINDS},
        ("createTrainingEstimate", "200"): TRAINING_ESTIMATE,
        ("listJobs", "200"): {"jobs": [QUEUED_JOB, FINISHED_JOB], "next": "/v1/jobs?cursor=41&limit=2"},
        ("getJob", "200"): RUNNING_JOB,
        ("cancelJob", "200"): CANCELED_JOB,
        ("deleteJob", "200"): CANCELED_JOB,
        ("pinJob", "200"): {**FINISHED_JOB, "pinned": True, "expires_at": None},
        ("unpinJob", "200"): FINISHED_JOB,
        ("getManifest", "200"): sent["manifest"],
        ("listFiles", "200"): sent["files"],
        ("getWebhookSecret", "200"): {"secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo="},
        ("createBatch", "202"): QUEUED_BATCH,
        ("getBatch", "200"): ENDED_BATCH,
        ("cancelBatch", "200"): CANCELED_BATCH,
        ("deleteBatch", "200"): CANCELED_BATCH,
        ("createLink", "201"): {
            "href": f"/v1/links/{FINISHED_JOB['id']}/files/manifest.json?expires=1772456400"
            "&signature=c2lnbmVkIGJ5IHRoZSBzZXJ2aWNlIGFzIGFuIGV4YW1",
            "file": "manifest.json",
            "expires_at": "2026-03-02T13:00:00Z",
        },
        ("listModels", "200"): {"models": [installed]},
        ("getModel", "200"): installed,
        ("createModel", "200"): own,
        ("createModel", "201"): own,
        ("listUploads", "200"): {
            "uploads": uploads, "used": sum(file["bytes"] for file in uploads), "quota": 8589934592
        },
        ("getUpload", "200"): upload,
        ("putUpload", "200"): upload,
        ("putUpload", "201"): upload,
        ("putUploadFile", "200"): SEQUENCE,
        ("putUploadFile", "201"): SEQUENCE,
        ("appendUpload", "200"): upload,
        ("appendUpload", "201"): upload,
        ("isAlive", "200"): sent["live"],
        ("isReady", "200"): sent["ready"],
        ("getVersion", "200"): {**sent["version"], "version": __version__},
        ("listProblems", "200"): {"problems": kinds},
        ("getProblem", "200"): kinds[0],
    }  # fmt: skip


SEQUENCE: dict[str, Any] = {
    "name": "embryo", "kind": "folder", "bytes": 28514, "created_at": "2026-03-02T11:58:00Z",
    "sha256": "3f1a0b6c2d4e5f60718293a4b5c6d7e8f90123456789abcdef0123456789abcd",
    "expires_at": "2026-03-09T11:59:00Z",
    "facts": {
        "files": 6, "volumes": 6, "frames": 6, "samples": 663552, "surfaces": 0, "triangles": 0, "tracks": 0,
        "largest_label": 2, "voxel": [0.5, 0.5, 0.5],
    },
    "href": "/v1/uploads/embryo",
}  # fmt: skip
METRICS = """\
# HELP cytosynth_jobs Jobs by state.
# TYPE cytosynth_jobs gauge
cytosynth_jobs{state="queued"} 3.0
cytosynth_jobs{state="running"} 1.0
# HELP cytosynth_workers Workers that sent a heartbeat recently.
# TYPE cytosynth_workers gauge
cytosynth_workers 1.0
"""
# By code: a detail as the service sends it. Problems of other codes are sent with the help text of their page.
DETAILS: dict[str, str] = {
    "address_too_long": "the request line may have at most 16384 bytes",
    "bad_dataset": "none of the 1 sequences can be trained on as it is:\ncells: error border: the cell is cut by the "
    "border of the volume (frames 3-5)",
    "bad_request": "this is not an HTTP/1.1 request",
    "bad_upload": "the surface is open: an edge belongs to one triangle only",
    "batch_not_found": "there is no batch '0197f3a2b4c55d0e8f6a7b1c2d3e4f51'",
    "body_too_long": "the body may have at most 262144 bytes",
    "busy": "5 requests are being submitted at the moment, which is the most the service takes",
    "digest_mismatch": "the SHA-256 of the body differs from the one in Content-Digest",
    "disk_full": "1.2 GiB are free and 1.0 GiB are kept free; this takes about 0.50 GiB",
    "head_too_long": "request line and headers may have at most 16384 bytes",
    "invalid_spec": "/frames must be at least 1",
    "job_active": f"job {FINISHED_JOB['id']} has not ended; cancel it before removing it",
    "job_canceled": "the job was canceled and has no files",
    "job_expired": "the files of this job were removed after their retention time; POST spec to compute them again",
    "job_failed": "the job failed: the signed distance never changes sign",
    "job_not_finished": "the job is running; its files exist when it has succeeded",
    "job_not_found": f"there is no job '{FINISHED_JOB['id']}'",
    "malformed_json": "the body is not JSON: line 1, column 11",
    "not_ready": "not in order: worker",
    "over_share": "this key has 1000 jobs queued or running; at most 1000 are allowed",
    "queue_unavailable": "10000 jobs are waiting, which is the most this service queues; try again later",
    "range_not_satisfiable": "the file has 48684 bytes",
    "too_fast": "a key may send 50 requests per second, and 200 in a burst; try again after Retry-After",
    "too_large": "the job writes 2.52e+09 grid samples of label volumes (count x frames x grid samples); at most "
    "2.01e+09 are allowed: lower grid, frames or count, or ask for surfaces only",
    "too_slow": "nothing arrived for 30 seconds",
    "unsupported_media_type": "send the body as Content-Type: application/json, not compressed",
    "upload_exists": "there is another upload called cell.tif; remove it or use another name",
    "upload_not_found": "there is no upload of that name; GET /v1/uploads lists them",
    "upload_offset": "1048576 bytes have arrived, not 2097152; continue there",
    "upload_quota": "uploads and the models made of them may take 8589934592 bytes together; remove some first",
}
# Details that one operation sends instead.
OWN_DETAILS: dict[tuple[str, str], str] = {
    ("getModel", "not_found"): "the model does not exist; GET /v1/models lists the models that you may use",
    ("deleteModel", "not_found"): "the model does not exist; GET /v1/models lists the models that you may use",
    ("getProblem", "not_found"): "there is no problem of this kind; GET /problems lists all kinds",
    ("getArchive", "range_not_satisfiable"): "the archive has 292810 bytes",
    ("createModel", "bad_upload"): "a model is made from a safetensors upload; this one is tiff",
    ("putUpload", "body_too_long"): "the body may have at most 1073741824 bytes",
    ("putUpload", "unsupported_media_type"): "send the file without Content-Encoding",
    ("putUploadFile", "body_too_long"): "the body may have at most 1073741824 bytes",
    ("putUploadFile", "unsupported_media_type"): "send the file without Content-Encoding",
    ("appendUpload", "body_too_long"): "a file may have at most 1073741824 bytes",
    ("appendUpload", "digest_mismatch"): "the SHA-256 of the file differs from the one in Repr-Digest",
    ("appendUpload", "unsupported_media_type"): "send the file without Content-Encoding",
}
# By code: members besides those that all problems have.
MEMBERS: dict[str, dict[str, Any]] = {
    "bad_dataset": {
        "errors": [
            {
                "pointer": "/uploads",
                "detail": "cells: error border: the cell is cut by the border of the volume (frames 3-5)",
            }
        ]
    },
    "invalid_spec": {"errors": [{"pointer": "/frames", "detail": "must be at least 1"}]},
    "job_expired": {"spec": FINISHED_JOB["spec"], "kind": "generation"},
    "not_ready": {
        "checks": {
            "broker": {"ok": True, "detail": "3.2 ms"},
            "storage": {"ok": True, "detail": "72.5 GiB free"},
            "worker": {
                "ok": False, "detail": "no worker has sent a heartbeat recently; jobs are kept until a worker starts"
            },
        }
    },
}  # fmt: skip
