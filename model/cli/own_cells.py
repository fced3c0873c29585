"""Commands of ``python -m model`` for a user's own cells: import, validate, fit, import-released.

Heavy libraries are imported when a command runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from collections.abc import Callable

    from model.network.autodecoder import NetworkConfig
    from model.readers.recording import Calibration

console = Console(stderr=True)

Voxel = Annotated[
    tuple[float, float, float] | None,
    typer.Option(
        help="Voxel size along X Y Z in µm, where the files lack it or are wrong. Meshes are in µm; "
        "their coordinates are multiplied by it: 1e6 1e6 1e6 for meshes in metres."
    ),
]
Interval = Annotated[float | None, typer.Option(min=1e-6, help="Minutes between frames, where the files lack them.")]
Tracks = Annotated[
    Path | None, typer.Option(help="List of tracks of one recording: label, first frame, last frame, parent.")
]


def register(cli: typer.Typer) -> None:
    """Add the commands to a command line."""
    cli.command("import")(import_cells)
    cli.command("validate")(validate)
    cli.command("import-released")(import_released)
    cli.command("fit")(fit)


def import_cells(
    source: Annotated[Path, typer.Argument(help="TIFFs, a Cell Tracking Challenge folder, meshes or sampled SDFs.")],
    out: Annotated[
        Path, typer.Option(help="Output folder of the training sequences; its name becomes the model's id.")
    ],
    voxel: Voxel = None,
    interval: Interval = None,
    tracks: Tracks = None,
    margin: Annotated[
        float, typer.Option(min=0.0, max=0.9, help="Share of Ω that stays free around the largest cell.")
    ] = 0.15,
    scale: Annotated[
        str,
        typer.Option(
            help="shared: one scale for all sequences, so that sizes are learned; sequence: each cell fills Ω."
        ),
    ] = "shared",
    points: Annotated[int, typer.Option(min=1024, help="Training points in each frame.")] = 32_768,
    bend_share: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Share of the points near the membrane that are drawn where it bends; 0.5 for cells with thin parts.",
        ),
    ] = 0.0,
    steps: Annotated[int, typer.Option(min=1, help="Training steps in the recipe.")] = 24_000,
    start: Annotated[
        Path | None,
        typer.Option(help="Folder of a trained model whose network the recipe takes, to start from."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Number of processes.")] = 1,
) -> None:
    """Convert your cells to training sequences and write a recipe; sequences with errors are skipped and listed."""
    from model.learning.import_report import as_lines, as_table, source_rows, taken_rows
    from model.learning.imported_cells import ImportPlan, import_sequences
    from model.learning.recipe_template import write_recipe
    from model.readers.open import open_recordings
    from model.readers.survey import survey

    chosen: Literal["shared", "sequence"] = "sequence" if scale == "sequence" else "shared"
    if chosen != scale:
        raise typer.BadParameter("shared or sequence", param_hint="--scale")
    network = _network_of(start) if start else None
    recordings = open_recordings(source, given=_given(voxel, interval), tracks=tracks)
    with _progress() as begin:
        surveyed = survey(recordings, on_frame=begin("reading"))
    console.print(as_lines(taken_rows(recordings, surveyed)))
    if faulty := [row for row in source_rows(surveyed) if row.findings]:
        console.print(as_table(faulty))
    if not any(one.is_usable for one in surveyed):
        console.print("[red]no sequence can be used as it is[/red]; correct what the table lists")
        raise typer.Exit(1)
    minutes = next((f.calibration.minutes for f in recordings if f.calibration.minutes), None)
    plan = ImportPlan(
        margin=margin, scale=chosen, points_per_frame=points, bend_share=bend_share, minutes=minutes or 1.0
    )
    with _progress() as begin:
        dataset = import_sequences(recordings, surveyed, out, plan=plan, workers=workers, on_frame=begin("importing"))
    left_out = len(surveyed) - len(dataset.names)
    console.print(
        f"[green]imported[/green] {len(dataset.names)} sequences, {sum(map(len, dataset.samples))} frames"
        + (f", [red]{left_out} left out[/red]" if left_out else "")
        + f"; one unit of Ω is {dataset.micrometres:.4g} µm"
    )
    if minutes is None:
        console.print(
            "[yellow]the minutes between frames are not known[/yellow]; 1 is written; give them with --interval"
        )
    recipe = write_recipe(dataset, surveyed, steps=steps, network=network)
    begun = f" --start {start.as_posix()} --rates 0.4" if start else ""
    console.print(f"train with: python -m model train --config {recipe.as_posix()}{begun}", soft_wrap=True)


def _network_of(folder: Path) -> NetworkConfig:
    """Return the network of a trained model."""
    from model.network.autodecoder import AutoDecoder
    from model.network.checkpoint import load_checkpoint

    decoder = load_checkpoint(folder).decoder
    if not isinstance(decoder, AutoDecoder):
        raise typer.BadParameter("training cannot start from a model of the method's authors", param_hint="--start")
    return decoder.config


def validate(
    source: Annotated[Path, typer.Argument(help="Files or folder to import, or the output folder of an import.")],
    voxel: Voxel = None,
    interval: Interval = None,
    tracks: Tracks = None,
    out: Annotated[Path | None, typer.Option("--json", help="Write the findings as JSON.")] = None,
) -> None:
    """List what was read and every problem of each sequence; exit status 1 if there are errors."""
    from model.learning.dataset import INDEX_FILE
    from model.learning.import_report import as_json, as_lines, as_table, imported_rows, source_rows, taken_rows
    from model.readers.open import open_recordings
    from model.readers.survey import survey

    if (source / INDEX_FILE).is_file():
        rows, taken = imported_rows(source), []
    else:
        recordings = open_recordings(source, given=_given(voxel, interval), tracks=tracks)
        with _progress() as begin:
            surveyed = survey(recordings, on_frame=begin("reading"))
        rows, taken = source_rows(surveyed), taken_rows(recordings, surveyed)
        console.print(as_lines(taken))
    report = as_json(rows, taken)
    console.print(as_table(rows))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if report["errors"]:
        console.print(f"[red]{report['errors']} of {len(rows)} sequences cannot be trained on as they are[/red]")
        raise typer.Exit(1)


def import_released(
    experiment: Annotated[Path, typer.Argument(help="Folder of an experiment of the method's authors.")],
    out: Annotated[Path, typer.Option(help="Folder of the new model; its name becomes the model's id.")],
    micrometres: Annotated[float, typer.Option(min=1e-6, help="Length of one unit of Ω in µm.")] = 1.0,
    minutes: Annotated[float, typer.Option(min=1e-6, help="Duration of τ in minutes.")] = 1.0,
    topology: Annotated[str, typer.Option(help="single: always one body; division: one body, then two.")] = "single",
    cell_type: Annotated[str | None, typer.Option(help="Cell type; default: the model's id.")] = None,
    title: Annotated[str | None, typer.Option(help="Title; default: the experiment's name.")] = None,
    licence: Annotated[str, typer.Option(help="Licence of the weights.")] = "as stated by their authors",
    epoch: Annotated[int | None, typer.Option(help="Epoch to import; default: the final or the latest one.")] = None,
    swap_xy: Annotated[
        bool, typer.Option("--swap-xy", help="Exchange x and y: cells lie as in images, not as in arrays (row first).")
    ] = False,
) -> None:
    """Convert a trained model of the method's authors to a model of this service."""
    from model.network.wiesner2022_import import read_experiment, save_experiment, with_x_and_y_swapped

    chosen: Literal["single", "division"] = "division" if topology == "division" else "single"
    if chosen != topology:
        raise typer.BadParameter("single or division", param_hint="--topology")
    read = read_experiment(experiment, epoch=epoch)
    checkpoint = save_experiment(
        with_x_and_y_swapped(read) if swap_xy else read,
        out,
        title=title or experiment.name,
        cell_type=cell_type or out.name,
        licence=licence,
        micrometres=micrometres,
        minutes=minutes,
        topology=chosen,
    )
    card = checkpoint.card
    console.print(
        f"[green]imported[/green] {card.id}: {card.parameters:,} weights, {card.latent_codes} codes of "
        f"{card.latent_size} numbers" + (", with rotations" if checkpoint.rotations is not None else "")
    )
    if not swap_xy:
        console.print(
            "[yellow]x is the row (y) of the images[/yellow] that the release was trained on, as its networks have it: "
            "files show the mirror image of those cells; --swap-xy changes x and y"
        )


def fit(
    frames: Annotated[
        list[Path], typer.Argument(help="One file for each frame, in order of time, or one file of many frames.")
    ],
    name: Annotated[str, typer.Option("--model", help="Id of the model.")],
    out: Annotated[Path, typer.Option(help="Output folder; must not exist.")],
    models: Annotated[
        list[Path] | None, typer.Option(help="Folders of models, searched before the shipped ones.")
    ] = None,
    voxel: Voxel = None,
    place: Annotated[
        str, typer.Option(help="centre: each frame centred on the cell; omega: the volume covers Ω.")
    ] = "centre",
    times: Annotated[
        str | None, typer.Option(help="Times of the frames in τ, such as -1,0.5,1; default: evenly spaced.")
    ] = None,
    label: Annotated[list[int] | None, typer.Option(help="Label of the cell, where a volume holds several.")] = None,
    rotate: Annotated[
        int, typer.Option(min=1, help="Number of orientations tried; 1 keeps the given orientation.")
    ] = 1,
    shift: Annotated[bool, typer.Option(help="Fit the cell's position too.")] = False,
    adapt: Annotated[
        int, typer.Option(min=0, help="Steps of adapting the network to the cell; 0: fit the code only.")
    ] = 600,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    score_grid: Annotated[
        int, typer.Option(min=16, max=256, help="Samples along each side of the grid on which the fit is scored.")
    ] = 64,
    to_frames: Annotated[int, typer.Option("--frames", min=1, help="Number of frames of the reconstructed cell.")] = 30,
    grid: Annotated[
        int, typer.Option(min=8, max=512, help="Samples along each side of Ω of the reconstructed cell.")
    ] = 64,
    formats: Annotated[
        str, typer.Option(help="File formats of the reconstructed cell, such as stl,tiff.")
    ] = "stl,tiff",
) -> None:
    """Fit the code of a cell that the model has never seen, and reconstruct the cell at any resolution."""
    from pydantic import ValidationError

    from model.card import SHIPPED_MODELS, find_model
    from model.fitting.fit import FitPlan
    from model.fitting.fit_output import fit_to_folder
    from model.fitting.fit_targets import read_target
    from model.learning.recipe_template import identifier
    from model.network.checkpoint import load_checkpoint
    from model.readers.naming import other_order
    from model.spec import GenerationSpec

    chosen: Literal["centre", "omega"] = "omega" if place == "omega" else "centre"
    if chosen != place:
        raise typer.BadParameter("centre or omega", param_hint="--place")
    if out.exists():
        raise typer.BadParameter(f"{out} exists; choose another folder", param_hint="--out")
    again = {"frames": to_frames, "grid": grid, "formats": formats.split(",")}
    try:
        GenerationSpec.model_validate({"model": name, **again})
    except ValidationError as error:  # before the fit, which takes long
        raise typer.BadParameter(error.errors()[0]["msg"], param_hint="--formats") from None
    if times is None and (rising := other_order(frames)):
        console.print(f"[yellow]the frames are taken as given[/yellow]; by their names the order is {escape(rising)}")
    checkpoint = load_checkpoint(find_model(name, [*(models or []), SHIPPED_MODELS]))
    target = read_target(
        frames,
        micrometres=checkpoint.card.micrometres,
        voxel=voxel,
        place=chosen,
        times=None if times is None else _numbers(times),
        labels=label,
        on_warning=lambda message: console.print(f"warning: {message}", style="yellow", markup=False),
    )
    plan = FitPlan(orientations=rotate, shift=shift, adapt_steps=adapt, seed=seed)
    with _progress() as begin:
        show = begin("fitting")
        found = fit_to_folder(
            checkpoint, target, out, name=identifier(out.name), plan=plan, score_grid=score_grid,
            spec=again,
            on_step=lambda step, steps, _error: show(step, steps),
        )  # fmt: skip
    for what, score in (("code", found["score"]), ("adapted", found.get("adapted", {}).get("score"))):
        if score:
            console.print(f"{what}: Dice {score['dice']}, distance {score['mean_um']} µm, 95 % {score['p95_um']} µm")
    console.print(f"[green]done[/green]: {out / 'fit.json'}, {out / 'cells'}", soft_wrap=True)


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter("numbers with commas between, as -1,0.5,1", param_hint="--times") from None


def _given(voxel: tuple[float, float, float] | None, interval: float | None) -> Calibration:
    from model.readers.recording import Calibration

    return Calibration(spacing=voxel, minutes=interval, spacing_from="--voxel", minutes_from="--interval")


@contextmanager
def _progress() -> Iterator[Callable[[str], Callable[[int, int], None]]]:
    """Progress bars: call with a name to begin one, call the result with (done, total)."""
    columns = (TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:

        def begin(name: str) -> Callable[[int, int], None]:
            task = bar.add_task(name, total=None)
            return lambda done, total: bar.update(task, completed=done, total=total)

        yield begin
