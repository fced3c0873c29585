"""One job in a process of its own, for its memory: ``python -m benchmarks.engine.job --model celegans --grid 256``.

Prints one line of JSON: seconds, the largest resident size of the process, and that before the job began.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import sys
import tempfile
import time
from pathlib import Path

from model.card import SHIPPED_MODELS
from model.network.checkpoint import load_checkpoint
from model.spec import GenerationSpec
from model.synthesis import synthesize


def resident_mib() -> float:
    """Largest resident size of this process so far.

    Linux carries ``ru_maxrss`` over from the process that started this one; the high-water mark of the memory itself
    starts with the program.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.findall(r"^VmHWM:\s+(\d+) kB", status.read_text(), flags=re.MULTILINE)[0]) / 2**10
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size / (2**20 if sys.platform == "darwin" else 2**10)


def main() -> None:
    """Run the job in a folder that is removed afterwards."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine.job", description=__doc__)
    parser.add_argument("--model", default="celegans")
    parser.add_argument("--grid", type=int, default=256)
    parser.add_argument("--frames", type=int, default=6)
    arguments = parser.parse_args()
    checkpoint = load_checkpoint(SHIPPED_MODELS / arguments.model)
    before, begun = resident_mib(), time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="cytosynth-") as folder:
        spec = GenerationSpec(
            model=arguments.model, seed=0, grid=arguments.grid, frames=arguments.frames, formats=["stl"]
        )
        manifest = synthesize(spec.completed(), checkpoint, Path(folder))
    print(
        json.dumps(
            {
                "seconds": round(time.perf_counter() - begun, 3),
                "peak_memory_mib": round(resident_mib(), 1),
                "before_mib": round(before, 1),
                "megabytes": round(sum(file["bytes"] for file in manifest["files"]) / 1e6, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
