"""The models that a caller may use: the installed ones and its own."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from model.card import CARD_FILE, ModelCard, find_models, load_card
from model.errors import CheckpointError, UnknownModelError
from worker.uploads.installed_models import OWNER_FILE

SYNCHRONISE_S = 1.0  # between two looks for models that other hosts have made
NO_CALLER = "\0"  # owner of a model whose file ``owner`` is damaged: no caller has this name


class ModelCatalogue:
    """The models of some folders, which are read at each call, so that a new model is found without a restart.

    A model whose folder holds a file ``owner`` was made from an upload; only its owner sees it.
    """

    def __init__(self, roots: list[Path], *, synchronise: Callable[[], None] = lambda: None) -> None:
        """Search ``roots``; of two models with the same id, the one in the earlier folder counts.

        ``synchronise`` brings the folders up to date with those of other hosts; it is called before a search, if the
        last call is a while ago.
        """
        self._roots = roots
        self._synchronise, self._synchronised_at = synchronise, -math.inf
        self._read: dict[Path, tuple[int, ModelCard]] = {}

    def card(self, model_id: str, *, owner: str) -> ModelCard:
        """Return one card; raises ``UnknownModelError``, or ``CheckpointError`` if it is damaged."""
        folders = self._visible(owner)
        if model_id not in folders:
            known = ", ".join(sorted(folders)) or "none is installed"
            raise UnknownModelError(f"there is no model of that name; installed: {known}", pointer="/model")
        return self._card(folders[model_id])

    def cards(self, *, owner: str) -> list[ModelCard]:
        """Return all readable cards, ordered by id; damaged models are left out."""
        found = []
        for _, folder in sorted(self._visible(owner).items()):
            try:
                found.append(self._card(folder))
            except (CheckpointError, OSError):
                continue
        return found

    def installed(self, sha256: str) -> ModelCard | None:
        """Return the card of the installed model with these weights; models made from uploads do not count."""
        for folder in find_models(self._roots).values():
            if owner_of(folder) is None:
                with suppress(CheckpointError, OSError):
                    card = self._card(folder)
                    if card.sha256 == sha256:
                        return card
        return None

    def has(self, model_id: str) -> bool:
        """Return whether a model of that name exists, for any owner."""
        self._bring_up_to_date()
        return model_id in find_models(self._roots)

    def _bring_up_to_date(self) -> None:
        if time.monotonic() - self._synchronised_at >= SYNCHRONISE_S:
            self._synchronised_at = time.monotonic()
            self._synchronise()

    def _visible(self, owner: str) -> dict[str, Path]:
        self._bring_up_to_date()
        return {name: folder for name, folder in find_models(self._roots).items() if owner_of(folder) in (None, owner)}

    def _card(self, folder: Path) -> ModelCard:
        try:
            changed = (folder / CARD_FILE).stat().st_mtime_ns
        except FileNotFoundError:
            raise CheckpointError(f"the model folder {folder.name!r} has no {CARD_FILE}") from None
        known = self._read.get(folder)
        if known is None or known[0] != changed:
            known = self._read[folder] = (changed, load_card(folder))
        return known[1]


def owner_of(folder: Path) -> str | None:
    """Return the owner of a model that was made from an upload; None for an installed model."""
    try:
        return (folder / OWNER_FILE).read_text(encoding="ascii")
    except FileNotFoundError:
        return None
    except ValueError:  # damaged: shown to no caller
        return NO_CALLER
