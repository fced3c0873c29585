"""Commands of ``python -m model`` that evaluate: evaluate, upsample-study and compare-phantoms.

Heavy libraries are imported when a command runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable

    from model.evaluation.reports.model_report import Scope
    from model.learning.recipe import TrainConfig

console = Console(stderr=True)

RECIPES = Path(__file__).parents[1] / "recipes"
SHIPPED = ("celegans", "a549", "platynereis")
REPORT = Path("out/evaluation")


def register(cli: typer.Typer) -> None:
    """Add the commands to a command line."""
    cli.command("evaluate")(evaluate)
    cli.command("compare-phantoms")(compare_phantoms)
    cli.command("upsample-study")(upsample_study)


def evaluate(
    config: Annotated[
        Path | None, typer.Option(help="The recipe that the model was trained with; default: the shipped models.")
    ] = None,
    models: Annotated[Path | None, typer.Option(help="Folder of models that holds it; default: var/models.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of masks, instead of the recipe's.")] = None,
    grid: Annotated[
        int, typer.Option(min=16, max=512, help="Samples along each side of Ω; masks keep their own grid.")
    ] = 128,
    every: Annotated[
        int, typer.Option(min=1, help="Score every n-th training frame; held-out frames are always scored.")
    ] = 5,
    sequences: Annotated[int | None, typer.Option(min=1, help="Score the first n sequences only.")] = None,
    samples: Annotated[int, typer.Option(min=0, help="Number of new cells drawn to measure plausibility.")] = 100,
    out: Annotated[Path | None, typer.Option(help="Write all measurements as JSON.")] = None,
    keep: Annotated[
        bool, typer.Option(help="Write the measurements into the model's card; with --report, its novelty.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option(help="Compare new cells with held-out ones and write a report into this folder.")
    ] = None,
    held_out: Annotated[
        Path | None, typer.Option(help="Imported data set, or folder of masks, that the model was not trained on.")
    ] = None,
    cells: Annotated[int, typer.Option(min=4, help="For --report: number of sequences in each set.")] = 60,
    fits: Annotated[
        int | None,
        typer.Option(
            min=0, help="For --report: number of unseen cells restored from a part; default: 2, with --quick 0."
        ),
    ] = None,
    quick: Annotated[bool, typer.Option(help="For --report: use few cells, for a first look.")] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="For --report: number of processes; default: all cores.")
    ] = None,
) -> None:
    """Evaluate a model: Dice of its reconstructions and plausibility of its new cells, or a full report."""
    from model.evaluation.reports.model_report import Scope
    from model.learning.recipe import TrainConfig

    scope = Scope.quick() if quick else Scope(cells=cells)
    scope = scope if fits is None else replace(scope, fits=fits)
    workers = workers or os.cpu_count() or 1
    if config is None:
        recipes = {name: TrainConfig.read(RECIPES / f"{name}.toml") for name in SHIPPED}
        _report(
            list(recipes.values()), models, report or REPORT, held_out=None, scope=scope, workers=workers, keep=keep
        )
        return
    recipe = TrainConfig.read(config).with_folder(data)
    if report is not None:
        _report([recipe], models, report, held_out=held_out, scope=scope, workers=workers, keep=keep)
        return
    _score(recipe, models, grid=grid, every=every, sequences=sequences, samples=samples, out=out, keep=keep)


def _report(
    recipes: list[TrainConfig],
    models: Path | None,
    folder: Path,
    *,
    held_out: Path | None,
    scope: Scope,
    workers: int,
    keep: bool,
) -> None:
    """Compare each model with held-out sequences and write one report."""
    from model.card import SHIPPED_MODELS, find_model, load_card
    from model.evaluation.novelty import with_novelty
    from model.evaluation.reports.html_report import novelty_rows, write_report
    from model.evaluation.reports.model_report import report_on_model

    started = time.monotonic()
    roots = [models] if models else [SHIPPED_MODELS] if held_out is None else []
    reports = []
    for recipe in recipes:
        place = find_model(recipe.id, [*roots, Path("var/models"), SHIPPED_MODELS])
        with _progress() as begin:
            reports.append(
                report_on_model(
                    recipe, place, held_out=held_out, scope=scope, workers=workers, on_step=begin(recipe.id)
                )
            )
        if keep:
            with_novelty(load_card(place), reports[-1].figures["novelty"]).write(place)
    facts = {"command": "python -m model evaluate --report", "cells": scope.cells, "workers": workers}
    summary = write_report(folder, reports, facts={**facts, "seconds": round(time.monotonic() - started, 1)})
    floors = {report.identifier: report.floor for report in reports}
    for identifier, figures in summary["models"].items():
        table = Table("descriptor", "generated", "95 %", "training", "baseline", title=f"{identifier}: D to held-out")
        for name, sides in figures["descriptors"].items():
            made = sides.get("generated")
            interval = f"{made['ci'][0]:.2f} to {made['ci'][1]:.2f}" if made else ""
            found = [
                f"{sides[side]['D']:.3f}" if side in sides else "" for side in ("generated", "training", "baseline")
            ]
            table.add_row(name, found[0], interval, *found[1:])
        console.print(table)
        table = Table("figure", "new cells", "held-out cells", "should be", title=f"{identifier}: novelty")
        for row in novelty_rows(figures["novelty"], floors[identifier]):
            table.add_row(*row)
        console.print(table)
        for name in ("sets", "plausibility", "novelty", "reconstruction"):
            console.print(f"{name}: {json.dumps(figures.get(name, {}))}", soft_wrap=True)
        if "fitting" in figures:
            _show_fits(identifier, figures["fitting"])
    console.print(f"[green]done[/green]: {folder / 'report.html'}, {folder / 'summary.json'}")


def _score(
    recipe: TrainConfig,
    models: Path | None,
    *,
    grid: int,
    every: int,
    sequences: int | None,
    samples: int,
    out: Path | None,
    keep: bool,
) -> None:
    """Score reconstructions and plausibility alone, and print them."""
    from model.card import find_model
    from model.evaluation.acceptance_rate import score_plausibility
    from model.evaluation.reconstruction import summarise
    from model.evaluation.reports.model_report import score_learned
    from model.network.checkpoint import load_checkpoint

    folder = find_model(recipe.id, [models or Path("var/models")])
    checkpoint = load_checkpoint(folder)
    learned = min(len(checkpoint.latent_codes), checkpoint.card.training.sequences)  # copies of them come behind
    chosen = list(range(min(sequences or learned, learned)))
    with _progress() as begin:
        step = begin("reconstruction")
        scores = score_learned(
            checkpoint, recipe, grid_side=grid, every=every, sequences=chosen, on_frame=lambda s: step(f"{s.dice:.4f}")
        )
        figures = summarise(scores)
        if samples:
            step = begin("new cells")
            figures |= score_plausibility(checkpoint, samples, on_cell=lambda: step(""))
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


def upsample_study(
    config: Annotated[Path, typer.Option(help="The recipe that the model was trained with.")],
    models: Annotated[Path | None, typer.Option(help="Folder of models that holds it; default: var/models.")] = None,
    held_out: Annotated[
        Path | None, typer.Option(help="Imported data set, or folder of masks, that the model was not trained on.")
    ] = None,
    fits: Annotated[int, typer.Option(min=1, help="Number of unseen cells.")] = 3,
    grid: Annotated[
        int, typer.Option(min=33, max=256, help="Samples along each side of the grid on which results are scored.")
    ] = 128,
    workers: Annotated[int | None, typer.Option(min=1, help="Number of processes; default: all cores.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the measurements as JSON.")] = None,
) -> None:
    """Restore unseen cells from all frames, every fourth frame, and coarse masks; compare with interpolation."""
    from model.card import find_model, load_card
    from model.evaluation.reports.model_report import unseen_source
    from model.evaluation.unseen_cells import unseen_cells
    from model.evaluation.upsampling import FitScope, compare_fits
    from model.learning.recipe import TrainConfig

    recipe = TrainConfig.read(config)
    source = unseen_source(recipe, held_out)
    if source is None:
        raise typer.BadParameter("a model of real cells needs others that it has not seen", param_hint="--held-out")
    folder = find_model(recipe.id, [models or Path("var/models")])
    cells = unseen_cells(source, fits, micrometres=load_card(folder).micrometres)
    with _progress() as begin:
        found = compare_fits(
            folder, cells, scope=FitScope(grid_side=grid), workers=workers or os.cpu_count() or 1,
            on_part=begin("fits"),
        )  # fmt: skip
    _show_fits(recipe.id, found)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps({recipe.id: found}, indent=1) + "\n", encoding="utf-8")


def _show_fits(name: str, fitting: dict[str, Any]) -> None:
    """Print how unseen cells were restored."""
    from model.evaluation.reports.html_report import FIT_COLUMNS, PARTS_GIVEN

    table = Table("given", "restored by", *FIT_COLUMNS, title=f"{name}: unseen cells")
    for part, title in PARTS_GIVEN.items():
        for way, row in fitting.get(part, {}).items():
            if way not in ("frames", "ahead"):
                table.add_row(title, way, *(str(row.get(column, "")) for column in FIT_COLUMNS))
    console.print(table)
    for part in PARTS_GIVEN:
        for rival, row in fitting.get(part, {}).get("ahead", {}).items():
            console.print(f"{part}, ahead of {rival}: {json.dumps(row)}", soft_wrap=True)


def compare_phantoms(
    real: Annotated[Path, typer.Argument(help="Folder of masks of real cells (TZYX, one cell a file).")],
    cell_type: Annotated[str, typer.Option(help="Cell type of the phantoms.")] = "celegans",
    voxel: Annotated[
        Path | None,
        typer.Option(help="JSON list of {file, voxel_size}: voxel size of each file, in the unit of --unit."),
    ] = None,
    unit: Annotated[float, typer.Option(help="Micrometres in one unit of the voxel sizes.")] = 1.0,
    count: Annotated[int, typer.Option(min=2, help="Number of phantoms.")] = 40,
    first_seed: Annotated[int, typer.Option(min=0, help="Seed of the first phantom.")] = 6000,
    moments: Annotated[int, typer.Option(min=1, help="Number of frames of each phantom.")] = 10,
    workers: Annotated[int | None, typer.Option(min=1, help="Number of processes; default: all cores.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the table as JSON.")] = None,
) -> None:
    """Compare phantoms with real cells by each descriptor's effect size."""
    from model.evaluation.phantom_realism import compare_with_real, real_bodies

    with _progress() as begin:
        step = begin("real cells")
        measured = real_bodies(real, listing=voxel, unit=unit, workers=workers or os.cpu_count() or 1, on_cell=step)
        step = begin("phantoms")
        rows = compare_with_real(
            measured, cell_type, seeds=range(first_seed, first_seed + count), moments=moments,
            workers=workers or os.cpu_count() or 1, on_cell=step,
        )  # fmt: skip
    table = Table("descriptor", "D", "95 %", "real 5 / 50 / 95 %", "phantoms 5 / 50 / 95 %", title=cell_type)
    for name, row in rows.items():
        spread = [" / ".join(f"{value:.3g}" for value in row[side]) for side in ("real", "phantoms")]
        table.add_row(name, f"{row['D']:.3f}", f"{row['low']:.2f} to {row['high']:.2f}", *spread)
    console.print(table)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


@contextmanager
def _progress() -> Iterator[Callable[[str], Callable[[str], None]]]:
    """Show progress: a function that begins a task and returns one to call after each step, with a note."""
    with Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        disable=not console.is_terminal,
    ) as bar:

        def begin(name: str) -> Callable[[str], None]:
            task = bar.add_task(name, note="", total=None)
            return lambda note: bar.update(task, advance=1, note=note)

        yield begin
