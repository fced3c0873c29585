"""``cytosynth keys``: create, list and revoke the API keys of the service whose data folder is on this machine."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import typer
from rich.markup import escape
from rich.table import Table

from app.cli.options import DataDir, KeyName, KeyOrName
from app.cli.terminal import FAILED, err, give_up, out
from app.settings import AppSettings
from worker.api_keys import Keys
from worker.errors import KeysError

keys = typer.Typer(
    name="keys",
    help="Create, list and revoke API keys. After the first key is created, every request needs a key.",
    no_args_is_help=True,
)


@keys.command()
def create(name: KeyName, data_dir: DataDir = None) -> None:
    """Create a key and print it. It is shown only once."""
    try:
        secret, key = _keys(data_dir).create(name)
    except KeysError as error:
        _refuse(error)
    typer.echo(secret)  # nothing else goes to standard output, so that a script can read it
    err.print(f"key {key.id} for {escape(name)}; shown only now; send it as Authorization: Bearer KEY", highlight=False)


@keys.command("list")
def list_keys(data_dir: DataDir = None) -> None:
    """List all keys, revoked ones as well. The service stores hashes only, not the keys themselves."""
    try:
        found = _keys(data_dir).all()
    except KeysError as error:
        _refuse(error)
    table = Table("id", "name", "created", "revoked", box=None)
    for key in found:
        table.add_row(key.id, escape(key.name), _moment(key.created_at), _moment(key.revoked_at))
    out.print(table if found else "there are no keys: the service answers requests from its own machine only")


@keys.command()
def revoke(key: KeyOrName, data_dir: DataDir = None) -> None:
    """Revoke a key; requests with it are refused from now on."""
    try:
        revoked = _keys(data_dir).revoke(key)
    except KeysError as error:
        _refuse(error)
    out.print(f"key {revoked.id} for {escape(revoked.name)} is revoked", highlight=False)


def _keys(data_dir: Path | None) -> Keys:
    return Keys(data_dir or AppSettings().data_dir)


def _moment(seconds: float | None) -> str:
    return "" if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def _refuse(error: KeysError) -> NoReturn:
    give_up(error.message, FAILED)
