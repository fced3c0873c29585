"""Fitting and upsampling: a model restores an unseen cell from a part of it, compared with methods without a model.

Three parts are given: all frames; every fourth frame, compared on the frames between; all frames as masks of 32³
samples, compared on a grid four times finer. Each part is restored by the code alone, by the network adapted to the
cell (:mod:`model.fitting.fit`), and by interpolation without a model: in time, of the signed distances of the given
frames; in space, of the mask or of its distance transform.

Promises: all methods get the same frames and samples, and are compared with the same ground truth on the same grid.
Only withheld frames and samples are compared, unless all were given. In time all methods get the same distances.
Does not promise: the best possible interpolation. Two stronger methods are compared too: cubic interpolation
through four given frames in time, and in space the membrane that the fit itself starts from.

References: shape-based interpolation, Raya and Udupa 1990, doi:10.1109/42.52980.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.interpolate import CubicHermiteSpline

from model.domain import Grid, Points
from model.engine.runs import inside
from model.engine.sparse import SignedDistance, evaluate_sparse
from model.errors import EmptySurfaceError
from model.evaluation.reconstruction import FrameScore, Mask, score_frame
from model.evaluation.sequence_measures import processes
from model.evaluation.unseen_cells import UnseenCell, shape_of_mask
from model.fitting.fit import Fit, FitPlan, TargetFrame, fit_cell
from model.network.checkpoint import Checkpoint, load_checkpoint

Part = Literal["all_frames", "time", "space"]
PARTS: tuple[Part, ...] = ("all_frames", "time", "space")
BASIS = {"time": ("linear",), "space": ("mask_linear", "mask_spline", "distance_linear", "distance_spline")}
"""Plain methods of each part that a model must beat."""

EVERY = 4  # in time, every n-th frame is given
COARSE = 32  # in space, samples along each side of Ω of the given masks
MEASURES = {"dice": "dice", "distance": "steps_apart", "distance_95": "steps_apart_95", "thin": "thin_dice"}


@dataclass(frozen=True, kw_only=True)
class FitScope:
    """Size of an evaluation of fits.

    Attributes
    ----------
    cells
        How many unseen cells.
    grid_side
        Samples along each side of Ω of the grid that is scored on; masks keep their own.
    scored
        Frames of each part that are scored, at most, spread over those that could be.
    plan
        How hard to look; the default is that of the verb ``fit``.
    """

    cells: int = 2
    grid_side: int = 128
    scored: int = 11
    plan: FitPlan = field(default_factory=lambda: FitPlan(adapt_steps=600))


@dataclass(frozen=True)
class Restored:
    """One part of one cell, restored by every method.

    Attributes
    ----------
    cell
        Its name.
    methods
        Scores of the scored frames by the name of the method.
    """

    cell: str
    part: Part
    methods: dict[str, list[FrameScore]]


def compare_fits(
    folder: Path,
    cells: Sequence[UnseenCell],
    *,
    scope: FitScope,
    workers: int = 1,
    on_part: Callable[[str], None] = lambda _note: None,
) -> dict[str, Any]:
    """Restore unseen cells from each part, and summarise.

    Parameters
    ----------
    folder
        Of the model.
    cells
        That it was not trained on.
    scope
        How much to fit and to score.
    workers
        Processes.
    on_part
        Called with a note after each part of each cell.

    Returns
    -------
    dict
        As :func:`summarise_fits` gives it.

    Notes
    -----
    Each part of each cell is a fit, about a minute on one core, and about as long again to score at 128³.
    """
    jobs = [(cell, part) for cell in cells for part in parts_of(cell)]
    found = []
    with processes(workers) as mapped:
        restore_one = partial(_restore, folder, scope)
        one: Any
        for one in mapped(restore_one, *zip(*jobs, strict=True)):
            scored = [score.dice for score in one.methods["adapted"]]
            if not scored:  # the cell has too few frames for one to lie between those given
                on_part(f"{one.cell}, {one.part}: nothing to score")
                continue
            found.append(one)
            on_part(f"{one.cell}, {one.part}: {np.mean(scored):.4f}")
    return summarise_fits(found)


def parts_of(cell: UnseenCell) -> tuple[Part, ...]:
    """Parts that a cell can be restored from.

    What is known by masks alone has no truth finer than they are; of a sequence of four frames, every fourth leaves
    none between two.
    """
    possible = {"all_frames": True, "time": len(cell.times) > EVERY, "space": cell.masks is None}
    return tuple(part for part in PARTS if possible[part])


def _restore(folder: Path, scope: FitScope, cell: UnseenCell, part: Part) -> Restored:
    return restore(load_checkpoint(folder), cell, part, scope=scope)


def restore(checkpoint: Checkpoint, cell: UnseenCell, part: Part, *, scope: FitScope) -> Restored:
    """Restore one cell from a part of it by every method, and score the results.

    Parameters
    ----------
    checkpoint
        A model that has not seen the cell.
    cell
        Whole.
    part
        What of it is given.
    scope
        How hard to look and where to score.
    """
    grid = cell.grid(scope.grid_side)
    frames = range(len(cell.times))
    if part == "time":
        given = frames[::EVERY]
        scored = _spread([frame for frame in range(given[-1]) if frame not in given], scope.scored)
        target = [TargetFrame(float(cell.times[frame]), cell.shape(frame)) for frame in given]
        rivals = _in_time(target, grid)
    elif part == "space":
        scored = _spread(frames, scope.scored)
        coarse = Grid((COARSE, COARSE, COARSE))
        masks = {frame: cell.truth(frame, coarse) for frame in frames}
        target = [TargetFrame(float(cell.times[frame]), shape_of_mask(masks[frame])) for frame in frames]
        rivals = _in_space({float(cell.times[frame]): masks[frame] for frame in scored}, target, grid)
    else:
        scored = _spread(frames, scope.scored)
        target = [TargetFrame(float(cell.times[frame]), cell.shape(frame)) for frame in frames]
        rivals = {}
    fit = fit_cell(checkpoint, target, plan=scope.plan)
    methods = {"code": _fitted(fit.before or fit, grid), "adapted": _fitted(fit, grid), **rivals}
    scores: dict[str, list[FrameScore]] = {name: [] for name in methods}
    for frame in scored:
        truth = cell.truth(frame, grid)
        for name, method in methods.items():
            found = method(float(cell.times[frame]))
            scores[name].append(score_frame(cell.index, frame, truth, found, held_out=part != "all_frames"))
    return Restored(cell.name, part, scores)


def _spread(frames: Sequence[int], count: int) -> list[int]:
    """At most ``count`` of the frames, evenly spread."""
    chosen = np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int)
    return [frames[int(place)] for place in np.unique(chosen)]


Way = Callable[[float], Mask]
"""Gives, for a time in τ, which samples of the scored grid are inside."""


def _sampled(sdf: SignedDistance, grid: Grid, lipschitz: float) -> Mask:
    try:
        return inside(evaluate_sparse(sdf, grid, lipschitz=lipschitz))
    except EmptySurfaceError:
        return np.zeros(grid.shape, dtype=np.bool_)


def _fitted(fit: Fit, grid: Grid) -> Way:
    """Return what a fit gives; it must have found neither rotation nor shift."""
    checkpoint, code = fit.checkpoint, torch.from_numpy(fit.latent)
    return lambda time: _sampled(checkpoint.decoder.fold(code, time), grid, checkpoint.card.lipschitz)


def _in_time(given: list[TargetFrame], grid: Grid) -> dict[str, Way]:
    """Interpolation of the distances of given frames: of the two neighbouring ones, and of four by a cubic."""
    times = np.array([frame.time for frame in given])

    def method(weigh: Callable[[NDArray[np.float64], float], NDArray[np.float64]], time: float) -> Mask:
        weights = weigh(times, time)
        used = [(weight, frame.shape) for weight, frame in zip(weights, given, strict=True) if weight != 0.0]

        def mixed(points: Points) -> NDArray[np.float32]:
            return np.asarray(sum(weight * shape(points) for weight, shape in used), dtype=np.float32)

        return _sampled(mixed, grid, lipschitz=1.01 * float(np.abs(weights).sum()))  # each distance has slope 1

    return {"linear": partial(method, linear_weights), "cubic": partial(method, cubic_weights)}


def linear_weights(times: NDArray[np.float64], time: float) -> NDArray[np.float64]:
    """Weights (T,) of samples at increasing times in their linear interpolation at a time between them."""
    after = int(np.searchsorted(times, time).clip(1, len(times) - 1))
    share = (time - times[after - 1]) / (times[after] - times[after - 1])
    weights = np.zeros(len(times))
    weights[after - 1], weights[after] = 1.0 - share, share
    return weights


def cubic_weights(times: NDArray[np.float64], time: float) -> NDArray[np.float64]:
    """Weights (T,) of samples in their interpolation by cubics with central differences for slopes (Catmull, Rom)."""
    slopes = np.zeros((len(times), len(times)))  # row k: the slope at time k, as weights of the samples
    for k in range(len(times)):
        low, high = max(k - 1, 0), min(k + 1, len(times) - 1)
        slopes[k, low], slopes[k, high] = np.array([-1.0, 1.0]) / (times[high] - times[low])
    return np.asarray(CubicHermiteSpline(times, np.eye(len(times)), slopes)(time))


def _in_space(masks: dict[float, Mask], given: list[TargetFrame], grid: Grid) -> dict[str, Way]:
    """Trilinear and spline interpolation of coarse masks and of their distances; the membrane found in them."""
    shapes = {frame.time: frame.shape for frame in given}

    def membrane(time: float) -> Mask:
        return _sampled(shapes[time], grid, lipschitz=1.01)

    def mask_way(order: int, time: float) -> Mask:
        return _refined(masks[time].astype(np.float64), grid, order=order) > 0.5

    def distance_way(order: int, time: float) -> Mask:
        return _refined(distance_transform(masks[time]), grid, order=order) < 0.0

    return {
        "mask_linear": partial(mask_way, 1), "mask_spline": partial(mask_way, 3),
        "distance_linear": partial(distance_way, 1), "distance_spline": partial(distance_way, 3), "membrane": membrane,
    }  # fmt: skip


def distance_transform(mask: Mask) -> NDArray[np.float64]:
    """Signed distance of a mask's samples in steps, negative inside, as the distance transform gives it.

    The transform measures to the nearest sample of the other side; half a step is taken off, so that the surface lies
    midway.
    """
    outward = ndimage.distance_transform_edt(~mask) - 0.5
    inward = 0.5 - ndimage.distance_transform_edt(mask)
    return np.asarray(np.where(mask, inward, outward), dtype=np.float64)


def _refined(coarse: NDArray[np.floating], grid: Grid, *, order: int) -> NDArray[np.float64]:
    """Interpolate samples (n, n, n) that cover Ω at those of a finer grid."""
    places = Grid((coarse.shape[0], coarse.shape[1], coarse.shape[2])).to_index(grid.points())
    values = ndimage.map_coordinates(coarse, places.T, order=order, mode="nearest")
    return np.asarray(values.reshape(grid.shape))


def summarise_fits(found: Sequence[Restored]) -> dict[str, Any]:
    """Means of every measure over cells, for each part and method, and the advantage of the adapted network.

    Returns
    -------
    dict
        ``cells``: names. For each part, ``frames`` scored of each cell; for each method its means over frames, then
        over cells, and the Dice of the worst cell; ``ahead``: for each plain rival, the differences of the adapted
        network to it in Dice (mean and least over cells) and in the mean distance of the surfaces, positive where the
        adapted network is better.
    """
    summary: dict[str, Any] = {"cells": list(dict.fromkeys(one.cell for one in found))}
    for part in PARTS:
        cells = [one for one in found if one.part == part]
        if not cells:
            continue
        rows: dict[str, Any] = {"frames": len(cells[0].methods["adapted"])}
        for method in cells[0].methods:
            rows[method] = _means([one.methods[method] for one in cells])
        rows["ahead"] = {rival: _ahead(cells, rival) for rival in BASIS.get(part, ())}
        summary[part] = {name: row for name, row in rows.items() if row != {}}
    return summary


def _mean(scores: list[FrameScore], measure: str) -> float | None:
    values = [value for score in scores if (value := getattr(score, measure)) is not None]
    return float(np.mean(values)) if values else None


def _means(cells: list[list[FrameScore]]) -> dict[str, float]:
    row = {}
    for measure, title in MEASURES.items():
        means = [mean for scores in cells if (mean := _mean(scores, measure)) is not None]
        if means:
            row[title] = round(float(np.mean(means)), 4)
            if measure == "dice":
                row["dice_worst_cell"] = round(min(means), 4)
    return row


def _ahead(cells: list[Restored], rival: str) -> dict[str, float]:
    gains = [
        (_mean(one.methods["adapted"], "dice") or 0.0) - (_mean(one.methods[rival], "dice") or 0.0) for one in cells
    ]
    nearer = [
        theirs - ours
        for one in cells
        if (ours := _mean(one.methods["adapted"], "distance")) is not None
        and (theirs := _mean(one.methods[rival], "distance")) is not None
    ]
    row = {"dice": float(np.mean(gains)), "dice_least": min(gains)}
    if nearer:
        row["steps_nearer"] = float(np.mean(nearer))
    return {name: round(value, 4) for name, value in row.items()}
