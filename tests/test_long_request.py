"""A request whose cells one manifest cannot list: the manifests of its shards do. Everything that reads results copes.

The service runs with a lower limit, so that 19 cells exceed it; all else is as it ships.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from damage import flip
from object_server import ObjectServer
from served import Served, cytosynth, served
from workbench import ROOT, eventually

import model.spec
from cytosynth import Client
from cytosynth.manifest import read_manifest
from model.network.checkpoint import Checkpoint
from model.output.verify import verify_result
from model.spec import GenerationSpec
from model.synthesis import synthesize

LISTED, COUNT, SHARDS = 4, 19, 5
BODY = {
    "model": "tiny", "seed": 5, "count": COUNT, "first_index": 3, "frames": 2, "grid": 16, "formats": ["stl", "tiff"],
}  # fmt: skip


@pytest.fixture(scope="module", params=["folder", pytest.param("store", marks=pytest.mark.slow)])
def service(
    request: pytest.FixtureRequest, tiny_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("service")
    more: dict[str, str] = {}
    if request.param == "store":
        storage: ObjectServer = request.getfixturevalue("object_storage")
        more = {**storage.environment(), "CYTOSYNTH_STORE": storage.url()}
    with (
        lower_limit(folder) as path,
        served(
            folder, CYTOSYNTH_MODEL_DIRS=str(tiny_models), CYTOSYNTH_THREADS="1", PYTHONPATH=path, **more
        ) as running,
    ):
        yield running


@contextmanager
def lower_limit(folder: Path) -> Iterator[str]:
    """Lower the limit in this process; yield a path for Python that does so in others."""
    (folder / "sitecustomize.py").write_text(f"import model.spec\nmodel.spec.LISTED_MAX = {LISTED}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.spec, "LISTED_MAX", LISTED)
        yield os.pathsep.join((str(folder), str(ROOT)))


@pytest.fixture(scope="module")
def client(service: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.address, timeout=90, follow_redirects=True) as client:
        yield client


@pytest.fixture(scope="module")
def finished(client: httpx.Client) -> dict[str, Any]:
    job: dict[str, Any] = client.post("/v1/generations", json=BODY).json()

    def ended() -> bool:
        job.update(client.get(job["links"]["self"]).json())
        return job["state"] not in ("queued", "running")

    eventually(ended, within_s=300)
    assert job["state"] == "succeeded", job
    return job


@pytest.fixture(scope="module")
def direct(service: Served, tiny_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The same request without the service: the content of each file by its name."""
    folder = tmp_path_factory.mktemp("direct")
    synthesize(GenerationSpec.model_validate(BODY).completed(), tiny_checkpoint, folder)
    assert list(verify_result(folder)) == []
    return files_below(folder)


def files_below(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_root_manifest_has_an_entry_a_shard_and_those_list_all(
    client: httpx.Client,
    finished: dict[str, Any],
    direct: dict[str, bytes],
    tiny_checkpoint: Checkpoint,
    tmp_path: Path,
) -> None:
    content = client.get(finished["links"]["manifest"]).content
    assert content == direct["manifest.json"]
    root = json.loads(content)
    assert root["format"] == "cytosynth-manifest/2"
    assert "cells" not in root
    assert "files" not in root
    assert finished["shards"]["total"] == len(root["shards"]) == SHARDS
    assert [(s["first_index"], s["cells"]) for s in root["shards"]] == [(3, 4), (7, 4), (11, 4), (15, 4), (19, 3)]
    # The manifest of a shard is that of a request for its cells.
    alone = GenerationSpec.model_validate(BODY | {"count": 4, "first_index": 7}).completed()
    synthesize(alone, tiny_checkpoint, tmp_path)
    assert (tmp_path / "manifest.json").read_bytes() == direct["manifests/000001.json"]


def test_pages_of_the_list_have_every_file_once_with_its_bytes(
    client: httpx.Client, finished: dict[str, Any], direct: dict[str, bytes]
) -> None:
    for limit in (1, 7, 10_000):
        address, listed = f"{finished['links']['files']}?limit={limit}", []
        while address:
            page = client.get(address)
            assert len(page.json()["files"]) <= limit
            listed += page.json()["files"]
            address = page.json()["next"]
            assert page.links.get("next", {}).get("url") == address
        assert sorted(file["name"] for file in listed) == sorted(direct.keys() - {"manifest.json"})
    for file in listed:
        answer = client.get(file["href"])
        assert answer.status_code == 200
        assert answer.content == direct[file["name"]]
        assert hashlib.sha256(answer.content).hexdigest() == file["sha256"]
    assert listed == client.get(finished["links"]["files"]).json()["files"]
    for name in ("manifests/000005.json", "manifests/1.json", "cell_0002/labels.tif", "cell_0022/labels.tif", "4/x"):
        assert client.get(f"{finished['links']['files']}/{name}").status_code == 404


def test_the_archive_has_the_same_files_whole_or_in_ranges(
    client: httpx.Client, finished: dict[str, Any], direct: dict[str, bytes]
) -> None:
    whole = client.get(finished["links"]["archive"])
    assert int(whole.headers["Content-Length"]) == len(whole.content)
    with zipfile.ZipFile(io.BytesIO(whole.content)) as opened:
        assert opened.testzip() is None
        assert {name: opened.read(name) for name in opened.namelist()} == direct
    middle, size = len(whole.content) // 2, len(whole.content)
    for first, last in ((0, 99), (middle, middle + 5000), (size - 2000, size - 1)):
        part = client.get(finished["links"]["archive"], headers={"Range": f"bytes={first}-{last}"})
        assert part.status_code == 206
        assert part.content == whole.content[first : last + 1]
    one = client.get(finished["links"]["archive"], params={"cell": 12}).content
    with zipfile.ZipFile(io.BytesIO(one)) as opened:
        names = {name for name in direct if name.startswith("cell_0012/")} | {"manifest.json"}
        assert {name: opened.read(name) for name in opened.namelist()} == {name: direct[name] for name in names}
    assert client.get(finished["links"]["archive"], params={"cell": 22}).status_code == 404


def test_the_client_downloads_and_reads_shard_by_shard(
    service: Served, finished: dict[str, Any], direct: dict[str, bytes], tmp_path: Path
) -> None:
    with Client(service.address) as client:
        job = client.job(finished["id"])
        paths = job.download(tmp_path)
        assert files_below(tmp_path) == direct
        assert len(paths) == len(direct)
        assert [cell["index"] for cell in job.iter_cells()] == list(range(3, 3 + COUNT))
        assert {file.name for file in job.iter_files()} == direct.keys() - {"manifest.json"}
        assert job.read("cell_0021/labels.tif") == direct["cell_0021/labels.tif"]
        assert len(job.minutes(18)) == 2
        assert sum(1 for _ in job.meshes(12)) == 2
    assert [file.name for file in read_manifest(tmp_path).files_of_cell(9)] == [
        f"cell_0009/{name}" for name in ("frame_0000.stl", "frame_0001.stl", "labels.tif")
    ]
    # Both commands that check a folder find what was done to it, and nothing before.
    assert cytosynth("verify", str(tmp_path)).returncode == 0
    assert list(verify_result(tmp_path)) == []
    flip(tmp_path / "cell_0010" / "labels.tif")
    (tmp_path / "cell_0012" / "labels.tif").unlink()
    (tmp_path / "cell_0013" / "more.txt").write_text("x")
    (tmp_path / "cell_0022").mkdir()
    (tmp_path / "cell_0022" / "labels.tif").write_text("x")
    checked = cytosynth("verify", str(tmp_path))
    assert checked.returncode != 0
    for name in ("cell_0010/labels.tif", "cell_0012/labels.tif", "cell_0013/more.txt", "cell_0022/labels.tif"):
        assert name in checked.stdout + checked.stderr
    assert sorted(fault.partition(":")[0] for fault in verify_result(tmp_path)) == [
        "cell_0010/labels.tif", "cell_0012/labels.tif", "cell_0013/more.txt", "cell_0022/labels.tif",
    ]  # fmt: skip


def test_other_requests_find_its_cells(client: httpx.Client, finished: dict[str, Any]) -> None:
    body = {"model": "tiny", "source": {"kind": "job", "job": finished["id"], "cell": 18}, "count": 1, "grid": 16}
    answer = client.post("/v1/augmentations", json=body | {"formats": ["stl"], "times": [0.0]})
    assert answer.status_code == 202, answer.text
    body["source"] = {"kind": "job", "job": finished["id"], "cell": 22}
    answer = client.post("/v1/augmentations", json=body)
    assert answer.status_code == 422
    assert "cells 3 to 21" in answer.text


def test_the_same_request_is_answered_with_the_same_job(client: httpx.Client, finished: dict[str, Any]) -> None:
    answer = client.post("/v1/generations", json=BODY)
    assert answer.status_code == 200
    assert answer.json()["id"] == finished["id"]


def test_damage_is_found_and_told(
    request: pytest.FixtureRequest, service: Served, client: httpx.Client, finished: dict[str, Any]
) -> None:
    """Last: of the service that keeps results in a folder. A file, and the manifest of a shard."""
    folder = service.data_dir / "results" / finished["id"]
    if not folder.exists():
        pytest.skip("the results are in the object store")
    scrub = [sys.executable, "-m", "app.cli", "scrub", "--json", "--data-dir", str(service.data_dir)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def damaged() -> list[str]:
        done = subprocess.run(scrub, env=environment, capture_output=True, text=True, check=False)
        return sorted(one["path"] for one in json.loads(done.stdout)["damaged"] if one["kind"] == "result")

    assert damaged() == []
    for place in ("1/cell_0008/labels.tif", "2/manifest.json"):
        content = bytearray((folder / place).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / place).unlink()  # the content may be shared
        (folder / place).write_bytes(content)
    assert damaged() == [f"results/{finished['id']}/{place}" for place in ("1/cell_0008/labels.tif", "2/manifest.json")]
    answer = client.get(f"{finished['links']['files']}/cell_0008/labels.tif")
    assert answer.status_code == 410
    again = client.post("/v1/generations", json=BODY)
    assert again.status_code == 202
    assert again.json()["id"] != finished["id"]
