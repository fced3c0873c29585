"""Uploads and models made of them, in an object store: what one host received, the others fetch when they need it.

Below the prefix of the store::

    uploads/<owner>/<name>/files/<sha256>   what is kept of an upload
    uploads/<owner>/<name>/upload.json      its record, written last
    models/<id>/<file>                      a model's files, the card last

The folders below ``data_dir`` are copies of that. A folder that was sent, or fetched, holds a file ``stored``; one
without it was kept before there was a store, and is left as it is.

Promises: a record is in the store only after its files. A copy is compared with its checksums by those who read it.
Of several hosts that receive different uploads of one name at the same moment, one keeps its own, the others refuse.
Does not promise: the same for files of one sequence that several hosts receive at the same moment; a file may be lost,
and is sent again.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable
from pathlib import Path
from secrets import token_hex

from model.card import CARD_FILE
from worker.storage.durable_files import write_over
from worker.storage.objects import ObjectFile, ObjectStore, fetch

log = logging.getLogger(__name__)

STORED = "stored"
RECORD = "upload.json"


class SharedUploads:
    """The uploads of all hosts; folders are those of :class:`worker.uploads.store.Uploads`."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def send(
        self, owner: str, name: str, record: bytes, files: Iterable[tuple[Path, str]], *, once: bool = False
    ) -> bytes | None:
        """Send the files of an upload, each with its SHA-256, that are not there yet, then its record.

        With ``once``, a record that is there already stays, and is returned: of several hosts that receive an upload of
        one name at the same moment, one makes it.
        """
        top = f"uploads/{owner}/{name}/"
        there = {info.key for info in self._store.below(f"{top}files/")}
        for path, sha256 in files:
            if f"{top}files/{sha256}" not in there and path.exists():
                self._store.put_file(f"{top}files/{sha256}", path)
        if once and not self._store.put_once(f"{top}{RECORD}", record):
            other = self._store.get(f"{top}{RECORD}")
            if other is not None:
                return None if other == record else other  # its own: the answer to an earlier try was lost
        self._store.put_over(f"{top}{RECORD}", record)
        return None

    def names(self, owner: str) -> list[str]:
        """Return the names of an owner's uploads, be they only half there."""
        return self._store.folders(f"uploads/{owner}/")

    def record(self, owner: str, name: str) -> bytes | None:
        """Return the record of an upload; None if there is none."""
        return self._store.get(f"uploads/{owner}/{name}/{RECORD}")

    def fetch(self, owner: str, name: str, path: Path, sha256: str) -> None:
        """Write a file of an upload to where readers look for it, if the store has it."""
        info = self._store.head(f"uploads/{owner}/{name}/files/{sha256}")
        if info is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{token_hex(8)}")
        try:
            fetch(ObjectFile(self._store, info), draft)
            draft.replace(path)
        except FileNotFoundError:
            log.info("upload %s: removed while it was fetched", name)
        finally:
            draft.unlink(missing_ok=True)

    def drop(self, owner: str, name: str) -> None:
        """Remove an upload: its record first."""
        top = f"uploads/{owner}/{name}/"
        self._store.delete([f"{top}{RECORD}"])
        self._store.delete(info.key for info in self._store.below(top))


class SharedModels:
    """The models made of uploads, of all hosts.

    Parameters
    ----------
    folder
        Of this host's copies.
    incoming
        Where folders are prepared, on the same file system.
    """

    def __init__(self, store: ObjectStore, *, folder: Path, incoming: Path) -> None:
        self._store, self._folder, self._incoming = store, folder, incoming

    def send(self, model_id: str, draft: Path) -> None:
        """Send the files of a model, its card last, and mark them as sent."""
        for path in sorted(draft.iterdir(), key=lambda path: path.name == CARD_FILE):
            self._store.put_file(f"models/{model_id}/{path.name}", path)
        (draft / STORED).touch()

    def drop(self, model_id: str) -> None:
        """Remove a model: its card first."""
        self._store.delete([f"models/{model_id}/{CARD_FILE}"])
        self._store.delete(info.key for info in self._store.below(f"models/{model_id}/"))

    def synchronise(self) -> None:
        """Fetch the models that other hosts have made, and remove copies of those that were removed."""
        there = set(self._store.folders("models/"))
        here = {path.name: path for path in self._folder.iterdir()} if self._folder.is_dir() else {}
        for model_id in there - here.keys():
            self.fetch(model_id)
        for model_id, path in here.items():
            if (path / STORED).exists() and self._store.head(f"models/{model_id}/{CARD_FILE}") is None:
                shutil.rmtree(path, ignore_errors=True)

    def fetch(self, model_id: str) -> bool:
        """Fetch a model that another host has made; False if there is none."""
        if self._store.head(f"models/{model_id}/{CARD_FILE}") is None:
            return False
        draft = self._incoming / f".{token_hex(8)}"
        draft.mkdir(parents=True)
        try:
            for info in self._store.below(f"models/{model_id}/"):
                fetch(ObjectFile(self._store, info), draft / info.key.rpartition("/")[2])
            (draft / STORED).touch()
            self._folder.mkdir(parents=True, exist_ok=True)
            draft.rename(self._folder / model_id)
        except FileNotFoundError:
            return False  # removed meanwhile
        except OSError:
            if not (self._folder / model_id).is_dir():  # another process was faster
                raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return True


def mark_stored(folder: Path) -> None:
    """Note that the store has what this folder holds."""
    write_over(folder / STORED, b"")
