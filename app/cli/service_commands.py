"""Commands of an operator: run the service, restore its queue from the files, check what is stored."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import asdict

import typer

from app.cli.options import (
    AllowOpen,
    DataDir,
    Drop,
    Host,
    Port,
    ReadyFile,
    ScrubJson,
    ServiceData,
    UntilStdinEnds,
    Workers,
)
from app.cli.terminal import FAILED, USAGE, give_up, out, say
from app.settings import AppSettings

# The web framework and the broker are imported in the commands that need them: the others start faster.


def serve(
    host: Host = None,
    port: Port = None,
    allow_open: AllowOpen = None,
    workers: Workers = 1,
    data_dir: ServiceData = None,
    ready_file: ReadyFile = None,
    until_stdin_ends: UntilStdinEnds = False,
) -> None:
    """Run the whole service on this machine: broker, workers and web. Ctrl-C stops all of them.

    Set CYTOSYNTH_REDIS_URL to use a broker that runs elsewhere.
    """
    from app.cli.supervisor import ExposedError, Plan, PortInUseError, run_service
    from app.middleware.request_logs import configure_logs
    from worker.errors import BrokerError

    settings = _settings(host=host, port=port, data_dir=data_dir, allow_open=allow_open)
    configure_logs(settings)

    def announce(address: str) -> None:
        text = f"cytosynth serves at [bold]{address}[/] (API documentation: {address}/docs; Ctrl-C stops the service)"
        say(text, markup=True)

    plan = Plan(settings=settings, workers=workers, ready_file=ready_file, until_stdin_ends=until_stdin_ends)
    try:
        run_service(plan, announce=announce)
    except PortInUseError as error:
        give_up(f"{error}. Another service may run there: choose one with --port, or --port 0 for a free one.", FAILED)
    except (BrokerError, ExposedError) as error:
        give_up(str(error), FAILED)


def web(host: Host = None, port: Port = None) -> None:
    """Run the web service alone, for installations that start workers and broker themselves, as containers do."""
    from app.main import create_app
    from app.middleware.request_logs import configure_logs
    from app.server import PortInUseError, listen, raise_file_limit, serve_web

    settings = _settings(host=host, port=port)
    configure_logs(settings)
    raise_file_limit()
    try:
        with listen(settings.host, settings.port) as listener:
            serve_web(create_app(settings), listener)
    except PortInUseError as error:
        give_up(f"{error}. Another service may run there: choose another with --port.", FAILED)


def rebuild(data_dir: DataDir = None) -> None:
    """Restore the queue and the list of jobs from the files, after the broker has lost its data.

    A service does this by itself when it finds its broker restarted or empty. This command does it in any case.
    """
    from worker.broker.embedded import running_broker, start_broker
    from worker.errors import CytosynthError
    from worker.jobs import JobQueue, JobRules
    from worker.storage.stored_artifacts import open_artifacts

    settings = AppSettings()
    folder = data_dir or settings.data_dir
    rules = JobRules.of(settings)
    try:
        with ExitStack() as stack:
            url = settings.redis_url or running_broker(folder / "broker")
            if url is None:  # no service runs; the next one finds the restored records when it starts
                url = stack.enter_context(start_broker(folder / "broker")).url
            jobs = JobQueue.connect(url, artifacts=open_artifacts(folder, settings.store), rules=rules)
            stack.callback(jobs.close)
            restored = jobs.admin.rebuild()
            states = ", ".join(f"{count} {status}" for status, count in jobs.admin.counts().items() if count)
    except CytosynthError as error:
        give_up(error.message, FAILED)
    out.print(f"{restored} jobs restored; now {states or 'none'}", highlight=False)


def scrub(data_dir: DataDir = None, as_json: ScrubJson = False, drop: Drop = False) -> None:
    """Read every stored file and compare it with its checksum; exit code 1 if a file is damaged.

    It may run beside a service. A job with damaged files is no longer returned for an identical request.
    """
    from worker.scrub import Scrub
    from worker.storage.stored_artifacts import open_artifacts

    folder = data_dir or AppSettings().data_dir
    if not folder.is_dir():
        give_up(f"there is no data folder {folder}; name it with --data-dir", USAGE)
    scrubbing = Scrub(open_artifacts(folder, AppSettings().store), drop=drop)
    damages = [damage for damage in scrubbing.steps() if damage is not None]
    if as_json:
        found = [asdict(damage) for damage in damages]
        out.print_json(json.dumps({"files": scrubbing.files, "bytes": scrubbing.bytes, "damaged": found}))
    else:
        for damage in damages:
            state = "dropped" if damage.dropped else "damaged"
            say(f"{state} {damage.kind} {damage.path}: {damage.reason}\n  what to do: {damage.advice}")
        say(f"{scrubbing.files} files, {scrubbing.bytes} bytes read; {len(damages)} damaged")
        if damages and not drop:
            say("--drop removes damaged files, so that the next request computes them again")
    if damages:
        raise typer.Exit(FAILED)


def _settings(**given: object) -> AppSettings:
    """Return the settings of the environment, with the options that were given."""
    return AppSettings().model_copy(update={name: value for name, value in given.items() if value is not None})
