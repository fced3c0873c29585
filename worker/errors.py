"""The errors of the back office: those of the life of a job, which :mod:`model.errors` defines, and two of its own.

A caller of ``worker`` finds here everything it may have to catch.
"""

from __future__ import annotations

from model.errors import (
    ArtifactDamagedError,
    ArtifactNotFoundError,
    CytosynthError,
    ExportError,
    IdempotencyError,
    JobActiveError,
    JobCanceledError,
    JobError,
    JobExpiredError,
    JobFailedError,
    JobNotFinishedError,
    JobNotFoundError,
    LeaseLostError,
    QueueUnavailableError,
    SpecError,
    WorkerCrashedError,
)

__all__ = [
    "ArtifactDamagedError",
    "ArtifactNotFoundError",
    "BrokerAwayError",
    "BrokerError",
    "CytosynthError",
    "ExportError",
    "IdempotencyError",
    "JobActiveError",
    "JobCanceledError",
    "JobError",
    "JobExpiredError",
    "JobFailedError",
    "JobNotFinishedError",
    "JobNotFoundError",
    "LeaseLostError",
    "QueueUnavailableError",
    "SpecError",
    "WorkerCrashedError",
]


class BrokerError(CytosynthError):
    """The embedded broker cannot start, or the configured server may lose jobs; the operator must act."""

    code = "bad_broker"


class BrokerAwayError(BrokerError):
    """The configured server does not answer, so nobody can tell whether it may lose jobs."""

    code = "broker_away"
