"""Train the models of phantoms on an accelerator, test and measure: ``python -m benchmarks.gpu_session``.

The time is divided before it begins. All cores but one draw training sequences, the data of one model after the other,
while the accelerator trains on those that are ready; each model gets an equal share of the time that is left. How many
steps fit is measured first, because the learning rates fall over a known number of steps. At the end the tests marked
``gpu`` and ``benchmarks.gpu`` run.

Writes a model's folder for each recipe, with its training curve, and ``session.json`` into ``--out`` (out/gpu). A
training that is interrupted goes on when the same command is given again. ``--device cpu`` rehearses all of it without
an accelerator, with few sequences and minutes.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from model.learning.dataset import Dataset, build_dataset
from model.learning.recipe import TrainConfig
from model.learning.sources import PhantomSource
from model.learning.train import Trained, TrainProgress, train
from model.training import save_model

RECIPES = Path(__file__).parents[1] / "model" / "recipes"
ORDER = ("platynereis", "celegans", "a549")  # quickest data first: the accelerator waits least
PROBE_STEPS = 60  # whose time is measured, once they are compiled
TESTS_MINUTES = 1.5  # kept free at the end for tests and measurements
MOST_STEPS = 400_000
SAVING_S = 15.0  # of each model's share: slope, density, files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0, help="for everything")
    parser.add_argument("--sequences", type=int, default=1024, help="of each cell type")
    parser.add_argument("--frames-per-step", type=int, default=128)
    parser.add_argument("--points-per-frame", type=int, default=512)
    parser.add_argument("--recipes", nargs="+", default=list(ORDER), help="names in model/recipes, in this order")
    parser.add_argument("--out", type=Path, default=Path("out/gpu"))
    parser.add_argument("--device", default="cuda")
    arguments = parser.parse_args()
    if torch.device(arguments.device).type == "cuda" and not torch.cuda.is_available():
        print("no CUDA device on this machine: nothing was trained; --device cpu rehearses it")
        return
    deadline = time.monotonic() + 60.0 * arguments.minutes
    arguments.out.mkdir(parents=True, exist_ok=True)
    recipes = [adapted(TrainConfig.read(RECIPES / f"{name}.toml"), arguments) for name in arguments.recipes]
    told = train_all(recipes, arguments, deadline - 60.0 * TESTS_MINUTES)
    told["tests"] = run("-m", "pytest", "-q", "-m", "gpu", "tests/model/engine")
    side = "256" if arguments.device == "cuda" else "48"
    told["benchmark"] = run("-m", "benchmarks.gpu", "--device", arguments.device, "--grid", side)
    (arguments.out / "session.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(told, indent=2))


def adapted(recipe: TrainConfig, arguments: argparse.Namespace) -> TrainConfig:
    """Return a recipe with sequences at random moments, and steps large enough to keep an accelerator busy."""
    if not isinstance(recipe.data, PhantomSource):
        raise SystemExit(f"the recipe {recipe.id} does not train on phantoms")
    data = {"sequences": arguments.sequences, "moments": 8, "points_per_frame": 2048}
    plan = {
        "frames_per_step": arguments.frames_per_step, "points_per_frame": arguments.points_per_frame,
        "latent_start": "shapes", "warm_up": PROBE_STEPS,
    }  # fmt: skip
    return recipe.model_copy(
        update={
            "data": recipe.data.model_copy(update=data),
            "held_out": recipe.held_out.model_copy(update={"every": 0}),
            "optimisation": recipe.optimisation.model_copy(update=plan),
            "threads": None,
        }
    )


def train_all(recipes: list[TrainConfig], arguments: argparse.Namespace, deadline: float) -> dict[str, Any]:
    """Draw and train, one recipe after the other, until a time of the monotonic clock."""
    told: dict[str, Any] = {"device": arguments.device, "torch": torch.__version__, "cores": os.cpu_count()}
    workers = max(1, (os.cpu_count() or 2) - 1)
    with ThreadPoolExecutor(1) as drawing:
        began = time.monotonic()
        waiting: list[Future[tuple[Dataset, float]]] = [
            drawing.submit(drawn, recipe, arguments.out / "data" / recipe.id, workers) for recipe in recipes
        ]
        for number, (recipe, future) in enumerate(zip(recipes, waiting, strict=True)):
            dataset, seconds = future.result()
            share = (deadline - time.monotonic()) / (len(recipes) - number) - SAVING_S
            if share <= 0.0:
                raise SystemExit(f"no time is left for {recipe.id}: give more --minutes or fewer --sequences")
            print(f"{recipe.id}: {len(dataset.samples)} sequences drawn, {share:.0f} s to train", flush=True)
            trained, final = fitted(recipe, dataset, arguments, share)
            folder = arguments.out / "models" / recipe.id
            save_model(
                trained, final, dataset, folder, device=arguments.device, command="python -m benchmarks.gpu_session"
            )
            with (folder / "curve.csv").open("w", newline="") as file:
                csv.writer(file).writerows([("step", "loss"), *((row.step, row.loss) for row in trained.curve)])
            told[recipe.id] = {
                "sequences": len(dataset.samples), "drawing_s": round(seconds, 1), "steps": trained.steps,
                "points": trained.points, "minutes": round(trained.minutes, 2),
                "points_per_second": round(trained.points / max(60.0 * trained.minutes, 1e-9)),
                "loss": trained.curve[-1].loss if trained.curve else None,
            }  # fmt: skip
        told["seconds"] = round(time.monotonic() - began, 1)
    return told


def drawn(recipe: TrainConfig, folder: Path, workers: int) -> tuple[Dataset, float]:
    """Draw the data of a recipe; what is there is kept. Returns them and the seconds it took."""
    began = time.monotonic()
    return build_dataset(recipe.data, folder, workers=workers), time.monotonic() - began


def fitted(
    recipe: TrainConfig, dataset: Dataset, arguments: argparse.Namespace, seconds: float
) -> tuple[Trained, TrainConfig]:
    """Train for about so many seconds; the number of steps is chosen once and kept for a run that goes on."""
    state = arguments.out / "states" / recipe.id
    plan = state / "steps"
    if not plan.is_file():
        state.mkdir(parents=True, exist_ok=True)
        rate = steps_per_second(recipe, dataset, state / "probe", arguments.device)
        plan.write_text(str(max(100, min(MOST_STEPS, int(rate * seconds)))))
    recipe = recipe.with_plan(steps=int(plan.read_text()))
    began = time.monotonic()

    def show(now: TrainProgress) -> None:
        if now.step % 20 == 0 or now.step == now.steps:
            line = f"{recipe.id} {now.step} of {now.steps}, loss {now.loss:.5f}, {now.points_per_second:,.0f} points/s"
            print(line, flush=True)

    return (
        train(
            recipe, dataset, state / "run", device=arguments.device, on_progress=show,
            should_stop=lambda _all: time.monotonic() - began > 1.3 * seconds,
        ),
        recipe,
    )  # fmt: skip


def steps_per_second(recipe: TrainConfig, dataset: Dataset, folder: Path, device: str) -> float:
    """Measure how fast steps are, after those that compile."""
    short = recipe.with_plan(steps=PROBE_STEPS)
    train(short, dataset, folder / "compile", device=device)
    began = time.monotonic()
    train(short, dataset, folder / "timed", device=device)
    return PROBE_STEPS / (time.monotonic() - began)


def run(*command: str) -> str:
    """Run a program of this interpreter and return the end of what it printed."""
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr)[-2000:].strip()


if __name__ == "__main__":
    main()
