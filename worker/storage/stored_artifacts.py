"""The files of jobs in an object store: hosts that share a store and a broker share all results.

Below the prefix of the store::

    results/<job>/files/<sha256>      a content of the job, be it of a shard or of the whole; where one manifest cannot
                                      list all cells, the manifests of shards are contents too
    results/<job>/manifest.json       made once, last: the job's files are published
    parts/<job>/<n>/manifest.json     the same for one shard of a job that is divided, until the job is sealed
    states/<job>/begun, stop          a long job has something to end with; it is to end
    states/<job>/attempts/<name>.zip  what its latest attempt has kept
    damaged/<job>                     some of its files are damaged

In the data folder of each host stay the staging folders, and what a training keeps between its attempts besides its
state: points made of the uploads, which another host makes again.

Promises: what :class:`~worker.storage.artifacts.Artifacts` promises, for all hosts. A file has its checksum as its key,
so that two attempts of one job never overwrite each other's files, an attempt sends nothing that an earlier one has
sent, and sealing moves no content.
Does not promise: that contents are shared between jobs.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shutil
import socket
import time
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path, PurePosixPath
from secrets import token_hex
from tempfile import TemporaryDirectory
from typing import Any

from model.formats import media_type
from model.output.contents import Contents
from worker.errors import ArtifactDamagedError, ArtifactNotFoundError, ExportError
from worker.job_id import JOB_ID, checked
from worker.storage.artifacts import (
    BEGUN,
    MALFORMED,
    MANIFEST,
    STOP,
    Artifacts,
    StoredFile,
    is_for_sealer,
    read_shard,
)
from worker.storage.durable_files import checksum, write_over
from worker.storage.object_process import ObjectProcess
from worker.storage.objects import ObjectFile, ObjectInfo, Objects, ObjectStore, fetch
from worker.storage.records import ObjectRecords

log = logging.getLogger(__name__)

LISTED_SHARDS = 50  # finished shards of a job up to which one list of its contents is cheaper than asking for each
UPLOADS_AT_ONCE = 8  # files sent at a time; most are small, so that waiting for answers is most of the time
STOP_LOOK_S = 1.0  # between two looks whether a long job is to end
FILES = "files"


class StoredArtifacts(Artifacts):
    """The files of jobs in an object store; ``root`` is the data folder of this host."""

    def __init__(self, root: Path, store: ObjectStore) -> None:
        super().__init__(root)
        self._store = store
        self.records = ObjectRecords(store)
        self._looked_at = -math.inf
        self._stopping: set[str] = set()
        self._sent: dict[tuple[str, str], list[tuple[str, int]]] = {}  # what of each attempt's state was sent last

    # ----------------------------------------------------------------------------------------------------- writing

    def published(self) -> list[str]:
        """Return the ids of the jobs that have files, also if they are not yet published."""
        return self._jobs_below("results")

    def divided(self) -> list[str]:
        """Return the ids of the jobs that have files of shards."""
        return self._jobs_below("parts")

    def stateful(self) -> list[str]:
        """Return the ids of the jobs that keep a state, here or on another host."""
        # By the keys, which are few: some servers list folders for a while that have become empty.
        shared = {info.key.split("/")[1] for info in self._store.below("states/")}
        return sorted({*super().stateful(), *filter(JOB_ID.fullmatch, shared)})

    def now(self) -> float:
        """Return the time by the clock of the store, in seconds since 1970."""
        key = f"probe/{socket.gethostname()}"
        self._store.put_over(key, b"")
        info = self._store.head(key)
        return time.time() if info is None else info.modified

    def changed_s(self, job_id: str, *, now: float) -> float | None:
        """Return how many seconds ago a job's files were changed; None if there are none."""
        found = [
            info for top in ("results", "parts", "states") for info in self._store.below(f"{top}/{checked(job_id)}/")
        ]
        return min((now - info.modified for info in found), default=None)

    def publish(self, job_id: str, staged: Path) -> None:
        """Send the files of a finished staging folder that are not there yet, then the manifest, which publishes them.

        Where another attempt has published before, its files stay.

        Raises
        ------
        ExportError
            If a file is not what the manifest says.
        StoreUnavailableError
            If the store does not take one; what was sent stays for the next attempt.
        """
        if not self.exists(job_id):
            self._send(job_id, staged, _manifest_key(job_id))
        self._discard(staged)
        self._discard(self._sealing(job_id))

    def publish_shard(self, job_id: str, shard: int, staged: Path) -> None:
        """Publish the files of one shard, as :meth:`publish` does; raises the same."""
        key = _manifest_key(job_id, shard)
        if self._store.head(key) is None:
            self._send(job_id, staged, key)
        self._discard(staged)

    def shard(self, job_id: str, shard: int, *, laid_out: bool = False) -> Path | None:
        """Return a folder with the manifest of a finished shard, and copies of its files if they are needed."""
        content = self._store.get(_manifest_key(job_id, shard))
        if content is None:
            return None
        folder = self._sealing(job_id) / str(shard)
        write_over(folder / MANIFEST, content)
        for _, listed in Contents(json.loads(content)).files() if laid_out else ():
            file, entry = self.sized(job_id, listed["name"], shard=shard)
            _fetch_into(folder, listed["name"], file, entry)
        return folder

    def has_state(self, job_id: str) -> bool:
        """Whether an earlier attempt at a long job has kept something, here or on another host."""
        return super().has_state(job_id) or bool(self._store.below(_states_key(job_id)))

    def fetch_states(self, job_id: str) -> None:
        """Make what attempts on other hosts have kept part of :meth:`state`."""
        kept = self.state(job_id) / BEGUN
        for info in self._store.below(_states_key(job_id)):
            attempt = PurePosixPath(info.key).stem
            draft, place = kept / f".{token_hex(8)}", kept / attempt
            if place.exists():
                continue  # an attempt of this host
            draft.mkdir(parents=True)
            packed = draft / "state.zip"
            try:
                fetch(ObjectFile(self._store, info), packed)
                with zipfile.ZipFile(packed) as archive:
                    archive.extractall(draft)
                packed.unlink()
                draft.rename(place)
            except FileNotFoundError:
                log.info("job %s: attempt %s was removed while it was fetched", job_id, attempt)
            finally:
                shutil.rmtree(draft, ignore_errors=True)

    def send_state(self, job_id: str, attempt: str) -> None:
        """Let other hosts have the state of an attempt, whole or not at all, if its files are not those sent last.

        What it went on from is removed from the store: a state is one object, and that of the latest attempt counts.
        """
        files = sorted(path for path in (self.state(job_id) / BEGUN / attempt).glob("*") if path.is_file())
        about = [(path.name, path.stat().st_mtime_ns) for path in files if path.suffix != ".partial"]
        if not about or self._sent.get((job_id, attempt)) == about:
            return
        key = f"{_states_key(job_id)}{attempt}.zip"
        with TemporaryDirectory(prefix="cytosynth-") as above:
            packed = Path(above) / "state.zip"
            with zipfile.ZipFile(packed, "w") as archive:
                for name, _ in about:
                    archive.write(self.state(job_id) / BEGUN / attempt / name, name)
            self._store.put_file(key, packed)
        if (job_id, attempt) not in self._sent:
            self._store.delete(info.key for info in self._store.below(_states_key(job_id)) if info.key != key)
        self._sent[job_id, attempt] = about

    def remove_state(self, job_id: str) -> bool:
        """Remove what a job has kept between its attempts on this host, and its marks; False if there is nothing."""
        marks = self._store.below(f"states/{checked(job_id)}/")
        self._store.delete(info.key for info in marks)
        return super().remove_state(job_id) or bool(marks)

    def ask_to_stop(self, job_id: str) -> bool:
        """Ask a long job to end with what it has; False if it has nothing yet. Its runner looks now and again."""
        if self._store.head(f"states/{checked(job_id)}/begun") is None:
            return False
        self._store.put_once(f"states/{job_id}/{STOP}", b"")
        return True

    def asked_to_stop(self, job_id: str) -> bool:
        """Whether a long job is to end with what it has. Announces first that it has something, once it has."""
        if job_id not in self._stopping and time.monotonic() - self._looked_at >= STOP_LOOK_S:
            self._looked_at = time.monotonic()
            if (self.state(job_id) / BEGUN).exists():
                self._store.put_once(f"states/{checked(job_id)}/begun", b"")
            if self._store.head(f"states/{checked(job_id)}/{STOP}") is not None:
                self._stopping.add(job_id)
        return job_id in self._stopping

    def remove_shards(self, job_id: str, *, grace_s: float = 0.0, now: float | None = None) -> bool:
        """Remove the manifests of a job's shards if none has changed for ``grace_s``; return whether it did.

        Without ``now``, at once. Contents stay, as those of the sealed job; but what was for its sealer only goes too.
        """
        found = self._store.below(f"parts/{checked(job_id)}/")
        if not found or (now is not None and min(now - info.modified for info in found) < grace_s):
            return False
        self._store.delete(self._for_sealer(job_id))
        self._store.delete(info.key for info in found)
        return True

    def _for_sealer(self, job_id: str) -> list[str]:
        """Return the keys of the contents that shards hand over to the sealer of their job."""
        keys = []
        for shard in self.finished_shards(job_id):
            with suppress(ArtifactNotFoundError, ArtifactDamagedError):
                listed = (entry for _, entry in self.contents(job_id, shard=shard).files())
                keys += [_content_key(job_id, _sha256_of(entry)) for entry in listed if is_for_sealer(entry["name"])]
        return keys

    def copy(self, source: str, staged: Path) -> bool:
        """Copy the files of another job within the store; False if that job has none, or they are damaged."""
        target = staged.name.partition(".")[0]
        if self._is_damaged(source):
            return False
        try:
            content = ObjectFile(self._store, self._manifest_info(source)).read_bytes()
            contents = self.contents(source)
            if contents.is_sharded:
                return False
            for _, listed in contents.files():
                _, entry = self.verified(source, listed["name"])
                self._store.copy(_content_key(source, entry["sha256"]), _content_key(target, entry["sha256"]))
        except ArtifactDamagedError as error:
            log.warning("job %s: the files of job %s are damaged: %s", target, source, error.message)
            self.mark_damaged(source)
            return False
        except (ArtifactNotFoundError, FileNotFoundError):
            return False
        (staged / MANIFEST).write_bytes(content)
        return True

    def probe(self) -> None:
        """Write where a job needs to: the folders here, and the store; raises ``OSError`` where that fails."""
        super().probe()
        self.probe_store()

    def probe_store(self) -> None:
        """Write to the store; raises ``StoreUnavailableError`` if that fails."""
        self._store.put_over(f"probe/{socket.gethostname()}", b"fit?")

    # ----------------------------------------------------------------------------------------------------- reading

    def exists(self, job_id: str) -> bool:
        """Whether a job's files are published."""
        return self._store.head(_manifest_key(job_id)) is not None

    def finished_shards(self, job_id: str) -> list[int]:
        """Return the numbers of a divided job's shards whose files are published, ascending."""
        names = self._store.folders(f"parts/{checked(job_id)}/")
        return sorted(int(name) for name in names if name.isdecimal())

    def path(self, job_id: str, name: str, *, shard: int | None = None) -> StoredFile:
        """Return a file of a job or of one shard, ``manifest.json`` or one that the manifest lists; raises as there."""
        if name == MANIFEST:
            return ObjectFile(self._store, self._manifest_info(job_id, shard))
        return self.sized(job_id, name, shard=shard)[0]

    def sized(self, job_id: str, name: str, *, shard: int | None = None) -> tuple[ObjectFile, Mapping[str, Any]]:
        """Return a listed file of a job and its entry in the manifest, after comparing their sizes; raises as there."""
        entry = self._entry(job_id, name, shard)
        info = self._store.head(_content_key(job_id, _sha256_of(entry)))
        return _compared(self._store, name, entry, info), entry

    def all_sized(self, job_id: str) -> Iterator[tuple[str, ObjectFile, Mapping[str, Any]]]:
        """Yield name, file and entry of every file of a job, in the order of the manifest; raises as :meth:`sized`."""
        contents = self.contents(job_id)
        if contents.is_sharded:  # too many for one list of all objects
            for _, entry in contents.files():
                yield entry["name"], *self.sized(job_id, entry["name"])
            return
        found = {info.key: info for info in self._store.below(f"results/{job_id}/{FILES}/")}
        for _, entry in contents.files():
            name, info = entry["name"], found.get(_content_key(job_id, _sha256_of(entry)))
            yield name, _compared(self._store, name, entry, info), entry

    def _compare(self, job_id: str, *, hash_bytes: float) -> None:
        if self.contents(job_id).is_sharded:
            super()._compare(job_id, hash_bytes=hash_bytes)
            return
        found = list(self.all_sized(job_id))
        if sum(entry.get("bytes", 0) for _, _, entry in found) <= hash_bytes:
            for name, file, entry in found:
                self._verify(file, entry, name=name, reread=False)

    @contextmanager
    def laid_out(self, job_id: str, names: Collection[str] = ()) -> Iterator[Path]:
        """Yield a folder with copies of the files of a job, or of those that are named; raises as there."""
        with TemporaryDirectory(prefix="cytosynth-") as above:
            folder = Path(above)
            content = ObjectFile(self._store, self._manifest_info(job_id)).read_bytes()
            if names:
                found: Iterable[tuple[str, ObjectFile, Mapping[str, Any]]]
                found = ((name, *self.sized(job_id, name)) for name in names)
            else:
                found = self.all_sized(job_id)
            for name, file, entry in found:
                _fetch_into(folder, name, file, entry)
            (folder / MANIFEST).write_bytes(content)
            yield folder

    def mark_damaged(self, job_id: str) -> bool:
        """Mark a job as damaged, so that it answers no other request; False if it was marked already."""
        if not self._store.put_once(f"damaged/{checked(job_id)}", b""):
            return False
        log.error("job %s: files of it are damaged; a request for the same makes them again", job_id)
        self._count_damage()
        return True

    def clear_damage(self, job_id: str) -> None:
        """Remove the mark of damage from a job whose files are computed again."""
        self._store.delete([f"damaged/{checked(job_id)}"])

    # ---------------------------------------------------------------------------------------------------- removing

    def remove(self, job_id: str) -> None:
        """Remove a job's files: first the manifest, without which a reader finds none; its shards; its kept state."""
        self._store.delete([_manifest_key(job_id)])
        self._store.delete(info.key for info in self._store.below(f"results/{checked(job_id)}/"))
        self.remove_shards(job_id)
        self.remove_state(job_id)

    def drop_file(self, job_id: str, name: str) -> None:
        """Remove a damaged file of a job: ``manifest.json``, or the content of one that it lists."""
        if name == MANIFEST:
            self._store.delete([_manifest_key(job_id)])
            return
        self._store.delete([_content_key(job_id, _sha256_of(self._entry(job_id, name, None)))])

    def published_at(self, job_id: str) -> float:
        """Return when a job's files were published, in seconds since 1970; raises ``ArtifactNotFoundError``."""
        return self._manifest_info(job_id).modified

    # ----------------------------------------------------------------------------------------------------- private

    def _send(self, job_id: str, staged: Path, manifest_key: str) -> None:
        content = (staged / MANIFEST).read_bytes()
        try:
            contents = Contents(json.loads(content), lambda entry: read_shard(entry, None))
        except MALFORMED as error:
            raise ExportError("the manifest cannot be read; the disk may be failing") from error
        if contents.is_sharded:
            held = self._sealing(checked(job_id))
            listed = [(entry, held / str(n) / MANIFEST) for n, entry in enumerate(contents.shards)]
        else:
            listed = [(entry, staged / entry["name"]) for _, entry in contents.files()]
        wanted = {_content_key(job_id, _sha256_of(entry)): (entry, path) for entry, path in listed}
        there = self._sent_before(job_id, wanted)
        with ThreadPoolExecutor(UPLOADS_AT_ONCE) as pool:
            # What is there is of an earlier attempt, of a shard, or of the job that it is copied from.
            missing = ((key, *item) for key, item in wanted.items() if there.get(key) != item[0].get("bytes"))
            for _ in pool.map(lambda item: self._send_file(*item), missing):
                pass
        self._store.put_once(manifest_key, content)

    def _sent_before(self, job_id: str, wanted: Collection[str]) -> dict[str, int]:
        """Return the sizes of those contents that the store has."""
        if len(self._store.folders(f"parts/{checked(job_id)}/")) <= LISTED_SHARDS:
            return {info.key: info.bytes for info in self._store.below(f"results/{job_id}/{FILES}/")}
        # Each shard would list the contents of all shards before it.
        with ThreadPoolExecutor(UPLOADS_AT_ONCE) as pool:
            return {info.key: info.bytes for info in pool.map(self._store.head, wanted) if info is not None}

    def _send_file(self, key: str, entry: Mapping[str, Any], path: Path) -> None:
        name = entry["name"]
        if not path.is_file():
            raise ExportError(f"{name[:200]!r} of the manifest was not written")
        if checksum(path) != entry["sha256"]:
            raise ExportError(f"{name[:200]!r} is not what the manifest says; the disk may be failing")
        self._store.put_file(key, path, name=name.replace("/", "_"), media_type=media_type(name))

    def _jobs_below(self, top: str) -> list[str]:
        return [name for name in self._store.folders(f"{top}/") if JOB_ID.fullmatch(name)]

    def _sealing(self, job_id: str) -> Path:
        """Return the folder that holds the manifests of shards while a job is sealed."""
        return self._staging / f"{checked(job_id)}.shards"

    def _is_damaged(self, job_id: str) -> bool:
        return self._store.head(f"damaged/{checked(job_id)}") is not None

    def _manifest_info(self, job_id: str, shard: int | None = None) -> ObjectInfo:
        info = self._store.head(_manifest_key(job_id, shard))
        if info is None:
            raise ArtifactNotFoundError(f"job {job_id} has no files")
        return info

    def _entry(self, job_id: str, name: str, shard: int | None) -> Mapping[str, Any]:
        entry = self.contents(job_id, shard=shard).entry(name)
        if entry is None:
            raise ArtifactNotFoundError(f"job {job_id} has no file {name[:200]!r}; its manifest lists those it has")
        return entry

    def contents(self, job_id: str, *, shard: int | None = None) -> Contents:
        """Return the files and cells of a job, or of one shard; raises as there."""
        try:
            return _read_manifest(job_id, ObjectFile(self._store, self._manifest_info(job_id, shard)))
        except FileNotFoundError:
            raise ArtifactNotFoundError(f"job {job_id} has no files") from None
        except MALFORMED:
            raise ArtifactDamagedError("the manifest of this job is damaged; request the job again") from None


def open_artifacts(root: Path, store: str | None, *, forks: bool = False) -> Artifacts:
    """Return the files of jobs: below a data folder, or in an object store.

    Parameters
    ----------
    root
        The data folder of this host.
    store
        ``s3://bucket/prefix``; None: everything is below the data folder.
    forks
        Whether this process forks others that go on using a store.
    """
    if store is None:
        return Artifacts(root)
    return StoredArtifacts(root, ObjectProcess(store) if forks else Objects(store))


@lru_cache(maxsize=32)  # one download requests every file in turn; a manifest that changes is another object
def _read_manifest(job_id: str, manifest: ObjectFile) -> Contents:
    def read(entry: Mapping[str, Any]) -> Contents:
        return read_shard(entry, manifest.store.get(_content_key(job_id, _sha256_of(entry))))

    return Contents(json.loads(manifest.read_bytes()), read)


def _fetch_into(folder: Path, name: str, file: ObjectFile, entry: Mapping[str, Any]) -> None:
    """Copy a file into a folder; raises ``ArtifactDamagedError`` if it is not what its entry in the manifest says."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ArtifactNotFoundError(f"no file of a job is called {name[:200]!r}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # of a sealer that died
    try:
        found = fetch(file, path)
    except FileNotFoundError:
        raise _missing(name) from None
    if found != entry["sha256"]:
        raise ArtifactDamagedError(f"the file {name[:200]!r} is damaged; request the job again")


def _manifest_key(job_id: str, shard: int | None = None) -> str:
    return f"results/{checked(job_id)}/{MANIFEST}" if shard is None else f"parts/{checked(job_id)}/{shard}/{MANIFEST}"


def _states_key(job_id: str) -> str:
    return f"states/{checked(job_id)}/{BEGUN}/"


def _content_key(job_id: str, sha256: str) -> str:
    return f"results/{checked(job_id)}/{FILES}/{sha256}"


def _sha256_of(entry: Mapping[str, Any]) -> str:
    sha256 = entry.get("sha256", "")
    if len(sha256) != hashlib.sha256().digest_size * 2 or not sha256.isalnum():
        raise ExportError("an entry of the manifest has no checksum")
    return str(sha256)


def _compared(store: ObjectStore, name: str, entry: Mapping[str, Any], info: ObjectInfo | None) -> ObjectFile:
    if info is None:
        raise _missing(name)
    if info.bytes != entry.get("bytes", info.bytes):
        raise ArtifactDamagedError(
            f"the file {name[:200]!r} has {info.bytes} bytes where its manifest says {entry['bytes']}; "
            "request the job again"
        )
    return ObjectFile(store, info)


def _missing(name: str) -> ArtifactDamagedError:
    return ArtifactDamagedError(f"the file {name[:200]!r} of this job is missing; request the job again")
