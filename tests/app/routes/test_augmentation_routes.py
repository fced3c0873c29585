"""Augmentations over HTTP: the cell of an earlier job becomes a code, and what cannot be varied is refused."""

from __future__ import annotations

from typing import Any

from hostile.corpus_files import labels_tiff

PATH = "/v1/augmentations"
SMALL = {"model": "round", "frames": 1, "grid": 16}


def test_a_learned_cell_is_accepted_and_its_estimate_grows_with_the_count(house: Any) -> None:
    body = SMALL | {"source": {"kind": "learned", "index": 4}}
    answer = house.post(body, path=PATH)
    assert (answer.status_code, answer.json()["kind"]) == (202, "augmentation")
    assert answer.json()["spec"]["count"] == 8
    estimates = [
        house.post(body | {"count": n}, path="/v1/estimates/augmentations").json()["cost"]["points"] for n in (1, 5)
    ]
    assert estimates == [16**3, 5 * 16**3]


def test_the_members_are_checked(house: Any) -> None:
    for change, pointer in (
        ({"source": {"kind": "learned", "index": 5}}, "/source/index"),
        ({"source": {"kind": "explicit", "values": [0.0]}}, "/source/values"),
        ({"source": {"kind": "job", "job": "x"}}, "/source"),
        ({"size": [1.0, 0.9]}, "/size"),
        ({"speed": [0.5, 2.0]}, "/speed/1"),
        ({"noise": 3.0}, "/noise"),
        ({"warp": 0.6}, "/warp"),
        ({"source": {"kind": "uploads", "uploads": []}}, "/source/uploads"),
        ({"source": {"kind": "uploads", "uploads": ["mine.safetensors"]}}, "/source/uploads/0"),
    ):
        answer = house.post(SMALL | {"source": {"kind": "learned", "index": 0}} | change, path=PATH)
        assert answer.status_code == 422, answer.text
        assert pointer in answer.text


def test_a_job_without_files_or_of_another_model_is_refused(house: Any) -> None:
    missing = house.post(SMALL | {"source": {"kind": "job", "job": "0" * 32}}, path=PATH)
    assert (missing.status_code, missing.json()["code"]) == (404, "job_not_found")
    job = house.submit(seed=471_147)["id"]
    source = {"kind": "job", "job": job, "cell": 0}
    queued = house.post(SMALL | {"source": source}, path=PATH)
    assert (queued.status_code, "no files" in queued.text) == (422, True)


def test_an_uploaded_cell_is_known_by_its_checksum(house: Any) -> None:
    assert house.client.put("/v1/uploads/vary.tif", content=labels_tiff(frames=4)).status_code in (200, 201)
    source = {"kind": "uploads", "uploads": ["vary.tif"]}
    answer = house.post(SMALL | {"source": source}, path=PATH)
    assert answer.status_code == 202, answer.text
    sha256 = house.get("/v1/uploads/vary.tif").json()["sha256"]
    assert answer.json()["spec"]["source"]["upload_sha256"] == [sha256]
    for change, pointer in (
        ({"upload_sha256": ["0" * 64]}, "/upload_sha256"),
        ({"given_times": [0.0]}, "/given_times"),
    ):
        refused = house.post(SMALL | {"source": source | change}, path=PATH)
        assert (refused.status_code, f"/source{pointer}" in refused.text) == (422, True), refused.text
    missing = house.post(SMALL | {"source": {**source, "uploads": ["nothing.tif"]}}, path=PATH)
    assert (missing.status_code, missing.json()["code"]) == (404, "upload_not_found")
    learned = house.post(SMALL | {"source": {"kind": "learned", "index": 0}}, path="/v1/estimates/augmentations").json()
    fitted = house.post(SMALL | {"source": source}, path="/v1/estimates/augmentations").json()
    assert fitted["cost"]["seconds"] > learned["cost"]["seconds"]
