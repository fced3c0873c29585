"""Training against the clock: every arm gets the same seconds on one core, and as many steps as fit.

What is compiled is compiled before the clock starts. Arms that are compared start together, each a process of its own
with one thread, so that whatever else the machine does slows them alike.

Promises: rates follow the share of the time that has passed, so each arm ends with its whole schedule behind it.
Does not promise: equal weights from run to run: the number of steps is the machine's.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from benchmarks.arms.methods import (
    ARMS,
    Arm,
    make_codes,
    make_network,
    make_optimisers,
    our_optimisation,
    penalty,
    penalty_weight,
    schedule,
)
from benchmarks.arms.sequences import Sequences
from model.domain import frame_times
from model.errors import CytosynthError
from model.learning.optimisers import multiplies_bfloat16
from model.learning.recipe import HeldOut
from model.network.autodecoder import AutoDecoder
from model.network.checkpoint import Checkpoint, save_checkpoint
from model.network.latent import fit_prior
from model.network.lipschitz import steepest_slope

HELD_OUT = HeldOut(every=5, offset=2)
LATEST_START = 900.0  # seconds an arm waits for the others to have compiled


@dataclass(frozen=True, kw_only=True)
class Clock:
    """How long to train, and how much in a step.

    Attributes
    ----------
    seconds
        Of training, without compiling.
    frames, points
        Of a step, and of each frame.
    compiled
        Whether the loss is compiled; needs a C++ compiler.
    """

    seconds: float
    frames: int = 8
    points: int = 512
    compiled: bool = True
    seed: int = 1


class TrainingError(CytosynthError):
    """An arm's process ended without a model."""

    code = "arm_failed"


def train_side_by_side(arms: list[Arm], sequences: Sequences, folder: Path, *, clock: Clock) -> None:
    """Train arms at the same time, each in a process of its own; their models go to ``folder/<arm>``.

    Raises
    ------
    TrainingError
        If a process failed.
    """
    context = get_context("spawn")
    together = context.Barrier(len(arms))
    jobs = [
        context.Process(target=_train, args=(arm.name, sequences, folder / arm.name, clock, together)) for arm in arms
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    failed = [arm.name for arm, job in zip(arms, jobs, strict=True) if job.exitcode]
    if failed:
        raise TrainingError(f"training of {', '.join(failed)} on {sequences.name} failed; see above")


def _train(name: str, sequences: Sequences, folder: Path, clock: Clock, together: Barrier) -> None:
    torch.set_num_threads(1)
    train_arm(ARMS[name], sequences, folder, clock=clock, ready=lambda: together.wait(LATEST_START))


def train_arm(
    arm: Arm, sequences: Sequences, folder: Path, *, clock: Clock, ready: Callable[[], object] = lambda: None
) -> Checkpoint:
    """Train one arm on one data set and save its model.

    Parameters
    ----------
    ready
        Called when all is compiled, just before the clock starts.
    """
    run = Run(arm, sequences.samples(arm.points), clock)
    began = time.monotonic()
    run.compile()
    compiling = time.monotonic() - began
    ready()
    run.train()
    codes = run.codes.detach().numpy().astype(np.float32)
    run.decoder.requires_grad_(False)
    slope = steepest_slope(run.decoder, codes)
    return save_checkpoint(
        folder,
        decoder=run.decoder,
        prior=fit_prior(codes),
        card={
            "id": arm.name,
            "title": arm.title,
            "description": f"An arm of the comparison on {sequences.name}; not for use.",
            "cell_type": sequences.name,
            "licence": "not for redistribution",
            "created": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "micrometres": 1.0,
            "minutes": 1.0,
            "lipschitz": round(1.1 * slope, 3),
            "topology": sequences.topology,
            "training": {
                "data": f"{sequences.name}, points of the {arm.points} kind",
                "sequences": len(codes),
                "frames": max(len(one) for one in run.samples),
                "held_out_frames": "every fifth",
                "steps": run.step,
                "points": run.step * clock.frames * clock.points,
                "minutes": round(clock.seconds / 60.0, 3),
                "device": "cpu",
                "seed": clock.seed,
                "recipe": "python -m benchmarks.arms",
            },
            "quality": {"compile_s": round(compiling, 1), "loss": run.last_loss},
        },
    )


class Run:
    """One arm in training.

    Parameters
    ----------
    samples
        One array a sequence, (frames, n, 4) float32: x, y, z and distance, in random order.
    """

    def __init__(self, arm: Arm, samples: list[Any], clock: Clock) -> None:
        self.arm, self.samples, self.clock = arm, samples, clock
        generator = torch.Generator().manual_seed(clock.seed)
        self.decoder = make_network(arm, generator)
        self.codes = make_codes(arm, len(samples), generator)
        self.optimisers = make_optimisers(arm, self.decoder, self.codes)
        self.step, self.last_loss = 0, float("nan")
        recipe = our_optimisation().precision
        self.halves = arm.in_half_precision and recipe == "bfloat16" and multiplies_bfloat16("cpu")
        self._frames = [
            (sequence, frame)
            for sequence, one in enumerate(samples)
            for frame in sorted(set(range(len(one))) - set(HELD_OUT.frames(len(one))))
        ]
        self._loss: Callable[..., Tensor] = torch.compile(self.loss) if clock.compiled else self.loss

    def compile(self) -> None:
        """Meet every shape and type once, and forget the gradients."""
        for half in {False, self.halves}:
            self._value(self.draw(np.random.default_rng(0)), done=0.0, half=half).backward()  # type: ignore[no-untyped-call]
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=True)

    def train(self) -> None:
        """Take steps until the time is up."""
        plan = our_optimisation()
        began = time.monotonic()
        while (done := (time.monotonic() - began) / self.clock.seconds) < 1.0:
            half = self.halves and done < plan.full_precision_after
            self.advance(done, half=half)

    def advance(self, done: float, *, half: bool = False) -> None:
        """Take one step after a share ``done`` of the time."""
        factor = schedule(self.arm, done)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group["highest"] * factor
            optimiser.zero_grad(set_to_none=True)
        batch = self.draw(np.random.default_rng([self.clock.seed, self.step]))
        value = self._value(batch, done=done, half=half)
        value.backward()  # type: ignore[no-untyped-call]
        if self.arm.optimiser != "released":
            torch.nn.utils.clip_grad_norm_(self.decoder.parameters(), our_optimisation().clip)
        for optimiser in self.optimisers:
            optimiser.step()
        self.step += 1
        self.last_loss = float(value.detach())

    def loss(self, points: Tensor, distances: Tensor, times: Tensor, sequences: Tensor, weight: Tensor) -> Tensor:
        """Mean absolute error of the distance, and the pull of the codes toward the origin.

        Parameters
        ----------
        points, distances
            (b, n, 3) in Ω, and (b, n).
        times, sequences
            (b,) in τ, and (b,) rows of the codes.
        weight
            Of the pull, ().
        """
        latents = self.codes[sequences]  # (b, c)
        error = (cast(AutoDecoder, self.decoder)(points, times, latents) - distances).abs().mean()
        return cast(Tensor, error + penalty(self.arm, latents, weight))

    def draw(self, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Frames at random, and of each a run of its points: points, distances, times, sequences."""
        clock = self.clock
        blocks, times, sequences = [], [], []
        for index in rng.integers(len(self._frames), size=clock.frames):
            sequence, frame = self._frames[index]
            block = self.samples[sequence][frame]
            start = int(rng.integers(max(len(block) - clock.points, 0) + 1))
            blocks.append(np.resize(block[start : start + clock.points], (clock.points, 4)))
            times.append(float(frame_times(len(self.samples[sequence]))[frame]))
            sequences.append(sequence)
        batch = torch.from_numpy(np.stack(blocks).astype(np.float32))  # (b, n, 4)
        return (
            batch[..., :3].contiguous(),
            batch[..., 3].contiguous(),
            torch.tensor(times, dtype=torch.float32),
            torch.tensor(sequences),
        )

    def _value(self, batch: tuple[Tensor, Tensor, Tensor, Tensor], *, done: float, half: bool) -> Tensor:
        weight = torch.tensor(penalty_weight(self.arm, done))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            return self._loss(*batch, weight)
