"""Limits that a process which reads what clients have sent sets itself, before it opens anything."""

from __future__ import annotations

import resource


def lower(what: int, limit: int) -> None:
    """Lower a limit of this process for good (``resource.RLIMIT_…``); one that is lower already stays."""
    hard = resource.getrlimit(what)[1]
    value = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    try:
        resource.setrlimit(what, (value, value))
    except (ValueError, OSError):  # macOS knows some of these by name only; the parent's clock holds everywhere
        return
