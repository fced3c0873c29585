"""Types that all kinds of job share: the runner, its report of progress, and the expected cost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from worker.jobs import Job


class Report(Protocol):
    """Records progress; raises to stop the work."""

    def __call__(self, *, stage: str, frame: int, frames: int) -> None:
        """Report that ``frame`` of ``frames`` is done."""


Sealer = Callable[[Job, list[Path], Path, Report], None]
"""Puts the folders of all shards of a job together, in order, as its runner would have written them at once."""

Runner = Callable[[Job, Path, Report], None]
"""Carries out one kind of job: writes its files and, last, ``manifest.json`` into the folder."""
