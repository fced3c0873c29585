"""A sequence that is sent file by file: each is inspected, and together they are a folder to readers."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tifffile
from hostile.corpus_files import box_stl
from keyed import Keyed, all_at_once

from model.readers.open import open_recordings
from model.readers.recording import Calibration
from worker.uploads.store import Uploads

TRACKS = b"1 0 1 0\n2 2 2 1\n"


@pytest.fixture(scope="module")
def keyed(settings: Any, serve: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    service = Keyed.start(settings, serve, tmp_path_factory.mktemp("sequences"), max_uploads_bytes=8_000_000)
    yield service
    service.close()


@pytest.fixture
def client(keyed: Keyed) -> Iterator[httpx.Client]:
    with keyed.caller() as client:
        yield client


def volume(label: int = 1) -> bytes:
    labels = np.zeros((6, 14, 13), np.uint64 if label > 65_535 else np.uint16)
    labels[2:4, 3:8, 3:8] = label
    target = io.BytesIO()
    tifffile.imwrite(target, labels, compression="lzw")
    return target.getvalue()


def put(client: httpx.Client, path: str, content: bytes, *, name: str = "embryo") -> httpx.Response:
    return client.put(f"/v1/uploads/{name}/{path}", content=content)


def test_files_make_a_sequence(keyed: Keyed, client: httpx.Client, tmp_path: Path) -> None:
    files = {f"TRA/man_track{n:03}.tif": volume(label) for n, label in enumerate((1, 0, 2))}
    files["TRA/man_track.txt"] = TRACKS
    for number, (path, content) in enumerate(files.items()):
        answer = put(client, path, content)
        assert (answer.status_code, answer.headers["location"]) == (201, "/v1/uploads/embryo"), answer.text
        assert answer.json()["facts"]["files"] == number + 1
    document = client.get("/v1/uploads/embryo").json()
    assert (document["kind"], document["bytes"]) == ("folder", sum(map(len, files.values())))
    lines = "".join(f"{hashlib.sha256(files[path]).hexdigest()}  {path}\n" for path in sorted(files))
    assert document["sha256"] == hashlib.sha256(lines.encode()).hexdigest()
    assert document["facts"] == {
        "files": 4, "volumes": 3, "frames": 3, "samples": 3 * 6 * 14 * 13, "surfaces": 0, "triangles": 0, "tracks": 2,
        "largest_label": 2, "voxel": [None, None, None],
    }  # fmt: skip
    shown = Uploads(keyed.settings.data_dir).lay_out(keyed.owner(client), "embryo", tmp_path)
    (recording,) = open_recordings(shown, given=Calibration())
    assert [[seen.label for seen in recording.observations(frame)] for frame in recording.frames] == [[1], [], [2]]
    assert [(track.label, track.parent) for track in recording.tracks or []] == [(1, 0), (2, 1)]
    job = client.post("/v1/reconstructions", json={"model": "round", "uploads": ["embryo"], "frames": 1, "grid": 16})
    assert (job.status_code, job.json()["spec"]["upload_sha256"]) == (202, [document["sha256"]])
    assert client.delete("/v1/uploads/embryo").status_code == 204
    assert client.get("/v1/uploads").json()["used"] == 0


def test_a_file_of_a_sequence_never_changes(client: httpx.Client) -> None:
    assert put(client, "t0.stl", box_stl()).status_code == 201
    again = put(client, "t0.stl", box_stl())
    assert (again.status_code, again.json()["facts"]["files"]) == (200, 1)
    for path, content in (("t0.stl", box_stl(side=5.0)), ("T0.stl", box_stl(side=5.0)), ("t0.obj", b"")):
        answer = put(client, path, content)
        assert answer.status_code == (409 if content else 422), answer.text
    assert put(client, "t0.ply/t1.stl", box_stl()).status_code == 409
    assert client.get("/v1/uploads/embryo").json()["facts"]["files"] == 1


@pytest.mark.parametrize(
    "path",
    [
        "t0.exe", "t0", "a.zip", "w.safetensors", "..%2ft0.stl", "a/%2e%2e/t0.stl", ".t0.stl", "a//t0.stl",
        "a%5ct0.stl", "a/b/c/d/t0.stl", "tracks.txt", "x%00.stl", "é.stl", "t 0.stl", "a" * 70 + ".stl",
    ],
)  # fmt: skip
def test_only_plain_paths_with_a_known_ending_are_taken(keyed: Keyed, client: httpx.Client, path: str) -> None:
    answer = put(client, path, box_stl())
    assert answer.status_code in (404, 415), answer.text
    assert client.get("/v1/uploads").json()["uploads"] == []
    assert not list((keyed.settings.data_dir / "uploads" / "incoming").iterdir())


@pytest.mark.parametrize("name", ["a.stl", "a.b", "-x", "x" * 101, "a%20b"])
def test_only_plain_names_without_an_ending_are_sequences(client: httpx.Client, name: str) -> None:
    assert put(client, "t0.stl", box_stl(), name=name).status_code == 415


def test_large_labels_have_the_same_number_in_all_files(keyed: Keyed, client: httpx.Client, tmp_path: Path) -> None:
    wide, huge = 70_000, 2**40
    frames = {f"mask{number:03}.tif": label for number, label in enumerate((wide, huge, 7, 65_535, wide))}
    files = {path: volume(label) for path, label in frames.items()}
    files["man_track.txt"] = f"{wide} 0 4 0\n{huge} 1 1 {wide}\n7 2 2 0\n65535 3 3 0\n".encode()
    for path, content in files.items():
        answer = put(client, path, content)
        assert answer.status_code == 201, answer.text
    facts = answer.json()["facts"]
    # 65,535 came after another label had got its number.
    numbers = {wide: 65_535, huge: 65_534, 7: 7, 65_535: 65_533}
    assert facts["renumbered"] == {str(label): number for label, number in numbers.items() if label != number}
    assert facts["notes"] == ["3 labels were renumbered, the same in all files; renumbered gives the number of each"]
    assert facts["largest_label"] == huge
    shown = Uploads(keyed.settings.data_dir).lay_out(keyed.owner(client), "embryo", tmp_path)
    (recording,) = open_recordings(shown, given=Calibration())
    seen = [[one.label for one in recording.observations(frame)] for frame in recording.frames]
    assert seen == [[numbers[label]] for label in (wide, huge, 7, 65_535, wide)]
    assert [(track.label, track.parent) for track in recording.tracks or []] == [
        (numbers[wide], 0), (numbers[huge], numbers[wide]), (7, 0), (numbers[65_535], 0),
    ]  # fmt: skip
    again = put(client, "mask000.tif", files["mask000.tif"])
    assert (again.status_code, again.json()["facts"]) == (200, facts)


def test_a_sequence_of_an_earlier_version_is_added_to_but_not_renumbered(keyed: Keyed, client: httpx.Client) -> None:
    put(client, "t0.tif", volume(3))
    record = keyed.settings.data_dir / "uploads" / "kept" / keyed.owner(client) / "embryo" / "upload.json"
    document = json.loads(record.read_bytes())
    del document["numbers"]
    record.write_text(json.dumps(document))
    assert put(client, "t1.tif", volume(4)).status_code == 201
    refused = put(client, "t2.tif", volume(70_000))
    assert (refused.status_code, "send it again" in refused.json()["detail"]) == (422, True)


def test_bad_files_are_refused_and_the_sequence_stays(client: httpx.Client) -> None:
    put(client, "t0.stl", box_stl())
    for path, content in (("t1.stl", b"solid nothing"), ("man_track.txt", b"1 x\n"), ("t0.tif", b"II*\0")):
        assert put(client, path, content).json()["code"] == "bad_upload"
    assert client.get("/v1/uploads/embryo").json()["facts"]["files"] == 1


def test_files_that_arrive_at_once_are_all_there(client: httpx.Client) -> None:
    answers = all_at_once(6, lambda n: put(client, f"t{n}.stl", box_stl(side=1.0 + n)))
    assert [answer.status_code for answer in answers] == [201] * 6
    assert client.get("/v1/uploads/embryo").json()["facts"]["surfaces"] == 6


def test_the_quota_counts_the_files_of_sequences(client: httpx.Client) -> None:
    padded = box_stl()[:84] + box_stl()[84:]
    obj = b"# " + b"x" * 4000 + b"\n"
    lines = b"v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 4\n"
    big = lines + obj * 900
    assert put(client, "t0.stl", padded).status_code == 201
    assert put(client, "t0.obj", big, name="one").status_code == 201
    assert put(client, "t1.obj", big, name="one").status_code == 201
    refused = put(client, "t2.obj", big, name="one")
    assert (refused.status_code, refused.json()["code"]) == (413, "upload_quota")
    assert client.get("/v1/uploads/one").json()["facts"]["files"] == 2
