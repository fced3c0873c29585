"""``cytosynth keys``: make, list and revoke the keys of the service whose data lie here."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app.settings import AppSettings
from worker.api_keys import Keys
from worker.errors import KeysError

keys = typer.Typer(
    name="keys",
    help="Make, list and revoke the keys that open the service. Once there has been a key, none but keys open it.",
    no_args_is_help=True,
)
out = Console()
err = Console(stderr=True)

DataDir = Annotated[Path | None, typer.Option(help="Where the service keeps its data; ./var by default.")]


@keys.command()
def create(
    name: Annotated[str, typer.Argument(help="Your word for whoever will hold it.")], data_dir: DataDir = None
) -> None:
    """Make a key and show it, once."""
    try:
        secret, key = _keys(data_dir).create(name)
    except KeysError as error:
        _give_up(error)
    typer.echo(secret)  # alone on standard output: fit for a pipe
    err.print(f"key {key.id} for {escape(name)}; shown only now; send it as Authorization: Bearer", highlight=False)


@keys.command("list")
def list_keys(data_dir: DataDir = None) -> None:
    """List all keys there have been; the keys themselves are not kept."""
    try:
        found = _keys(data_dir).all()
    except KeysError as error:
        _give_up(error)
    table = Table("id", "name", "made", "revoked", box=None)
    for key in found:
        table.add_row(key.id, escape(key.name), _moment(key.created_at), _moment(key.revoked_at))
    out.print(table if found else "there are no keys: the service answers its own machine only")


@keys.command()
def revoke(
    key: Annotated[str, typer.Argument(help="Id or name: see `cytosynth keys list`.")], data_dir: DataDir = None
) -> None:
    """Shut a key out, from the next request on."""
    try:
        revoked = _keys(data_dir).revoke(key)
    except KeysError as error:
        _give_up(error)
    out.print(f"key {revoked.id} for {escape(revoked.name)} opens nothing any more", highlight=False)


def _keys(data_dir: Path | None) -> Keys:
    return Keys(data_dir or AppSettings().data_dir)


def _moment(seconds: float | None) -> str:
    return "" if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def _give_up(error: KeysError) -> NoReturn:
    err.print(f"[bold red]cytosynth:[/] {escape(error.message)}", highlight=False, soft_wrap=True)
    raise typer.Exit(1)
