"""Files of jobs: whole or absent, and never outside their folder."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from damage import cut, flip

from worker.errors import ArtifactDamagedError, ArtifactNotFoundError
from worker.storage.artifacts import Artifacts
from worker.storage.cleanup import remove_unneeded, stored_jobs
from worker.storage.journal import Journal

JOB = "0123456789abcdef" * 2
NAME = "cell_0000/frame_0000.stl"


def publish(artifacts: Artifacts, *, job_id: str = JOB, token: int = 1, text: str = "solid") -> None:
    staged = artifacts.staging(job_id, token)
    (staged / NAME).parent.mkdir()
    (staged / NAME).write_text(text)
    (staged / "extra.txt").write_text("not in the manifest")
    (staged / "manifest.json").write_text(json.dumps({"files": [{"name": NAME, "bytes": len(text)}]}))
    artifacts.publish(job_id, staged)


def test_published_files_are_found_by_the_names_in_the_manifest(artifacts: Artifacts) -> None:
    publish(artifacts)
    assert artifacts.exists(JOB)
    assert artifacts.path(JOB, NAME).read_text() == "solid"
    assert json.loads(artifacts.path(JOB, "manifest.json").read_text()) == artifacts.manifest(JOB)
    assert list((artifacts.root / "staging").iterdir()) == []


@pytest.mark.parametrize(
    "name",
    [
        "extra.txt",
        "",
        ".",
        "cell_0000",
        "../" + JOB + "/" + NAME,
        "../../requests/x.json",
        "/etc/passwd",
        "cell_0000/../manifest.json",
        "cell_0000//frame_0000.stl",
        NAME + "\0",
        "%2e%2e/manifest.json",
        "x" * 100_000,
    ],
)
def test_no_name_leads_to_anything_but_a_listed_file(artifacts: Artifacts, name: str) -> None:
    publish(artifacts)
    with pytest.raises(ArtifactNotFoundError):
        artifacts.path(JOB, name)


def test_even_an_altered_manifest_leads_nowhere_else(artifacts: Artifacts) -> None:
    publish(artifacts)
    (artifacts.root / "secret").write_text("s")
    folder = artifacts.root / "results" / JOB
    (folder / "link").symlink_to(artifacts.root / "secret")
    names = ["../../secret", str(artifacts.root / "secret"), "link"]
    (folder / "manifest.json").write_text(json.dumps({"files": [{"name": name} for name in names]}))
    for name in names:
        with pytest.raises(ArtifactNotFoundError):
            artifacts.path(JOB, name)


@pytest.mark.parametrize("job_id", ["", "..", "../results", "A" * 32, JOB[:-1], JOB + "0", JOB[:-1] + "\n", "\0" * 32])
def test_what_is_not_an_id_touches_no_file(artifacts: Artifacts, job_id: str) -> None:
    (artifacts.root / "results").mkdir()
    for act in (artifacts.manifest, artifacts.remove, artifacts.exists, Journal(artifacts.root).forget_request):
        with pytest.raises(ArtifactNotFoundError):
            act(job_id)
    with pytest.raises(ArtifactNotFoundError):
        artifacts.staging(job_id, 1)
    assert (artifacts.root / "results").is_dir()


def test_a_job_without_files_has_no_manifest(artifacts: Artifacts) -> None:
    assert not artifacts.exists(JOB)
    with pytest.raises(ArtifactNotFoundError):
        artifacts.manifest(JOB)
    artifacts.staging(JOB, 1)
    assert not artifacts.exists(JOB)


def test_staging_is_fresh_for_every_lease(artifacts: Artifacts) -> None:
    first = artifacts.staging(JOB, 1)
    (first / "half").write_text("h")
    assert list(artifacts.staging(JOB, 2).iterdir()) == []
    assert (first / "half").exists()
    assert list(artifacts.staging(JOB, 1).iterdir()) == []


def test_second_attempt_to_publish_leaves_the_first_ones_files(artifacts: Artifacts) -> None:
    publish(artifacts, token=1, text="first")
    publish(artifacts, token=2, text="second")
    assert artifacts.path(JOB, NAME).read_text() == "first"
    assert list((artifacts.root / "staging").iterdir()) == []


def test_publishing_what_is_gone_is_an_error(artifacts: Artifacts) -> None:
    staged = artifacts.staging(JOB, 1)
    artifacts.discard(staged)
    artifacts.discard(staged)
    with pytest.raises(FileNotFoundError):
        artifacts.publish(JOB, staged)
    assert not artifacts.exists(JOB)


def test_a_reader_sees_all_files_of_a_job_or_none(artifacts: Artifacts) -> None:
    stop, seen = threading.Event(), set()
    results = artifacts.root / "results"
    results.mkdir()

    def read() -> None:
        while not stop.is_set():
            for folder in results.iterdir():
                seen.add(tuple(sorted(path.name for path in folder.rglob("*"))))

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(40):
        publish(artifacts, job_id=f"{number:032x}")
    stop.set()
    reader.join()
    assert seen == {("cell_0000", "frame_0000.stl", "manifest.json")}  # what the manifest does not name is dropped


def test_requests_are_kept_whole_once_and_in_order(artifacts: Artifacts) -> None:
    first, second = {"id": "1" * 32, "spec": {"seed": 2**64 - 1}}, {"id": "2" * 32, "spec": {}}
    Journal(artifacts.root).record_request(second)
    Journal(artifacts.root).record_request(first)
    Journal(artifacts.root).record_request({**first, "spec": "changed"})
    assert list(Journal(artifacts.root).requests()) == [first, second]
    Journal(artifacts.root).forget_request("1" * 32)
    Journal(artifacts.root).forget_request("1" * 32)
    assert list(Journal(artifacts.root).requests()) == [second]
    assert [path.name for path in (artifacts.root / "requests").iterdir()] == [f"{'2' * 32}.json"]


def test_sweep_removes_what_no_job_needs(artifacts: Artifacts) -> None:
    for job_id in ("a" * 32, "b" * 32, "c" * 32):
        publish(artifacts, job_id=job_id)
        Journal(artifacts.root).record_request({"id": job_id})
    old = time.time() - 100
    for path in (artifacts.root / "results" / ("b" * 32), artifacts.root / "requests" / f"{'b' * 32}.json"):
        os.utime(path, (old, old))
    used, lost = artifacts.staging("d" * 32, 3), artifacts.staging("e" * 32, 4)
    assert stored_jobs(artifacts, Journal(artifacts.root)) == ["a" * 32, "b" * 32, "c" * 32]
    remove_unneeded(
        artifacts,
        Journal(artifacts.root),
        leased={"d" * 32},
        ended=["a" * 32],
        unknown=["b" * 32, "c" * 32],
        grace_s=-1,
        keep_s=50,
    )
    assert not artifacts.exists("a" * 32)
    assert not artifacts.exists("b" * 32)
    assert artifacts.exists("c" * 32)
    assert used.exists()
    assert not lost.exists()
    assert [request["id"] for request in Journal(artifacts.root).requests()] == ["a" * 32, "c" * 32]


def test_removed_folder_leaves_nothing_in_the_bin(artifacts: Artifacts, tmp_path: Path) -> None:
    publish(artifacts)
    artifacts.remove(JOB)
    artifacts.remove(JOB)
    assert list((tmp_path / "trash").iterdir()) == []


def test_removing_many_files_is_over_soon_and_the_rest_goes_later(
    artifacts: Artifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(artifacts)
    monkeypatch.setattr("worker.storage.artifacts.DISCARD_S", -1.0)  # no time at all
    artifacts.remove(JOB)
    assert not artifacts.exists(JOB)
    assert len([path for path in (tmp_path / "trash").rglob("*") if path.is_file()]) > 1
    artifacts.empty_trash()
    assert list((tmp_path / "trash").iterdir()) == []


def publish_summed(artifacts: Artifacts, *, job_id: str = JOB) -> Path:
    staged = artifacts.staging(job_id, 1)
    (staged / "a").write_bytes(b"content")
    entry = {"name": "a", "bytes": 7, "sha256": hashlib.sha256(b"content").hexdigest()}
    (staged / "manifest.json").write_text(json.dumps({"files": [entry]}))
    artifacts.publish(job_id, staged)
    return artifacts.path(job_id, "a")


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
def test_an_altered_file_is_found_also_after_it_was_sound(artifacts: Artifacts, damage: Callable[[Path], None]) -> None:
    path = publish_summed(artifacts)
    assert artifacts.verified(JOB, "a")[0] == path
    assert artifacts.reusable(JOB)
    damage(path)
    with pytest.raises(ArtifactDamagedError):
        artifacts.verified(JOB, "a")
    assert not artifacts.reusable(JOB)


def test_an_altered_file_whose_times_stayed_is_found_by_looking_anew(artifacts: Artifacts) -> None:
    path = publish_summed(artifacts)
    artifacts.verified(JOB, "a")
    facts = path.stat()
    flip(path)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    with pytest.raises(ArtifactDamagedError):
        artifacts.verified(JOB, "a", reread=True)


GARBAGE = [
    b"",
    b"\xff\xfe",
    b"{",
    b"[]",
    b"null",
    b'"x"',
    b"{}",
    b'{"files": 3}',
    b'{"files": [3]}',
    b'{"files": [{}]}',
]


@pytest.mark.parametrize("content", [*GARBAGE, b'{"files": [{"name": "a", "bytes": "7"}]}'])
def test_a_garbage_manifest_is_damage(artifacts: Artifacts, content: bytes) -> None:
    publish_summed(artifacts)
    manifest = artifacts.path(JOB, "manifest.json")
    manifest.chmod(0o644)
    manifest.write_bytes(content)
    for look in (artifacts.manifest, lambda job_id: artifacts.path(job_id, "a")):
        with pytest.raises(ArtifactDamagedError, match="request the job again"):
            look(JOB)
    assert not artifacts.reusable(JOB)


@pytest.mark.parametrize("content", GARBAGE)
def test_garbage_records_are_passed_over(artifacts: Artifacts, content: bytes) -> None:
    for folder in ("requests", "verdicts", "aliases"):
        (artifacts.root / folder).mkdir()
        (artifacts.root / folder / f"{JOB}.json").write_bytes(content)
    assert list(Journal(artifacts.root).requests()) == []
    assert Journal(artifacts.root).outcome(JOB) is None
    assert list(Journal(artifacts.root).aliases()) == []
    assert Journal(artifacts.root).record_request({"id": JOB, "spec": {}}) == {"id": JOB, "spec": {}}
    assert list(Journal(artifacts.root).requests()) == [{"id": JOB, "spec": {}}]


@pytest.mark.parametrize("wrong_s", [-86400.0, 86400.0])
def test_cleaning_goes_by_the_clock_of_the_files(
    artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch, wrong_s: float
) -> None:
    """A machine whose clock is a day fast removes no fresh file of another, and one that is slow removes old ones."""
    journal = Journal(artifacts.root)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + wrong_s)
    fresh, old = artifacts.staging(JOB, 1), artifacts.staging(JOB[::-1], 2)
    journal.record_request({"id": JOB})
    past = real() - 7200.0
    os.utime(old, (past, past))
    assert remove_unneeded(artifacts, journal, leased=[], unknown=[JOB], grace_s=3600.0, keep_s=3600.0) == 1
    assert fresh.exists()
    assert not old.exists()
    assert journal.has_request(JOB)
    assert [path.name for path in artifacts.root.iterdir() if path.name.startswith(".")] == []
