"""Fitting: find the latent code of a cell that the model has never seen, from some frames of it.

The code and, if asked for, the cell's rotation and position are found by gradient descent on the error that training
minimises. First many codes are tried at a few points: the learned codes and draws from the prior, each in several
orientations. The best few are optimised for some steps, the best of those to the end.

A model of a few dozen cells has no code for every other cell. The network itself can therefore be adapted afterwards:
its weights are trained from the found code on this one cell at a low rate, and what the network has learned fills the
gaps between the given frames and samples. An adapted network is a model of its own, with one code. The steps are in
:mod:`model.fitting.latent_search`.

Promises: the same target, plan and seed give the same code on the same machine. The reported Dice and distances are
measured with exact distances, not on the points that were fitted.
Does not promise: the best code.

References: Park et al. 2019 (DeepSDF), doi:10.1109/CVPR.2019.00025, section 4.2; Dice 1945, doi:10.2307/1932409.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from model.domain import Grid
from model.engine.marching_cubes import extract_surface
from model.engine.runs import inside
from model.engine.sparse import evaluate_sparse
from model.errors import DatasetError, EmptySurfaceError
from model.fitting.latent_search import FitPlan, Search, State, TargetFrame
from model.membranes.triangle_distance import CellShape, Membrane
from model.network.autodecoder import AutoDecoder
from model.network.checkpoint import Checkpoint
from model.network.decoder import Decoder
from model.network.latent import fit_prior, rotation_matrix
from model.network.lipschitz import steepest_slope

__all__ = ["Fit", "FitPlan", "FitScore", "TargetFrame", "fit_cell", "score_fit"]

Floats = NDArray[np.float32]

_SURFACE_POINTS = 4096  # points of each surface at which distances are measured


@dataclass(frozen=True)
class Fit:
    """The result of a fit.

    Attributes
    ----------
    checkpoint
        The model that the code belongs to: the one given, or the adapted one.
    latent
        (c,) float32.
    rotation
        Unit quaternion [w, x, y, z].
    shift
        (3,) float64: where the middle of the model's Ω lies in the target's, in units of Ω.
    error
        Mean absolute error of the distance on the fitted points, units of Ω.
    tried
        Errors of the first descents, best first.
    before
        What was found before the network was adapted; None if it was not.
    """

    checkpoint: Checkpoint
    latent: Floats
    rotation: list[float]
    shift: NDArray[np.float64]
    error: float
    tried: list[float]
    before: Fit | None = None


@dataclass(frozen=True)
class FitScore:
    """Agreement of one given frame with the fitted cell; distances between surfaces in units of Ω, both ways."""

    time: float
    dice: float
    mean_distance: float
    distance_95: float


def fit_cell(
    checkpoint: Checkpoint,
    target: list[TargetFrame],
    *,
    plan: FitPlan,
    on_step: Callable[[int, int, float], None] = lambda _step, _steps, _error: None,
) -> Fit:
    """Find the code of a cell.

    Parameters
    ----------
    checkpoint
        The model.
    target
        Frames of the cell, at least one.
    plan
        How hard to look.
    on_step
        Called with (step, steps in all, error).

    Raises
    ------
    DatasetError
        If no frame is given.

    Notes
    -----
    With the defaults about 1.5 million points pass through the network and back: half a minute on one core for a
    network of 200,000 weights.
    """
    if not target:
        raise DatasetError("no frame is given to fit")
    search = Search(checkpoint, target, plan)
    begun = search.begin()
    total = plan.all_steps
    first = search.descend(begun, plan.steps, on_step=lambda step, error: on_step(step, total, error))
    errors = search.error(first)
    best = int(errors.argmin())
    last = search.descend(
        first.only(best), plan.steps * 3, on_step=lambda step, error: on_step(plan.steps + step, total, error)
    )
    tried = sorted(float(error) for error in errors)
    found = _fit(checkpoint, last, error=float(search.error(last)[0]), tried=tried)
    if not plan.adapt_steps:
        return found
    done = plan.all_steps - plan.adapt_steps
    last = search.adapt(last, on_step=lambda step, error: on_step(done + step, total, error))
    adapted = _adapted(checkpoint, search.decoder, last.codes.numpy())
    return replace(_fit(adapted, last, error=float(search.error(last)[0]), tried=tried), before=found)


def _fit(checkpoint: Checkpoint, state: State, *, error: float, tried: list[float]) -> Fit:
    quaternion = torch.nn.functional.normalize(state.rotations[0], dim=0).double().numpy()
    return Fit(
        checkpoint=checkpoint,
        latent=state.codes[0].numpy().astype(np.float32),
        rotation=[float(q) for q in (quaternion if quaternion[0] >= 0 else -quaternion)],
        shift=state.shifts[0].double().numpy(),
        error=error,
        tried=tried,
    )


def score_fit(fit: Fit, target: list[TargetFrame], *, grid: Grid) -> list[FitScore]:
    """Measure a fit on frames of its cell, given ones or others.

    Parameters
    ----------
    grid
        On which Dice is counted and the fitted surface is found.
    """
    matrix = torch.from_numpy(rotation_matrix(fit.rotation))
    scores = []
    for frame in target:
        sdf = fit.checkpoint.decoder.fold(torch.from_numpy(fit.latent), frame.time, matrix)

        def shifted(points: Floats, sdf: Callable[[Floats], Floats] = sdf) -> Floats:
            return sdf((points - fit.shift).astype(np.float32))

        truth = inside(evaluate_sparse(frame.shape, grid, lipschitz=1.01, exact="certified"))
        try:
            field = evaluate_sparse(shifted, grid, lipschitz=fit.checkpoint.card.lipschitz)
        except EmptySurfaceError:
            scores.append(FitScore(frame.time, 0.0, math.inf, math.inf))
            continue
        found = inside(field)
        overlap = 2.0 * int((truth & found).sum()) / max(int(truth.sum()) + int(found.sum()), 1)
        surface = extract_surface(field, grid)
        gaps = _gaps(frame.shape, CellShape([Membrane(surface.vertices.astype(np.float64), surface.faces)]))
        scores.append(FitScore(frame.time, overlap, float(gaps.mean()), float(np.quantile(gaps, 0.95))))
    return scores


def _adapted(checkpoint: Checkpoint, decoder: Decoder, codes: Floats) -> Checkpoint:
    """Make a model of its own of an adapted network, with one code; its card still bears the given model's checksum."""
    slope = steepest_slope(cast(AutoDecoder, decoder), codes)  # asks only for fold()
    card = checkpoint.card.model_copy(update={"lipschitz": round(1.1 * slope, 3), "latent_codes": len(codes)})
    return replace(checkpoint, decoder=decoder, prior=fit_prior(codes, bandwidth=0.0), card=card, rotations=None)


def _gaps(first: CellShape, second: CellShape) -> Floats:
    """Distances from points of each surface to the other."""
    rng = np.random.default_rng(0)
    there = np.abs(second(first.sample(_SURFACE_POINTS, rng)))
    back = np.abs(first(second.sample(_SURFACE_POINTS, rng)))
    return np.concatenate([there, back])
