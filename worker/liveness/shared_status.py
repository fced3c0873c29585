"""The status of a computing process in a page of memory that it shares with its parent, so that reading costs nothing.

The parent makes the page before it forks. A sequence number is odd while the page is written and tells a reader to read
again (a seqlock), because the writer may be killed at any instant.

Promises: a :class:`StatusSnapshot` is of one moment, never half old and half new.
Does not promise: a history. If one parent has several computing processes, the page shows one of them.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
import time
from dataclasses import dataclass, replace
from typing import Any

LAYOUT = struct.Struct("<QQqdqd32s")  # taken, beats, pid, since, token, limit, job
SEQUENCE = struct.Struct("<Q")
DRAINING, READY, AT = 0, 1, 8  # offsets in the page: two bytes; the sequence number, followed by the other fields
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
    limit_s: float = 0.0  # for this job; 0: as for every job


class SharedStatus:
    """The page. One process writes, from any of its threads; its parent reads."""

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, mmap.PAGESIZE)
        self._writing = threading.Lock()  # taken in the computing process only, so never held across a fork

    # ------------------------------------------------------------------------------------------- the computing process

    def take(self) -> None:
        """Count a wake-up that was received."""
        with self._writing:
            self._write(taken=self._read().taken + 1, pid=os.getpid(), since=time.monotonic(), token=0, job_id="")

    def hold(self, job_id: str, token: int, *, limit_s: float = 0.0) -> None:
        """Record the job that is being computed, which may take ``limit_s``; 0: as long as every job."""
        with self._writing:
            self._write(pid=os.getpid(), since=time.monotonic(), token=token, job_id=job_id, limit_s=limit_s)

    def record_heartbeat(self) -> None:
        """Show that the interpreter runs."""
        with self._writing:
            self._write(beats=self._read().beats + 1)

    def record_idle(self) -> None:
        """Record that no job is being computed."""
        with self._writing:
            self._write(pid=0, token=0, job_id="")

    def record_ready(self) -> None:
        """Record that a computing process of this worker has prepared itself, once and for all."""
        self._page[READY] = 1

    @property
    def draining(self) -> bool:
        """Whether the worker is to stop."""
        return self._page[DRAINING] == 1

    # ----------------------------------------------------------------------------------------------------- the parent

    def drain(self) -> None:
        """Ask for the job back after this frame."""
        self._page[DRAINING] = 1

    @property
    def ready(self) -> bool:
        """Whether a computing process has prepared itself; what it compiled is kept for those after it."""
        return self._page[READY] == 1

    def snapshot(self) -> StatusSnapshot | None:
        """Return a snapshot; None if the page is being written, or the writer died while it wrote."""
        for _ in range(TRIES):
            before = self._sequence()
            snapshot = self._read()
            if before % 2 == 0 and self._sequence() == before:
                return snapshot
        return None

    def wipe(self) -> None:
        """Clear the status of a computing process that has ended."""
        self._write(pid=0, token=0, job_id="")

    # ---------------------------------------------------------------------------------------------------------- both

    def _sequence(self) -> int:
        (sequence,) = SEQUENCE.unpack_from(self._page, AT)
        return int(sequence)

    def _read(self) -> StatusSnapshot:
        taken, beats, pid, since, token, limit_s, job = LAYOUT.unpack_from(self._page, AT + SEQUENCE.size)
        name = job.rstrip(b"\0").decode("ascii", "replace")  # may be half written; snapshot() detects that
        return StatusSnapshot(taken=taken, beats=beats, pid=pid, since=since, token=token, job_id=name, limit_s=limit_s)

    def _write(self, **changes: Any) -> None:
        new, sequence = replace(self._read(), **changes), self._sequence() | 1
        SEQUENCE.pack_into(self._page, AT, sequence)
        LAYOUT.pack_into(
            self._page, AT + SEQUENCE.size, new.taken, new.beats, new.pid, new.since, new.token,
            new.limit_s, new.job_id.encode("ascii"),
        )  # fmt: skip
        SEQUENCE.pack_into(self._page, AT, sequence + 1)
