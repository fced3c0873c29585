"""Contents, each kept once under its SHA-256, however many jobs have made it.

``blobs/<2 digits>/<sha256>`` is a further hard link to a job's own file. So the file system counts who needs a content:
a blob that no job's folder links to has one link, its own, and may go. Nothing is ever read through a blob, which makes
this safe without a lock: a janitor that removes a blob in the instant in which a publisher links to it takes away a
name only, the publisher's file keeps the content.

Promises: files that :meth:`Blobs.share` returned for have the content they had; two with the same content take the room
of one.
Does not promise: sharing where the file system has no hard links; every job then keeps its own copy.
"""

from __future__ import annotations

import os
from pathlib import Path

from worker.durable import NO_LINKS, draft_of, sync_folder

ATTEMPTS = 8  # against a janitor that removes the same blob again and again


class Blobs:
    """The contents below one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def share(self, path: Path, sha256: str) -> Path | None:
        """Make a file, written and synced, share the room of its twins.

        Returns
        -------
            The folder whose names must be synced before this outlives a power cut; None if nothing was shared.
        """
        try:
            return self._share(path, self._folder / sha256[:2] / sha256)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            return None

    def sweep(self) -> int:
        """Remove the contents that no job has; safe beside any number of publishers. Returns how many."""
        removed = 0
        for folder in self._folders():
            for blob in os.scandir(folder):
                if blob.stat(follow_symlinks=False).st_nlink == 1:
                    Path(blob.path).unlink(missing_ok=True)
                    removed += 1
        return removed

    def contents(self) -> list[str]:
        """Return the SHA-256 of every content."""
        return sorted(blob.name for folder in self._folders() for blob in folder.iterdir())

    def _share(self, path: Path, blob: Path) -> Path | None:
        for _ in range(ATTEMPTS):
            try:
                os.link(path, blob)
            except FileExistsError:
                if _replace_by_twin(path, blob):
                    return blob.parent
            except FileNotFoundError:
                blob.parent.mkdir(parents=True, exist_ok=True)
                sync_folder(self._folder)
            else:
                return blob.parent
        return None

    def _folders(self) -> list[Path]:
        return [entry for entry in self._folder.iterdir() if entry.is_dir()] if self._folder.is_dir() else []


def _replace_by_twin(path: Path, blob: Path) -> bool:
    """Put a link to ``blob`` in the place of ``path``; False if the blob went away or is not what it should be."""
    twin = draft_of(path)
    try:
        os.link(blob, twin)
    except FileNotFoundError:
        return False
    try:
        if twin.stat().st_size != path.stat().st_size:  # a disk that lost data; let the next publisher begin anew
            blob.unlink(missing_ok=True)
            return False
        if not twin.samefile(path):  # renaming a link over its own file does nothing, not even remove it
            twin.replace(path)
        return True
    finally:
        twin.unlink(missing_ok=True)
