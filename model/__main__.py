"""``python -m model``: train a model, measure it, make cells, without the service."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from model.errors import CytosynthError
from model.importing.commands import register

cli = typer.Typer(
    help="The workshop: train, measure and use auto-decoders of living-cell shapes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console(stderr=True)
register(cli)


def _bar() -> Progress:
    return Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
    )


@cli.command()
def train(
    config: Annotated[Path, typer.Option(help="A TOML recipe; model/recipes holds those of the shipped models.")],
    models: Annotated[Path, typer.Option(help="Folder of models the result goes into.")] = Path("var/models"),
    work: Annotated[Path, typer.Option(help="Where data set and training state live.")] = Path("var/training"),
    data: Annotated[Path | None, typer.Option(help="Folder of masks, instead of the recipe's.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that build the data set; default: all.")] = None,
    device: Annotated[str, typer.Option(help="Where torch computes: cpu, cuda …")] = "cpu",
) -> None:
    """Train a model from a recipe; run again after an interruption, it goes on where it stopped."""
    from model.calibration import steepest_slope
    from model.checkpoint import save_checkpoint  # here, so that --help answers at once
    from model.dataset import build_dataset
    from model.latent import fit_prior
    from model.train import TrainConfig, TrainProgress
    from model.train import train as run_training

    recipe = TrainConfig.read(config).with_folder(data)
    home = work / recipe.id
    with _bar() as bar:
        build = bar.add_task("data set", note="", total=None)
        dataset = build_dataset(
            recipe.data, home / "dataset", workers=workers,
            on_sequence=lambda done, total: bar.update(build, completed=done, total=total),
        )  # fmt: skip
        bar.update(build, completed=len(dataset.samples), total=len(dataset.samples))
        learn = bar.add_task("training", note="", total=recipe.optimisation.steps)

        def show(progress: TrainProgress) -> None:
            note = f"loss {progress.loss:.5f}  {progress.points_per_second / 1e3:.0f} k points/s"
            bar.update(learn, completed=progress.step, note=note)
            if not console.is_terminal and progress.step % 500 < 20:
                console.log(f"step {progress.step} of {progress.steps}: {note}")

        trained = run_training(recipe, dataset, home / "state", device=device, on_progress=show)
    slope = steepest_slope(trained.decoder, trained.latent_codes)
    left_out = recipe.held_out.frames(len(dataset.samples[0]))
    checkpoint = save_checkpoint(
        models / recipe.id,
        decoder=trained.decoder,
        prior=fit_prior(trained.latent_codes, bandwidth=recipe.prior_bandwidth),
        card={
            "id": recipe.id,
            "title": recipe.title,
            "description": recipe.description,
            "cell_type": recipe.cell_type,
            "licence": recipe.licence,
            "created": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "micrometres": dataset.micrometres,
            "minutes": dataset.minutes,
            "lipschitz": round(1.1 * slope, 3),
            "topology": recipe.topology,
            "grid_min": recipe.grid_min,
            "training": {
                "data": f"{recipe.data.kind}, {recipe.cell_type}",
                "sequences": len(dataset.samples),
                "frames": len(dataset.samples[0]),
                "held_out_frames": ", ".join(map(str, left_out)) or "none",
                "steps": trained.steps,
                "points": trained.points,
                "minutes": round(trained.minutes, 1),
                "device": device,
                "seed": recipe.seed,
                "recipe": f"python -m model train --config {config.as_posix()}",
            },
        },
    )
    console.print(f"[green]trained[/green] {checkpoint.card.id}: {models / recipe.id}, {trained.minutes:.1f} minutes")
    if recipe.data.kind == "imported":
        from model.importing.figures import write_figures

        figures = write_figures(checkpoint, dataset, models / recipe.id, held_out=recipe.held_out.frames)
        console.print(", ".join(f"{name} {value:.4f}" for name, value in figures.items()), soft_wrap=True)
    console.print("measure it with: python -m model evaluate --config … --models …")


@cli.command()
def evaluate(
    config: Annotated[Path, typer.Option(help="The recipe the model was trained with.")],
    models: Annotated[Path, typer.Option(help="Folder of models it is in.")] = Path("var/models"),
    data: Annotated[Path | None, typer.Option(help="Folder of masks, instead of the recipe's.")] = None,
    grid: Annotated[
        int, typer.Option(min=16, max=512, help="Samples along each side of Ω; masks keep their own.")
    ] = 128,
    every: Annotated[int, typer.Option(min=1, help="Score every n-th training frame; left-out frames always.")] = 5,
    sequences: Annotated[int | None, typer.Option(min=1, help="Score the first n sequences only.")] = None,
    samples: Annotated[int, typer.Option(min=0, help="New cells drawn to measure plausibility.")] = 100,
    out: Annotated[Path | None, typer.Option(help="Write all figures as JSON.")] = None,
    keep: Annotated[bool, typer.Option(help="Write the figures into the model's card.")] = False,
) -> None:
    """Measure a model: Dice of its reconstructions, plausibility of its new cells."""
    from model.card import find_model
    from model.checkpoint import load_checkpoint
    from model.dataset import ImportedSource, load_dataset
    from model.evaluation.plausibility import score_plausibility
    from model.evaluation.reconstruction import FrameScore, score_reconstruction, summarise
    from model.importing.figures import score_imported
    from model.train import TrainConfig

    recipe = TrainConfig.read(config).with_folder(data)
    folder = find_model(recipe.id, [models])
    checkpoint = load_checkpoint(folder)
    chosen = list(range(min(sequences or len(checkpoint.latent_codes), len(checkpoint.latent_codes))))

    def to_score(total: int) -> list[int]:
        left_out = recipe.held_out.frames(total)
        return sorted({*left_out, *[f for f in range(total) if f not in left_out][::every]})

    with _bar() as bar:
        task = bar.add_task("reconstruction", note="", total=None)

        def show(score: FrameScore) -> None:
            bar.update(task, advance=1, note=f"Dice {score.dice:.4f}")

        if isinstance(recipe.data, ImportedSource):
            scores = score_imported(
                checkpoint, load_dataset(recipe.data.folder), held_out=recipe.held_out.frames, frames=to_score,
                grid_side=grid, sequences=chosen, on_frame=show,
            )  # fmt: skip
        else:
            scores = score_reconstruction(
                checkpoint, recipe.data, held_out=recipe.held_out.frames, frames=to_score, grid_side=grid,
                sequences=chosen, on_frame=show,
            )  # fmt: skip
        figures = summarise(scores)
        if samples:
            task = bar.add_task("new cells", note="", total=samples)
            plausible = score_plausibility(checkpoint, samples, on_cell=lambda: bar.update(task, advance=1))
            figures |= plausible
    sampled = f"at {grid}³" if recipe.data.kind != "masks" else "on the masks' own grid"
    table = Table("figure", "value", title=f"{recipe.id}, {sampled}")
    for name, value in figures.items():
        table.add_row(name, f"{value:.4f}")
    console.print(table)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        rows = [vars(score) for score in scores]
        out.write_text(json.dumps({"model": recipe.id, "figures": figures, "frames": rows}, indent=1), encoding="utf-8")
    if keep:
        checkpoint.card.model_copy(update={"quality": {**checkpoint.card.quality, **figures}}).write(folder)


@cli.command()
def synthesize(
    spec: Annotated[Path, typer.Argument(help="A generation spec as JSON, as POST /v1/generations takes it.")],
    out: Annotated[Path, typer.Option(help="Folder for the files; must not exist.")],
    models: Annotated[list[Path] | None, typer.Option(help="Folders of models, before the shipped ones.")] = None,
) -> None:
    """Make cells without the service: the same spec gives the same bytes."""
    from pydantic import ValidationError

    from model.card import SHIPPED_MODELS, find_model
    from model.checkpoint import load_checkpoint
    from model.spec import GenerationSpec
    from model.synthesis import synthesize as run_synthesis

    try:
        recipe = GenerationSpec.model_validate_json(spec.read_bytes()).completed()
    except (OSError, ValidationError) as error:
        console.print(f"[red]{spec} is not a usable spec[/red]: {error}")
        raise typer.Exit(2) from None
    if out.exists():
        console.print(f"[red]{out} exists[/red]; choose another folder")
        raise typer.Exit(2)
    checkpoint = load_checkpoint(find_model(recipe.model, [*(models or []), SHIPPED_MODELS]))
    with _bar() as bar:
        task = bar.add_task(recipe.model, note="", total=recipe.count * recipe.frame_count)
        run_synthesis(recipe, checkpoint, out, on_progress=lambda p: bar.update(task, completed=p.frame))
    console.print(f"[green]done[/green]: {out / 'manifest.json'}")


@cli.command()
def verify(
    folders: Annotated[list[Path], typer.Argument(help="Folders of results, each with its manifest.json.")],
) -> None:
    """Read downloaded results back and compare them with their manifests; status 1 if anything is wrong."""
    from model.verify import verify_result

    faults = 0
    for folder in folders:
        found = list(verify_result(folder))
        faults += len(found)
        for fault in found:
            console.print(f"[red]{folder}[/red]: {fault}")
        if not found:
            console.print(f"[green]{folder}[/green]: every file is what its manifest says")
    if faults:
        raise typer.Exit(1)


def main() -> None:
    """Run the command line; errors of the project end with one sentence and status 1."""
    try:
        cli()
    except CytosynthError as error:
        console.print(f"[red]{error.code}[/red]: {error}")
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
