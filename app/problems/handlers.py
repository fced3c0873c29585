"""Exception handlers: they turn every error into a problem document (RFC 9457).

Promises: every error is ``application/problem+json``; its ``type`` is documented at ``/problems/{slug}``. No answer
repeats what the client sent. An unhandled exception is answered with a request id and no internal details.
Does not promise: stable wording of ``detail``. Programs should read ``code``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

import structlog
from asgi_correlation_id import correlation_id
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.problems.types import BAD_REQUEST, BY_STATUS, CLIENT_GONE, INTERNAL, TABLE, ProblemType, problem_type
from app.problems.validation import issues_of
from model import errors as tree

log: structlog.stdlib.BoundLogger = structlog.get_logger("cytosynth.app")

ISSUES_MAX = 50  # entries of ``errors`` in one answer
PROBLEM_JSON = "application/problem+json"
PROBLEM_NOTE = "cytosynth.problem"  # key, in the message that starts a response, of the code of a problem
REFUSED = "cytosynth.refused"  # key, in the scope, of the problem that the server sent instead of the application


class ProblemError(Exception):
    """An error that is answered with a problem of a given kind, with headers and members of its own."""

    def __init__(
        self, kind: ProblemType, detail: str, /, *, headers: Mapping[str, str] | None = None, **members: Any
    ) -> None:
        """Keep extra ``members`` of the body and extra ``headers``."""
        super().__init__(detail)
        self.kind, self.detail, self.headers, self.members = kind, detail, headers, members


def problem_response(
    kind: ProblemType, detail: str, /, *, headers: Mapping[str, str] | None = None, **members: Any
) -> Response:
    """Build a problem document, in ASCII because a lone surrogate from a client cannot be encoded as UTF-8."""
    body: dict[str, Any] = {"type": kind.uri, "title": kind.title, "status": kind.status, "detail": detail}
    body |= {"code": kind.code, "request_id": correlation_id.get()} | members
    retry = {"Retry-After": str(kind.retry_after)} if kind.retry_after is not None else {}
    content = json.dumps(body, ensure_ascii=True, allow_nan=False)
    return ProblemResponse(
        content, kind=kind, status_code=kind.status, media_type=PROBLEM_JSON, headers={**retry, **(headers or {})}
    )


class ProblemResponse(Response):
    """A problem document that notes its code for the metrics."""

    def __init__(self, content: str, *, kind: ProblemType, **options: Any) -> None:
        """Build the response."""
        super().__init__(content, **options)
        self._code = kind.code

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""

        async def noted(message: Message) -> None:
            await send({**message, PROBLEM_NOTE: self._code} if message["type"] == "http.response.start" else message)

        await super().__call__(scope, receive, noted)


def install_errors(app: FastAPI, *, routes: Iterable[BaseRoute] = ()) -> None:
    """Install the handlers; ``routes`` are all routes of the application."""

    @app.exception_handler(tree.CytosynthError)
    def known(_: Request, error: tree.CytosynthError) -> Response:
        kind = problem_type(type(error))
        if isinstance(error, tree.SpecError):
            fault = {"pointer": error.pointer, "detail": error.message}
            return problem_response(kind, error.message, errors=[fault])
        # The message of a server error may name folders: it goes to the log, and the client gets the help text.
        if kind.status == 500:
            log.error("request failed", code=kind.code, reason=error.message)
            return problem_response(kind, kind.help)
        return problem_response(kind, error.message)

    @app.exception_handler(ProblemError)
    def raised(_: Request, error: ProblemError) -> Response:
        return problem_response(error.kind, error.detail, headers=error.headers, **error.members)

    @app.exception_handler(RequestValidationError)
    def invalid(_: Request, error: RequestValidationError) -> Response:
        issues = list(islice(issues_of(error.errors(), error.body), ISSUES_MAX))
        first = f"{issues[0].get('pointer') or issues[0].get('parameter') or 'the body'} {issues[0]['detail']}"
        more = f" (and {len(issues) - 1} more: see errors)" if len(issues) > 1 else ""
        return problem_response(TABLE[tree.SpecError], first + more, errors=issues)

    @app.exception_handler(HTTPException)
    def http(request: Request, error: HTTPException) -> Response:
        if error.status_code < 400:
            return Response(status_code=error.status_code, headers=error.headers)
        kind = BY_STATUS.get(error.status_code, INTERNAL if error.status_code >= 500 else BAD_REQUEST)
        headers = {"Allow": _allowed(request, routes)} if error.status_code == 405 else error.headers
        return problem_response(kind, kind.help, headers=headers)


def _allowed(request: Request, routes: Iterable[BaseRoute]) -> str:
    """Return all methods of an address; the framework names only those of the first matching route."""
    here = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    methods = {method for route in here for method in getattr(route, "methods", None) or ()}
    return ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))


class UnhandledErrorMiddleware:
    """Logs exceptions that no handler caught, with the request id, and answers 500 without details."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap ``app``."""
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; answer 500 if it fails before the response has started."""
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
        except ClientDisconnect:
            # The client has disconnected: this answer is for logs and metrics.
            if not started:
                kind = scope.get(REFUSED, CLIENT_GONE)
                await problem_response(kind, kind.help)(scope, receive, send)
        except Exception:
            log.exception("unhandled error", path=scope["path"], method=scope["method"])
            if started:
                raise  # the server then breaks the connection, so that the client sees that the answer is incomplete
            await problem_response(INTERNAL, INTERNAL.help)(scope, receive, send)
