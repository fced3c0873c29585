"""Find damage on disk: read every stored file and compare it with its checksum.

Promises: a file of a job, a content, an upload or the weights of a model whose bytes are not those of its checksum is
found, and so is a record that cannot be read. Nothing is removed unless ``drop`` is given. Files that a running service
changes at the same time are not reported as damaged.
Does not promise: to notice a changed manifest or record that is still readable; they have no checksum of their own.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from model.card import WEIGHTS_FILE, load_card
from model.errors import CheckpointError
from model.output.contents import Contents
from worker.errors import ArtifactDamagedError, ArtifactNotFoundError
from worker.storage.artifacts import MANIFEST, Artifacts, place_of
from worker.storage.cleanup import stored_jobs
from worker.storage.durable_files import checksum
from worker.storage.journal import Journal, is_alias, is_outcome, is_request
from worker.uploads.shared import STORED
from worker.uploads.store import Uploads, stored_files

REMAKE = "request the job again; its spec is in {request}, and GET /v1/jobs/{job} shows it while the record is kept"
RESTORE = "if the broker has not lost this job nothing is lost; else restore the file from a backup, or remove it"


@dataclass(frozen=True, kw_only=True)
class Damage:
    """One damaged file or record. ``path`` is relative to the data folder."""

    kind: str  # result, manifest, blob, upload, model, request, verdict or alias
    path: str
    reason: str
    advice: str
    dropped: bool = False


class Scrub:
    """A pass over one data folder, and over the results and records of an object store, if there is one.

    Parameters
    ----------
    drop
        Remove what is damaged, so that the next request makes it again. A job's intact files stay.
    """

    def __init__(self, artifacts: Artifacts, *, drop: bool = False) -> None:
        self._artifacts, self._root, self._drop = artifacts, artifacts.root, drop
        self._uploads = Uploads(self._root)
        self._sound: set[str] = set()  # contents; a file that is a link to one is not read again
        self.files = self.bytes = 0

    def steps(self) -> Iterator[Damage | None]:
        """Yield the damage of each file, or None, after reading it. ``files`` and ``bytes`` count what was read."""
        for sha256 in self._artifacts.blobs.contents():
            yield self._blob(sha256)
        jobs = stored_jobs(self._artifacts, Journal(self._artifacts.records))
        random.shuffle(jobs)  # so that passes that are interrupted do not read the same jobs each time
        for job_id in jobs:
            yield from self._job(job_id)
        yield from self._records()
        yield from self._kept_uploads()
        yield from self._models()

    def _job(self, job_id: str) -> Iterator[Damage | None]:
        folder = self._root / "results" / job_id
        advice = REMAKE.format(job=job_id, request=f"requests/{job_id}.json")
        try:
            contents = self._artifacts.contents(job_id)
        except ArtifactNotFoundError:
            return
        except ArtifactDamagedError as error:
            path = folder / MANIFEST
            yield self._damaged("manifest", path, error.message, advice, self._dropping(job_id, MANIFEST), job_id)
            return
        sound = True
        for name in _names(contents):
            try:
                linked = self._linked(job_id, name)
                if linked:
                    _, entry = self._artifacts.sized(job_id, name)
                else:
                    _, entry = self._artifacts.verified(job_id, name, reread=True)
            except (ArtifactNotFoundError, ArtifactDamagedError) as error:
                if not self._artifacts.exists(job_id):
                    return  # removed meanwhile
                path, sound = folder / place_of(contents, name), False
                yield self._damaged("result", path, error.message, advice, self._dropping(job_id, name), job_id)
            else:
                self._count(0 if linked else entry.get("bytes", 0))
                yield None
        if sound:
            self._artifacts.clear_damage(job_id)

    def _dropping(self, job_id: str, name: str) -> Callable[[], object]:
        return lambda: self._artifacts.drop_file(job_id, name)

    def _linked(self, job_id: str, name: str) -> bool:
        """Whether a file is a link to a content that was found to be sound in this pass."""
        path, entry = self._artifacts.sized(job_id, name)
        sha256 = entry.get("sha256", "")
        try:
            return (
                isinstance(path, Path) and sha256 in self._sound and self._artifacts.blobs.path(sha256).samefile(path)
            )
        except FileNotFoundError:
            return False

    def _blob(self, sha256: str) -> Damage | None:
        path = self._artifacts.blobs.path(sha256)
        try:
            size, found = path.stat().st_size, checksum(path, from_disk=True)
        except FileNotFoundError:
            return None
        self._count(size)
        if found == sha256:
            self._sound.add(sha256)
            return None
        advice = "nothing; it is never linked to again, and the next job that makes this content stores it again"
        reason = f"its SHA-256 is {found}"
        return self._damaged("blob", path, reason, advice, lambda: self._artifacts.blobs.drop(sha256))

    def _records(self) -> Iterator[Damage | None]:
        records = self._artifacts.records
        for kind, valid in (("request", is_request), ("verdict", is_outcome), ("alias", is_alias)):
            folder = "aliases" if kind == "alias" else f"{kind}s"
            for name in records.names(folder):
                place, stem = f"{folder}/{name}", PurePosixPath(name).stem
                content = records.get(place)
                if content is None:
                    continue  # removed meanwhile
                try:
                    document = json.loads(content)
                except ValueError:
                    document = None
                if isinstance(document, dict) and valid(document) and document.get("id", stem) == stem:
                    yield None
                else:
                    reason = "it is no record that this service writes"
                    yield self._damaged(kind, self._root / place, reason, RESTORE, partial(records.delete, place))

    def _kept_uploads(self) -> Iterator[Damage | None]:
        for folder, upload in self._uploads.all_kept():
            advice = "send the file again under the same name"
            if upload is None:
                yield self._damaged(
                    "upload", folder / "upload.json", "its record is damaged", advice, _removing(folder)
                )
                continue
            for path, sha256 in stored_files(folder, upload):
                try:
                    found, size = checksum(path, from_disk=True), path.stat().st_size
                except FileNotFoundError:
                    if (folder / STORED).exists():
                        continue  # it is fetched from the object store when it is read
                    found, size = "not there", 0
                if found != sha256 and folder.is_dir():
                    yield self._damaged("upload", path, f"its SHA-256 is {found}", advice, _removing(folder))
                    break
                self._count(size)
                yield None

    def _models(self) -> Iterator[Damage | None]:
        advice = "make the model again: POST /v1/models with its upload"
        models = self._root / "models"
        for folder in sorted(models.iterdir()) if models.is_dir() else ():
            path = folder / WEIGHTS_FILE
            try:
                card = load_card(folder)
                found, size = checksum(path, from_disk=True), path.stat().st_size
            except CheckpointError as error:
                yield self._damaged("model", folder, error.message, advice, _removing(folder))
                continue
            except FileNotFoundError:
                if folder.is_dir():
                    yield self._damaged("model", path, "it is missing", advice, _removing(folder))
                continue
            self._count(size)
            if found == card.sha256:
                yield None
            else:
                yield self._damaged("model", path, f"its SHA-256 is {found}", advice, _removing(folder))

    def _damaged(
        self, kind: str, path: Path, reason: str, advice: str, drop: Callable[[], object], job_id: str | None = None
    ) -> Damage:
        if job_id is not None:
            self._artifacts.mark_damaged(job_id)
        if self._drop:
            drop()
        relative = path.relative_to(self._root).as_posix()
        return Damage(kind=kind, path=relative, reason=reason, advice=advice, dropped=self._drop)

    def _count(self, size: int) -> None:
        self.files += 1
        self.bytes += size


def _names(contents: Contents) -> Iterator[str]:
    """Yield the names of a job's files; of a shard whose manifest is damaged, that of its manifest only."""
    for number in range(max(1, len(contents.shards))):
        if contents.is_sharded:
            yield contents.shards[number]["name"]
        with suppress(ArtifactDamagedError):
            yield from [entry["name"] for _, entry in contents.shard(number).files()]


def _removing(folder: Path) -> Callable[[], object]:
    return lambda: shutil.rmtree(folder, ignore_errors=True)
