r"""Training: θ and one latent code for each sequence, optimised together.

The loss is that of the method, E_(x,t) Σ_i ‖f_θ(x, t, z_i) − SDF_i(x, t)‖₁ + penalty · ‖z_i‖², on frames drawn at
random and, in each, a run of the data set's points (which gather around the membrane).

Promises: step k draws from a generator made of (seed, k), so a run that was killed and resumed equals one that was not,
and two runs of one configuration on one machine give the same weights.
Does not promise: equal weights on another machine or with another number of threads.

References: Wiesner et al. 2022, doi:10.1007/978-3-031-16440-8_6, eq. 1.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.errors import DatasetError, SpecError
from model.learning.code_start import codes_by_shape
from model.learning.dataset import Dataset
from model.learning.optimisers import multiplies_bfloat16, optimisers
from model.learning.recipe import TrainConfig
from model.network.autodecoder import AutoDecoder
from model.network.checkpoint import Checkpoint

STATE_INDEX = "state.json"
# Members of a recipe that may change while a training is interrupted: its steps do not depend on them.
NOT_OF_THE_TRAINING = {"title", "description", "threads", "prior_bandwidth", "density", "grid_min"}
LOSS_MEMORY = 0.99  # decay of the running mean of the loss in progress reports


@dataclass(frozen=True)
class TrainProgress:
    """Progress of a training, reported about once a second."""

    step: int
    steps: int
    loss: float
    points_per_second: float
    eta_s: float


@dataclass(frozen=True)
class Trained:
    """The outcome of training."""

    decoder: AutoDecoder
    latent_codes: np.ndarray[Any, np.dtype[np.float32]]  # (s, c)
    steps: int
    points: int
    minutes: float


def train(
    config: TrainConfig,
    dataset: Dataset,
    state_folder: Path,
    *,
    device: str = "cpu",
    start: Checkpoint | None = None,
    save_every_s: float = 120.0,
    on_progress: Callable[[TrainProgress], None] = lambda _progress: None,
) -> Trained:
    """Train an auto-decoder, or continue an interrupted run of the same recipe.

    Parameters
    ----------
    config
        The recipe.
    dataset
        Its training sequences.
    state_folder
        Where the state is saved every ``save_every_s`` seconds and at the end.
    device
        Where torch computes.
    start
        A trained model of the same network to go on from. If it has the recipe's id, its codes are those of the first
        sequences; other codes begin at their mean.
    on_progress
        Called about once a second.

    Raises
    ------
    DatasetError
        If no frame is left to train on.
    SpecError
        If the folder holds the state of another recipe, or ``start`` has another network.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    run = TrainingRun(config, dataset, device, start)
    run.restore(state_folder)
    plan = config.optimisation
    step_loss = torch.compile(run.loss) if plan.compiled else run.loss
    started = saved = shown = time.monotonic()
    first, mean = run.step, math.nan
    while run.step < plan.steps:
        value = run.advance(step_loss)
        if not math.isfinite(value):
            raise SpecError(f"the loss is {value} at step {run.step}: lower optimisation.learning_rate and start again")
        mean = value if math.isnan(mean) else LOSS_MEMORY * mean + (1 - LOSS_MEMORY) * value
        now = time.monotonic()
        if now - saved > save_every_s:
            run.save(state_folder, seconds=now - started)
            saved = now
        if now - shown > 1.0 or run.step == plan.steps:
            rate = (run.step - first) / max(now - started, 1e-9)
            samples = plan.frames_per_step * plan.points_per_frame
            on_progress(TrainProgress(run.step, plan.steps, mean, rate * samples, (plan.steps - run.step) / rate))
            shown = now
    run.save(state_folder, seconds=time.monotonic() - started)
    codes = run.latent_codes.detach().cpu().numpy().astype(np.float32)
    points = plan.steps * plan.frames_per_step * plan.points_per_frame
    return Trained(run.decoder.cpu().float(), codes, plan.steps, points, run.seconds / 60.0)


def check_start(config: TrainConfig, start: Checkpoint) -> None:
    """Check that training by a recipe can continue from a model.

    Raises
    ------
    SpecError
        If the model has another network.
    """
    if start.decoder.config != config.network:
        raise SpecError(
            f"the model {start.card.id!r} has another network than the recipe {config.id!r}: "
            f"{start.decoder.config.model_dump_json()}"
        )


class TrainingRun:
    """The moving state of one training run."""

    def __init__(self, config: TrainConfig, dataset: Dataset, device: str, start: Checkpoint | None = None) -> None:
        self.config, self.dataset, self.device = config, dataset, device
        self._start = start.card.sha256 if start else None
        generator = torch.Generator().manual_seed(config.seed)
        plan = config.optimisation
        self.decoder = AutoDecoder(config.network, generator=generator).to(device)
        codes = torch.randn(len(dataset.samples), config.network.latent_size, generator=generator) * plan.latent_spread
        if start is not None:
            codes = self._begin_at(start, codes)
        elif plan.latent_start == "shapes":
            codes = torch.from_numpy(codes_by_shape(dataset, config.network.latent_size))
        self.latent_codes = torch.nn.Parameter(codes.to(device))
        self.step, self.seconds = 0, 0.0
        self._earlier = 0.0
        self._halves = plan.precision == "bfloat16" and multiplies_bfloat16(device)
        self._frames = [
            (sequence, frame)
            for sequence, samples in enumerate(dataset.samples)
            for frame in sorted(set(range(len(samples))) - set(config.held_out.frames(len(samples))))
        ]
        if not self._frames:
            raise DatasetError("every frame is held out; nothing is left to train on")
        self._optimisers = optimisers(
            self.decoder, self.latent_codes, rate=plan.learning_rate, latent_rate=plan.latent_learning_rate,
            hidden_rate=plan.hidden_learning_rate, fused=True,
        )  # fmt: skip

    def _begin_at(self, start: Checkpoint, codes: Tensor) -> Tensor:
        """Take over the weights of a trained model; return the codes (s, c) to begin with."""
        check_start(self.config, start)
        self.decoder.load_state_dict(start.decoder.state_dict())
        codes = codes + torch.from_numpy(start.prior.mean)
        if start.card.id == self.config.id:
            known = min(len(codes), len(start.latent_codes))
            codes[:known] = torch.from_numpy(start.latent_codes[:known])
        return codes

    def advance(self, loss: Callable[..., Tensor]) -> float:
        """Take one step and return its loss."""
        plan = self.config.optimisation
        rng = np.random.default_rng([self.config.seed, self.step])
        points, distances, times, sequences = self._draw(rng)
        half = self._halves and self.step < plan.full_precision_after * plan.steps
        for optimiser in self._optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group["highest"] * self._schedule()
            optimiser.zero_grad(set_to_none=True)
        with torch.autocast(torch.device(self.device).type, dtype=torch.bfloat16, enabled=half):
            value = loss(points, distances, times, sequences)
        value.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.decoder.parameters(), plan.clip)
        for optimiser in self._optimisers:
            optimiser.step()
        self.step += 1
        return float(value.detach())

    def loss(self, points: Tensor, distances: Tensor, times: Tensor, sequences: Tensor) -> Tensor:
        """Mean absolute error of the distance, and the pull of the codes toward the origin."""
        latents = self.latent_codes[sequences]  # (b, c)
        error = (self.decoder(points, times, latents) - distances).abs().mean()
        total: Tensor = error + self.config.optimisation.latent_penalty * latents.square().sum(dim=1).mean()
        return total

    def _draw(self, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        plan = self.config.optimisation
        chosen = rng.integers(len(self._frames), size=plan.frames_per_step)
        samples = np.empty((plan.frames_per_step, plan.points_per_frame, 4), dtype=np.float32)
        times = np.empty(plan.frames_per_step, dtype=np.float32)
        sequences = np.empty(plan.frames_per_step, dtype=np.int64)
        for row, index in enumerate(chosen):
            sequence, frame = self._frames[index]
            block = self.dataset.samples[sequence][frame]
            start = rng.integers(max(len(block) - plan.points_per_frame, 0) + 1)
            samples[row] = np.resize(block[start : start + plan.points_per_frame], samples[row].shape)
            times[row] = self.dataset.times(sequence)[frame]
            sequences[row] = sequence
        batch = torch.from_numpy(samples).to(self.device)
        return (
            batch[..., :3].contiguous(),
            batch[..., 3].contiguous(),
            torch.from_numpy(times).to(self.device),
            torch.from_numpy(sequences).to(self.device),
        )

    def _schedule(self) -> float:
        """Factor on the learning rates: linear warm-up, then cosine decay."""
        plan = self.config.optimisation
        if self.step < plan.warm_up:
            return (self.step + 1) / plan.warm_up
        done = (self.step - plan.warm_up) / max(plan.steps - plan.warm_up, 1)
        return plan.final + (1.0 - plan.final) * 0.5 * (1.0 + math.cos(math.pi * done))

    def save(self, folder: Path, *, seconds: float) -> None:
        """Save weights, codes and the optimisers' moments, whole or not at all."""
        self.seconds = self._earlier + seconds
        tensors = {f"decoder.{name}": value for name, value in self.decoder.state_dict().items()}
        tensors["latent_codes"] = self.latent_codes.detach()
        for name, parameter, state in self._moments():
            for key, value in state[parameter].items():
                tensors[f"moment.{name}/{key}"] = value
        folder.mkdir(parents=True, exist_ok=True)
        name = f"state-{self.step:08d}.safetensors"
        save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, folder / name)
        index = {"file": name, "step": self.step, "seconds": self.seconds, "recipe": self._recipe()}
        partial = folder / f"{STATE_INDEX}.partial"
        partial.write_text(json.dumps(index, indent=1), encoding="utf-8")
        partial.replace(folder / STATE_INDEX)  # the index is the commit: before it, the earlier state counts
        for old in folder.glob("state-*.safetensors"):
            if old.name != name:
                old.unlink()

    def restore(self, folder: Path) -> None:
        """Restore the state that a folder holds, if any."""
        path = folder / STATE_INDEX
        if not path.is_file():
            return
        index = json.loads(path.read_text(encoding="utf-8"))
        if index["recipe"] != self._recipe():
            raise SpecError(f"{folder} holds the state of another recipe; choose another folder or remove it")
        tensors = load_file(folder / index["file"], device=self.device)
        self.decoder.load_state_dict({name: tensors[f"decoder.{name}"] for name in self.decoder.state_dict()})
        with torch.no_grad():
            self.latent_codes.copy_(tensors["latent_codes"])
        for name, parameter, state in self._moments():
            prefix = f"moment.{name}/"
            state[parameter] = {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}
        self.step, self._earlier = index["step"], index["seconds"]
        self.seconds = self._earlier

    def _moments(self) -> Iterator[tuple[str, Tensor, dict[Tensor, dict[str, Tensor]]]]:
        """Yield each parameter's name, the parameter, and the state of the optimiser that it belongs to."""
        names = {parameter: name for name, parameter in self.decoder.named_parameters()}
        names[self.latent_codes] = "latent_codes"
        for optimiser in self._optimisers:
            for group in optimiser.param_groups:
                for parameter in group["params"]:
                    yield names[parameter], parameter, optimiser.state

    def _recipe(self) -> dict[str, Any]:
        recipe: dict[str, Any] = json.loads(
            self.config.model_dump_json(
                exclude={"title", "description", "threads", "prior_bandwidth", "density", "grid_min"}
            )
        )
        if recipe["optimisation"]["latent_start"] == "random":
            del recipe["optimisation"]["latent_start"]  # states from before there was a choice go on
        if self._start:
            recipe["start"] = self._start
        return recipe
