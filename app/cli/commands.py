"""The command ``cytosynth``: runs the service, or uses one from a terminal.

All commands but those of an operator (:mod:`app.cli.service_commands`, :mod:`app.cli.key_commands`) use the service
over HTTP only. Options and their help texts are in :mod:`app.cli.options`.
"""

from __future__ import annotations

from typing import Annotated

import typer

from app.cli.key_commands import keys
from app.cli.service_commands import rebuild, scrub, serve, web
from app.cli.terminal import out
from model import __version__

try:
    from app.cli.cell_commands import augment, evaluate, train, upsample
    from app.cli.job_commands import cancel, demo, fetch, generate, jobs, pin, unpin, verify
    from app.cli.model_commands import models, upload
except ModuleNotFoundError as error:  # the worker image holds no web libraries
    if error.name not in ("cytosynth", "httpx"):
        raise
    raise SystemExit(
        f"cytosynth: the command line needs {error.name}, which is not installed here; run it in the web image "
        "(docker compose exec web cytosynth ...), or install the client from the source tree: pip install ./client"
    ) from None

HELP = "Generates the shapes of living cells on demand."

cli = typer.Typer(
    name="cytosynth",
    help=HELP,
    epilog="Exit codes: 0 success, 1 the job failed, 2 the request is wrong, 3 no service answers.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command line."""
    cli()


def version() -> None:
    """Show the version."""
    out.print(f"cytosynth {__version__}", highlight=False)


def _show_version(wanted: bool) -> None:
    if wanted:
        version()
        raise typer.Exit


@cli.callback(help=HELP)
def _root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


# In the order of the help.
for command in (
    serve, web, generate, demo, upsample, augment, evaluate, train, models, jobs, fetch, verify, upload, pin, unpin,
    cancel, rebuild, scrub, version,
):  # fmt: skip
    cli.command()(command)
cli.add_typer(keys)
