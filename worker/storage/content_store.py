"""The content store: each content is kept once under its SHA-256, however many jobs have it.

``blobs/<2 digits>/<sha256>`` is a further hard link to a job's own file. So the file system counts the jobs that need a
content: a blob with a single link belongs to no job and can be removed. No file is read through a blob, which makes
this safe without a lock: if cleaning removes a blob in the instant in which a publisher links to it, only a name is
removed, and the publisher's file keeps the content.

Promises: :meth:`ContentStore.share` does not change the content of a file; two files with the same content take the
space of one. A stored content is hashed before it replaces a file; a damaged one is removed and reported.
Does not promise: sharing where the file system has no hard links; every job then keeps its own copy.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

from worker.storage.durable_files import NO_LINKS, checksum, draft_of, sync_folder

log = logging.getLogger(__name__)

ATTEMPTS = 8  # attempts, in case cleaning removes the same blob again and again


class ContentStore:
    """The contents below one folder; ``on_damage`` gets the SHA-256 of each damaged content that is removed."""

    def __init__(self, folder: Path, *, on_damage: Callable[[str], None] = lambda _: None) -> None:
        self._folder, self._on_damage = folder, on_damage

    def share(self, path: Path, sha256: str) -> Path | None:
        """Make a file, written and synced, share the disk space of identical files.

        Returns
        -------
            The folder that must be synced so that this survives a power cut; None if nothing was shared.
        """
        try:
            return self._share(path, self.path(sha256))
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            return None

    def sweep(self) -> int:
        """Remove the contents that no job has, and return how many; safe while other processes publish."""
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

    def path(self, sha256: str) -> Path:
        """Return the path of a content if it is stored."""
        return self._folder / sha256[:2] / sha256

    def drop(self, sha256: str) -> None:
        """Remove the name of a damaged content, so that no file is linked to it any more, and report it."""
        log.error(
            "content %s: its stored bytes are damaged; it is dropped, the next job that makes it stores it again",
            sha256,
        )
        self.path(sha256).unlink(missing_ok=True)
        self._on_damage(sha256)

    def _share(self, path: Path, blob: Path) -> Path | None:
        for _ in range(ATTEMPTS):
            try:
                os.link(path, blob)
            except FileExistsError:
                if self._replace_by_link(path, blob):
                    return blob.parent
            except FileNotFoundError:
                blob.parent.mkdir(parents=True, exist_ok=True)
                sync_folder(self._folder)
            else:
                return blob.parent
        return None

    def _replace_by_link(self, path: Path, blob: Path) -> bool:
        """Replace ``path`` by a link to ``blob``; False if the blob was removed or does not match its name."""
        link = draft_of(path)
        try:
            os.link(blob, link)
        except FileNotFoundError:
            return False
        try:
            if link.samefile(path):  # renaming a link over its own file does nothing, not even remove it
                return True
            # Comparing sizes is not enough: a disk may alter bytes without changing their number.
            if link.stat().st_size != path.stat().st_size or checksum(link) != blob.name:
                self.drop(blob.name)
                return False
            link.replace(path)
            return True
        finally:
            link.unlink(missing_ok=True)

    def _folders(self) -> list[Path]:
        return [entry for entry in self._folder.iterdir() if entry.is_dir()] if self._folder.is_dir() else []
