"""The findings of a survey, sequence by sequence, as a table for people and as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from model.domain import OMEGA
from model.errors import DatasetError
from model.readers.recording import Calibration, Recording
from model.readers.survey import Finding, Surveyed

SHOWN = 8  # frame numbers listed for each finding in the table
_NO_TRACKS = "no list; a division is seen where a label ends and two new ones stand in its place"


@dataclass(frozen=True)
class Row:
    """One sequence of a report; volumes in µm³."""

    name: str
    frames: int
    volumes: tuple[float, float] | None
    findings: list[Finding]


@dataclass(frozen=True)
class TakenRow:
    """What was taken from one recording: files, axes, voxel, interval, order, labels and tracks, in words."""

    name: str
    said: dict[str, str]


def source_rows(surveyed: list[Surveyed]) -> list[Row]:
    """Report on files that are not imported yet."""
    return [_row(one.sequence.name, len(one.sequence.frames), one.volumes, one.findings) for one in surveyed]


def taken_rows(recordings: Sequence[Recording], surveyed: list[Surveyed]) -> list[TakenRow]:
    """Describe what was read from each recording."""
    rows = []
    for number, recording in enumerate(recordings):
        labels = {
            label for one in surveyed if one.recording == number for some in one.sequence.labels for label in some
        }
        scale, taken = recording.calibration, recording.taken
        rows.append(
            TakenRow(
                recording.name,
                {
                    "files": taken.files,
                    "axes": taken.axes,
                    "voxel": _voxel(scale),
                    "interval": _interval(scale),
                    "order": taken.order,
                    "labels": f"{_listed(labels)}{f' ({taken.labels})' if taken.labels else ''}",
                    "tracks": taken.tracks or ("" if recording.grid_shape is None else _NO_TRACKS),
                },
            )
        )
    return rows


def as_lines(rows: list[TakenRow]) -> Text:
    """Lines of text on what was read; recordings that were read in the same way share a block."""
    alike: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for row in rows:
        alike.setdefault(tuple(row.said.items()), []).append(row.name)
    lines = []
    for said, names in alike.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        lines.append(f"taken from {names[0]}{more}")
        lines += [f"  {what}: {text}" for what, text in said if text]
    return Text("\n".join(lines))


def imported_rows(folder: Path) -> list[Row]:
    """Report on an imported data set: what was found then, and whether its arrays can be trained on.

    Raises
    ------
    DatasetError
        If the folder is no imported data set, or damaged.
    """
    from model.learning.dataset import load_dataset
    from model.learning.imported_cells import SURVEY_FILE

    dataset = load_dataset(folder)
    try:
        known = {row["name"]: row for row in json.loads((folder / SURVEY_FILE).read_bytes())["sequences"]}
    except (OSError, ValueError, KeyError):
        raise DatasetError(f"{folder} was not made by python -m model import: no usable {SURVEY_FILE}") from None
    rows = []
    for name, block in zip(dataset.names, dataset.samples, strict=True):
        row = known.get(name, {"volumes_um3": [], "findings": []})
        findings = [Finding.model_validate(one) for one in row["findings"]] + _of_arrays(
            cast(NDArray[np.float32], block)
        )
        rows.append(_row(name, len(block), np.array(row["volumes_um3"]), findings))
    return rows


def as_json(rows: list[Row], taken: Sequence[TakenRow] = ()) -> dict[str, Any]:
    """The report as a document; ``errors`` and ``warnings`` count sequences."""
    return {
        "taken": [{"name": one.name, **one.said} for one in taken],
        "sequences": [
            {
                "name": row.name,
                "frames": row.frames,
                "volumes_um3": row.volumes,
                "findings": [finding.model_dump() for finding in row.findings],
            }
            for row in rows
        ],
        "errors": sum(any(finding.severity == "error" for finding in row.findings) for row in rows),
        "warnings": sum(any(finding.severity == "warning" for finding in row.findings) for row in rows),
    }


def as_sentences(rows: list[Row]) -> list[str]:
    """The findings as text, a line each."""
    return [
        f"{row.name}: {finding.severity} {finding.code}: {finding.message}"
        + (f" (frames {_frames(finding.frames)})" if finding.frames else "")
        for row in rows
        for finding in row.findings
    ]


def as_table(rows: list[Row]) -> Table:
    """The report as a table, a line a finding."""
    table = Table("sequence", "frames", "volume µm³", "", "what", "where", title=f"{len(rows)} sequences")
    for row in rows:
        volumes = f"{row.volumes[0]:.4g} – {row.volumes[1]:.4g}" if row.volumes else "none"
        cells = (escape(row.name), str(row.frames), volumes)
        if not row.findings:
            table.add_row(*cells, "[green]good[/green]", "", "")
        for finding in row.findings:
            colour = "red" if finding.severity == "error" else "yellow"
            mark = f"[{colour}]{finding.severity}[/{colour}]"
            table.add_row(*cells, mark, escape(f"{finding.code}: {finding.message}"), _frames(finding.frames))
            cells = ("", "", "")
    return table


def _row(name: str, frames: int, volumes: NDArray[np.float64], findings: list[Finding]) -> Row:
    span = (float(volumes.min()), float(volumes.max())) if len(volumes) else None
    return Row(name, frames, span, findings)


def _voxel(scale: Calibration) -> str:
    if scale.spacing is None:
        return "not known"
    return " × ".join(f"{side:.6g}" for side in scale.spacing) + f" µm along x, y, z ({scale.spacing_from or 'given'})"


def _interval(scale: Calibration) -> str:
    if scale.minutes is None:
        return "not known"
    return f"{scale.minutes:.6g} minutes ({scale.minutes_from or 'given'})"


def _listed(labels: set[int]) -> str:
    some = ", ".join(str(label) for label in sorted(labels)[:SHOWN])
    return (some or "none") + (f" … ({len(labels)} in all)" if len(labels) > SHOWN else "")


def _of_arrays(block: NDArray[np.float32]) -> list[Finding]:
    """Check what training will read."""
    bad, one_sided = [], []
    for frame, samples in enumerate(block):
        if not np.isfinite(samples).all() or np.abs(samples[:, :3]).max() > OMEGA[1]:
            bad.append(frame)
        elif samples[:, 3].min() >= 0 or samples[:, 3].max() <= 0:
            one_sided.append(frame)
    found = []
    if bad:
        message = "samples are not finite or lie outside Ω; import again"
        found.append(Finding(severity="error", code="damaged", message=message, frames=bad))
    if one_sided:
        message = "no sample is inside, or none outside; the cell is too small for Ω or fills it"
        found.append(Finding(severity="error", code="one_sided", message=message, frames=one_sided))
    return found


def _frames(frames: list[int]) -> str:
    """Frame numbers, runs joined, the first few."""
    runs: list[list[int]] = []
    for frame in frames:
        if runs and frame == runs[-1][1] + 1:
            runs[-1][1] = frame
        else:
            runs.append([frame, frame])
    text = [str(a) if a == b else f"{a}-{b}" for a, b in runs]
    return ", ".join(text[:SHOWN]) + (" …" if len(text) > SHOWN else "")
