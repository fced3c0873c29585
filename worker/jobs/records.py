"""The records of jobs as frozen Python classes, and the functions that read them from Redis."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal, Protocol, Self, runtime_checkable


class JobStatus(StrEnum):
    """Queued and running are active; the other four are final, except that succeeded becomes expired in time."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    EXPIRED = "expired"

    @property
    def active(self) -> bool:
        """Whether the job has not ended yet."""
        return self in (JobStatus.QUEUED, JobStatus.RUNNING)


SEAL: Literal["seal"] = "seal"  # the shard that merges the files of the others


@dataclass(frozen=True, kw_only=True)
class JobProgress:
    """The progress of a job; ``eta_s`` is the worker's estimate of the seconds that remain."""

    fraction: float = 0.0
    stage: str = ""
    frame: int = 0
    frames: int = 0
    eta_s: float | None = None
    loss: float | None = None  # of a training
    dice: float | None = None  # of a training, on frames that are left out of it

    def to_json(self) -> str:
        """Return it as clients see it in an event; what only trainings have is left out elsewhere."""
        members = {name: value for name, value in asdict(self).items() if value is not None or name == "eta_s"}
        return json.dumps(members, allow_nan=False)


@dataclass(frozen=True, kw_only=True)
class JobFailure:
    """Why a job failed, or a warning: a stable code, and a sentence for the client."""

    code: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Price:
    """The expected cost of a job: bytes of files, and seconds of one worker before any correction."""

    bytes: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class JobShards:
    """The shards of a divided job. When all are finished, their files are merged."""

    total: int
    running: int
    done: int

    @property
    def open(self) -> int:
        """The number of shards that wait for a worker."""
        return self.total - self.running - self.done


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """What a caller attaches to a job beside its spec; nothing of it changes the bytes of the files.

    Attributes
    ----------
    labels
        Short texts by name, by which the caller finds the job again.
    priority
        Larger numbers are carried out first among the jobs of the same owner; the turn of other owners stays the same.
    webhook
        Address that gets a message when the job ends; empty: none.
    """

    labels: Mapping[str, str] = field(default_factory=dict)
    priority: int = 0
    webhook: str = ""

    def members(self) -> dict[str, Any]:
        """Return what differs from the defaults, as members of a recorded request."""
        members: dict[str, Any] = {"labels": dict(self.labels)} if self.labels else {}
        members |= {"priority": self.priority} if self.priority else {}
        return members | ({"webhook": self.webhook} if self.webhook else {})


@dataclass(frozen=True, kw_only=True)
class JobFilter:
    """Which jobs a list shows; None and empty: all.

    Attributes
    ----------
    created_after, created_before
        Seconds since 1970 on the broker's clock; neither bound is included.
    labels
        Names and values; a job must have all of them.
    """

    model_id: str | None = None
    created_after: float | None = None
    created_before: float | None = None
    labels: tuple[tuple[str, str], ...] = ()
    batch: str | None = None

    def __bool__(self) -> bool:
        """Whether any job could be left out."""
        return self != JobFilter()

    def matches(self, job: Job) -> bool:
        """Whether the list shows a job."""
        return (
            self.model_id in (None, job.model_id)
            and (self.created_after is None or job.created_at > self.created_after)
            and (self.created_before is None or job.created_at < self.created_before)
            and all(job.labels.get(name) == value for name, value in self.labels)
            and self.batch in (None, job.batch)
        )


@dataclass(frozen=True, kw_only=True)
class Webhook:
    """The address that is told of an end, and whether it was.

    Attributes
    ----------
    state
        ``pending`` (also before the end), ``delivered``, ``refused`` (by its receiver, for good) or ``gave_up``.
    attempts
        How often it was tried, since the broker last lost its data.
    """

    url: str
    state: str = "pending"
    attempts: int = 0


@dataclass(frozen=True, kw_only=True)
class Job:
    """One request and its state. Times are seconds since 1970 on the broker's clock."""

    id: str
    kind: str
    status: JobStatus
    owner: str
    spec: dict[str, Any]
    model_id: str
    model_sha256: str
    digest: str
    progress: JobProgress
    attempts: int
    created_at: float
    lost: int = 0  # leases: attempts whose worker died or stopped renewing
    worker: str | None = None  # that holds the lease now
    started_at: float | None = None
    finished_at: float | None = None
    expires_at: float | None = None
    error: JobFailure | None = None
    queue_position: int | None = None  # 1: the next to run; None: not queued
    result: str | None = None  # key of its artifacts
    warnings: tuple[JobFailure, ...] = ()  # the warnings of its manifest
    pinned: bool = False  # its files are kept until the client unpins them
    shards: JobShards | None = None  # None: it is computed as a whole
    price: Price | None = None  # None: the record is of an older version, or its kind has no estimate
    labels: Mapping[str, str] = field(default_factory=dict)
    priority: int = 0
    webhook: Webhook | None = None
    batch: str | None = None  # it was accepted with others


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Jobs that one request asked for.

    Attributes
    ----------
    counts
        Jobs in each state; removed ones are not counted.
    ended_at
        When the last job ended; None while one is queued or running.
    """

    id: str
    owner: str
    created_at: float
    counts: Mapping[JobStatus, int]
    labels: Mapping[str, str] = field(default_factory=dict)
    ended_at: float | None = None
    webhook: Webhook | None = None

    @property
    def active(self) -> bool:
        """Whether a job has still to end."""
        return any(count > 0 and status.active for status, count in self.counts.items())


@dataclass(frozen=True, kw_only=True)
class JobPage:
    """A page of jobs, newest first, and the cursor of the next page (None: this is the last)."""

    jobs: list[Job]
    next_cursor: str | None


@dataclass(frozen=True, kw_only=True)
class JobEvent:
    """One event of a job; ``event`` is ``state``, ``progress`` or ``shard``.

    A stream can be resumed after ``id``.
    """

    id: str
    event: str
    data: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Lease:
    """The right to run a job, or one shard of it, until the lease expires.

    ``token`` grows with every claim, so that an older one is refused. ``shard`` is a number from 0, :data:`SEAL`, or
    None for a job that is computed as a whole.
    """

    job: Job
    token: int
    worker: str
    shard: int | Literal["seal"] | None = None

    @property
    def job_id(self) -> str:
        """Identifier of the leased job."""
        return self.job.id


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """The ids of the jobs that one sweep changed."""

    requeued: list[str]  # their lease had expired
    crashed: list[str]  # it had expired too often
    woken: list[str]  # queued for long, with too few wake-ups waiting
    expired: list[str]  # their files are past retention and are removed
    purged: list[str]  # their records were removed


@dataclass(frozen=True, kw_only=True)
class WorkerBeat:
    """The announcement of one worker."""

    name: str
    hostname: str
    pid: int
    device: str
    seen_at: float
    ready: bool = True  # False while it prepares itself: it claims nothing yet


class RuleSettings(Protocol):
    """The settings that every process which opens the job records must share."""

    @property
    def retention_days(self) -> float: ...  # noqa: D102
    @property
    def record_days(self) -> float: ...  # noqa: D102
    @property
    def max_queue(self) -> int: ...  # noqa: D102
    @property
    def reuse(self) -> bool: ...  # noqa: D102


@runtime_checkable
class LeaseSettings(Protocol):
    """The settings that only workers have, which hold and sweep leases."""

    @property
    def lease_seconds(self) -> float: ...  # noqa: D102
    @property
    def hint_after_seconds(self) -> float: ...  # noqa: D102


@dataclass(frozen=True, kw_only=True)
class JobRules:
    """The numbers that leases, retention and sweeping use."""

    lease_s: float = 60.0
    max_lost: int = 3  # lost leases until the job counts as the cause
    retention_s: float = 7 * 86400.0  # of files
    record_s: float = 30 * 86400.0  # of records without files
    idempotency_s: float = 7 * 86400.0
    write_s: float = 10.0  # from the check that a request would be accepted to its submission
    away_s: float = 24.0  # without a sweep: the broker was down or frozen; below lease less two heartbeats
    wake_up_after_s: float = 30.0
    max_queue: int = 10_000
    reuse: bool = True  # answer a request, or make a job's files, with those of an earlier job
    sweep_batch: int = 200  # jobs of each sort that one sweep changes, so that no script runs long

    @classmethod
    def of(cls, settings: RuleSettings) -> Self:
        """Return the rules that settings state, for every process that opens the job records."""
        rules = cls(
            retention_s=settings.retention_days * 86400.0,
            record_s=settings.record_days * 86400.0,
            max_queue=settings.max_queue,
            reuse=settings.reuse,
        )
        if not isinstance(settings, LeaseSettings):
            return rules
        return replace(
            rules,
            lease_s=settings.lease_seconds,
            wake_up_after_s=settings.hint_after_seconds,
            away_s=0.4 * settings.lease_seconds,
        )


def _shards(fields: Mapping[str, str]) -> JobShards | None:
    if "shards" not in fields:
        return None
    return JobShards(
        total=int(fields["shards"]), running=int(fields["shards_running"]), done=int(fields["shards_done"])
    )


def _number(text: str | None) -> float | None:
    return float(text) if text else None


def parse_webhook(fields: Mapping[str, str]) -> Webhook | None:
    """Read the webhook of a job or a batch from its hash."""
    if not fields.get("webhook"):
        return None
    return Webhook(
        url=fields["webhook"],
        state=fields.get("webhook_done") or "pending",
        attempts=int(fields.get("webhook_attempts") or "0"),
    )


def parse_job(fields: Mapping[str, str], *, rank: int | None = None) -> Job:
    """Read a job from its hash; ``rank`` is its position in the queue, from 0."""
    status = JobStatus(fields["status"])
    code = fields.get("error_code")
    progress = JobProgress(**json.loads(fields.get("progress") or "{}"))
    if status in (JobStatus.SUCCEEDED, JobStatus.EXPIRED):
        # Not every report is sent, so the last one may be a few frames short.
        progress = replace(progress, fraction=1.0, frame=progress.frames, eta_s=0.0)
    return Job(
        id=fields["id"],
        kind=fields["kind"],
        status=status,
        owner=fields["owner"],
        spec=json.loads(fields["spec"]),
        model_id=fields["model_id"],
        model_sha256=fields["model_sha256"],
        digest=fields["digest"],
        progress=progress,
        attempts=int(fields.get("attempts", "0")),
        lost=int(fields.get("lost") or "0"),
        worker=(fields.get("worker") or None) if status is JobStatus.RUNNING else None,
        created_at=float(fields["created_at"]),
        started_at=_number(fields.get("started_at")),
        finished_at=_number(fields.get("finished_at")),
        expires_at=_number(fields.get("expires_at")),
        error=JobFailure(code=code, message=fields.get("error_message", "")) if code else None,
        queue_position=rank + 1 if rank is not None and status is JobStatus.QUEUED else None,
        result=fields.get("result") or None,
        warnings=tuple(JobFailure(**warning) for warning in json.loads(fields.get("warnings") or "[]")),
        pinned=fields.get("pinned") == "1",
        shards=_shards(fields),
        price=Price(**json.loads(fields["price"])) if fields.get("price") else None,
        labels=json.loads(fields.get("labels") or "{}"),
        priority=int(fields.get("priority") or "0"),
        webhook=parse_webhook(fields),
        batch=fields.get("batch") or None,
    )


def parse_events(entries: list[tuple[str, dict[str, str]]]) -> list[JobEvent]:
    """Read events from the entries of a job's stream."""
    return [JobEvent(id=entry, event=fields["event"], data=json.loads(fields["data"])) for entry, fields in entries]


def parse_batch(fields: Mapping[str, str], *, counts: Mapping[JobStatus, int]) -> Batch:
    """Read a batch from its hash."""
    return Batch(
        id=fields["id"],
        owner=fields["owner"],
        created_at=float(fields["created_at"]),
        counts=counts,
        labels=json.loads(fields.get("labels") or "{}"),
        ended_at=_number(fields.get("ended_at")),
        webhook=parse_webhook(fields),
    )
