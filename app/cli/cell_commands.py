"""Commands that work with cells that exist: upsample, augment, evaluate and train."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import typer
from rich.progress import BarColumn, DownloadColumn, TextColumn

from app.cli import options
from app.cli.connection import connect
from app.cli.job_commands import carry_out, grid_size, numbers, summarise
from app.cli.terminal import USAGE, give_up, progress_bar, say
from cytosynth import Client, Job


def upsample(
    model_id: options.Model,
    files: options.CellFiles,
    frames: options.Frames = None,
    times: options.Times = None,
    grid: options.Grid = None,
    formats: options.Formats = None,
    given_times: options.GivenTimes = None,
    voxel: options.Voxel = None,
    place: options.Place = None,
    label: options.Label = None,
    method: options.Method = None,
    orientations: options.Orientations = None,
    shift: options.Shift = None,
    validate: options.Validate = None,
    keep_given_frames: options.KeepGivenFrames = None,
    all_cells: options.AllCells = False,
    refine: options.Refine = None,
    seed: options.FitSeed = None,
    folder: options.OutCells = None,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
    server: options.Server = None,
) -> None:
    """Fit a cell of your own with a model, and write it at any resolution in space and time.

    The files are uploaded first. The result holds the cell, fit.json with the agreement of every given frame, and the
    adapted network.
    """
    spec = _given(
        model=model_id, frames=frames, times=numbers(times, "--times"), grid=grid_size(grid), formats=formats or None,
        given_times=numbers(given_times, "--given-times"), voxel=numbers(voxel, "--voxel"), place=place,
        labels=label or None, method=method, orientations=orientations, shift=shift, validate=validate,
        keep_given_frames=keep_given_frames, cells="all" if all_cells else None, refine=refine, seed=seed,
    )  # fmt: skip
    folder = folder or Path(f"{model_id}-{files[0].stem}")
    with connect(server) as client:
        job, written = _of_files(client, "/v1/reconstructions", spec, files, folder, overwrite=overwrite)
    if _as_json(job, written, wanted=as_json):
        return
    summarise(job, written)
    fit = json.loads((written / "fit.json").read_bytes())
    for one in fit.get("cells", [fit]):
        named = f"{one['name']}, " if "name" in one else ""
        for name, score in (("code", one["score"]), ("adapted", one.get("adapted", {}).get("score"))):
            if score:
                say(f"{named}{name}: Dice {score['dice']}, distance {score['mean_um']} µm, 95 % {score['p95_um']} µm")


def augment(
    model_id: options.Model,
    files: options.VariedFiles = None,
    index: options.CellIndex = None,
    job_id: options.SourceJob = None,
    cell: options.SourceCell = None,
    values: options.CellValues = None,
    count: options.Variations = None,
    noise: options.CodeNoise = None,
    rotation: options.Turned = None,
    mirror: options.Mirror = None,
    size: options.Size = None,
    speed: options.Speed = None,
    warp: options.WarpStrength = None,
    voxel: options.Voxel = None,
    label: options.Label = None,
    seed: options.Seed = None,
    frames: options.Frames = None,
    times: options.Times = None,
    grid: options.Grid = None,
    formats: options.Formats = None,
    folder: options.Out = None,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
    server: options.Server = None,
) -> None:
    """Vary a cell: noise in its code, rotation, mirror image, size, speed and a smooth warp.

    The cell is one of your own (FILE, fitted first), a learned one (--index), a cell of an earlier job (--job, --cell),
    or an explicit code (--values).
    augmentation.json holds the strength of each variation.
    """
    spec = _given(
        model=model_id, source=_source(files or [], index, job_id, cell, values, voxel=voxel, label=label),
        count=count, noise=noise, rotation=rotation, mirror=mirror, size=numbers(size, "--size"),
        speed=numbers(speed, "--speed"), warp=warp, seed=seed, frames=frames, times=numbers(times, "--times"),
        grid=grid_size(grid), formats=formats or None,
    )  # fmt: skip
    with connect(server) as client:
        job, written = _of_files(client, "/v1/augmentations", spec, files or [], folder, overwrite=overwrite)
    if not _as_json(job, written, wanted=as_json):
        summarise(job, written)


def evaluate(
    model_id: options.Model,
    files: options.ReferenceFiles = None,
    job_id: options.EvaluatedJob = None,
    count: options.CellsPerSet = None,
    draws: options.Draws = None,
    voxel: options.Voxel = None,
    interval: options.Interval = None,
    seed: options.NewCellsSeed = None,
    folder: options.OutReport = None,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
    server: options.Server = None,
) -> None:
    """Compare new cells of a model, or the cells of a job, with cells of your own or with reference cells.

    The files are uploaded first. The result holds report.html, its figures, and all measurements as JSON.
    """
    spec = _given(
        model=model_id, job=job_id, count=count, draws=draws, voxel=numbers(voxel, "--voxel"), interval=interval,
        seed=seed,
    )  # fmt: skip
    folder = folder or Path(f"{model_id}-evaluation")
    with connect(server) as client:
        job, written = _of_files(client, "/v1/evaluations", spec, files or [], folder, overwrite=overwrite)
    if not _as_json(job, written, wanted=as_json):
        summarise(job, written)
        say(f"report: {written / 'report.html'}")


def train(
    name: options.ModelName,
    files: options.TrainingFiles,
    steps: options.Steps = None,
    minutes: options.Minutes = None,
    sequences: options.MostSequences = None,
    voxel: options.Voxel = None,
    interval: options.Interval = None,
    points: options.PointsPerFrame = None,
    left_out_every: options.LeftOutEvery = None,
    latent_size: options.LatentSize = None,
    width: options.Width = None,
    depth: options.Depth = None,
    rates: options.Rates = None,
    keep_on_cancel: options.KeepOnCancel = False,
    seed: options.Seed = None,
    folder: options.OutModel = None,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
    server: options.Server = None,
) -> None:
    """Train a model on cells of your own; it is private to you and can be used as soon as the command ends.

    The files are uploaded and checked first. The result holds the model, its curve, figures and the report on the
    files. A training goes on in the service when this command loses the connection: fetch it later with `fetch`.
    """
    spec = _given(
        name=name, steps=steps, minutes=minutes, sequences=sequences, voxel=numbers(voxel, "--voxel"),
        interval=interval, points=points, left_out_every=left_out_every, latent_size=latent_size, width=width,
        depth=depth, rates=rates, keep_on_cancel=keep_on_cancel or None, seed=seed,
    )  # fmt: skip
    with connect(server) as client:
        job, written = _of_files(
            client, "/v1/trainings", spec, files, folder or Path(f"{name}-training"), overwrite=overwrite
        )
    if _as_json(job, written, wanted=as_json):
        return
    summarise(job, written)
    for warning in job.document["warnings"]:
        say(f"warning: {warning['message']}")
    quality = json.loads((written / "trained" / "card.json").read_bytes())["quality"]
    say(", ".join(f"{figure} {value:.3f}" for figure, value in quality.items()))
    say(f"model: {job.document['model']['id']}")


def _of_files(
    client: Client, path: str, spec: dict[str, Any], files: list[Path], folder: Path | None, *, overwrite: bool
) -> tuple[Job, Path]:
    """Carry out a request that names uploads: send the files, then the request."""
    for file in files:
        if not file.is_file():
            give_up(f"there is no file {file}", USAGE)

    def send() -> None:
        for file in files:
            spec.get("source", spec).setdefault("uploads", []).append(_sent(client, file))

    return carry_out(client, spec, folder, overwrite=overwrite, path=path, before=send)


def _sent(client: Client, file: Path) -> str:
    """Upload a file under a name made of its own name and its SHA-256, and return it."""
    with file.open("rb") as content:
        sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    ending = ".tar.gz" if file.name.lower().endswith(".tar.gz") else file.suffix.lower()
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", file.name[: len(file.name) - len(ending)]).strip("-_")[:60] or "cells"
    name = f"{stem}-{sha256[:12]}{ending}"
    with progress_bar(TextColumn(f"sending {file.name}"), BarColumn(), DownloadColumn()) as bar:
        task = bar.add_task("", total=file.stat().st_size)
        client.upload(file, name=name, on_bytes=lambda sent: bar.update(task, completed=sent))
    return name


def _source(
    files: list[Path],
    index: int | None,
    job_id: str | None,
    cell: int | None,
    values: str | None,
    *,
    voxel: str | None,
    label: list[int] | None,
) -> dict[str, Any]:
    """Return the member ``source`` of the spec: the cell that is varied."""
    given = [value for value in (files or None, index, job_id, values) if value is not None]
    if len(given) != 1:
        raise typer.BadParameter("give one of FILE, --index, --job and --values: the cell that is varied")
    if not files and (voxel or label):
        raise typer.BadParameter("--voxel and --label belong to a cell in a FILE: give one, or leave them out")
    if files:
        return _given(kind="uploads", voxel=numbers(voxel, "--voxel"), labels=label or None)
    if cell is not None and job_id is None:
        raise typer.BadParameter("--cell is a cell of --job: give both")
    if job_id is not None:
        return _given(kind="job", job=job_id, cell=cell)
    return {"kind": "learned", "index": index} if values is None else {
        "kind": "explicit", "values": numbers(values, "--values")
    }  # fmt: skip


def _given(**members: Any) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}


def _as_json(job: Job, folder: Path, *, wanted: bool) -> bool:
    if wanted:
        typer.echo(json.dumps({"folder": str(folder), "job": job.document}, ensure_ascii=False))
    return wanted
