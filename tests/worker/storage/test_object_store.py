"""Records and files of jobs in an object store: in memory, and (slow) in a real server with real failures."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from object_server import ObjectServer
from obstore.store import MemoryStore

from worker.errors import (
    ArtifactDamagedError,
    ArtifactNotFoundError,
    CytosynthError,
    ExportError,
    StoreUnavailableError,
)
from worker.scrub import Scrub
from worker.storage.cleanup import remove_unneeded, stored_jobs
from worker.storage.journal import Journal
from worker.storage.object_process import ObjectProcess
from worker.storage.objects import PART, PIECE, ObjectFile, Objects, ObjectStore, parse_url
from worker.storage.stored_artifacts import StoredArtifacts

JOB, OTHER = "0123456789abcdef" * 2, "fedcba9876543210" * 2
NAME = "cell_0000/frame_0000.stl"
FILES = {NAME: b"solid one" * 1000, "cell_0000/labels.tif": b"II*\0" + bytes(5000), "empty.txt": b""}


@pytest.fixture(params=["memory", pytest.param("server", marks=pytest.mark.slow)])
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    if request.param == "memory":
        return Objects("s3://memory", backend=MemoryStore())
    server: ObjectServer = request.getfixturevalue("object_storage")
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    return Objects(server.url())


@pytest.fixture
def stored(store: ObjectStore, tmp_path: Path) -> StoredArtifacts:
    return StoredArtifacts(tmp_path / "here", store)


@pytest.fixture
def elsewhere(store: ObjectStore, tmp_path: Path) -> StoredArtifacts:
    """The same store, seen from another host."""
    return StoredArtifacts(tmp_path / "elsewhere", store)


def stage(
    artifacts: StoredArtifacts, files: dict[str, bytes], *, job_id: str = JOB, token: int = 1, written: bool = True
) -> Path:
    staged = artifacts.staging(job_id, token)
    listed = [
        {"name": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in files.items()
    ]
    for name, content in files.items() if written else ():
        (staged / name).parent.mkdir(parents=True, exist_ok=True)
        (staged / name).write_bytes(content)
    (staged / "manifest.json").write_text(json.dumps({"files": listed}))
    return staged


def content_of(artifacts: StoredArtifacts, name: str, *, job_id: str = JOB) -> bytes:
    return artifacts.verified(job_id, name)[0].read_bytes()


# ---------------------------------------------------------------------------------------------------------- the store


def test_of_many_writers_one_makes_the_object(store: ObjectStore) -> None:
    won: list[str] = []

    def write(name: str) -> None:
        if store.put_once("requests/one", name.encode()):
            won.append(name)

    writers = [threading.Thread(target=write, args=(str(number),)) for number in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(won) == 1
    assert store.get("requests/one") == won[0].encode()
    store.put_over("requests/one", b"replaced")
    assert store.get("requests/one") == b"replaced"


def test_objects_are_listed_read_in_part_and_removed(store: ObjectStore) -> None:
    for name in ("a/1", "a/b/2", "a/b/3", "ab/4"):
        store.put_over(name, name.encode())
    assert [info.key for info in store.below("a/")] == ["a/1", "a/b/2", "a/b/3"]
    assert store.folders("a/") == ["b"]
    assert store.read("a/b/2", 2, 4) == b"b/"
    info = store.head("a/b/2")
    assert info is not None
    assert (info.key, info.bytes) == ("a/b/2", 5)
    store.delete(["a/b/2", "a/none", "a/1"])
    store.delete([])
    assert [info.key for info in store.below("a/")] == ["a/b/3"]
    assert store.get("a/1") is None
    assert store.head("a/1") is None
    with pytest.raises(FileNotFoundError):
        store.read("a/1", 0, 1)


def test_a_file_of_several_parts_arrives_whole_and_is_read_like_a_file(store: ObjectStore, tmp_path: Path) -> None:
    content = os.urandom(PART + PIECE + 12345)
    (tmp_path / "large").write_bytes(content)
    store.put_file("results/large", tmp_path / "large", name="large.bin", media_type="application/octet-stream")
    info = store.head("results/large")
    assert info is not None
    file = ObjectFile(store, info)
    assert file.read_bytes() == content
    assert b"".join(file.pieces(5, PIECE + 7)) == content[5 : PIECE + 7]
    with file.open("rb") as opened:
        opened.seek(PIECE - 3)
        assert opened.read(10) == content[PIECE - 3 : PIECE + 7]
        opened.seek(-4, os.SEEK_END)
        assert opened.read() == content[-4:]


@pytest.mark.parametrize("url", ["", "s3://", "http://x/y", "/tmp/x", "s3:///prefix"])
def test_what_is_no_store_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="s3://bucket"):
        parse_url(url)


def test_a_prefix_may_have_slashes() -> None:
    assert parse_url("s3://cells/one/two/") == ("cells", "one/two")
    assert parse_url("s3://cells") == ("cells", "")


# -------------------------------------------------------------------------------------------------------- the journal


def test_requests_are_kept_once_and_found_from_another_host(
    stored: StoredArtifacts, elsewhere: StoredArtifacts
) -> None:
    first, second = {"id": "1" * 32, "spec": {"seed": 2**64 - 1}}, {"id": "2" * 32, "spec": {}}
    here, there = Journal(stored.records), Journal(elsewhere.records)
    assert here.record_request(second) == second
    assert here.record_request(first) == first
    assert there.record_request({**first, "spec": "changed"}) == first
    assert list(there.requests()) == [first, second]
    assert there.stored() == ["1" * 32, "2" * 32]
    there.record_outcome("1" * 32, {"status": "failed", "finished_at": 1.0, "error": None})
    assert here.outcome("1" * 32) == {"status": "failed", "finished_at": 1.0, "error": None}
    there.pin("2" * 32, pinned=True)
    assert here.pinned("2" * 32)
    there.pin("2" * 32, pinned=False)
    assert not here.pinned("2" * 32)
    assert abs(here.released_at("2" * 32) - stored.now()) < 60
    here.record_alias("k", {"job": "2" * 32, "digest": "d"})
    assert [(key, alias) for key, alias, _ in there.aliases()] == [("k", {"job": "2" * 32, "digest": "d"})]
    there.forget_request("2" * 32)
    there.forget_request("2" * 32)
    assert [request["id"] for request in here.requests()] == ["1" * 32]
    assert not here.has_request("2" * 32)
    assert list((stored.root / "requests").glob("*")) == []


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"{", b"[]", b'{"files": [3]}'])
def test_damaged_records_are_passed_over(stored: StoredArtifacts, store: ObjectStore, content: bytes) -> None:
    for folder in ("requests", "verdicts", "aliases"):
        store.put_over(f"{folder}/{JOB}.json", content)
    journal = Journal(stored.records)
    assert list(journal.requests()) == []
    assert journal.outcome(JOB) is None
    assert list(journal.aliases()) == []
    assert journal.record_request({"id": JOB, "spec": {}}) == {"id": JOB, "spec": {}}
    assert list(journal.requests()) == [{"id": JOB, "spec": {}}]


# ---------------------------------------------------------------------------------------------------- files of jobs


def test_published_files_are_found_from_another_host(stored: StoredArtifacts, elsewhere: StoredArtifacts) -> None:
    stored.publish(JOB, stage(stored, FILES))
    assert elsewhere.exists(JOB)
    assert {name: content_of(elsewhere, name) for name in FILES} == FILES
    assert [name for name, _, _ in elsewhere.all_sized(JOB)] == list(FILES)
    assert elsewhere.reusable(JOB)
    assert abs(elsewhere.published_at(JOB) - elsewhere.now()) < 60
    assert list((stored.root / "staging").iterdir()) == []
    with elsewhere.laid_out(JOB) as folder:
        assert {name: (folder / name).read_bytes() for name in FILES} == FILES
        assert json.loads((folder / "manifest.json").read_text()) == elsewhere.manifest(JOB)
    for name in ("extra.txt", "", "../" + JOB, f"files/{'0' * 64}", "/etc/passwd", "x" * 10_000):
        with pytest.raises(ArtifactNotFoundError):
            elsewhere.path(JOB, name)
    for job_id in ("", "..", "A" * 32, JOB + "0"):
        with pytest.raises(ArtifactNotFoundError):
            elsewhere.manifest(job_id)


def test_no_file_is_seen_before_the_manifest(stored: StoredArtifacts, store: ObjectStore) -> None:
    staged = stage(stored, FILES)
    (staged / NAME).write_bytes(b"changed after it was listed")
    with pytest.raises(ExportError, match="not what the manifest says"):
        stored.publish(JOB, staged)
    assert not stored.exists(JOB)
    with pytest.raises(ArtifactNotFoundError):
        stored.manifest(JOB)
    staged = stage(stored, FILES, token=2)
    (staged / NAME).unlink()
    with pytest.raises(ExportError, match="was not written"):
        stored.publish(JOB, staged)
    assert not stored.exists(JOB)


def test_a_second_attempt_changes_nothing_even_with_other_bytes(
    stored: StoredArtifacts, elsewhere: StoredArtifacts
) -> None:
    """Two hosts whose devices differ compute the same job; whoever publishes first decides, and nothing is mixed."""
    late = stage(elsewhere, {NAME: b"other bytes", "empty.txt": b""})
    stored.publish(JOB, stage(stored, FILES))
    elsewhere._send(JOB, late, f"results/{JOB}/manifest.json")  # as if it had looked before the first one published
    assert {name: content_of(elsewhere, name) for name in FILES} == FILES


def test_an_attempt_sends_nothing_that_an_earlier_one_has_sent(stored: StoredArtifacts, store: ObjectStore) -> None:
    staged = stage(stored, FILES)
    key = f"results/{JOB}/files/{hashlib.sha256(FILES[NAME]).hexdigest()}"
    store.put_over(key, FILES[NAME])
    before = store.head(key)
    (staged / NAME).unlink()  # so that it cannot be sent
    stored.publish(JOB, staged)
    assert content_of(stored, NAME) == FILES[NAME]
    assert store.head(key) == before


def test_sealing_moves_no_content(stored: StoredArtifacts, elsewhere: StoredArtifacts) -> None:
    for shard, artifacts in enumerate((stored, elsewhere)):
        part = {f"cell_{shard:04d}/frame_0000.stl": bytes([shard]) * 100}
        artifacts.publish_shard(JOB, shard, stage(artifacts, part))
    assert stored.finished_shards(JOB) == [0, 1]
    assert stored.divided() == [JOB]
    assert not stored.exists(JOB)
    assert stored.sized(JOB, "cell_0001/frame_0000.stl", shard=1)[0].read_bytes() == b"\x01" * 100
    parts = [stored.shard(JOB, shard) for shard in range(3)]
    assert parts[2] is None
    listed = [json.loads((part / "manifest.json").read_text())["files"][0] for part in parts if part]
    staged = stored.staging(JOB, 3)
    (staged / "manifest.json").write_text(json.dumps({"files": listed}))
    stored.publish(JOB, staged)
    assert content_of(elsewhere, "cell_0000/frame_0000.stl") == b"\x00" * 100
    assert stored.remove_shards(JOB)
    assert not stored.remove_shards(JOB)
    assert content_of(elsewhere, "cell_0001/frame_0000.stl") == b"\x01" * 100
    assert list((stored.root / "staging").iterdir()) == []


def test_what_shards_hand_over_is_laid_out_for_the_sealer_and_goes_with_them(
    stored: StoredArtifacts, elsewhere: StoredArtifacts, store: ObjectStore
) -> None:
    handed, kept = {"part/measured.npz": b"figures"}, {NAME: FILES[NAME]}
    elsewhere.publish_shard(JOB, 0, stage(elsewhere, handed | kept))
    folder = stored.shard(JOB, 0, laid_out=True)
    assert folder == stored.shard(JOB, 0, laid_out=True)  # a sealer before has died
    assert folder is not None
    assert {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()} == {
        **handed, **kept, "manifest.json": (folder / "manifest.json").read_bytes(),
    }  # fmt: skip
    stored.publish(JOB, stage(stored, kept, token=2))
    assert stored.remove_shards(JOB)
    contents = [info.key for info in store.below(f"results/{JOB}/files/")]
    assert contents == [f"results/{JOB}/files/{hashlib.sha256(FILES[NAME]).hexdigest()}"]
    elsewhere.publish_shard(JOB, 1, stage(elsewhere, handed))
    store.put_over(f"results/{JOB}/files/{hashlib.sha256(handed['part/measured.npz']).hexdigest()}", b"FIGURES")
    with pytest.raises(ArtifactDamagedError):
        stored.shard(JOB, 1, laid_out=True)


@pytest.mark.parametrize("damage", [b"solid two" * 1000, b"short", None], ids=["flipped", "cut", "removed"])
def test_damage_is_found_and_the_job_answers_no_other(
    stored: StoredArtifacts, store: ObjectStore, damage: bytes | None
) -> None:
    stored.publish(JOB, stage(stored, FILES))
    assert stored.reusable(JOB)
    key = f"results/{JOB}/files/{hashlib.sha256(FILES[NAME]).hexdigest()}"
    store.delete([key]) if damage is None else store.put_over(key, damage)
    with pytest.raises(ArtifactDamagedError):
        stored.verified(JOB, NAME)
    assert not stored.reusable(JOB)
    with pytest.raises(ArtifactDamagedError), stored.laid_out(JOB):
        pass
    assert not stored.copy(JOB, stored.staging(OTHER, 1))
    assert content_of(stored, "cell_0000/labels.tif") == FILES["cell_0000/labels.tif"]
    stored.clear_damage(JOB)
    assert stored.mark_damaged(JOB)
    assert not stored.mark_damaged(JOB)
    store.put_over(key, FILES[NAME])
    assert not stored.reusable(JOB)
    stored.clear_damage(JOB)
    assert stored.reusable(JOB)


def test_a_copy_within_the_store_is_a_result_of_its_own(stored: StoredArtifacts, elsewhere: StoredArtifacts) -> None:
    stored.publish(JOB, stage(stored, FILES))
    staged = elsewhere.staging(OTHER, 7)
    assert elsewhere.copy(JOB, staged)
    elsewhere.publish(OTHER, staged)
    stored.remove(JOB)
    assert {name: content_of(stored, name, job_id=OTHER) for name in FILES} == FILES
    assert not stored.exists(JOB)
    assert not stored.copy(JOB, stored.staging(OTHER, 8))


def test_cleaning_removes_what_no_job_needs(
    stored: StoredArtifacts, elsewhere: StoredArtifacts, store: ObjectStore
) -> None:
    for job_id in ("a" * 32, "b" * 32, "c" * 32):
        stored.publish(job_id, stage(stored, FILES, job_id=job_id))
        Journal(stored.records).record_request({"id": job_id})
    stored.publish_shard("c" * 32, 0, stage(stored, FILES, job_id="c" * 32))
    used, lost = stored.staging("d" * 32, 3), elsewhere.staging("e" * 32, 4)
    journal = Journal(elsewhere.records)
    assert stored_jobs(elsewhere, journal) == ["a" * 32, "b" * 32, "c" * 32]
    remove_unneeded(
        elsewhere, journal, leased={"d" * 32}, ended=["a" * 32], sealed=["c" * 32], unknown=["b" * 32], grace_s=-60,
        keep_s=-60,
    )  # fmt: skip
    assert [stored.exists(job_id) for job_id in ("a" * 32, "b" * 32, "c" * 32)] == [False, False, True]
    assert {info.key.split("/")[1] for info in store.below("results/")} == {"c" * 32}
    assert store.below("parts/") == []
    assert used.exists()
    assert not lost.exists()


def test_a_long_job_is_asked_to_stop_from_another_host(
    stored: StoredArtifacts, elsewhere: StoredArtifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.storage.stored_artifacts.STOP_LOOK_S", 0.0)
    assert not stored.asked_to_stop(JOB)
    assert not elsewhere.ask_to_stop(JOB)  # it has nothing to end with
    stored.state(JOB).mkdir(parents=True)
    (stored.state(JOB) / "attempts").touch()
    assert not stored.asked_to_stop(JOB)
    assert elsewhere.stateful() == [JOB]
    assert elsewhere.ask_to_stop(JOB)
    assert stored.asked_to_stop(JOB)
    assert stored.remove_state(JOB)
    assert not elsewhere.remove_state(JOB)
    assert not elsewhere.ask_to_stop(JOB)


# ------------------------------------------------------------------------------------------------- processes that fork


@pytest.mark.slow
def kept(artifacts: StoredArtifacts, attempt: str, content: str) -> Path:
    folder = artifacts.state(JOB) / "attempts" / attempt
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "state.json").write_text(content)
    (folder / f"{content}.safetensors").write_bytes(content.encode() * 1000)
    (folder / "epoch-000001").mkdir(exist_ok=True)
    (folder / "next.partial").write_text("half")
    return folder


def test_the_state_of_a_long_job_is_had_by_another_host(
    stored: StoredArtifacts, elsewhere: StoredArtifacts, store: ObjectStore
) -> None:
    assert not elsewhere.has_state(JOB)
    stored.send_state(JOB, "one")
    assert store.below("states/") == []  # there is nothing yet
    folder = kept(stored, "one", "first")
    stored.send_state(JOB, "one")
    before = [info.modified for info in store.below("states/")]
    stored.send_state(JOB, "one")
    assert [info.modified for info in store.below("states/")] == before
    (folder / "first.safetensors").unlink()
    kept(stored, "one", "second")
    stored.send_state(JOB, "one")

    assert elsewhere.has_state(JOB)
    elsewhere.fetch_states(JOB)
    found = elsewhere.state(JOB) / "attempts" / "one"
    assert {path.name: path.read_bytes() for path in found.iterdir()} == {
        "state.json": b"second", "second.safetensors": b"second" * 1000
    }  # fmt: skip
    kept(elsewhere, "two", "third")
    elsewhere.send_state(JOB, "two")
    assert [info.key for info in store.below("states/")] == [f"states/{JOB}/attempts/two.zip"]
    stored.fetch_states(JOB)  # the first host has the job again
    assert sorted(path.name for path in (stored.state(JOB) / "attempts").iterdir()) == ["one", "two"]
    assert stored.remove_state(JOB)
    assert store.below("states/") == []


@pytest.mark.parametrize("drop", [False, True])
def test_scrubbing_finds_damage_in_the_store_and_removes_it_if_asked(
    stored: StoredArtifacts, elsewhere: StoredArtifacts, store: ObjectStore, drop: bool
) -> None:
    stored.publish(JOB, stage(stored, FILES))
    stored.publish(OTHER, stage(stored, FILES, job_id=OTHER))
    key = f"results/{JOB}/files/{hashlib.sha256(FILES[NAME]).hexdigest()}"
    store.put_over(key, b"solid two" * 1000)
    store.put_over(f"results/{OTHER}/manifest.json", b"no manifest")
    store.put_over(f"requests/{JOB}.json", b"no request")
    scrub = Scrub(elsewhere, drop=drop)
    found = [damage for damage in scrub.steps() if damage is not None]
    assert sorted((damage.kind, damage.path, damage.dropped) for damage in found) == [
        ("manifest", f"results/{OTHER}/manifest.json", drop), ("request", f"requests/{JOB}.json", drop),
        ("result", f"results/{JOB}/{NAME}", drop),
    ]  # fmt: skip
    assert not stored.reusable(JOB)
    there = {info.key for info in store.below("")}
    assert {key, f"results/{OTHER}/manifest.json", f"requests/{JOB}.json"} & there == (
        set() if drop else {key, f"results/{OTHER}/manifest.json", f"requests/{JOB}.json"}
    )
    assert content_of(stored, "cell_0000/labels.tif") == FILES["cell_0000/labels.tif"]
    with pytest.raises(ArtifactDamagedError):
        content_of(stored, NAME)


def test_a_process_that_forks_asks_another_program(
    object_storage: ObjectServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in object_storage.environment().items():
        monkeypatch.setenv(name, value)
    url = object_storage.url()
    asked, direct = ObjectProcess(url), Objects(url)
    try:
        assert asked.put_once("a/1", b"\0\nbytes")
        assert not asked.put_once("a/1", b"others")
        asked.put_over("a/2", b"")
        (tmp_path / "file").write_bytes(b"content")
        asked.put_file("b/3", tmp_path / "file", name="x.bin")
        asked.copy("b/3", "b/4")
        assert [asked.get(key) for key in ("a/1", "a/2", "b/4", "b/5")] == [b"\0\nbytes", b"", b"content", None]
        assert asked.head("a/1") == direct.head("a/1")
        assert asked.head("a/9") is None
        assert asked.read("b/3", 1, 4) == b"ont"
        assert asked.below("") == direct.below("")
        assert asked.folders("") == ["a", "b"]
        with pytest.raises(FileNotFoundError):
            asked.read("a/9", 0, 1)
        asked.delete(["a/1", "a/9"])
        assert direct.get("a/1") is None
        asked._program.kill()  # type: ignore[union-attr]
        asked._program.wait()  # type: ignore[union-attr]
        assert asked.get("a/2") == b""  # another was started
    finally:
        asked.close()


# ----------------------------------------------------------------------------------------------------------- failures


ACTS: list[Callable[[StoredArtifacts], object]] = [
    lambda artifacts: artifacts.exists(JOB),
    lambda artifacts: artifacts.manifest(JOB),
    lambda artifacts: artifacts.probe(),
    lambda artifacts: artifacts.remove(JOB),
    lambda artifacts: artifacts.reusable(JOB),
    lambda artifacts: artifacts.publish(JOB, stage(artifacts, FILES)),
    lambda artifacts: list(Journal(artifacts.records).requests()),
    lambda artifacts: Journal(artifacts.records).record_request({"id": JOB}),
]


@pytest.mark.parametrize("act", ACTS)
def test_a_store_that_is_away_is_an_error_of_storage_never_of_the_job(
    act: Callable[[StoredArtifacts], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "none")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "none")
    monkeypatch.setattr("worker.storage.objects.RETRIES", 0)
    with pytest.raises(StoreUnavailableError) as raised:
        act(StoredArtifacts(tmp_path, Objects("s3://cells/x")))
    assert isinstance(raised.value, CytosynthError)
    assert isinstance(raised.value, OSError)
    assert "127.0.0.1" not in raised.value.message
