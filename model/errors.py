"""Errors of the library, as one tree; :mod:`worker.errors` adds those of jobs, storage and broker.

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
    └── ExportError             a result cannot be written

The classes know nothing of HTTP. Each has a stable ``code``. Each message is written for a client: it says what was
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
    """The plausibility check rejected every code that was drawn for a sequence."""

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
