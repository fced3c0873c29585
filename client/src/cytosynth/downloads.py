"""Downloads that are resumed and verified.

Promises: a download that breaks off goes on where it stopped (``Range`` with ``If-Range``), in this process or the
next one; a file has its final name only when its SHA-256 is as in the manifest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import httpx

from cytosynth.errors import DamagedFileError, ProblemError, UnreachableError
from cytosynth.manifest import RemoteFile
from cytosynth.transport import Transport

CHUNK = 2**20
RANGE_NOT_SATISFIABLE = 416


def download_file(transport: Transport, file: RemoteFile, folder: Path, *, on_bytes: Callable[[int], None]) -> Path:
    """Download one file below a folder; return its path.

    A file that is there already with the right checksum is kept. What an earlier attempt left in ``NAME.part`` is
    continued.

    Parameters
    ----------
    transport, file
        What to download, and from where.
    folder
        Folder of the result.
    on_bytes
        Called with the number of bytes that are there.

    Raises
    ------
    DamagedFileError
        If the file differs from the manifest.
    UnreachableError, ProblemError
        If the service does not answer, or refuses; what has arrived is kept in ``NAME.part``.
    """
    path = folder.joinpath(*file.name.split("/"))
    if path.is_file() and path.stat().st_size == file.bytes and _sha256(path) == file.sha256:
        on_bytes(file.bytes)
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".part")
    draft.touch()
    try:
        with draft.open("r+b") as target:
            fetch(transport, file, target, on_bytes=on_bytes)
    except DamagedFileError:
        draft.unlink(missing_ok=True)
        raise
    draft.replace(path)
    return path


def fetch(transport: Transport, file: RemoteFile, target: BinaryIO, *, on_bytes: Callable[[int], None]) -> None:
    """Write one file to ``target``, which may hold its beginning.

    Raises
    ------
    DamagedFileError
        If the file differs from the manifest.
    UnreachableError, ProblemError
        If the service does not answer, or refuses.
    """
    partial = _PartialFile(file, target)
    resumed_at = partial.held
    retry = transport.new_retry()
    while not partial.complete:
        before = partial.held
        try:
            with transport.stream(file.href, headers=partial.headers()) as answer:
                partial.accept(answer)
                for chunk in answer.iter_bytes():
                    partial.append(chunk)
                    on_bytes(partial.held)
                partial.end()
        except (UnreachableError, ProblemError) as error:
            if isinstance(error, ProblemError) and error.status == RANGE_NOT_SATISFIABLE and before:
                partial.restart()
                continue
            if partial.held > before:
                retry.reset()
            transport.wait_or_raise(retry, error)
    if partial.sha256.hexdigest() == file.sha256:
        return
    if resumed_at:  # the bytes of an earlier attempt may be those of another file
        target.seek(0)
        target.truncate()
        fetch(transport, file, target, on_bytes=on_bytes)
        return
    raise DamagedFileError(f"{file.name} was damaged on the way: its SHA-256 differs from the manifest")


class _PartialFile:
    """A file of which some bytes have been received."""

    def __init__(self, file: RemoteFile, target: BinaryIO) -> None:
        self._file, self._target = file, target
        self.sha256, self.held, self._ended = hashlib.sha256(), 0, False
        target.seek(0)
        while chunk := target.read(CHUNK):
            self.sha256.update(chunk)
            self.held += len(chunk)
        if self.held > file.bytes:
            self.restart()

    @property
    def complete(self) -> bool:
        """Whether all bytes are there; an empty file is complete after one answer."""
        return self._ended or (self.held == self._file.bytes and self.held > 0)

    def headers(self) -> dict[str, str]:
        """Ask for the rest, if it is the rest of the same file; the ETag of a file is its SHA-256."""
        return {"Range": f"bytes={self.held}-", "If-Range": f'"{self._file.sha256}"'} if self.held else {}

    def accept(self, answer: httpx.Response) -> None:
        """Check what the answer holds: the rest of the file, or all of it."""
        if answer.status_code == httpx.codes.PARTIAL_CONTENT:
            if not answer.headers.get("Content-Range", "").startswith(f"bytes {self.held}-"):
                raise DamagedFileError(f"{self._file.name}: the service sent another range than the one asked for")
        else:
            self.restart()

    def append(self, chunk: bytes) -> None:
        self.held += len(chunk)
        if self.held > self._file.bytes:
            raise DamagedFileError(f"{self._file.name} is longer than the manifest says")
        self._target.write(chunk)
        self.sha256.update(chunk)

    def end(self) -> None:
        """Check the length after the answer has ended without an error."""
        if self.held != self._file.bytes:
            raise DamagedFileError(
                f"{self._file.name} has {self.held:,} bytes instead of {self._file.bytes:,} as in the manifest"
            )
        self._ended = True

    def restart(self) -> None:
        self._target.seek(0)
        self._target.truncate()
        self.sha256, self.held = hashlib.sha256(), 0


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
