"""The files of jobs: written aside, published whole or not at all, removed whole.

Below the data folder, all on one file system so that a rename is atomic::

    requests/<job>.json      what was accepted, kept a second time beside the broker
    staging/<job>.<token>/   being written under one lease
    results/<job>/           published; manifest.json and the files it names
    trash/                   on its way out

Promises: a reader sees all files of a job or none; after :meth:`Artifacts.publish` they survive a power cut; no name a
client sends leads outside a job's folder.
Does not promise: that published files belong to a succeeded job; the job record says so.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Collection, Iterator
from functools import lru_cache
from pathlib import Path
from secrets import token_hex
from typing import Any

from worker.errors import ArtifactNotFoundError

MANIFEST = "manifest.json"
JOB_ID = re.compile(r"[0-9a-f]{32}")


class Artifacts:
    """The files below one data folder; ``root`` is the service's ``data_dir``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._requests = root / "requests"
        self._staging = root / "staging"
        self._results = root / "results"
        self._trash = root / "trash"

    # ---------------------------------------------------------------------------------------------------- requests

    def record_request(self, request: dict[str, Any]) -> None:
        """Keep an accepted request on disk, whole and synced, under its ``id``; one that exists is left as it is."""
        path = self._request_path(request["id"])
        if path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{token_hex(4)}")
        try:
            with draft.open("w", encoding="utf-8") as file:
                json.dump(request, file, allow_nan=False)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
            _sync_folder(path.parent)
        finally:
            draft.unlink(missing_ok=True)

    def forget_request(self, job_id: str) -> None:
        """Remove a recorded request: its job needs no restoring any more."""
        self._request_path(job_id).unlink(missing_ok=True)

    def requests(self) -> Iterator[dict[str, Any]]:
        """Yield the recorded requests, oldest first."""
        for path in sorted(self._requests.glob("[0-9a-f]*.json")):
            yield json.loads(path.read_bytes())

    # ----------------------------------------------------------------------------------------------------- writing

    def staging(self, job_id: str, token: int | str) -> Path:
        """Return a fresh, empty folder for one lease of a job."""
        folder = self._staging / f"{_checked(job_id)}.{token}"
        self._discard(folder)
        folder.mkdir(parents=True)
        return folder

    def discard(self, staged: Path) -> None:
        """Remove a staging folder; one that is gone already does no harm."""
        self._discard(staged)

    def publish(self, job_id: str, staged: Path) -> None:
        """Move a finished staging folder to its place, synced to disk, in one step.

        Where another attempt of the same job has published before, its files stay: the same spec gave the same bytes,
        and somebody may be reading them.
        """
        target = self._results / _checked(job_id)
        self._results.mkdir(parents=True, exist_ok=True)
        for folder, _, files in os.walk(staged, topdown=False):
            for name in files:
                _sync_file(Path(folder) / name)
            _sync_folder(Path(folder))
        try:
            staged.rename(target)
        except OSError:
            if not target.is_dir():
                raise
            self._discard(staged)
        _sync_folder(self._results)

    # ----------------------------------------------------------------------------------------------------- reading

    def exists(self, job_id: str) -> bool:
        """Whether a job's files are published."""
        return (self._results / _checked(job_id) / MANIFEST).is_file()

    def manifest(self, job_id: str) -> dict[str, Any]:
        """Return the manifest of a job's files; shared between callers, so do not change it.

        Raises
        ------
        ArtifactNotFoundError
            If the job has none.
        """
        return self._read(job_id)[0]

    def path(self, job_id: str, name: str) -> Path:
        """Return where one file of a job lies; ``name`` is ``manifest.json`` or one that the manifest lists.

        Raises
        ------
        ArtifactNotFoundError
            If there is none of that name, whatever lies at such a path.
        """
        _, names = self._read(job_id)
        if name != MANIFEST and name not in names:
            raise ArtifactNotFoundError(f"job {job_id} has no file {name[:200]!r}; its manifest lists those it has")
        folder = (self._results / job_id).resolve()
        path = (folder / name).resolve()
        # The manifest is our own; this holds even if one was altered.
        if not path.is_relative_to(folder) or not path.is_file():
            raise ArtifactNotFoundError(f"the file {name[:200]!r} of job {job_id} is gone; request the job again")
        return path

    # ---------------------------------------------------------------------------------------------------- removing

    def remove(self, job_id: str) -> None:
        """Remove a job's published files, all at once for a reader; no harm if there are none."""
        self._discard(self._results / _checked(job_id))

    def stored(self) -> list[str]:
        """Return the ids of all jobs with a request or files on disk."""
        names = {path.stem for folder in (self._requests, self._results) for path in _entries(folder)}
        return sorted(name for name in names if JOB_ID.fullmatch(name))

    def sweep(
        self,
        *,
        leased: Collection[str],
        ended: Collection[str] = (),
        unknown: Collection[str] = (),
        grace_s: float = 60.0,
        keep_s: float = 7 * 86400.0,
    ) -> None:
        """Remove what no job needs.

        Parameters
        ----------
        leased
            Jobs that are being run: their staging folders stay. Others go once ``grace_s`` old.
        ended
            Jobs that ended without files: whatever lies there goes.
        unknown
            Jobs without a record. Their files go only once ``keep_s`` old, because the broker may have lost its data
            and be about to be rebuilt from them.
        """
        now = time.time()
        for folder in _entries(self._staging):
            if folder.name.partition(".")[0] not in leased and _age(folder, now) > grace_s:
                self._discard(folder)
        for job_id in ended:
            self.remove(job_id)
            self.forget_request(job_id)
        for job_id in unknown:
            if _age(self._results / job_id, now) > keep_s:
                self.remove(job_id)
            if _age(self._request_path(job_id), now) > keep_s:
                self.forget_request(job_id)
        for left in _entries(self._trash):
            shutil.rmtree(left, ignore_errors=True)

    # ----------------------------------------------------------------------------------------------------- private

    def _request_path(self, job_id: str) -> Path:
        return self._requests / f"{_checked(job_id)}.json"

    def _read(self, job_id: str) -> tuple[dict[str, Any], frozenset[str]]:
        path = self._results / _checked(job_id) / MANIFEST
        try:
            return _read_manifest(path, path.stat().st_mtime_ns)
        except FileNotFoundError:
            raise ArtifactNotFoundError(f"job {job_id} has no files") from None

    def _discard(self, folder: Path) -> None:
        # First out of sight, then piece by piece: a reader never finds half a folder.
        self._trash.mkdir(parents=True, exist_ok=True)
        doomed = self._trash / token_hex(8)
        try:
            folder.rename(doomed)
        except FileNotFoundError:
            return
        shutil.rmtree(doomed, ignore_errors=True)


@lru_cache(maxsize=32)  # one download asks for every file in turn, and a manifest may be megabytes
def _read_manifest(path: Path, mtime_ns: int) -> tuple[dict[str, Any], frozenset[str]]:
    document: dict[str, Any] = json.loads(path.read_bytes())
    return document, frozenset(entry["name"] for entry in document["files"])


def _checked(job_id: str) -> str:
    if not JOB_ID.fullmatch(job_id):
        raise ArtifactNotFoundError(f"{job_id[:64]!r} is not the id of a job")
    return job_id


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _age(path: Path, now: float) -> float:
    try:
        return now - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
