"""Time and exactness of training points of phantoms at random moments, beside the exact path of evenly spread frames.

``python -m benchmarks.data_engine`` prints, for each cell type, the processor seconds of one sequence of 8 random
moments of 2,048 points, those of the exact path for 30 frames and for the same 8 moments, and the errors of the
distances.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from model.domain import frame_times
from model.learning.dataset import sample_points
from model.phantoms import CELL_TYPES, make_phantom

MOMENTS, POINTS, FRAMES = 8, 2048, 30
SUMMED = ("moments", "exact moments", "exact frames")  # with the time that drawing the phantom takes


def measured(cell_type: str, seeds: list[int]) -> dict[str, float]:
    spent = dict.fromkeys(("draw", "moments", "exact moments", "exact frames"), 0.0)
    near, far, wrong = [], [], 0
    for seed in seeds:
        rng = np.random.default_rng(seed)
        begun = time.process_time()
        phantom = make_phantom(cell_type, seed)
        spent["draw"] += time.process_time() - begun
        for t in rng.uniform(-1.0, 1.0, MOMENTS):
            begun = time.process_time()
            frame = phantom.moment(float(t))
            points = sample_points(frame.surface_points, POINTS, rng)
            found = frame.projected(points)
            spent["moments"] += time.process_time() - begun
            begun = time.process_time()
            truth = phantom.frame(float(t))(points)
            spent["exact moments"] += time.process_time() - begun
            band = np.abs(truth) <= 0.05
            near.append(np.abs(found - truth)[band])
            far.append(np.abs(found - truth)[~band])
            wrong += int(((found < 0) != (truth < 0)).sum())
        begun = time.process_time()
        for t in frame_times(FRAMES):
            frame = phantom.frame(float(t))
            frame(sample_points(frame.surface_points, POINTS, rng))
        spent["exact frames"] += time.process_time() - begun
    error, beyond = np.concatenate(near), np.concatenate(far)
    return {name: seconds / len(seeds) for name, seconds in spent.items()} | {
        "99 %": float(np.quantile(error, 0.99)), "99.9 %": float(np.quantile(error, 0.999)), "max": float(error.max()),
        "mean": float(error.mean()), "far max": float(beyond.max()), "wrong signs": wrong,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sequences", type=int, default=5, help="sequences per cell type")
    parser.add_argument("--cell-types", nargs="+", default=CELL_TYPES, choices=CELL_TYPES, help="default: all")
    arguments = parser.parse_args()
    print("| cell type | draw, s | 8 moments, s | sequence, s | exact: 8 moments, s | 30 frames, s |"
          " error near the membrane: mean | 99 % | 99.9 % | max | far: max | wrong signs |")  # fmt: skip
    print("|---|" + "---|" * 11)
    for cell_type in arguments.cell_types:
        phantom = make_phantom(cell_type, 0)  # compiles the kernels
        phantom.moment(0.1).projected(phantom.frame(0.1).surface_points[:8])
        m = measured(cell_type, list(range(100, 100 + arguments.sequences)))
        seconds = [
            m["draw"],
            m["moments"],
            *(m["draw"] + m[name] for name in ("moments", "exact moments", "exact frames")),
        ]
        errors = [m[name] for name in ("mean", "99 %", "99.9 %", "max", "far max")]
        cells = [f"{value:.2f}" for value in seconds] + [f"{value:.1e}" for value in errors]
        print("|", " | ".join([cell_type, *cells, f"{m['wrong signs']:.0f}"]), "|")


if __name__ == "__main__":
    main()
