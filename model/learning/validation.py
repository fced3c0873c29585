"""Cells checked before a training: what was read, every finding, and whether anything can be trained on.

``python -m model.learning.validation FOLDER`` does it in a process of its own, with limits on memory, time and files
(:mod:`worker.uploads.validation` starts it). It reads ``{"voxel": [x, y, z] | null, "interval": minutes | null}`` from
standard input and prints JSON: ``{"refused": "why" | null, "findings": ["…"]}``.

Promises: the sentences are those of ``python -m model validate`` and of a training that fails, because the code is.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from model.errors import DatasetError
from model.learning.import_report import Row, as_sentences, source_rows
from model.readers.open import open_recordings
from model.readers.recording import Calibration, Recording
from model.readers.survey import Surveyed, survey
from model.upload_checks.limits import lower

FINDINGS_SHOWN = 16_000  # characters of the report in an error
ADDRESS_SPACE = 4 * 2**30  # bytes: about half a GiB of them are the libraries
FILES_MAX = 64  # open at once


@dataclass(frozen=True)
class Validated:
    """Opened files, and what was found in them."""

    recordings: list[Recording]
    surveyed: list[Surveyed]
    rows: list[Row]

    @property
    def usable(self) -> list[Surveyed]:
        """The sequences that can be trained on."""
        return [one for one in self.surveyed if one.is_usable]

    @property
    def refusal(self) -> str | None:
        """Why nothing can be trained on, with all findings, a line each; None if something can."""
        if self.usable:
            return None
        return f"none of the {len(self.rows)} sequences can be trained on as it is:\n{_short(self.findings)}"

    @property
    def findings(self) -> list[str]:
        """All findings, a sentence each."""
        return as_sentences(self.rows)


def validate(
    folder: Path,
    *,
    voxel: Sequence[float] | None,
    interval: float | None,
    on_frame: Callable[[int, int], None] = lambda _done, _total: None,
) -> Validated:
    """Open and check the cells of a request.

    Parameters
    ----------
    folder
        Holds the files of the request and nothing else.
    voxel
        Distance of voxels along x, y and z in µm that the request states; None: what the files say.
    interval
        Minutes between frames that the request states.
    on_frame
        Called with (frames done, frames in all).

    Raises
    ------
    DatasetError
        If the files cannot be opened as cells.
    """
    spacing = (voxel[0], voxel[1], voxel[2]) if voxel else None
    given = Calibration(spacing, interval, spacing_from="the request", minutes_from="the request")
    recordings = open_recordings(folder, given=given)
    surveyed = survey(recordings, on_frame=on_frame)
    return Validated(recordings, surveyed, source_rows(surveyed))


def _short(lines: list[str]) -> str:
    text = "\n".join(lines)
    if len(text) <= FINDINGS_SHOWN:
        return text
    kept = text[:FINDINGS_SHOWN].rpartition("\n")[0]
    return f"{kept}\n… and {text[len(kept) :].count(chr(10))} more"


def main() -> None:
    """Check the cells of a folder and print what was found."""
    folder, cpu_s = Path(sys.argv[1]), int(sys.argv[2])
    for what, limit in (
        (resource.RLIMIT_AS, ADDRESS_SPACE),
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),  # it writes nothing
        (resource.RLIMIT_NOFILE, FILES_MAX),
        (resource.RLIMIT_NPROC, 0),  # and starts nobody (root is exempt from this one)
    ):
        lower(what, limit)
    said = json.load(sys.stdin)
    try:
        found = validate(folder, voxel=said["voxel"], interval=said["interval"])
        answer = {"refused": found.refusal, "findings": found.findings}
    except DatasetError as error:
        answer = {"refused": error.message, "findings": [error.message]}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
