"""Errors on the wire: one table from error class to status, and RFC 9457 bodies for everything that can go wrong.

Promises: every failure is ``application/problem+json``; its ``type`` is documented at ``/problems/{slug}``; nothing a
client sent is echoed; an unforeseen fault shows a request id and nothing of the inside.
Does not promise: that ``detail`` keeps its wording. Programs should look at ``code``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import structlog
from asgi_correlation_id import correlation_id
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.faults import faults_of
from model import errors as tree
from worker.errors import BrokerError

log: structlog.stdlib.BoundLogger = structlog.get_logger("cytosynth.app")

FAULTS_MAX = 50  # nobody reads more
PROBLEM_JSON = "application/problem+json"


@dataclass(frozen=True, kw_only=True)
class ProblemType:
    """One kind of problem, as documented at ``/problems/{slug}``."""

    code: str
    status: int
    title: str
    help: str  # what it means and what to do, shown on its page
    retry_after: int | None = None

    @property
    def slug(self) -> str:
        """The code as it is spelled in an address."""
        return self.code.replace("_", "-")

    @property
    def uri(self) -> str:
        """Address of the documentation, relative to the service."""
        return f"/problems/{self.slug}"


def _of(
    error: type[tree.CytosynthError], status: int, title: str, advice: str, retry_after: int | None = None
) -> tuple[type[tree.CytosynthError], ProblemType]:
    return error, ProblemType(code=error.code, status=status, title=title, help=advice, retry_after=retry_after)


# The table. A subclass without a row of its own would fall back on its parent's; a test forbids that.
TABLE: dict[type[tree.CytosynthError], ProblemType] = dict(
    (
        _of(tree.CytosynthError, 500, "Error", "Something failed in a way that has no better name. Report it."),
        _of(
            tree.SpecError,
            422,
            "The request cannot be carried out as written",
            "Each entry of errors points at a member of the body (pointer) or names a parameter, and says what is "
            "allowed there. Correct them and send the request again.",
        ),
        _of(
            tree.UnknownModelError,
            422,
            "There is no such model",
            "GET /v1/models lists the installed ones. A folder with weights and a card in one of the service's model "
            "folders is found without a restart.",
        ),
        _of(
            tree.TooLargeError,
            413,
            "The job is over the budget",
            "detail says what was asked and what is allowed. Lower grid, frames or count, or split the job: sequences "
            "are seeded from seed and index. POST /v1/estimates gives the cost of a spec without running it.",
        ),
        _of(
            tree.CheckpointError,
            500,
            "The model cannot be loaded",
            "Its weights or card are damaged or do not belong together. The operator must install it again.",
        ),
        _of(
            tree.SurfaceError,
            422,
            "No surface can be extracted",
            "The latent code leads to a field without a usable membrane. Try another seed or a lower temperature.",
        ),
        _of(
            tree.EmptySurfaceError,
            422,
            "The cell is empty",
            "The signed distance never changes sign: the latent code lies far from the learned ones. Try another seed, "
            "a lower temperature or less noise.",
        ),
        _of(
            tree.InvalidFieldError,
            422,
            "The field holds values that are not finite",
            "The latent code is so far from the learned ones that the network overflows. Use smaller values.",
        ),
        _of(tree.UploadError, 422, "The file cannot be used", "detail says what was found and what is expected."),
        _of(tree.DatasetError, 422, "The training data cannot be used", "detail says what is missing or malformed."),
        _of(
            tree.ExportError,
            500,
            "The result cannot be written",
            "The worker could not write its files, most often because the disk is full. The operator must act.",
        ),
        _of(tree.JobError, 409, "The job does not allow this", "detail says why. GET /v1/jobs/{id} shows its state."),
        _of(
            tree.JobNotFoundError,
            404,
            "There is no such job",
            "The identifier is unknown, the job was removed, or its record is older than the service keeps records.",
        ),
        _of(
            tree.JobNotFinishedError,
            409,
            "The job is not finished",
            "Its files do not exist yet. Follow /v1/jobs/{id}/events, or GET /v1/jobs/{id}?wait=60, then try again.",
            2,
        ),
        _of(
            tree.JobExpiredError,
            410,
            "The files are gone",
            "They were removed after the retention time. spec in this document is complete: POST it to have the same "
            "bytes made again.",
        ),
        _of(
            tree.JobFailedError,
            409,
            "The job failed",
            "It ended without files. error in the job document says why.",
        ),
        _of(tree.JobCanceledError, 409, "The job was cancelled", "It has no files. POST its spec to start anew."),
        _of(
            tree.JobActiveError,
            409,
            "The job is active",
            "It is queued or running. Cancel it first: POST /v1/jobs/{id}/cancel.",
        ),
        _of(
            tree.ArtifactNotFoundError,
            404,
            "There is no such file",
            "GET /v1/jobs/{id}/files lists the files of a job.",
        ),
        _of(
            tree.LeaseLostError,
            409,
            "Another worker owns the job now",
            "A worker was silent for too long and its job was given to another one. Nothing to do.",
        ),
        _of(
            tree.WorkerCrashedError,
            500,
            "The worker died",
            "The workers that ran this job ended too often, most likely for lack of memory. Lower the grid, or ask the "
            "operator to look at the worker's log.",
        ),
        _of(
            tree.IdempotencyError,
            422,
            "The Idempotency-Key was used for another body",
            "A key names one request. Use a fresh key for a different body.",
        ),
        _of(
            tree.QueueUnavailableError,
            503,
            "The queue takes no work at the moment",
            "The broker does not answer, or as many jobs are queued as the service allows. Try again after the time "
            "in Retry-After.",
            5,
        ),
        _of(
            BrokerError,
            503,
            "The broker cannot be used",
            "It does not start, or it is configured so that it may lose jobs. The operator must act.",
            30,
        ),
    )
)


def _http(code: str, status: int, title: str, advice: str, retry_after: int | None = None) -> ProblemType:
    return ProblemType(code=code, status=status, title=title, help=advice, retry_after=retry_after)


# What HTTP itself can refuse, before any of our errors is raised.
MALFORMED = _http(
    "malformed_json",
    400,
    "The body is not JSON",
    "A body is one JSON value in UTF-8: no NaN or Infinity, no member twice, no deep nesting, nothing after it.",
)
BAD_REQUEST = _http("bad_request", 400, "The request is malformed", "detail says what cannot be understood.")
NOT_FOUND = _http("not_found", 404, "There is nothing at this address", "/docs and /openapi.json list what there is.")
NOT_ALLOWED = _http(
    "method_not_allowed", 405, "The method is not allowed here", "The Allow header lists the methods of this address."
)
BODY_TOO_LONG = _http("body_too_long", 413, "The body is too long", "detail says how many bytes are allowed.")
UNSUPPORTED = _http(
    "unsupported_media_type",
    415,
    "The body is of the wrong type",
    "Send Content-Type: application/json and no Content-Encoding.",
)
RANGE = _http(
    "range_not_satisfiable", 416, "The range lies outside the file", "Content-Range says how long the file is."
)
INTERNAL = _http(
    "internal",
    500,
    "Something went wrong inside the service",
    "Not your fault. Report request_id to the operator: the log has the details under it.",
)
NOT_READY = _http(
    "not_ready", 503, "The service is not ready", "checks says which part is missing: broker, storage or worker.", 5
)
OTHERS = (
    MALFORMED,
    BAD_REQUEST,
    NOT_FOUND,
    NOT_ALLOWED,
    BODY_TOO_LONG,
    UNSUPPORTED,
    RANGE,
    INTERNAL,
    NOT_READY,
)
PROBLEM_TYPES: dict[str, ProblemType] = {kind.slug: kind for kind in (*TABLE.values(), *OTHERS)}
_BY_STATUS = {kind.status: kind for kind in (BAD_REQUEST, NOT_FOUND, NOT_ALLOWED, BODY_TOO_LONG, UNSUPPORTED, RANGE)}


class ProblemError(Exception):
    """A problem on its way out, with what only the place that raised it knows."""

    def __init__(
        self, kind: ProblemType, detail: str, /, *, headers: Mapping[str, str] | None = None, **members: Any
    ) -> None:
        """Keep extra ``members`` of the body and extra ``headers``."""
        super().__init__(detail)
        self.kind, self.detail, self.headers, self.members = kind, detail, headers, members


def problem_type(error: type[tree.CytosynthError]) -> ProblemType:
    """Return the row of the nearest class in the table."""
    return next(TABLE[base] for base in error.__mro__ if base in TABLE)


def problem_response(
    kind: ProblemType, detail: str, /, *, headers: Mapping[str, str] | None = None, **members: Any
) -> Response:
    """Build the answer. ASCII JSON, because a lone surrogate from a client cannot be encoded as UTF-8."""
    body: dict[str, Any] = {"type": kind.uri, "title": kind.title, "status": kind.status, "detail": detail}
    body |= {"code": kind.code, "request_id": correlation_id.get()} | members
    retry = {"Retry-After": str(kind.retry_after)} if kind.retry_after is not None else {}
    content = json.dumps(body, ensure_ascii=True, allow_nan=False)
    return Response(content, status_code=kind.status, media_type=PROBLEM_JSON, headers={**retry, **(headers or {})})


def install_errors(app: FastAPI, *, routes: Iterable[BaseRoute] = ()) -> None:
    """Give the application our answers instead of the framework's; ``routes`` are all that it has."""

    @app.exception_handler(tree.CytosynthError)
    def known(_: Request, error: tree.CytosynthError) -> Response:
        kind = problem_type(type(error))
        if isinstance(error, tree.SpecError):
            fault = {"pointer": error.pointer, "detail": error.message}
            return problem_response(kind, error.message, errors=[fault])
        # A fault of the installation may name folders: the client gets the advice, the log gets the message.
        if kind.status == 500:
            log.error("request failed", code=kind.code, reason=error.message)
            return problem_response(kind, kind.help)
        return problem_response(kind, error.message)

    @app.exception_handler(ProblemError)
    def raised(_: Request, error: ProblemError) -> Response:
        return problem_response(error.kind, error.detail, headers=error.headers, **error.members)

    @app.exception_handler(RequestValidationError)
    def invalid(_: Request, error: RequestValidationError) -> Response:
        faults = list(islice(faults_of(error.errors(), error.body), FAULTS_MAX))
        first = f"{faults[0].get('pointer') or faults[0].get('parameter') or 'the body'} {faults[0]['detail']}"
        more = f" (and {len(faults) - 1} more: see errors)" if len(faults) > 1 else ""
        return problem_response(TABLE[tree.SpecError], first + more, errors=faults)

    @app.exception_handler(HTTPException)
    def http(request: Request, error: HTTPException) -> Response:
        if error.status_code < 400:
            return Response(status_code=error.status_code, headers=error.headers)
        kind = _BY_STATUS.get(error.status_code, INTERNAL if error.status_code >= 500 else BAD_REQUEST)
        headers = {"Allow": _allowed(request, routes)} if error.status_code == 405 else error.headers
        return problem_response(kind, kind.help, headers=headers)


def _allowed(request: Request, routes: Iterable[BaseRoute]) -> str:
    """Return the methods of an address; the framework names only those of the first route that has it."""
    here = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    return ", ".join(sorted({method for route in here for method in getattr(route, "methods", None) or ()}))


class UnforeseenErrors:
    """Outermost net: whatever nobody caught is logged with the request id and answered without internals."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap ``app``."""
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; answer 500 if it fails before the response has begun."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except Exception:
            log.exception("unforeseen error", path=scope["path"], method=scope["method"])
            if started:
                raise  # the server must cut the connection: a short answer must not look whole
            await problem_response(INTERNAL, INTERNAL.help)(scope, receive, send)
