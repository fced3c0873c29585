"""The examples of the API documentation run as they stand on a fresh installation, one of each kind and all others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import example_upload
import httpx
import numpy as np
import pytest
import tifffile
from keyed import Keyed
from served import Served, served

from app.routes import examples
from app.services.example_upload import EXAMPLE_FILE, EXAMPLE_UPLOAD
from worker.kinds.table import KINDS

OF_KIND = {
    "generation": examples.GENERATIONS,
    "reconstruction": examples.RECONSTRUCTIONS,
    "augmentation": examples.AUGMENTATIONS,
    "evaluation": examples.EVALUATIONS,
    "training": examples.TRAININGS,
}
ALL = [(kind, name) for kind, shown in OF_KIND.items() for name in shown]
LONG = "defaults"  # of trainings: it is ended early, as its description says one can


def test_every_kind_has_examples_and_those_of_uploads_name_the_one_that_is_shipped() -> None:
    assert set(OF_KIND) == set(KINDS)
    for kind, name in ALL:
        value: dict[str, Any] = OF_KIND[kind][name]["value"]
        named = value.get("uploads", value.get("source", {}).get("uploads", []))
        assert named in ([], [EXAMPLE_UPLOAD]), (kind, name)


def test_the_example_upload_shows_cells_of_a_shipped_model(tmp_path: Path) -> None:
    made = tmp_path / EXAMPLE_UPLOAD
    example_upload.write(made)
    again = "the model has changed; make the upload again: make example-upload"
    assert np.array_equal(tifffile.imread(EXAMPLE_FILE), tifffile.imread(made)), again
    with tifffile.TiffFile(EXAMPLE_FILE) as shipped, tifffile.TiffFile(made) as other:
        assert shipped.imagej_metadata == other.imagej_metadata, again
    assert example_upload.FILE == EXAMPLE_FILE
    assert EXAMPLE_FILE.stat().st_size < 100_000


def test_the_example_upload_is_there_for_whoever_names_it(house: Any) -> None:
    house.client.delete(f"/v1/uploads/{EXAMPLE_UPLOAD}")  # another test may have named it
    assert house.get(f"/v1/uploads/{EXAMPLE_UPLOAD}").status_code == 404
    body = {"model": "round", "uploads": [EXAMPLE_UPLOAD], "labels": [1], "frames": 2, "grid": 16}
    answer = house.post(body, path="/v1/reconstructions")
    assert answer.status_code == 202, answer.text
    kept = house.get(f"/v1/uploads/{EXAMPLE_UPLOAD}").json()
    assert answer.json()["spec"]["upload_sha256"] == [kept["sha256"]]
    facts = kept["facts"]
    side = example_upload.SIDE
    shape = [example_upload.FRAMES, side, 2 * side, 2 * side]
    assert (facts["shape"], facts["labels"]) == (shape, len(example_upload.CODES))
    assert facts["voxel"] == pytest.approx([example_upload.scale()[0]] * 3, rel=1e-3)
    assert house.client.delete(f"/v1/uploads/{EXAMPLE_UPLOAD}").status_code == 204
    assert house.post({"name": "x", "uploads": [EXAMPLE_UPLOAD]}, path="/v1/estimates/trainings").status_code == 200
    other = house.post(body | {"uploads": ["cells.tif"]}, path="/v1/reconstructions")
    assert other.json()["code"] == "upload_not_found"


def test_without_room_the_example_upload_is_not_there(settings: Any, serve: Any, tmp_path: Path) -> None:
    keyed = Keyed.start(settings, serve, tmp_path / "full", max_uploads_bytes=10_000)
    body = {"model": "round", "uploads": [EXAMPLE_UPLOAD], "labels": [1], "frames": 2, "grid": 16}
    with keyed.caller() as client:
        answer = client.post("/v1/reconstructions", json=body)
    keyed.close()
    assert (answer.status_code, answer.json()["code"]) == (404, "upload_not_found")
    assert "there is no room" in answer.json()["detail"]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("fresh"), CYTOSYNTH_THREADS="1") as running:
        yield running


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("kind", "name"), ALL)
def test_an_example_runs_as_it_stands(service: Served, kind: str, name: str) -> None:
    with httpx.Client(base_url=service.address, timeout=90) as client:
        answer = client.post(KINDS[kind].path, json=OF_KIND[kind][name]["value"])
        assert answer.status_code in (200, 202), answer.text
        job = answer.json()
        while job["state"] in ("queued", "running"):
            if name == LONG and (job["progress"]["loss"] or 0.0) > 0.0:
                client.post(job["links"]["cancel"]).raise_for_status()
            job = client.get(job["links"]["self"], params={"wait": 2}).raise_for_status().json()
        assert job["state"] == "succeeded", job["error"]
        files = client.get(job["links"]["files"]).raise_for_status().json()["files"]
        assert files
        assert all(file["bytes"] > 0 for file in files)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_example_of_a_batch_runs_as_it_stands(service: Served) -> None:
    (example,) = examples.BATCHES.values()
    with httpx.Client(base_url=service.address, timeout=90) as client:
        batch = client.post("/v1/batches", json=example["value"]).raise_for_status().json()
        while batch["state"] != "ended":
            batch = client.get(batch["links"]["self"], params={"wait": 60}).raise_for_status().json()
        assert batch["jobs"]["succeeded"] == len(example["value"]["jobs"])
