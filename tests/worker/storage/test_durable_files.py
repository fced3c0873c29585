"""Promises of worker.storage.durable_files and of publishing: what is promised to be on disk has been synced there."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from worker.storage.artifacts import Artifacts
from worker.storage.durable_files import write_once, write_over
from worker.storage.journal import Journal

JOB = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Inodes of the files and folders that were synced; the real call is made."""
    seen: set[int] = set()
    fsync = os.fsync

    def recorded(handle: int) -> None:
        fsync(handle)
        seen.add(os.fstat(handle).st_ino)

    monkeypatch.setattr(os, "fsync", recorded)
    return seen


def inode(path: Path) -> int:
    return path.stat().st_ino


@pytest.mark.parametrize("write", [write_once, write_over])
def test_a_written_file_and_its_name_are_on_disk(write: object, tmp_path: Path, synced: set[int]) -> None:
    path = tmp_path / "folder" / "file"
    write(path, b"content")  # type: ignore[operator]
    assert path.read_bytes() == b"content"
    assert {inode(path), inode(path.parent)} <= synced


def test_an_accepted_request_is_on_disk_before_it_is_answered(tmp_path: Path, synced: set[int]) -> None:
    Journal(tmp_path).record_request({"id": JOB})
    path = tmp_path / "requests" / f"{JOB}.json"
    assert {inode(path), inode(path.parent)} <= synced


def test_published_files_and_the_folders_that_name_them_are_on_disk(tmp_path: Path, synced: set[int]) -> None:
    artifacts = Artifacts(tmp_path)
    staged = artifacts.staging(JOB, 1)
    (staged / "cell_0000").mkdir()
    (staged / "cell_0000" / "a.stl").write_bytes(b"solid")
    listed = {"name": "cell_0000/a.stl", "bytes": 5, "sha256": hashlib.sha256(b"solid").hexdigest()}
    (staged / "manifest.json").write_text(json.dumps({"files": [listed]}))
    artifacts.publish(JOB, staged)
    results = tmp_path / "results"
    files = [results / JOB / "manifest.json", results / JOB / "cell_0000" / "a.stl"]
    assert {inode(path) for path in [*files, results, results / JOB, results / JOB / "cell_0000"]} <= synced
