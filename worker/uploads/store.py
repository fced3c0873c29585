"""Uploaded files, kept unchanged under a name of the owner's choice until they expire, and models made of them.

Below the data folder::

    uploads/incoming/<owner>.<random>    being received
    uploads/incoming/.<random>           its plain copies, while they are made
    uploads/partial/<owner>/<name>       arriving in parts, with <name>.json beside it
    uploads/kept/<owner>/<name>/         upload.json, and files/ (plain copies) or content (weights)
    models/<id>/                         card.json, weights.safetensors, and the owner

Of cells only plain copies are kept, which the process that inspected the upload has written: no later reader opens
what a client has sent.

Promises: an upload exists whole or not at all and never changes. No owner exceeds the quota, even if many files arrive
at once. The disk's reserve is not used.
Does not promise: that the content was inspected; :mod:`worker.uploads.sandbox` does that before :meth:`Uploads.keep`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import math
import os
import re
import shutil
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from secrets import token_hex
from typing import Any, BinaryIO

from model.errors import SpecError, UploadError
from worker.errors import (
    DiskFullError,
    UploadDamagedError,
    UploadExistsError,
    UploadNotFoundError,
    UploadOffsetError,
    UploadQuotaError,
)
from worker.storage.disk import check_reserve
from worker.storage.durable_files import checksum, file_system_time, sync_file, sync_folder, write_over
from worker.storage.objects import ObjectStore
from worker.uploads.installed_models import InstalledModels, matches_checksum
from worker.uploads.sandbox import ARCHIVES, DISTANCES, PLAIN, Part, inspect_and_copy, inspect_file
from worker.uploads.shared import STORED, SharedUploads, mark_stored

log = logging.getLogger(__name__)

NAME = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}\.(?:tiff?|stl|obj|ply|npy|npz|h5|hdf5|safetensors|zip|zarr\.zip|tar|tgz|tar\.gz)"
)
FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")  # of a sequence that is sent file by file
MEMBER = re.compile(r"(?:[A-Za-z0-9_-][A-Za-z0-9_.-]{0,60}/){0,3}[A-Za-z0-9_-][A-Za-z0-9_.-]{0,60}")
FOLDER_KIND = "folder"
SEQUENCES = ARCHIVES | {FOLDER_KIND}  # kinds that are laid out as folders
FILES_MAX, SAMPLES_MAX, TRIANGLES_MAX = 2000, 2**28, 2**21  # of a sequence, as in an archive
OPEN_FOLDER = "open"  # of uploads that were sent while the service had no keys
CONTENT, FILES, RECORD = "content", "files", "upload.json"
WEIGHTS = "safetensors"  # the kind whose content is kept as it came: its reader takes one form only
COPY_BYTES = 2**20  # that are copied at a time
LOOK_EVERY = 8 * 2**20  # bytes between two checks of the free space
ABANDONED_S = 3600.0
ARRIVING_MAX = 8  # at once, for one owner
PARTIAL_MAX, PARTIAL_KEEP_S = 8, 86_400.0  # for one owner; seconds after the last byte
KEPT_MAX = 10_000
LABEL_MAX = 65_535  # in plain copies
RENUMBERED = "labels were renumbered, the same in all files; renumbered gives the number of each"
RENUMBERED_SHOWN = 2000


@dataclass(frozen=True, kw_only=True)
class UploadRules:
    """The numbers that govern uploads; ``quota_bytes`` is for each owner."""

    quota_bytes: int = 8 * 2**30
    reserve_bytes: int = 2**30
    keep_s: float = 7 * 86400.0


@dataclass(frozen=True, kw_only=True)
class PlainFile:
    """A plain copy: its path for readers, its size and checksum; it lies in ``files`` under its number.

    ``sent_bytes`` and ``sent_sha256`` are those of the file that was sent, of a sequence that is sent file by file.
    """

    path: str
    bytes: int
    sha256: str
    sent_bytes: int = 0
    sent_sha256: str = ""


@dataclass(frozen=True, kw_only=True)
class Upload:
    """One kept upload.

    Times are seconds since 1970; ``bytes`` and ``sha256`` are those of what was sent; ``facts`` is what
    :func:`worker.uploads.sandbox.inspect_file` found; ``files`` are its plain copies. Weights have none, and neither
    have uploads of versions before 0.2 that kept what was sent. ``numbers`` has the number in the plain copies of each
    label of a sequence that is sent file by file; None where an earlier version has begun it.
    """

    name: str
    kind: str
    bytes: int
    sha256: str
    created_at: float
    expires_at: float
    facts: dict[str, Any]
    files: tuple[PlainFile, ...] = field(default=())
    numbers: dict[str, int] | None = None

    @property
    def counted_bytes(self) -> int:
        """Bytes that count towards the quota: those sent, or those of the plain copies if they are more."""
        return max(self.bytes, sum(file.bytes for file in self.files))


@dataclass(frozen=True)
class Partial:
    """What has arrived of an upload in parts: bytes, and the SHA-256 that the whole file is to have, if known."""

    bytes: int
    sha256: str | None


def frames_of(upload: Upload) -> int | None:
    """Return how many frames an upload holds: those of its array, 1 for a mesh, None for a sequence of files."""
    if upload.kind in SEQUENCES:
        return None
    shape = upload.facts.get("shape")
    return int(shape[0]) if upload.kind in ("tiff", *DISTANCES) and shape else 1


def voxel_of(uploads: Iterable[Upload]) -> list[float] | None:
    """Return the distance of samples along x, y and z that arrays of distances state, all the same; else None.

    Their plain copies do not hold it; those of label volumes do.
    """
    stated = {tuple(upload.facts.get("voxel") or ()) if upload.kind in DISTANCES else () for upload in uploads}
    (voxel,) = stated if len(stated) == 1 else ((),)
    return None if None in voxel or not voxel else list(voxel)


def is_flat(upload: Upload) -> bool:
    """Return whether all cells of an upload are one voxel thick: nothing can be fitted to them or learned from them."""
    return bool(upload.facts.get("flat"))


class IncomingUpload:
    """A file that is being received: counted, hashed, and refused once it exceeds a limit."""

    def __init__(self, path: Path, file: BinaryIO, *, rules: UploadRules, room: int, before: int | None = None) -> None:
        """Receive into ``file``; ``before`` bytes are in it already, None: it is not received in parts."""
        self.path, self.bytes = path, before or 0
        self.in_parts, self._whole = before is not None, ""
        self.copy = path.with_name(f".{token_hex(8)}")
        self.parts: tuple[Part, ...] = ()
        self._file, self._rules, self._room = file, rules, room
        self._sha256 = hashlib.sha256()
        self._looked_at = -LOOK_EVERY

    @property
    def sha256(self) -> str:
        """SHA-256 of the bytes received so far, in hexadecimal digits; of a file in parts, once it is closed."""
        if not self.in_parts:
            return self._sha256.hexdigest()
        self._whole = self._whole or checksum(self.path)
        return self._whole

    def write(self, part: bytes) -> None:
        """Append a chunk.

        Raises
        ------
        UploadQuotaError, DiskFullError
            If the file would exceed the quota or the reserve.
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
        """Sync the file to disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def inspect(self, kind: str) -> dict[str, Any]:
        """Return what the file holds, and have plain copies of it; raises ``UploadError``."""
        if kind == WEIGHTS:
            return inspect_file(self.path, kind)
        facts, self.parts = inspect_and_copy(self.path, kind, self.copy)
        return facts

    def renumber(self, kind: str, numbers: dict[int, int]) -> None:
        """Have the plain copy of a file of a sequence made again, with these labels; raises ``UploadError``."""
        self.copy.unlink(missing_ok=True)
        _, self.parts = inspect_and_copy(self.path, kind, self.copy, numbers=numbers)


class Uploads:
    """The uploads below one data folder. Threads and processes may share it."""

    def __init__(self, data_dir: Path, *, rules: UploadRules | None = None, store: ObjectStore | None = None) -> None:
        self.rules = rules or UploadRules()
        self._shared = None if store is None else SharedUploads(store)
        self._holding = threading.local()  # whose lock this thread holds
        self._incoming = data_dir / "uploads" / "incoming"
        self._kept = data_dir / "uploads" / "kept"
        self._partial = data_dir / "uploads" / "partial"
        self.models = InstalledModels(
            data_dir / "models",
            incoming=self._incoming,
            locked=self._owned,
            content=self.content,
            discard=self._discard,
            store=store,
        )

    # ----------------------------------------------------------------------------------------------------- receiving

    @contextmanager
    def arriving(self, owner: str) -> Iterator[IncomingUpload]:
        """Open a file to receive an upload; it is removed afterwards unless :meth:`keep` has kept it.

        Raises
        ------
        UploadQuotaError, DiskFullError
            If there is no space, or the owner is sending too many files already.
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
                incoming = IncomingUpload(path, file, rules=self.rules, room=room)
                yield incoming
        finally:
            path.unlink(missing_ok=True)
            incoming.copy.unlink(missing_ok=True)

    def partial(self, owner: str, name: str) -> Partial | None:
        """Return what has arrived of an upload in parts, if any."""
        path = self._partial / _folder(owner) / name
        if not NAME.fullmatch(name) or not path.is_file():
            return None
        return Partial(bytes=path.stat().st_size, sha256=_wanted(path))

    @contextmanager
    def resuming(self, owner: str, name: str, *, offset: int, sha256: str | None) -> Iterator[IncomingUpload]:
        """Open an upload in parts at its end; what arrives stays until :meth:`finish_partial`.

        Parameters
        ----------
        offset
            Bytes that have arrived, as the client believes; 0 begins an upload.
        sha256
            Of the whole file, if the client says it; the same for all parts.

        Raises
        ------
        UploadOffsetError
            If another number of bytes has arrived, or another request sends a part.
        UploadExistsError
            If the parts so far are those of a file with another checksum.
        UploadQuotaError, DiskFullError
            If there is no room, or too many uploads arrive in parts.
        """
        path = self._partial / _folder(owner) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        self._incoming.mkdir(parents=True, exist_ok=True)
        check_reserve(path.parent, reserve=self.rules.reserve_bytes, wanted=0)
        if offset == 0 and not path.is_file():
            with self._owned(owner):
                if len(list(_partials(path.parent))) >= PARTIAL_MAX:
                    raise UploadQuotaError(f"{PARTIAL_MAX} uploads arrive in parts already; finish or DELETE one")
                write_over(_beside(path), json.dumps({"sha256": sha256}).encode())
                path.touch()
        with ExitStack() as stack:
            try:
                file = stack.enter_context(path.open("r+b"))
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except FileNotFoundError:
                raise UploadOffsetError("nothing has arrived of this upload; begin with offset 0", offset=0) from None
            except BlockingIOError:
                message = "another request sends a part of this upload; ask again in a moment"
                raise UploadOffsetError(message, offset=path.stat().st_size) from None
            size = file.seek(0, os.SEEK_END)
            if sha256 is not None and _wanted(path) not in (None, sha256):
                raise UploadExistsError(f"parts of another file arrive as {name}; DELETE them or use another name")
            if offset != size:
                raise UploadOffsetError(f"{size} bytes have arrived, not {offset}; continue there", offset=size)
            incoming = IncomingUpload(
                path, file, rules=self.rules, room=self.rules.quota_bytes - self.used(owner) + size, before=size
            )
            try:
                yield incoming
            finally:
                incoming.copy.unlink(missing_ok=True)

    def finish_partial(self, owner: str, name: str) -> bool:
        """Remove what has arrived in parts; return whether there was anything."""
        path = self._partial / _folder(owner) / name
        found = bool(NAME.fullmatch(name)) and path.is_file()
        if found or NAME.fullmatch(name):
            path.unlink(missing_ok=True)
            _beside(path).unlink(missing_ok=True)
        return found

    def keep(
        self, owner: str, arrived: IncomingUpload, *, name: str, kind: str, facts: dict[str, Any]
    ) -> tuple[Upload, bool]:
        """Keep what has arrived and was inspected under a name; returns the upload and whether it is new.

        The same content under the same name is kept once; sending it again restarts its retention time.

        Raises
        ------
        UploadExistsError
            If the name has another content.
        UploadQuotaError
            If other uploads have used up the quota meanwhile.
        """
        now = time.time()
        upload = Upload(
            name=name, kind=kind, bytes=arrived.bytes, sha256=arrived.sha256, created_at=now,
            expires_at=now + self.rules.keep_s, facts=facts,
        )  # fmt: skip
        folder = self._folder(owner, name)
        self._refresh(owner, name)
        with self._owned(owner):
            before = _read(folder)
            if before is not None and before.sha256 == upload.sha256:
                self._fetch(owner, before)
            if before is not None and before.expires_at > now and _intact(folder, before, arrived=upload.sha256):
                if before.sha256 != upload.sha256:
                    raise _exists(name)
                again = replace(before, expires_at=upload.expires_at)
                self._write(owner, folder, again)
                return again, False
            if before is not None:
                self._expire_shared(_folder(owner), name, now=max(now, before.expires_at))
            self._discard(folder)
            draft = self._incoming / f".{token_hex(8)}"
            try:
                upload = replace(upload, files=self._fill(draft, arrived, name))
                self._check_room(owner, upload, counted=arrived.bytes if arrived.in_parts else 0)
                other = self._write(owner, draft, upload, once=True)
                if other is not None:  # which another host has received at the same moment
                    _write(draft, other)
                if other is None or other.sha256 == upload.sha256:
                    draft.rename(folder)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
            if other is not None and other.sha256 != upload.sha256:
                raise _exists(name)
            sync_folder(folder.parent)
        return (upload, True) if other is None else (other, False)

    def add(
        self, owner: str, arrived: IncomingUpload, *, name: str, path: str, kind: str, facts: dict[str, Any]
    ) -> tuple[Upload, bool]:
        """Keep what has arrived and was inspected as a file of a sequence; return the sequence and whether it is new.

        Parameters
        ----------
        name
            Of the sequence.
        path
            Of the file in it.

        Raises
        ------
        UploadExistsError
            If the path stands for another content, or another file for readers.
        UploadError
            If the sequence would hold more than is allowed.
        UploadQuotaError
            If there is no room.
        """
        now, folder = time.time(), self._folder(owner, name)
        self._refresh(owner, name)
        with self._owned(owner):
            before = _read(folder)
            if before is None or before.expires_at <= now:
                self._discard(folder)
                before = Upload(
                    name=name, kind=FOLDER_KIND, bytes=0, sha256="", created_at=now, expires_at=now, facts={},
                    numbers={},
                )  # fmt: skip
            shown = PurePosixPath(path).with_suffix(PLAIN[kind]).as_posix()
            later = replace(before, expires_at=now + self.rules.keep_s)
            for file in before.files:
                if file.path.casefold() == shown.casefold() and file.sent_sha256 == arrived.sha256:
                    self._write(owner, folder, later)
                    return later, False
                if _collide(file.path.casefold(), shown.casefold()):
                    raise UploadExistsError(f"the sequence {name} has another file {file.path}; use another name")
            arrived.close()
            facts = dict(facts)
            found: list[int] = facts.pop("found", [])
            numbers = _numbers_of(before, found)
            if numbers is not None and any(numbers[str(label)] != label for label in found):
                arrived.renumber(kind, {label: numbers[str(label)] for label in found})
            number = len(before.files)
            file = PlainFile(
                path=shown, bytes=arrived.parts[0].bytes, sha256=checksum(arrived.copy),
                sent_bytes=arrived.bytes, sent_sha256=arrived.sha256,
            )  # fmt: skip
            files = (*before.files, file)
            later = replace(
                later, files=files, bytes=sum(file.sent_bytes for file in files), sha256=_sha256_of(files),
                facts=_together(before.facts, facts, kind, numbers or {}), numbers=numbers,
            )  # fmt: skip
            self._check_room(owner, later, counted=before.counted_bytes)
            (folder / FILES).mkdir(parents=True, exist_ok=True)
            sync_file(arrived.copy)
            arrived.copy.rename(folder / FILES / _numbered(number))
            sync_folder(folder / FILES)
            self._write(owner, folder, later)
            sync_folder(folder.parent)
        return later, True

    def _check_room(self, owner: str, upload: Upload, *, counted: int) -> None:
        """Refuse what does not fit; ``counted`` bytes of it are among the used ones."""
        if (
            self.used(owner) - counted + upload.counted_bytes > self.rules.quota_bytes
            or len(self.kept(owner)) >= KEPT_MAX
        ):
            raise _over_quota(self.rules)

    def _fill(self, draft: Path, arrived: IncomingUpload, name: str) -> tuple[PlainFile, ...]:
        """Put what is kept of an upload into a new folder; return its plain copies."""
        draft.mkdir()
        arrived.close()
        if not arrived.parts:
            arrived.path.rename(draft / CONTENT)
            return ()
        (draft / FILES).mkdir()
        check_reserve(draft, reserve=self.rules.reserve_bytes, wanted=sum(part.bytes for part in arrived.parts))
        if len(arrived.parts) == 1 and arrived.parts[0].offset == 0:
            arrived.copy.rename(draft / FILES / _numbered(0))
        else:
            _part(arrived.copy, arrived.parts, draft / FILES)
        files = []
        for number, part in enumerate(arrived.parts):
            stored = draft / FILES / _numbered(number)
            sync_file(stored)
            files.append(PlainFile(path=part.path, bytes=part.bytes, sha256=checksum(stored)))
        sync_folder(draft / FILES)
        return tuple(files)

    # ------------------------------------------------------------------------------------------------------- reading

    def get(self, owner: str, name: str) -> Upload:
        """Return one upload; raises ``UploadNotFoundError``."""
        known = NAME.fullmatch(name) or FOLDER.fullmatch(name)
        if known:
            self._refresh(owner, name)
        upload = _read(self._folder(owner, name)) if known else None
        if upload is None or upload.expires_at <= time.time():
            raise UploadNotFoundError("there is no upload of that name; GET /v1/uploads lists them")
        return upload

    def content(self, owner: str, name: str) -> Path:
        """Return where the content of an upload of weights lies.

        Raises
        ------
        UploadNotFoundError
            If there is none, or it is of another kind.
        UploadDamagedError
            If its bytes are not those that were sent.
        """
        upload, path = self.get(owner, name), self._folder(owner, name) / CONTENT
        if upload.files:
            raise UploadNotFoundError(f"the upload {name} holds no weights")
        self._fetch(owner, upload)
        if not matches_checksum(path, upload.sha256):
            raise _damaged(name)
        return path

    def lay_out(self, owner: str, name: str, shelf: Path) -> Path:
        """Show the cells of an upload as a file or a folder that readers open.

        Parameters
        ----------
        shelf
            A folder in which nothing has the name of the upload.

        Returns
        -------
        Path
            ``<shelf>/<stem>.tif`` or ``.ply``, or a folder ``<shelf>/<stem>`` of a sequence; links to plain copies,
            which are there as long as the upload is.

        Raises
        ------
        FileExistsError
            If something has that name.
        UploadNotFoundError
            If there is no such upload.
        UploadDamagedError
            If its bytes are not those that were kept.
        UploadError
            If it was sent to an earlier version, and this one refuses it.
        """
        upload, folder = self.get(owner, name), self._folder(owner, name)
        stem = shelf / name.partition(".")[0]
        if not upload.files:
            copy = stem.with_suffix(PLAIN[upload.kind])
            inspect_and_copy(self.content(owner, name), upload.kind, copy)
            return copy
        self._fetch(owner, upload)
        shown = []
        if upload.kind in SEQUENCES:
            stem.mkdir()
        for number, file in enumerate(upload.files):
            stored = folder / FILES / _numbered(number)
            if not matches_checksum(stored, file.sha256):
                raise _damaged(name)
            link = stem / file.path if upload.kind in SEQUENCES else stem.with_suffix(PurePosixPath(file.path).suffix)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(stored.resolve())
            shown.append(link)
        return stem if upload.kind in SEQUENCES else shown[0]

    def lay_out_all(self, owner: str, names: Iterable[str], shelf: Path) -> list[Path]:
        """Show the cells of uploads side by side, as :meth:`lay_out` does.

        Raises
        ------
        SpecError
            If two would have the same name.
        UploadNotFoundError, UploadDamagedError, UploadError
            As :meth:`lay_out`.
        """
        shown = []
        for name in names:
            try:
                shown.append(self.lay_out(owner, name, shelf))
            except FileExistsError:
                raise SpecError(
                    f"{name} and another upload differ in their ending only: rename one", pointer="/uploads"
                ) from None
        return shown

    def kept(self, owner: str) -> list[Upload]:
        """Return the owner's uploads, ordered by name."""
        now = time.time()
        for name in self._shared.names(_folder(owner)) if self._shared else ():
            self._refresh(owner, name)
        found = (_read(folder) for folder in sorted(_entries(self._kept / _folder(owner))))
        return [upload for upload in found if upload is not None and upload.expires_at > now]

    def all_kept(self) -> Iterator[tuple[Path, Upload | None]]:
        """Yield the folder of every upload of all owners, and its record; None for the record if it is damaged."""
        for owner in _entries(self._kept):
            for folder in sorted(_entries(owner)):
                if folder.is_dir():
                    yield folder, _read(folder)

    def used(self, owner: str) -> int:
        """Return the bytes that an owner keeps: uploads, what arrives in parts, and weights of models made of them."""
        parts = sum(path.stat().st_size for path in _partials(self._partial / _folder(owner)))
        return sum(upload.counted_bytes for upload in self.kept(owner)) + parts + self.models.used(owner)

    # ------------------------------------------------------------------------------------------------------ removing

    def remove(self, owner: str, name: str) -> None:
        """Remove an upload, and what has arrived of it in parts; raises ``UploadNotFoundError`` if there is neither."""
        if not self.finish_partial(owner, name):
            self.get(owner, name)
        with self._owned(owner):
            if self._shared:
                self._shared.drop(_folder(owner), name)
            self._discard(self._folder(owner, name))

    def expire(self) -> None:
        """Remove expired and half received uploads; safe in any process at any time."""
        now = time.time()
        for owner in _entries(self._kept):
            if not owner.is_dir():
                continue  # a lock
            with self._owned(owner.name):
                for folder in _entries(owner):
                    upload = _read(folder)
                    if upload is None or upload.expires_at <= now:
                        self._expire_shared(owner.name, folder.name, now=now)
                        self._discard(folder)
        parts = [path for owner in _entries(self._partial) for path in _partials(owner)]
        written_s = file_system_time(self._partial.parent) if parts else 0.0
        for path in parts:
            if written_s - path.stat().st_mtime > PARTIAL_KEEP_S:
                self.finish_partial(path.parent.name, path.name)
        arriving = _entries(self._incoming)
        written_s = file_system_time(self._incoming.parent) if arriving else 0.0
        for left in arriving:
            if written_s - left.stat().st_mtime > ABANDONED_S:
                shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)

    # ------------------------------------------------------------------------------------------------------- private

    def _write(self, owner: str, folder: Path, upload: Upload, *, once: bool = False) -> Upload | None:
        """Write the record of an upload whose files are in ``folder``; the store gets both before.

        With ``once``, another upload of that name in the store stays, and is returned.
        """
        if self._shared:
            files = stored_files(folder, upload)
            other = self._shared.send(_folder(owner), upload.name, _record(upload), files, once=once)
            mark_stored(folder)
            if other is not None and (kept := _parsed(other, upload.name)) is not None:
                return kept
        _write(folder, upload)
        return None

    def _refresh(self, owner: str, name: str) -> None:
        """Make the record of an upload here that of the store; its files are fetched when they are read."""
        if not self._shared or getattr(self._holding, "owner", None) == _folder(owner):
            return  # who holds the lock has refreshed what it changes, and would wait for itself
        content, folder = self._shared.record(_folder(owner), name), self._folder(owner, name)
        try:
            if content is not None and (folder / RECORD).read_bytes() == content:
                return
        except FileNotFoundError:
            pass
        with self._owned(owner):
            content = self._shared.record(_folder(owner), name)  # it may have been sent from here meanwhile
            if content is None:
                if (folder / STORED).exists():
                    self._discard(folder)
                return
            folder.mkdir(exist_ok=True)
            mark_stored(folder)
            write_over(folder / RECORD, content)

    def _fetch(self, owner: str, upload: Upload) -> None:
        """Fetch from the store what is not here of an upload, or is of an earlier one of that name."""
        if not self._shared:
            return
        for path, sha256 in stored_files(self._folder(owner, upload.name), upload):
            if not matches_checksum(path, sha256):
                self._shared.fetch(_folder(owner), upload.name, path, sha256)

    def _expire_shared(self, owner: str, name: str, *, now: float) -> None:
        """Remove an expired upload from the store, unless another host has received it again."""
        if not self._shared:
            return
        content = self._shared.record(owner, name)
        later = None if content is None else _parsed(content, name)
        if content is not None and (later is None or later.expires_at <= now):
            self._shared.drop(owner, name)

    def _folder(self, owner: str, name: str) -> Path:
        return self._kept / _folder(owner) / name

    @contextmanager
    def _owned(self, owner: str) -> Iterator[None]:
        """Hold the lock under which an owner's files are changed."""
        self._incoming.mkdir(parents=True, exist_ok=True)
        (self._kept / _folder(owner)).mkdir(parents=True, exist_ok=True)
        with (self._kept / f"{_folder(owner)}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._holding.owner = _folder(owner)
            try:
                yield
            finally:
                self._holding.owner = None

    def _discard(self, folder: Path) -> None:
        # Renamed first and then removed file by file, so that no reader finds half an upload.
        doomed = self._incoming / f".{token_hex(8)}"
        try:
            folder.rename(doomed)
        except FileNotFoundError:
            return
        shutil.rmtree(doomed, ignore_errors=True)


def _exists(name: str) -> UploadExistsError:
    return UploadExistsError(f"there is another upload called {name}; remove it or use another name")


def _over_quota(rules: UploadRules) -> UploadQuotaError:
    return UploadQuotaError(
        f"uploads and the models made of them may take {rules.quota_bytes} bytes together; remove some first"
    )


def _folder(owner: str) -> str:
    return owner or OPEN_FOLDER


def _read(folder: Path) -> Upload | None:
    try:
        return _parsed((folder / RECORD).read_bytes(), folder.name)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _parsed(content: bytes, name: str) -> Upload | None:
    """Return the upload that a record describes; None if it is damaged, which is logged."""
    try:
        document = json.loads(content)
        return Upload(**document | {"files": tuple(PlainFile(**file) for file in document.get("files", ()))})
    except (ValueError, TypeError, AttributeError):
        log.critical("upload %s: its record is damaged; send the file again", name)
        return None


def _record(upload: Upload) -> bytes:
    return json.dumps(asdict(upload), allow_nan=False).encode()


def _write(folder: Path, upload: Upload) -> None:
    write_over(folder / RECORD, _record(upload))


def _intact(folder: Path, upload: Upload, *, arrived: str) -> bool:
    """Whether an upload may stay: its content is what its record says, or another upload asks for its name."""
    if upload.sha256 != arrived or all(matches_checksum(path, sha256) for path, sha256 in stored_files(folder, upload)):
        return True
    log.error("upload %s: its stored content is damaged; what was sent again takes its place", upload.name)
    return False


def _beside(path: Path) -> Path:
    """Return where it is written whose parts arrive."""
    return path.with_name(f"{path.name}.json")


def _partials(folder: Path) -> Iterator[Path]:
    return (path for path in _entries(folder) if NAME.fullmatch(path.name))


def _wanted(path: Path) -> str | None:
    try:
        sha256 = json.loads(_beside(path).read_bytes())["sha256"]
    except (FileNotFoundError, ValueError, LookupError, TypeError):
        return None
    return sha256 if isinstance(sha256, str) else None


def stored_files(folder: Path, upload: Upload) -> Iterator[tuple[Path, str]]:
    """Yield the path and the checksum of each file that is kept of an upload."""
    for number, file in enumerate(upload.files):
        yield folder / FILES / _numbered(number), file.sha256
    if not upload.files:
        yield folder / CONTENT, upload.sha256


def _collide(one: str, other: str) -> bool:
    """Whether two paths are the same, or one is a folder on the way to the other."""
    return one == other or one.startswith(f"{other}/") or other.startswith(f"{one}/")


def _sha256_of(files: Iterable[PlainFile]) -> str:
    """Return the SHA-256 of a sequence: of the lines ``<SHA-256 of the file sent>  <path>``, sorted by path."""
    lines = (f"{file.sent_sha256}  {file.path}\n" for file in sorted(files, key=lambda file: file.path))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _numbers_of(sequence: Upload, found: Iterable[int]) -> dict[str, int] | None:
    """Return the number of each label of a sequence with one more file, in whatever order files arrive.

    A label keeps its value if that is at most 65,535 and no other label has got it; else it gets the largest number
    that is free. What files that have arrived hold never changes.

    Raises
    ------
    UploadError
        If there are too many labels, or an earlier version, which did not note labels, has begun the sequence.
    """
    if sequence.numbers is None:
        if max(found, default=0) > LABEL_MAX:
            raise UploadError(
                f"labels reach {max(found)}, and an earlier version of the service has begun this sequence: remove it "
                "and send it again"
            )
        return None
    numbers, free = dict(sequence.numbers), LABEL_MAX
    taken = set(numbers.values())
    new = [label for label in found if str(label) not in numbers]
    if len(numbers) + len(new) > LABEL_MAX:
        raise UploadError(f"the files hold more than {LABEL_MAX} different labels (are they images?)")
    for label in sorted(new):
        number = label if label <= LABEL_MAX and label not in taken else 0
        while not number:
            number, free = (0 if free in taken else free), free - 1
        numbers[str(label)] = number
        taken.add(number)
    return numbers


def _together(sequence: dict[str, Any], file: dict[str, Any], kind: str, numbers: dict[str, int]) -> dict[str, Any]:
    """Return the facts of a sequence with one more file; ``numbers`` has that of each label.

    Raises
    ------
    UploadError
        If it would hold more than is allowed.
    """
    shape = file.get("shape", [0, 0, 0, 0])
    first = kind == "frame" and not sequence.get("volumes")
    voxel = file.get("voxel") if first or file.get("voxel") == sequence.get("voxel") else None
    facts = {
        "files": sequence.get("files", 0) + 1,
        "volumes": sequence.get("volumes", 0) + (kind == "frame"),
        "frames": sequence.get("frames", 0) + shape[0],
        "samples": sequence.get("samples", 0) + math.prod(shape),
        "surfaces": sequence.get("surfaces", 0) + ("triangles" in file),
        "triangles": sequence.get("triangles", 0) + file.get("triangles", 0),
        "tracks": sequence.get("tracks", 0) + file.get("tracks", 0),
        "largest_label": max(sequence.get("largest_label", 0), file.get("largest_label", 0)),
        "voxel": voxel if kind == "frame" else sequence.get("voxel"),
    }
    for what, most in (("files", FILES_MAX), ("samples", SAMPLES_MAX), ("triangles", TRIANGLES_MAX)):
        if facts[what] > most:
            raise UploadError(f"a sequence has at most {most:,} {what}")
    flat = _flat_together(sequence, file)
    notes = [*dict.fromkeys([*sequence.get("notes", ()), *file.get("notes", ())])]
    if changed := {label: number for label, number in numbers.items() if int(label) != number}:
        notes = [*(note for note in notes if not note.endswith(RENUMBERED)), f"{len(changed)} {RENUMBERED}"]
        facts["renumbered"] = dict(list(changed.items())[:RENUMBERED_SHOWN])
    return facts | ({"flat": True} if flat else {}) | ({"notes": notes[:20]} if notes else {})


def _flat_together(sequence: dict[str, Any], file: dict[str, Any]) -> bool:
    """Return whether cells lie in one layer of voxels in all volumes of a sequence with one more file."""
    flat = bool(sequence.get("flat"))
    if "triangles" in file:
        return False
    if not file.get("labels"):  # a list of tracks, or a frame without cells
        return flat
    begun = sequence.get("volumes", 0) + sequence.get("surfaces", 0) > 0
    return bool(file.get("flat")) and (flat or not begun)


def _numbered(number: int) -> str:
    return f"{number:04}"


def _part(source: Path, parts: Iterable[Part], folder: Path) -> None:
    """Cut plain copies out of the file that holds them one after another."""
    with source.open("rb") as file:
        for number, part in enumerate(parts):
            file.seek(part.offset)
            with (folder / _numbered(number)).open("xb") as target:
                left = part.bytes
                while left and (piece := file.read(min(left, COPY_BYTES))):
                    target.write(piece)
                    left -= len(piece)


def _damaged(name: str) -> UploadDamagedError:
    return UploadDamagedError(f"the stored content of the upload {name} is damaged; send the file again")


def _entries(folder: Path) -> Iterator[Path]:
    return (entry for entry in folder.iterdir()) if folder.is_dir() else iter(())
