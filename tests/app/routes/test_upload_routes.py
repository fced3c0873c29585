"""What clients bring: received as a stream, looked into elsewhere, kept unchanged, and of use at once."""

from __future__ import annotations

import base64
import hashlib
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import trimesh
from damage import cut, flip
from hostile.corpus_files import box_stl, labels_tiff, weights
from keyed import MODEL, WEIGHTS, Keyed, all_at_once
from served import served

from model.card import CARRIED, SHIPPED_MODELS, load_card
from worker.uploads.store import UploadRules, Uploads

STL = box_stl()


@pytest.fixture(scope="module")
def keyed(settings: Any, serve: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    folder = tmp_path_factory.mktemp("uploads")
    service = Keyed.start(settings, serve, folder, max_upload_bytes=3_000_000, max_uploads_bytes=8_000_000)
    yield service
    service.close()


@pytest.fixture
def client(keyed: Keyed) -> Iterator[httpx.Client]:
    with keyed.caller() as client:
        yield client


def left_over(keyed: Keyed) -> list[Path]:
    return list((keyed.settings.data_dir / "uploads" / "incoming").iterdir())


def test_a_file_is_received_looked_into_and_kept(keyed: Keyed, client: httpx.Client, tmp_path: Path) -> None:
    answer = keyed.upload(client, "cell.stl", STL)
    document = answer.json()
    assert (answer.status_code, answer.headers["location"]) == (201, "/v1/uploads/cell.stl")
    assert document["sha256"] == hashlib.sha256(STL).hexdigest()
    assert (document["kind"], document["bytes"]) == ("stl", len(STL))
    assert document["facts"] == {
        "triangles": 12, "vertices": 8, "bodies": 1, "volume": 1000.0, "bounds": [[0.0] * 3, [10.0] * 3],
    }  # fmt: skip
    assert client.get("/v1/uploads/cell.stl").json() == document
    listed = client.get("/v1/uploads").json()
    shown = Uploads(keyed.settings.data_dir).lay_out(keyed.owner(client), "cell.stl", tmp_path)
    assert (shown, shown.is_symlink()) == (tmp_path / "cell.ply", True)
    assert trimesh.load_mesh(shown).volume == pytest.approx(1000.0)
    assert listed == {"uploads": [document], "used": shown.stat().st_size, "quota": 8_000_000}
    assert left_over(keyed) == []


def test_facts_of_label_volumes(keyed: Keyed, client: httpx.Client) -> None:
    answer = keyed.upload(client, "cells.tif", labels_tiff(frames=2))
    assert answer.json()["facts"] == {
        "axes": "TZYX", "shape": [2, 8, 8, 8], "labels": 1, "largest_label": 1, "touches_border": False,
        "voxel": [0.5, 0.5, 0.5],
    }  # fmt: skip


def test_the_same_file_again_is_the_same_upload_and_another_is_not(keyed: Keyed, client: httpx.Client) -> None:
    first = keyed.upload(client, "cell.stl", STL).json()
    again = keyed.upload(client, "cell.stl", STL)
    assert again.status_code == 200
    assert again.json()["created_at"] == first["created_at"]
    assert again.json()["expires_at"] > first["expires_at"]
    other = keyed.upload(client, "cell.stl", box_stl(side=5.0))
    assert (other.status_code, other.json()["code"]) == (409, "upload_exists")
    assert client.get("/v1/uploads/cell.stl").json()["sha256"] == first["sha256"]


def test_a_client_that_falls_silent_is_not_waited_for(keyed: Keyed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.routes.uploads.SILENCE_MAX_S", 0.3)
    secret, _ = keyed.keys.create("silent")
    place = urlsplit(keyed.url)
    with socket.create_connection((place.hostname, place.port), timeout=10) as line:
        head = f"PUT /v1/uploads/x.stl HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {secret}\r\n"
        line.sendall(head.encode() + b"Content-Length: 1000\r\n\r\nsolid")
        answer = b"".join(iter(lambda: line.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 408")
    assert b'"too_slow"' in answer
    assert left_over(keyed) == []


def test_a_removed_upload_is_gone_and_its_name_is_free(keyed: Keyed, client: httpx.Client) -> None:
    keyed.upload(client, "cell.stl", STL)
    assert client.delete("/v1/uploads/cell.stl").status_code == 204
    for method in ("GET", "DELETE"):
        answer = client.request(method, "/v1/uploads/cell.stl")
        assert (answer.status_code, answer.json()["code"]) == (404, "upload_not_found")
    assert keyed.upload(client, "cell.stl", box_stl(side=5.0)).status_code == 201
    assert left_over(keyed) == []


def test_a_digest_is_held_against_what_arrives(keyed: Keyed, client: httpx.Client) -> None:
    good = base64.b64encode(hashlib.sha256(STL).digest()).decode()
    put = lambda digest: client.put("/v1/uploads/d.stl", content=STL, headers={"Content-Digest": digest})  # noqa: E731
    for digest in (f"sha-256=:{good[::-1][1:]}=:", "sha-256=:AAAA:", "md5=:AAAA:", good, ""):
        answer = put(digest)
        assert (answer.status_code, answer.json()["code"]) == (422, "digest_mismatch"), digest
    assert client.get("/v1/uploads").json()["uploads"] == []
    assert put(f"sha-512=:AAAA:, sha-256=:{good}:").status_code == 201
    assert left_over(keyed) == []


def test_a_long_upload_is_stopped_announced_or_not(keyed: Keyed, client: httpx.Client) -> None:
    sent = 0
    most = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent, most
        while sent < 12_000_000:
            sent += 100_000
            for path in left_over(keyed):
                with suppress(FileNotFoundError):
                    most = max(most, path.stat().st_size)
            yield bytes(100_000)

    for content in (bytes(3_000_001), endless()):
        try:
            answer = client.put("/v1/uploads/long.stl", content=content)
        except httpx.TransportError:
            continue  # the server hung up while we still sent
        assert (answer.status_code, answer.json()["code"]) == (413, "body_too_long")
        assert "3000000 bytes" in answer.json()["detail"]
    assert most <= 3_000_000  # what comes after the limit is not kept, however long it comes
    assert left_over(keyed) == []


def test_nobody_keeps_more_than_the_quota_however_many_arrive_at_once(keyed: Keyed, client: httpx.Client) -> None:
    sides = [struct.unpack("<f", struct.pack("<f", 5.0 + number))[0] for number in range(6)]
    files = [padded_obj(side) for side in sides]
    answers = all_at_once(6, lambda k: keyed.upload(client, f"part-{k}.obj", files[k]))
    accepted = [answer for answer in answers if answer.status_code == 201]
    assert {answer.status_code for answer in answers} == {201, 413}
    assert len(accepted) == 2  # of 2.8 MB each within 8 MB
    assert {answer.json()["code"] for answer in answers if answer.status_code == 413} == {"upload_quota"}
    assert client.get("/v1/uploads").json()["used"] <= 8_000_000
    client.delete(accepted[0].json()["href"])
    assert keyed.upload(client, "later.obj", files[0]).status_code == 201
    assert left_over(keyed) == []


def padded_obj(side: float) -> bytes:
    corners = [(x, y, z) for x in (0, side) for y in (0, side) for z in (0, side)]
    faces = ["1 2 4 3", "5 7 8 6", "1 5 6 2", "3 4 8 7", "1 3 7 5", "2 6 8 4"]
    lines = [f"v {x} {y} {z}" for x, y, z in corners] + [f"f {face}" for face in faces]
    return ("\n".join(lines) + "\n" + ("# " + "x" * 1000 + "\n") * 2790).encode()


@pytest.mark.parametrize(
    "name",
    [
        "cell.exe", "cell", ".stl", "cell.stl.gz", "cells.7z", "cells.tar.bz2", "a%20b.stl",
        "..%2f..%2fx.stl", "%2e%2e.stl", "x%00.stl", "é.stl", "-x.stl", "a" * 101 + ".stl", "cell.STL", "scene.gltf",
    ],
)  # fmt: skip
def test_only_plain_names_with_a_known_ending_are_taken(keyed: Keyed, client: httpx.Client, name: str) -> None:
    answer = client.put(f"/v1/uploads/{name}", content=STL)
    assert answer.status_code in (404, 415), answer.text  # 404: more than one segment
    assert answer.status_code == 404 or ".stl" in answer.json()["detail"]
    assert client.get("/v1/uploads").json()["uploads"] == []


def test_compressed_bodies_are_refused(keyed: Keyed, client: httpx.Client) -> None:
    answer = client.put("/v1/uploads/cell.stl", content=STL, headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 415


def test_what_has_expired_is_gone(tmp_path: Path) -> None:
    uploads = Uploads(tmp_path, rules=UploadRules(keep_s=0.3, reserve_bytes=0))
    with uploads.arriving("a") as arrived:
        arrived.write(STL)
        uploads.keep("a", arrived, name="x.stl", kind="stl", facts={})
    assert [upload.name for upload in uploads.kept("a")] == ["x.stl"]
    time.sleep(0.35)
    assert uploads.kept("a") == []
    assert uploads.used("a") == 0
    uploads.expire()
    assert list((tmp_path / "uploads" / "kept" / "a").iterdir()) == []
    assert list((tmp_path / "uploads" / "incoming").iterdir()) == []


def test_an_interrupted_upload_leaves_nothing(tmp_path: Path) -> None:
    uploads = Uploads(tmp_path, rules=UploadRules(reserve_bytes=0))
    with suppress(ZeroDivisionError), uploads.arriving("a") as arrived:
        arrived.write(STL)
        assert arrived.path.exists()
        raise ZeroDivisionError
    assert list((tmp_path / "uploads" / "incoming").iterdir()) == []


# --------------------------------------------------------------------------------------------------------------- models


def test_uploaded_weights_become_a_model_at_once_for_their_owner_only(keyed: Keyed, client: httpx.Client) -> None:
    assert keyed.upload(client).json()["facts"]["latent_codes"] == load_card(SHIPPED_MODELS / "a549").latent_codes
    made = client.post("/v1/models", json=MODEL)
    card = made.json()
    assert (made.status_code, made.headers["location"]) == (201, card["href"])
    assert card["id"].startswith("mine-")
    assert card["sha256"] == hashlib.sha256(WEIGHTS).hexdigest()
    assert card["id"] in {model["id"] for model in client.get("/v1/models").json()["models"]}
    job = client.post("/v1/generations", json={"model": card["id"], "frames": 1, "grid": 16})
    assert job.status_code == 202
    again = client.post("/v1/models", json=MODEL)
    assert (again.status_code, again.json()["id"]) == (200, card["id"])
    with keyed.caller() as other:
        keyed.upload(other)
        theirs = other.post("/v1/models", json=MODEL).json()["id"]
        assert theirs != card["id"]
        assert other.get(card["href"]).status_code == 404
    client.delete("/v1/uploads/mine.safetensors")
    assert client.get(card["href"]).status_code == 200
    assert client.get("/v1/uploads").json()["used"] == len(WEIGHTS)
    assert client.delete(card["href"]).status_code == 204
    assert client.get(card["href"]).status_code == 404
    assert client.get("/v1/uploads").json()["used"] == 0


DIVIDING = (SHIPPED_MODELS / "celegans" / "weights.safetensors").read_bytes()


def test_shipped_weights_are_known_again(keyed: Keyed, client: httpx.Client) -> None:
    """Weights of an installed model are what that model is; a request may only say otherwise."""
    keyed.upload(client, "mine.safetensors", DIVIDING)
    shipped = load_card(SHIPPED_MODELS / "celegans").model_dump(include=set(CARRIED))
    made = client.post("/v1/models", json={"upload": "mine.safetensors", "id": "mine"})
    assert made.status_code == 201
    assert {name: made.json()[name] for name in CARRIED} == shipped
    other = client.post("/v1/models", json=MODEL).json()
    stated = {name: MODEL[name] for name in CARRIED if name in MODEL}
    assert {name: other[name] for name in CARRIED} == shipped | stated
    assert other["id"] != made.json()["id"]


def test_weights_that_say_what_they_are_need_no_more_said(
    keyed: Keyed, client: httpx.Client, tiny_models: Path
) -> None:
    content = (tiny_models / "tiny" / "weights.safetensors").read_bytes()
    facts = keyed.upload(client, "tiny.safetensors", content).json()["facts"]
    card = load_card(tiny_models / "tiny")
    assert facts["card"] == card.model_dump(include=set(CARRIED))
    made = client.post("/v1/models", json={"upload": "tiny.safetensors", "id": "t", "minutes": 9.0}).json()
    assert {name: made[name] for name in CARRIED} == {**facts["card"], "minutes": 9.0}


def test_weights_that_say_nothing_need_their_facts_stated(keyed: Keyed, client: httpx.Client) -> None:
    keyed.upload(client, "bare.safetensors", weights())
    answer = client.post("/v1/models", json={"upload": "bare.safetensors", "id": "bare", "title": "Bare"})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_spec")
    assert answer.json()["errors"][0]["pointer"] == "/micrometres"
    assert "micrometres, minutes, lipschitz" in str(answer.json())
    made = client.post("/v1/models", json={**MODEL, "upload": "bare.safetensors"})
    assert (made.status_code, made.json()["topology"], made.json()["grid_max"]) == (201, "single", 256)


@pytest.mark.slow
def test_the_shipped_dividing_weights_uploaded_make_cells_that_divide(tmp_path: Path) -> None:
    """As docs/reference/http-api.md does it, and as it did before: with a title, a scale and a bound of its own."""
    with served(tmp_path) as service, httpx.Client(base_url=service.address, timeout=120) as client:
        assert client.put("/v1/uploads/mine.safetensors", content=DIVIDING).status_code == 201
        for body in ({"upload": "mine.safetensors", "id": "mine"}, {**MODEL, "lipschitz": 1.5}):
            model_id = client.post("/v1/models", json=body).json()["id"]
            spec = {"model": model_id, "seed": 3, "frames": 3, "grid": 32, "formats": ["tiff"]}
            job = client.post("/v1/generations", json=spec, headers={"Prefer": "wait=60"}).json()
            while job["state"] in ("queued", "running"):
                job = client.get(job["links"]["self"], params={"wait": 60}).json()
            assert (job["state"], job["warnings"]) == ("succeeded", [])
            cell = client.get(job["links"]["manifest"]).json()["cells"][0]
            bodies = [len(frame["labels"]) for frame in cell["frames"]]
            assert (cell["rejected_codes"], bodies[0], bodies[-1], bodies == sorted(bodies)) == (0, 1, 2, True)


@pytest.mark.slow
def test_a_model_made_of_an_upload_is_computed_with_by_the_next_job(tmp_path: Path) -> None:
    with served(tmp_path) as service, httpx.Client(base_url=service.address, timeout=120) as client:
        assert client.put("/v1/uploads/mine.safetensors", content=WEIGHTS).status_code == 201
        model_id = client.post("/v1/models", json=MODEL).json()["id"]
        spec = {"model": model_id, "seed": 3, "frames": 1, "grid": 32, "formats": ["stl"]}
        job = client.post("/v1/generations", json=spec, headers={"Prefer": "wait=60"}).json()
        while job["state"] in ("queued", "running"):
            job = client.get(job["links"]["self"], params={"wait": 60}).json()
        assert job["state"] == "succeeded", job["error"]
        assert job["model"] == {"id": model_id, "sha256": hashlib.sha256(WEIGHTS).hexdigest()}


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"upload": "nothing.safetensors"}, 404, "upload_not_found"), ({"upload": "cell.stl"}, 422, "bad_upload"),
        ({"upload": "../mine.safetensors"}, 404, "upload_not_found"), ({"id": "../x"}, 422, "invalid_spec"),
        ({"id": "X"}, 422, "invalid_spec"), ({"micrometres": 0}, 422, "invalid_spec"),
        ({"lipschitz": 1e9}, 422, "invalid_spec"), ({"grid_max": 100_000}, 422, "invalid_spec"),
        ({"sha256": "ab" * 32}, 422, "invalid_spec"),
    ],
)  # fmt: skip
def test_unfit_models_are_refused(
    keyed: Keyed, client: httpx.Client, changes: dict[str, Any], status: int, code: str
) -> None:
    keyed.upload(client)
    keyed.upload(client, "cell.stl", STL)
    answer = client.post("/v1/models", json={**MODEL, **changes})
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_installed_models_cannot_be_removed_here(client: httpx.Client) -> None:
    answer = client.delete("/v1/models/round")
    assert (answer.status_code, answer.json()["code"]) == (403, "model_not_yours")
    assert client.delete("/v1/models/nothing").status_code == 404
    assert client.get("/v1/models/round").status_code == 200


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
def test_a_damaged_upload_makes_no_model_and_is_replaced_when_it_is_sent_again(
    keyed: Keyed, client: httpx.Client, damage: Callable[[Path], None]
) -> None:
    def send() -> httpx.Response:
        return keyed.upload(client, "rot.safetensors", WEIGHTS)

    name = f"rot-{damage.__name__}"
    assert send().status_code in (200, 201)
    content = Uploads(keyed.settings.data_dir).content(keyed.owner(client), "rot.safetensors")
    damage(content)
    body = {**MODEL, "id": name, "upload": "rot.safetensors"}
    refused = client.post("/v1/models", json=body)
    assert (refused.status_code, refused.json()["code"]) == (410, "upload_damaged")
    assert send().status_code == 201
    assert content.read_bytes() == WEIGHTS
    made = client.post("/v1/models", json=body)
    assert made.status_code == 201, made.text
    weights = keyed.settings.data_dir / "models" / made.json()["id"] / "weights.safetensors"
    damage(weights)  # a link to the upload, which is damaged with it unless it was unlinked
    assert send().status_code in (200, 201)
    assert client.post("/v1/models", json=body).status_code in (200, 201)
    assert weights.read_bytes() == WEIGHTS


@pytest.mark.parametrize("garbage", [b"", b"[]", b"{", b"{}", b"\xff"])
def test_garbage_records_of_uploads_and_owners_are_no_500(keyed: Keyed, client: httpx.Client, garbage: bytes) -> None:
    assert keyed.upload(client, "garbage.stl", STL).status_code == 201
    data = keyed.settings.data_dir
    (data / "uploads" / "kept" / keyed.owner(client) / "garbage.stl" / "upload.json").write_bytes(garbage)
    folder = data / "models" / "garbage"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "owner").write_bytes(b"\xff\xfe")
    (folder / "card.json").write_bytes(garbage)
    assert client.get("/v1/uploads/garbage.stl").status_code == 404
    for path in ("/v1/uploads", "/v1/models"):
        assert client.get(path).status_code == 200
    assert keyed.upload(client, "garbage.stl", STL).status_code == 201
    assert client.delete("/v1/uploads/garbage.stl").status_code == 204
