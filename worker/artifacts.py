"""The files of jobs: written aside, published whole or not at all, removed whole.

Below the data folder, all on one file system so that a rename is atomic::

    requests/<job>.json      what was accepted, kept a second time beside the broker
    staging/<job>.<token>/   being written under one lease
    results/<job>/           published: manifest.json and the files it names, which nobody may write any more
    blobs/<2>/<sha256>       the contents of those files, each once (:mod:`worker.blobs`)
    verdicts/<job>.json      how a job ended that has no files
    pins/<job>               its files are kept until the client lets go; then, since when they are not
    aliases/<key>.json       an Idempotency-Key that stands for a job which was made for another request
    trash/                   on its way out

Promises: a reader sees all files of a job or none; after :meth:`Artifacts.publish` they survive a power cut, and are
what their manifest says; no name a client sends leads outside a job's folder.
Does not promise: that published files belong to a succeeded job; the job record says so.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from secrets import token_hex
from typing import Any

from worker.blobs import Blobs
from worker.durable import DRAFT, NO_LINKS, sync_file, sync_folder, write_once, write_over
from worker.errors import ArtifactNotFoundError, ExportError

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
RELEASED = b"released"
JOB_ID = re.compile(r"[0-9a-f]{32}")


class Artifacts:
    """The files below one data folder; ``root`` is the service's ``data_dir``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._requests = root / "requests"
        self._staging = root / "staging"
        self._results = root / "results"
        self._verdicts = root / "verdicts"
        self._pins = root / "pins"
        self._aliases = root / "aliases"
        self._trash = root / "trash"
        self._blobs = Blobs(root / "blobs")

    # ------------------------------------------------------------------------------------------- beside the broker

    def record_request(self, request: dict[str, Any]) -> dict[str, Any]:
        """Keep an accepted request on disk, whole and synced, under its ``id``; return it, or the one that is there."""
        path = self._request_path(request["id"])
        if not path.exists() and write_once(path, json.dumps(request, allow_nan=False).encode()):
            return request
        sync_folder(path.parent)  # whoever wrote it may not have come so far
        recorded: dict[str, Any] = json.loads(path.read_bytes())
        return recorded

    def forget_request(self, job_id: str) -> None:
        """Remove a recorded request, and what goes with it: its job needs no restoring any more."""
        for path in (self._request_path(job_id), self._verdict_path(job_id), self._pins / job_id):
            path.unlink(missing_ok=True)

    def requested(self) -> list[str]:
        """Return the ids of the recorded requests, oldest first."""
        try:
            names = [path.name.partition(".")[0] for path in self._requests.iterdir()]
        except FileNotFoundError:
            return []  # there never was one; a folder that cannot be read is another matter
        return sorted(name for name in names if JOB_ID.fullmatch(name))

    def requests(self, job_ids: Collection[str] | None = None) -> Iterator[dict[str, Any]]:
        """Yield recorded requests, all of them or those of some jobs; one that is removed meanwhile is left out.

        One that is damaged, too: it cannot be had back by waiting, and must not keep the others from being restored.
        """
        for job_id in self.requested() if job_ids is None else job_ids:
            try:
                request: dict[str, Any] = json.loads(self._request_path(job_id).read_bytes())
            except FileNotFoundError:
                continue
            except ValueError:
                log.critical("job %s: its recorded request is damaged and cannot be restored", job_id)
                continue
            yield request

    def has_request(self, job_id: str) -> bool:
        """Whether a request is recorded."""
        return self._request_path(job_id).exists()

    def record_alias(self, key: str, alias: dict[str, str]) -> None:
        """Keep what an Idempotency-Key, here its fingerprint, stands for; the last word counts."""
        path, content = self._aliases / f"{key}.json", json.dumps(alias).encode()
        with suppress(FileNotFoundError):
            if path.read_bytes() == content:
                return
        write_over(path, content)

    def aliases(self) -> Iterator[tuple[str, dict[str, str], float]]:
        """Yield the fingerprint of each key, what it stands for, and since when, in seconds since 1970."""
        for path in _entries(self._aliases):
            if not path.name.startswith(DRAFT):
                with suppress(FileNotFoundError, ValueError):
                    yield path.stem, json.loads(path.read_bytes()), path.stat().st_mtime

    def record_verdict(self, job_id: str, verdict: dict[str, Any]) -> None:
        """Keep how a job ended that has no files; the last word counts, for a job expires after it succeeded."""
        write_over(self._verdict_path(job_id), json.dumps(verdict, allow_nan=False).encode())

    def verdict(self, job_id: str) -> dict[str, Any] | None:
        """Return how a job ended without files; None if it did not."""
        try:
            verdict: dict[str, Any] = json.loads(self._verdict_path(job_id).read_bytes())
        except FileNotFoundError:
            return None
        return verdict

    def pin(self, job_id: str, *, pinned: bool) -> None:
        """Remember that a job's files are to be kept, or that since now they are not any more."""
        write_over(self._pins / _checked(job_id), b"" if pinned else RELEASED)

    def unpin(self, job_id: str) -> None:
        """Forget that anybody asked to keep a job's files."""
        (self._pins / _checked(job_id)).unlink(missing_ok=True)

    def pinned(self, job_id: str) -> bool:
        """Whether a job's files are to be kept."""
        try:
            return (self._pins / _checked(job_id)).read_bytes() != RELEASED
        except FileNotFoundError:
            return False

    def released_at(self, job_id: str) -> float:
        """Return when the client let go of a job's files, in seconds since 1970; 0 if that never was."""
        path = self._pins / _checked(job_id)
        try:
            return path.stat().st_mtime if path.read_bytes() == RELEASED else 0.0
        except FileNotFoundError:
            return 0.0

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
        and somebody may be reading them. Files that the manifest does not name are dropped.

        Raises
        ------
        ExportError
            If a file is not what the manifest says.
        OSError
            If the disk does not take them.
        """
        target = self._results / _checked(job_id)
        self._results.mkdir(parents=True, exist_ok=True)
        manifest = json.loads((staged / MANIFEST).read_bytes())
        sums = {entry["name"]: entry.get("sha256") for entry in manifest["files"]}
        changed: set[Path] = set()
        for place, _, files in os.walk(staged, topdown=False):
            for path in (Path(place) / file for file in files):
                name = path.relative_to(staged).as_posix()
                if name not in sums and name != MANIFEST:
                    path.unlink()
                else:
                    changed |= self._settle(path, name=name, expected=sums.pop(name, None))
            sync_folder(Path(place))
        if sums:
            raise ExportError(f"{len(sums)} files of the manifest were not written, {min(sums)[:200]!r} among them")
        for folder in changed:
            sync_folder(folder)
        for last in (False, False, True):
            try:
                staged.rename(target)
            except OSError:
                if target.is_dir():
                    self._discard(staged)
                elif last:
                    raise
                else:
                    continue  # what was in the way has just been removed
            break
        sync_folder(self._results)

    def copy(self, source: str, staged: Path) -> bool:
        """Fill a staging folder with the files of another job; False if that job has none (any more)."""
        folder = self._results / _checked(source)
        try:
            shutil.copytree(folder, staged, copy_function=_link, dirs_exist_ok=True)
            complete = (staged / MANIFEST).is_file()
        except (FileNotFoundError, shutil.Error):
            complete = False
        return complete

    def probe(self) -> None:
        """Prove that every step of a job can be written; raises ``OSError`` where one cannot."""
        for folder in (self._requests, self._staging, self._results, self.root / "blobs", self._verdicts, self._trash):
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(b"fit?")
                file.flush()

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

    def published_at(self, job_id: str) -> float:
        """Return when a job's files were written, in seconds since 1970; raises ``ArtifactNotFoundError``."""
        try:
            return (self._results / _checked(job_id) / MANIFEST).stat().st_mtime
        except FileNotFoundError:
            raise ArtifactNotFoundError(f"job {job_id} has no files") from None

    def stored(self) -> list[str]:
        """Return the ids of all jobs with anything on disk."""
        folders = (self._requests, self._results, self._verdicts, self._pins)
        names = {path.name.partition(".")[0] for folder in folders for path in _entries(folder)}
        return sorted(name for name in names if JOB_ID.fullmatch(name))

    def sweep(
        self,
        *,
        leased: Collection[str],
        ended: Collection[str] = (),
        unknown: Collection[str] = (),
        grace_s: float = 60.0,
        keep_s: float = 7 * 86400.0,
        alias_s: float = 7 * 86400.0,
    ) -> int:
        """Remove what no job needs; returns how many things that were.

        Parameters
        ----------
        leased
            Jobs that are being run: their staging folders stay. Others go once ``grace_s`` old, as do drafts.
        ended
            Jobs that ended without files: whatever lies there goes.
        unknown
            Jobs without a record: what they left goes once ``keep_s`` old, for a request is written before its record.
        alias_s
            How long an Idempotency-Key stands for something.
        """
        now, removed = time.time(), 0
        for folder in _entries(self._staging):
            if folder.name.partition(".")[0] not in leased and _age(folder, now) > grace_s:
                self._discard(folder)
                removed += 1
        for job_id in ended:
            if (self._results / job_id).exists():
                self.remove(job_id)
                removed += 1
        for job_id in unknown:
            places = (self._results / job_id, self._request_path(job_id), self._verdict_path(job_id))
            if all(_age(place, now) > keep_s for place in places if place.exists()):
                self.remove(job_id)
                self.forget_request(job_id)
                removed += 1
        written = (self._requests, self._verdicts, self._pins, self._aliases)
        for draft in (entry for at in written for entry in _entries(at)):
            outdated = draft.parent == self._aliases and _age(draft, now) > alias_s
            if outdated or (draft.name.startswith(DRAFT) and _age(draft, now) > grace_s):
                draft.unlink(missing_ok=True)
                removed += 1
        for left in _entries(self._trash):
            shutil.rmtree(left, ignore_errors=True)
        return removed + self._blobs.sweep()

    # ----------------------------------------------------------------------------------------------------- private

    def _request_path(self, job_id: str) -> Path:
        return self._requests / f"{_checked(job_id)}.json"

    def _verdict_path(self, job_id: str) -> Path:
        return self._verdicts / f"{_checked(job_id)}.json"

    def _settle(self, path: Path, *, name: str, expected: str | None) -> set[Path]:
        """Bring one file to disk for good; return the folders whose names must follow."""
        path.chmod(0o444)  # its content may be shared
        sha256 = sync_file(path)
        if expected is not None and sha256 != expected:
            raise ExportError(f"{name[:200]!r} is not what the manifest says; the disk may be failing")
        if name == MANIFEST:
            return set()  # the job's own: it tells when the files were written
        folder = self._blobs.share(path, sha256)
        return {folder} if folder else set()

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


def _link(source: str, target: str) -> None:
    """Copy a file by a further link where that can be; the manifest always, it is the job's own."""
    if Path(source).name != MANIFEST:
        try:
            os.link(source, target)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
        else:
            return
    shutil.copyfile(source, target)


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _age(path: Path, now: float) -> float:
    try:
        return now - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
