"""What trainings need beside what all requests do: limits of their own, the name of the model, and an early end."""

from __future__ import annotations

from collections.abc import Sequence

from app.problems.handlers import ProblemError
from app.problems.types import TABLE
from app.services.example_upload import find_upload
from app.services.resources import Resources
from app.settings import AppSettings
from model.card import CARD_FILE, ModelCard
from model.errors import DatasetError, SpecError, TooLargeError
from model.spec import Cost
from model.training_spec import ARCHIVE_FRAMES, TrainingLimits, TrainingSpec
from worker.jobs import Job, JobStatus
from worker.uploads.store import Upload, frames_of, is_flat, voxel_of

MODEL_FOLDER = "trained/"  # in the files of a training
FINDINGS_MAX = 1000  # entries of ``errors`` in one answer


def training_limits(settings: AppSettings) -> TrainingLimits:
    """Return the operator's limits of one training."""
    return TrainingLimits(
        steps=settings.max_training_steps,
        sequences=settings.max_training_sequences,
        minutes=settings.max_training_minutes,
    )


def complete_training(resources: Resources, spec: TrainingSpec) -> tuple[TrainingSpec, Cost]:
    """Return a training with the checksums of its uploads, the limits, the seed and the name of its model; its cost.

    Raises
    ------
    SpecError, TooLargeError, UploadNotFoundError
        If it cannot be accepted.
    """
    spec, frames = _with_uploads(resources, spec)
    complete = spec.within(training_limits(resources.settings)).completed().named_for(resources.owner)
    cost = complete.cost_of(frames)
    if cost.bytes > resources.settings.max_bytes:
        raise TooLargeError(
            f"the training points take about {cost.bytes:.3g} bytes; at most {resources.settings.max_bytes:.3g} are "
            "allowed: lower points, or name fewer uploads",
            pointer="/points",
        )
    return complete, cost


def training_cost(resources: Resources, spec: TrainingSpec) -> Cost:
    """Return what a training would take, also where it is over a limit; raises as :func:`complete_training`."""
    spec, frames = _with_uploads(resources, spec)
    return spec.cost_of(frames)


def check_cells(resources: Resources, spec: TrainingSpec) -> None:
    """Refuse a training whose uploads hold nothing to train on, with all findings, as far as that can be told here.

    Blocks for seconds the first time that uploads are named; run it in a thread.

    Raises
    ------
    ProblemError
        422 ``bad_dataset``; ``errors`` has an entry for each finding.
    SpecError, TooLargeError, UploadNotFoundError, UploadDamagedError
        As :func:`complete_training`, and if two uploads differ in their ending only.
    """
    complete, _ = complete_training(resources, spec)
    kept = [find_upload(resources, name) for name in complete.uploads]
    found = resources.validation.validate(
        resources.owner, kept, folder=complete.name, voxel=complete.voxel, interval=complete.interval
    )
    if found is None or found.refused is None:
        return
    errors = [{"pointer": "/uploads", "detail": finding} for finding in found.findings[:FINDINGS_MAX]]
    raise ProblemError(TABLE[DatasetError], found.refused, errors=errors)


def keep_model(resources: Resources, job: Job) -> None:
    """Install the model of an earlier training again if it was removed since, for a request that this job answers."""
    if job.kind != TrainingSpec.KIND or job.status is not JobStatus.SUCCEEDED or resources.catalogue.has(job.model_id):
        return
    names = [entry["name"] for entry in resources.artifacts.manifest(job.id)["files"]]
    made = [name for name in names if name.startswith(MODEL_FOLDER)]
    with resources.artifacts.laid_out(job.id, made) as folder:
        card = ModelCard.model_validate_json((folder / MODEL_FOLDER / CARD_FILE).read_bytes())
        files = [(folder / name, name.removeprefix(MODEL_FOLDER)) for name in made]
        resources.uploads.models.install_files(
            resources.owner, [(path, name) for path, name in files if name != CARD_FILE], card
        )


def end_with_model(resources: Resources, job: Job) -> bool:
    """Let a training that keeps its model on cancel end with what it has; the job then succeeds within minutes.

    False, and nothing is changed, if it has learned nothing yet, or if the job is of another sort.
    """
    wanted = job.kind == TrainingSpec.KIND and job.status.active and bool(job.spec.get("keep_on_cancel"))
    return wanted and resources.artifacts.ask_to_stop(job.id)


def check_shapes(uploads: Sequence[Upload]) -> None:
    """Refuse uploads of which none shows a cell with a volume: masks of a single slice.

    Raises
    ------
    SpecError
        If there is nothing to fit or to learn.
    """
    if uploads and all(is_flat(upload) for upload in uploads):
        names = ", ".join(upload.name for upload in uploads[:5]) + (" …" if len(uploads) > 5 else "")
        raise SpecError(
            f"{names}: the cells are one voxel thick in every frame, so they have no shape in three dimensions: upload "
            "masks of several slices",
            pointer="/uploads",
        )


def _with_uploads(resources: Resources, spec: TrainingSpec) -> tuple[TrainingSpec, int]:
    """Return the spec with the checksums of its uploads, and how many frames they probably hold."""
    kept = [find_upload(resources, name) for name in spec.uploads]
    check_shapes(kept)
    if spec.voxel is None:
        spec = spec.model_copy(update={"voxel": voxel_of(kept)})
    found = [(upload.sha256, frames_of(upload)) for upload in kept]
    return spec.with_uploads(found), sum(ARCHIVE_FRAMES if frames is None else frames for _, frames in found)
