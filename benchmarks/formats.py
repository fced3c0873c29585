"""Time what each format adds to a job, beside a job of STL and TIFF in the same run.

``python -m benchmarks.formats [--model celegans] [--grid 64] [--frames 30] [--rounds 5]``. A job is one call of
:func:`model.synthesis.synthesize` for one cell of seed 7: drawing the code, calibration, frames, files and their
checksums. The sets of formats are run in turns, one after the other within a round, so that a busy machine slows all of
them; the table shows the median of the rounds. ``cpu_s`` is the processor time of all threads together, ``seconds`` the
time on the clock, ``times`` the ratio to STL and TIFF. A format that needs another one is timed with it. The two
distance formats share the evaluation of the network, so together they cost less than the sum of their rows. Prints the
table and writes ``out/bench/formats.json``. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.engine.report import table
from model.card import SHIPPED_MODELS
from model.formats import FORMATS
from model.network.checkpoint import Checkpoint, load_checkpoint
from model.spec import GenerationSpec
from model.synthesis import synthesize

BASE = ("stl", "tiff")
SEED = 7  # the cell of the shipped C. elegans model divides


def main() -> None:
    """Time all sets in turns and print what each adds."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.formats", description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="celegans")
    parser.add_argument("--grid", type=int, default=64)
    parser.add_argument("--frames", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of the network's evaluation")
    parser.add_argument("--out", type=Path, default=Path("out/bench/formats.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    checkpoint = load_checkpoint(SHIPPED_MODELS / arguments.model)
    size = {"grid": arguments.grid, "frames": arguments.frames}
    sets = format_sets()
    run(checkpoint, list(FORMATS), grid=arguments.grid, frames=2)  # compiles and imports
    rounds = [
        {name: run(checkpoint, formats, **size) for name, formats in sets.items()} for _ in range(arguments.rounds)
    ]
    rows = summarise(rounds)
    print(table(rows))
    document = {"model": arguments.model, **size, "threads": arguments.threads, "rounds": rounds, "rows": rows}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def format_sets() -> dict[str, list[str]]:
    """Return the sets to time, by name: the base, all formats, and the base with each other format."""
    others = [name for name in FORMATS if name not in BASE]
    sets = {" + ".join(BASE): list(BASE), "all": list(FORMATS)}
    return sets | {f"+ {name}": list(dict.fromkeys([*BASE, *FORMATS[name].needs, name])) for name in others}


def run(checkpoint: Checkpoint, formats: Sequence[str], *, grid: int, frames: int) -> dict[str, float]:
    """Run one job in a folder that is removed afterwards; return its ``cpu_s``, ``seconds`` and ``megabytes``."""
    spec = GenerationSpec(model=checkpoint.card.id, seed=SEED, grid=grid, frames=frames, formats=list(formats))
    with tempfile.TemporaryDirectory(prefix="cytosynth-") as folder:
        cpu, clock = time.process_time(), time.perf_counter()
        manifest = synthesize(spec.completed(), checkpoint, Path(folder))
        cpu, clock = time.process_time() - cpu, time.perf_counter() - clock
    megabytes = sum(file["bytes"] for file in manifest["files"]) / 1e6
    return {"cpu_s": cpu, "seconds": clock, "megabytes": megabytes}


def summarise(rounds: Sequence[dict[str, dict[str, float]]]) -> list[dict[str, Any]]:
    """Return a row for each set: medians, and ratios and differences to the base of the same round.

    Parameters
    ----------
    rounds
        For each round, for each set, what :func:`run` returned; the first set is the base.
    """
    base, *_ = rounds[0]
    rows = []
    for name in rounds[0]:
        found = [(one[name], one[base]) for one in rounds]
        rows.append(
            {
                "formats": name,
                "cpu_s": round(statistics.median(mine["cpu_s"] for mine, _ in found), 3),
                "extra_cpu_s": round(statistics.median(mine["cpu_s"] - other["cpu_s"] for mine, other in found), 3),
                "times": round(statistics.median(mine["cpu_s"] / other["cpu_s"] for mine, other in found), 2),
                "seconds": round(statistics.median(mine["seconds"] for mine, _ in found), 3),
                "times_clock": round(statistics.median(mine["seconds"] / other["seconds"] for mine, other in found), 2),
                "megabytes": round(found[0][0]["megabytes"], 2),
            }
        )
    return rows


if __name__ == "__main__":
    main()
