"""Files arrive as they were made, whole or in parts, and are not sent twice for nothing."""

from __future__ import annotations

import hashlib
import io
import json
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from claims import claim_job
from damage import cut, flip
from served import cytosynth_here

from app.responses.byte_ranges import is_satisfiable
from app.responses.zip_stream import Entry, archive, archive_length
from worker.storage.artifacts import Artifacts


@pytest.fixture(scope="module")
def finished(house: Any) -> tuple[dict[str, Any], dict[str, bytes]]:
    """A finished job and its files."""
    job = house.submit()
    return job, house.carry_out(job["id"])


STL = "cell_0000/frame_0000.stl"


def test_every_listed_file_can_be_fetched_and_is_what_the_manifest_says(house: Any, finished: Any) -> None:
    job, files = finished
    listed = house.get(job["links"]["files"]).json()["files"]
    assert [file["name"] for file in listed] == sorted(files)
    for file in listed:
        answer = house.get(file["href"])
        assert answer.content == files[file["name"]]
        assert hashlib.sha256(answer.content).hexdigest() == file["sha256"]
        assert answer.headers["etag"] == f'"{file["sha256"]}"'
        assert answer.headers["content-type"] == file["media_type"]
        assert int(answer.headers["content-length"]) == file["bytes"]


def test_files_of_finished_shards_are_served_while_the_job_runs(house: Any) -> None:
    """Listed and sent before the job ends; manifest and archive only then."""
    job = house.submit(count=300)
    total = job["shards"]["total"]
    assert (total > 2, job["shards"]) == (True, {"total": total, "open": total, "running": 0, "done": 0})
    assert house.get(job["links"]["files"]).status_code == 409
    lease = house.claim(job["id"])
    staged = house.artifacts.staging(job["id"], lease.token)
    (staged / "cell_0000").mkdir()
    (staged / STL).write_bytes(b"solid")
    sha256 = hashlib.sha256(b"solid").hexdigest()
    entry = {"name": STL, "bytes": 5, "sha256": sha256, "media_type": "model/stl"}
    (staged / "part").mkdir()
    (staged / "part" / "measured.npz").write_bytes(b"solid")  # for the sealer
    for_sealer = entry | {"name": "part/measured.npz"}
    (staged / "manifest.json").write_text(json.dumps({"files": [entry, for_sealer]}))
    house.artifacts.publish_shard(job["id"], lease.shard, staged)
    house.jobs.leases.finish_shard(lease)
    now = house.get(job["links"]["self"]).json()
    assert (now["state"], now["shards"]["done"]) == ("running", 1)
    listed = house.get(job["links"]["files"]).json()["files"]
    assert [(file["name"], file["sha256"]) for file in listed] == [(STL, sha256)]
    answer = house.get(listed[0]["href"])
    assert (answer.content, answer.headers["etag"]) == (b"solid", f'"{sha256}"')
    assert house.get(listed[0]["href"] + ".other").status_code == 409
    assert house.get(f"{job['links']['files']}/part/measured.npz").status_code == 409
    assert house.get(job["links"]["manifest"]).status_code == house.get(job["links"]["archive"]).status_code == 409
    assert house.client.delete(job["links"]["self"]).json()["state"] == "canceled"
    assert house.get(listed[0]["href"]).status_code == 409


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.stl", "model/stl"), ("a.obj", "model/obj"), ("a.ply", "application/ply"), ("a.tif", "image/tiff"),
        ("a.png", "image/png"), ("a.html", "application/octet-stream"), ("a", "application/octet-stream"),
    ],
)  # fmt: skip
def test_media_types_are_those_of_the_formats_and_never_a_page(name: str, kind: str) -> None:
    from model.formats import media_type

    assert media_type(name) == kind


def test_files_are_downloads_that_browsers_do_not_interpret(house: Any, finished: Any) -> None:
    answer = house.get(f"{finished[0]['links']['files']}/{STL}")
    assert answer.headers["content-disposition"] == 'attachment; filename="cell_0000_frame_0000.stl"'
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_file_the_client_has_is_not_sent_again(house: Any, finished: Any) -> None:
    for link in (
        f"{finished[0]['links']['files']}/{STL}",
        finished[0]["links"]["manifest"],
        finished[0]["links"]["archive"],
    ):
        etag = house.get(link).headers["etag"]
        for value in (etag, f'"other", W/{etag}', "*"):
            answer = house.get(link, **{"If-None-Match": value})
            assert (answer.status_code, answer.content) == (304, b"")
            assert answer.headers["etag"] == etag
        assert house.get(link, **{"If-None-Match": '"other"'}).status_code == 200


@pytest.mark.parametrize(
    ("wanted", "status", "part"),
    [
        ("bytes=0-3", 206, slice(0, 4)),
        ("bytes=10-", 206, slice(10, None)),
        ("bytes=-5", 206, slice(-5, None)),
        ("bytes=0-999999999", 206, slice(0, None)),
        ("bytes=-999999999", 206, slice(0, None)),
        ("bytes=5-2", 200, slice(None)),
        ("bytes=0-1,4-5", 200, slice(None)),
        ("bytes=" + ",".join(f"{k}-{k}" for k in range(1000)), 200, slice(None)),
        ("lines=0-1", 200, slice(None)),
        ("bytes=x-y", 200, slice(None)),
        ("bytes=", 200, slice(None)),
        ("bytes=-", 200, slice(None)),
        ("nonsense", 200, slice(None)),
    ],
)
def test_ranges(house: Any, finished: Any, wanted: str, status: int, part: slice) -> None:
    answer = house.get(f"{finished[0]['links']['files']}/{STL}", Range=wanted)
    assert answer.status_code == status
    assert answer.content == finished[1][STL][part]


@pytest.mark.parametrize("wanted", ["bytes=9000-", "bytes=999999-9999999", "bytes=-0"])
def test_range_outside_the_file_is_refused_with_its_length(house: Any, finished: Any, wanted: str) -> None:
    answer = house.get(f"{finished[0]['links']['files']}/{STL}", Range=wanted)
    assert (answer.status_code, answer.json()["code"]) == (416, "range_not_satisfiable")
    assert answer.headers["content-range"] == "bytes */9000"


def test_download_is_resumed_only_if_the_file_is_still_the_same(house: Any, finished: Any) -> None:
    link = f"{finished[0]['links']['files']}/{STL}"
    etag = house.get(link).headers["etag"]
    assert house.get(link, Range="bytes=4-", **{"If-Range": etag}).status_code == 206
    assert house.get(link, Range="bytes=4-", **{"If-Range": '"other"'}).status_code == 200
    assert house.get(link, Range="bytes=4-", **{"If-Range": f"W/{etag}"}).status_code == 200
    # If-Range is evaluated first: a range of another version is ignored, also where it lies outside this one.
    assert house.get(link, Range="bytes=999999-", **{"If-Range": '"other"'}).status_code == 200
    assert house.get(link, Range="bytes=999999-", **{"If-Range": etag}).status_code == 416


def test_head_tells_what_get_would(house: Any, finished: Any) -> None:
    links = finished[0]["links"]
    for link in (f"{links['files']}/{STL}", links["manifest"], links["archive"]):
        full, head = house.get(link), house.client.head(link)
        assert head.status_code == 200
        assert head.content == b""
        for name in ("etag", "content-length", "content-type"):
            assert head.headers[name] == full.headers[name], (link, name)
    assert house.client.head(f"{links['files']}/{STL}", headers={"Range": "bytes=0-3"}).status_code == 200


def test_manifest_is_served_byte_for_byte(house: Any, finished: Any) -> None:
    job = finished[0]
    stored = house.artifacts.path(job["id"], "manifest.json").read_bytes()
    answer = house.get(job["links"]["manifest"])
    assert answer.content == stored
    assert answer.headers["etag"] == f'"{hashlib.sha256(stored).hexdigest()}"'
    assert house.get(f"{job['links']['files']}/manifest.json").content == stored


@pytest.mark.parametrize(
    "name",
    ["nothing.stl", "../x", "..%2f..%2frequests", "%2e%2e/%2e%2e/etc/passwd", "cell_0000",
     "cell_0000%2f..%2fmanifest.json", "/etc/passwd", "%00", "a%00.stl", "\\..\\x", "x" * 200],
)  # fmt: skip
def test_nothing_but_the_job_s_own_files_is_reached(house: Any, finished: Any, name: str) -> None:
    answer = house.get(f"{finished[0]['links']['files']}/{name}")
    assert answer.status_code in (404, 422), answer.text
    assert answer.headers["content-type"] == "application/problem+json"


def test_files_of_jobs_without_files_say_why(house: Any) -> None:
    job = house.submit()
    answer = house.get(job["links"]["archive"])
    assert (answer.status_code, answer.json()["code"]) == (409, "job_not_finished")
    assert answer.headers["retry-after"]
    lease = house.claim(job["id"])
    house.jobs.leases.fail(lease, code="empty_surface", message="there is no membrane")
    answer = house.get(job["links"]["archive"])
    assert (answer.status_code, answer.json()["code"]) == (409, "job_failed")
    assert "no membrane" in answer.json()["detail"]


def test_expired_files_leave_the_spec_to_repeat_them(house: Any) -> None:
    from worker.jobs import JobQueue, JobRules

    # Other rules, same records: what is kept for 10 ms is gone with the next sweep.
    hasty = JobQueue.connect(
        house.settings.redis_url, artifacts=house.artifacts, wake_up=lambda _: None, rules=JobRules(retention_s=0.01)
    )
    job = house.submit()
    lease = claim_job(hasty, job["id"], worker="test")
    staged = house.artifacts.staging(job["id"], lease.token)
    (staged / "manifest.json").write_text('{"files": []}')
    house.artifacts.publish(job["id"], staged)
    hasty.leases.finish(lease)
    time.sleep(0.05)
    hasty.admin.sweep()
    hasty.close()
    answer = house.get(job["links"]["manifest"])
    assert (answer.status_code, answer.json()["code"]) == (410, "job_expired")
    assert answer.json()["spec"] == job["spec"]
    assert house.post(answer.json()["spec"]).status_code == 202


@pytest.mark.parametrize("place", ["manifest", "files", f"files/{STL}", "archive"])
def test_files_that_go_while_they_are_looked_for_are_gone_for_the_reason_of_that_moment(
    house: Any, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    job = house.submit()
    house.carry_out(job["id"])
    read = Artifacts.contents

    def expired(artifacts: Artifacts, job_id: str, *, shard: int | None = None) -> Any:
        monkeypatch.undo()
        house.jobs._redis.zadd(house.jobs._prefix + "retention", {job["id"]: 1.0})
        assert job["id"] in house.jobs.admin.sweep().expired
        return read(artifacts, job_id, shard=shard)

    monkeypatch.setattr(Artifacts, "contents", expired)
    answer = house.get(f"/v1/jobs/{job['id']}/{place}")
    assert (answer.status_code, answer.json()["code"]) == (410, "job_expired")
    assert answer.json()["spec"] == job["spec"]


# -------------------------------------------------------------------------------------------------------------- archive


def test_archive_holds_all_files_and_the_manifest(house: Any, finished: Any) -> None:
    job, files = finished
    answer = house.get(job["links"]["archive"])
    assert int(answer.headers["content-length"]) == len(answer.content)
    with zipfile.ZipFile(io.BytesIO(answer.content)) as unpacked:
        assert unpacked.testzip() is None
        assert {name: unpacked.read(name) for name in unpacked.namelist()} == {
            **files, "manifest.json": house.get(job["links"]["manifest"]).content,
        }  # fmt: skip


def test_archive_of_the_same_request_is_the_same_bytes(house: Any, finished: Any) -> None:
    link = finished[0]["links"]["archive"]
    first, second = house.get(link), house.get(link)
    assert first.content == second.content
    assert first.headers["etag"] == second.headers["etag"]


@pytest.mark.parametrize("limit", [None, 200, 10_000])
def test_length_of_an_archive_is_known_beforehand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int | None
) -> None:
    # With a small limit, files of some kilobytes need the large form (Zip64) that real ones need beyond 2 GiB.
    if limit is not None:
        monkeypatch.setattr(zipfile, "ZIP64_LIMIT", limit)
    entries = []
    for number, size in enumerate((0, 1, 190, 199, 201, 5000, 9600, 10_001, 70_000)):
        path = tmp_path / f"{number}"
        path.write_bytes(bytes(size))
        entries.append(Entry.of(f"folder/µ{number}.stl", path))
    assert sum(len(chunk) for chunk in archive(entries)) == archive_length(entries)


def test_an_archive_is_made_in_pieces_however_large_a_file_is(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(3_000_000))
    chunks = list(archive([Entry.of("large", tmp_path / "large")]))
    assert max(len(chunk) for chunk in chunks) < 300_000


def test_a_range_is_satisfiable_if_it_holds_a_byte() -> None:
    assert is_satisfiable("bytes=0-0", 1) is True
    assert is_satisfiable("bytes=0-0", 0) is False
    assert is_satisfiable("bytes=-1", 0) is False
    assert is_satisfiable("", 10) is None


# --------------------------------------------------------------------------------------------------------------- damage


def damages(house: Any) -> float:
    lines = house.get("/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("cytosynth_contents_damaged_total "))


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
def test_a_damaged_file_is_not_served_and_the_same_request_is_made_anew(
    house: Any, damage: Callable[[Path], None]
) -> None:
    job = house.submit()
    files = house.carry_out(job["id"], files={STL: b"solid" * 999, "b.stl": uuid4().bytes})
    link = f"{job['links']['files']}/{STL}"
    assert house.get(link).status_code == 200
    assert house.post(job["spec"]).json()["id"] == job["id"]
    before = damages(house)
    damage(house.artifacts.path(job["id"], STL))
    etag = f'"{hashlib.sha256(files[STL]).hexdigest()}"'
    for headers in ({}, {"Range": "bytes=0-3"}, {"Range": "bytes=-4", "If-Range": etag}, {"If-None-Match": etag}):
        answer = house.get(link, **headers)
        assert (answer.status_code, answer.json()["code"]) == (410, "artifact_damaged")
        assert "request the job again" in answer.json()["detail"]
        assert "etag" not in answer.headers
    assert damages(house) == before + 1
    assert house.get(f"{job['links']['files']}/b.stl").content == files["b.stl"]
    again = house.post(answer.json()["spec"])
    assert (again.status_code, again.json()["state"]) == (202, "queued")
    assert again.json()["id"] != job["id"]
    house.carry_out(again.json()["id"], files=files)
    assert house.get(f"{again.json()['links']['files']}/{STL}").content == files[STL]
    assert house.post(job["spec"]).json()["id"] == again.json()["id"]


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
def test_an_archive_with_a_damaged_file_never_looks_complete(house: Any, damage: Callable[[Path], None]) -> None:
    job = house.submit()
    house.carry_out(job["id"], files={STL: b"solid" * 200_000})
    damage(house.artifacts.path(job["id"], STL))
    if damage is flip:
        with pytest.raises(httpx.RemoteProtocolError):
            house.get(job["links"]["archive"])
    else:
        answer = house.get(job["links"]["archive"])
        assert (answer.status_code, answer.json()["code"]) == (410, "artifact_damaged")
    assert house.post(job["spec"]).json()["id"] != job["id"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"files": [3]}', None])
def test_a_garbage_manifest_is_a_damaged_job_that_is_made_anew(house: Any, content: bytes | None) -> None:
    job = house.submit()
    house.carry_out(job["id"])
    manifest = house.artifacts.path(job["id"], "manifest.json")
    manifest.unlink()
    if content is not None:
        manifest.write_bytes(content)
    for link in ("manifest", "files", "archive", f"files/{STL}", "files/manifest.json"):
        answer = house.get(f"/v1/jobs/{job['id']}/{link}")
        assert (answer.status_code, answer.json()["code"]) == (410, "artifact_damaged"), link
    assert house.post(job["spec"]).json()["id"] != job["id"]


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
def test_damage_that_nobody_has_downloaded_yet_is_found_when_the_same_is_requested(
    house: Any, damage: Callable[[Path], None]
) -> None:
    job = house.submit()
    house.carry_out(job["id"])
    damage(house.artifacts.path(job["id"], STL))
    assert house.post(job["spec"]).json()["id"] != job["id"]


def test_scrub_finds_each_kind_of_damage_and_drops_it_on_request(house: Any, tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path)
    one, two, three = (digit * 32 for digit in "123")
    for job_id, content in ((one, b"same"), (two, b"same"), (three, b"other")):
        staged = artifacts.staging(job_id, 1)
        (staged / "a.stl").write_bytes(content)
        entry = {"name": "a.stl", "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        (staged / "manifest.json").write_text(json.dumps({"files": [entry]}))
        artifacts.publish(job_id, staged)
    sound = cytosynth_here("scrub", "--data-dir", str(tmp_path))
    assert (sound.exit_code, "0 damaged" in sound.output) == (0, True)
    flip(artifacts.path(one, "a.stl"))  # two has the same content, and so the same damage
    (tmp_path / "results" / three / "manifest.json").unlink()
    (tmp_path / "results" / three / "manifest.json").write_text("{")
    for kind in ("requests", "verdicts", "aliases"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / f"{one}.json").write_text("[]")
    upload = tmp_path / "uploads" / "kept" / "ada" / "cell.stl"
    upload.mkdir(parents=True)
    (upload / "upload.json").write_text("{")
    (tmp_path / "models" / "mine").mkdir(parents=True)
    expected = {
        ("blob", f"blobs/{hashlib.sha256(b'same').hexdigest()[:2]}/{hashlib.sha256(b'same').hexdigest()}"),
        ("result", f"results/{one}/a.stl"), ("result", f"results/{two}/a.stl"),
        ("manifest", f"results/{three}/manifest.json"), ("request", f"requests/{one}.json"),
        ("verdict", f"verdicts/{one}.json"), ("alias", f"aliases/{one}.json"),
        ("upload", "uploads/kept/ada/cell.stl/upload.json"), ("model", "models/mine"),
    }  # fmt: skip
    for drop in ([], ["--drop"]):
        found = cytosynth_here("scrub", "--data-dir", str(tmp_path), "--json", *drop)
        assert found.exit_code == 1
        document = json.loads(found.output)
        assert {(damage["kind"], damage["path"]) for damage in document["damaged"]} == expected
        assert all(damage["advice"] for damage in document["damaged"])
        assert not any(artifacts.reusable(job_id) for job_id in (one, two, three))
    for _, path in expected:
        assert not (tmp_path / path).exists(), path
    text = cytosynth_here("scrub", "--data-dir", str(tmp_path))
    assert f"damaged result results/{one}/a.stl" in text.output  # its manifest still promises the file
    assert "what to do: request the job again" in text.output


def test_any_part_of_an_archive_is_what_the_whole_has_there(house: Any) -> None:
    job = house.submit()
    # Contents of its own: equal ones are one file on disk, which other tests damage.
    files = {"cell_0000/frame_0000.stl": b"part one" * 1100, "cell_0000/frame_0001.stl": b"part two" * 1700}
    house.carry_out(job["id"], files=files)
    link = job["links"]["archive"]
    whole = house.get(link)
    size, etag = len(whole.content), whole.headers["etag"]
    assert whole.headers["accept-ranges"] == "bytes"
    for first, last in ((0, 0), (10, 9_100), (9_050, size - 1), (size // 2, size - 30), (size - 1, size - 1)):
        answer = house.get(link, Range=f"bytes={first}-{last}", **{"If-Range": etag})
        assert (answer.status_code, answer.headers["content-range"]) == (206, f"bytes {first}-{last}/{size}")
        assert answer.content == whole.content[first : last + 1]
    assert house.get(link, Range="bytes=-7").content == whole.content[-7:]
    assert house.get(link, Range="bytes=5-", **{"If-Range": '"other"'}).content == whole.content
    beyond = house.get(link, Range=f"bytes={size}-")
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{size}")


def test_archive_of_one_cell_holds_its_files_and_the_manifest(house: Any) -> None:
    job = house.submit()
    house.carry_out(job["id"], files={f"cell_{cell:04d}/frame_0000.stl": bytes([cell]) * 300 for cell in range(3)})
    link = job["links"]["archive"]
    one, other, whole = (house.get(link + query) for query in ("?cell=1", "?cell=2", ""))
    with zipfile.ZipFile(io.BytesIO(one.content)) as unpacked:
        assert unpacked.testzip() is None
        assert unpacked.namelist() == ["cell_0001/frame_0000.stl", "manifest.json"]
    assert len({answer.headers["etag"] for answer in (one, other, whole)}) == 3
    assert house.get(f"{link}?cell=3").status_code == 404
