"""A training over HTTP: what is checked before anything is queued, how it is canceled, and whose its model is."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
from hostile import corpus_zarr
from hostile.corpus_files import box_stl, flat_labels_tiff, labels_tiff

from worker.jobs import JobProgress

PATH, ESTIMATE = "/v1/trainings", "/v1/estimates/trainings"
SMALL = {"name": "mine", "uploads": ["four.tif"], "steps": 100}


@pytest.fixture(scope="module", autouse=True)
def uploads(house: Any) -> None:
    for name, content in (
        ("four.tif", labels_tiff(frames=4)), ("two.tif", labels_tiff(frames=2)), ("box.stl", box_stl()),
    ):  # fmt: skip
        assert house.client.put(f"/v1/uploads/{name}", content=content).status_code in (200, 201)


def test_an_accepted_training_names_its_model_and_is_complete(house: Any) -> None:
    answer = house.post(SMALL | {"left_out_every": 2}, path=PATH, **{"Idempotency-Key": "train"})
    assert answer.status_code == 202, answer.text
    job = answer.json()
    spec = job["spec"]
    assert job["kind"] == "training"
    assert spec["upload_sha256"] == [house.get("/v1/uploads/four.tif").json()["sha256"]]
    assert (spec["sequences"], spec["minutes"], spec["points"]) == (1000, 1440.0, 32_768)
    assert isinstance(spec["seed"], int)
    assert job["model"] == {"id": spec["model"], "sha256": ""}
    assert spec["model"].startswith("mine-")
    again = house.post({**SMALL, "left_out_every": 2, "depth": 6}, path=PATH, **{"Idempotency-Key": "train"})
    assert again.json()["id"] == job["id"]
    other = house.post({**SMALL, "steps": 101}, path=PATH, **{"Idempotency-Key": "train"})
    assert other.json()["code"] == "idempotency_mismatch"
    assert house.post(SMALL, path=PATH).json()["model"]["id"] != spec["model"]  # another seed, another model


def test_the_recorded_spec_asks_for_the_same_model_and_an_uninstalled_one_comes_back(house: Any) -> None:
    job = house.post(SMALL | {"seed": 5}, path=PATH).json()
    model_id = job["model"]["id"]
    weights = b"weights"
    card = house.get("/v1/models/round").json() | {"id": model_id, "sha256": hashlib.sha256(weights).hexdigest()}
    del card["href"]
    files = {"trained/card.json": json.dumps(card).encode(), "trained/weights.safetensors": weights, "curve.csv": b"1"}
    house.carry_out(job["id"], files=files)
    assert house.get(f"/v1/models/{model_id}").status_code == 404  # this worker did not install it
    again = house.post(job["spec"], path=PATH)
    assert (again.status_code, again.json()["id"]) == (200, job["id"])
    assert house.get(f"/v1/models/{model_id}").json()["id"] == model_id
    assert house.client.delete(f"/v1/models/{model_id}").status_code == 204


@pytest.mark.parametrize(
    ("change", "pointer", "words"),
    [
        ({"uploads": ["two.tif"]}, "/uploads", "at least 3 frames"),
        ({"uploads": ["box.stl"]}, "/uploads", "at least 3 frames"),
        ({"uploads": ["four.tif", "box.stl"]}, "/uploads", "leave the others out"),
        ({"uploads": ["four.tif", "four.tif"]}, "/uploads", "repeat"),
        ({"uploads": []}, "/uploads", ""),
        ({"upload_sha256": ["0" * 64]}, "/upload_sha256", "not those of this spec"),
        ({"voxel": [1.0, 0.0, 1.0]}, "/voxel/1", "greater"),
        ({"name": "Mine"}, "/name", ""),
        ({"left_out_every": 1}, "/left_out_every", "left out"),
        ({"epochs": 3}, "/epochs", ""),
    ],
)
def test_what_cannot_be_carried_out_is_refused_at_once(
    house: Any, change: dict[str, Any], pointer: str, words: str
) -> None:
    for path in (PATH, ESTIMATE):
        answer = house.post(SMALL | change, path=path)
        assert answer.status_code == 422, answer.text
        assert pointer in answer.text
        assert words in answer.text
    if not change.keys() & {"uploads"}:
        return
    wrong = house.post(SMALL | {"model": "mine-000000000000"}, path=PATH)
    assert (wrong.status_code, "leave model out" in wrong.text) == (422, True)


def test_an_upload_that_is_not_there_is_not_found(house: Any) -> None:
    answer = house.post(SMALL | {"uploads": ["nothing.tif"]}, path=PATH)
    assert (answer.status_code, answer.json()["code"]) == (404, "upload_not_found")


def test_arrays_of_distances_are_trained_on_at_the_spacing_that_hdf5_states(house: Any) -> None:
    axes = np.meshgrid(*[np.linspace(-1.0, 1.0, 12)] * 3, indexing="ij")
    ball = np.stack([np.sqrt(sum(axis**2 for axis in axes)) - radius for radius in (0.5, 0.55, 0.6, 0.65)])
    plain, packed, spaced = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.save(plain, ball)
    np.savez_compressed(packed, ball)
    with h5py.File(spaced, "w") as file:
        file.create_dataset("sdf_vid", data=ball.transpose(3, 1, 2, 0)).attrs["spacing_um"] = [0.5, 0.5, 1.0]
    grid = {"name": "regular", "configuration": {"chunk_shape": [4, 12, 12, 12]}}
    said = corpus_zarr.described(shape=[4, 12, 12, 12], chunk_grid=grid, attributes={"spacing_um": [0.5, 0.5, 1.0]})
    files = {"zarr.json": said, "c/0/0/0/0": corpus_zarr.gzipped(ball.transpose(0, 3, 2, 1).astype("<f4").tobytes())}
    zarr = io.BytesIO(corpus_zarr.store(files))
    for name, content in (
        ("ball.npy", plain), ("other.npz", packed), ("spaced.h5", spaced), ("again.hdf5", spaced),
        ("stored.zarr.zip", zarr),
    ):  # fmt: skip
        sent = house.client.put(f"/v1/uploads/{name}", content=content.getvalue())
        assert (sent.status_code, sent.json()["facts"]["shape"]) == (201, [4, 12, 12, 12]), sent.text
    estimate = house.post(SMALL | {"uploads": ["ball.npy", "other.npz"]}, path=ESTIMATE).json()
    assert estimate["cost"]["frames"] == 8
    for uploads, voxel, stated in (
        (["spaced.h5", "again.hdf5"], None, [0.5, 0.5, 1.0]), (["spaced.h5"], [2.0, 2.0, 2.0], [2.0, 2.0, 2.0]),
        (["spaced.h5", "stored.zarr.zip"], None, [0.5, 0.5, 1.0]),
    ):  # fmt: skip
        named = {"uploads": uploads} | ({"voxel": voxel} if voxel else {})
        assert house.post(SMALL | named, path=PATH).json()["spec"]["voxel"] == stated
    for uploads in (["ball.npy", "other.npz"], ["spaced.h5", "ball.npy"]):  # which state no spacing, or not all
        unscaled = house.post(SMALL | {"uploads": uploads}, path=PATH)
        assert (unscaled.status_code, unscaled.json()["code"]) == (422, "bad_dataset")
        assert unscaled.text.count("voxel size unknown") == 4  # once a sequence in detail, and in errors
    fit = house.post({"model": "round", "uploads": ["spaced.h5"], "frames": 2, "grid": 16}, path="/v1/reconstructions")
    assert (fit.status_code, fit.json()["spec"]["voxel"]) == (202, [0.5, 0.5, 1.0])
    mixed = house.post(SMALL | {"uploads": ["ball.npy", "four.tif"]}, path=PATH)
    assert (mixed.status_code, "leave the others out" in mixed.text) == (422, True)
    wrong = house.client.put("/v1/uploads/wrong.npy", content=plain.getvalue()[:-8])
    assert (wrong.status_code, wrong.json()["code"]) == (422, "bad_upload")


@pytest.mark.parametrize("along", ["z", "y", "x"])
def test_masks_of_a_single_slice_are_refused_before_anything_is_queued(house: Any, along: str) -> None:
    name = f"flat_{along}"
    sent = house.client.put(f"/v1/uploads/{name}.tif", content=flat_labels_tiff(frames=4, along=along)).json()
    assert sent["facts"]["flat"] is True
    assert "no shape in three dimensions" in sent["facts"]["notes"][0]
    assert "flat" not in house.get("/v1/uploads/four.tif").json()["facts"]
    for number in range(3):
        answer = house.client.put(f"/v1/uploads/{name}/t{number}.tif", content=flat_labels_tiff(along=along))
        assert answer.status_code == 201, answer.text
    for uploads in ([f"{name}.tif"], [name]):
        for path, body in (
            (PATH, SMALL), (ESTIMATE, SMALL), ("/v1/reconstructions", {"model": "round"}),
            ("/v1/evaluations", {"model": "round"}),
            ("/v1/augmentations", {"model": "round", "source": {"kind": "uploads", "uploads": uploads}}),
        ):  # fmt: skip
            named = {} if "source" in body else {"uploads": uploads}
            answer = house.post(body | named, path=path)
            assert (answer.status_code, answer.json()["code"]) == (422, "invalid_spec"), (path, answer.text)
            assert f"{uploads[0]}: the cells are one voxel thick in every frame" in answer.text
    assert house.client.put(f"/v1/uploads/{name}/t3.tif", content=labels_tiff()).json()["facts"].get("flat") is None
    partly = house.post(SMALL | {"uploads": [name]}, path=PATH)
    assert (partly.status_code, "has no shape in three dimensions" in partly.json()["detail"]) == (422, True)
    assert house.post(SMALL | {"uploads": [f"{name}.tif", "four.tif"]}, path=PATH).status_code == 202


def test_cells_that_cannot_be_trained_on_are_refused_with_all_findings_and_nothing_is_queued(house: Any) -> None:
    archive = io.BytesIO()
    volume = np.zeros((4, 12, 12, 12), np.uint8)
    volume[:, 2:10, 2:10, 0:8] = 1  # at the border
    with zipfile.ZipFile(archive, "w") as file:
        for name, frames in (("cut", volume), ("short", volume[:2])):
            tiff = io.BytesIO()
            tifffile.imwrite(tiff, frames, imagej=True, metadata={"axes": "TZYX"})
            file.writestr(f"{name}.tif", tiff.getvalue())
    assert house.client.put("/v1/uploads/bad.zip", content=archive.getvalue()).status_code == 201
    queued = len(house.get("/v1/jobs?limit=100").json()["jobs"])
    answer = house.post(SMALL | {"uploads": ["bad.zip"]}, path=PATH)
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["type"]) == (422, "bad_dataset", "/problems/bad-dataset")
    unscaled = "error no_spacing: voxel size unknown: give the voxel size with --voxel X Y Z (µm; voxel in a request)"
    border = "error border: the cell is cut by the border of the volume (frames 0-"
    expected = [
        f"bad/cut: {unscaled}", f"bad/cut: {border}3)", f"bad/short: {unscaled}",
        "bad/short: error short: 2 frames; a sequence needs at least 3 (frames 0-1)", f"bad/short: {border}1)",
    ]  # fmt: skip
    assert problem["detail"].splitlines() == ["none of the 2 sequences can be trained on as it is:", *expected]
    assert problem["errors"] == [{"pointer": "/uploads", "detail": finding} for finding in expected]
    scaled = house.post(SMALL | {"uploads": ["bad.zip"], "voxel": [1.0, 1.0, 1.0]}, path=PATH).json()
    assert [one["detail"] for one in scaled["errors"]] == [text for text in expected if text.find("no_spacing") < 0]
    assert len(house.get("/v1/jobs?limit=100").json()["jobs"]) == queued
    assert house.post(SMALL | {"uploads": ["bad.zip", "example-cells.zip"]}, path=PATH).status_code == 404
    # One sequence that can be trained on is enough.
    assert house.client.put("/v1/uploads/good.zip", content=_zipped_cell()).status_code == 201
    assert house.post(SMALL | {"uploads": ["bad.zip", "good.zip"]}, path=PATH).status_code == 202


def _zipped_cell() -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("cell.tif", labels_tiff(frames=4))
    return archive.getvalue()


def test_an_upload_of_an_earlier_version_is_accepted_and_checked_by_its_job(house: Any) -> None:
    volume, bad = np.zeros((3, 12, 12, 12), np.uint8), io.BytesIO()
    volume[:, 2:10, 2:10, :8] = 1  # at the border
    tifffile.imwrite(bad, volume, imagej=True, metadata={"axes": "TZYX"})
    assert house.client.put("/v1/uploads/old.tif", content=bad.getvalue()).status_code == 201
    spec = SMALL | {"uploads": ["old.tif"], "voxel": [1.0, 1.0, 1.0]}
    assert house.post(spec, path=PATH).json()["code"] == "bad_dataset"
    folder = house.settings.data_dir / "uploads" / "kept" / "open" / "old.tif"
    record = json.loads((folder / "upload.json").read_bytes())
    record["files"] = []
    (folder / "upload.json").write_text(json.dumps(record))
    (folder / "content").write_bytes(bad.getvalue())
    assert house.post(spec, path=PATH).status_code == 202


@pytest.mark.parametrize("change", [{"steps": 200_001}, {"sequences": 1001}, {"minutes": 1441.0}])
def test_the_operators_limits_hold_and_estimates_tell_them(house: Any, change: dict[str, Any]) -> None:
    answer = house.post(SMALL | change, path=PATH)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    over = house.post(SMALL | change, path=ESTIMATE).json()
    within = house.post(SMALL, path=ESTIMATE).json()
    assert (over["kind"], over["within_limits"], within["within_limits"]) == ("training", False, True)
    assert within["limits"]["steps"] == 200_000
    assert within["cost"]["frames"] == 4
    longer = house.post(SMALL | {"steps": 10_000}, path=ESTIMATE).json()
    assert 0 < within["seconds"]["expected"] < longer["seconds"]["expected"]


def test_progress_tells_loss_and_dice_and_only_of_trainings(house: Any) -> None:
    job = house.post(SMALL | {"seed": 6}, path=PATH).json()
    lease = house.claim(job["id"])
    progress = JobProgress(fraction=0.5, stage="training", frame=50, frames=100, eta_s=3.0, loss=0.01, dice=0.9)
    house.jobs.leases.renew(lease, progress=progress)
    shown = house.get(f"/v1/jobs/{job['id']}").json()["progress"]
    assert (shown["loss"], shown["dice"], shown["frame"]) == (0.01, 0.9, 50)
    (event,) = [one for one in house.jobs.events(job["id"]) if one.event == "progress"]
    assert event.data["dice"] == 0.9
    house.jobs.leases.fail(lease, code="bad_dataset", message="for a test")
    assert JobProgress(stage="frames", frame=1, frames=2, eta_s=None).to_json() == json.dumps(
        {"fraction": 0.0, "stage": "frames", "frame": 1, "frames": 2, "eta_s": None}
    )


def test_cancel_keeps_the_model_where_asked_and_delete_does_not(house: Any) -> None:
    keeping = house.post(SMALL | {"seed": 7, "keep_on_cancel": True}, path=PATH).json()
    house.claim(keeping["id"])
    (house.artifacts.state(keeping["id"]) / "attempts").mkdir(parents=True)
    for _ in range(2):  # a repeated request changes nothing
        answer = house.post(path=f"/v1/jobs/{keeping['id']}/cancel")
        assert (answer.status_code, answer.json()["state"]) == (200, "running")
        assert house.artifacts.asked_to_stop(keeping["id"])
    assert house.client.delete(f"/v1/jobs/{keeping['id']}").json()["state"] == "canceled"
    assert house.client.delete(f"/v1/jobs/{keeping['id']}").status_code == 204
    assert not house.artifacts.state(keeping["id"]).exists()
    for seed, keep in ((8, True), (9, False)):  # nothing was learned yet; nothing is to be kept
        job = house.post(SMALL | {"seed": seed, "keep_on_cancel": keep}, path=PATH).json()
        if not keep:
            (house.artifacts.state(job["id"]) / "attempts").mkdir(parents=True)
        assert house.post(path=f"/v1/jobs/{job['id']}/cancel").json()["state"] == "canceled"
