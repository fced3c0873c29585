"""Mistakes of callers, for each kind of job that knows them: one sentence that says what to do."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from served import served
from tiny_model import SIDE

from worker.kinds.table import KINDS

STEP = 20.0 / (SIDE - 1)  # µm between samples: the domain of the tiny model is 20 µm wide
SMALL = {"points": 1024, "latent_size": 4, "width": 16, "depth": 2, "steps": 10, "seed": 1}
BODIES: dict[str, dict[str, Any]] = {
    "generation": {"model": "tiny", "frames": 1, "grid": 16, "seed": 1},
    "reconstruction": {"model": "tiny", "frames": 2, "grid": 16, "method": "code"},
    "augmentation": {"model": "tiny", "count": 1, "frames": 2, "grid": 16, "seed": 1},
    "evaluation": {"model": "tiny", "count": 4, "draws": 100},
    "training": {"name": "mistaken", **SMALL},
}
FIT = "does not fit into the domain of model tiny, 20 µm: give the right voxel size, or choose another model"
SMALLER = "is too small for the domain of model tiny, 20 µm: give the right voxel size, or choose another model"
LEAVE_OUT = (
    "empty: frame 2 does not show the cell: leave the frame out, and give the times of the others with --times "
    "(given_times in a request)"
)
NAME_ONE = "two: frame 0 shows the cells [1, 2]; name one with --label (labels in a request)"
EMPTY = "frames show no cell: leave them out"
# Kind, upload, further members, and the sentence.
CASES: list[tuple[str, str, dict[str, Any], str]] = [
    ("reconstruction", "good.zip", {"voxel": [5.0, 5.0, 5.0]}, FIT),
    ("reconstruction", "good.zip", {"voxel": [0.01, 0.01, 0.01]}, SMALLER),
    ("augmentation", "good.zip", {"voxel": [5.0, 5.0, 5.0]}, FIT),
    ("evaluation", "four.zip", {"voxel": [9.0, 9.0, 9.0]}, FIT),
    ("training", "good.zip", {"voxel": [1e7, 1e7, 1e7]}, "allowed are 0.01 to 100000 µm: give the voxel size with"),
    (
        "training",
        "no_scale.zip",
        {},
        "voxel size unknown: give the voxel size with --voxel X Y Z (µm; voxel in a request)",
    ),
    (
        "reconstruction",
        "no_scale.zip",
        {},
        "does not say how large a voxel is: give --voxel X Y Z (µm; voxel in a request)",
    ),
    ("reconstruction", "empty.zip", {}, LEAVE_OUT),
    ("augmentation", "empty.zip", {}, LEAVE_OUT),
    ("evaluation", "empty.zip", {}, EMPTY),
    ("training", "empty.zip", {}, EMPTY),
    ("reconstruction", "two.zip", {}, NAME_ONE),
    ("augmentation", "two.zip", {}, NAME_ONE),
    ("training", "pieces.zip", {}, "the cell is in pieces: give each cell a label of its own, or remove the pieces"),
]


def ellipsoids(places: list[tuple[int, int]], labels: list[int]) -> NDArray[np.uint8]:
    """Four frames (t, z, y, x) of breathing ellipsoids side by side."""
    axis = np.linspace(-1.0, 1.0, SIDE)
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    rows, columns = (1 + max(place[side] for place in places) for side in (0, 1))
    volume = np.zeros((4, SIDE, SIDE * rows, SIDE * columns), np.uint8)
    for (row, column), label in zip(places, labels, strict=True):
        for frame in range(4):
            inside = (x / 0.35) ** 2 + (y / 0.45) ** 2 + (z / 0.55) ** 2 < (1.0 + 0.08 * frame) ** 2
            box = volume[frame, :, SIDE * row : SIDE * (row + 1), SIDE * column : SIDE * (column + 1)]
            box[inside] = label
    return volume


def zipped(name: str, volume: NDArray[np.uint8], *, scaled: bool = True) -> bytes:
    scale: dict[str, Any] = {"imagej": True, "resolution": (1.0 / STEP, 1.0 / STEP)} if scaled else {}
    more = {"spacing": STEP, "unit": "um", "finterval": 120.0} if scaled else {}
    tiff, packed = io.BytesIO(), io.BytesIO()
    tifffile.imwrite(tiff, volume, metadata={"axes": "TZYX", **more}, **scale)
    with zipfile.ZipFile(packed, "w") as archive:  # in which frames may be empty
        archive.writestr(f"{name}.tif", tiff.getvalue())
    return packed.getvalue()


@pytest.fixture(scope="module")
def client(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    one = ellipsoids([(0, 0)], [1])
    empty = one.copy()
    empty[2] = 0
    volumes = {
        "good": one, "empty": empty, "two": ellipsoids([(0, 0), (0, 1)], [1, 2]),
        "pieces": ellipsoids([(0, 0), (0, 1)], [1, 1]),
        "four": ellipsoids([(0, 0), (0, 1), (1, 0), (1, 1)], [1, 2, 3, 4]),
    }  # fmt: skip
    with (
        served(
            tmp_path_factory.mktemp("mistakes"), CYTOSYNTH_MODEL_DIRS=str(tiny_models), CYTOSYNTH_THREADS="1"
        ) as service,
        httpx.Client(base_url=service.address, timeout=90) as client,
    ):
        for name, volume in volumes.items():
            client.put(f"/v1/uploads/{name}.zip", content=zipped(name, volume)).raise_for_status()
        client.put("/v1/uploads/no_scale.zip", content=zipped("no_scale", one, scaled=False)).raise_for_status()
        yield client


def body_of(kind: str, upload: str, members: dict[str, Any]) -> dict[str, Any]:
    if kind == "augmentation":
        return BODIES[kind] | {"source": {"kind": "uploads", "uploads": [upload], "method": "code", **members}}
    return BODIES[kind] | {"uploads": [upload]} | members


@pytest.mark.timeout(600)  # the first waits until the worker is warm
@pytest.mark.parametrize(("kind", "upload", "members", "sentence"), CASES)
def test_what_a_file_has_wrong_is_one_sentence_that_says_what_to_do(
    client: httpx.Client, kind: str, upload: str, members: dict[str, Any], sentence: str
) -> None:
    answer = client.post(KINDS[kind].path, json=body_of(kind, upload, members))
    if kind == "training":  # whose cells are checked before it is queued
        problem = answer.json()
        assert (answer.status_code, problem["code"]) == (422, "bad_dataset")
        assert sum(sentence in entry["detail"] for entry in problem["errors"]) == 1, problem
        assert sum(sentence in line for line in problem["detail"].splitlines()) == 1, problem
        return
    assert answer.status_code == 202, answer.text
    job = answer.json()
    while job["state"] in ("queued", "running"):
        job = client.get(job["links"]["self"], params={"wait": 60}).raise_for_status().json()
    assert (job["state"], job["error"]["code"]) == ("failed", "bad_dataset")
    lines = [line for line in job["error"]["message"].splitlines() if sentence in line]
    assert len(lines) == 1, job["error"]["message"]


@pytest.mark.parametrize("kind", ["generation", "reconstruction", "augmentation", "evaluation"])
def test_a_model_that_is_not_there_is_refused_with_what_is_there(client: httpx.Client, kind: str) -> None:
    source = {} if kind == "generation" else {"uploads": ["good.zip"]}
    if kind == "augmentation":
        source = {"source": {"kind": "learned", "index": 0}}
    answer = client.post(KINDS[kind].path, json=BODIES[kind] | source | {"model": "nobody"})
    assert (answer.status_code, answer.json()["code"]) == (422, "unknown_model")
    assert "there is no model" in answer.json()["detail"]


@pytest.mark.timeout(600)
def test_a_model_of_another_kind_than_that_of_the_job_is_refused_with_the_one_to_name(client: httpx.Client) -> None:
    made = (
        client.post("/v1/generations", json=BODIES["generation"] | {"latent": {"kind": "learned", "index": 0}})
        .raise_for_status()
        .json()
    )
    while made["state"] in ("queued", "running"):
        made = client.get(made["links"]["self"], params={"wait": 60}).raise_for_status().json()
    assert made["state"] == "succeeded", made["error"]
    for kind, members in (
        ("evaluation", {"job": made["id"]}),
        ("augmentation", {"source": {"kind": "job", "job": made["id"], "cell": 0}}),
    ):
        answer = client.post(KINDS[kind].path, json=BODIES[kind] | members | {"model": "celegans"})
        assert answer.status_code == 422
        assert "the job is of another model, tiny: name that one" in answer.text
