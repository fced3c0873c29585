"""The object store: S3, or a server that speaks its protocol, by obstore; keys are relative to the configured prefix.

Promises: an object exists whole or not at all. Of several writers of :meth:`Objects.put_once`, one makes the object.
Bytes arrive with their SHA-256, which the server compares. Every failure of the store is a ``StoreUnavailableError``.
Does not promise: that ``put_once`` answers True to the writer that made the object: where the answer is lost, the
request is repeated and then finds its own object. Parts of an upload that was broken off may stay in the bucket
without being visible; a lifecycle rule removes them (docs/how-to/use-an-object-store.md).

A process that has used obstore must not fork: its threads do not survive in the child, which crashes at the first use.
The parent of a worker therefore uses :mod:`worker.storage.object_process` instead.
"""

from __future__ import annotations

import hashlib
import io
import logging
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache, cached_property
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol, cast

from worker.errors import StoreUnavailableError

log = logging.getLogger(__name__)

PIECE = 4 * 2**20  # bytes read with one request: what a slow reader delays, and one reader's memory
PART = 8 * 2**20  # bytes of a part of a multipart upload; shorter files are sent with one request
PARTS_AT_ONCE = 4
CONNECT_S = 5.0
TRANSFER_S = 60.0  # of one request with contents: at 140 kB/s a part arrives in that time
REQUEST_S = 15.0  # of one request without; a client or the sweeper waits for it
RETRIES, RETRY_S = 3, 20.0  # repetitions of a request that failed, and the time after which none is begun
SCHEME = "s3://"
DELETED_AT_ONCE = 1000  # what the protocol allows


@dataclass(frozen=True)
class ObjectInfo:
    """One object: its key, size, time of change in seconds since 1970 by the store's clock, and tag of its content."""

    key: str
    bytes: int
    modified: float
    tag: str


class ObjectStore(Protocol):
    """What the rest of the service uses of an object store. Every method may raise ``StoreUnavailableError``."""

    def put_once(self, key: str, content: bytes) -> bool:
        """Make an object; False, and nothing changed, if there is one."""

    def put_over(self, key: str, content: bytes) -> None:
        """Make or replace an object."""

    def put_file(self, key: str, path: Path, *, name: str = "", media_type: str = "") -> None:
        """Make or replace an object with the content of a file; a browser saves it as ``name``."""

    def copy(self, source: str, target: str) -> None:
        """Copy an object within the store; raises ``FileNotFoundError`` if there is none."""

    def get(self, key: str) -> bytes | None:
        """Return the content of an object; None if there is none."""

    def head(self, key: str) -> ObjectInfo | None:
        """Return size, time and tag of an object; None if there is none."""

    def read(self, key: str, first: int, stop: int) -> bytes:
        """Return the bytes ``first`` to before ``stop``; raises ``FileNotFoundError`` if there is no object."""

    def below(self, prefix: str) -> list[ObjectInfo]:
        """Return all objects below a prefix, in the order of their keys."""

    def folders(self, prefix: str) -> list[str]:
        """Return the names directly below a prefix that have objects below them."""

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects; those that do not exist are passed over."""

    def url(self, key: str, *, seconds: float) -> str:
        """Return an address from which anyone may read an object for a while."""


class Objects:
    """An :class:`ObjectStore` in this process.

    Parameters
    ----------
    url
        ``s3://bucket/prefix``. Credentials, region and endpoint come from the usual ``AWS_*`` variables.
    """

    def __init__(self, url: str, *, backend: Any = None) -> None:
        self._url, self._given = url, backend

    # Opened late: importing obstore takes time, and a process that forks must not hold one.
    @cached_property
    def _backend(self) -> Any:
        return self._given or self._open(timeout_s=REQUEST_S)

    @cached_property
    def _transfers(self) -> Any:
        return self._given or self._open(timeout_s=TRANSFER_S)

    def _open(self, *, timeout_s: float) -> Any:
        from obstore.store import S3Store

        bucket, prefix = parse_url(self._url)
        return S3Store(
            bucket,
            prefix=prefix or None,
            config={"checksum_algorithm": "SHA256"},
            client_options={
                "allow_http": True,  # only where the configured endpoint says http://
                "connect_timeout": timedelta(seconds=CONNECT_S),
                "timeout": timedelta(seconds=timeout_s),
            },
            retry_config={"max_retries": RETRIES, "retry_timeout": timedelta(seconds=RETRY_S)},
        )

    def put_once(self, key: str, content: bytes) -> bool:
        """Make an object; False, and nothing changed, if there is one."""
        import obstore
        from obstore.exceptions import AlreadyExistsError

        with _answers("put", key):
            try:
                obstore.put(self._backend, key, content, mode="create", use_multipart=False)
            except AlreadyExistsError:
                return False
        return True

    def put_over(self, key: str, content: bytes) -> None:
        """Make or replace an object."""
        import obstore

        with _answers("put", key):
            obstore.put(self._backend, key, content, use_multipart=False)

    def put_file(self, key: str, path: Path, *, name: str = "", media_type: str = "") -> None:
        """Make or replace an object with the content of a file; a browser saves it as ``name``."""
        import obstore

        attributes: Any = {"Content-Type": media_type} if media_type else {}
        if name:
            attributes["Content-Disposition"] = f'attachment; filename="{name}"'
        with _answers("put", key):
            obstore.put(
                self._transfers,
                key,
                path,
                attributes=attributes or None,
                chunk_size=PART,
                max_concurrency=PARTS_AT_ONCE,
            )

    def copy(self, source: str, target: str) -> None:
        """Copy an object within the store; raises ``FileNotFoundError`` if there is none."""
        import obstore

        with _answers("copy", source):
            obstore.copy(self._transfers, source, target)

    def get(self, key: str) -> bytes | None:
        """Return the content of an object; None if there is none."""
        import obstore

        with _answers("get", key):
            try:
                return bytes(obstore.get(self._backend, key).bytes())
            except FileNotFoundError:
                return None

    def head(self, key: str) -> ObjectInfo | None:
        """Return size, time and tag of an object; None if there is none."""
        import obstore

        with _answers("head", key):
            try:
                return _info(obstore.head(self._backend, key))
            except FileNotFoundError:
                return None

    def read(self, key: str, first: int, stop: int) -> bytes:
        """Return the bytes ``first`` to before ``stop``; raises ``FileNotFoundError`` if there is no object."""
        import obstore

        with _answers("read", key):
            return bytes(obstore.get_range(self._transfers, key, start=first, end=stop))

    def below(self, prefix: str) -> list[ObjectInfo]:
        """Return all objects below a prefix, in the order of their keys."""
        import obstore

        with _answers("list", prefix):
            found = [_info(each) for batch in obstore.list(self._backend, prefix.rstrip("/")) for each in batch]
        return sorted(found, key=lambda info: info.key)

    def folders(self, prefix: str) -> list[str]:
        """Return the names directly below a prefix that have objects below them."""
        import obstore

        with _answers("list", prefix):
            found = obstore.list_with_delimiter(self._backend, prefix.rstrip("/"))["common_prefixes"]
        return sorted(path.rstrip("/").rpartition("/")[2] for path in found)

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects; those that do not exist are passed over."""
        import obstore

        doomed = list(keys)
        for start in range(0, len(doomed), DELETED_AT_ONCE):
            part = doomed[start : start + DELETED_AT_ONCE]
            with _answers("delete", part[0]):
                try:
                    obstore.delete(self._backend, part)
                except FileNotFoundError:  # a store in memory says so, and stops there
                    for key in part:
                        try:
                            obstore.delete(self._backend, key)
                        except FileNotFoundError:
                            continue

    def url(self, key: str, *, seconds: float) -> str:
        """Return an address from which anyone may read an object for a while."""
        import obstore

        with _answers("sign", key):
            return str(obstore.sign(self._backend, "GET", key, timedelta(seconds=seconds)))


@cache
def open_store(url: str | None) -> Objects | None:
    """Return the store of this process, which shares its connections; None without an address."""
    return None if url is None else Objects(url)


def parse_url(url: str) -> tuple[str, str]:
    """Return the bucket and the prefix of ``s3://bucket/prefix``; raises ``ValueError`` if it is something else."""
    bucket, _, prefix = url.removeprefix(SCHEME).partition("/")
    if not url.startswith(SCHEME) or not bucket:
        raise ValueError(f"an object store is s3://bucket or s3://bucket/prefix, not {url[:200]!r}")
    return bucket, prefix.strip("/")


def pieces(store: ObjectStore, key: str, first: int, stop: int) -> Iterator[bytes]:
    """Yield the bytes ``first`` to before ``stop`` of an object, each piece by a request of its own.

    So a reader may take any time between two pieces, and a lost connection costs one piece.

    Raises
    ------
    FileNotFoundError
        If the object is gone, or ends before.
    """
    while first < stop:
        piece = store.read(key, first, min(stop, first + PIECE))
        if not piece:
            raise FileNotFoundError(key)
        first += len(piece)
        yield piece


def checksum_of(store: ObjectStore, info: ObjectInfo) -> str:
    """Return the SHA-256 of an object, after reading it; raises ``FileNotFoundError`` if it is gone."""
    sha256 = hashlib.sha256()
    for piece in pieces(store, info.key, 0, info.bytes):
        sha256.update(piece)
    return sha256.hexdigest()


def fetch(file: ObjectFile, path: Path) -> str:
    """Write an object to a file that does not exist; return its SHA-256; raises ``FileNotFoundError`` if it is gone."""
    sha256 = hashlib.sha256()
    with path.open("xb") as target:
        for piece in file.pieces(0, file.info.bytes):
            sha256.update(piece)
            target.write(piece)
    return sha256.hexdigest()


@dataclass(frozen=True)
class ObjectFacts:
    """The members of ``os.stat_result`` that tell whether a file has changed, for an object."""

    st_size: int
    st_mtime_ns: int
    st_ino: int  # of the tag of its content


@dataclass(frozen=True)
class ObjectFile:
    """An object that is read like a file: the part of ``pathlib.Path`` that readers of results use."""

    store: ObjectStore = field(compare=False, repr=False)
    info: ObjectInfo

    def stat(self) -> ObjectFacts:
        """Return its size, and what changes with its content."""
        return ObjectFacts(self.info.bytes, int(self.info.modified * 1e9), zlib.crc32(self.info.tag.encode()))

    def read_bytes(self) -> bytes:
        """Return its content; raises ``FileNotFoundError`` if it is gone."""
        return b"".join(self.pieces(0, self.info.bytes))

    def pieces(self, first: int, stop: int) -> Iterator[bytes]:
        """Yield the bytes ``first`` to before ``stop``; raises as :func:`pieces`."""
        return pieces(self.store, self.info.key, first, stop)

    def open(self, mode: Literal["rb"]) -> BinaryIO:
        """Open it for reading."""
        return cast(BinaryIO, io.BufferedReader(_Reader(self), PIECE))

    def url(self, *, seconds: float) -> str:
        """Return an address from which anyone may read it for a while."""
        return self.store.url(self.info.key, seconds=seconds)


class _Reader(io.RawIOBase):
    def __init__(self, source: ObjectFile) -> None:
        self._source, self._position = source, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        begin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._source.info.bytes}[whence]
        self._position = max(0, begin + offset)
        return self._position

    def readinto(self, buffer: Any, /) -> int:
        info = self._source.info
        stop = min(info.bytes, self._position + len(buffer))
        if stop <= self._position:
            return 0
        piece = self._source.store.read(info.key, self._position, stop)
        buffer[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)


def _info(meta: Any) -> ObjectInfo:
    return ObjectInfo(
        key=str(meta["path"]),
        bytes=int(meta["size"]),
        modified=meta["last_modified"].timestamp(),
        tag=str(meta["e_tag"] or ""),
    )


@contextmanager
def _answers(what: str, key: str) -> Iterator[None]:
    """Turn the errors of obstore into ``StoreUnavailableError``; that an object is missing stays as it is."""
    from obstore.exceptions import BaseError

    try:
        yield
    except FileNotFoundError:
        raise
    except (BaseError, OSError) as error:
        # The whole text holds the address and what the server said; its first line is enough for a log.
        log.warning("the object store: %s %s: %s", what, key, str(error).partition("\n")[0])
        raise StoreUnavailableError(
            "the object store does not answer, or refuses the request; try again later"
        ) from error
