"""What a trained arm is evaluated by: frames it saw and did not see, cells it never saw, and new cells.

Promises: every arm meets the same frames, cells, grids and seeds; new cells are evaluated without the gate, so the
prior alone answers for them; distances of surfaces are in steps of the grid.
Does not promise: a small D where few cells are held out; the training cells' own D says what to expect.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.arms import published
from benchmarks.arms.methods import Arm
from benchmarks.arms.sequences import Measurable, Sequences
from benchmarks.arms.training import HELD_OUT
from model.domain import Grid, frame_times
from model.engine.marching_cubes import extract_surface
from model.engine.runs import bodies, inside
from model.engine.sparse import evaluate_sparse
from model.engine.tracking import FRAGMENT
from model.errors import EmptySurfaceError
from model.evaluation.measures.descriptors import Triangles, bodies_of, describe
from model.evaluation.measures.statistics import compare
from model.evaluation.reconstruction import score_reconstruction, summarise
from model.fitting.fit import FitPlan, FitScore, TargetFrame, fit_cell, score_fit
from model.membranes.triangle_distance import CellShape
from model.network.checkpoint import Checkpoint
from model.network.plausibility import bodies_over_time, is_plausible

Floats = NDArray[np.float32]

NAMES = ("volume", "sphericity")


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much is measured.

    Attributes
    ----------
    cells
        Training cells whose frames are compared.
    every
        Compare every so many of their training frames; those left out are compared all.
    fits
        Held-out cells that are fitted.
    plan
        How hard; its ``adapt_steps`` are for the column of the adapted network.
    new_cells
        Draws from each prior.
    side, moments
        Samples along each side of Ω, and times, at which new, training and held-out cells are looked at.
    """

    cells: int = 12
    every: int = 8
    fits: int = 4
    plan: FitPlan = FitPlan(adapt_steps=200)  # noqa: RUF009 (frozen)
    new_cells: int = 40
    side: int = 64
    moments: int = 8


@dataclass(frozen=True)
class Seen:
    """A cell, looked at a few times over its life.

    Attributes
    ----------
    strays
        Pieces smaller than a fiftieth of the cell, over all times.
    empty
        Times at which nothing was there.
    values
        Of each descriptor, for each body at each time; units of Ω.
    masks
        (T, bytes): which samples are inside, eight to a byte.
    """

    strays: int
    empty: int
    values: dict[str, list[float]]
    masks: NDArray[np.uint8]


def reconstruction(checkpoint: Checkpoint, sequences: Sequences, effort: Effort) -> dict[str, float]:
    """Compare learned codes with their cells, on frames that were trained on and on frames left out."""

    def frames(count: int) -> list[int]:
        left_out = HELD_OUT.frames(count)
        kept = [frame for frame in range(count) if frame not in left_out]
        return sorted({*left_out, *kept[:: effort.every]})

    count = len(checkpoint.latent_codes)
    chosen = np.unique(np.linspace(0, count - 1, min(effort.cells, count)).round().astype(int)).tolist()
    scores = score_reconstruction(
        checkpoint,
        sequences.source,
        held_out=HELD_OUT.frames,
        frames=frames,
        grid_side=sequences.side,
        sequences=chosen,
    )
    return summarise(scores)


class OverMaximum:
    """A cell whose distances are divided by the frame's largest one, as the released network learned them."""

    def __init__(self, shape: CellShape) -> None:
        self.shape = shape
        corners = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1], [-1, 0, 1]), axis=-1).reshape(-1, 3)
        self.largest = np.float32(np.abs(shape(corners.astype(np.float32))).max())  # farthest is a corner or a side

    def __call__(self, points: Floats) -> Floats:
        """Distances (n,) float32 of points (n, 3)."""
        return np.asarray(self.shape(points) / self.largest, dtype=np.float32)

    def sample(self, count: int, rng: np.random.Generator) -> Floats:
        """Points of the membrane (count, 3)."""
        return self.shape.sample(count, rng)


def fits(arm: Arm, checkpoint: Checkpoint, sequences: Sequences, effort: Effort) -> dict[str, float]:
    """Fit cells that no arm was trained on: the code alone, and for our network an adapted copy too.

    Frames are given as training frames are, every fifth left out; all figures are of those left out.
    """
    of_code: list[FitScore] = []
    of_adapted: list[FitScore] = []
    grid = Grid((sequences.side,) * 3)
    plan = effort.plan if arm.points == arm.network == "ours" else replace(effort.plan, adapt_steps=0)
    for cell in range(min(effort.fits, len(sequences.measurable("held-out")))):
        target = sequences.target(cell)
        left_out = HELD_OUT.frames(len(target))
        given = [_as_learned(arm, frame) for number, frame in enumerate(target) if number not in left_out]
        asked = [target[number] for number in left_out]
        fit = fit_cell(checkpoint, given, plan=plan)
        of_code += score_fit(fit.before or fit, asked, grid=grid)
        of_adapted += score_fit(fit, asked, grid=grid) if fit.before else []
    step = float(grid.step[0])
    found = {}
    for name, scores in (("code", of_code), ("adapted", of_adapted)):
        if scores:
            found[f"dice_{name}"] = round(float(np.mean([score.dice for score in scores])), 4)
            apart = [score.mean_distance / step for score in scores if np.isfinite(score.mean_distance)]
            if apart:  # otherwise nothing was there to measure from
                found[f"steps_apart_{name}"] = round(float(np.mean(apart)), 4)
    return found


def _as_learned(arm: Arm, frame: TargetFrame) -> TargetFrame:
    """Give a frame with distances such as the arm was trained on."""
    if arm.points == "ours":
        return frame
    return TargetFrame(frame.time, cast(CellShape, OverMaximum(frame.shape)))


def new_codes(arm: Arm, checkpoint: Checkpoint, sequences: Sequences, count: int) -> list[Floats]:
    """Draw codes from the arm's prior, seeds 0 to ``count`` − 1."""
    drawn = []
    for seed in range(count):
        rng = np.random.default_rng([seed, 0])
        if arm.network == "released":
            code = published.new_code(checkpoint.latent_codes, rng, around_learned=sequences.around_learned)
        else:
            code = checkpoint.prior.sample(rng)
        drawn.append(code)
    return drawn


def look(surface: Triangles | None, mask: NDArray[np.bool_]) -> tuple[int, dict[str, list[float]]]:
    """Count the stray pieces of a frame, and describe its bodies."""
    sizes = bodies(np.where(mask, np.float32(-1), np.float32(1))).sizes()[1:]
    found = [describe(body) for body in bodies_of(surface)] if surface is not None else []
    values = {name: [float(getattr(body, name)) for body in found] for name in NAMES}
    return int((sizes < FRAGMENT * sizes.sum()).sum()), values


def look_at_new(checkpoint: Checkpoint, code: Floats, effort: Effort) -> Seen:
    """Look at the cell of a code."""
    grid = Grid((effort.side,) * 3)
    frames: list[tuple[Triangles | None, NDArray[np.bool_]]] = []
    for time in frame_times(effort.moments):
        sdf = checkpoint.decoder.fold(torch.from_numpy(code), float(time))
        try:
            field = evaluate_sparse(sdf, grid, lipschitz=checkpoint.card.lipschitz, exact="certified")
        except EmptySurfaceError:
            frames.append((None, np.zeros(grid.shape, dtype=np.bool_)))
        else:
            frames.append((extract_surface(field, grid), inside(field)))
    return _seen(frames)


def look_at_known(cells: Measurable, index: int, effort: Effort) -> Seen:
    """Look at a training cell or a held-out one."""
    snapshots = cells.snapshots(index, moments=effort.moments, grid=Grid((effort.side,) * 3))
    return _seen((snapshot.surface, snapshot.inside) for snapshot in snapshots)


def _seen(frames: Iterable[tuple[Triangles | None, NDArray[np.bool_]]]) -> Seen:
    strays, empty, masks = 0, 0, []
    values: dict[str, list[float]] = {name: [] for name in NAMES}
    for surface, mask in frames:
        some, described = look(surface, mask)
        strays += some
        empty += surface is None
        masks.append(np.packbits(mask))
        for name in NAMES:
            values[name] += described[name]
    return Seen(strays, empty, values, np.stack(masks))


def overlap(cell: Seen, others: list[Seen]) -> float:
    """Dice, over all times together, of a cell with the one of the others that it overlaps most."""
    best = 0.0
    for other in others:
        times = min(len(cell.masks), len(other.masks))
        one, two = cell.masks[:times], other.masks[:times]
        size = int(np.bitwise_count(one).sum()) + int(np.bitwise_count(two).sum())
        best = max(best, 2.0 * int(np.bitwise_count(one & two).sum()) / size if size else 0.0)
    return best


def new_cells(
    arm: Arm, checkpoint: Checkpoint, sequences: Sequences, effort: Effort, known: dict[str, list[Seen]]
) -> dict[str, Any]:
    """Evaluate draws from an arm's prior: whether they live, are new, and are distributed as held-out cells are.

    Parameters
    ----------
    known
        The ``training`` and the ``held-out`` cells as :func:`look_at_known` sees them.
    """
    codes = new_codes(arm, checkpoint, sequences, effort.new_cells)
    lives = [bodies_over_time(checkpoint, code) for code in codes]
    plausible = [is_plausible(counts, volumes, sequences.topology) for counts, volumes in lives]
    cells = [look_at_new(checkpoint, code, effort) for code in codes]
    return {
        "plausible": round(float(np.mean(plausible)), 4),
        "strays_per_frame": round(float(np.mean([cell.strays / len(cell.masks) for cell in cells])), 4),
        "empty_frames": round(float(np.mean([cell.empty / len(cell.masks) for cell in cells])), 4),
        "dice_with_nearest_training": round(float(np.median([overlap(cell, known["training"]) for cell in cells])), 4),
        **apart(cells, known["held-out"]),
    }


def apart(cells: list[Seen], held_out: list[Seen]) -> dict[str, Any]:
    """Kolmogorov-Smirnov distance of each descriptor from the held-out cells', with its interval."""
    found: dict[str, Any] = {}
    for name in NAMES:
        result = compare(
            [cell.values[name] for cell in cells],
            [cell.values[name] for cell in held_out],
            rng=np.random.default_rng(0),
        )
        found[f"D_{name}"] = None if result is None else result.as_dict()
    return found
