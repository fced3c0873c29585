"""Commands that request cells, follow jobs and check their files."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer
from rich.progress import BarColumn, DownloadColumn, SpinnerColumn, TextColumn, TimeRemainingColumn

from app.cli import options
from app.cli.connection import connect
from app.cli.results import FolderError, check_result, result_folder
from app.cli.terminal import FAILED, INTERRUPTED, USAGE, give_up, out, progress_bar, say, show_table
from cytosynth import Client, Job
from cytosynth.manifest import MANIFEST
from model.formats import FORMATS


def generate(
    model_id: options.Model,
    seed: options.Seed = None,
    count: options.Count = None,
    frames: options.Frames = None,
    times: options.Times = None,
    grid: options.Grid = None,
    latent: options.LatentKind = None,
    temperature: options.Temperature = None,
    index: options.Index = None,
    noise: options.Noise = None,
    first: options.First = None,
    second: options.Second = None,
    weight: options.Weight = None,
    values: options.Values = None,
    rotation: options.Rotation = None,
    formats: options.Formats = None,
    fragments: options.Fragments = None,
    exact: options.Exact = None,
    folder: options.Out = None,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
    server: options.Server = None,
) -> None:
    """Generate cells: send the request, follow the job, download the files and check them.

    Without --server or CYTOSYNTH_SERVER, the service on this machine is used. If none runs, one is started for the
    duration of the command.
    """
    members = {
        "temperature": temperature, "index": index, "noise": noise, "first": first, "second": second,
        "weight": weight, "values": numbers(values, "--values"),
    }  # fmt: skip
    latent_given = {name: value for name, value in members.items() if value is not None}
    spec: dict[str, Any] = {
        "model": model_id, "seed": seed, "count": count, "frames": frames, "times": numbers(times, "--times"),
        "grid": grid_size(grid), "formats": formats or None,
        "rotation": rotation if rotation in (None, "none", "random") else numbers(rotation, "--rotation"),
        "latent": {"kind": latent or "sampled", **latent_given} if latent or latent_given else None,
        "fragments": fragments, "exact": exact,
    }  # fmt: skip
    spec = {name: value for name, value in spec.items() if value is not None}
    with connect(server) as client:
        job, written = carry_out(client, spec, folder, overwrite=overwrite)
    if as_json:
        typer.echo(json.dumps({"folder": str(written), "job": job.document}, ensure_ascii=False))
    else:
        summarise(job, written)


def demo(
    folder: options.DemoOut = Path("out/demo"),
    seed: options.DemoSeed = 7,
    frames: options.DemoFrames = 16,
    grid: options.DemoGrid = 64,
    server: options.Server = None,
    show: options.DemoOpen = False,
) -> None:
    """Generate a cell of each installed model: meshes, label volumes, a picture and the manifest."""
    usual = ["stl", "obj", "tiff", "png"]
    with connect(server, reuse=False) as client:
        cards = client.models()
        if not cards:
            give_up("no model is installed", FAILED)
        for card in cards:
            out.print(f"[bold]{card['title']}[/]", highlight=False)
            formats = list(FORMATS) if card["topology"] == "division" else usual  # of a dividing cell, every format
            side = max(grid, card["grid_min"])  # the coarsest that keeps the finest parts
            spec = {"model": card["id"], "seed": seed, "frames": frames, "grid": side, "formats": formats}
            summarise(*carry_out(client, spec, folder / card["id"], overwrite=True))
            out.print(f"picture: {folder / card['id'] / 'cell_0000' / 'preview.png'}", highlight=False)
    if show:
        typer.launch(str(folder))


def jobs(
    state: options.State = None,
    limit: options.Limit = 20,
    as_json: options.AsJson = False,
    server: options.Server = None,
) -> None:
    """List the latest jobs of a running service; in a pipe, one job per line with its members separated by tabs."""
    with connect(server, start=False) as client:
        page = client.job_page(limit=limit, state=state)
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
    show_table(("id", "created", "model", "seed", "state", "done"), rows, none="no jobs")


def fetch(
    job_id: options.JobId,
    folder: options.Out = None,
    overwrite: options.Overwrite = False,
    server: options.Server = None,
) -> None:
    """Download the files of a job and check them. A job that has not ended is followed first."""
    with connect(server, start=False) as client:
        job = client.job(job_id)
        folder = folder or Path(f"{job.document['model']['id']}-{job.spec.get('seed')}")
        with result_folder(folder, overwrite=overwrite) as draft:
            _follow(job)
            _download(job, draft)
    summarise(job, folder)


def verify(folders: options.Folders) -> None:
    """Compare results with their manifests: sizes, SHA-256, and files that the manifest does not name."""
    bad = False
    for folder in folders:
        try:
            faults, count = check_result(folder)
        except FolderError as error:
            give_up(str(error), USAGE)
        bad = bad or bool(faults)
        for fault in faults:
            say(f"{folder}: {fault}")
        if not faults:
            say(f"{folder}: {count} files, each as in {MANIFEST}")
    if bad:
        raise typer.Exit(FAILED)


def pin(job_id: options.JobId, server: options.Server = None) -> None:
    """Keep the files of a job beyond their retention time."""
    with connect(server, start=False) as client:
        job = client.job(job_id).pin()
    out.print(f"{job.id} is pinned", highlight=False)


def unpin(job_id: options.JobId, server: options.Server = None) -> None:
    """Unpin a job; the retention time of its files starts again."""
    with connect(server, start=False) as client:
        job = client.job(job_id).unpin()
    say(f"{job.id} is unpinned; its files are kept until {job.document['expires_at']}")


def cancel(job_id: options.JobId, server: options.Server = None) -> None:
    """Cancel a job that is queued or running."""
    with connect(server, start=False) as client:
        job = client.job(job_id).cancel()
    note = "" if job.ended else ", and ends with the model so far"
    out.print(f"{job.id} is {job.state}{note}", highlight=False)


def carry_out(
    client: Client,
    spec: dict[str, Any],
    folder: Path | None,
    *,
    overwrite: bool,
    path: str = "/v1/generations",
    before: Callable[[], None] = lambda: None,
) -> tuple[Job, Path]:
    """Carry out one request, from its submission to checked files; return the job and the folder.

    Parameters
    ----------
    client
        Of the service.
    spec
        The request.
    folder
        Where the files go, checked before anything is sent; ``MODEL-SEED`` with a drawn seed when None.
    overwrite
        Replace an earlier result there.
    path
        Address that takes the request.
    before
        Called when the folder is found good, before the request is sent.
    """
    if folder is None:
        # The folder's name holds the seed, so it is drawn here: 53 bits, which every JSON reader keeps.
        spec = {"seed": secrets.randbits(53), **spec}
        folder = Path(f"{spec['model']}-{spec['seed']}")
    with result_folder(folder, overwrite=overwrite) as draft:
        before()
        job = client.submit(path, spec)
        try:
            _follow(job)
        except KeyboardInterrupt:
            if job.cancel().ended:
                give_up(f"cancelled job {job.id}", INTERRUPTED)
            give_up(f"job {job.id} ends with the model so far; download it with: cytosynth fetch {job.id}", INTERRUPTED)
        _download(job, draft)
    return job, folder


def _follow(job: Job) -> None:
    """Show the progress of a job until it ends."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[frames]}"))
    with progress_bar(*columns, TimeRemainingColumn()) as bar:
        task = bar.add_task(job.state, total=1.0, frames="")

        def on_event(event: str, data: dict[str, Any]) -> None:
            if event == "state":
                bar.update(task, description=data["state"])
            elif event == "progress":
                shown = f"{data['frame']} of {data['frames']}" if data.get("frames") else ""
                shown = f"frame {shown}" if shown and data["stage"] == "frames" else shown
                shown += "".join(
                    f", {name} {data[name]:.4f}" for name in ("loss", "dice") if data.get(name) is not None
                )
                bar.update(task, description=data["stage"], completed=data["fraction"], frames=shown)

        job.follow(on_event)


def _download(job: Job, folder: Path) -> None:
    """Download the files of a job that has ended."""
    if job.state != "succeeded":
        reason = (job.document["error"] or {}).get("message", "no reason is given")
        give_up(f"job {job.id} {job.state}: {reason}", FAILED)
    with progress_bar(TextColumn("downloading"), BarColumn(), DownloadColumn()) as bar:
        task = bar.add_task("", total=None)
        job.download(folder, on_bytes=lambda done, total: bar.update(task, completed=done, total=total))


def summarise(job: Job, folder: Path) -> None:
    """Say what was downloaded."""
    count = sum(path.is_file() for path in folder.rglob("*"))
    say(f"{count} files in {folder}, seed {job.spec.get('seed')}; every SHA-256 is as in {MANIFEST}")


def grid_size(text: str | None) -> int | list[int] | None:
    """Read ``64`` or ``64,64,48``."""
    given = numbers(text.replace("x", ",") if text else None, "--grid")
    if given is None:
        return None
    sizes = [int(number) for number in given]
    return sizes[0] if len(sizes) == 1 else sizes


def numbers(text: str | None, option: str) -> list[float] | None:
    """Read numbers separated by commas; ``option`` is named where they are none."""
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{option} takes numbers separated by commas, such as 1,2,3") from None
