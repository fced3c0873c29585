"""What a computing process lets its parent see: one page of memory that both share, so that looking costs nothing.

The parent makes the page before it forks; nothing is ever sent. A sequence number that is odd while the page is written
tells a reader to look again (a seqlock), for the writer may be killed at any instant.

Promises: a :class:`StatusSnapshot` is of one moment, never half old and half new.
Does not promise: more than the latest news. With several computing processes below one parent the page shows one of
them.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
import time
from dataclasses import dataclass, replace
from typing import Any

LAYOUT = struct.Struct("<QQqdq32s")  # taken, beats, pid, since, token, job
SEQUENCE = struct.Struct("<Q")
DRAINING, AT = 0, 8  # places in the page: one byte; the sequence number and, after it, the rest
TRIES = 1000


@dataclass(frozen=True, kw_only=True)
class StatusSnapshot:
    """What the parent sees."""

    taken: int  # wake-ups, since the worker started
    beats: int
    pid: int  # of the computing process; 0: idle
    since: float  # time.monotonic() when it took the job, which all processes of a machine share
    token: int
    job_id: str  # empty: none (yet)


class SharedStatus:
    """The page. One process writes, from any of its threads; its parent looks."""

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, mmap.PAGESIZE)
        self._writing = threading.Lock()  # taken in the computing process only, so never held across a fork

    # ------------------------------------------------------------------------------------------- the computing process

    def take(self) -> None:
        """A wake-up was taken: the worker receives."""
        with self._writing:
            self._write(taken=self._read().taken + 1, pid=os.getpid(), since=time.monotonic(), token=0, job_id="")

    def hold(self, job_id: str, token: int) -> None:
        """Begin with a job."""
        with self._writing:
            self._write(pid=os.getpid(), since=time.monotonic(), token=token, job_id=job_id)

    def beat(self) -> None:
        """Show that the interpreter runs."""
        with self._writing:
            self._write(beats=self._read().beats + 1)

    def rest(self) -> None:
        """Nothing to do."""
        with self._writing:
            self._write(pid=0, token=0, job_id="")

    @property
    def draining(self) -> bool:
        """Whether the worker is to stop."""
        return self._page[DRAINING] == 1

    # ----------------------------------------------------------------------------------------------------- the parent

    def drain(self) -> None:
        """Ask for the job back after this frame."""
        self._page[DRAINING] = 1

    def look(self) -> StatusSnapshot | None:
        """Return what there is to see; None if the writer is in the middle of it, or died there."""
        for _ in range(TRIES):
            before = self._sequence()
            look = self._read()
            if before % 2 == 0 and self._sequence() == before:
                return look
        return None

    def wipe(self) -> None:
        """Forget a computing process that is gone."""
        self._write(pid=0, token=0, job_id="")

    # ---------------------------------------------------------------------------------------------------------- both

    def _sequence(self) -> int:
        (sequence,) = SEQUENCE.unpack_from(self._page, AT)
        return int(sequence)

    def _read(self) -> StatusSnapshot:
        taken, beats, pid, since, token, job = LAYOUT.unpack_from(self._page, AT + SEQUENCE.size)
        name = job.rstrip(b"\0").decode("ascii", "replace")  # half written, perhaps; look() finds that out
        return StatusSnapshot(taken=taken, beats=beats, pid=pid, since=since, token=token, job_id=name)

    def _write(self, **changes: Any) -> None:
        new, sequence = replace(self._read(), **changes), self._sequence() | 1
        SEQUENCE.pack_into(self._page, AT, sequence)
        LAYOUT.pack_into(
            self._page, AT + SEQUENCE.size, new.taken, new.beats, new.pid, new.since, new.token,
            new.job_id.encode("ascii"),
        )  # fmt: skip
        SEQUENCE.pack_into(self._page, AT, sequence + 1)
