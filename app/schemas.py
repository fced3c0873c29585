"""What leaves the building: plain views of jobs, models and files."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from app.services.submission import Estimate
from app.settings import AppSettings
from model.card import ModelCard
from model.spec import Cost
from worker.jobs import Job, JobStatus, Timing
from worker.uploads.store import Upload

Moment = Annotated[datetime, Field(description="UTC, ISO 8601.")]
JOB_ID_PATTERN = r"^[0-9a-f]{32}$"


class _View(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class ProgressView(_View):
    """How far a job is."""

    fraction: float = Field(ge=0.0, le=1.0)
    stage: str = Field(description="What the worker does at the moment.")
    frame: int = Field(description="Frames done.")
    frames: int = Field(description="Frames of all sequences together.")
    eta_s: float | None = Field(description="Seconds that remain, as far as the worker can tell.")


class ModelRef(_View):
    """The exact model of a job."""

    id: str
    sha256: str = Field(description="Of its weights.")


class JobLinks(_View):
    """Where to go from a job; the files answer 409 until it has succeeded."""

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
    """Which worker holds a running job."""

    worker: str = Field(description="Host name and process id of the worker.", examples=["node-7:4121"])
    since: Moment | None = Field(description="When this attempt began.")


class WarningView(_View):
    """Something to know of a job that succeeded nevertheless."""

    code: str = Field(examples=["implausible_cell"])
    message: str


class JobView(_View):
    """One request and its life so far."""

    id: str = Field(pattern=JOB_ID_PATTERN)
    kind: str = Field(examples=["generation"])
    state: JobStatus
    progress: ProgressView
    queue_position: int | None = Field(description="1: the next to run. null: not queued.")
    attempts: int = Field(description="How often a worker has started it.")
    lost: int = Field(default=0, description="How many of these attempts ended because the worker died or fell silent.")
    lease: LeaseView | None = Field(default=None, description="Who computes it now; null while it is not running.")
    created_at: Moment
    started_at: Moment | None
    finished_at: Moment | None
    expires_at: Moment | None = Field(description="When the files are removed; null while they are pinned.")
    pinned: bool = Field(description="Whether the files are kept beyond their retention time.")
    spec: dict[str, Any] = Field(description="The complete recipe; POST it again to have the same bytes made.")
    model: ModelRef
    links: JobLinks
    error: FailureView | None
    warnings: list[WarningView] = Field(description="What the manifest warns of; empty until the job has succeeded.")

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
            ),
            queue_position=job.queue_position,
            attempts=job.attempts,
            lost=job.lost,
            lease=LeaseView(worker=job.worker, since=_moment(job.started_at)) if job.worker else None,
            created_at=datetime.fromtimestamp(job.created_at, UTC),
            started_at=_moment(job.started_at),
            finished_at=_moment(job.finished_at),
            expires_at=_moment(job.expires_at),
            pinned=job.pinned,
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


class JobList(_View):
    """One page of jobs, newest first."""

    jobs: list[JobView]
    next: str | None = Field(description="Address of the next page; null on the last one.")


class FileView(_View):
    """One file of a job."""

    name: str = Field(examples=["cell_0000/frame_0000.stl"])
    bytes: int
    sha256: str
    media_type: str
    href: str


class FileList(_View):
    """The files of a job, ordered by name."""

    files: list[FileView]


class ModelView(ModelCard):
    """A model card, and where it is found."""

    href: str

    @classmethod
    def of(cls, card: ModelCard) -> Self:
        """Show a card."""
        return cls(**card.model_dump(), href=f"/v1/models/{card.id}")


class ModelList(_View):
    """The installed models."""

    models: list[ModelView]


class UploadView(_View):
    """One file that a client has brought."""

    name: str = Field(examples=["cells.tif"])
    kind: str = Field(examples=["tiff"])
    bytes: int
    sha256: str
    created_at: Moment
    expires_at: Moment = Field(description="When it is removed.")
    facts: dict[str, Any] = Field(description="What was found in it; the members depend on the kind.")
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
    used: int = Field(description="Bytes that count towards the quota: uploads, and models made of them.")
    quota: int


class Limits(_View):
    """What one job may take."""

    points: int = Field(description="Grid samples: count x frames x (x * y * z).")
    bytes: int


class SecondsView(_View):
    """Computing time of one worker, corrected by the jobs that workers measured."""

    expected: float
    low: float = Field(description="About one job in ten is faster.")
    high: float = Field(description="About one job in ten is slower.")
    jobs: int = Field(description="Measured jobs that the correction rests on; 0: none yet, the spread is wide.")

    @classmethod
    def of(cls, timing: Timing) -> Self:
        """Show a corrected estimate, to the millisecond."""
        return cls(
            expected=round(timing.expected, 3), low=round(timing.low, 3), high=round(timing.high, 3), jobs=timing.jobs
        )


class EstimateView(_View):
    """What a spec would take, and whether the service would accept it."""

    kind: Literal["generation"]
    cost: Cost
    seconds: SecondsView
    limits: Limits
    within_limits: bool

    @classmethod
    def of(cls, estimate: Estimate, settings: AppSettings) -> Self:
        """Show an estimate beside the operator's limits."""
        cost, timing = estimate.cost, estimate.timing
        limits = Limits(points=settings.max_points, bytes=settings.max_bytes)
        return cls(
            kind="generation",
            cost=cost.model_copy(update={"seconds": round(timing.expected, 3)}),
            seconds=SecondsView.of(timing),
            limits=limits,
            within_limits=cost.points <= limits.points and cost.bytes <= limits.bytes,
        )


class VersionView(_View):
    """What runs here."""

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
    """Whether a job sent now would be carried out."""

    status: Literal["ready"] = "ready"
    checks: dict[str, CheckView]


class ValidationIssue(_View):
    """One member or parameter that is not as allowed."""

    pointer: str | None = Field(default=None, description="RFC 6901 JSON pointer into the body.")
    parameter: str | None = Field(default=None, description="Name of a path, query or header parameter.")
    location: str | None = Field(default=None, alias="in", description="path, query or header.")
    detail: str


class Problem(BaseModel):
    """RFC 9457 problem document: the body of every error."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(
        description="Address of the documentation of this kind of problem.", examples=["/problems/too-large"]
    )
    title: str
    status: int = Field(ge=400, le=599)
    detail: str = Field(description="What was asked, what is allowed, what to try.")
    code: str = Field(description="The kind of problem, for programs.", examples=["too_large"])
    request_id: str | None = Field(description="Under this the service's log has more.")
    errors: list[ValidationIssue] | None = Field(
        default=None, description="With code invalid_spec: each member or parameter that is not allowed, and why."
    )


class ProblemTypeView(_View):
    """Documentation of one kind of problem."""

    type: str
    code: str
    status: int
    title: str
    help: str


class ProblemTypeList(_View):
    """Every kind of problem this service can answer."""

    problems: list[ProblemTypeView]


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
