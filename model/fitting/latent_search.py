"""The search for a latent code, and the adaptation of the network, on given frames of a cell.

Codes are optimised by gradient descent on the error that training minimises. When the network is adapted, all its
weights are optimised, the hidden matrices by Muon as in training: 600 steps leave half the error that Adam leaves. The
times between given frames have no loss; the network's knowledge of cells and its smoothness in time fill them. A loss
that draws them to an interpolation of the given frames was tried and left out (docs/explanation/upsampling.md).

Promises: the same target, plan and seed give the same steps on the same machine.
Does not promise: that the error falls with every step.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor, nn

from model.learning.dataset import SURFACE_POINTS, sample_frame
from model.learning.optimisers import multiplies_bfloat16, optimisers
from model.membranes.triangle_distance import CellShape
from model.network.checkpoint import Checkpoint

Floats = NDArray[np.float32]

_TRIED_POINTS = 128  # points of a frame at which initial codes are compared
_TRIED_FRAMES = 5  # frames at which initial codes are compared
_TRIED_AT_ONCE = 64  # initial codes in one batch; bounds the memory
_KEPT_POINTS = 250_000  # points of all given frames together; more would seldom be drawn
_HALF = 0.85  # share of the adaptation steps that multiply in bfloat16, where that is faster; the rest in float32


@dataclass(frozen=True)
class TargetFrame:
    """One given frame: its time in τ, and its shape in units of Ω."""

    time: float
    shape: CellShape


@dataclass(frozen=True, kw_only=True)
class FitPlan:
    """Effort of a search.

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
    hidden_rate
        That of Muon for the matrices between sine layers; 0: Adam takes them too.
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
    hidden_rate: float = 5e-4
    seed: int = 0

    @property
    def all_steps(self) -> int:
        """Steps of the whole fit."""
        return 4 * self.steps + self.adapt_steps


@dataclass
class State:
    """Several candidates: codes (r, c), quaternions (r, 4) of any length, shifts (r, 3)."""

    codes: Tensor
    rotations: Tensor
    shifts: Tensor

    def only(self, index: int) -> State:
        """Return one of the candidates."""
        keep = slice(index, index + 1)
        return State(self.codes[keep], self.rotations[keep], self.shifts[keep])


class Search:
    """The target's points, and the steps of the search on them."""

    def __init__(self, checkpoint: Checkpoint, target: list[TargetFrame], plan: FitPlan) -> None:
        self.prior, self.decoder, self.plan = checkpoint.prior, checkpoint.decoder, plan
        self.rng = np.random.default_rng([plan.seed, 17])
        blocks = []
        for number, frame in enumerate(target):
            surface = frame.shape.sample(SURFACE_POINTS, self.rng)
            count = max(16 * plan.points, _TRIED_POINTS, min(64 * plan.points, _KEPT_POINTS // len(target)))
            blocks.append(sample_frame(frame.shape, surface, count, sequence=plan.seed, frame=number))
        self.samples = torch.from_numpy(np.stack(blocks))  # (T, n, 4)
        self.times = torch.tensor([frame.time for frame in target], dtype=torch.float32)

    def begin(self) -> State:
        """Try many codes and orientations at a few points; keep the best of distinct codes."""
        plan, prior = self.plan, self.prior
        drawn = [prior.sample(self.rng) for _ in range(plan.draws)]
        codes = torch.from_numpy(np.concatenate([prior.centres, np.array(drawn).reshape(-1, prior.centres.shape[1])]))
        turns = torch.zeros(plan.orientations, 4)
        turns[0, 0] = 1.0
        if plan.orientations > 1:
            turned = Rotation.random(plan.orientations - 1, rng=self.rng).as_quat()[:, [3, 0, 1, 2]]
            turns[1:] = torch.from_numpy(turned.astype(np.float32))
        every = State(
            codes.repeat_interleave(len(turns), dim=0),
            turns.repeat(len(codes), 1),
            torch.zeros(len(codes) * len(turns), 3),
        )
        chosen = np.unique(np.linspace(0, len(self.times) - 1, min(_TRIED_FRAMES, len(self.times))).round().astype(int))
        errors = self.error(every, frames=torch.from_numpy(chosen), points=_TRIED_POINTS).reshape(len(codes), -1)
        best_turn = errors.argmin(dim=1)
        order = errors.min(dim=1).values.argsort()[: plan.restarts]
        rows = order * len(turns) + best_turn[order]
        return State(every.codes[rows], every.rotations[rows], every.shifts[rows])

    @torch.no_grad()
    def error(self, state: State, *, frames: Tensor | None = None, points: int | None = None) -> Tensor:
        """Mean absolute error of each candidate, (r,), on some frames and the first points of each."""
        samples = (self.samples if frames is None else self.samples[frames])[:, : points or 4 * self.plan.points]
        times = self.times if frames is None else self.times[frames]
        found = []
        for start in range(0, len(state.codes), _TRIED_AT_ONCE):
            part = slice(start, start + _TRIED_AT_ONCE)
            some = State(state.codes[part], state.rotations[part], state.shifts[part])
            each = torch.stack(
                [self._errors(some, samples[k : k + 1], times[k : k + 1]).mean(dim=1) for k in range(len(times))]
            )
            found.append(each.mean(dim=0))
        return torch.cat(found)

    def descend(self, state: State, steps: int, *, on_step: Callable[[int, float], None]) -> State:
        """Optimise all candidates independently."""
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
            errors = self._errors(State(codes, rotations, shifts), samples, times)  # (r, t · n)
            loss = errors.mean(dim=1) + plan.penalty * codes.square().sum(dim=1)
            optimiser.zero_grad(set_to_none=True)
            loss.sum().backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            on_step(step + 1, float(errors.detach().mean(dim=1).min()))
        return State(codes.detach(), rotations.detach(), shifts.detach())

    def adapt(self, state: State, *, on_step: Callable[[int, float], None]) -> State:
        """Train a copy of the network on the target, together with the code; keep the copy."""
        plan = self.plan
        network = self.decoder = copy.deepcopy(self.decoder).requires_grad_(True)
        codes = state.codes.clone().requires_grad_(True)
        moving = State(codes, state.rotations, state.shifts)
        made = optimisers(
            network, codes, rate=plan.adapt_rate, latent_rate=plan.learning_rate / 5, hidden_rate=plan.hidden_rate,
            fused=False,
        )  # fmt: skip
        schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(each, plan.adapt_steps) for each in made]
        # Only a network that keeps coordinates in float32, and only where halves are faster.
        halves = bool(network.hidden_matrices()) and multiplies_bfloat16("cpu")
        for step in range(plan.adapt_steps):
            half = halves and step < _HALF * plan.adapt_steps
            error = self._errors(moving, *self._draw(), half=half).mean()
            loss = error + plan.penalty * codes.square().sum()
            network.zero_grad(set_to_none=True)
            codes.grad = None
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), 0.5)
            for optimiser, schedule in zip(made, schedules, strict=True):
                optimiser.step()
                schedule.step()
            on_step(step + 1, float(error.detach()))
        network.requires_grad_(False)
        return State(codes.detach(), state.rotations, state.shifts)

    def _draw(self) -> tuple[Tensor, Tensor]:
        """Some frames, and a run of points of each: samples (t, n, 4) and times (t,)."""
        plan = self.plan
        chosen = torch.from_numpy(self.rng.permutation(len(self.times))[: plan.frames])
        first = int(self.rng.integers(self.samples.shape[1] - plan.points + 1))
        return self.samples[chosen, first : first + plan.points], self.times[chosen]

    def _errors(self, state: State, samples: Tensor, times: Tensor, *, half: bool = False) -> Tensor:
        """Absolute errors (r, T · n) of r candidates at the points of T frames (T, n, 4); in bfloat16 if ``half``."""
        restarts, frames, count = len(state.codes), len(times), samples.shape[1]
        matrices = _matrices(state.rotations)  # (r, 3, 3)
        points = (samples[None, ..., :3] - state.shifts[:, None, None]).reshape(restarts, -1, 3)
        turned = (points @ matrices).reshape(restarts * frames, count, 3)  # x R for row vectors is Rᵀ x
        codes = state.codes.repeat_interleave(frames, dim=0)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
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
