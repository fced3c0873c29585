"""Finds the service that a command talks to, or starts one, and turns its refusals into exit codes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from app.cli.private_service import private_service
from app.cli.results import FolderError
from app.cli.terminal import FAILED, UNREACHABLE, USAGE, err, give_up
from app.settings import AppSettings, child_environment
from cytosynth import Client, DamagedFileError, ProblemError, UnreachableError

# Options whose names differ from the members of the request that they set.
OPTIONS = {
    "/model": "MODEL", "/formats": "--format", "/latent": "--latent", "/latent/kind": "--latent", "/uploads": "FILE",
    "/labels": "--label", "/source": "--index, --job or --values",
}  # fmt: skip


RETRY_FOR_S = 10.0  # how long a command repeats a request after a broken connection, 429 or 503


@contextmanager
def connect(server: str | None, *, start: bool = True, reuse: bool = True) -> Iterator[Client]:
    """Yield a client of a service.

    Parameters
    ----------
    server
        Address of the service; if absent, CYTOSYNTH_SERVER, then the address that a service on this machine has.
    start
        Start a service for the duration of the command if none answers and none is named.
    reuse
        Use a service that already runs on this machine.

    Raises
    ------
    typer.Exit
        If no service answers, or the service refuses a request: with the exit code for it, after a message.
    """
    settings = AppSettings()
    named = server or settings.server
    try:
        with ExitStack() as stack:
            address = named or f"http://{settings.host}:{settings.port}"
            client = stack.enter_context(Client(address, key=settings.api_key, retry_for_s=RETRY_FOR_S))
            if not ((named or reuse) and _answers(address, settings.api_key)):
                if named or not start:
                    give_up(f"no cytosynth service answers at {client.url}", UNREACHABLE)
                err.print("starting a service for the duration of this command", style="dim", highlight=False)
                address = stack.enter_context(private_service(child_environment(settings)))
                client = stack.enter_context(Client(address, retry_for_s=RETRY_FOR_S))
            yield client
    except UnreachableError as error:
        give_up(str(error), UNREACHABLE)
    except DamagedFileError as error:
        give_up(str(error), FAILED)
    except FolderError as error:
        give_up(str(error), USAGE)
    except ProblemError as error:
        # The detail of data that cannot be used lists the findings, a line each.
        issues = [] if error.code == "bad_dataset" else [in_options(issue) for issue in error.errors]
        give_up("; ".join(issues) or f"refused: {error.detail}", UNREACHABLE if error.status in (429, 503) else USAGE)


def _answers(address: str, key: str | None) -> bool:
    """Ask once."""
    with Client(address, key=key, retry_for_s=0) as client:
        return client.is_cytosynth()


def in_options(issue: dict[str, Any]) -> str:
    """Say what is wrong with a request by the name of the option that caused it."""
    member = re.sub(r"/\d+$", "", issue.get("pointer") or "")
    name = OPTIONS.get(member) or (
        f"--{member.rsplit('/', 1)[-1].replace('_', '-')}" if member else issue.get("parameter") or "the request"
    )
    return f"{name} {issue['detail']}"
