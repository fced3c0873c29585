"""Named examples for the documentation: one a use, each runs as it stands on a fresh install within seconds."""

from __future__ import annotations

from typing import Any

from fastapi.openapi.models import Example


def _example(summary: str, description: str, value: dict[str, Any]) -> Example:
    return Example(summary=summary, description=description, value=value)


GENERATIONS: dict[str, Example] = {
    "new-cell": _example(
        "A new C. elegans cell that divides",
        "Six frames from one cell to two, as surfaces. The code is drawn: this cell never lived.",
        {"model": "celegans", "seed": 7, "frames": 6, "grid": 48, "formats": ["stl"]},
    ),
    "protrusions": _example(
        "An A549 cell that grows filopodia",
        "Label volumes for ImageJ, napari or Fiji beside the surfaces.",
        {"model": "a549", "seed": 3, "frames": 4, "grid": 64, "formats": ["stl", "tiff"]},
    ),
    "label-volumes": _example(
        "Label volumes only, on a grid that is not cubic",
        "Training images for segmentation and tracking often have fewer planes than rows.",
        {"model": "celegans", "seed": 11, "frames": 4, "grid": [64, 64, 48], "formats": ["tiff"]},
    ),
    "several-cells": _example(
        "Three cells in random orientations",
        "Codes are seeded from seed and index, so that each cell can be made again alone.",
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
        "The first learned sequence, as the network remembers it.",
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
        "A learned code with noise, in units of the spread of all learned codes.",
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
        "The code lies between those of the first two training sequences.",
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
        "Time is continuous: ask for any moments of τ = [-1, 1] instead of frames.",
        {"model": "celegans", "seed": 7, "times": [-0.2, -0.1, 0.0, 0.1, 0.2], "grid": 48, "formats": ["stl"]},
    ),
}

FINISHED_JOB: dict[str, Any] = {
    "id": "0197f3a2b4c55d0e8f6a7b1c2d3e4f50",
    "kind": "generation",
    "state": "succeeded",
    "progress": {"fraction": 1.0, "stage": "frames", "frame": 6, "frames": 6, "eta_s": 0.0},
    "queue_position": None,
    "attempts": 1,
    "lost": 0,
    "lease": None,
    "created_at": "2026-03-02T11:59:50Z",
    "started_at": "2026-03-02T11:59:51Z",
    "finished_at": "2026-03-02T12:00:00Z",
    "expires_at": "2026-03-09T12:00:00Z",
    "pinned": False,
    "spec": {
        "model": "celegans", "seed": 7, "count": 1, "frames": 6, "times": None, "grid": 48,
        "latent": {"kind": "sampled", "temperature": 1.0}, "rotation": "none", "formats": ["stl"],
        "fragments": "remove", "exact": "adaptive",
    },
    "model": {"id": "celegans", "sha256": "4b" * 32},
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
    "progress": {"fraction": 0.0, "stage": "", "frame": 0, "frames": 0, "eta_s": None},
    "queue_position": 1,
    "attempts": 0,
    "started_at": None,
    "finished_at": None,
    "expires_at": None,
}
RUNNING_JOB: dict[str, Any] = {
    **QUEUED_JOB,
    "state": "running",
    "progress": {"fraction": 0.5, "stage": "frames", "frame": 3, "frames": 6, "eta_s": 1.5},
    "queue_position": None,
    "attempts": 1,
    "lease": {"worker": "node-7:4121", "since": "2026-03-02T11:59:51Z"},
    "started_at": "2026-03-02T11:59:51Z",
}
# Of an operation and a status whose answer is a job.
JOBS: dict[tuple[str, str], dict[str, Any]] = {
    ("createGeneration", "200"): FINISHED_JOB,
    ("createGeneration", "202"): QUEUED_JOB,
    ("getJob", "200"): RUNNING_JOB,
    ("cancelJob", "200"): {
        **QUEUED_JOB,
        "state": "canceled",
        "queue_position": None,
        "finished_at": "2026-03-02T12:00:00Z",
    },
    ("pinJob", "200"): {**FINISHED_JOB, "pinned": True, "expires_at": None},
    ("unpinJob", "200"): FINISHED_JOB,
}
