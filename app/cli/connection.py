"""Finds the service that a command talks to, or starts one, and turns its refusals into exit codes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from app.cli.api_client import DamagedFileError, RefusedError, ServiceClient, UnreachableError, private_service
from app.cli.results import FolderError
from app.cli.terminal import FAILED, UNREACHABLE, USAGE, err, give_up
from app.settings import AppSettings, child_environment

# Options of `generate` whose names differ from the members of the request that they set.
OPTIONS = {"/model": "MODEL", "/formats": "--format", "/latent": "--latent", "/latent/kind": "--latent"}


@contextmanager
def connect(server: str | None, *, start: bool = True, reuse: bool = True) -> Iterator[ServiceClient]:
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
            client = stack.enter_context(
                ServiceClient(named or f"http://{settings.host}:{settings.port}", key=settings.api_key)
            )
            if not ((named or reuse) and client.is_cytosynth()):
                if named or not start:
                    give_up(f"no cytosynth service answers at {client.address}", UNREACHABLE)
                err.print("starting a service for the duration of this command", style="dim", highlight=False)
                address = stack.enter_context(private_service(child_environment(settings)))
                client = stack.enter_context(ServiceClient(address))
            yield client
    except UnreachableError as error:
        give_up(str(error), UNREACHABLE)
    except DamagedFileError as error:
        give_up(str(error), FAILED)
    except FolderError as error:
        give_up(str(error), USAGE)
    except RefusedError as error:
        issues = [in_options(issue) for issue in error.problem.get("errors") or []]
        status = error.problem["status"]
        give_up("; ".join(issues) or f"refused: {error}", UNREACHABLE if status in (429, 503) else USAGE)


def in_options(issue: dict[str, Any]) -> str:
    """Say what is wrong with a request by the name of the option that caused it."""
    member = re.sub(r"/\d+$", "", issue.get("pointer") or "")
    name = OPTIONS.get(member) or (
        f"--{member.rsplit('/', 1)[-1]}" if member else issue.get("parameter") or "the request"
    )
    return f"{name} {issue['detail']}"
