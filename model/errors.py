"""Every error cytosynth raises on purpose, as one tree.

    CytosynthError
    ├── SpecError               the request cannot be carried out as written
    │   ├── UnknownModelError   no such model
    │   └── TooLargeError       over the service's budget
    ├── CheckpointError         weights or card unreadable, altered or of the wrong shape
    ├── SurfaceError            no surface can be extracted
    │   ├── EmptySurfaceError   the field never changes sign
    │   └── InvalidFieldError   the field holds NaN or infinity
    ├── ImplausibleError        no code that was drawn gives a living cell
    ├── UploadError             a file sent by a client cannot be used
    ├── DatasetError            training data cannot be used
    ├── ExportError             a result cannot be written
    └── JobError                the life of a job
        ├── JobNotFoundError    no such job (or not the caller's)
        ├── JobNotFinishedError its files do not exist yet
        ├── JobExpiredError     its files are gone; the spec remains
        ├── JobFailedError      it ended without files
        ├── JobCanceledError    the client cancelled it
        ├── JobActiveError      it must be cancelled before it is removed
        ├── ArtifactNotFoundError  the job has no such file
        ├── ArtifactDamagedError   its stored file is missing or was altered
        ├── LeaseLostError      another worker owns it now
        ├── WorkerCrashedError  its worker died too often
        ├── IdempotencyError    the key was used for another body
        └── QueueUnavailableError  the broker does not answer

Errors know nothing of HTTP. Each class has a stable ``code``; each message is fit for a client and says what was
asked, what is allowed and what to try.
"""

from __future__ import annotations

from typing import ClassVar


class CytosynthError(Exception):
    """Root of the tree; never raised itself."""

    code: ClassVar[str] = "error"

    @property
    def message(self) -> str:
        """The sentence shown to the client."""
        return str(self)


class SpecError(CytosynthError):
    """The request cannot be carried out as written."""

    code = "invalid_spec"

    def __init__(self, message: str, *, pointer: str = "") -> None:
        """Keep ``pointer``, the RFC 6901 JSON pointer of the offending member (empty: the whole document)."""
        super().__init__(message)
        self.pointer = pointer


class UnknownModelError(SpecError):
    """No model of that name is installed."""

    code = "unknown_model"


class TooLargeError(SpecError):
    """The request is over the service's budget."""

    code = "too_large"


class CheckpointError(CytosynthError):
    """Weights or card are unreadable, altered or of the wrong shape."""

    code = "bad_checkpoint"


class SurfaceError(CytosynthError):
    """No surface can be extracted from the field."""

    code = "bad_surface"


class EmptySurfaceError(SurfaceError):
    """The field never changes sign: there is no membrane in Ω."""

    code = "empty_surface"


class InvalidFieldError(SurfaceError):
    """The field holds NaN or infinity."""

    code = "invalid_field"


class ImplausibleError(CytosynthError):
    """The gate rejected every code that was drawn for a sequence."""

    code = "implausible_cell"


class UploadError(CytosynthError):
    """A file sent by a client cannot be used."""

    code = "bad_upload"


class DatasetError(CytosynthError):
    """Training data cannot be used as they are."""

    code = "bad_dataset"


class ExportError(CytosynthError):
    """A result cannot be written."""

    code = "export_failed"


class JobError(CytosynthError):
    """Something about the life of a job; subclasses say what."""

    code = "job_error"


class JobNotFoundError(JobError):
    """No such job, or not the caller's: both look the same."""

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


class IdempotencyError(JobError):
    """The Idempotency-Key was used before with another body."""

    code = "idempotency_mismatch"


class QueueUnavailableError(JobError):
    """The broker does not answer, or refuses more work."""

    code = "queue_unavailable"
