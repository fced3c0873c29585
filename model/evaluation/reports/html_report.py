"""The evaluation report: one HTML page with embedded figures, the same figures as PNG, and the numbers as JSON.

Promises: the page needs no other file and no network.
Does not promise: more digits than the numbers deserve; the JSON has them.
"""

from __future__ import annotations

import base64
import html
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.evaluation.novelty import REAL_CELLS, Floor

SIDES = ("generated", "training", "baseline")
PARTS_GIVEN = {"all_frames": "all frames", "time": "every fourth frame", "space": "masks of 32³"}
FIT_COLUMNS = ("dice", "dice_worst_cell", "steps_apart", "steps_apart_95", "thin_dice")

NEW_CELLS = "New cells"

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1180px; margin: 2rem auto; padding: 0 1rem; color: #1b2433; }
h1, h2 { font-weight: 600; } h2 { margin-top: 2.2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #e3e8f0; }
th:first-child, td:first-child { text-align: left; } thead th { border-bottom: 2px solid #8fa3c7; }
img { max-width: 100%; } .note { color: #5b6b83; max-width: 75ch; } .good { color: #0c7a5c; } .poor { color: #b4232a; }
"""


@dataclass(frozen=True)
class Picture:
    """One figure of a report."""

    name: str
    title: str
    note: str
    png: bytes


@dataclass(frozen=True)
class ModelReport:
    """One model's part of a report.

    Attributes
    ----------
    identifier, title
        Of the model.
    reference
        What the evaluated cells were compared with, in words.
    figures
        As :func:`model.evaluation.comparison.compare_sides` returns them, with ``reconstruction`` and
        ``fitting`` (:func:`model.evaluation.upsampling.summarise_fits`) if they were measured.
    pictures
        In the order of the page.
    subject
        The name of the evaluated cells at the beginning of a sentence.
    floor
        What the novelty of a model of these cells should reach.
    """

    identifier: str
    title: str
    reference: str
    figures: dict[str, Any]
    pictures: list[Picture]
    subject: str = NEW_CELLS
    floor: Floor = REAL_CELLS


def write_report(folder: Path, reports: list[ModelReport], *, facts: dict[str, Any]) -> dict[str, Any]:
    """Write ``report.html``, ``summary.json``, and for each model its JSON and PNGs.

    Parameters
    ----------
    folder
        Made when missing.
    reports
        One a model.
    facts
        How the study was made; written into the summary.

    Returns
    -------
    dict
        What ``summary.json`` holds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for report in reports:
        for picture in report.pictures:
            (folder / f"{report.identifier}-{picture.name}.png").write_bytes(picture.png)
        _write_json(folder / f"{report.identifier}.json", report.figures)
    summary = {**facts, "models": {report.identifier: summarised(report.figures) for report in reports}}
    _write_json(folder / "summary.json", summary)
    (folder / "report.html").write_text(_page(reports, facts), encoding="utf-8")
    return summary


def summarised(figures: dict[str, Any]) -> dict[str, Any]:
    """Pick what a summary holds: D with its interval and p for every descriptor, sets, novelty, plausibility."""
    descriptors = {
        name: {
            side: {"D": rows[side]["distance"], "ci": [rows[side]["low"], rows[side]["high"]], "p": rows[side]["p"]}
            for side in SIDES
            if side in rows
        }
        for name, rows in figures["descriptors"].items()
    }
    rest = {name: value for name, value in figures.items() if name != "descriptors"}
    return {"descriptors": descriptors, **rest}


def _write_json(path: Path, document: Any) -> None:
    path.write_text(json.dumps(_plain(document), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    """Replace NaN, which JSON does not have, by null."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _page(reports: list[ModelReport], facts: dict[str, Any]) -> str:
    body = "".join(_section(report) for report in reports)
    said = ", ".join(f"{html.escape(name)}: {html.escape(str(value))}" for name, value in facts.items())
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Evaluation</title><style>{STYLE}</style>'
        f'<h1>Evaluation</h1><p class="note">{said}</p>{body}</html>\n'
    )


def _section(report: ModelReport) -> str:
    figures = report.figures
    counted = ", ".join(f"{count} {side}" for side, count in figures["sequences"].items())
    parts = [
        f"<h1>{html.escape(report.title)}</h1>",
        f'<p class="note">{html.escape(report.subject)} of <code>{html.escape(report.identifier)}</code> against '
        f"{html.escape(report.reference)}. Sequences: {counted}; {figures['moments']} moments each.</p>",
        _descriptor_table(figures["descriptors"]),
        _small_table("Sets of sequences", figures["sets"]),
        _small_table("Plausibility of new cells", {"": figures["plausibility"]}),
        _novelty_table(figures["novelty"], report.floor),
    ]
    if figures.get("reconstruction"):
        parts.append(_small_table("Reconstruction", {"": figures["reconstruction"]}))
    if figures.get("fitting"):
        parts.append(_fit_table(figures["fitting"]))
    for picture in report.pictures:
        source = base64.b64encode(picture.png).decode("ascii")
        parts.append(
            f'<h2>{html.escape(picture.title)}</h2><p class="note">{html.escape(picture.note)}</p>'
            f'<img alt="{html.escape(picture.title)}" src="data:image/png;base64,{source}">'
        )
    return "".join(parts)


def _descriptor_table(descriptors: dict[str, dict[str, dict[str, float]]]) -> str:
    head = "".join(f"<th>{side}</th>" for side in SIDES)
    rows = []
    for name, sides in descriptors.items():
        cells = []
        for side in SIDES:
            row = sides.get(side)
            if row is None:
                cells.append("<td>–</td>")
                continue
            mark = "good" if row["distance"] <= 0.15 else "poor" if row["distance"] > 0.3 else ""
            cells.append(
                f'<td><span class="{mark}">{row["distance"]:.3f}</span> [{row["low"]:.2f}, {row["high"]:.2f}] '
                f"p {row['p']:.3f}</td>"
            )
        first = next(iter(sides.values()))
        medians = f"<td>{first['median_of_other']:.4g}</td>"
        rows.append(f"<tr><td>{html.escape(name.replace('_', ' '))}</td>{medians}{''.join(cells)}</tr>")
    return (
        "<h2>Descriptors</h2>"
        '<p class="note">Kolmogorov–Smirnov D against the reference, in brackets its 95 % interval when whole '
        "sequences are drawn again, and p when whole sequences are exchanged. The training column is the ceiling, the "
        "baseline (spherical harmonics, principal components) the floor.</p>"
        f"<table><thead><tr><th>descriptor</th><th>median</th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


def novelty_rows(novelty: dict[str, float], floor: Floor) -> list[tuple[str, str, str, str]]:
    """Arrange the novelty of new cells: what, of new cells, of held-out cells, what it should be.

    Parameters
    ----------
    novelty
        As :func:`model.evaluation.novelty.novelty_figures` returns it.
    floor
        What a model of these cells should reach.
    """
    count = f"{novelty['training_searched']:.0f}"
    above = novelty["dice_above_held_out"]
    rows = [
        ("memorisation rate", f"{novelty['memorisation_rate']:.1%}", "5 %", f"≤ {floor.memorisation_rate:.0%}"),
        (
            f"Dice with the nearest of {count} training cells, median", f"{novelty['dice_with_nearest_training']:.3f}",
            f"{novelty['dice_with_nearest_training_of_held_out']:.3f}",
            f"at most {floor.dice_above_held_out:g} above ({above:+.3f})" if floor.dice_above_held_out else "",
        ),
        ("the largest of them", f"{novelty['dice_with_nearest_training_largest']:.3f}", "", ""),
    ]  # fmt: skip
    if "dice_with_nearest_held_out" in novelty:
        rows += [
            ("Dice with the nearest held-out cell, median", f"{novelty['dice_with_nearest_held_out']:.3f}", "", ""),
            (
                "Dice with the nearest of as many training cells, median",
                f"{novelty['dice_with_as_many_training']:.3f}", "", "as with held-out cells",
            ),
        ]  # fmt: skip
    return rows


def _novelty_table(novelty: dict[str, float], floor: Floor) -> str:
    lines = "".join(
        f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in novelty_rows(novelty, floor)
    )
    return (
        "<h2>Novelty</h2>"
        '<p class="note">Memorisation rate: share of new cells that overlap their nearest training cell more than 95 % '
        "of the held-out cells overlap theirs. 5 % says that new cells are as new as unseen ones, 100 % that all are "
        "near copies.</p>"
        "<table><thead><tr><th>figure</th><th>new cells</th><th>held-out cells</th><th>should be</th></tr></thead>"
        f"<tbody>{lines}</tbody></table>"
    )


def _fit_table(fitting: dict[str, Any]) -> str:
    lines = []
    for part, title in PARTS_GIVEN.items():
        methods = fitting.get(part, {})
        for method, row in methods.items():
            if method not in ("frames", "ahead"):
                told = "".join(f"<td>{_told(row[name]) if name in row else '–'}</td>" for name in FIT_COLUMNS)
                lines.append(f"<tr><td>{title}</td><td>{html.escape(method.replace('_', ' '))}</td>{told}</tr>")
    head = "".join(f"<th>{html.escape(name.replace('_', ' '))}</th>" for name in FIT_COLUMNS)
    cells = html.escape(", ".join(fitting["cells"]))
    return (
        "<h2>Unseen cells, restored from a part</h2>"
        f'<p class="note">{cells}. The code alone, and the network adapted to the cell, compared with methods '
        "without a model. Given frames are compared only if all frames were given. Distances of the surfaces are "
        "in grid steps.</p>"
        f"<table><thead><tr><th>given</th><th>restored by</th>{head}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table>"
    )


def _small_table(title: str, rows: dict[str, dict[str, Any]]) -> str:
    lines = []
    for name, figures in rows.items():
        cells = "".join(
            f"<tr><td>{html.escape(f'{name} {key}'.strip().replace('_', ' '))}</td><td>{_told(value)}</td></tr>"
            for key, value in figures.items()
        )
        lines.append(cells)
    return f"<h2>{html.escape(title)}</h2><table><tbody>{''.join(lines)}</tbody></table>"


def _told(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else html.escape(str(value))
