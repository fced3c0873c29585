"""Commands that list models and send files."""

from __future__ import annotations

import json
from typing import Any

import typer
from rich.progress import BarColumn, DownloadColumn, TextColumn

from app.cli import options
from app.cli.connection import connect
from app.cli.terminal import USAGE, give_up, progress_bar, show_table


def models(model_id: options.OneModel = None, as_json: options.AsJson = False, server: options.Server = None) -> None:
    """List the installed models, or describe one."""
    with connect(server) as client:
        document = client.model(model_id) if model_id else {"models": client.models()}
    if as_json:
        typer.echo(json.dumps(document, ensure_ascii=False))
    elif model_id:
        _describe(document)
    else:
        rows = [
            (
                card["id"], card["title"], card["cell_type"], str(card["latent_codes"]), f"{card['micrometres']:g}",
                f"{card['minutes']:g}",
            )
            for card in document["models"]
        ]  # fmt: skip
        head = ("id", "title", "cell type", "learned cells", "unit (µm)", "span (min)")
        show_table(head, rows, none="no model is installed")


def upload(file: options.File, name: options.UploadName = None, server: options.Server = None) -> None:
    """Send a file and show what the service found in it."""
    if not file.is_file():
        give_up(f"there is no file {file}", USAGE)
    columns = (TextColumn("sending"), BarColumn(), DownloadColumn())
    with connect(server, start=False) as client, progress_bar(*columns) as bar:
        task = bar.add_task("", total=file.stat().st_size)
        kept = client.upload(file, name=name, on_bytes=lambda sent: bar.update(task, completed=sent))
    typer.echo(json.dumps(kept, indent=2, ensure_ascii=False))


def _describe(card: dict[str, Any]) -> None:
    """Print a model card, one member per line; nested members are indented."""
    for name, value in card.items():
        if isinstance(value, dict):
            typer.echo(f"{name}:")
            for inner, number in value.items():
                typer.echo(f"  {inner}: {number:.4g}" if isinstance(number, float) else f"  {inner}: {number}")
        else:
            typer.echo(f"{name}: {value}")
