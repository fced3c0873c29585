"""Time and memory of one frame on fine grids, each format and grid in a process of its own.

``python -m benchmarks.finest --sides 256,512,1024,2048 --formats stl`` synthesises the frame at t = 0 of one cell with
one thread, and prints the processor time of the frame, its growth from the grid before, and the most memory that the
process had, libraries and network included. A grid that a format does not go up to is left out.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from model.formats import FORMATS

GIB = 2**20  # kilobytes, in which Linux reports memory


def measure(model: str, side: int, name: str, frames: int) -> dict[str, Any]:
    """Synthesise here; return what it took."""
    import torch

    from model.card import SHIPPED_MODELS
    from model.network.checkpoint import load_checkpoint
    from model.spec import GenerationSpec
    from model.synthesis import synthesize

    torch.set_num_threads(1)
    checkpoint = load_checkpoint(SHIPPED_MODELS / model)
    formats = [*FORMATS[name].needs, name]

    def run(grid: int) -> float:
        times = {"times": [0.0]} if frames == 1 else {"frames": frames}
        spec = GenerationSpec.model_validate({"model": model, "seed": 7, "grid": grid, "formats": formats, **times})
        with tempfile.TemporaryDirectory() as folder:
            begun = time.process_time()
            synthesize(spec.completed(), checkpoint, Path(folder))
            return time.process_time() - begun

    fixed = run(64)  # loads the kernels
    fixed = run(64)  # the code drawn and checked, and a frame that takes next to nothing
    seconds = run(side)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds - fixed, "gib": memory / GIB}


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.finest", description=__doc__)
    parser.add_argument("--model", default="celegans")
    parser.add_argument("--sides", default="256,512,1024,2048")
    parser.add_argument("--formats", default="stl")
    parser.add_argument("--frames", type=int, default=1)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    sides, names = [int(side) for side in arguments.sides.split(",")], arguments.formats.split(",")
    if arguments.here:
        print(json.dumps(measure(arguments.model, sides[0], names[0], arguments.frames)))
        return
    print(f"{'format':12} {'grid':>6} {'CPU s':>8} {'growth':>7} {'GiB':>6}")
    for name in names:
        before = None
        for side in (side for side in sides if side <= FORMATS[name].finest):
            command = [sys.executable, "-m", "benchmarks.finest", "--here", "--model", arguments.model]
            command += ["--sides", str(side), "--formats", name, "--frames", str(arguments.frames)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"{name:12} {side:4}³  ended with {done.returncode}: {done.stderr.strip()[-300:]}", flush=True)
                break
            found = json.loads(done.stdout.splitlines()[-1])
            growth = f"{found['seconds'] / before:7.2f}" if before else f"{'':7}"
            print(f"{name:12} {side:5}³ {found['seconds']:8.2f} {growth} {found['gib']:6.2f}", flush=True)
            before = found["seconds"]


if __name__ == "__main__":
    main()
