"""The errors of the client: a refusal by the service is raised as the class of its status."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class CytosynthError(Exception):
    """Base of all errors of this package."""


class UnreachableError(CytosynthError):
    """No service answers, or what answers is no cytosynth service."""


class DamagedFileError(CytosynthError):
    """A downloaded file differs from the manifest, or its name leads outside the folder."""


REASONS = {"canceled": "it was canceled", "expired": "its files were removed after their retention time"}


class JobFailedError(CytosynthError):
    """A job ended without files.

    Attributes
    ----------
    state
        ``failed``, ``canceled`` or ``expired``.
    code
        Why it failed, such as ``implausible_cell``; empty if it did not fail.
    document
        The job as the service shows it.
    """

    def __init__(self, document: Mapping[str, Any]) -> None:
        error = document.get("error") or {}
        self.document = dict(document)
        self.state: str = document["state"]
        reason = error.get("message") or REASONS.get(self.state, "no reason is given")
        super().__init__(f"job {document['id']} {self.state}: {reason}")
        self.code: str = error.get("code", "")


class ProblemError(CytosynthError):
    """The service refused a request (RFC 9457).

    Attributes
    ----------
    status
        The HTTP status.
    code
        The stable code of the problem, such as ``unknown_model``; empty if the answer is no problem document.
    detail
        What is wrong with this request.
    errors
        For 422: each has the JSON ``pointer`` of a member, or the name of a ``parameter``, and ``detail``. With code
        ``bad_dataset`` each is a finding in the uploads of a training.
    retry_after_s
        Seconds after which the same request may be sent again, if the service says so.
    problem
        The whole document.
    """

    def __init__(self, problem: Mapping[str, Any], *, status: int, retry_after_s: float | None = None) -> None:
        self.problem = dict(problem)
        self.status = status
        self.code: str = problem.get("code") or ""
        self.detail: str = problem.get("detail") or problem.get("title") or f"the service answers {status}"
        self.errors: list[dict[str, Any]] = problem.get("errors") or []
        self.retry_after_s = retry_after_s
        # The detail of data that cannot be used lists the findings already.
        shown = [] if self.code == "bad_dataset" else self.errors
        lines = [f"{error.get('pointer') or error.get('parameter')}: {error.get('detail')}" for error in shown]
        super().__init__("\n".join([self.detail, *(f"  {line}" for line in lines)]))


class AuthenticationError(ProblemError):
    """401: a key is needed, or this one is not valid."""


class ForbiddenError(ProblemError):
    """403: the request is not accepted from this address."""


class NotFoundError(ProblemError):
    """404: no such job, file, model or upload, or it belongs to another key."""


class ConflictError(ProblemError):
    """409: the state of the job does not allow this."""


class GoneError(ProblemError):
    """410: the files were removed; ``problem["spec"]`` repeats the request."""


class TooLargeError(ProblemError):
    """413: over the budget of a job, or over a quota."""


class InvalidRequestError(ProblemError):
    """422: the request is not as allowed; ``errors`` says where."""


class TooManyRequestsError(ProblemError):
    """429: the key sends too many requests, or has too many active jobs."""


class UnavailableError(ProblemError):
    """503: the queue is full, the broker does not answer, or too many requests arrive at once."""


class StorageFullError(ProblemError):
    """507: the disk of the service is nearly full."""


class ServerError(ProblemError):
    """Another status from 500 on: a fault of the service or of a proxy before it."""


BY_STATUS: dict[int, type[ProblemError]] = {
    401: AuthenticationError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    410: GoneError,
    413: TooLargeError,
    422: InvalidRequestError,
    429: TooManyRequestsError,
    503: UnavailableError,
    507: StorageFullError,
}


def problem_error(problem: Mapping[str, Any], *, status: int, retry_after_s: float | None = None) -> ProblemError:
    """Return the error for a problem document."""
    cls = BY_STATUS.get(status, ServerError if status >= 500 else ProblemError)
    return cls(problem, status=status, retry_after_s=retry_after_s)
