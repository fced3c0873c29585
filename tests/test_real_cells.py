"""The path of a laboratory, over HTTP only: ten clips of T cells as one zip, a model of them, a new cell of it.

The clips are those of ../shared/data, whose licence is not stated: nothing of them is
kept. Without them the test is skipped.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trimesh
from served import Served, served
from workbench import ROOT

from worker.api_keys import Keys

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]  # 300 real frames are imported, and one core may be shared

CLIPS = 10
SHORT = {"points": 1024, "latent_size": 8, "width": 48, "depth": 4, "steps": 600, "rates": 3.0, "seed": 1}


@pytest.fixture(scope="module")
def clips() -> list[Path]:
    found = sorted((ROOT.parent / "shared" / "data" / "tcells").glob("*.tif"))[:CLIPS]
    if len(found) < CLIPS:
        pytest.skip("no clips of T cells beside the repository, in ../shared/data/tcells")
    return found


@pytest.fixture(scope="module")
def service(clips: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("service"), CYTOSYNTH_THREADS="1") as running:
        yield running


@pytest.fixture
def callers(service: Served) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    """The owner of the clips, and another caller."""
    keys = Keys(service.data_dir)
    secrets = [keys.create(name)[0] for name in ("ada", "bob")]
    headers = [{"Authorization": f"Bearer {secret}"} for secret in secrets]
    with (
        httpx.Client(base_url=service.address, headers=headers[0], timeout=90) as ada,
        httpx.Client(base_url=service.address, headers=headers[1], timeout=90) as bob,
    ):
        yield ada, bob


def ended(client: httpx.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Send a request and wait until its job has ended."""
    answer = client.post(path, json=body)
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    while job["state"] in ("queued", "running"):
        job = client.get(job["links"]["self"], params={"wait": 60}).raise_for_status().json()
    assert job["state"] == "succeeded", job["error"]
    return job


def test_ten_clips_become_a_private_model_that_makes_new_cells_at_once(
    clips: list[Path], callers: tuple[httpx.Client, httpx.Client]
) -> None:
    ada, bob = callers
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path in clips:
            archive.write(path, path.name)
    sent = ada.put("/v1/uploads/clips.zip", content=packed.getvalue())
    assert sent.status_code == 201, sent.text
    facts = sent.json()["facts"]
    assert (facts["volumes"], facts["frames"]) == (CLIPS, 30 * CLIPS)
    assert bob.get("/v1/uploads/clips.zip").status_code == 404

    body = {"name": "tcells", "uploads": ["clips.zip"], "voxel": [0.4, 0.4, 0.4], "interval": 0.05, **SHORT}
    estimate = ada.post("/v1/estimates/trainings", json=body).raise_for_status().json()
    assert (estimate["within_limits"], estimate["cost"]["frames"]) == (True, 30 * CLIPS)
    training = ended(ada, "/v1/trainings", body)
    model = training["model"]["id"]
    assert training["warnings"] == []
    report = ada.get(f"{training['links']['files']}/validation.json").json()
    assert report["trained_on"] == [f"clips/{path.stem}" for path in clips]
    curve = ada.get(f"{training['links']['files']}/curve.csv").text.splitlines()
    assert float(curve[-1].split(",")[1]) < 0.5 * float(curve[1].split(",")[1]), "the loss fell"

    card = ada.get(f"/v1/models/{model}").json()
    assert (card["latent_codes"], card["training"]["sequences"]) == (CLIPS, CLIPS)
    assert 0.5 < card["quality"]["dice_training_frames"] < 1.0
    assert bob.get(f"/v1/models/{model}").status_code == 404
    assert model not in [one["id"] for one in bob.get("/v1/models").json()["models"]]
    refused = bob.post("/v1/generations", json={"model": model, "seed": 1, "frames": 2, "grid": 32})
    assert refused.status_code == 422
    assert bob.get(training["links"]["self"]).status_code == 404

    generation = ended(
        ada, "/v1/generations", {"model": model, "seed": 1, "frames": 3, "grid": 48, "formats": ["stl", "tiff"]}
    )
    manifest = ada.get(generation["links"]["manifest"]).json()
    assert manifest["model"]["id"] == model
    for number in range(3):
        content = ada.get(f"{generation['links']['files']}/cell_0000/frame_{number:04d}.stl").content
        mesh = trimesh.load_mesh(io.BytesIO(content), file_type="stl")
        assert mesh.is_watertight
        assert 1.0 < mesh.extents.max() < 64 * 0.4, "µm: as large as a T cell, not larger than the clips"
    assert ada.delete(f"/v1/models/{model}").status_code == 204
    assert ada.get(f"/v1/models/{model}").status_code == 404
