"""Files that arrive in parts: what has arrived stays, and the next part continues there."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from hostile.corpus_archives import frames, zipped
from hostile.corpus_files import box_stl
from keyed import WEIGHTS, Keyed

from app.routes.uploads import WRITE_BYTES
from worker.uploads.store import PARTIAL_KEEP_S, PARTIAL_MAX, UploadRules, Uploads

STL = box_stl()
ADDRESS = "/v1/uploads/cell.stl"


@pytest.fixture(scope="module")
def keyed(settings: Any, serve: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    folder = tmp_path_factory.mktemp("parts")
    service = Keyed.start(settings, serve, folder, max_upload_bytes=3_000_000, max_uploads_bytes=8_000_000)
    yield service
    service.close()


@pytest.fixture
def client(keyed: Keyed) -> Iterator[httpx.Client]:
    with keyed.caller() as client:
        yield client


def digest(content: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:"


def send(
    client: httpx.Client, part: bytes, offset: int, *, last: bool, whole: bytes | None = None, address: str = ADDRESS
) -> httpx.Response:
    headers = {"Upload-Offset": str(offset), "Upload-Complete": "?1" if last else "?0"}
    headers |= {"Repr-Digest": digest(whole)} if whole is not None else {}
    return client.patch(address, content=part, headers=headers)


def test_parts_make_a_file(keyed: Keyed, client: httpx.Client) -> None:
    assert client.head(ADDRESS).status_code == 404
    first = send(client, STL[:100], 0, last=False, whole=STL)
    assert (first.status_code, first.headers["upload-offset"], first.headers["upload-complete"]) == (204, "100", "?0")
    asked = client.head(ADDRESS)
    assert (asked.status_code, asked.headers["upload-offset"], asked.headers["upload-complete"]) == (204, "100", "?0")
    assert (asked.headers["repr-digest"], asked.headers["upload-limit"]) == (digest(STL), "max-size=3000000")
    assert client.get("/v1/uploads").json() == {"uploads": [], "used": 100, "quota": 8_000_000}
    assert send(client, STL[100:300], 100, last=False, whole=STL).headers["upload-offset"] == "300"
    done = send(client, STL[300:], 300, last=True, whole=STL)
    assert (done.status_code, done.headers["location"]) == (201, ADDRESS)
    assert done.json()["sha256"] == hashlib.sha256(STL).hexdigest()
    asked = client.head(ADDRESS)
    assert (asked.status_code, asked.headers["upload-complete"]) == (200, "?1")
    assert asked.headers["upload-offset"] == str(len(STL))
    assert parts_of(keyed, client) == []
    again = send(client, STL, 0, last=True, whole=STL)
    assert (again.status_code, again.json()["created_at"]) == (200, done.json()["created_at"])


def parts_of(keyed: Keyed, client: httpx.Client) -> list[Path]:
    folder = keyed.settings.data_dir / "uploads" / "partial" / keyed.owner(client)
    return list(folder.iterdir()) if folder.is_dir() else []


@pytest.mark.parametrize(("name", "content"), [("mine.safetensors", WEIGHTS), ("cells.zip", zipped(frames()))])
def test_weights_and_archives_come_in_parts_too(client: httpx.Client, name: str, content: bytes) -> None:
    half, address = len(content) // 2, f"/v1/uploads/{name}"
    assert send(client, content[:half], 0, last=False, address=address).status_code == 204
    done = send(client, content[half:], half, last=True, address=address)
    assert (done.status_code, done.json()["bytes"]) == (201, len(content))


def test_a_part_that_begins_elsewhere_is_refused_with_the_right_place(client: httpx.Client) -> None:
    for offset in (1, 10**9):
        wrong = send(client, STL, offset, last=True)
        assert (wrong.status_code, wrong.json()["code"], wrong.headers["upload-offset"]) == (409, "upload_offset", "0")
    send(client, STL[:100], 0, last=False)
    for offset in (0, 99, 101):
        wrong = send(client, STL[100:], offset, last=True)
        assert (wrong.status_code, wrong.json()["code"]) == (409, "upload_offset")
        assert wrong.headers["upload-offset"] == "100"
    assert send(client, STL[100:], 100, last=True).status_code == 201


@pytest.mark.parametrize("headers", [
    {}, {"Upload-Offset": "0"}, {"Upload-Complete": "?1"}, {"Upload-Offset": "-1", "Upload-Complete": "?1"},
    {"Upload-Offset": "x", "Upload-Complete": "?1"}, {"Upload-Offset": "0", "Upload-Complete": "yes"},
    {"Upload-Offset": "9" * 40, "Upload-Complete": "?1"},
])  # fmt: skip
def test_headers_of_parts_are_strict(client: httpx.Client, headers: dict[str, str]) -> None:
    answer = client.patch(ADDRESS, content=STL, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_spec")


def test_another_file_of_the_name_is_refused_before_it_is_sent(keyed: Keyed, client: httpx.Client) -> None:
    other = box_stl(side=5.0)
    send(client, STL[:100], 0, last=False, whole=STL)
    answer = send(client, other[100:], 100, last=True, whole=other)
    assert (answer.status_code, answer.json()["code"]) == (409, "upload_exists")
    assert send(client, STL[100:], 100, last=True, whole=STL).status_code == 201
    answer = send(client, other[:100], 0, last=False, whole=other)
    assert (answer.status_code, answer.json()["code"]) == (409, "upload_exists")
    assert parts_of(keyed, client) == []


def test_a_damaged_or_bad_file_leaves_no_parts(keyed: Keyed, client: httpx.Client) -> None:
    send(client, STL[:100], 0, last=False, whole=STL)
    answer = send(client, bytes(len(STL) - 100), 100, last=True, whole=STL)
    assert (answer.status_code, answer.json()["code"]) == (422, "digest_mismatch")
    assert parts_of(keyed, client) == []
    answer = send(client, b"solid nothing", 0, last=True)
    assert (answer.status_code, answer.json()["code"]) == (422, "bad_upload")
    assert parts_of(keyed, client) == []


def test_limits_hold_over_all_parts(client: httpx.Client) -> None:
    assert send(client, bytes(2_000_000), 0, last=False).status_code == 204
    answer = send(client, bytes(1_000_001), 2_000_000, last=False)
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_long")
    for number in range(PARTIAL_MAX - 1):
        assert send(client, b"x", 0, last=False, address=f"/v1/uploads/{number}.stl").status_code == 204
    answer = send(client, b"x", 0, last=False, address="/v1/uploads/more.stl")
    assert (answer.status_code, answer.json()["code"]) == (413, "upload_quota")
    for number in range(2):
        assert send(client, bytes(2_000_000), 1, last=False, address=f"/v1/uploads/{number}.stl").status_code == 204
    answer = send(client, bytes(2_000_000), 1, last=False, address="/v1/uploads/2.stl")
    assert (answer.status_code, answer.json()["code"]) == (413, "upload_quota")


def test_parts_are_their_owners_and_can_be_removed(keyed: Keyed, client: httpx.Client) -> None:
    send(client, STL[:100], 0, last=False)
    with keyed.caller() as other:
        assert other.head(ADDRESS).status_code == 404
        assert other.delete(ADDRESS).status_code == 404
        assert send(other, STL, 0, last=True).status_code == 201
    assert client.delete(ADDRESS).status_code == 204
    assert client.head(ADDRESS).status_code == 404
    assert parts_of(keyed, client) == []


def test_what_arrived_before_a_connection_broke_is_continued(keyed: Keyed) -> None:
    secret, _ = keyed.keys.create("broken")
    place, address = urlsplit(keyed.url), "/v1/uploads/mine.safetensors"
    head = (
        f"PATCH {address} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {secret}\r\n"
        f"Upload-Offset: 0\r\nUpload-Complete: ?1\r\nContent-Length: {len(WEIGHTS)}\r\n\r\n"
    )
    deadline = time.monotonic() + 60.0
    with keyed.caller(secret) as client:

        def arrived() -> int:
            assert time.monotonic() < deadline
            return int(client.head(address).headers.get("upload-offset", "0"))

        with socket.create_connection((place.hostname, place.port), timeout=10) as line:
            line.sendall(head.encode() + WEIGHTS[: WRITE_BYTES + 5000])
            while arrived() < WRITE_BYTES:
                time.sleep(0.05)
        while client.head(address).headers["upload-complete"] == "?0":  # the first may hold the file for a moment
            offset = arrived()
            assert WRITE_BYTES <= offset <= WRITE_BYTES + 5000
            send(client, WEIGHTS[offset:], offset, last=True, whole=WEIGHTS, address=address)
        assert client.get(address).json()["sha256"] == hashlib.sha256(WEIGHTS).hexdigest()


def test_only_one_request_sends_a_part_at_a_time(keyed: Keyed, client: httpx.Client) -> None:
    gate = threading.Event()

    def slowly() -> Iterator[bytes]:
        yield STL[:100]
        gate.wait(20)
        yield STL[100:]

    answers: list[httpx.Response] = []
    headers = {"Upload-Offset": "0", "Upload-Complete": "?1"}
    other = threading.Thread(target=lambda: answers.append(client.patch(ADDRESS, content=slowly(), headers=headers)))
    other.start()
    try:
        with keyed.caller(client.headers["Authorization"].removeprefix("Bearer ")) as second:
            deadline = time.monotonic() + 20.0
            while second.head(ADDRESS).status_code != 204:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            answer = send(second, STL, 0, last=True)
            assert (answer.status_code, answer.json()["code"]) == (409, "upload_offset")
    finally:
        gate.set()
        other.join(30)
    assert answers[0].status_code == 201


def test_parts_that_are_not_continued_are_removed_after_a_day(tmp_path: Path) -> None:
    uploads = Uploads(tmp_path, rules=UploadRules(reserve_bytes=0))
    with uploads.resuming("a", "x.stl", offset=0, sha256=None) as arrived:
        arrived.write(STL[:50])
        arrived.close()
    uploads.expire()
    assert uploads.used("a") == 50
    os.utime(tmp_path / "uploads" / "partial" / "a" / "x.stl", (0, time.time() - PARTIAL_KEEP_S - 1))
    uploads.expire()
    assert (uploads.used("a"), list((tmp_path / "uploads" / "partial" / "a").iterdir())) == (0, [])
