"""From a validated spec to a queued job, in one function: check, complete, price once, queue.

A new kind of job needs a row in :mod:`worker.kinds.table`, a runner, a spec with the members of :class:`JobSpec` and a
route; :func:`submit` and :func:`estimate` serve all kinds.

Promises: nothing is queued that exceeds the operator's limits or does not fit the model; the same request gives the
same digest, whether a member is left out or given its default.
Does not promise: that the model still exists when the job runs; the worker checks that again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, Self, runtime_checkable

from app.problems.handlers import ProblemError
from app.problems.types import WEBHOOKS_OFF
from app.services.budget import ModelSpecific, check_budget, check_fits_model
from app.services.example_upload import find_upload
from app.services.resources import Resources
from app.services.trainings import check_shapes, complete_training, keep_model, training_cost
from model.card import ModelCard
from model.errors import SpecError
from model.evaluation_spec import CELLS_MAX
from model.formats import FORMATS
from model.reconstruction_spec import is_adapted
from model.spec import Cost
from model.training_spec import TrainingSpec
from worker.jobs import BatchJob, Job, JobOptions, JobStatus, Price, Timing
from worker.kinds.table import DivisibleSpec, Kind
from worker.storage.artifacts import MANIFEST
from worker.storage.disk import check_reserve
from worker.uploads.store import frames_of, voxel_of
from worker.webhooks.addresses import check_url


class JobSpec(ModelSpecific, Protocol):
    """What a spec must offer to be submitted; :class:`model.spec.GenerationSpec` does."""

    @property
    def model(self) -> str:
        """Identifier of the model."""
        ...

    @property
    def seed(self) -> int | None:
        """The seed, if the client gave one."""
        ...

    @property
    def formats(self) -> Sequence[str]:
        """Formats of the files."""
        ...

    def completed(self) -> Self:
        """Return the spec with a seed and all defaults filled in."""
        ...

    def cost(self) -> Cost:
        """Estimate what the job takes, without running it."""
        ...

    def digest(self, *, model_sha256: str) -> str:
        """Return the name of the result of the completed spec."""
        ...

    def model_copy(self, *, update: dict[str, Any]) -> Self:
        """Return a copy with other members."""
        ...

    def model_dump(self, *, mode: str) -> dict[str, Any]:
        """Return the spec as JSON-able members."""
        ...


@runtime_checkable
class OfUploads(Protocol):
    """A spec that names uploads of the caller."""

    @property
    def uploads(self) -> Sequence[str]:
        """Their names."""
        ...

    def with_voxel(self, voxel: list[float]) -> Self:
        """Return it with the distance of samples that the uploads state, unless it states one."""
        ...

    def with_uploads(self, found: Sequence[tuple[str, int | None]]) -> Self:
        """Return it with what was found under the names: SHA-256 and number of frames (None: not known) of each."""
        ...


@runtime_checkable
class OfJob(Protocol):
    """A spec that may name a cell of an earlier job of the caller."""

    @property
    def cell_of_job(self) -> tuple[str, int] | None:
        """Job and index of the cell."""
        ...

    def with_cell(self, latent: Sequence[float], rotation: Sequence[float]) -> Self:
        """Return it with the cell's code and rotation."""
        ...


@runtime_checkable
class OfResult(Protocol):
    """A spec that may name an earlier job of the caller, all of whose cells it takes."""

    @property
    def result_of_job(self) -> str | None:
        """The job."""
        ...

    def with_result(self, manifest: Mapping[str, Any], sha256: str) -> Self:
        """Return it with what the job made: its manifest, and the manifest's SHA-256."""
        ...


@dataclass(frozen=True, kw_only=True)
class Submitted:
    """An accepted request.

    Attributes
    ----------
    job
        The queued job, or an earlier one that answers the same request.
    expected_s
        Seconds that one worker will probably take; 0 if the job has ended.
    """

    job: Job
    expected_s: float


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a job would take: ``cost`` before, ``timing`` after the correction by measured jobs."""

    cost: Cost
    timing: Timing


def submit(
    resources: Resources,
    kind: Kind,
    spec: JobSpec | TrainingSpec,
    idempotency_key: str | None = None,
    options: JobOptions | None = None,
) -> Submitted:
    """Check, complete, price and queue one request of the resources' caller. Blocks; run it in a thread.

    Raises
    ------
    UnknownModelError, SpecError, TooLargeError, DiskFullError, UploadNotFoundError
        If the request cannot be accepted as it is; the message says what is allowed.
    ProblemError, IdempotencyError, QueueUnavailableError
        As :meth:`app.services.caller_jobs.CallerJobs.submit`.
    """
    if options is not None and options.webhook:
        check_webhook(resources, options.webhook)
    prepared = prepare(resources, kind, spec)
    check_room(resources, [prepared])
    asked = [*prepared.asked, options.members()] if options and options.members() else prepared.asked
    job, _ = resources.jobs.submit(
        **vars(prepared.job), idempotency_key=idempotency_key, request_digest=digest_of(asked), options=options
    )
    keep_model(resources, job)
    expected_s = _timing(resources, kind, spec, prepared.cost).expected if job.status.active else 0.0
    return Submitted(job=job, expected_s=expected_s)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A request that may be queued.

    Attributes
    ----------
    job
        What is queued.
    cost
        What it takes.
    asked
        Kind and spec as the client sent them, with defaults but without a drawn seed: the same for the same request.
    """

    job: BatchJob
    cost: Cost
    asked: list[Any]


def prepare(resources: Resources, kind: Kind, spec: JobSpec | TrainingSpec) -> Prepared:
    """Check, complete and price one request.

    Raises
    ------
    UnknownModelError, SpecError, TooLargeError, UploadNotFoundError
        As :func:`submit`.
    """
    complete: JobSpec | TrainingSpec
    if isinstance(spec, TrainingSpec):
        complete, cost = complete_training(resources, spec)
        model_id, model_sha256 = complete.model or "", ""  # the job makes the model
        drawn = {"seed": spec.seed, "model": spec.model}
    else:
        card = _card(resources, spec)
        complete = _with_sources(resources, spec, card).completed()
        cost = complete.cost()
        check_budget(cost, resources.settings)
        model_id, model_sha256, drawn = card.id, card.sha256, {"seed": spec.seed}
    job = BatchJob(
        kind=kind.name,
        spec=complete.model_dump(mode="json"),
        model_id=model_id,
        model_sha256=model_sha256,
        digest=complete.digest(model_sha256=model_sha256),
        price=Price(bytes=cost.bytes, seconds=cost.seconds),
        shards=complete.shards() if isinstance(complete, DivisibleSpec) else 1,
    )
    # Everything but the seed is completed: a member left out and its default are the same request, but a drawn seed
    # differs each time.
    asked = [kind.name, complete.model_copy(update=drawn).model_dump(mode="json")]
    return Prepared(job=job, cost=cost, asked=asked)


def check_room(resources: Resources, requests: Sequence[Prepared]) -> None:
    """Check that the disk has room for the files of requests; raises ``DiskFullError``."""
    settings, files = resources.settings, 0
    if settings.store is None:  # otherwise only those of the shards at hand are on this disk
        for one in requests:
            spec = one.job.spec
            formats = (FORMATS[name] for name in spec.get("formats", ()) if name in FORMATS)
            files += sum(row.least_files(cells=spec.get("count", 1), frames=one.cost.frames) for row in formats)
    wanted = sum(one.cost.bytes for one in requests)
    check_reserve(settings.data_dir, reserve=settings.disk_reserve_bytes, wanted=wanted, files=files)


def digest_of(asked: object) -> str:
    """Return the SHA-256 of a request, by which an Idempotency-Key knows it again."""
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def estimate(resources: Resources, kind: Kind, spec: JobSpec | TrainingSpec) -> Estimate:
    """Price a request without queueing it. Blocks; run it in a thread.

    Raises
    ------
    UnknownModelError, SpecError, UploadNotFoundError
        If the model or an upload does not exist, or the spec does not suit it.
    QueueUnavailableError
        If the broker does not answer.
    """
    if isinstance(spec, TrainingSpec):
        cost = training_cost(resources, spec)
    else:
        card = _card(resources, spec)
        cost = _with_sources(resources, spec, card).cost()
    return Estimate(cost=cost, timing=_timing(resources, kind, spec, cost))


def check_webhook(resources: Resources, url: str) -> None:
    """Check the address of a webhook.

    Raises
    ------
    SpecError
        If it may not be one.
    ProblemError
        403 if the operator has not enabled webhooks.
    """
    if resources.settings.webhook_secret is None:
        raise ProblemError(WEBHOOKS_OFF, WEBHOOKS_OFF.help)
    check_url(url, allow_http=resources.settings.webhook_http)


def _card(resources: Resources, spec: JobSpec) -> ModelCard:
    card = resources.catalogue.card(spec.model, owner=resources.owner)
    check_fits_model(spec, card)
    return card


def _with_sources(resources: Resources, spec: JobSpec, card: ModelCard) -> JobSpec:
    """Complete a spec with what it names: uploads, a cell or all cells of an earlier job."""
    return _with_result(resources, _with_cell(resources, _with_uploads(resources, spec), card), card)


def _with_uploads(resources: Resources, spec: JobSpec) -> JobSpec:
    """Let a spec that names uploads know their checksums; others are returned as they are."""
    if not isinstance(spec, OfUploads):
        return spec
    kept = [find_upload(resources, name) for name in spec.uploads]
    check_shapes(kept)
    if kept and (voxel := voxel_of(kept)) is not None:
        spec = spec.with_voxel(voxel)
    return spec.with_uploads([(upload.sha256, frames_of(upload)) for upload in kept])


def _with_cell(resources: Resources, spec: JobSpec, card: ModelCard) -> JobSpec:
    """Put the code of an earlier job's cell into a spec that names it; others are returned as they are."""
    if not isinstance(spec, OfJob) or spec.cell_of_job is None:
        return spec
    job_id, number = spec.cell_of_job
    job = _finished(resources, job_id, card, at="/source/job")
    contents = resources.artifacts.contents(job_id)
    if is_adapted(contents.manifest):
        raise SpecError(
            "the cell belongs to an adapted network: upload its fitted/weights.safetensors, make a model of it, and "
            "vary the learned cell 0 of that",
            pointer="/source/job",
        )
    indices = contents.indices()
    if indices is None:
        raise SpecError(f"the job made no cells, it is of kind {job.kind}: name another", pointer="/source/job")
    cell = contents.cell(number)
    if cell is None:
        raise SpecError(f"the job has the cells {indices[0]} to {indices[1]}", pointer="/source/cell")
    return spec.with_cell(cell["latent"], cell["rotation"])


def _with_result(resources: Resources, spec: JobSpec, card: ModelCard) -> JobSpec:
    """Let a spec that names an earlier job know what that made; others are returned as they are."""
    if not isinstance(spec, OfResult) or spec.result_of_job is None:
        return spec
    _finished(resources, spec.result_of_job, card, at="/job")
    content = resources.artifacts.path(spec.result_of_job, MANIFEST).read_bytes()
    manifest, contents = json.loads(content), resources.artifacts.contents(spec.result_of_job)
    if contents.is_sharded:  # more cells than any evaluation takes
        manifest["cells"] = list(islice(contents.cells(), CELLS_MAX))
    return spec.with_result(manifest, hashlib.sha256(content).hexdigest())


def _finished(resources: Resources, job_id: str, card: ModelCard, *, at: str) -> Job:
    """Return a job of the caller that has files and is of the model."""
    job = resources.jobs.get(job_id)
    if job.status is not JobStatus.SUCCEEDED or not resources.artifacts.exists(job_id):
        raise SpecError("the job has no files: wait until it has succeeded, or submit it again", pointer=at)
    if job.model_sha256 != card.sha256:
        raise SpecError(f"the job is of another model, {job.model_id}: name that one", pointer="/model")
    return job


def _timing(resources: Resources, kind: Kind, spec: JobSpec | TrainingSpec, cost: Cost) -> Timing:
    model_id = "" if isinstance(spec, TrainingSpec) else spec.model  # a training makes its model
    return resources.records.timings.expect(
        kind=kind.name, model_id=model_id, formats=spec.formats, estimated_s=cost.seconds
    )
