"""Types that all kinds of job share: the runner, its report of progress, and the expected cost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from worker.jobs import Job


class Report(Protocol):
    """Records progress; raises to stop the work."""

    def __call__(
        self,
        *,
        stage: str,
        frame: int,
        frames: int,
        fraction: float | None = None,
        eta_s: float | None = None,
        loss: float | None = None,
        dice: float | None = None,
        kept: bool = False,
    ) -> None:
        """Report that ``frame`` of ``frames`` is done.

        Parameters
        ----------
        fraction
            Of the whole job, where frames are not all of it.
        eta_s
            Seconds until the job ends, where the time that this attempt has taken does not tell.
        loss, dice
            Of a training.
        kept
            Another attempt would begin further on than this one did.
        """


Sealer = Callable[[Job, list[Path], Path, Report], None]
"""Puts the folders of all shards of a job together, in order, as its runner would have written them at once."""

PartRunner = Callable[[Job, int, Path, Report], None]
"""Carries out one shard of a job, by its number: writes its files and, last, ``manifest.json`` into the folder."""

Runner = Callable[[Job, Path, Report], None]
"""Carries out one kind of job: writes its files and, last, ``manifest.json`` into the folder."""

Installer = Callable[[Job, Path], None]
"""Makes the files of a job usable beyond the job, before they are published, whoever has computed them.

Raises ``ExportError`` if they are not what they should be.
"""
