"""Fitting: the code of a cell that the model has never seen, from some frames of it.

The code, and if asked for the cell's rotation and place, are found by gradient descent on the same error that training
minimises. Many codes are tried at a few points first: the learned ones, draws from the prior, each in several
orientations. The best few descend a while, the best of those to the end.

A model of a few dozen cells has no code for every other cell. So the network itself can be adapted afterwards: trained
on, gently, from the found code, on this one cell. What it knows of cells then fills the gaps between the given frames
and samples. An adapted network is a model of its own, with one code.

Promises: the same target, plan and seed give the same code on the same machine; what is reported as Dice and distance
is measured with exact distances, not on the points that were fitted.
Does not promise: the best code.

References: Park et al. 2019 (DeepSDF), doi:10.1109/CVPR.2019.00025, section 4.2; Dice 1945, doi:10.2307/1932409.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor, nn

from model.calibration import steepest_slope
from model.checkpoint import Checkpoint, Decoder
from model.dataset import SURFACE_POINTS, sample_frame
from model.domain import Grid
from model.errors import DatasetError, EmptySurfaceError
from model.importing.triangles import CellShape, Membrane
from model.latent import fit_prior, rotation_matrix
from model.network import AutoDecoder
from model.runs import inside
from model.sparse import evaluate_sparse
from model.surface import extract_surface

Floats = NDArray[np.float32]

_TRIED_POINTS = 128  # of a frame, to choose where descents begin
_TRIED_FRAMES = 5
_TRIED_AT_ONCE = 64
_SURFACE_POINTS = 4096  # of each surface, to measure distances


@dataclass(frozen=True)
class TargetFrame:
    """One given frame: its time in τ, and its shape in units of Ω."""

    time: float
    shape: CellShape


@dataclass(frozen=True, kw_only=True)
class FitPlan:
    """How hard to look.

    Parameters
    ----------
    restarts
        Descents begun.
    steps
        Of each first descent; the best goes on for three times as many.
    draws
        Codes drawn from the prior, to begin from beside the learned ones.
    orientations
        Rotations tried with each code; 1 keeps the cell as it lies.
    shift
        Whether the cell's place is found too.
    points
        Of a frame in a step.
    frames
        In a step.
    learning_rate
        Of the code; rotation and place move a fifth as fast.
    penalty
        On the squared length of the code, as in training.
    adapt_steps
        Of adapting the network; 0 leaves it as it is.
    adapt_rate
        Learning rate of the network's weights.
    """

    restarts: int = 3
    steps: int = 80
    draws: int = 32
    orientations: int = 1
    shift: bool = False
    points: int = 512
    frames: int = 6
    learning_rate: float = 1e-2
    penalty: float = 1e-4
    adapt_steps: int = 0
    adapt_rate: float = 5e-4
    seed: int = 0

    @property
    def all_steps(self) -> int:
        """Steps of the whole fit."""
        return 4 * self.steps + self.adapt_steps


@dataclass(frozen=True)
class Fit:
    """What was found.

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
    search = _Search(checkpoint, target, plan)
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


def _fit(checkpoint: Checkpoint, state: _State, *, error: float, tried: list[float]) -> Fit:
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


@dataclass
class _State:
    """Several candidates: codes (r, c), quaternions (r, 4) of any length, shifts (r, 3)."""

    codes: Tensor
    rotations: Tensor
    shifts: Tensor

    def only(self, index: int) -> _State:
        keep = slice(index, index + 1)
        return _State(self.codes[keep], self.rotations[keep], self.shifts[keep])


class _Search:
    """The target's points, and the steps of the search on them."""

    def __init__(self, checkpoint: Checkpoint, target: list[TargetFrame], plan: FitPlan) -> None:
        self.prior, self.decoder, self.plan = checkpoint.prior, checkpoint.decoder, plan
        self.rng = np.random.default_rng([plan.seed, 17])
        blocks = []
        for number, frame in enumerate(target):
            surface = frame.shape.sample(SURFACE_POINTS, self.rng)
            count = max(16 * plan.points, _TRIED_POINTS)
            blocks.append(sample_frame(frame.shape, surface, count, sequence=plan.seed, frame=number))
        self.samples = torch.from_numpy(np.stack(blocks))  # (T, n, 4)
        self.times = torch.tensor([frame.time for frame in target], dtype=torch.float32)

    def begin(self) -> _State:
        """Try many codes and orientations at a few points; keep the best of distinct codes."""
        plan, prior = self.plan, self.prior
        drawn = [prior.sample(self.rng) for _ in range(plan.draws)]
        codes = torch.from_numpy(np.concatenate([prior.centres, np.array(drawn).reshape(-1, prior.centres.shape[1])]))
        turns = torch.zeros(plan.orientations, 4)
        turns[0, 0] = 1.0
        if plan.orientations > 1:
            turned = Rotation.random(plan.orientations - 1, rng=self.rng).as_quat()[:, [3, 0, 1, 2]]
            turns[1:] = torch.from_numpy(turned.astype(np.float32))
        every = _State(
            codes.repeat_interleave(len(turns), dim=0),
            turns.repeat(len(codes), 1),
            torch.zeros(len(codes) * len(turns), 3),
        )
        chosen = np.unique(np.linspace(0, len(self.times) - 1, min(_TRIED_FRAMES, len(self.times))).round().astype(int))
        errors = self.error(every, frames=torch.from_numpy(chosen), points=_TRIED_POINTS).reshape(len(codes), -1)
        best_turn = errors.argmin(dim=1)
        order = errors.min(dim=1).values.argsort()[: plan.restarts]
        rows = order * len(turns) + best_turn[order]
        return _State(every.codes[rows], every.rotations[rows], every.shifts[rows])

    @torch.no_grad()
    def error(self, state: _State, *, frames: Tensor | None = None, points: int | None = None) -> Tensor:
        """Mean absolute error of each candidate, (r,), on some frames and the first points of each."""
        samples = (self.samples if frames is None else self.samples[frames])[:, : points or 4 * self.plan.points]
        times = self.times if frames is None else self.times[frames]
        found = []
        for start in range(0, len(state.codes), _TRIED_AT_ONCE):
            part = slice(start, start + _TRIED_AT_ONCE)
            some = _State(state.codes[part], state.rotations[part], state.shifts[part])
            each = torch.stack(
                [self._errors(some, samples[k : k + 1], times[k : k + 1]).mean(dim=1) for k in range(len(times))]
            )
            found.append(each.mean(dim=0))
        return torch.cat(found)

    def descend(self, state: _State, steps: int, *, on_step: Callable[[int, float], None]) -> _State:
        """Move all candidates downhill, each on its own."""
        plan = self.plan
        codes, rotations, shifts = (
            t.clone().requires_grad_(True) for t in (state.codes, state.rotations, state.shifts)
        )
        groups = [{"params": [codes], "lr": plan.learning_rate}]
        if plan.orientations > 1:
            groups.append({"params": [rotations], "lr": plan.learning_rate / 5})
        if plan.shift:
            groups.append({"params": [shifts], "lr": plan.learning_rate / 5})
        optimiser = torch.optim.Adam(groups)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps, eta_min=plan.learning_rate / 50)
        for step in range(steps):
            samples, times = self._draw()
            errors = self._errors(_State(codes, rotations, shifts), samples, times)  # (r, t · n)
            loss = errors.mean(dim=1) + plan.penalty * codes.square().sum(dim=1)
            optimiser.zero_grad(set_to_none=True)
            loss.sum().backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            on_step(step + 1, float(errors.detach().mean(dim=1).min()))
        return _State(codes.detach(), rotations.detach(), shifts.detach())

    def adapt(self, state: _State, *, on_step: Callable[[int, float], None]) -> _State:
        """Train a copy of the network on the target, together with the code; keep the copy."""
        plan = self.plan
        network = self.decoder = copy.deepcopy(self.decoder).requires_grad_(True)
        codes = state.codes.clone().requires_grad_(True)
        groups = [
            {"params": list(network.parameters()), "lr": plan.adapt_rate},
            {"params": [codes], "lr": plan.learning_rate / 5},
        ]
        optimiser = torch.optim.Adam(groups)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, plan.adapt_steps)
        for step in range(plan.adapt_steps):
            samples, times = self._draw()
            error = self._errors(_State(codes, state.rotations, state.shifts), samples, times).mean()
            optimiser.zero_grad(set_to_none=True)
            loss = error + plan.penalty * codes.square().sum()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), 0.5)
            optimiser.step()
            schedule.step()
            on_step(step + 1, float(error.detach()))
        network.requires_grad_(False)
        return _State(codes.detach(), state.rotations, state.shifts)

    def _draw(self) -> tuple[Tensor, Tensor]:
        """Some frames, and a run of points of each: samples (t, n, 4) and times (t,)."""
        plan = self.plan
        chosen = torch.from_numpy(self.rng.permutation(len(self.times))[: plan.frames])
        first = int(self.rng.integers(self.samples.shape[1] - plan.points + 1))
        return self.samples[chosen, first : first + plan.points], self.times[chosen]

    def _errors(self, state: _State, samples: Tensor, times: Tensor) -> Tensor:
        """Absolute errors (r, T · n) of r candidates at the points of T frames (T, n, 4)."""
        restarts, frames, count = len(state.codes), len(times), samples.shape[1]
        matrices = _matrices(state.rotations)  # (r, 3, 3)
        points = (samples[None, ..., :3] - state.shifts[:, None, None]).reshape(restarts, -1, 3)
        turned = (points @ matrices).reshape(restarts * frames, count, 3)  # x R for row vectors is Rᵀ x
        codes = state.codes.repeat_interleave(frames, dim=0)
        values = self.decoder(turned, times.repeat(restarts), codes)  # (r · t, n)
        wanted = samples[None, ..., 3].expand(restarts, frames, count)
        errors: Tensor = (values.reshape(restarts, frames, count) - wanted).abs().reshape(restarts, -1)
        return errors


def _matrices(quaternions: Tensor) -> Tensor:
    """Rotation matrices (r, 3, 3) of quaternions (r, 4) [w, x, y, z] of any length; differentiable."""
    w, x, y, z = torch.nn.functional.normalize(quaternions, dim=1).unbind(dim=1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)
