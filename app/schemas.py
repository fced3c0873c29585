"""Schemas of the answers: jobs, files, models, uploads, estimates, health and problems."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator

from app.services.submission import Estimate
from app.settings import AppSettings
from model.augmentation_spec import AugmentationSpec
from model.card import ModelCard
from model.evaluation_spec import EvaluationSpec
from model.reconstruction_spec import ReconstructionSpec
from model.spec import WHOLE, Cost, GenerationSpec
from model.training_spec import TrainingLimits, TrainingSpec
from worker.jobs import BATCH_MAX, Batch, Job, JobStatus, Timing, Webhook
from worker.kinds.table import GENERATION, KINDS
from worker.uploads.store import Upload
from worker.webhooks.addresses import URL_MAX, URL_PATTERN

Moment = Annotated[datetime, Field(description="UTC, ISO 8601.")]
EstimatedKind = Annotated[str, Field(json_schema_extra={"enum": list(KINDS)})]
TRAININGS_MAX = 20  # in a batch: each may take a worker for hours
JOB_ID_PATTERN = r"^[0-9a-f]{32}$"


class _View(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class ProgressView(_View):
    """Progress of a job."""

    fraction: float = Field(ge=0.0, le=1.0)
    stage: str = Field(description="What the worker does at the moment.")
    frame: int = Field(description="Finished frames of all sequences together; steps while a training learns.")
    frames: int = Field(description="Frames of all sequences together; steps while a training learns.")
    eta_s: float | None = Field(description="Estimated seconds until the job ends; null if unknown.")
    loss: float | None = Field(default=None, description="Of a training: the running mean of its loss.")
    dice: float | None = Field(
        default=None, description="Of a training: Dice coefficient on frames that it leaves out, as last measured."
    )


class ModelRef(_View):
    """The exact model of a job."""

    id: str
    sha256: str = Field(
        description="SHA-256 of its weights; empty for a training, whose manifest states that of the model it made."
    )


class JobLinks(_View):
    """Addresses that belong to a job. Those of manifest, files and archive answer 409 until the job has succeeded."""

    self: str
    events: str
    cancel: str
    pin: str
    manifest: str
    files: str
    archive: str


class FailureView(_View):
    """Why a job failed."""

    code: str
    message: str
    type: str = Field(description="Address of the documentation of this code.")


class LeaseView(_View):
    """The worker that runs a job."""

    worker: str = Field(
        description="Host name and process id of the worker, and a random part.", examples=["node-7:4121:3f9a1c2b"]
    )
    since: Moment | None = Field(description="When this attempt began.")


class ShardsView(_View):
    """The pieces of a job that several workers compute at once; when all are done, their files are put together."""

    total: int
    open: int = Field(description="Waiting for a worker.")
    running: int
    done: int


class WarningView(_View):
    """A warning about the result of a job that has succeeded."""

    code: str = Field(examples=["implausible_cell"])
    message: str


class WebhookView(_View):
    """The address that gets a message when the job ends."""

    url: str
    state: Literal["pending", "delivered", "refused", "gave_up"] = Field(
        description="pending: not delivered yet. refused: the receiver answered 410. gave_up: every attempt failed."
    )
    attempts: int

    @classmethod
    def of(cls, webhook: Webhook) -> Self:
        """Show a webhook."""
        return cls.model_validate({"url": webhook.url, "state": webhook.state, "attempts": webhook.attempts})


class WebhookSecret(_View):
    """The secret that signs the caller's webhooks."""

    secret: str = Field(description="For the receiver, as libraries of Standard Webhooks take it.")


class JobView(_View):
    """A job: one request, its state and its result."""

    id: str = Field(pattern=JOB_ID_PATTERN)
    kind: str = Field(examples=["generation"])
    state: JobStatus
    progress: ProgressView
    queue_position: int | None = Field(description="1: the next job to run. null: the job is not queued.")
    attempts: int = Field(description="How often a worker has started the job.")
    lost: int = Field(
        default=0, description="How many attempts ended because the worker died or stopped renewing its lease."
    )
    lease: LeaseView | None = Field(
        default=None, description="The worker that runs the job; null if the job is not running."
    )
    shards: ShardsView | None = Field(
        default=None, description="How far each piece of the job is; null if the job is computed in one piece."
    )
    created_at: Moment
    started_at: Moment | None
    finished_at: Moment | None
    expires_at: Moment | None = Field(
        description="When the files are removed; null while the job is pinned or has no files."
    )
    pinned: bool = Field(description="Whether the files are kept beyond their retention time.")
    labels: dict[str, str] = Field(
        default_factory=dict, description="Labels that the request gave it.", examples=[{"project": "actin"}]
    )
    batch: str | None = Field(
        default=None, description="The batch that it was accepted with; null if it was sent alone."
    )
    webhook: WebhookView | None = Field(
        default=None, description="The address that gets a message when the job ends; null if there is none."
    )
    priority: int = Field(default=0, description="Order among the jobs of the same caller: 1 before 0 before -1.")
    spec: dict[str, Any] = Field(description="The complete spec, with the seed. POST it again to get the same bytes.")
    model: ModelRef
    links: JobLinks
    error: FailureView | None
    warnings: list[WarningView] = Field(description="Warnings of the manifest; empty until the job has succeeded.")

    @classmethod
    def of(cls, job: Job) -> Self:
        """Show a job record."""
        here = f"/v1/jobs/{job.id}"
        failure = job.error and FailureView(
            code=job.error.code, message=job.error.message, type=f"/problems/{job.error.code.replace('_', '-')}"
        )
        progress = job.progress
        return cls(
            id=job.id,
            kind=job.kind,
            state=job.status,
            progress=ProgressView(
                fraction=min(1.0, max(0.0, progress.fraction)),
                stage=progress.stage,
                frame=progress.frame,
                frames=progress.frames,
                eta_s=progress.eta_s,
                loss=progress.loss,
                dice=progress.dice,
            ),
            queue_position=job.queue_position,
            attempts=job.attempts,
            lost=job.lost,
            lease=LeaseView(worker=job.worker, since=_moment(job.started_at)) if job.worker else None,
            shards=ShardsView(total=shards.total, open=shards.open, running=shards.running, done=shards.done)
            if (shards := job.shards)
            else None,
            created_at=datetime.fromtimestamp(job.created_at, UTC),
            started_at=_moment(job.started_at),
            finished_at=_moment(job.finished_at),
            expires_at=_moment(job.expires_at),
            pinned=job.pinned,
            labels=dict(job.labels),
            priority=job.priority,
            batch=job.batch,
            webhook=job.webhook and WebhookView.of(job.webhook),
            spec=job.spec,
            model=ModelRef(id=job.model_id, sha256=job.model_sha256),
            links=JobLinks(
                self=here,
                events=f"{here}/events",
                cancel=f"{here}/cancel",
                pin=f"{here}/pin",
                manifest=f"{here}/manifest",
                files=f"{here}/files",
                archive=f"{here}/archive",
            ),
            error=failure,
            warnings=[WarningView(code=warning.code, message=warning.message) for warning in job.warnings],
        )


class _Item(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class GenerationItem(_Item):
    """A request as to POST /v1/generations."""

    kind: Literal["generation"]
    spec: GenerationSpec


class ReconstructionItem(_Item):
    """A request as to POST /v1/reconstructions."""

    kind: Literal["reconstruction"]
    spec: ReconstructionSpec


class AugmentationItem(_Item):
    """A request as to POST /v1/augmentations."""

    kind: Literal["augmentation"]
    spec: AugmentationSpec


class EvaluationItem(_Item):
    """A request as to POST /v1/evaluations."""

    kind: Literal["evaluation"]
    spec: EvaluationSpec


class TrainingItem(_Item):
    """A request as to POST /v1/trainings."""

    kind: Literal["training"]
    spec: TrainingSpec


LabelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]
LabelValue = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:/@+-]{0,63}$")]
BatchItem = Annotated[
    GenerationItem | ReconstructionItem | AugmentationItem | EvaluationItem | TrainingItem, Field(discriminator="kind")
]


class BatchRequest(_Item):
    """Many requests, which are accepted together or not at all."""

    jobs: Annotated[list[BatchItem], Field(min_length=1, max_length=BATCH_MAX)] = Field(
        description=f"The requests; at most {TRAININGS_MAX} of them may be trainings."
    )
    labels: Annotated[dict[LabelName, LabelValue], Field(max_length=16)] = Field(
        default_factory=dict,
        description="Labels of every job and of the batch.",
        json_schema_extra={"additionalProperties": False},  # names that do not match the pattern
    )
    priority: Annotated[int, Field(ge=-1, le=1), WHOLE] = Field(
        default=0, description="Of every job: order among the caller's own, 1 before 0 before -1."
    )
    webhook: Annotated[str, Field(pattern=URL_PATTERN, max_length=URL_MAX)] | None = Field(
        default=None, description="https address that gets a signed message when the last job has ended."
    )

    @field_validator("jobs")
    @classmethod
    def _trainings_are_few(cls, jobs: list[BatchItem]) -> list[BatchItem]:
        trainings = sum(isinstance(item, TrainingItem) for item in jobs)
        if trainings > TRAININGS_MAX:
            raise ValueError(
                f"{trainings} requests are trainings; a batch may hold {TRAININGS_MAX}: send several batches"
            )
        return jobs


class BatchLinks(_View):
    """Addresses that belong to a batch."""

    self: str
    events: str
    cancel: str
    jobs: str


class BatchCounts(_View):
    """Jobs in each state; removed ones are not counted."""

    queued: int
    running: int
    succeeded: int
    failed: int
    canceled: int
    expired: int


class BatchView(_View):
    """Jobs that one request asked for."""

    id: str = Field(pattern=JOB_ID_PATTERN)
    state: Literal["active", "ended"] = Field(description="ended: no job is queued or running.")
    jobs: BatchCounts
    labels: dict[str, str]
    webhook: WebhookView | None = Field(
        description="The address that is told when the last job has ended; null if there is none."
    )
    created_at: Moment
    ended_at: Moment | None
    links: BatchLinks

    @classmethod
    def of(cls, batch: Batch) -> Self:
        """Show a batch."""
        here = f"/v1/batches/{batch.id}"
        return cls(
            id=batch.id,
            state="active" if batch.active else "ended",
            jobs=BatchCounts(**{status.value: count for status, count in batch.counts.items()}),
            labels=dict(batch.labels),
            webhook=batch.webhook and WebhookView.of(batch.webhook),
            created_at=datetime.fromtimestamp(batch.created_at, UTC),
            ended_at=_moment(batch.ended_at),
            links=BatchLinks(
                self=here, events=f"{here}/events", cancel=f"{here}/cancel", jobs=f"/v1/jobs?batch={batch.id}"
            ),
        )


class JobList(_View):
    """One page of jobs, newest first."""

    jobs: list[JobView]
    next: str | None = Field(description="Address of the next page; null on the last page.")


class FileView(_View):
    """One file of a job."""

    name: str = Field(examples=["cell_0000/frame_0000.stl"])
    bytes: int
    sha256: str
    media_type: str
    href: str


class FileList(_View):
    """The files of a job, or a page of them."""

    files: list[FileView]
    next: str | None = Field(default=None, description="Address of the next page; null on the last page.")


LINK_SECONDS_MAX = 7 * 86400  # longest validity of a link


class LinkRequest(BaseModel):
    """What a link is to lead to, and for how long."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    file: Annotated[str, Field(min_length=1, max_length=255)] | None = Field(
        default=None,
        description="Name of a file, as in the manifest; the archive if absent.",
        examples=["manifest.json"],
    )
    seconds: Annotated[int, Field(ge=1, le=LINK_SECONDS_MAX), WHOLE] = Field(
        default=3600, description="Seconds for which the link is valid."
    )


class LinkView(_View):
    """A signed link. It gives access without a key."""

    href: str
    file: str | None = Field(description="Name of the file; null for the archive.")
    expires_at: Moment


class ModelView(ModelCard):
    """A model card with its address."""

    href: str

    @classmethod
    def of(cls, card: ModelCard) -> Self:
        """Show a card."""
        return cls(**card.model_dump(), href=f"/v1/models/{card.id}")


class ModelList(_View):
    """The models that the caller may use."""

    models: list[ModelView]


class UploadView(_View):
    """An uploaded file."""

    name: str = Field(examples=["cells.tif"])
    kind: str = Field(examples=["tiff"])
    bytes: int
    sha256: str
    created_at: Moment
    expires_at: Moment = Field(description="When the file is removed.")
    facts: dict[str, Any] = Field(description="Results of the inspection; the members depend on the kind of file.")
    href: str

    @classmethod
    def of(cls, upload: Upload) -> Self:
        """Show an upload."""
        return cls(
            name=upload.name,
            kind=upload.kind,
            bytes=upload.bytes,
            sha256=upload.sha256,
            created_at=datetime.fromtimestamp(upload.created_at, UTC),
            expires_at=datetime.fromtimestamp(upload.expires_at, UTC),
            facts=upload.facts,
            href=f"/v1/uploads/{upload.name}",
        )


class UploadList(_View):
    """The caller's uploads."""

    uploads: list[UploadView]
    used: int = Field(description="Bytes that count towards the quota: uploads, and models made from them.")
    quota: int


class Limits(_View):
    """The limits of one job; points and seconds do not limit trainings, and the last three limit only them."""

    points: int = Field(description="Grid samples of label volumes: count x frames x (x * y * z).")
    seconds: float = Field(description="Expected seconds of one worker, before the correction by measured jobs.")
    bytes: int
    steps: int | None = None
    sequences: int | None = None
    minutes: float | None = None


class SecondsView(_View):
    """Computing time of one worker in seconds, corrected by measured jobs."""

    expected: float
    low: float = Field(description="About one job in ten is faster.")
    high: float = Field(description="About one job in ten is slower.")
    jobs: int = Field(description="Number of measured jobs behind the correction; with 0, low and high are far apart.")

    @classmethod
    def of(cls, timing: Timing) -> Self:
        """Show a corrected estimate, to the millisecond."""
        return cls(
            expected=round(timing.expected, 3), low=round(timing.low, 3), high=round(timing.high, 3), jobs=timing.jobs
        )


class EstimateView(_View):
    """What a job would take, and whether it is within the limits of the service."""

    kind: EstimatedKind
    cost: Cost
    seconds: SecondsView
    limits: Limits
    within_limits: bool

    @classmethod
    def of(
        cls,
        estimate: Estimate,
        settings: AppSettings,
        *,
        kind: str = GENERATION.name,
    ) -> Self:
        """Show an estimate beside the operator's limits."""
        cost, timing = estimate.cost, estimate.timing
        limits = Limits(points=settings.max_points, seconds=settings.max_seconds, bytes=settings.max_bytes)
        return cls(
            kind=kind,
            cost=cost.model_copy(update={"seconds": round(timing.expected, 3)}),
            seconds=SecondsView.of(timing),
            limits=limits,
            within_limits=cost.painted <= limits.points
            and cost.seconds <= limits.seconds
            and cost.bytes <= limits.bytes,
        )

    @classmethod
    def of_training(cls, estimate: Estimate, spec: TrainingSpec, settings: AppSettings, limits: TrainingLimits) -> Self:
        """Show the estimate of a training beside the operator's limits."""
        view = cls.of(estimate, settings)
        members = {"steps": limits.steps, "sequences": limits.sequences, "minutes": limits.minutes}
        within = view.cost.bytes <= settings.max_bytes and all(
            (getattr(spec, name) or 0) <= most for name, most in members.items()
        )
        shown = view.limits.model_copy(update=members)
        return view.model_copy(update={"kind": "training", "limits": shown, "within_limits": within})


class VersionView(_View):
    """The version of the service and of its API."""

    name: Literal["cytosynth"] = "cytosynth"
    version: str
    api: Literal["v1"] = "v1"


class LiveView(_View):
    """The process answers."""

    status: Literal["alive"] = "alive"


class CheckView(_View):
    """State of one part of the service."""

    ok: bool
    detail: str


class ReadyView(_View):
    """Whether a job submitted now would be carried out."""

    status: Literal["ready"] = "ready"
    checks: dict[str, CheckView]


class ValidationIssue(_View):
    """One member or parameter that is not allowed."""

    pointer: str | None = Field(default=None, description="RFC 6901 JSON pointer into the body.")
    parameter: str | None = Field(default=None, description="Name of a path, query or header parameter.")
    location: str | None = Field(default=None, alias="in", description="path, query or header.")
    detail: str


class Problem(BaseModel):
    """A problem document (RFC 9457): the body of every error."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(
        description="Address of the documentation of this kind of problem.", examples=["/problems/too-large"]
    )
    title: str
    status: int = Field(ge=400, le=599)
    detail: str = Field(description="What was requested, what is allowed, and what to try.")
    code: str = Field(description="The kind of problem, for programs.", examples=["too_large"])
    request_id: str | None = Field(description="Identifier of the request in the service's log.")
    errors: list[ValidationIssue] | None = Field(
        default=None,
        description="With code invalid_spec: each member or parameter that is not allowed, and why. With code "
        "bad_dataset: every finding in the uploads of a training.",
    )


class ProblemTypeView(_View):
    """Documentation of one kind of problem."""

    type: str
    code: str
    status: int
    title: str
    help: str


class ProblemTypeList(_View):
    """All kinds of problem that the service answers with."""

    problems: list[ProblemTypeView]


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
