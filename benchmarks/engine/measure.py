"""The measurements: what a frame costs by every path, whether all give the same, and how the cost grows.

What is compared runs in turns, part by part, so that whatever else the machine does slows all of it alike.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.engine.cells import Case
from benchmarks.engine.files import FRAMES
from benchmarks.engine.paths import (
    Ours,
    batched_decoder,
    chunks,
    differing_labels,
    differing_triangles,
    evaluate_chunks,
    method_decoder,
    ours,
    timed,
    volume_stages,
)
from benchmarks.engine.report import extrapolated, noise
from model.domain import Field, Grid, frame_times
from model.engine.bricks import Bricks
from model.engine.marching_cubes import extract_surface
from model.engine.sparse import Exact, evaluate_dense

DENSE = ("method", "batched", "kernel")
DENSE_MOST = 256  # the largest side at which a dense path is run whole
SAMPLED = 16  # chunks of the method's path, where it is not run whole
SAMPLED_FAST = 8  # of the dense paths that are faster
TURNS = 4  # each way is measured so often, a part at a time


def cost(case: Case, side: int, *, full: bool) -> tuple[dict[str, Any], Field | None]:
    """Measure one frame on one grid by every path; return the row, and the dense field if it was evaluated whole.

    Where it was not, marching cubes and labels on the volume are left out.
    """
    grid = Grid((side,) * 3)
    seconds, ours_of_turns = _in_turns(case, grid, whole=full and side <= DENSE_MOST)
    calibration = timed(case.cell.lipschitz) / FRAMES  # once a sequence: a frame's share of it
    count, found = chunks(grid), ours_of_turns[-1]
    dense_s = {way: extrapolated(seconds[way], count) for way in DENSE}
    guessed = {way for way in DENSE if len(seconds[way]) < count}
    dense: Field | None = None
    volume = {"mesh": 0.0, "labels": 0.0}
    if side <= DENSE_MOST:
        begun = time.perf_counter()
        dense = evaluate_dense(case.decoder(), grid)
        dense_s["kernel"] = time.perf_counter() - begun
        guessed.discard("kernel")
        volume = volume_stages(dense)
    seconds["ours"] = [one.seconds for one in ours_of_turns]
    row = {
        "model": case.name,
        "side": side,
        **{way: dense_s[way] + sum(volume.values()) for way in DENSE},
        "ours": float(np.median(seconds["ours"])) + calibration,
        "extrapolated": sorted(guessed),
        "chunks": count,
        "chunk_s": {way: float(np.median(seconds[way])) for way in DENSE},
        "noise": {way: noise(values) for way, values in seconds.items()},
        "ours_best": min(seconds["ours"]) + calibration,
        "stages": {"calibration": calibration}
        | {name: float(np.median([one.stages[name] for one in ours_of_turns])) for name in found.stages},
        "volume": volume,
        "evaluations": found.field.evaluations,
        "triangles": len(found.surface.faces),
    }
    return row, dense


def _in_turns(case: Case, grid: Grid, *, whole: bool) -> tuple[dict[str, list[float]], list[Ours]]:
    """Run a part of every dense path and our whole frame, again and again; return seconds of chunks, and our frames."""
    order = np.random.default_rng(grid.size).permutation(chunks(grid))
    large = max(grid.shape) > DENSE_MOST
    sampled = TURNS if large else SAMPLED  # a chunk costs the same on every grid
    numbers, few = order if whole else order[:sampled], order[:SAMPLED_FAST]
    bricks, spare = Bricks(grid), np.empty(grid.size, dtype=np.float32)
    seconds: dict[str, list[float]] = {way: [] for way in DENSE}
    frames = []
    ours(case, grid, bricks)  # compiles, and touches the storage as the frames before would have
    for part, few_part in zip(np.array_split(numbers, TURNS), np.array_split(few, TURNS), strict=True):
        seconds["method"] += evaluate_chunks(method_decoder(case), grid, part, spare)
        seconds["batched"] += evaluate_chunks(batched_decoder(case), grid, few_part, spare)
        seconds["kernel"] += evaluate_chunks(case.decoder(), grid, few_part, spare)
        frames += [ours(case, grid, bricks) for _ in range(1 if large else 2)]
    return seconds, frames


def comparison(case: Case, side: int, dense: Field | None = None) -> dict[str, Any]:
    """Compare both ways of evaluating near the membrane with the dense evaluation by the same kernel."""
    grid = Grid((side,) * 3)
    if dense is None:
        dense = evaluate_dense(case.decoder(), grid)
    truth = extract_surface(dense, grid)
    row: dict[str, Any] = {"model": case.name, "cell": case.title, "side": side}
    labels = triangles = 0
    bricks = Bricks(grid)
    ways: tuple[Exact, ...] = ("adaptive", "certified")
    for exact in ways:
        found = ours(case, grid, bricks, exact=exact)
        row["minimal"] = found.minimal
        row[exact] = found.field.evaluations / found.minimal
        labels += differing_labels(dense, found)
        triangles += differing_triangles(truth, found.surface)
        if exact == "certified":
            row["refuted"] = found.field.refuted
    return row | {"labels": labels, "triangles": triangles}


def agreement(case: Case, side: int) -> dict[str, Any]:
    """Compare both ways with one another, where a dense evaluation is out of reach."""
    grid = Grid((side,) * 3)
    found, certified = ours(case, grid, Bricks(grid)), ours(case, grid, Bricks(grid), exact="certified")
    return {
        "model": case.name,
        "cell": case.title,
        "side": side,
        "adaptive": found.field.evaluations / certified.minimal,
        "certified": certified.field.evaluations / certified.minimal,
        "refuted": certified.field.refuted,
        "labels": int((found.labels != certified.labels).sum()),
        "triangles": differing_triangles(found.surface, certified.surface),
    }


def doubling(case: Case, sides: Sequence[int]) -> list[dict[str, Any]]:
    """Measure our way on grid after grid, in turns, so that no grid has a quieter machine than another."""
    storage = {side: Bricks(Grid((side,) * 3)) for side in sides}
    wall: dict[int, list[float]] = {side: [] for side in sides}
    cpu: dict[int, list[float]] = {side: [] for side in sides}
    for _ in range(TURNS):
        for side in sides:
            begun = time.process_time()
            wall[side].append(ours(case, Grid((side,) * 3), storage[side]).seconds)
            cpu[side].append(time.process_time() - begun)
    return [
        {
            "model": case.name,
            "side": side,
            "ours": float(np.median(wall[side][1:])),  # the first turn touches the storage
            "cpu_s": float(np.median(cpu[side][1:])),
            "noise": noise(wall[side][1:]),
        }
        for side in sides
    ]


def sequence(case: Case, side: int, *, frames: int) -> dict[str, Any]:
    """Measure the frames of a whole sequence as a job computes them, several at once; files are not written."""
    grid = Grid((side,) * 3)

    def run() -> None:
        for _ in case.cell.frames(frame_times(frames), grid):
            pass

    seconds = [timed(run) for _ in range(2)]
    return {"model": case.name, "side": side, "frames": frames, "seconds_a_frame": min(seconds) / frames}


def costs_of(case: Case, sides: Sequence[int], *, full: bool) -> tuple[list[dict[str, Any]], Field]:
    """Measure one frame on every grid, ascending; return the rows, and the largest dense field.

    Raises
    ------
    ValueError
        If no grid is small enough for a dense evaluation.
    """
    rows: list[dict[str, Any]] = []
    largest: Field | None = None
    for side in sides:
        row, dense = cost(case, side, full=full)
        if dense is None:
            row["volume"] = {name: 8.0 * value for name, value in rows[-1]["volume"].items()}
            for way in DENSE:
                row[way] += sum(row["volume"].values())
        else:
            largest = dense
        rows.append(row)
    if largest is None:
        raise ValueError("no grid is small enough for a dense evaluation")
    return rows, largest
