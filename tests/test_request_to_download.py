"""The whole path: a real service in its own processes, from the request to the reopened files."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tifffile
import trimesh
from served import Served, cytosynth, cytosynth_here, served

from model.card import SHIPPED_MODELS, find_models

BODY = {"model": "tiny", "seed": 12, "frames": 3, "grid": 32, "formats": ["stl", "obj", "ply", "tiff"]}
LONG = {"model": "tiny", "frames": 400, "grid": 96, "formats": ["tiff"]}


@pytest.fixture(scope="module")
def service(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(
        tmp_path_factory.mktemp("service"), CYTOSYNTH_MODEL_DIRS=str(tiny_models), CYTOSYNTH_THREADS="1"
    ) as running:
        yield running


@pytest.fixture(scope="module")
def client(service: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.address, timeout=90) as client:
        yield client


@pytest.fixture(scope="module")
def finished(client: httpx.Client) -> dict[str, Any]:
    answer = client.post("/v1/generations", json=BODY, headers={"Prefer": "wait=60"})
    job: dict[str, Any] = answer.json()
    if job["state"] != "succeeded":
        pytest.fail(f"{answer.status_code}: {job}")
    return job


def test_meshes_are_closed_and_the_same_cell_in_every_format(client: httpx.Client, finished: dict[str, Any]) -> None:
    manifest = client.get(finished["links"]["manifest"]).json()
    names = [file["name"] for file in manifest["files"]]
    for frame in range(3):
        volumes = []
        for kind in ("stl", "obj", "ply"):
            name = f"cell_0000/frame_{frame:04d}.{kind}"
            assert name in names
            content = client.get(f"{finished['links']['files']}/{name}").content
            mesh = trimesh.load(io.BytesIO(content), file_type=kind, force="mesh", process=True)
            mesh.merge_vertices()
            assert mesh.is_watertight
            assert mesh.volume > 0
            volumes.append(mesh.volume)
        assert np.ptp(volumes) < 1e-3 * volumes[0]


def test_labels_reopen_as_the_frames_they_are(client: httpx.Client, finished: dict[str, Any]) -> None:
    content = client.get(f"{finished['links']['files']}/cell_0000/labels.tif").content
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        labels = file.asarray()
        assert file.series[0].axes == "TZYX"
        assert file.imagej_metadata is not None
    assert labels.shape == (3, 32, 32, 32)
    assert labels.dtype == np.uint16
    assert all(frame.any() for frame in labels)


def test_every_file_is_what_the_manifest_says(client: httpx.Client, finished: dict[str, Any]) -> None:
    manifest = client.get(finished["links"]["manifest"]).json()
    assert manifest["spec"] == finished["spec"]
    assert manifest["model"] == finished["model"]
    with zipfile.ZipFile(io.BytesIO(client.get(finished["links"]["archive"]).content)) as archive:
        assert sorted(archive.namelist()) == sorted(["manifest.json", *(file["name"] for file in manifest["files"])])
        for file in manifest["files"]:
            content = archive.read(file["name"])
            assert (len(content), hashlib.sha256(content).hexdigest()) == (file["bytes"], file["sha256"])


def test_the_same_request_made_anew_gives_the_same_bytes(client: httpx.Client, finished: dict[str, Any]) -> None:
    again = client.post("/v1/generations", json=BODY)
    assert (again.status_code, again.json()["id"]) == (200, finished["id"])
    other = client.post("/v1/generations", json={**BODY, "seed": 13}, headers={"Prefer": "wait=60"}).json()
    assert client.delete(other["links"]["self"]).status_code == 204
    first = other["spec"]
    one = client.post("/v1/generations", json=first, headers={"Prefer": "wait=60"}).json()
    content = client.get(one["links"]["archive"])
    client.delete(one["links"]["self"])
    two = client.post("/v1/generations", json=first, headers={"Prefer": "wait=60"}).json()
    assert one["id"] != two["id"]
    repeated = client.get(two["links"]["archive"])
    assert repeated.content == content.content
    assert repeated.headers["etag"] == content.headers["etag"]


def test_events_lead_from_the_queue_to_the_result(client: httpx.Client) -> None:
    job = client.post("/v1/generations", json={**BODY, "seed": 99}).json()
    states, frames = [], []
    # From the first event on: by now the job may have gone further.
    with client.stream("GET", job["links"]["events"], headers={"Last-Event-ID": "0"}) as stream:
        for line in stream.iter_lines():
            if line.startswith("data: "):
                data = json.loads(line[6:])
                states += [data["state"]] if "state" in data else []
                frames += [data["frame"]] if "frame" in data else []
    assert states == ["queued", "running", "succeeded"]
    assert frames == sorted(frames)
    done = client.get(job["links"]["self"]).json()
    assert (done["state"], done["attempts"], done["error"]) == ("succeeded", 1, None)


def test_a_running_job_is_cancelled_and_the_worker_goes_on(client: httpx.Client) -> None:
    job = client.post("/v1/generations", json=LONG).json()
    with client.stream("GET", job["links"]["events"]) as stream:
        for line in stream.iter_lines():
            if line.startswith("event: progress"):
                break
    assert client.post(job["links"]["cancel"]).json()["state"] == "canceled"
    after = client.post("/v1/generations", json={**BODY, "seed": 5}, headers={"Prefer": "wait=60"}).json()
    assert after["state"] == "succeeded"


# ----------------------------------------------------------------------------------------------------- the command line


def test_command_line_makes_a_cell_and_checks_it(service: Served, tmp_path: Path, finished: dict[str, Any]) -> None:
    done = cytosynth(
        "generate", "tiny", "--seed", "12", "--frames", "3", "--grid", "32", "--format", "stl", "--format", "obj",
        "--format", "ply", "--format", "tiff", "--out", str(tmp_path / "cell"), "--server", service.address,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "cell" / "manifest.json").read_text())
    for file in manifest["files"]:
        content = (tmp_path / "cell" / file["name"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == file["sha256"]
    found = sorted(path.name for path in (tmp_path / "cell").rglob("*") if path.is_file())
    assert len(found) == len(manifest["files"]) + 1


def test_command_line_knows_every_way_to_a_code(service: Served, tmp_path: Path) -> None:
    for number, choice in enumerate(
        (
            ("--temperature", "0.5"),
            ("--latent", "nearby", "--index", "1", "--noise", "0.1", "--rotation", "random"),
            ("--latent", "interpolated", "--first", "0", "--second", "2", "--rotation", "1,0,0,0"),
            ("--latent", "explicit", "--values", "0,0,0,0", "--times=-1,0.5", "--grid", "16,16,24"),
        )
    ):
        arguments = () if "--times=-1,0.5" in choice else ("--frames", "1", "--grid", "16")
        done = cytosynth_here(
            "generate", "tiny", "--seed", "1", *arguments, *choice, "--format", "stl",
            "--out", str(tmp_path / str(number)), CYTOSYNTH_SERVER=service.address,
        )  # fmt: skip
        assert done.exit_code == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("generate", "nobody"), 2, "installed: "),
        (("generate", "tiny", "--grid", "5000"), 2, "at most 2048"),
        (("generate", "tiny", "--grid", "big"), 2, "numbers"),
        (("generate", "tiny", "--format", "exe"), 2, "stl"),
        (("generate", "tiny", "--frames", "1000", "--grid", "512"), 2, "at most"),
        (("generate",), 2, "MODEL"),
        (("fly",), 2, "No such command"),
        (("cancel", "0" * 32), 2, "no job"),
        (("jobs", "--state", "lost"), 2, "state"),
    ],
)
def test_command_line_says_what_is_wrong(service: Served, arguments: tuple[str, ...], code: int, words: str) -> None:
    done = cytosynth_here(*arguments, CYTOSYNTH_SERVER=service.address)
    assert done.exit_code == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_command_line_says_when_nobody_answers() -> None:
    done = cytosynth_here("generate", "tiny", "--server", "http://127.0.0.1:9")
    assert (done.exit_code, "no cytosynth service answers" in done.stderr) == (3, True)


def test_tables_show_models_and_jobs(service: Served, finished: dict[str, Any]) -> None:
    assert "tiny" in cytosynth_here("models", "--server", service.address).stdout
    assert finished["id"] in cytosynth_here("jobs", "--server", service.address).stdout
    assert "cytosynth" in cytosynth_here("version").stdout


def test_command_line_starts_a_service_of_its_own_where_none_runs(tiny_models: Path, tmp_path: Path) -> None:
    done = cytosynth(
        "generate", "tiny", "--seed", "4", "--frames", "1", "--grid", "16", "--format", "stl",
        "--out", str(tmp_path / "cell"), CYTOSYNTH_PORT="9", CYTOSYNTH_MODEL_DIRS=str(tiny_models),
        CYTOSYNTH_PRELOAD="0", CYTOSYNTH_THREADS="1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "cell" / "cell_0000" / "frame_0000.stl").stat().st_size > 84


# ------------------------------------------------------------------------------------------------------- shipped models


@pytest.mark.slow
@pytest.mark.parametrize("name", ["celegans", "a549"])
def test_documented_examples_run_as_they_stand(service: Served, name: str) -> None:
    from app.routes.examples import GENERATIONS

    assert name in find_models([SHIPPED_MODELS])
    with httpx.Client(base_url=service.address, timeout=90) as client:
        for example in GENERATIONS.values():
            if example["value"]["model"] == name:
                answer = client.post("/v1/generations", json=example["value"], headers={"Prefer": "wait=60"})
                assert answer.json()["state"] == "succeeded", answer.text
