"""Contents are kept once, as long as some job has them."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import pytest
from damage import cut, flip

from model.errors import ExportError
from worker.storage.artifacts import Artifacts
from worker.storage.cleanup import remove_unneeded
from worker.storage.content_store import ContentStore
from worker.storage.journal import Journal

ONE, TWO = "1" * 32, "2" * 32
NAME = "cell_0000/frame_0000.stl"


def stage(artifacts: Artifacts, job_id: str, content: bytes, *, sha256: str | None = None) -> Path:
    staged = artifacts.staging(job_id, 1)
    (staged / NAME).parent.mkdir()
    (staged / NAME).write_bytes(content)
    entry = {"name": NAME, "bytes": len(content), "sha256": sha256 or hashlib.sha256(content).hexdigest()}
    (staged / "manifest.json").write_text(json.dumps({"files": [entry]}))
    return staged


def publish(artifacts: Artifacts, job_id: str, content: bytes) -> None:
    artifacts.publish(job_id, stage(artifacts, job_id, content))


def blobs(artifacts: Artifacts) -> list[str]:
    return ContentStore(artifacts.root / "blobs").contents()


def test_identical_files_of_two_jobs_take_the_room_of_one(artifacts: Artifacts) -> None:
    for job_id in (ONE, TWO):
        publish(artifacts, job_id, b"same")
    paths = [artifacts.path(job_id, NAME) for job_id in (ONE, TWO)]
    assert paths[0].samefile(paths[1])
    assert [path.read_bytes() for path in paths] == [b"same", b"same"]
    assert blobs(artifacts) == [hashlib.sha256(b"same").hexdigest()]


def test_a_content_stays_while_one_job_has_it_and_goes_with_the_last(artifacts: Artifacts) -> None:
    for job_id in (ONE, TWO):
        publish(artifacts, job_id, b"same")
    artifacts.remove(ONE)
    remove_unneeded(artifacts, Journal(artifacts.root), leased=())
    assert artifacts.path(TWO, NAME).read_bytes() == b"same"
    assert len(blobs(artifacts)) == 1
    artifacts.remove(TWO)
    assert remove_unneeded(artifacts, Journal(artifacts.root), leased=()) == 1
    assert blobs(artifacts) == []


def test_published_files_cannot_be_written_any_more(artifacts: Artifacts) -> None:
    publish(artifacts, ONE, b"same")
    assert artifacts.path(ONE, NAME).stat().st_mode & 0o222 == 0


def test_a_file_that_is_not_what_the_manifest_says_is_never_published(artifacts: Artifacts) -> None:
    staged = stage(artifacts, ONE, b"damaged", sha256=hashlib.sha256(b"whole").hexdigest())
    with pytest.raises(ExportError, match="not what the manifest says"):
        artifacts.publish(ONE, staged)
    staged = stage(artifacts, ONE, b"gone")
    (staged / NAME).unlink()
    with pytest.raises(ExportError, match="not written"):
        artifacts.publish(ONE, staged)
    assert not artifacts.exists(ONE)


def test_a_janitor_beside_publishers_takes_nothing_from_them(artifacts: Artifacts) -> None:
    """Publishers make, share and drop the same few contents while the janitor removes what is unused."""
    done = threading.Event()

    def content(number: int) -> bytes:
        return f"content {number % 3}".encode()

    def work(worker: int) -> None:
        for number in range(60):
            publish(artifacts, f"{worker:016x}{number:016x}", content(number))
            if number % 2:
                artifacts.remove(f"{worker:016x}{number:016x}")

    def clean() -> None:
        while not done.is_set():
            ContentStore(artifacts.root / "blobs").sweep()

    janitor = threading.Thread(target=clean)
    janitor.start()
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(work, range(3)))  # raises what they raised
    done.set()
    janitor.join()
    for worker, number in product(range(3), range(0, 60, 2)):
        assert artifacts.path(f"{worker:016x}{number:016x}", NAME).read_bytes() == content(number)
    assert not list((artifacts.root / "results").rglob(".*"))


def test_a_content_that_the_disk_cut_short_is_not_shared(artifacts: Artifacts) -> None:
    publish(artifacts, ONE, b"whole")
    blob = next((artifacts.root / "blobs").glob("*/*"))
    blob.unlink()
    blob.write_bytes(b"wh")
    publish(artifacts, TWO, b"whole")
    assert artifacts.path(TWO, NAME).read_bytes() == b"whole"
    assert blob.read_bytes() == b"whole"


def test_without_hard_links_every_job_keeps_its_own_copy(artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    for job_id in (ONE, TWO):
        publish(artifacts, job_id, b"same")
        Journal(artifacts.root).record_request({"id": job_id})
    assert artifacts.path(ONE, NAME).read_bytes() == artifacts.path(TWO, NAME).read_bytes() == b"same"
    assert blobs(artifacts) == []
    staged = artifacts.staging("3" * 32, 1)
    assert artifacts.copy(ONE, staged)
    assert (staged / NAME).read_bytes() == b"same"
    assert Journal(artifacts.root).requested() == [ONE, TWO]


def test_the_files_of_another_job_are_copied_whole_or_not_at_all(artifacts: Artifacts) -> None:
    publish(artifacts, ONE, b"same")
    staged = artifacts.staging(TWO, 1)
    assert artifacts.copy(ONE, staged)
    artifacts.publish(TWO, staged)
    assert artifacts.manifest(TWO) == artifacts.manifest(ONE)
    assert artifacts.path(TWO, NAME).samefile(artifacts.path(ONE, NAME))
    assert not artifacts.path(TWO, "manifest.json").samefile(artifacts.path(ONE, "manifest.json"))
    assert not artifacts.copy("4" * 32, artifacts.staging("5" * 32, 1))


@pytest.mark.parametrize("damage", [flip, cut])
def test_a_content_that_the_disk_altered_is_dropped_and_counted(
    artifacts: Artifacts, damage: Callable[[Path], None]
) -> None:
    publish(artifacts, ONE, b"whole")
    damage(artifacts.path(ONE, NAME))
    publish(artifacts, TWO, b"whole")
    assert artifacts.path(TWO, NAME).read_bytes() == b"whole"
    assert not artifacts.path(TWO, NAME).samefile(artifacts.root / "results" / ONE / NAME)
    assert artifacts.blobs.path(hashlib.sha256(b"whole").hexdigest()).read_bytes() == b"whole"
    assert (artifacts.take_damages(), artifacts.take_damages()) == (1, 0)
    publish(artifacts, "3" * 32, b"whole")
    assert artifacts.path("3" * 32, NAME).samefile(artifacts.path(TWO, NAME))
