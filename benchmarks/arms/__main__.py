"""The released method against ours: ``python -m benchmarks.arms [--minutes M] [--data …] [--arms …] [--quick]``.

Trains arms with equal numbers of weights for equal times, two at once, one core each, and evaluates them by the same
frames, cells and seeds. Prints tables and writes ``out/arms/summary.json`` after each data set. Training points are
kept in ``out/arms/data`` for the next run. Nothing is asserted. Models trained on real cells stay in ``out``: their
masks may not be passed on, nor what was learned from them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.arms.evaluation import evaluate_arm, one_thread
from benchmarks.arms.measures import Effort, Seen, apart, look_at_known
from benchmarks.arms.methods import ARMS, Arm
from benchmarks.arms.report import better, rows, table
from benchmarks.arms.sequences import GROUPS, Sequences, build, phantoms, real
from benchmarks.arms.training import Clock, train_side_by_side
from model.fitting.fit import FitPlan
from model.learning.optimisers import multiplies_bfloat16

REAL = {"real-celegans": ("celegans", False), "tcells": ("tcells", True)}  # folder; new codes around learned ones
DATA = ("celegans", "a549", *REAL)
AT_ONCE = 2


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large the comparison is.

    Attributes
    ----------
    cells, frames, held_out, side
        Of the phantoms: training cells, frames of each, held-out cells, samples along each side of Ω.
    real_cells
        Files of each real data set; all when None.
    points
        Training points of a frame.
    """

    cells: int = 33
    frames: int = 30
    held_out: int = 24
    side: int = 128
    real_cells: int | None = None
    points: int = 8192


QUICK = Size(cells=6, frames=10, held_out=4, side=64, real_cells=9, points=4096)
QUICK_EFFORT = Effort(
    cells=3, fits=1, new_cells=6, side=40, moments=4, plan=FitPlan(restarts=1, steps=20, draws=4, adapt_steps=20)
)


def machine() -> dict[str, Any]:
    """Say what this ran on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "bfloat16": multiplies_bfloat16("cpu"),
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "numpy", "scipy", "numba")},
    }


def say(line: str) -> None:
    """Tell how far the run is."""
    print(f"[{time.strftime('%H:%M:%S')}] {line}", flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.arms", description=__doc__)
    parser.add_argument("--minutes", type=float, default=8.0, help="of training, for each arm")
    parser.add_argument("--data", default=",".join(DATA), help=f"of {', '.join(DATA)}")
    parser.add_argument("--arms", default="released,ours", help=f"of {', '.join(ARMS)}")
    parser.add_argument("--quick", action="store_true", help="few small cells, half a minute of training")
    parser.add_argument("--real", type=Path, default=Path("../shared/data"), help="folder of the real cells' masks")
    parser.add_argument("--out", type=Path, default=Path("out/arms"))
    parser.add_argument("--dense", type=int, help="samples along each side of Ω for phantoms (128)")
    parser.add_argument("--uncompiled", action="store_true", help="where there is no C++ compiler")
    arguments = parser.parse_args()
    for asked, known in ((arguments.data, DATA), (arguments.arms, tuple(ARMS))):
        unknown = [name for name in asked.split(",") if name not in known]
        if unknown:
            parser.error(f"there is no {unknown[0]!r}; known: {', '.join(known)}")
    return arguments


def main() -> None:
    """Run the comparison."""
    arguments = parse()
    size = QUICK if arguments.quick else Size()
    if arguments.dense:
        size = Size(**{**asdict(size), "side": arguments.dense})
    clock = Clock(
        seconds=30.0 if arguments.quick else 60.0 * arguments.minutes,
        compiled=not (arguments.quick or arguments.uncompiled),
    )
    effort = QUICK_EFFORT if arguments.quick else Effort()
    arms = [ARMS[name] for name in arguments.arms.split(",")]
    document: dict[str, Any] = {"machine": machine(), "clock": asdict(clock), "size": asdict(size), "data": {}}
    for name in arguments.data.split(","):
        sequences = describe(name, arguments.out / "data", real_folder=arguments.real, size=size)
        if sequences is None:
            say(f"{name} is skipped: there are no masks in {arguments.real / REAL[name][0]}")
            document["data"][name] = {"skipped": "no masks"}
        else:
            document["data"][name] = compare_arms(arms, sequences, arguments.out, clock=clock, effort=effort)
            print(f"\n{name}\n\n{table(rows(document['data'][name]))}\n", flush=True)
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "summary.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print(f"figures in {arguments.out / 'summary.json'}")


def describe(name: str, folder: Path, *, real_folder: Path, size: Size) -> Sequences | None:
    """Describe a data set; None if its masks are not there."""
    home = folder / f"{name}-{size.side}-{size.cells}x{size.frames}"
    if name not in REAL:
        return phantoms(
            name, home, cells=size.cells, frames=size.frames, held_out=size.held_out, side=size.side, points=size.points
        )
    masks, around_learned = real_folder / REAL[name][0], REAL[name][1]
    if not any(masks.glob("*.tif")):
        return None
    return real(name, masks, home, cells=size.real_cells, around_learned=around_learned, points=size.points)


def compare_arms(arms: list[Arm], sequences: Sequences, out: Path, *, clock: Clock, effort: Effort) -> dict[str, Any]:
    """Train and evaluate every arm on one data set, two at once."""
    build(sequences, workers=AT_ONCE, say=say)
    folder = out / "models" / sequences.name
    for start in range(0, len(arms), AT_ONCE):
        pair = arms[start : start + AT_ONCE]
        say(f"{sequences.name}: training {' beside '.join(arm.name for arm in pair)}, {clock.seconds:.0f} s")
        train_side_by_side(pair, sequences, folder, clock=clock)
    say(f"{sequences.name}: measuring")
    with ProcessPoolExecutor(AT_ONCE, mp_context=get_context("spawn"), initializer=one_thread) as pool:
        groups = {group: sequences.measurable(group) for group in GROUPS}
        looks = {
            group: [pool.submit(look_at_known, cells, index, effort) for index in range(len(cells))]
            for group, cells in groups.items()
        }
        known: dict[str, list[Seen]] = {group: [look.result() for look in looks[group]] for group in groups}
        evaluated = pool.map(evaluate_arm, [(arm, sequences, folder / arm.name, effort, known) for arm in arms])
        found: dict[str, Any] = {
            "cells": {group: len(cells) for group, cells in known.items()},
            "arms": dict(zip((arm.name for arm in arms), evaluated, strict=True)),
            "training_cells": apart(known["training"], known["held-out"]),
        }
    return {**found, "ours_ahead_by": better(found)}


if __name__ == "__main__":
    main()
