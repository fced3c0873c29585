"""From measurements to the table that is printed and the summary that is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]

COLUMNS = {  # heading: where the figure lies in an arm's document
    "steps": ("training", "steps"),
    "Dice, seen frames": ("reconstruction", "dice_training_frames"),
    "left out": ("reconstruction", "dice_left_out_frames"),
    "steps apart, seen": ("reconstruction", "steps_apart_training_frames"),
    "left out ": ("reconstruction", "steps_apart_left_out_frames"),
    "Dice, unseen cell": ("fits", "dice_code"),
    "adapted": ("fits", "dice_adapted"),
    "plausible": ("new_cells", "plausible"),
    "strays": ("new_cells", "strays_per_frame"),
    "nearest": ("new_cells", "dice_with_nearest_training"),
    "D volume": ("new_cells", "D_volume", "distance"),
    "D sphericity": ("new_cells", "D_sphericity", "distance"),
}


def rows(document: Row) -> list[dict[str, str]]:
    """Arrange one data set's document as rows: the arms, then the training cells themselves."""
    found = [{"arm": name, **_cells(arm)} for name, arm in document["arms"].items()]
    return [*found, {"arm": "(training cells)", **_cells({"new_cells": document["training_cells"]})}]


def _cells(arm: Row) -> dict[str, str]:
    return {heading: _figure(arm, path) for heading, path in COLUMNS.items()}


def _figure(arm: Any, path: Sequence[str]) -> str:
    for name in path:
        arm = arm.get(name) if isinstance(arm, Mapping) else None
    if arm is None:
        return ""
    return f"{arm:,}" if isinstance(arm, int) else f"{arm:.3f}"


def table(found: Sequence[Mapping[str, str]]) -> str:
    """Set rows with the same members as a Markdown table."""
    names = list(found[0])
    lines = [names, *([row[name] for name in names] for row in found)]
    widths = [max(len(line[n]) for line in lines) for n in range(len(names))]
    set_lines = [
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([set_lines[0], rule, *set_lines[1:]])


def better(document: Row) -> dict[str, dict[str, float]]:
    """By how much ours is ahead of the released method, figure by figure; negative where it is not.

    Dice, plausibility: difference. Distances and D: how much smaller ours is.
    """
    arms = document["arms"]
    if not {"ours", "released"} <= arms.keys():
        return {}
    found: dict[str, dict[str, float]] = {}
    for group, names in (
        ("reconstruction", ("dice_training_frames", "dice_left_out_frames", "steps_apart_left_out_frames")),
        ("fits", ("dice_code", "steps_apart_code")),
        ("new_cells", ("plausible", "strays_per_frame", "D_volume", "D_sphericity")),
    ):
        one, two = arms["ours"].get(group, {}), arms["released"].get(group, {})
        for name in names:
            ours, theirs = (_number(side.get(name)) for side in (one, two))
            if ours is not None and theirs is not None:
                sign = 1.0 if name.startswith(("dice", "plausible")) else -1.0
                found.setdefault(group, {})[name] = round(sign * (ours - theirs), 4)
    return found


def _number(value: Any) -> float | None:
    value = value.get("distance") if isinstance(value, Mapping) else value
    return None if value is None else float(value)
