"""Train the models of phantoms on an accelerator, test and measure: ``python -m benchmarks.gpu_session``.

All cores but two draw training sequences, the data of one model after the other, while the accelerator trains on those
that are ready. The time is divided before it begins: each model gets a share of what is left. How many steps fit is
measured first, because the learning rates fall over a known number of steps. The tests marked ``gpu`` run while the
first data are drawn, calibration and density of a model on the processor while the next one trains, and
``benchmarks.gpu`` at the end.

Writes into ``--out`` (out/gpu) a model's folder for each recipe, with its training curve, the recipe with its number of
steps, the training state, and ``session.json``. A training that is interrupted goes on when the same command is given
again; a model whose files were not finished in time is finished by ``--finish NAME``, here or on another machine that
has the state and the data. ``--device cpu`` rehearses all of it without an accelerator, with few sequences and minutes.
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

from model.learning.code_start import keep_shapes
from model.learning.dataset import Dataset, build_dataset, load_dataset
from model.learning.recipe import TrainConfig
from model.learning.sources import PhantomSource
from model.learning.train import Trained, TrainProgress, train
from model.training import save_model

RECIPES = Path(__file__).parents[1] / "model" / "recipes"
PROBE_STEPS = 60  # that compile
PROBE_S = 3.0  # at least, of the steps whose time is measured
TESTS_S = 240.0  # that the tests may take
END_S = 45.0  # kept free at the end for the benchmark and the last model's files
MOST_STEPS = 400_000
TESTS = ("-m", "pytest", "-q", "-m", "gpu", "tests/model/engine")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0, help="for everything")
    parser.add_argument("--recipes", nargs="+", default=["platynereis", "celegans", "a549"], help="names or files")
    parser.add_argument(
        "--shares", nargs="+", type=float, help="of the time, one for each recipe; equal ones if absent"
    )
    parser.add_argument("--sequences", type=int, help="of each cell type, instead of those of the recipe")
    parser.add_argument("--frames-per-step", type=int)
    parser.add_argument("--points-per-frame", type=int)
    parser.add_argument("--out", type=Path, default=Path("out/gpu"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--finish", metavar="NAME", help="only write the model of a training that is done")
    arguments = parser.parse_args()
    if arguments.finish:
        finish(arguments.finish, arguments.out, arguments.device)
        return
    if torch.device(arguments.device).type == "cuda" and not torch.cuda.is_available():
        print("no CUDA device on this machine: nothing was trained; --device cpu rehearses it")
        return
    torch.set_float32_matmul_precision("high")  # TensorFloat-32: the last steps are in full precision otherwise
    deadline = time.monotonic() + 60.0 * arguments.minutes
    arguments.out.mkdir(parents=True, exist_ok=True)
    recipes = [adapted(TrainConfig.read(path_of(name)), arguments) for name in arguments.recipes]
    with ThreadPoolExecutor(1) as testing:
        tests = testing.submit(run, *TESTS)
        told, finishing = train_all(recipes, arguments, deadline - END_S)
        told["tests"] = tests.result()
    side = "256" if arguments.device == "cuda" else "48"
    told["benchmark"] = run("-m", "benchmarks.gpu", "--device", arguments.device, "--grid", side)
    for name, process in finishing.items():
        try:
            process.wait(max(1.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        told[name]["finished"] = process.returncode == 0
    (arguments.out / "session.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(told, indent=2))


def path_of(name: str) -> Path:
    return Path(name) if name.endswith(".toml") else RECIPES / f"{name}.toml"


def adapted(recipe: TrainConfig, arguments: argparse.Namespace) -> TrainConfig:
    """Return a recipe with what the command line says otherwise."""
    if not isinstance(recipe.data, PhantomSource):
        raise SystemExit(f"the recipe {recipe.id} does not train on phantoms")
    data = {} if arguments.sequences is None else {"sequences": arguments.sequences}
    plan: dict[str, Any] = {
        name: value
        for name in ("frames_per_step", "points_per_frame")
        if (value := getattr(arguments, name)) is not None
    }
    return recipe.model_copy(
        update={
            "data": recipe.data.model_copy(update=data),
            "optimisation": recipe.optimisation.model_copy(update=plan),
            "threads": None,
        }
    )


def train_all(
    recipes: list[TrainConfig], arguments: argparse.Namespace, deadline: float
) -> tuple[dict[str, Any], dict[str, subprocess.Popen[bytes]]]:
    """Draw and train, one recipe after the other, until a time of the monotonic clock.

    Returns what was done, and the processes that write the models' files.
    """
    told: dict[str, Any] = {"device": arguments.device, "torch": torch.__version__, "cores": os.cpu_count()}
    if torch.device(arguments.device).type == "cuda":
        told["accelerator"] = torch.cuda.get_device_name(arguments.device)
    workers = max(1, (os.cpu_count() or 2) - 2)
    shares = arguments.shares or [1.0] * len(recipes)
    finishing: dict[str, subprocess.Popen[bytes]] = {}
    with ThreadPoolExecutor(1) as drawing:
        began = time.monotonic()
        waiting: list[Future[tuple[Dataset, float]]] = [
            drawing.submit(drawn, recipe, data_folder(arguments.out, recipe), workers) for recipe in recipes
        ]
        for number, (recipe, future) in enumerate(zip(recipes, waiting, strict=True)):
            dataset, seconds = future.result()
            share = (deadline - time.monotonic()) * shares[number] / sum(shares[number:])
            if share <= 0.0:
                raise SystemExit(f"no time is left for {recipe.id}: give more --minutes or fewer --sequences")
            since = time.monotonic() - began
            print(f"{since:.0f} s: {len(dataset.samples)} sequences of {recipe.id}; {share:.0f} s to train", flush=True)
            trained = fitted(recipe, dataset, arguments, share)
            again = ("-m", "benchmarks.gpu_session", "--finish", recipe.id, "--out", str(arguments.out))
            finishing[recipe.id] = subprocess.Popen([sys.executable, *again, "--device", arguments.device])
            told[recipe.id] = {
                "sequences": len(dataset.samples), "drawing_s": round(seconds, 1), "steps": trained.steps,
                "points": trained.points, "minutes": round(trained.minutes, 2),
                "points_per_second": round(trained.points / max(60.0 * trained.minutes, 1e-9)),
                "loss": trained.curve[-1].loss if trained.curve else None,
            }  # fmt: skip
            print(json.dumps(told[recipe.id]), flush=True)
        told["trained_s"] = round(time.monotonic() - began, 1)
    return told, finishing


def data_folder(out: Path, recipe: TrainConfig) -> Path:
    return out / "data" / recipe.cell_type


def state_folder(out: Path, name: str) -> Path:
    return out / "states" / name


def drawn(recipe: TrainConfig, folder: Path, workers: int) -> tuple[Dataset, float]:
    """Draw the data of a recipe; what is there is kept. Returns them and the seconds it took."""
    began = time.monotonic()
    dataset = build_dataset(recipe.data, folder, workers=workers)
    if recipe.optimisation.latent_start == "shapes":
        keep_shapes(folder, workers=workers)
    return dataset, time.monotonic() - began


def fitted(recipe: TrainConfig, dataset: Dataset, arguments: argparse.Namespace, seconds: float) -> Trained:
    """Train for about so many seconds; the number of steps is chosen once and kept for a run that goes on."""
    began = time.monotonic()
    state = state_folder(arguments.out, recipe.id)
    plan = state / "recipe.json"
    if not plan.is_file():
        rate = steps_per_second(recipe, dataset, state / "probe", arguments.device)
        left = seconds - (time.monotonic() - began)
        recipe = recipe.with_plan(steps=max(2 * PROBE_STEPS, min(MOST_STEPS, int(rate * left))))
        plan.write_text(recipe.model_dump_json(indent=1) + "\n", encoding="utf-8")
    recipe = TrainConfig.model_validate_json(plan.read_bytes())
    print(f"{recipe.id}: {recipe.optimisation.steps} steps, after {time.monotonic() - began:.0f} s", flush=True)
    shown = began

    def show(now: TrainProgress) -> None:
        nonlocal shown
        if time.monotonic() - shown > 10.0 or now.step == now.steps:
            shown = time.monotonic()
            line = f"{recipe.id} {now.step} of {now.steps}, loss {now.loss:.5f}, {now.points_per_second:,.0f} points/s"
            print(line, flush=True)

    return train(
        recipe, dataset, state / "run", device=arguments.device, on_progress=show,
        should_stop=lambda _all: time.monotonic() - began > 1.2 * seconds,
    )  # fmt: skip


def steps_per_second(recipe: TrainConfig, dataset: Dataset, folder: Path, device: str) -> float:
    """Measure how fast steps are once they are compiled: from the report after the first second to the last one."""
    short = recipe.with_plan(steps=PROBE_STEPS)
    train(short, dataset, folder / "compile", device=device)
    times: list[float] = []
    started = time.monotonic()
    train(
        short.with_plan(steps=20 * PROBE_STEPS), dataset, folder / "timed", device=device,
        on_progress=lambda now: times.append(now.points_per_second),
        should_stop=lambda _seconds: time.monotonic() - started > PROBE_S,
    )  # fmt: skip
    plan = recipe.optimisation
    return max(times) / (plan.frames_per_step * plan.points_per_frame)


def finish(name: str, out: Path, device: str) -> None:
    """Calibrate a network whose training is done, fit the density of its codes, and write the model's folder."""
    state = state_folder(out, name)
    recipe = TrainConfig.model_validate_json((state / "recipe.json").read_bytes())
    dataset = load_dataset(data_folder(out, recipe))
    # On the processor, where no step is left; one, where time ended the training.
    trained = train(recipe, dataset, state / "run", should_stop=lambda _seconds: True)
    folder = out / "models" / name
    save_model(trained, recipe, dataset, folder, device=device, command="python -m benchmarks.gpu_session")
    with (folder / "curve.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("step", "loss"), *((row.step, row.loss) for row in trained.curve)])


def run(*command: str) -> str:
    """Run a program of this interpreter and return the end of what it printed."""
    try:
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False, timeout=TESTS_S)
    except subprocess.TimeoutExpired:
        return f"did not end in {TESTS_S:.0f} s"
    return (done.stdout + done.stderr)[-2000:].strip()


if __name__ == "__main__":
    main()
