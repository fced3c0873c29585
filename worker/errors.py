"""Errors of the queue, the storage and the broker, as one branch of the tree of :mod:`model.errors`.

    CytosynthError
    ├── JobError                a job's state does not allow what was asked
    │   ├── JobNotFoundError    no such job (or not the caller's)
    │   ├── JobNotFinishedError its files do not exist yet
    │   ├── JobExpiredError     its files were removed; the spec remains
    │   ├── JobFailedError      it ended without files
    │   ├── JobCanceledError    the client cancelled it
    │   ├── JobActiveError      it must be cancelled before it is removed
    │   ├── ArtifactNotFoundError  the job has no such file
    │   ├── ArtifactDamagedError   its stored file is missing or was altered
    │   ├── LeaseLostError      another worker owns it now
    │   ├── WorkerCrashedError  its workers died too often
    │   ├── IdempotencyError    the key was used for another body
    │   └── QueueUnavailableError  the broker does not answer
    ├── BrokerError             the broker cannot start, or may lose jobs
    │   └── BrokerAwayError     it does not answer
    ├── StoreUnavailableError   the object store does not answer; also an OSError
    ├── DiskFullError, UploadNotFoundError, UploadExistsError, UploadQuotaError, UploadDamagedError
    └── KeysError               the file of API keys cannot be used

Callers of ``worker`` find every error that they may have to catch in this module.
"""

from __future__ import annotations

from model.errors import CytosynthError, ExportError, SpecError

__all__ = [
    "ArtifactDamagedError",
    "ArtifactNotFoundError",
    "BrokerAwayError",
    "BrokerError",
    "CytosynthError",
    "DiskFullError",
    "ExportError",
    "IdempotencyError",
    "JobActiveError",
    "JobCanceledError",
    "JobError",
    "JobExpiredError",
    "JobFailedError",
    "JobNotFinishedError",
    "JobNotFoundError",
    "KeysError",
    "LeaseLostError",
    "QueueUnavailableError",
    "SpecError",
    "StoreUnavailableError",
    "UploadDamagedError",
    "UploadExistsError",
    "UploadNotFoundError",
    "UploadQuotaError",
    "WorkerCrashedError",
]


class BrokerError(CytosynthError):
    """The embedded broker cannot start, or the configured server may lose jobs; the operator must act."""

    code = "bad_broker"


class BrokerAwayError(BrokerError):
    """The configured server does not answer, so it is unknown whether it may lose jobs."""

    code = "broker_away"


class JobError(CytosynthError):
    """A job's state does not allow what was asked; subclasses say why."""

    code = "job_error"


class JobNotFoundError(JobError):
    """There is no such job, or it belongs to another caller; the answer is the same."""

    code = "job_not_found"


class JobNotFinishedError(JobError):
    """The job has no files yet."""

    code = "job_not_finished"


class JobExpiredError(JobError):
    """The job's files were removed after their retention time."""

    code = "job_expired"


class JobFailedError(JobError):
    """The job ended without files."""

    code = "job_failed"


class JobCanceledError(JobError):
    """The client cancelled the job."""

    code = "job_canceled"


class JobActiveError(JobError):
    """The job is queued or running; cancel it before removing it."""

    code = "job_active"


class ArtifactNotFoundError(JobError):
    """The job has no file of that name."""

    code = "artifact_not_found"


class ArtifactDamagedError(JobError):
    """A stored file of the job is missing, or is not what the manifest says."""

    code = "artifact_damaged"


class LeaseLostError(JobError):
    """The lease ran out and the job belongs to another worker now."""

    code = "lease_lost"


class WorkerCrashedError(JobError):
    """The workers that ran the job died too often."""

    code = "worker_crashed"


class BatchNotFoundError(JobError):
    """No batch of that id, or not the caller's: both look the same."""

    code = "batch_not_found"


class IdempotencyError(JobError):
    """The Idempotency-Key was used before with another body."""

    code = "idempotency_mismatch"


class QueueUnavailableError(JobError):
    """The broker does not answer, or refuses more work."""

    code = "queue_unavailable"


class UploadNotFoundError(CytosynthError):
    """The caller has no upload of that name."""

    code = "upload_not_found"


class UploadExistsError(CytosynthError):
    """There is an upload of that name with another content."""

    code = "upload_exists"


class UploadOffsetError(CytosynthError):
    """A part of an upload does not continue what has arrived.

    Attributes
    ----------
    offset
        Bytes that have arrived.
    """

    code = "upload_offset"

    def __init__(self, message: str, *, offset: int) -> None:
        super().__init__(message)
        self.offset = offset


class UploadDamagedError(CytosynthError):
    """The stored content of an upload is not what was sent."""

    code = "upload_damaged"


class UploadQuotaError(CytosynthError):
    """The owner's uploads would exceed the quota."""

    code = "upload_quota"


class DiskFullError(CytosynthError):
    """Less than the configured reserve would be left free on the disk."""

    code = "disk_full"


class StoreUnavailableError(CytosynthError, OSError):
    """The object store does not answer, or refuses a request; what was asked may be tried again.

    An ``OSError`` too, because it is handled as a disk that accepts no write.
    """

    code = "store_unavailable"


class KeysError(CytosynthError):
    """The keys cannot be read or changed; every request is refused until the operator repairs the file."""

    code = "bad_keys"
