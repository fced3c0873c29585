"""``python -m model``: train, evaluate, synthesise and verify without the service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from model.cli.evaluate import register as register_evaluation
from model.cli.new_cells import register as register_new_cells
from model.cli.own_cells import register
from model.errors import CytosynthError, SurfaceError

cli = typer.Typer(
    help="Train, evaluate and use auto-decoders of living-cell shapes, without the service.\n\n"
    "Exit status of every command: 0: success; 1: the command ran and found a problem; 2: wrong arguments or "
    "unreadable input.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console(stderr=True)
register(cli)
register_evaluation(cli)
register_new_cells(cli)


def _bar() -> Progress:
    return Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        disable=not console.is_terminal,  # logs stay readable
    )


@cli.command()
def train(
    config: Annotated[Path, typer.Option(help="Recipe in TOML; model/recipes holds those of the shipped models.")],
    models: Annotated[Path, typer.Option(help="Folder of models for the result.")] = Path("var/models"),
    work: Annotated[Path, typer.Option(help="Folder of the data set and the training state.")] = Path("var/training"),
    data: Annotated[Path | None, typer.Option(help="Folder of masks, instead of the recipe's.")] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a trained model with the same network, to continue from; its codes are used if its id is "
            "the recipe's."
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Number of training steps, instead of the recipe's.")] = None,
    rates: Annotated[
        float,
        typer.Option(min=0.001, max=10.0, help="Factor on the recipe's learning rates; with --start try 0.4."),
    ] = 1.0,
    workers: Annotated[
        int | None, typer.Option(help="Number of processes that build the data set; default: all cores.")
    ] = None,
    device: Annotated[str, typer.Option(help="Device of torch: cpu, cuda …")] = "cpu",
) -> None:
    """Train a model from a recipe. A run that was interrupted continues when it is started again."""
    from model.card import load_card
    from model.evaluation.novelty import with_novelty
    from model.learning.dataset import build_dataset
    from model.learning.optimisers import multiplies_bfloat16
    from model.learning.recipe import TrainConfig
    from model.learning.train import TrainProgress, check_start
    from model.learning.train import train as run_training
    from model.learning.warps import with_warps
    from model.network.checkpoint import load_checkpoint  # here, so that --help answers at once
    from model.training import save_model

    recipe = TrainConfig.read(config).with_folder(data).with_plan(steps=steps, rates=rates)
    home = work / recipe.id
    begun = load_checkpoint(start) if start else None
    if begun:
        check_start(recipe, begun)  # before the data set is built, which may take long
    if recipe.optimisation.precision == "bfloat16" and not multiplies_bfloat16(device):
        console.print(f"{device} has no units for bfloat16: training in float32, which takes about twice as long")
    with _bar() as bar:
        build = bar.add_task("data set", note="", total=None)
        dataset = build_dataset(
            recipe.data, home / "dataset", workers=workers,
            on_sequence=lambda done, total: bar.update(build, completed=done, total=total),
        )  # fmt: skip
        bar.update(build, completed=len(dataset.samples), total=len(dataset.samples))
        copies = recipe.warps * len(dataset.samples)
        warp = bar.add_task("warped copies", note="", total=copies, visible=copies > 0)
        warped = with_warps(
            dataset, recipe.warps, home / "warped", seed=recipe.seed, workers=workers,
            on_sequence=lambda done, total: bar.update(warp, completed=done, total=total),
        )  # fmt: skip
        learn = bar.add_task("training", note="", total=recipe.optimisation.steps)

        def show(progress: TrainProgress) -> None:
            note = f"loss {progress.loss:.5f}  {progress.points_per_second / 1e3:.0f} k points/s"
            bar.update(learn, completed=progress.step, note=note)
            if not console.is_terminal and progress.step % 500 < 20:
                console.log(f"step {progress.step} of {progress.steps}: {note}")

        trained = run_training(recipe, warped, home / "state", device=device, start=begun, on_progress=show)
    command = (
        f"python -m model train --config {config.as_posix()}"
        + (f" --start {start.as_posix()}" if start else "")
        + (f" --steps {steps}" if steps is not None else "")
        + (f" --rates {rates:g}" if rates != 1.0 else "")
    )
    checkpoint = save_model(trained, recipe, dataset, models / recipe.id, device=device, command=command)
    console.print(f"[green]trained[/green] {checkpoint.card.id}: {models / recipe.id}, {trained.minutes:.1f} minutes")
    if recipe.data.kind == "imported":
        from model.evaluation.imported import write_figures
        from model.training_spec import new_cells_of

        drawn = new_cells_of(steps=trained.steps, width=recipe.network.width, depth=recipe.network.depth)
        figures = write_figures(
            checkpoint, dataset, models / recipe.id, held_out=recipe.held_out.frames, new_cells=drawn
        )
        console.print(", ".join(f"{name} {value:.4f}" for name, value in figures.items()), soft_wrap=True)
    else:
        with_novelty(checkpoint.card, {}).write(models / recipe.id)
    for warning in load_card(models / recipe.id).warnings:
        console.print(f"[yellow]warning[/yellow]: {escape(warning)}", soft_wrap=True)
    console.print("evaluate it with: python -m model evaluate --config … --models …")


@cli.command()
def synthesize(
    spec: Annotated[Path, typer.Argument(help="Generation spec in JSON, as for POST /v1/generations.")],
    out: Annotated[Path, typer.Option(help="Output folder; must not exist.")],
    models: Annotated[
        list[Path] | None, typer.Option(help="Folders of models, searched before the shipped ones.")
    ] = None,
) -> None:
    """Synthesise cells without the service; the same spec gives the same bytes."""
    from pydantic import ValidationError

    from model.card import SHIPPED_MODELS, find_model
    from model.errors import ExportError, SpecError
    from model.network.checkpoint import load_checkpoint
    from model.spec import GenerationSpec
    from model.synthesis import synthesize as run_synthesis

    try:
        recipe = GenerationSpec.model_validate_json(spec.read_bytes()).completed()
    except OSError as error:
        raise SpecError(f"{spec} is not a usable spec: {error.strerror or error}") from None
    except ValidationError as error:
        faults = (f"{'/'.join(map(str, one['loc'])) or 'the document'}: {one['msg']}" for one in error.errors())
        raise SpecError(f"{spec} is not a usable spec: {'; '.join(faults)}") from None
    if out.exists():
        raise ExportError(f"{out} exists; choose another folder")
    checkpoint = load_checkpoint(find_model(recipe.model, [*(models or []), SHIPPED_MODELS]))
    with _bar() as bar:
        task = bar.add_task(recipe.model, note="", total=recipe.count * recipe.frame_count)
        run_synthesis(recipe, checkpoint, out, on_progress=lambda p: bar.update(task, completed=p.frame))
    console.print(f"[green]done[/green]: {out / 'manifest.json'}")


@cli.command()
def verify(
    folders: Annotated[list[Path], typer.Argument(help="Folders of results, each with a manifest.json.")],
) -> None:
    """Read downloaded results and compare them with their manifests; exit status 1 if anything is wrong."""
    from model.errors import ExportError
    from model.output.verify import verify_result

    status = 0
    for folder in folders:
        name = escape(str(folder))
        try:
            found = list(verify_result(folder))
        except ExportError as error:
            console.print(f"[red]error[/red]: {escape(str(error))}", soft_wrap=True)
            status = 2
            continue
        for fault in found:
            console.print(f"[red]{name}[/red]: {escape(fault)}", soft_wrap=True)
            status = status or 1
        if not found:
            console.print(f"[green]{name}[/green]: every file is what its manifest says")
    if status:
        raise typer.Exit(status)


def main() -> None:
    """Run the command line; errors of the library and of the system are printed as one sentence.

    The status is 2 where arguments or inputs cannot be used, 1 where the work itself found something bad.
    """
    try:
        cli()
    except CytosynthError as error:
        _end(str(error), 1 if isinstance(error, SurfaceError) else 2)
    except OSError as error:
        _end(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error), 2)


def _end(sentence: str, status: int) -> None:
    console.print(f"[red]error[/red]: {escape(sentence)}", soft_wrap=True)
    raise SystemExit(status) from None


if __name__ == "__main__":
    main()
