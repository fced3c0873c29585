"""Errors on the wire: one table from error class to status, and RFC 9457 bodies for everything that can go wrong.

Promises: every failure is ``application/problem+json``; its ``type`` is documented at ``/problems/{slug}``; nothing a
client sent is echoed; an unforeseen fault shows a request id and nothing of the inside.
Does not promise: that ``detail`` keeps its wording. Programs should look at ``code``.
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

ISSUES_MAX = 50  # nobody reads more
PROBLEM_JSON = "application/problem+json"
PROBLEM_NOTE = "cytosynth.problem"  # in the message that starts a response
REFUSED = "cytosynth.refused"  # in the scope: what the server has answered in place of the application


class ProblemError(Exception):
    """A problem on its way out, with what only the place that raised it knows."""

    def __init__(
        self, kind: ProblemType, detail: str, /, *, headers: Mapping[str, str] | None = None, **members: Any
    ) -> None:
        """Keep extra ``members`` of the body and extra ``headers``."""
        super().__init__(detail)
        self.kind, self.detail, self.headers, self.members = kind, detail, headers, members


def problem_response(
    kind: ProblemType, detail: str, /, *, headers: Mapping[str, str] | None = None, **members: Any
) -> Response:
    """Build the answer. ASCII JSON, because a lone surrogate from a client cannot be encoded as UTF-8."""
    body: dict[str, Any] = {"type": kind.uri, "title": kind.title, "status": kind.status, "detail": detail}
    body |= {"code": kind.code, "request_id": correlation_id.get()} | members
    retry = {"Retry-After": str(kind.retry_after)} if kind.retry_after is not None else {}
    content = json.dumps(body, ensure_ascii=True, allow_nan=False)
    return ProblemResponse(
        content, kind=kind, status_code=kind.status, media_type=PROBLEM_JSON, headers={**retry, **(headers or {})}
    )


class ProblemResponse(Response):
    """A problem document, which leaves a note of its kind for the figures."""

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
    """Return the methods of an address; the framework names only those of the first route that has it."""
    here = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    methods = {method for route in here for method in getattr(route, "methods", None) or ()}
    return ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))


class UnhandledErrorMiddleware:
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
        except ClientDisconnect:
            # Nobody listens any more: the answer is for the log and the figures.
            if not started:
                kind = scope.get(REFUSED, CLIENT_GONE)
                await problem_response(kind, kind.help)(scope, receive, send)
        except Exception:
            log.exception("unforeseen error", path=scope["path"], method=scope["method"])
            if started:
                raise  # the server must cut the connection: a short answer must not look whole
            await problem_response(INTERNAL, INTERNAL.help)(scope, receive, send)
