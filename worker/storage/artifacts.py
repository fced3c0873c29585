"""The files of jobs: written to a staging folder, published whole or not at all, removed whole.

Below the data folder, all on one file system so that a rename is atomic::

    staging/<job>.<token>/   being written under one lease
    results/<job>/           published: manifest.json and the files it names, which are not written any more
    results/<job>/<n>/       those of a shard, with its manifest.json, where one manifest cannot list all cells
    parts/<job>/<n>/         the same for one shard of a job that is divided, until the job is sealed
    states/<job>/            what a long job keeps between its attempts, until it has ended
    blobs/<2>/<sha256>       the contents of those files, each once (:mod:`worker.storage.content_store`)
    damaged/<job>            some of its files are damaged: no other request is answered with them
    trash/                   being removed

Promises: a reader sees all files of a job or none; after :meth:`Artifacts.publish` they survive a power cut, and are
what their manifest says. :meth:`Artifacts.verified` reports a file that was changed since as damaged. No name that a
client sends leads outside a job's folder.
Does not promise: that published files belong to a succeeded job; the job record says so.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from secrets import token_hex
from typing import Any

from model.output.contents import Contents, shard_manifest
from worker.errors import ArtifactDamagedError, ArtifactNotFoundError, ExportError
from worker.job_id import JOB_ID, checked
from worker.storage.content_store import ContentStore
from worker.storage.durable_files import (
    DRAFT,
    age_s,
    checksum,
    entries,
    file_system_time,
    link_tree,
    sync_file,
    sync_folder,
    write_once,
    write_over,
)
from worker.storage.objects import ObjectFile, checksum_of
from worker.storage.records import FolderRecords, Records

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
PART = "part"  # folder of the files of a shard that are for the sealer of its job only
PROBED = ("requests", "staging", "results", "parts", "states", "blobs", "verdicts", "trash")
BEGUN, STOP = "attempts", "stop"  # in a job's kept state: there is something to end with; it is to end
MALFORMED = (ValueError, TypeError, KeyError, RecursionError)  # what reading a damaged manifest raises
DISCARD_S = 2.0  # of deleting files at once; more are deleted when the trash is emptied
VERIFIED_MAX = 100_000  # files whose verification is remembered, some 20 MB

StoredFile = Path | ObjectFile
"""A published file: on disk, or in the object store."""


class Artifacts:
    """The files below one data folder; ``root`` is the service's ``data_dir``.

    :class:`worker.storage.stored_artifacts.StoredArtifacts` keeps what is published in an object store instead.

    Attributes
    ----------
    records
        Where accepted requests and their outcomes are kept: for :class:`worker.storage.journal.Journal`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.records: Records = FolderRecords(root)
        self._staging = root / "staging"
        self._results = root / "results"
        self._parts = root / "parts"
        self._states = root / "states"
        self._trash = root / "trash"
        self._damaged = root / "damaged"
        self._lock = threading.Lock()
        self._damages = 0
        self._verified: dict[tuple[object, ...], str] = {}
        self.blobs = ContentStore(root / "blobs", on_damage=lambda _: self._count_damage())

    # ----------------------------------------------------------------------------------------------------- writing

    def staging(self, job_id: str, token: int | str) -> Path:
        """Return a fresh, empty folder for one lease of a job."""
        folder = self._staging / f"{checked(job_id)}.{token}"
        self._discard(folder)
        folder.mkdir(parents=True)
        return folder

    def discard_abandoned(self, *, leased: Collection[str], grace_s: float) -> int:
        """Remove the staging folders here, ``grace_s`` old, of jobs that are not ``leased``; return how many."""
        now = file_system_time(self.root)
        abandoned = [
            folder
            for folder in entries(self._staging)
            if folder.name.partition(".")[0] not in leased and age_s(folder, now=now) > grace_s
        ]
        for folder in abandoned:
            self._discard(folder)
        return len(abandoned)

    def published(self) -> list[str]:
        """Return the ids of the jobs that have a folder of results."""
        return [path.name for path in entries(self._results) if JOB_ID.fullmatch(path.name)]

    def now(self) -> float:
        """Return the time by which the files here are dated, in seconds since 1970; raises ``OSError``."""
        return file_system_time(self.root)

    def changed_s(self, job_id: str, *, now: float) -> float | None:
        """Return how many seconds ago a job's results, shards or kept state were changed; None if there are none."""
        folders = [root / checked(job_id) for root in (self._results, self._parts, self._states)]
        return min((age_s(folder, now=now) for folder in folders if folder.exists()), default=None)

    def discard(self, staged: Path) -> None:
        """Remove a staging folder, if it exists."""
        self._discard(staged)

    def publish(self, job_id: str, staged: Path) -> None:
        """Move a finished staging folder to its place, synced to disk, in one step.

        Where another attempt of the same job has published before, its files stay: the same spec gave the same bytes,
        and they may be open for reading. Files that the manifest does not name are removed.

        Raises
        ------
        ExportError
            If a file is not what the manifest says.
        OSError
            If the disk refuses a write.
        """
        self._results.mkdir(parents=True, exist_ok=True)
        if (contents := _staged_contents(staged)).is_sharded:
            self._publish_sharded(job_id, staged, contents)
        else:
            self._publish(staged, self._results / checked(job_id))

    def publish_shard(self, job_id: str, shard: int, staged: Path) -> None:
        """Move the files of one shard of a job to their place, as :meth:`publish` does; raises the same."""
        target = self._parts / checked(job_id) / str(shard)
        target.parent.mkdir(parents=True, exist_ok=True)
        sync_folder(self._parts)
        self._publish(staged, target)

    def shard(self, job_id: str, shard: int, *, laid_out: bool = False) -> Path | None:
        """Return the folder of a finished shard; None if there is none.

        Parameters
        ----------
        laid_out
            Its files are needed, after a comparison with their checksums; otherwise the manifest may be all it holds.

        Raises
        ------
        ArtifactDamagedError
            If a file that is needed is missing or damaged.
        """
        folder = self._folder(job_id, shard)
        if not (folder / MANIFEST).is_file():
            return None
        for _, entry in self.contents(job_id, shard=shard).files() if laid_out else ():
            self.verified(job_id, entry["name"], shard=shard)
        return folder

    def divided(self) -> list[str]:
        """Return the ids of the jobs that have files of shards."""
        return [path.name for path in entries(self._parts) if JOB_ID.fullmatch(path.name)]

    def state(self, job_id: str) -> Path:
        """Return the folder of what a long job keeps between its attempts; its runner makes it."""
        return self._states / checked(job_id)

    def stateful(self) -> list[str]:
        """Return the ids of the jobs that keep a state."""
        return [path.name for path in entries(self._states) if JOB_ID.fullmatch(path.name)]

    def has_state(self, job_id: str) -> bool:
        """Whether an earlier attempt at a long job has kept something."""
        return self.state(job_id).exists()

    def fetch_states(self, job_id: str) -> None:
        """Make what attempts on other hosts have kept part of :meth:`state`; below a data folder it is there."""

    def send_state(self, job_id: str, attempt: str) -> None:
        """Let other hosts have the state of an attempt, the files of a folder in :meth:`state`, if it has changed."""

    def remove_state(self, job_id: str) -> bool:
        """Remove what a job has kept between its attempts; False if there is nothing."""
        found = self.state(job_id).exists()
        self._discard(self.state(job_id))
        return found

    def ask_to_stop(self, job_id: str) -> bool:
        """Ask a long job to end with what it has; False if it has nothing yet. Its runner looks now and again."""
        folder = self.state(job_id)
        if not (folder / BEGUN).exists():
            return False
        write_once(folder / STOP, b"")
        return True

    def asked_to_stop(self, job_id: str) -> bool:
        """Whether a long job is to end with what it has."""
        return (self.state(job_id) / STOP).exists()

    def remove_shards(self, job_id: str, *, grace_s: float = 0.0, now: float | None = None) -> bool:
        """Remove a job's shards if their folder has not changed for ``grace_s``; False if it has, or there is none.

        Without ``now``, at once.

        The results of a sealed job have the same files, but a reader may be about to open one here.
        """
        folder = self._parts / checked(job_id)
        if not folder.exists() or (now is not None and age_s(folder, now=now) < grace_s):
            return False
        self._discard(folder)
        return True

    def _publish(self, staged: Path, target: Path) -> None:
        sums = _expected_sums(staged)
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
        sync_folder(target.parent)

    def _publish_sharded(self, job_id: str, staged: Path, contents: Contents) -> None:
        """Publish the shards where they are: the root manifest joins them, and one rename moves them all."""
        parts, target = self._parts / checked(job_id), self._results / job_id
        if not self.exists(job_id):
            missing = [n for n in range(len(contents.shards)) if not (parts / str(n) / MANIFEST).is_file()]
            if missing:
                raise ExportError(f"{len(missing)} shards of the manifest were not written, {missing[0]} among them")
            write_over(parts / MANIFEST, (staged / MANIFEST).read_bytes())
            try:
                parts.rename(target)
            except OSError:
                if not target.is_dir():  # else another attempt has published meanwhile
                    raise
            sync_folder(target.parent)
        self._discard(staged)

    def copy(self, source: str, staged: Path) -> bool:
        """Fill a staging folder with the files of another job; False if that job has none (any more).

        Nor are those of a job whose shards have their own manifests: who could use them has computed all of them.
        """
        folder = self._results / checked(source)
        if self._is_damaged(source):
            return False
        try:
            if self.contents(source).is_sharded:
                return False
            link_tree(folder, staged, without=MANIFEST)
            shutil.copyfile(folder / MANIFEST, staged / MANIFEST)  # the job's own: it tells when the files were written
            complete = (staged / MANIFEST).is_file()
        except (ArtifactNotFoundError, ArtifactDamagedError, FileNotFoundError, shutil.Error):
            complete = False
        return complete

    def probe_store(self) -> None:
        """Write to the object store, if there is one; raises ``StoreUnavailableError`` if that fails."""

    def probe(self) -> None:
        """Write a test file in every folder that a job needs; raises ``OSError`` where that fails."""
        for folder in (self.root / name for name in PROBED):
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(b"fit?")
                file.flush()

    # ----------------------------------------------------------------------------------------------------- reading

    def exists(self, job_id: str) -> bool:
        """Whether a job's files are published."""
        return (self._results / checked(job_id) / MANIFEST).is_file()

    def finished_shards(self, job_id: str) -> list[int]:
        """Return the numbers of a divided job's shards whose files are published, ascending."""
        checked(job_id)
        # Those of a job that one manifest cannot list are moved to its results just before it has succeeded.
        names = {path.name for root in (self._parts, self._results) for path in entries(root / job_id)}
        return sorted(int(name) for name in names if name.isdecimal())

    def contents(self, job_id: str, *, shard: int | None = None) -> Contents:
        """Return the files and cells of a job, or of one shard, also where the manifests of shards list them.

        Reading on, it may raise what this does, for the manifest of a shard.

        Raises
        ------
        ArtifactNotFoundError
            If the job has no files.
        ArtifactDamagedError
            If the manifest is damaged.
        """
        path = self._folder(job_id, shard) / MANIFEST
        try:
            return _read_manifest(path, path.stat().st_mtime_ns)
        except FileNotFoundError:
            raise ArtifactNotFoundError(f"job {job_id} has no files") from None
        except MALFORMED:
            raise ArtifactDamagedError("the manifest of this job is damaged; request the job again") from None

    def manifest(self, job_id: str, *, shard: int | None = None) -> Mapping[str, Any]:
        """Return the manifest of a job's files, or of one shard's; shared between callers, so do not change it.

        :meth:`contents` has its files and cells, wherever they are listed.

        Raises
        ------
        ArtifactNotFoundError
            If the job has none.
        """
        return self.contents(job_id, shard=shard).manifest

    def warnings(self, job_id: str, *, code: str | None = None) -> list[dict[str, str]]:
        """Return the warnings in the manifest of a job's files, or those of one code; none if it cannot be read."""
        try:
            found: list[dict[str, str]] = self.manifest(job_id).get("warnings", [])
        except (ArtifactNotFoundError, OSError, ValueError):
            return []
        return [one for one in found if code in (None, one["code"])]

    def path(self, job_id: str, name: str, *, shard: int | None = None) -> StoredFile:
        """Return the path of a file of a job, or of one shard: ``manifest.json`` or one that the manifest lists.

        Raises
        ------
        ArtifactNotFoundError
            If the manifest lists no such file, even if the path exists.
        """
        contents = self.contents(job_id, shard=shard)
        if name != MANIFEST and contents.entry(name) is None:
            raise ArtifactNotFoundError(f"job {job_id} has no file {name[:200]!r}; its manifest lists those it has")
        folder = self._folder(job_id, shard).resolve()
        path = (folder / place_of(contents, name)).resolve()
        # The manifest is our own; this holds even if one was altered.
        if not path.is_relative_to(folder) or path.is_dir():
            raise ArtifactNotFoundError(f"job {job_id} has no file {name[:200]!r}")
        if not path.is_file():
            raise ArtifactDamagedError(f"the file {name[:200]!r} of this job is missing; request the job again")
        return path

    def sized(self, job_id: str, name: str, *, shard: int | None = None) -> tuple[StoredFile, Mapping[str, Any]]:
        """Return the path of a listed file of a job and its entry in the manifest, after comparing their sizes.

        Raises
        ------
        ArtifactNotFoundError
            If the manifest does not list it.
        ArtifactDamagedError
            If the file is missing or has another size.
        """
        path = self.path(job_id, name, shard=shard)
        entry = self.contents(job_id, shard=shard).entry(name)
        if entry is None:
            raise ArtifactNotFoundError(f"job {job_id} lists no file {name[:200]!r}")
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            raise ArtifactDamagedError(f"the file {name[:200]!r} is missing; request the job again") from None
        if size != entry.get("bytes", size):
            raise ArtifactDamagedError(
                f"the file {name[:200]!r} has {size} bytes where its manifest says {entry['bytes']}; "
                "request the job again"
            )
        return path, entry

    def verified(
        self, job_id: str, name: str, *, shard: int | None = None, reread: bool = False
    ) -> tuple[StoredFile, Mapping[str, Any]]:
        """Return as :meth:`sized`, after hashing the file; a file that has not changed since is not hashed again.

        Parameters
        ----------
        reread
            Hash it even if it was verified before: a disk may alter bytes without changing the file's times.

        Raises
        ------
        ArtifactNotFoundError, ArtifactDamagedError
            As :meth:`sized`, and if the SHA-256 is not that of the manifest.
        """
        path, entry = self.sized(job_id, name, shard=shard)
        self._verify(path, entry, name=name, reread=reread)
        return path, entry

    def all_sized(self, job_id: str) -> Iterator[tuple[str, StoredFile, Mapping[str, Any]]]:
        """Yield name, path and entry of every file of a job, in the order of the manifest; raises as :meth:`sized`."""
        for _, entry in self.contents(job_id).files():
            yield entry["name"], *self.sized(job_id, entry["name"])

    @contextmanager
    def laid_out(self, job_id: str, names: Collection[str] = ()) -> Iterator[Path]:
        """Yield a folder that holds the files of a job, for readers that open files by their paths.

        Parameters
        ----------
        names
            Of files that are compared with their checksums before.

        Raises
        ------
        ArtifactNotFoundError, ArtifactDamagedError
            As :meth:`verified`.

        Notes
        -----
        A file lies where :func:`place_of` says; only where shards have manifests of their own is that not its name.
        """
        self.manifest(job_id)
        for name in names:
            self.verified(job_id, name)
        yield self._results / checked(job_id)

    def reusable(self, job_id: str, *, hash_bytes: float = math.inf) -> bool:
        """Whether a job's files may answer another request: all are there, and none is known to be damaged.

        Where the manifests of shards list them, there are too many to look at all: only those manifests are compared.

        Parameters
        ----------
        hash_bytes
            Files that take more than this together are compared by size only, because hashing them takes long.
        """
        if self._is_damaged(job_id):
            return False
        try:
            self._compare(job_id, hash_bytes=hash_bytes)
        except (ArtifactNotFoundError, ArtifactDamagedError) as error:
            log.warning("job %s: its files are not used for another request: %s", job_id, error.message)
            return False
        return True

    def _compare(self, job_id: str, *, hash_bytes: float) -> None:
        contents = self.contents(job_id)
        if contents.is_sharded:
            for shard in contents.shards:
                self.verified(job_id, shard["name"])
            return
        look = self.verified if contents.bytes <= hash_bytes else self.sized
        for _, entry in contents.files():
            look(job_id, entry["name"])

    def mark_damaged(self, job_id: str) -> bool:
        """Mark a job as damaged, so that it answers no other request; False if it was marked already."""
        path = self._damaged / checked(job_id)
        if path.exists() or not write_once(path, b""):
            return False
        log.error("job %s: files of it are damaged; a request for the same makes them again", job_id)
        self._count_damage()
        return True

    def clear_damage(self, job_id: str) -> None:
        """Remove the mark of damage from a job whose files are computed again."""
        (self._damaged / checked(job_id)).unlink(missing_ok=True)

    def take_damages(self) -> int:
        """Return how many damaged files were found since the last call."""
        with self._lock:
            damages, self._damages = self._damages, 0
        return damages

    # ---------------------------------------------------------------------------------------------------- removing

    def remove(self, job_id: str) -> None:
        """Remove a job's published files, all at once for a reader, its shards and its kept state, if it has any."""
        self._discard(self._results / checked(job_id))
        self.remove_shards(job_id)
        self.remove_state(job_id)

    def drop_file(self, job_id: str, name: str) -> None:
        """Remove a damaged file of a job, ``manifest.json`` or one that it lists; the other files stay."""
        place = name if name == MANIFEST else place_of(self.contents(job_id), name)
        (self._results / checked(job_id) / place).unlink(missing_ok=True)

    def published_at(self, job_id: str) -> float:
        """Return when a job's files were written, in seconds since 1970; raises ``ArtifactNotFoundError``."""
        try:
            return (self._results / checked(job_id) / MANIFEST).stat().st_mtime
        except FileNotFoundError:
            raise ArtifactNotFoundError(f"job {job_id} has no files") from None

    def sweep_damage_marks(self, *, grace_s: float, now: float) -> int:
        """Remove drafts of damage marks that are older than ``grace_s``; return how many."""
        drafts = [
            path for path in entries(self._damaged) if path.name.startswith(DRAFT) and age_s(path, now=now) > grace_s
        ]
        for draft in drafts:
            draft.unlink(missing_ok=True)
        return len(drafts)

    def empty_trash(self) -> None:
        """Delete what earlier removals left in the trash."""
        for left in entries(self._trash):
            _delete(left)

    # ----------------------------------------------------------------------------------------------------- private

    def _verify(self, path: StoredFile, entry: Mapping[str, Any], *, name: str, reread: bool) -> None:
        """Hash a file, unless it was verified before; raises ``ArtifactDamagedError``."""
        expected = entry.get("sha256")
        if expected is None:
            return
        key = _identity(path)
        with self._lock:
            known = None if reread else self._verified.get(key)
        if known == expected:
            return
        if _checksum(path, from_disk=reread) != expected:
            raise ArtifactDamagedError(f"the file {name[:200]!r} is not what its manifest says; request the job again")
        with self._lock:
            if len(self._verified) >= VERIFIED_MAX:
                self._verified.clear()
            self._verified[key] = expected

    def _is_damaged(self, job_id: str) -> bool:
        return (self._damaged / checked(job_id)).exists()

    def _settle(self, path: Path, *, name: str, expected: str | None) -> set[Path]:
        """Sync one file to disk; return the folders that must be synced after it."""
        path.chmod(0o444)  # its content may be shared with other jobs
        sha256 = sync_file(path)
        if expected is not None and sha256 != expected:
            raise ExportError(f"{name[:200]!r} is not what the manifest says; the disk may be failing")
        if name == MANIFEST:
            return set()  # the job's own: it tells when the files were written
        folder = self.blobs.share(path, sha256)
        return {folder} if folder else set()

    def _count_damage(self) -> None:
        with self._lock:
            self._damages += 1

    def _folder(self, job_id: str, shard: int | None) -> Path:
        checked(job_id)
        if shard is None:
            return self._results / job_id
        folder = self._parts / job_id / str(shard)
        return folder if folder.exists() else self._results / job_id / str(shard)

    def _discard(self, folder: Path) -> None:
        # Renamed first and then removed file by file, so that a reader never finds half a folder, and nobody waits for
        # the removal of a million files: what is left after a while stays in the trash until it is emptied.
        self._trash.mkdir(parents=True, exist_ok=True)
        doomed = self._trash / token_hex(8)
        try:
            folder.rename(doomed)
        except FileNotFoundError:
            return
        _delete(doomed, within_s=DISCARD_S)


def _delete(folder: Path, *, within_s: float = math.inf) -> None:
    """Delete a folder, or as much of it as there is time for; what cannot be deleted stays."""
    until = time.monotonic() + within_s
    for place, _, files in os.walk(folder, topdown=False):
        for name in files:
            if time.monotonic() > until:
                return
            with suppress(OSError):
                (Path(place) / name).unlink()
        with suppress(OSError):
            Path(place).rmdir()


@lru_cache(maxsize=32)  # one download requests every file in turn, and a manifest may have megabytes
def _read_manifest(path: Path, mtime_ns: int) -> Contents:
    return Contents(json.loads(path.read_bytes()), lambda entry: read_shard(entry, _content_of(path, entry)))


def _content_of(root: Path, entry: Mapping[str, Any]) -> bytes | None:
    """Return the content of a shard's manifest; None if it is missing."""
    place = root.parent / str(int(Path(entry["name"]).stem)) / MANIFEST
    try:
        return place.read_bytes()
    except FileNotFoundError:
        return None


def read_shard(entry: Mapping[str, Any], content: bytes | None) -> Contents:
    """Return the contents of a shard from its manifest.

    Raises
    ------
    ArtifactDamagedError
        If it is missing, or not what the root manifest says of it.
    """
    if content is None or hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise ArtifactDamagedError(f"{entry['name']} of this job is missing or damaged; request the job again")
    try:
        return Contents(json.loads(content))
    except MALFORMED:
        raise ArtifactDamagedError(f"{entry['name']} of this job is damaged; request the job again") from None


def place_of(contents: Contents, name: str) -> str:
    """Return where a file of a job lies below the folder of its results.

    A result whose shards have manifests of their own keeps a folder for each, by its number, with the manifest and all
    files: so nothing is moved when it is sealed, and no folder has too many entries.
    """
    shard = contents.shard_of(name)
    if shard is None:
        return name
    return f"{shard}/{MANIFEST if name == shard_manifest(shard) else name}"


def is_for_sealer(name: str) -> bool:
    """Whether a file of a shard is for the sealer of its job only, and none of the job."""
    return name.startswith(f"{PART}/")


def _staged_contents(staged: Path) -> Contents:
    """Return the contents of a finished staging folder; raises ``ExportError``."""
    path = staged / MANIFEST
    try:
        return _read_manifest(path, path.stat().st_mtime_ns)
    except MALFORMED as error:
        raise ExportError("the manifest cannot be read; the disk may be failing") from error


def _identity(path: StoredFile) -> tuple[object, ...]:
    """Return what changes when the content of a file does."""
    if isinstance(path, ObjectFile):
        return (path.info,)
    facts = path.stat()
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns


def _checksum(path: StoredFile, *, from_disk: bool) -> str:
    if isinstance(path, ObjectFile):
        return checksum_of(path.store, path.info)
    return checksum(path, from_disk=from_disk)


def _expected_sums(staged: Path) -> dict[str, str | None]:
    return {entry["name"]: entry.get("sha256") for _, entry in _staged_contents(staged).files()}
