"""Evaluations over HTTP: what is checked before anything is queued."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hostile.corpus_files import box_stl, labels_tiff

PATH = "/v1/evaluations"
SMALL = {"model": "round", "uploads": ["seen.tif"], "count": 4}


@pytest.fixture(scope="module", autouse=True)
def uploads(house: Any) -> None:
    for name, content in (("seen.tif", labels_tiff(frames=4)), ("seen.stl", box_stl())):
        assert house.client.put(f"/v1/uploads/{name}", content=content).status_code in (200, 201)


def manifest_of(cells: int, *, frames: int = 4) -> bytes:
    rows = [
        {"index": number, "latent": [0.0] * 4, "rotation": [1.0, 0.0, 0.0, 0.0], "frames": [{"time": 0.0}] * frames}
        for number in range(cells)
    ]
    return json.dumps({"format": "cytosynth-manifest/1", "files": [], "cells": rows}).encode()


def finished(house: Any, cells: int, *, frames: int = 4, seed: int = 0) -> str:
    """Carry out a generation whose manifest lists so many cells."""
    job = house.submit(seed=90_000 + 100 * cells + frames + seed)["id"]
    lease = house.claim(job)
    staged = house.artifacts.staging(job, lease.token)
    (staged / "manifest.json").write_bytes(manifest_of(cells, frames=frames))
    house.artifacts.publish(job, staged)
    house.jobs.leases.finish(lease)
    return str(job)


def test_an_accepted_spec_holds_the_checksums_of_what_it_names(house: Any) -> None:
    body = SMALL | {"job": finished(house, 5)}
    answer = house.post(body, path=PATH, **{"Idempotency-Key": "evaluation"})
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert (job["kind"], job["shards"]["total"]) == ("evaluation", 2)
    assert job["spec"]["upload_sha256"] == [house.get("/v1/uploads/seen.tif").json()["sha256"]]
    assert len(job["spec"]["job_sha256"]) == 64
    assert house.post(body | {"seed": 0}, path=PATH, **{"Idempotency-Key": "evaluation"}).json()["id"] == job["id"]
    house.carry_out(job["id"])
    again = house.post(job["spec"], path=PATH)  # the recorded spec is a request for the same result
    assert (again.status_code, again.json()["id"]) == (200, job["id"])


@pytest.mark.parametrize(
    ("change", "pointer", "words"),
    [
        ({"uploads": []}, "/uploads", "no reference cells of its own: name uploads"),
        ({"uploads": ["mine.safetensors"]}, "/uploads/0", ""),
        (
            {"uploads": ["seen.tif", "seen.stl"]},
            "/uploads",
            "all label volumes, all surfaces, all distances or all archives",
        ),
        ({"uploads": ["seen.tif", "seen.tif"]}, "/uploads", "repeat"),
        ({"upload_sha256": ["0" * 64]}, "/upload_sha256", "not those of this spec"),
        ({"uploads": [], "voxel": [1.0, 1.0, 1.0]}, "", "belong to uploads"),
        ({"interval": 0.0}, "/interval", "greater"),
        ({"count": 3}, "/count", "at least 4"),
        ({"draws": 10}, "/draws", "at least 100"),
        ({"job": "x"}, "/job", ""),
        ({"grid": 64}, "/grid", ""),
    ],
)
def test_what_cannot_be_carried_out_is_refused_at_once(
    house: Any, change: dict[str, Any], pointer: str, words: str
) -> None:
    for path in (PATH, "/v1/estimates/evaluations"):
        answer = house.post(SMALL | change, path=path)
        assert answer.status_code == 422, answer.text
        assert pointer in answer.text
        assert words in answer.text


def test_a_job_must_have_enough_cells_of_enough_frames(house: Any) -> None:
    for cells, frames, words in ((3, 4, "made 3 cells; a comparison needs at least 4"), (4, 2, "fewer than 3 frames")):
        answer = house.post(SMALL | {"job": finished(house, cells, frames=frames)}, path=PATH)
        assert (answer.status_code, words in answer.text) == (422, True), answer.text
    missing = house.post(SMALL | {"job": "0" * 32}, path=PATH)
    assert (missing.status_code, missing.json()["code"]) == (404, "job_not_found")
    queued = house.post(SMALL | {"job": house.submit(seed=90_001)["id"]}, path=PATH)
    assert (queued.status_code, "no files" in queued.text) == (422, True)


def test_a_report_has_no_cell_to_vary_or_to_evaluate(house: Any) -> None:
    report = finished(house, 0)
    varied = house.post({"model": "round", "source": {"kind": "job", "job": report}}, path="/v1/augmentations")
    assert (varied.status_code, "made no cells" in varied.text) == (422, True)
    evaluated = house.post(SMALL | {"job": report}, path=PATH)
    assert (evaluated.status_code, "made 0 cells" in evaluated.text) == (422, True)


def test_an_upload_that_is_not_there_is_not_found(house: Any) -> None:
    answer = house.post(SMALL | {"uploads": ["nothing.tif"]}, path=PATH)
    assert (answer.status_code, answer.json()["code"]) == (404, "upload_not_found")


def test_an_estimate_grows_with_the_cells(house: Any) -> None:
    few, many = (house.post(SMALL | {"count": n}, path="/v1/estimates/evaluations").json() for n in (4, 8))
    assert few["kind"] == "evaluation"
    assert few["cost"]["frames"] == 3 * 4 * 8
    assert 0 < few["seconds"]["expected"] < many["seconds"]["expected"]
