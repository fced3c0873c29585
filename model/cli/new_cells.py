"""Commands of ``python -m model`` about a model's new cells: render and fit-density.

Heavy libraries are imported when a command runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

console = Console(stderr=True)


def register(cli: typer.Typer) -> None:
    """Add the commands to a command line."""
    cli.command("render")(render)
    cli.command("fit-density")(refit)


def render(
    name: Annotated[str, typer.Argument(metavar="MODEL", help="Id of the model.")],
    out: Annotated[Path, typer.Argument(help="PNG file to write.")],
    models: Annotated[
        list[Path] | None, typer.Option(help="Folders of models, searched before the shipped ones.")
    ] = None,
    cells: Annotated[int, typer.Option(min=1, max=400, help="Number of new cells.")] = 24,
    columns: Annotated[int, typer.Option(min=1, help="Cells in a row.")] = 6,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    grid: Annotated[int, typer.Option(min=16, max=512, help="Samples along each side of Ω.")] = 128,
    size: Annotated[int, typer.Option(min=64, max=1024, help="Pixels along each side of one picture.")] = 240,
) -> None:
    """Draw a sheet of new cells, one picture each, at times from the start of the sequence to its end."""
    from model.card import SHIPPED_MODELS, find_model
    from model.domain import Grid
    from model.evaluation.reports.figures import cell_sheet
    from model.evaluation.sequence_sources import GeneratedSequences
    from model.rendering.render import write_png

    source = GeneratedSequences(find_model(name, [*(models or []), SHIPPED_MODELS]), cells, seed)
    write_png(out, cell_sheet(source, grid=Grid((grid, grid, grid)), columns=columns, size=size))
    console.print(f"[green]done[/green]: {out}", soft_wrap=True)


def refit(
    folder: Annotated[Path, typer.Argument(help="Folder of a trained model.")],
    out: Annotated[Path, typer.Argument(help="Folder of the new model; its name becomes the model's id.")],
    parts: Annotated[
        int | None,
        typer.Option(
            min=2, max=4, help="Compose new cells of so many learned ones, each in a sector. Not for cells that divide."
        ),
    ] = None,
    near: Annotated[
        float,
        typer.Option(min=0.01, max=1.0, help="With --parts: share of the learned cells, nearest to the first, to use."),
    ] = 1.0,
    noise: Annotated[float, typer.Option(min=0.0, max=0.99, help="With --parts: noise in each part's code.")] = 0.05,
    mirrors: Annotated[
        bool,
        typer.Option("--mirrors", help="With --parts: parts may be mirrored, for cells that lie any way round."),
    ] = False,
) -> None:
    """Write a model again with another density of new codes.

    It is chosen by the likelihood of learned codes left out, or, with --parts, composed of learned cells.
    """
    from model.errors import ExportError, SpecError
    from model.network.checkpoint import load_checkpoint, save_checkpoint
    from model.network.density import choose_density, composed_density

    if out.exists():
        raise ExportError(f"{out} exists; choose another folder")
    checkpoint = load_checkpoint(folder)
    codes, compared = checkpoint.latent_codes, dict[str, float]()
    if parts is None:
        prior, compared = choose_density(codes)
    elif checkpoint.card.topology != "single" or len(codes) < parts:
        raise SpecError(f"{folder.name} cannot be composed: its cells divide, or are fewer than {parts}")
    else:
        prior = composed_density(codes, parts=parts, near=near, bandwidth=noise, mirrors=mirrors)
    follows = {"sha256", "parameters", "latent_size", "latent_codes"}
    card = checkpoint.card.model_copy(update={"id": out.name, "quality": {}}).model_dump(exclude=follows)
    save_checkpoint(out, decoder=checkpoint.decoder, prior=prior, card=card, rotations=checkpoint.rotations)
    if compared:
        table = Table("density", "log-likelihood a number, held out", title=f"{out.name}: {len(prior.centres)} codes")
        for kind, value in compared.items():
            table.add_row(kind, f"{value:.4f}")
        console.print(table)
    chosen = prior.density
    described = chosen.model_dump_json(exclude={"components"}) if chosen else "too few codes to choose"
    console.print(f"[green]chosen[/green]: {described}, bandwidth {prior.bandwidth:g}", soft_wrap=True)
