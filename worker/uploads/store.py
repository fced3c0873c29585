"""Files that clients bring: kept under a name of their owner's, unchanged, for a while; and the models made of them.

Below the data folder::

    uploads/incoming/<owner>.<random>    arriving
    uploads/kept/<owner>/<name>/         content and upload.json
    models/<id>/                         card.json, weights.safetensors, and whose it is

Promises: an upload exists whole or not at all and never changes; nobody keeps more than the quota, however many arrive
at once; the disk's reserve is not touched.
Does not promise: that the content was looked at; :mod:`worker.uploads.sandbox` does that before :meth:`Uploads.keep`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from secrets import token_hex
from typing import Any, BinaryIO

from worker.errors import (
    DiskFullError,
    UploadDamagedError,
    UploadExistsError,
    UploadNotFoundError,
    UploadQuotaError,
)
from worker.storage.disk import check_reserve
from worker.storage.durable_files import sync_folder, write_over
from worker.uploads.installed_models import InstalledModels, matches_checksum

log = logging.getLogger(__name__)

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}\.(?:tiff?|stl|obj|ply|safetensors)")
OPEN_FOLDER = "open"  # of what came while the service had no keys
CONTENT, RECORD = "content", "upload.json"
LOOK_EVERY = 8 * 2**20  # bytes between two looks at the disk
ABANDONED_S = 3600.0
ARRIVING_MAX = 8  # at once, for one owner
KEPT_MAX = 10_000


@dataclass(frozen=True, kw_only=True)
class UploadRules:
    """The numbers that govern uploads; ``quota_bytes`` is for each owner."""

    quota_bytes: int = 8 * 2**30
    reserve_bytes: int = 2**30
    keep_s: float = 7 * 86400.0


@dataclass(frozen=True, kw_only=True)
class Upload:
    """One kept file.

    Times are seconds since 1970; ``facts`` is what :func:`worker.uploads.sandbox.inspect_file` found.
    """

    name: str
    kind: str
    bytes: int
    sha256: str
    created_at: float
    expires_at: float
    facts: dict[str, Any]


def frames_of(upload: Upload) -> int:
    """Return how many frames an upload holds: those of a label volume; 1 for a mesh."""
    shape = upload.facts.get("shape")
    return int(shape[0]) if upload.kind == "tiff" and shape else 1


class IncomingUpload:
    """A file that is being received: counted, hashed, and stopped where it would take too much."""

    def __init__(self, path: Path, file: BinaryIO, *, rules: UploadRules, room: int) -> None:
        self.path, self.bytes = path, 0
        self._file, self._rules, self._room = file, rules, room
        self._sha256 = hashlib.sha256()
        self._looked_at = -LOOK_EVERY

    @property
    def sha256(self) -> str:
        """Of what has arrived so far, in hexadecimal digits."""
        return self._sha256.hexdigest()

    def write(self, part: bytes) -> None:
        """Add a part.

        Raises
        ------
        UploadQuotaError, DiskFullError
            If it is one too many.
        """
        self.bytes += len(part)
        if self.bytes > self._room:
            raise _over_quota(self._rules)
        if self.bytes - self._looked_at >= LOOK_EVERY:
            check_reserve(self.path.parent, reserve=self._rules.reserve_bytes, wanted=len(part))
            self._looked_at = self.bytes
        try:
            self._file.write(part)
        except OSError as error:
            raise DiskFullError(f"the file cannot be stored: {error.strerror}") from error
        self._sha256.update(part)

    def close(self) -> None:
        """Have everything on disk."""
        self._file.flush()
        os.fsync(self._file.fileno())


class Uploads:
    """The uploads below one data folder. Threads and processes may share it."""

    def __init__(self, data_dir: Path, *, rules: UploadRules | None = None) -> None:
        self.rules = rules or UploadRules()
        self._incoming = data_dir / "uploads" / "incoming"
        self._kept = data_dir / "uploads" / "kept"
        self.models = InstalledModels(
            data_dir / "models",
            incoming=self._incoming,
            locked=self._owned,
            content=self.content,
            discard=self._discard,
        )

    # ----------------------------------------------------------------------------------------------------- receiving

    @contextmanager
    def arriving(self, owner: str) -> Iterator[IncomingUpload]:
        """Open a file to receive into; it is gone afterwards unless :meth:`keep` has taken it.

        Raises
        ------
        UploadQuotaError, DiskFullError
            If there is no room, or too many of this owner's arrive already.
        """
        self._incoming.mkdir(parents=True, exist_ok=True)
        check_reserve(self._incoming, reserve=self.rules.reserve_bytes, wanted=0)
        others = list(self._incoming.glob(f"{_folder(owner)}.*"))
        if len(others) >= ARRIVING_MAX:
            raise UploadQuotaError(f"{len(others)} uploads arrive already, the most at once; wait for one to end")
        room = self.rules.quota_bytes - self.used(owner)
        if room <= 0:
            raise _over_quota(self.rules)
        path = self._incoming / f"{_folder(owner)}.{token_hex(8)}"
        try:
            with path.open("xb") as file:
                yield IncomingUpload(path, file, rules=self.rules, room=room)
        finally:
            path.unlink(missing_ok=True)

    def keep(
        self, owner: str, arrived: IncomingUpload, *, name: str, kind: str, facts: dict[str, Any]
    ) -> tuple[Upload, bool]:
        """Keep what has arrived under a name; returns the upload and whether it is new.

        The same content under the same name is kept once; sent again, it is kept for longer.

        Raises
        ------
        UploadExistsError
            If the name stands for another content.
        UploadQuotaError
            If others have used up the room meanwhile.
        """
        now = time.time()
        upload = Upload(
            name=name, kind=kind, bytes=arrived.bytes, sha256=arrived.sha256, created_at=now,
            expires_at=now + self.rules.keep_s, facts=facts,
        )  # fmt: skip
        folder = self._folder(owner, name)
        with self._owned(owner):
            before = _read(folder)
            if before is not None and before.expires_at > now and _intact(folder, before, arrived=upload.sha256):
                if before.sha256 != upload.sha256:
                    raise UploadExistsError(f"there is another upload called {name}; remove it or use another name")
                again = replace(before, expires_at=upload.expires_at)
                _write(folder, again)
                return again, False
            self._discard(folder)
            if self.used(owner) + upload.bytes > self.rules.quota_bytes or len(self.kept(owner)) >= KEPT_MAX:
                raise _over_quota(self.rules)
            arrived.close()
            draft = self._incoming / f".{token_hex(8)}"
            draft.mkdir()
            arrived.path.rename(draft / CONTENT)
            _write(draft, upload)
            draft.rename(folder)
            sync_folder(folder.parent)
        return upload, True

    # ------------------------------------------------------------------------------------------------------- reading

    def get(self, owner: str, name: str) -> Upload:
        """Return one upload; raises ``UploadNotFoundError``."""
        upload = _read(self._folder(owner, name)) if NAME.fullmatch(name) else None
        if upload is None or upload.expires_at <= time.time():
            raise UploadNotFoundError("there is no upload of that name; GET /v1/uploads lists them")
        return upload

    def content(self, owner: str, name: str) -> Path:
        """Return where the content of an upload lies.

        Raises
        ------
        UploadNotFoundError
            If there is none.
        UploadDamagedError
            If its bytes are not those that were sent.
        """
        upload, path = self.get(owner, name), self._folder(owner, name) / CONTENT
        if not matches_checksum(path, upload.sha256):
            raise _damaged(name)
        return path

    def kept(self, owner: str) -> list[Upload]:
        """Return the owner's uploads, ordered by name."""
        now = time.time()
        found = (_read(folder) for folder in sorted(_entries(self._kept / _folder(owner))))
        return [upload for upload in found if upload is not None and upload.expires_at > now]

    def all_kept(self) -> Iterator[tuple[Path, Upload | None]]:
        """Yield the folder of every upload, whoever owns it, and its record; None for the record if it is damaged."""
        for owner in _entries(self._kept):
            for folder in sorted(_entries(owner)):
                if folder.is_dir():
                    yield folder, _read(folder)

    def used(self, owner: str) -> int:
        """Return the bytes that an owner keeps: uploads, and the weights of models made of them."""
        return sum(upload.bytes for upload in self.kept(owner)) + self.models.used(owner)

    # ------------------------------------------------------------------------------------------------------ removing

    def remove(self, owner: str, name: str) -> None:
        """Remove an upload; raises ``UploadNotFoundError``."""
        self.get(owner, name)
        with self._owned(owner):
            self._discard(self._folder(owner, name))

    def expire(self) -> None:
        """Remove what has expired and what was left half received; safe to run anywhere, any time."""
        now = time.time()
        for owner in _entries(self._kept):
            if not owner.is_dir():
                continue  # a lock
            with self._owned(owner.name):
                for folder in _entries(owner):
                    upload = _read(folder)
                    if upload is None or upload.expires_at <= now:
                        self._discard(folder)
        for left in _entries(self._incoming):
            if now - left.stat().st_mtime > ABANDONED_S:
                shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)

    # ------------------------------------------------------------------------------------------------------- private

    def _folder(self, owner: str, name: str) -> Path:
        return self._kept / _folder(owner) / name

    @contextmanager
    def _owned(self, owner: str) -> Iterator[None]:
        """One change at a time to what an owner keeps."""
        self._incoming.mkdir(parents=True, exist_ok=True)
        (self._kept / _folder(owner)).mkdir(parents=True, exist_ok=True)
        with (self._kept / f"{_folder(owner)}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _discard(self, folder: Path) -> None:
        # First out of sight, then piece by piece: nobody finds half an upload.
        doomed = self._incoming / f".{token_hex(8)}"
        try:
            folder.rename(doomed)
        except FileNotFoundError:
            return
        shutil.rmtree(doomed, ignore_errors=True)


def _over_quota(rules: UploadRules) -> UploadQuotaError:
    return UploadQuotaError(
        f"uploads and the models made of them may take {rules.quota_bytes} bytes together; remove some first"
    )


def _folder(owner: str) -> str:
    return owner or OPEN_FOLDER


def _read(folder: Path) -> Upload | None:
    try:
        return Upload(**json.loads((folder / RECORD).read_bytes()))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError):
        log.critical("upload %s: its record is damaged; send the file again", folder.name)
        return None


def _write(folder: Path, upload: Upload) -> None:
    write_over(folder / RECORD, json.dumps(asdict(upload), allow_nan=False).encode())


def _intact(folder: Path, upload: Upload, *, arrived: str) -> bool:
    """Whether an upload may stay: its content is what its record says, or another upload asks for its name."""
    if upload.sha256 != arrived or matches_checksum(folder / CONTENT, upload.sha256):
        return True
    log.error("upload %s: its stored content is damaged; what was sent again takes its place", upload.name)
    return False


def _damaged(name: str) -> UploadDamagedError:
    return UploadDamagedError(f"the stored content of the upload {name} is damaged; send the file again")


def _entries(folder: Path) -> Iterator[Path]:
    return (entry for entry in folder.iterdir()) if folder.is_dir() else iter(())
