"""Measure the engine beside the dense path, in one run, in turns: ``python -m benchmarks.engine [--full]``.

Prints tables and writes ``out/bench/engine.json``. What is compared runs in turns, so that whatever else the machine
does slows all of it alike. Without ``--full`` the method's own path is measured on sixteen chunks of a grid, picked at
random, and the rest is extrapolated by their number; with it, up to 256³ every chunk is evaluated. At 512³ both dense
paths are extrapolated in any case. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.engine.cells import LATENTS, MODELS, cases
from benchmarks.engine.files import FRAMES, meshing, writing
from benchmarks.engine.measure import DENSE_MOST, agreement, comparison, costs_of, doubling, sequence
from benchmarks.engine.paths import ours, shipped_network
from benchmarks.engine.rates import kernel_rates
from benchmarks.engine.report import Row, plot, summary, table
from benchmarks.engine.service import first_byte, memory_of_job
from benchmarks.engine.tables import fill, tables
from model.domain import Grid
from model.engine.bricks import Bricks

SIDES = (64, 128, 256, 512)


def machine() -> dict[str, Any]:
    """Say what this ran on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model n")]
        cpu = names[0] if names else cpu
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "numpy", "numba", "scikit-image", "scipy")},
    }


def say(line: str) -> None:
    """Tell how far the run is."""
    print(f"[{time.strftime('%H:%M:%S')}] {line}", flush=True)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=__doc__)
    parser.add_argument("--full", action="store_true", help="run every dense path that is not absurd; half an hour")
    parser.add_argument("--out", type=Path, default=Path("out/bench/engine.json"))
    parser.add_argument("--plot", type=Path, help="draw the cost against the grid here")
    parser.add_argument("--document", type=Path, help="put the tables into this document")
    parser.add_argument("--again", action="store_true", help="measure nothing; take what --out holds")
    arguments = parser.parse_args()
    if not arguments.again:
        document = measure(full=arguments.full)
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    present(json.loads(arguments.out.read_text()), plot_at=arguments.plot, fill_in=arguments.document)
    print(f"\nfigures in {arguments.out}")


def measure(*, full: bool) -> dict[str, Any]:
    """Measure everything."""
    begun, before = time.perf_counter(), machine()
    first = {name: list(cases(name, LATENTS if full else LATENTS[:3])) for name in MODELS}
    config = shipped_network(first[MODELS[0]][0]).config
    say("kernels")
    kernels = kernel_rates((config.depth, config.width), threads=torch.get_num_threads(), rounds=60)
    costs: list[dict[str, Any]] = []
    frames: list[dict[str, Any]] = []
    doublings = [row for name in MODELS for row in doubling(first[name][0], SIDES[1:])]
    say("one way beside the other")
    agreements = [agreement(first[name][0], max(SIDES)) for name in MODELS]
    for name in MODELS:
        say(f"{name}: every path on every grid")
        rows, dense = costs_of(first[name][0], SIDES, full=full)
        costs += rows
        if name == MODELS[0]:
            grid = Grid((DENSE_MOST,) * 3)
            surfaces = meshing(dense, ours(first[name][0], grid, Bricks(grid)), grid, rounds=5)
        frames.append(comparison(first[name][0], 256, dense))
        for number, case in enumerate(first[name][1:]):
            frames.append(comparison(case, 256 if full and number < 3 else 128))
            say(f"compared {case.name}, {case.title}: {frames[-1]['labels']} labels differ")
    say("sequences")
    sequences = [
        sequence(first[name][0], side, frames=FRAMES if full or side < 256 else FRAMES // 3)
        for name in MODELS
        for side in SIDES
        if side <= DENSE_MOST
    ]
    say("writers")
    files = writing(first[MODELS[0]][0], Grid((256,) * 3))
    say("jobs")
    jobs = [memory_of_job(MODELS[0], grid=256, frames=6)]
    if full:
        jobs.append(memory_of_job(MODELS[0], grid=512, frames=30))
    answers = [first_byte(name) for name in MODELS]
    figures = summary(costs, frames, doublings=doublings, kernels=kernels, jobs=jobs, answers=answers)
    return {
        **figures,
        "seconds": round(time.perf_counter() - begun, 1),
        "full": full,
        "machine": {**before, "load_average_after": [round(value, 2) for value in os.getloadavg()]},
        "costs": costs,
        "frames": frames,
        "doublings": doublings,
        "agreements": agreements,
        "sequences": sequences,
        "kernels": kernels,
        "meshing": surfaces,
        "writers": files,
        "jobs": jobs,
        "first_byte": answers,
    }


def present(document: Row, *, plot_at: Path | None, fill_in: Path | None) -> None:
    """Print every table and the figures; draw the plot and put the tables into a document where that is asked for."""
    arranged = tables(document)
    for title, rows in arranged.values():
        print(f"\n{title}\n\n{table(rows)}", flush=True)
    if plot_at:
        plot(document["costs"], plot_at)
    if fill_in:
        fill_in.write_text(fill(fill_in.read_text(encoding="utf-8"), arranged), encoding="utf-8")


if __name__ == "__main__":
    main()
