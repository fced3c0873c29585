"""Output of the command line: consoles, exit codes, tables and progress bars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, ProgressColumn
from rich.table import Table

FAILED, USAGE, UNREACHABLE, INTERRUPTED = 1, 2, 3, 130

out = Console()
err = Console(stderr=True)


def say(text: str, *, markup: bool = False) -> None:
    """Print a line on standard output; long lines are not wrapped."""
    out.print(text, highlight=False, soft_wrap=True, markup=markup)


def give_up(message: str, code: int) -> NoReturn:
    """Print an error and end the command with an exit code."""
    err.print(f"[bold red]cytosynth:[/] {escape(message)}", highlight=False, soft_wrap=True)
    raise typer.Exit(code)


def show_table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]], *, none: str) -> None:
    """Print rows: as a table on a terminal; otherwise one row per line, its members complete and separated by tabs."""
    if not out.is_terminal:
        for row in rows:
            typer.echo("\t".join(row))
        return
    table = Table(box=None)
    # The first member identifies the row: it is never cut.
    table.add_column(head[0], no_wrap=True, min_width=max((len(row[0]) for row in rows), default=0))
    for name in head[1:]:
        table.add_column(name)
    for row in rows:
        table.add_row(*row)
    out.print(table if rows else none)


def progress_bar(*columns: ProgressColumn) -> Progress:
    """Return a progress bar on standard error; it shows nothing if that is no terminal, so that logs stay readable."""
    return Progress(*columns, console=err, transient=True, disable=not err.is_terminal)
