r"""Training: θ and one latent code for each sequence, optimised together.

The loss is that of the method, E_(x,t) Σ_i ‖f_θ(x, t, z_i) − SDF_i(x, t)‖₁ + penalty · ‖z_i‖², on frames drawn at
random and, in each, a run of the data set's points (which gather around the membrane).

Promises: step k draws from a generator made of (seed, k), so a run that was killed and resumed equals one that was not,
and two runs of one configuration on one machine give the same weights. The curve is part of the state, so it too is
that of an undisturbed run. A saved state survives a power cut.
Does not promise: equal weights on another machine or with another number of threads.

References: Wiesner et al. 2022, doi:10.1007/978-3-031-16440-8_6, eq. 1.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from model.errors import DatasetError, SpecError
from model.learning.code_start import codes_by_shape
from model.learning.copies import with_copies
from model.learning.dataset import Dataset
from model.learning.fresh import Epochs
from model.learning.optimisers import multiplies_bfloat16, optimisers
from model.learning.point_batches import Batches
from model.learning.recipe import TrainConfig
from model.network.autodecoder import AutoDecoder
from model.network.checkpoint import Checkpoint

STATE_INDEX = "state.json"
# Members of a recipe that may change while a training is interrupted: its steps do not depend on them.
NOT_OF_THE_TRAINING = {
    "title", "description", "threads", "prior_bandwidth", "density", "parts", "near", "mirrors", "grid_min",
    "stored_precision",
}  # fmt: skip
LOSS_MEMORY = 0.99  # decay of the running mean of the loss in progress reports
ADOPTIONS = 20  # tries to copy a state that another process replaces meanwhile
NEAR = 0.08  # distance from the membrane, in Ω, within which errors have full weight
CURVE_ROWS = 200  # of the loss over a whole training
MEASURED_EVERY = 10  # rows of the curve between two measurements of left-out frames
READ_EVERY = 32  # steps after which an accelerator is asked for the losses; each time it waits for the steps before

Measure = Callable[[AutoDecoder, Tensor], float]
"""Agreement with left-out frames, from a network and its codes (s, c); larger is better."""


@dataclass(frozen=True)
class TrainProgress:
    """Progress of a training, reported about once a second."""

    step: int
    steps: int
    loss: float
    points_per_second: float
    eta_s: float
    dice: float | None = None  # as last measured
    saved: int = 0  # step of the state that is saved


@dataclass(frozen=True)
class CurveRow:
    """A point of the training curve.

    Attributes
    ----------
    loss
        Mean over the steps since the row before.
    dice
        What the measurement of left-out frames gave after this step; None where it was not taken.
    """

    step: int
    loss: float
    dice: float | None = None


@dataclass(frozen=True)
class Trained:
    """The outcome of training.

    Attributes
    ----------
    steps
        That the weights have behind them.
    stopped
        Whether the run was ended before the last step of its recipe.
    """

    decoder: AutoDecoder
    latent_codes: np.ndarray[Any, np.dtype[np.float32]]  # (s, c)
    steps: int
    points: int
    minutes: float
    curve: tuple[CurveRow, ...] = ()
    stopped: bool = False


def train(
    config: TrainConfig,
    dataset: Dataset,
    state_folder: Path,
    *,
    device: str = "cpu",
    start: Checkpoint | None = None,
    save_every_s: float = 120.0,
    on_progress: Callable[[TrainProgress], None] = lambda _progress: None,
    measure: Measure | None = None,
    should_stop: Callable[[float], bool] = lambda _seconds: False,
) -> Trained:
    """Train an auto-decoder, or continue an interrupted run of the same recipe.

    Parameters
    ----------
    config
        The recipe.
    dataset
        Its training sequences.
    state_folder
        Where the state is saved at the start, every ``save_every_s`` seconds and at the end.
    device
        Where torch computes.
    start
        A trained model of the same network to go on from. If it has the recipe's id, its codes are those of the first
        sequences; other codes begin at their mean.
    on_progress
        Called about once a second. If it raises, the state is saved first.
    measure
        Taken some twenty times in the course of a training, for the curve; it does not change the weights.
    should_stop
        Asked about once a second, given the seconds of training in all runs together. Once it says so, and at least one
        step is done, the run ends: with the weights that agreed best with the left-out frames, or the last ones where
        those are better or nothing is measured.

    Raises
    ------
    DatasetError
        If no frame is left to train on.
    SpecError
        If the folder holds the state of another recipe, or ``start`` has another network.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    with Epochs(config, dataset, state_folder) as epochs:
        run = TrainingRun(config, dataset, device, start, epochs)
        return _train(run, state_folder, save_every_s, on_progress, measure, should_stop)


def _train(
    run: TrainingRun,
    state_folder: Path,
    save_every_s: float,
    on_progress: Callable[[TrainProgress], None],
    measure: Measure | None,
    should_stop: Callable[[float], bool],
) -> Trained:
    if not run.restore(state_folder):
        run.save(state_folder, seconds=0.0)
    config = run.config
    plan = config.optimisation
    step_loss = torch.compile(run.loss) if plan.compiled else run.loss
    started = saved = shown = time.monotonic()
    first, mean, stopped = run.step, math.nan, False
    while run.step < plan.steps and not stopped:
        run.advance(step_loss)
        if run.unread < READ_EVERY and not run.reads_at_once and not run.row_is_due:
            continue
        for value in run.read_losses():
            mean = value if math.isnan(mean) else LOSS_MEMORY * mean + (1 - LOSS_MEMORY) * value
        run.note(measure)
        now = time.monotonic()
        if now - saved > save_every_s:
            run.save(state_folder, seconds=now - started)
            saved = now
        if now - shown > 1.0 or run.step == plan.steps:
            rate = (run.step - first) / max(now - started, 1e-9)
            samples = plan.frames_per_step * plan.points_per_frame
            eta_s = (plan.steps - run.step) / rate
            try:
                on_progress(TrainProgress(run.step, plan.steps, mean, rate * samples, eta_s, run.dice, run.saved))
            except BaseException:
                with suppress(OSError):  # on a full disk the state that was saved last stays, and the reason to stop
                    run.save(state_folder, seconds=time.monotonic() - started)
                raise
            stopped = run.step < plan.steps and should_stop(run.earlier_seconds + now - started)
            shown = now
    run.save(state_folder, seconds=time.monotonic() - started)
    if stopped and measure is not None:
        run.take_better(measure)
    codes = run.latent_codes.detach().cpu().numpy().astype(np.float32)
    points = run.step * plan.frames_per_step * plan.points_per_frame
    curve = tuple(run.curve)
    return Trained(run.decoder.cpu().float(), codes, run.step, points, run.seconds / 60.0, curve, stopped)


def adopt_state(folders: Iterable[Path], folder: Path) -> int | None:
    """Copy the state that is furthest among those of several folders into another folder.

    So each attempt at a long training can write into a folder of its own: one that is believed dead and is not harms
    nobody.

    Parameters
    ----------
    folders
        That may hold a state; others may write there or remove it meanwhile.
    folder
        Where it goes; holds none yet.

    Returns
    -------
        The step of the state; None if there is none that is whole.
    """
    for _ in range(ADOPTIONS):
        known = [(index["step"], source, index) for source in folders if (index := _index(source)) is not None]
        if not known:
            return None
        step, source, index = max(known, key=lambda one: one[0])
        folder.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(source / index["file"], folder / index["file"])
        except FileNotFoundError:  # a later one has taken its place
            continue
        _write_index(index, folder)
        return int(step)
    return None


def _index(folder: Path) -> dict[str, Any] | None:
    """Read what a folder says of its state; None if there is none."""
    try:
        index: dict[str, Any] = json.loads((folder / STATE_INDEX).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return index


def _write_index(index: dict[str, Any], folder: Path) -> None:
    """Make a state that is written count: before that, the earlier one does."""
    _sync(folder / index["file"])
    partial = folder / f"{STATE_INDEX}.partial"
    partial.write_text(json.dumps(index, indent=1), encoding="utf-8")
    _sync(partial)
    partial.replace(folder / STATE_INDEX)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


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

    def __init__(
        self,
        config: TrainConfig,
        dataset: Dataset,
        device: str,
        start: Checkpoint | None = None,
        epochs: Epochs | None = None,
    ) -> None:
        self._epochs, self._drawn = epochs, dataset
        dataset = with_copies(dataset, config.copies, seed=config.seed)
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
        self.saved = 0
        self.earlier_seconds = 0.0  # of the runs before this one
        self.curve: list[CurveRow] = []
        self.dice: float | None = None
        self._losses: list[float] = []  # of the steps since the last row of the curve
        self._unread: list[Tensor] = []  # losses of the last steps, still on the device
        self.reads_at_once = torch.device(device).type == "cpu"
        self._best: tuple[float, int, dict[str, Tensor]] | None = None  # agreement, step, tensors by name
        self._halves = plan.precision == "bfloat16" and multiplies_bfloat16(device)
        self._frames = [
            (sequence, frame)
            for sequence, samples in enumerate(dataset.samples)
            for frame in sorted(set(range(len(samples))) - set(config.held_out.frames(len(samples))))
        ]
        if not self._frames:
            raise DatasetError("every frame is held out; nothing is left to train on")
        self._batches = self._batches_of(dataset)
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

    def _batches_of(self, dataset: Dataset) -> Batches:
        plan = self.config.optimisation
        return Batches(
            dataset, self._frames, frames_per_step=plan.frames_per_step, points_per_frame=plan.points_per_frame,
            device=self.device,
        )  # fmt: skip

    def advance(self, loss: Callable[..., Tensor]) -> None:
        """Take one step; its loss is unread."""
        plan = self.config.optimisation
        rng = np.random.default_rng([self.config.seed, self.step])
        if self._epochs and self._drawn is not (drawn := self._epochs.at(self.step)):
            self._drawn, self.dataset = drawn, with_copies(drawn, self.config.copies, seed=self.config.seed)
            self._batches = self._batches_of(self.dataset)
        batch = self._batches.draw(rng)
        half = self._halves and self.step < plan.full_precision_after * plan.steps
        for optimiser in self._optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group["highest"] * self._schedule()
            optimiser.zero_grad(set_to_none=True)
        with torch.autocast(torch.device(self.device).type, dtype=torch.bfloat16, enabled=half):
            value = loss(*batch)
        value.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.decoder.parameters(), plan.clip)
        for optimiser in self._optimisers:
            optimiser.step()
        self.step += 1
        self._unread.append(value.detach())

    @property
    def unread(self) -> int:
        """Steps whose losses have not been read."""
        return len(self._unread)

    def read_losses(self) -> list[float]:
        """Return the losses of the steps since the last reading, which waits until they are done.

        Raises
        ------
        SpecError
            If one of them is no number.
        """
        values: list[float] = torch.stack(self._unread).tolist()
        self._unread.clear()
        for behind, value in enumerate(reversed(values)):
            if not math.isfinite(value):
                step = self.step - behind
                raise SpecError(f"the loss is {value} at step {step}: lower optimisation.learning_rate and start again")
        self._losses += values
        return values

    def loss(self, points: Tensor, distances: Tensor, times: Tensor, sequences: Tensor) -> Tensor:
        """Mean absolute error of the distance, weighted, and the pull of the codes toward the origin."""
        latents = self.latent_codes[sequences]  # (b, c)
        errors = (self.decoder(points, times, latents) - distances).abs()  # (b, n)
        weight = self.config.optimisation.far_weight
        if weight < 1.0:
            errors = errors * torch.where(distances.abs() < NEAR, 1.0, weight)
        total: Tensor = errors.mean() + self.config.optimisation.latent_penalty * latents.square().sum(dim=1).mean()
        return total

    def _schedule(self) -> float:
        """Factor on the learning rates: linear warm-up, then cosine decay."""
        plan = self.config.optimisation
        if self.step < plan.warm_up:
            return (self.step + 1) / plan.warm_up
        done = (self.step - plan.warm_up) / max(plan.steps - plan.warm_up, 1)
        return plan.final + (1.0 - plan.final) * 0.5 * (1.0 + math.cos(math.pi * done))

    @property
    def _row_every(self) -> int:
        return max(1, self.config.optimisation.steps // CURVE_ROWS)

    @property
    def row_is_due(self) -> bool:
        """Whether the curve gets a row after this step."""
        return self.step % self._row_every == 0 or self.step == self.config.optimisation.steps

    def note(self, measure: Measure | None) -> None:
        """Add a row to the curve, and measure, where it is due; all losses have been read."""
        if not self.row_is_due:
            return
        every, last = self._row_every, self.step == self.config.optimisation.steps
        dice = None
        if measure is not None and (last or self.step % (every * MEASURED_EVERY) == 0):
            self.dice = dice = self._measure(measure)
            if self._best is None or dice > self._best[0]:
                self._best = (dice, self.step, {name: value.clone() for name, value in self._weights().items()})
        self.curve.append(CurveRow(self.step, math.fsum(self._losses) / len(self._losses), dice))
        self._losses.clear()

    def take_better(self, measure: Measure) -> None:
        """Go back to the weights that agreed best with the left-out frames, unless those of now do."""
        if self._best is None or self._measure(measure) >= self._best[0]:
            return
        self.dice, self.step, weights = self._best
        self._load(weights)

    def _measure(self, measure: Measure) -> float:
        with torch.no_grad():
            return measure(self.decoder, self.latent_codes.detach())

    def _weights(self) -> dict[str, Tensor]:
        weights = {f"decoder.{name}": value.detach() for name, value in self.decoder.state_dict().items()}
        return {**weights, "latent_codes": self.latent_codes.detach()}

    def _load(self, weights: dict[str, Tensor]) -> None:
        self.decoder.load_state_dict({name: weights[f"decoder.{name}"] for name in self.decoder.state_dict()})
        with torch.no_grad():
            self.latent_codes.copy_(weights["latent_codes"])

    def save(self, folder: Path, *, seconds: float) -> None:
        """Save weights, codes, the optimisers' moments and the curve, whole or not at all; raises ``OSError``."""
        self.seconds = self.earlier_seconds + seconds
        tensors = self._weights()
        for name, parameter, state in self._moments():
            for key, value in state[parameter].items():
                tensors[f"moment.{name}/{key}"] = value
        name = f"state-{self.step:08d}.safetensors"
        index: dict[str, Any] = {"file": name, "step": self.step, "seconds": self.seconds, "recipe": self._recipe()}
        index |= {"curve": [[row.step, row.loss, row.dice] for row in self.curve], "losses": self._losses}
        if self._best is not None:
            index["best"] = {"dice": self._best[0], "step": self._best[1]}
            tensors |= {f"best.{key}": value for key, value in self._best[2].items()}
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f"{name}.partial"
        # Written here: safetensors reports a full disk as an error of its own, not as an OSError.
        content = save({key: value.detach().cpu().contiguous() for key, value in tensors.items()})
        try:
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            partial.unlink(missing_ok=True)
            raise
        partial.replace(folder / name)
        _write_index(index, folder)
        self.saved = self.step
        for old in folder.glob("state-*.safetensors"):
            if old.name != name:
                old.unlink(missing_ok=True)

    def restore(self, folder: Path) -> bool:
        """Restore the state that a folder holds; False if it holds none."""
        index = _index(folder)
        if index is None:
            return False
        if index["recipe"] != self._recipe():
            raise SpecError(f"{folder} holds the state of another recipe; choose another folder or remove it")
        tensors = load_file(folder / index["file"], device=self.device)
        self._load(tensors)
        for name, parameter, state in self._moments():
            prefix = f"moment.{name}/"
            state[parameter] = {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}
        self.step = self.saved = index["step"]
        self.earlier_seconds = index["seconds"]
        self.seconds = self.earlier_seconds
        self.curve = [CurveRow(*row) for row in index.get("curve", [])]
        self._losses = list(index.get("losses", []))
        self.dice = next((row.dice for row in reversed(self.curve) if row.dice is not None), None)
        if best := index.get("best"):
            weights = {key.removeprefix("best."): t for key, t in tensors.items() if key.startswith("best.")}
            self._best = (best["dice"], best["step"], weights)
        return True

    def _moments(self) -> Iterator[tuple[str, Tensor, dict[Tensor, dict[str, Tensor]]]]:
        """Yield each parameter's name, the parameter, and the state of the optimiser that it belongs to."""
        names = {parameter: name for name, parameter in self.decoder.named_parameters()}
        names[self.latent_codes] = "latent_codes"
        for optimiser in self._optimisers:
            for group in optimiser.param_groups:
                for parameter in group["params"]:
                    yield names[parameter], parameter, optimiser.state

    def _recipe(self) -> dict[str, Any]:
        recipe: dict[str, Any] = json.loads(self.config.model_dump_json(exclude=NOT_OF_THE_TRAINING))
        if recipe["optimisation"]["latent_start"] == "random":
            del recipe["optimisation"]["latent_start"]  # states from before there was a choice go on
        if recipe["optimisation"]["far_weight"] == 1.0:
            del recipe["optimisation"]["far_weight"]
        if not self.config.copies:
            del recipe["copies"]
        if not self.config.warps:
            del recipe["warps"]
        if self._start:
            recipe["start"] = self._start
        return recipe
