"""A reconstruction over HTTP: what is checked before anything is queued."""

from __future__ import annotations

from typing import Any

import pytest
from hostile.corpus_files import box_stl, labels_tiff

PATH = "/v1/reconstructions"


@pytest.fixture(scope="module", autouse=True)
def uploads(house: Any) -> None:
    for name, content in (("four.tif", labels_tiff(frames=4)), ("box.stl", box_stl())):
        assert house.client.put(f"/v1/uploads/{name}", content=content).status_code in (200, 201)


def test_an_accepted_spec_holds_the_checksums_of_its_uploads(house: Any) -> None:
    body = {"model": "round", "uploads": ["four.tif"], "frames": 3, "grid": 16, "validate": True}
    answer = house.post(body, path=PATH, **{"Idempotency-Key": "recon"})
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert job["kind"] == "reconstruction"
    sha256 = house.get("/v1/uploads/four.tif").json()["sha256"]
    assert job["spec"]["upload_sha256"] == [sha256]
    assert (job["spec"]["validate"], job["spec"]["frames"], job["spec"]["seed"]) == (True, 3, 0)
    assert house.post({**body, "seed": 0}, path=PATH, **{"Idempotency-Key": "recon"}).json()["id"] == job["id"]
    other = house.post({**body, "grid": 24}, path=PATH, **{"Idempotency-Key": "recon"})
    assert other.json()["code"] == "idempotency_mismatch"
    house.carry_out(job["id"])
    again = house.post(job["spec"], path=PATH)  # the recorded spec is a request for the same result
    assert (again.status_code, again.json()["id"]) == (200, job["id"])


@pytest.mark.parametrize(
    ("change", "pointer", "words"),
    [
        ({"given_times": [-1.0, 1.0]}, "/given_times", "the uploads hold 4 frames"),
        ({"given_times": [1.0, -1.0]}, "/given_times", "increase"),
        ({"times": [0.0, 2.0]}, "/times", "temporal domain"),
        ({"uploads": ["box.stl"], "validate": True}, "/validate", "at least 3 frames"),
        ({"uploads": ["four.tif", "four.tif"]}, "/uploads", "repeat"),
        ({"uploads": ["mine.safetensors"]}, "/uploads/0", ""),
        ({"upload_sha256": ["0" * 64]}, "/upload_sha256", "not those of this spec"),
        ({"voxel": [1.0, 0.0, 1.0]}, "/voxel/1", "greater"),
        ({"grid": 512}, "/grid", "at most 256"),
        ({"method": "magic"}, "/method", "adapted"),
        ({"cells": "all", "labels": [1]}, "", "leave labels, times, place and validate out"),
        ({"refine": 9}, "/refine", "at most 8"),
        ({"model": "none"}, "", ""),
        ({"held_out": True}, "/held_out", ""),
    ],
)
def test_what_cannot_be_carried_out_is_refused_at_once(
    house: Any, change: dict[str, Any], pointer: str, words: str
) -> None:
    for path in (PATH, "/v1/estimates/reconstructions"):
        answer = house.post({"model": "round", "uploads": ["four.tif"], "grid": 16} | change, path=path)
        assert answer.status_code == 422, answer.text
        assert pointer in answer.text
        assert words in answer.text


def test_an_upload_that_is_not_there_is_not_found(house: Any) -> None:
    answer = house.post({"model": "round", "uploads": ["nothing.tif"]}, path=PATH)
    assert (answer.status_code, answer.json()["code"]) == (404, "upload_not_found")


def test_the_operators_limits_hold(house: Any) -> None:
    answer = house.post({"model": "round", "uploads": ["four.tif"], "grid": 256, "frames": 30}, path=PATH)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


def test_an_estimate_counts_the_fits(house: Any) -> None:
    def estimate(**members: Any) -> dict[str, Any]:
        body = {"model": "round", "uploads": ["four.tif"], "grid": 32, "frames": 4, **members}
        answer = house.post(body, path="/v1/estimates/reconstructions")
        assert answer.status_code == 200, answer.text
        document: dict[str, Any] = answer.json()
        return document

    code, adapted = estimate(method="code"), estimate()
    assert code["kind"] == "reconstruction"
    assert code["cost"]["points"] == 4 * 32**3
    assert 0 < code["seconds"]["expected"] < adapted["seconds"]["expected"]
    assert adapted["seconds"]["expected"] < estimate(validate=True)["seconds"]["expected"]
