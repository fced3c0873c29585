"""API keys: who may use the service, as one small file beside the data.

A key is 256 random bits. It is shown once; the file holds its SHA-256 only, from which 256 random bits cannot be
guessed. The file survives the loss of the broker, and keys can be made while no service runs.

Promises: the file is replaced whole or not at all, readable by its owner only; a revoked key is refused with the next
request of every process; once a key has existed the service stays closed, even if all of them are revoked or the file
is damaged.
Does not promise: a record of who used a key; the log has the id of the key.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from worker.errors import KeysError

KEYS_FILE = "keys.json"
FORMAT = "cytosynth-keys/1"
PREFIX = "cyto_"  # so that scanners of repositories and logs can find a key that leaked
_SECRET = re.compile(PREFIX + r"[A-Za-z0-9_-]{43}")
_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,64}")


@dataclass(frozen=True, kw_only=True)
class Key:
    """The stored description of one key. Times are seconds since 1970."""

    id: str  # names the key, and owns what was made with it
    name: str  # what the operator calls its holder
    sha256: str
    created_at: float
    revoked_at: float | None = None

    @property
    def active(self) -> bool:
        """Whether requests with it are accepted."""
        return self.revoked_at is None


class Keys:
    """The keys of one data folder; threads and processes may share it."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / KEYS_FILE
        self._seen: tuple[int, int, int] | None = None
        self._by_sha256: dict[str, Key] = {}

    def required(self) -> bool:
        """Whether a caller must have a key: always, once a key has been created."""
        return self._path.exists()

    def find(self, secret: str) -> Key | None:
        """Return the active key that a client sent, or None.

        Raises
        ------
        KeysError
            If the file is damaged.
        """
        if not _SECRET.fullmatch(secret):
            return None
        sha256 = _sha256(secret)
        key = self._current().get(sha256)
        # The lookup compares a hash that the client cannot choose; the comparison adds certainty for nothing.
        return key if key is not None and key.active and hmac.compare_digest(key.sha256, sha256) else None

    def create(self, name: str) -> tuple[str, Key]:
        """Make a key; returns the secret, which is stored nowhere, and the description that is.

        Raises
        ------
        KeysError
            If the name is empty, too long or taken by an active key.
        """
        if not _NAME.fullmatch(name):
            raise KeysError("a key's name has 1 to 64 printable characters")
        secret = PREFIX + secrets.token_urlsafe(32)
        key = Key(id=secrets.token_hex(8), name=name, sha256=_sha256(secret), created_at=time.time())
        with self._changing() as keys:
            if any(other.active and other.name == name for other in keys):
                raise KeysError(f"there is an active key called {name!r}; revoke it first or choose another name")
            keys.append(key)
        return secret, key

    def revoke(self, id_or_name: str) -> Key:
        """Revoke a key for ever; its jobs and uploads stay until they expire.

        Raises
        ------
        KeysError
            If no active key is called so.
        """
        with self._changing() as keys:
            for place, key in enumerate(keys):
                if key.active and id_or_name in (key.id, key.name):
                    keys[place] = replace(key, revoked_at=time.time())
                    return keys[place]
            raise KeysError(f"there is no active key {id_or_name!r}; `cytosynth keys list` shows them")

    def all(self) -> list[Key]:
        """Return every key ever created, oldest first."""
        return self._read()

    # ------------------------------------------------------------------------------------------------------- private

    def _current(self) -> dict[str, Key]:
        """Return the keys by hash; reads the file again if it was replaced."""
        try:
            facts = self._path.stat()
        except FileNotFoundError:
            return {}
        seen = (facts.st_mtime_ns, facts.st_size, facts.st_ino)
        if seen != self._seen:
            self._by_sha256 = {key.sha256: key for key in self._read()}
            self._seen = seen
        return self._by_sha256

    def _read(self) -> list[Key]:
        try:
            document = json.loads(self._path.read_bytes())
            if document["format"] != FORMAT:
                raise KeysError(f"{self._path.name} is of format {document['format']!r}, not {FORMAT!r}")
            return [Key(**entry) for entry in document["keys"]]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise KeysError(f"the keys in {self._path} cannot be read: {error}") from error

    @contextlib.contextmanager
    def _changing(self) -> Iterator[list[Key]]:
        """Yield the list for changing, and write it to disk afterwards unless an exception was raised."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            keys = self._read()
            yield keys
            text = json.dumps({"format": FORMAT, "keys": [asdict(key) for key in keys]}, indent=2) + "\n"
            draft = self._path.with_suffix(".draft")
            draft.unlink(missing_ok=True)
            handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self._path)


def _sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode("ascii")).hexdigest()
