"""``cytosynth``: run the service, or use one from a terminal. Everything but ``serve`` speaks HTTP only."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NoReturn
from urllib.parse import quote

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from app.cli.key_commands import keys
from app.cli.results import MANIFEST, FolderError, faults_of, result_folder
from app.settings import AppSettings, child_environment
from model import __version__
from model.formats import FORMATS

try:
    from app.cli.api_client import DamagedFileError, RefusedError, ServiceClient, UnreachableError, private_service
except ModuleNotFoundError as error:  # the worker image holds no web libraries
    if error.name != "httpx":
        raise
    raise SystemExit(
        "cytosynth: the command line needs httpx, which is not installed here; run it in the web image "
        "(docker compose exec web cytosynth ...), or install it: pip install 'cytosynth[app]'"
    ) from None

FAILED, USAGE, UNREACHABLE, INTERRUPTED = 1, 2, 3, 130

cli = typer.Typer(
    name="cytosynth",
    help="Synthesises the shapes of living cells on demand.",
    epilog="Exit codes: 0 done, 1 the job failed, 2 the request is wrong, 3 no service answers.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
cli.add_typer(keys)
out = Console()
err = Console(stderr=True)

Server = Annotated[
    str | None,
    typer.Option("--server", help="Address of a service, such as http://127.0.0.1:8000.", show_default=False),
]


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.", show_default=False)]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="Identifier of a job: see `cytosynth jobs`.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace an earlier result in that folder.", show_default=False)
]
# Where a refusal points into the body, in the words of `generate`.
OPTIONS = {"/model": "MODEL", "/formats": "--format", "/latent": "--latent", "/latent/kind": "--latent"}


def main() -> None:
    """Run the command line."""
    cli()


def _show_version(wanted: bool) -> None:
    if wanted:
        out.print(f"cytosynth {__version__}", highlight=False)
        raise typer.Exit


@cli.callback()
def _root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Synthesises the shapes of living cells on demand."""


def _complete_models(incomplete: str) -> list[str]:
    """Return the models on this machine; a service elsewhere may have others."""
    roots = [root for root in AppSettings().model_roots if root.is_dir()]
    names = {card.parent.name for root in roots for card in root.glob("*/card.json")}
    return sorted(name for name in names if name.startswith(incomplete))


def _complete_formats(incomplete: str) -> list[str]:
    return [name for name in FORMATS if name.startswith(incomplete)]


@cli.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on; 127.0.0.1 by default.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port; 8000 by default, 0 takes a free one.")
    ] = None,
    allow_open: Annotated[
        bool | None,
        typer.Option("--allow-open", help="Without keys, serve whoever reaches the port.", show_default=False),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Worker processes on this machine.")] = 1,
    data_dir: Annotated[Path | None, typer.Option(help="Results and the queue; ./var by default.")] = None,
    ready_file: Annotated[Path | None, typer.Option(help="Write the address there, as JSON, once it answers.")] = None,
    until_stdin_ends: Annotated[bool, typer.Option("--until-stdin-ends", hidden=True)] = False,
) -> None:
    """Run the whole service here: broker, worker and web. Ctrl-C ends all of it.

    Set CYTOSYNTH_REDIS_URL to use a broker that runs elsewhere.
    """
    from app.cli.supervisor import (  # the web framework: only this command needs it
        ExposedError,
        Plan,
        PortInUseError,
        run_service,
    )
    from app.middleware.request_logs import configure_logs
    from worker.errors import BrokerError

    given = {"host": host, "port": port, "data_dir": data_dir, "allow_open": allow_open}
    settings = AppSettings().model_copy(update={name: value for name, value in given.items() if value is not None})
    configure_logs(settings)

    def announce(address: str) -> None:
        text = f"cytosynth serves at [bold]{address}[/] (interface: {address}/docs; Ctrl-C stops it)"
        out.print(text, highlight=False, soft_wrap=True)

    plan = Plan(settings=settings, workers=workers, ready_file=ready_file, until_stdin_ends=until_stdin_ends)
    try:
        run_service(plan, announce=announce)
    except PortInUseError as error:
        _give_up(f"{error}. Another service may run there: choose one with --port, or --port 0 for a free one.", FAILED)
    except (BrokerError, ExposedError) as error:
        _give_up(str(error), FAILED)


@cli.command()
def web(
    host: Annotated[str | None, typer.Option(help="Address to listen on; 127.0.0.1 by default.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port; 8000 by default, 0 takes a free one.")
    ] = None,
) -> None:
    """Run the web alone, where workers and broker are started by others, as in containers."""
    from app.main import create_app
    from app.middleware.request_logs import configure_logs
    from app.server import PortInUseError, listen, raise_file_limit, serve_web

    given = {"host": host, "port": port}
    settings = AppSettings().model_copy(update={name: value for name, value in given.items() if value is not None})
    configure_logs(settings)
    raise_file_limit()
    try:
        with listen(settings.host, settings.port) as listener:
            serve_web(create_app(settings), listener)
    except PortInUseError as error:
        _give_up(f"{error}. Another service may run there: choose another with --port.", FAILED)


@cli.command()
def generate(
    model_id: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="An installed model: see `cytosynth models`.", autocompletion=_complete_models
        ),
    ],
    seed: Annotated[
        int | None, typer.Option(help="Drawn and reported when absent. The same seed, the same cells.")
    ] = None,
    count: Annotated[int | None, typer.Option(help="How many cells.")] = None,
    frames: Annotated[int | None, typer.Option(help="Frames a cell, spread evenly in time.")] = None,
    times: Annotated[str | None, typer.Option(help="Times in [-1, 1] instead: -1,0,0.5.")] = None,
    grid: Annotated[str | None, typer.Option(help="Samples a side: 64, or x,y,z: 64,64,48.")] = None,
    latent: Annotated[str | None, typer.Option(help="sampled, learned, nearby, interpolated or explicit.")] = None,
    temperature: Annotated[
        float | None, typer.Option(help="sampled: 0 repeats a learned cell, 1 the usual variety, 2 goes further.")
    ] = None,
    index: Annotated[int | None, typer.Option(help="learned, nearby: which learned cell.")] = None,
    noise: Annotated[float | None, typer.Option(help="nearby: how far from it.")] = None,
    first: Annotated[int | None, typer.Option(help="interpolated: one learned cell,")] = None,
    second: Annotated[int | None, typer.Option(help="interpolated: and the other.")] = None,
    weight: Annotated[float | None, typer.Option(help="interpolated: 0 the first, 1 the second.")] = None,
    values: Annotated[str | None, typer.Option(help="explicit: the code, number by number.")] = None,
    rotation: Annotated[str | None, typer.Option(help="none, random, or a quaternion w,x,y,z.")] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            help=f"{', '.join(FORMATS)}; may be repeated.",
            show_default=False,
            autocompletion=_complete_formats,
        ),
    ] = None,
    fragments: Annotated[str | None, typer.Option(help="Small detached components: remove or keep.")] = None,
    exact: Annotated[str | None, typer.Option(help="adaptive or certified.")] = None,
    folder: Annotated[Path | None, typer.Option("--out", help="Where the files go; ./MODEL-SEED by default.")] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    server: Server = None,
) -> None:
    """Make cells: send the request, follow the job, fetch the files and check them.

    Without --server or CYTOSYNTH_SERVER, the service on this machine is used; if none runs, one is started for the
    duration.
    """
    members = {
        "temperature": temperature, "index": index, "noise": noise, "first": first, "second": second,
        "weight": weight, "values": _numbers(values, "--values"),
    }  # fmt: skip
    latent_given = {name: value for name, value in members.items() if value is not None}
    spec: dict[str, Any] = {
        "model": model_id, "seed": seed, "count": count, "frames": frames, "times": _numbers(times, "--times"),
        "grid": _grid(grid), "formats": formats or None,
        "rotation": rotation if rotation in (None, "none", "random") else _numbers(rotation, "--rotation"),
        "latent": {"kind": latent or "sampled", **latent_given} if latent or latent_given else None,
        "fragments": fragments, "exact": exact,
    }  # fmt: skip
    spec = {name: value for name, value in spec.items() if value is not None}
    with _service(server) as client:
        job, written = _make(client, spec, folder, overwrite=overwrite)
    if as_json:
        typer.echo(json.dumps({"folder": str(written), "job": job}, ensure_ascii=False))
    else:
        _tell(job, written)


@cli.command()
def demo(
    folder: Annotated[Path, typer.Option("--out", help="Where the files go, a folder for each model.")] = Path(
        "out/demo"
    ),
    seed: Annotated[int, typer.Option(help="Another seed, other cells.")] = 7,
    frames: Annotated[int, typer.Option(help="Frames of each cell.")] = 16,
    grid: Annotated[int, typer.Option(help="Samples a side.")] = 64,
    server: Server = None,
    show: Annotated[bool, typer.Option("--open", help="Open the folder afterwards.")] = False,
) -> None:
    """Make a new cell of every installed model: meshes, label volumes, a picture, and the manifest."""
    formats = ["stl", "obj", "tiff", "png"]
    with _service(server, shared=False) as client:
        cards = client.get("/v1/models")["models"]
        if not cards:
            _give_up("no model is installed", FAILED)
        for card in cards:
            out.print(f"[bold]{card['title']}[/]", highlight=False)
            spec = {"model": card["id"], "seed": seed, "frames": frames, "grid": grid, "formats": formats}
            _tell(*_make(client, spec, folder / card["id"], overwrite=True))
            out.print(f"look at {folder / card['id'] / 'cell_0000' / 'preview.png'}", highlight=False)
    if show:
        typer.launch(str(folder))


@cli.command()
def models(
    model_id: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL]", help="Show all that is known of one.", autocompletion=_complete_models),
    ] = None,
    as_json: AsJson = False,
    server: Server = None,
) -> None:
    """List the installed models, or describe one."""
    with _service(server) as client:
        document = client.get(f"/v1/models/{quote(model_id, safe='')}" if model_id else "/v1/models")
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
        _table(
            ("id", "title", "cell type", "learned cells", "unit (µm)", "span (min)"), rows, none="no model is installed"
        )


@cli.command()
def jobs(
    state: Annotated[str | None, typer.Option(help="Only jobs in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="How many, newest first.")] = 20,
    as_json: AsJson = False,
    server: Server = None,
) -> None:
    """List the latest jobs of a running service; in a pipe, one a line, its members apart by tabs."""
    query = f"?limit={limit}" + (f"&state={quote(state, safe='')}" if state else "")
    with _service(server, own=False) as client:
        page = client.get(f"/v1/jobs{query}")
    if as_json:
        typer.echo(json.dumps(page, ensure_ascii=False))
        return
    rows = [
        (
            job["id"], job["created_at"][:19], job["model"]["id"], str(job["spec"].get("seed")), job["state"],
            f"{100 * job['progress']['fraction']:.0f} %",
        )
        for job in page["jobs"]
    ]  # fmt: skip
    _table(("id", "created", "model", "seed", "state", "done"), rows, none="no jobs")


@cli.command()
def fetch(
    job_id: JobId,
    folder: Annotated[Path | None, typer.Option("--out", help="Where the files go; ./MODEL-SEED by default.")] = None,
    overwrite: Overwrite = False,
    server: Server = None,
) -> None:
    """Fetch the files of a job and check them; a job that has not ended is followed first."""
    with _service(server, own=False) as client:
        job = client.get(f"/v1/jobs/{quote(job_id, safe='')}")
        folder = folder or Path(f"{job['model']['id']}-{job['spec'].get('seed')}")
        with result_folder(folder, overwrite=overwrite) as draft:
            job = _follow(client, job)
            _download(client, job, draft)
    _tell(job, folder)


@cli.command()
def verify(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER…", help="Folders of results.")],
) -> None:
    """Compare results with their manifests: every size and SHA-256, and files that the manifest does not name."""
    bad = False
    for folder in folders:
        try:
            faults, count = faults_of(folder)
        except FolderError as error:
            _give_up(str(error), USAGE)
        bad = bad or bool(faults)
        for fault in faults:
            out.print(f"{folder}: {fault}", highlight=False, soft_wrap=True, markup=False)
        if not faults:
            out.print(f"{folder}: {count} files, each as in {MANIFEST}", highlight=False, soft_wrap=True, markup=False)
    if bad:
        raise typer.Exit(FAILED)


@cli.command()
def upload(
    file: Annotated[Path, typer.Argument(help="A label volume (.tif), a surface (.stl, .obj, .ply) or .safetensors.")],
    name: Annotated[str | None, typer.Option(help="Under which name; that of the file by default.")] = None,
    server: Server = None,
) -> None:
    """Send a file and show what was found in it."""
    if not file.is_file():
        _give_up(f"there is no file {file}", USAGE)
    with _service(server, own=False) as client, _progress(TextColumn("sending"), BarColumn(), DownloadColumn()) as bar:
        task = bar.add_task("", total=file.stat().st_size)
        kept = client.upload(file, quote(name or file.name, safe=""), on_bytes=lambda count: bar.advance(task, count))
    typer.echo(json.dumps(kept, indent=2, ensure_ascii=False))


@cli.command()
def pin(job_id: JobId, server: Server = None) -> None:
    """Keep the files of a job beyond their retention time."""
    with _service(server, own=False) as client:
        job = client.put(f"/v1/jobs/{quote(job_id, safe='')}/pin")
    out.print(f"{job['id']} is pinned", highlight=False)


@cli.command()
def unpin(job_id: JobId, server: Server = None) -> None:
    """Unpin a job; the retention time of its files starts again."""
    with _service(server, own=False) as client:
        job = client.delete(f"/v1/jobs/{quote(job_id, safe='')}/pin")
    out.print(f"{job['id']} is unpinned; its files are kept until {job['expires_at']}", highlight=False, soft_wrap=True)


@cli.command()
def cancel(job_id: JobId, server: Server = None) -> None:
    """Cancel a job that is queued or running."""
    with _service(server, own=False) as client:
        job = client.post(f"/v1/jobs/{quote(job_id, safe='')}/cancel")
    out.print(f"{job['id']} is {job['state']}", highlight=False)


@cli.command()
def rebuild(
    data_dir: Annotated[Path | None, typer.Option(help="Where the service keeps its data; ./var by default.")] = None,
) -> None:
    """Restore the queue and the list of jobs from the files, after the broker lost its data.

    A service does this by itself when it finds its broker restarted or empty; this looks whatever the broker says.
    """
    from worker.broker.embedded import running_broker, start_broker
    from worker.errors import CytosynthError
    from worker.jobs import JobQueue, JobRules
    from worker.storage.artifacts import Artifacts

    settings = AppSettings()
    folder = data_dir or settings.data_dir
    rules = JobRules.of(settings)
    try:
        with ExitStack() as stack:
            url = settings.redis_url or running_broker(folder / "broker")
            if url is None:  # no service runs: it finds everything in order when it starts
                url = stack.enter_context(start_broker(folder / "broker")).url
            jobs = JobQueue.connect(url, artifacts=Artifacts(folder), rules=rules)
            stack.callback(jobs.close)
            restored = jobs.admin.rebuild()
            states = ", ".join(f"{count} {status}" for status, count in jobs.admin.counts().items() if count)
    except CytosynthError as error:
        _give_up(error.message, FAILED)
    out.print(f"{restored} jobs restored; now {states or 'none'}", highlight=False)


@cli.command()
def scrub(
    data_dir: Annotated[Path | None, typer.Option(help="Where the service keeps its data; ./var by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    drop: Annotated[
        bool, typer.Option("--drop", help="Remove what is damaged, so that the next request makes it anew.")
    ] = False,
) -> None:
    """Read everything that is stored and compare it with its checksums; exit code 1 if anything is damaged.

    It may run beside a service. A job with damaged files answers no other request from then on.
    """
    from worker.scrub import Scrub
    from worker.storage.artifacts import Artifacts

    folder = data_dir or AppSettings().data_dir
    if not folder.is_dir():
        _give_up(f"there is no data folder {folder}; name it with --data-dir", USAGE)
    pass_ = Scrub(Artifacts(folder), drop=drop)
    damages = [damage for damage in pass_.steps() if damage is not None]
    if as_json:
        found = [asdict(damage) for damage in damages]
        out.print_json(json.dumps({"files": pass_.files, "bytes": pass_.bytes, "damaged": found}))
    else:
        for damage in damages:
            state = "dropped" if damage.dropped else "damaged"
            line = f"{state} {damage.kind} {damage.path}: {damage.reason}\n  what to do: {damage.advice}"
            out.print(line, highlight=False, markup=False, soft_wrap=True)
        out.print(f"{pass_.files} files, {pass_.bytes} bytes read; {len(damages)} damaged", highlight=False)
        if damages and not drop:
            out.print("--drop removes what is damaged, so that the next request makes it anew", highlight=False)
    if damages:
        raise typer.Exit(FAILED)


@cli.command()
def version() -> None:
    """Show the version."""
    out.print(f"cytosynth {__version__}", highlight=False)


def _make(
    client: ServiceClient, spec: dict[str, Any], folder: Path | None, *, overwrite: bool
) -> tuple[dict[str, Any], Path]:
    """Carry one request through to files on disk; the folder is checked before anything is sent."""
    if folder is None:
        # The name needs the seed, which the service would draw: 53 bits, so that JSON readers keep it.
        spec = {"seed": secrets.randbits(53), **spec}
        folder = Path(f"{spec['model']}-{spec['seed']}")
    with result_folder(folder, overwrite=overwrite) as draft:
        job = client.post("/v1/generations", spec)
        try:
            job = _follow(client, job)
        except KeyboardInterrupt:
            client.post(f"/v1/jobs/{job['id']}/cancel")
            _give_up(f"cancelled job {job['id']}", INTERRUPTED)
        _download(client, job, draft)
    return job, folder


def _download(client: ServiceClient, job: dict[str, Any], folder: Path) -> None:
    """Fetch the files of a job that has ended."""
    if job["state"] != "succeeded":
        reason = (job["error"] or {}).get("message", "no reason is given")
        _give_up(f"job {job['id']} {job['state']}: {reason}", FAILED)
    with _progress(TextColumn("fetching"), BarColumn(), DownloadColumn()) as bar:
        total = sum(file["bytes"] for file in client.get(job["links"]["files"])["files"])
        task = bar.add_task("", total=total)
        client.download(job, folder, on_bytes=lambda count: bar.advance(task, count))


def _tell(job: dict[str, Any], folder: Path) -> None:
    count = sum(path.is_file() for path in folder.rglob("*"))
    text = f"{count} files in {folder}, seed {job['spec'].get('seed')}; every SHA-256 is as in {MANIFEST}"
    out.print(text, highlight=False, soft_wrap=True)


def _describe(card: dict[str, Any]) -> None:
    """Print a model card, a member a line; nested ones indented."""
    for name, value in card.items():
        if isinstance(value, dict):
            typer.echo(f"{name}:")
            for inner, number in value.items():
                typer.echo(f"  {inner}: {number:.4g}" if isinstance(number, float) else f"  {inner}: {number}")
        else:
            typer.echo(f"{name}: {value}")


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]], *, none: str) -> None:
    """Print rows: a table for people; for programs a row a line, its members whole and apart by tabs."""
    if not out.is_terminal:
        for row in rows:
            typer.echo("\t".join(row))
        return
    table = Table(box=None)
    for number, name in enumerate(head):
        table.add_column(
            name, no_wrap=number == 0, min_width=max((len(row[0]) for row in rows), default=0) if not number else None
        )
    for row in rows:
        table.add_row(*row)
    out.print(table if rows else none)


def _progress(*columns: ProgressColumn) -> Progress:
    """Return a bar on standard error; nothing where that is no terminal, so that logs stay readable."""
    return Progress(*columns, console=err, transient=True, disable=not err.is_terminal)


def _follow(client: ServiceClient, job: dict[str, Any]) -> dict[str, Any]:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[frames]}"))
    with _progress(*columns, TimeRemainingColumn()) as bar:
        task = bar.add_task(job["state"], total=1.0, frames="")

        def on_event(event: str, data: dict[str, Any]) -> None:
            if event == "state":
                bar.update(task, description=data["state"])
            elif event == "progress":
                shown = f"frame {data['frame']} of {data['frames']}" if data.get("frames") else ""
                bar.update(task, description=data["stage"], completed=data["fraction"], frames=shown)

        return client.follow(job, on_event=on_event)


@contextmanager
def _service(server: str | None, *, own: bool = True, shared: bool = True) -> Iterator[ServiceClient]:
    """Find the service to talk to, or start one where that makes sense; turn its refusals into exit codes.

    ``own``: start one if none answers. ``shared``: use one that happens to run on this machine.
    """
    settings = AppSettings()
    named = server or settings.server
    try:
        with ExitStack() as stack:
            client = stack.enter_context(
                ServiceClient(named or f"http://{settings.host}:{settings.port}", key=settings.api_key)
            )
            if not ((named or shared) and client.is_ours()):
                if named or not own:
                    _give_up(f"no cytosynth service answers at {client.address}", UNREACHABLE)
                err.print("starting a service for the duration", style="dim", highlight=False)
                address = stack.enter_context(private_service(child_environment(settings)))
                client = stack.enter_context(ServiceClient(address))
            yield client
    except UnreachableError as error:
        _give_up(str(error), UNREACHABLE)
    except DamagedFileError as error:
        _give_up(str(error), FAILED)
    except FolderError as error:
        _give_up(str(error), USAGE)
    except RefusedError as error:
        faults = [_in_options(fault) for fault in error.problem.get("errors") or []]
        status = error.problem["status"]
        _give_up("; ".join(faults) or f"refused: {error}", UNREACHABLE if status in (429, 503) else USAGE)


def _in_options(fault: dict[str, Any]) -> str:
    """Say what is wrong with a member of the body in the words of the command line."""
    pointer = fault.get("pointer") or ""
    member = re.sub(r"/\d+$", "", pointer)
    name = OPTIONS.get(member) or (
        f"--{member.rsplit('/', 1)[-1]}" if member else fault.get("parameter") or "the request"
    )
    return f"{name} {fault['detail']}"


def _give_up(message: str, code: int) -> NoReturn:
    err.print(f"[bold red]cytosynth:[/] {escape(message)}", highlight=False, soft_wrap=True)
    raise typer.Exit(code)


def _grid(text: str | None) -> int | list[int] | None:
    numbers = _numbers(text.replace("x", ",") if text else None, "--grid")
    if numbers is None:
        return None
    sizes = [int(number) for number in numbers]
    return sizes[0] if len(sizes) == 1 else sizes


def _numbers(text: str | None, option: str) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{option} takes numbers separated by commas, such as 1,2,3") from None
