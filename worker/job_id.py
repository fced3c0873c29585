"""Job ids: 32 hexadecimal digits that sort by time of submission."""

from __future__ import annotations

import re
import time
from secrets import token_hex

from worker.errors import ArtifactNotFoundError

JOB_ID = re.compile(r"[0-9a-f]{32}")


def checked(job_id: str) -> str:
    """Return the id; raises ``ArtifactNotFoundError`` if it is none, so that no other name becomes a path."""
    if not JOB_ID.fullmatch(job_id):
        raise ArtifactNotFoundError(f"{job_id[:64]!r} is not the id of a job")
    return job_id


def new_job_id() -> str:
    """Return 32 hexadecimal digits that sort by time: 48 bits of milliseconds, then 80 random bits."""
    return f"{time.time_ns() // 1_000_000:012x}{token_hex(10)}"
