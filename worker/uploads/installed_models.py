"""Models made of uploaded weights: a folder each below the data folder, private to the owner.

Promises: a model is installed whole or not at all. Its folder is named after its card, which names content and owner,
so that installing it twice gives one model. Its files stay when the upload expires.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from secrets import token_hex

from model.card import WEIGHTS_FILE, ModelCard, load_card
from model.errors import CheckpointError
from worker.storage.durable_files import checksum, entries, link_or_copy, sync_file, sync_folder, write_over
from worker.storage.objects import ObjectStore
from worker.uploads.shared import SharedModels

log = logging.getLogger(__name__)

MODEL_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
OWNER_FILE = "owner"


class InstalledModels:
    """The models below one folder.

    Parameters
    ----------
    folder
        Of the models; made when the first is installed.
    incoming
        Where folders are prepared, on the same file system.
    locked
        Context in which no other process changes the files of an owner.
    content
        Path of an owner's upload of a name, checked against its checksum.
    discard
        Removes a folder, in one step for a reader.
    store
        Where all hosts keep them; None: there is one host.
    """

    def __init__(
        self,
        folder: Path,
        *,
        incoming: Path,
        locked: Callable[[str], AbstractContextManager[None]],
        content: Callable[[str, str], Path],
        discard: Callable[[Path], None],
        store: ObjectStore | None = None,
    ) -> None:
        self._folder, self._incoming = folder, incoming
        self._locked, self._content, self._discard = locked, content, discard
        self._shared = None if store is None else SharedModels(store, folder=folder, incoming=incoming)

    def synchronise(self) -> None:
        """With an object store: fetch the models that other hosts have made, and remove those that were removed."""
        if self._shared:
            self._shared.synchronise()

    def fetch(self, model_id: str) -> None:
        """With an object store: fetch a model that another host has made, unless it is here."""
        if self._shared and MODEL_ID.fullmatch(model_id) and not (self._folder / model_id).is_dir():
            self._shared.fetch(model_id)

    def install(self, owner: str, name: str, card: ModelCard) -> Path:
        """Make a model of uploaded weights; its folder is named after the card and stays when the upload expires.

        Raises
        ------
        UploadNotFoundError
            If there is no such upload.
        UploadDamagedError
            If its bytes are not those that were sent.
        """
        return self.install_files(owner, [(self._content(owner, name), WEIGHTS_FILE)], card)

    def install_files(self, owner: str, files: Sequence[tuple[Path, str]], card: ModelCard) -> Path:
        """Make a model of files on the same file system; returns its folder.

        Parameters
        ----------
        files
            Each with its name in the folder, the weights among them. They become further links to the same content.
        card
            Names the folder.
        """
        folder = self._folder / card.id
        with self._locked(owner):
            if folder.is_dir():
                if self.installed(owner, card):
                    return folder
                log.error("model %s: its stored files are damaged; it is installed again", card.id)
                self._discard(folder)
            draft = self._incoming / f".{token_hex(8)}"
            draft.mkdir(parents=True)
            for path, name in files:
                link_or_copy(path, draft / name)
            write_over(draft / OWNER_FILE, owner.encode("ascii"))
            sync_file(card.write(draft))
            if self._shared:
                self._shared.send(card.id, draft)
            sync_folder(draft)
            self._folder.mkdir(parents=True, exist_ok=True)
            draft.rename(folder)
            sync_folder(self._folder)
        return folder

    def installed(self, owner: str, card: ModelCard) -> bool:
        """Whether this model is installed and its files are sound; its name follows from its content and its owner."""
        folder = self._folder / card.id
        return _owner(folder) == owner and matches_checksum(folder / WEIGHTS_FILE, card.sha256) and _has_card(folder)

    def uninstall(self, owner: str, model_id: str) -> bool:
        """Remove a model that the owner has made; False if there is none."""
        folder = self._folder / model_id
        if not MODEL_ID.fullmatch(model_id) or _owner(folder) != owner:
            return False
        if self._shared:
            self._shared.drop(model_id)
        self._discard(folder)
        return True

    def used(self, owner: str) -> int:
        """Return the bytes of the weights of an owner's models."""
        return sum(_size(folder / WEIGHTS_FILE) for folder in entries(self._folder) if _owner(folder) == owner)


def matches_checksum(path: Path, sha256: str) -> bool:
    """Whether a file exists and has this SHA-256."""
    try:
        return checksum(path) == sha256
    except FileNotFoundError:
        return False


def _owner(folder: Path) -> str | None:
    try:
        return (folder / OWNER_FILE).read_text(encoding="ascii")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        log.critical("model %s: the record of its owner is damaged; it is hidden from all callers", folder.name)
        return None


def _has_card(folder: Path) -> bool:
    try:
        load_card(folder)
    except CheckpointError:
        return False
    return True


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
