"""Whether the disk of the data folder accepts writes; a worker checks before it starts a job and after a write error.

A full or broken disk must not end jobs: they wait until it accepts writes again. :mod:`worker.execution` therefore asks
here whether the disk or the job caused an error, before it counts a failed attempt of the job.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from worker.errors import CytosynthError, DiskFullError, ExportError, StoreUnavailableError
from worker.storage.artifacts import Artifacts

log = logging.getLogger(__name__)

WAIT_S = 5.0  # seconds between two attempts while the disk accepts no write
STORAGE_ERRORS = frozenset(
    {
        errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST,
        errno.ENOENT, errno.EFBIG, errno.ESTALE, errno.ENODEV, errno.ENXIO,
    }
)  # fmt: skip


class Storage:
    """The disk that one worker writes to.

    Parameters
    ----------
    reserve
        Bytes that stay free.
    alive, stop
        Called while waiting: show that this process runs; say whether to stop.
    """

    def __init__(
        self, artifacts: Artifacts, *, reserve: int, alive: Callable[[], None], stop: Callable[[], bool]
    ) -> None:
        self._artifacts, self._reserve, self._alive, self._stop = artifacts, reserve, alive, stop

    def check(self, wanted: int) -> None:
        """Raise ``DiskFullError`` if the reserve would be touched once ``wanted`` bytes are written."""
        check_reserve(self._artifacts.root, reserve=self._reserve, wanted=wanted)

    def is_writable(self) -> bool:
        """Whether anything can be written at all."""
        try:
            self._artifacts.probe()
            self.check(0)
        except (OSError, DiskFullError) as error:
            log.warning("the storage is out of order, jobs wait: %s", error)
            return False
        return True

    def storage_error(self, error: CytosynthError | OSError) -> OSError | None:
        """Return the state of the disk that explains ``error``; None if the disk accepts writes."""
        if isinstance(error, StoreUnavailableError):
            return error
        cause = error.__cause__ if isinstance(error, ExportError) else error
        if not isinstance(cause, OSError) or cause.errno not in STORAGE_ERRORS:
            return None
        place = Path(os.fsdecode(cause.filename)) if isinstance(cause.filename, str | bytes) else self._artifacts.root
        return cause if place.is_relative_to(self._artifacts.root) else None

    def wait(self) -> None:
        """Wait before the next attempt."""
        until = time.monotonic() + WAIT_S
        while time.monotonic() < until and not self._stop():
            self._alive()
            time.sleep(0.2)


def check_reserve(folder: Path, *, reserve: int, wanted: int, files: int = 0) -> int:
    """Return the bytes that are free on the disk of ``folder``.

    Raises
    ------
    DiskFullError
        If less than ``reserve`` would be free once ``wanted`` bytes are written, or the file system can hold fewer than
        ``files`` further files.
    """
    facts = os.statvfs(folder)
    if facts.f_files and files > facts.f_favail:  # some file systems have no such limit, and say 0
        raise DiskFullError(
            f"the file system of the service can hold {facts.f_favail:,} more files; this makes at least {files:,}: "
            "ask for fewer sequences, or for formats of one file for all frames"
        )
    free = shutil.disk_usage(folder).free
    if free - wanted < reserve:
        raise DiskFullError(
            f"{free / 2**30:.1f} GiB are free and {reserve / 2**30:.1f} GiB are kept free; this takes about "
            f"{wanted / 2**30:.2f} GiB"
        )
    return free
