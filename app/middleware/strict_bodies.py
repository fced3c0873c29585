"""Request bodies: bounded in length, and JSON that every parser reads alike.

Promises: a body over the limit is refused before it is read (by its Content-Length) or as soon as it exceeds the
limit. A JSON document that two parsers could read differently is refused.
Does not promise: that the document is valid; the specs check that.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Coroutine
from typing import Any, NoReturn

from fastapi import Request, Response, params
from fastapi.dependencies.utils import get_flat_params
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.problems.handlers import ProblemError, problem_response
from app.problems.types import BODY_TOO_LONG, MALFORMED, UNSUPPORTED

DEPTH_MAX = 32  # levels of nesting; a spec needs 3
UPLOADS = "/v1/uploads/"


class BodyLimitMiddleware:
    """Refuses bodies over a number of bytes, with or without a Content-Length."""

    def __init__(self, app: ASGIApp, *, limit: int, uploads: int) -> None:
        """Wrap ``app``; ``uploads`` is the limit of uploads, ``limit`` that of all other bodies, in bytes."""
        self.app, self.limit, self.uploads = app, limit, uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check Content-Length, then count the bytes that arrive."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = (
            self.uploads if scope["method"] in ("PUT", "PATCH") and scope["path"].startswith(UPLOADS) else self.limit
        )
        detail = f"the body may have at most {limit} bytes"
        announced = Headers(scope=scope).get("content-length", "0")
        if not (announced.isascii() and announced.isdigit()) or int(announced[:20]) > limit:
            # The body is not read, so the connection cannot be used for another request.
            response = problem_response(BODY_TOO_LONG, detail, headers={"Connection": "close"})
            await response(scope, receive, send)
            return
        arrived = 0

        async def counted() -> Message:
            nonlocal arrived
            message = await receive()
            arrived += len(message.get("body", b""))
            if arrived > limit:
                raise ProblemError(BODY_TOO_LONG, detail)
            return message

        await self.app(scope, counted, send)


class StrictRoute(APIRoute):
    """A route whose query and JSON body are checked before the framework validates them."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap the framework's handler."""
        handle = super().get_route_handler()
        takes_body = self.body_field is not None
        # Probes and scrapers add query parameters of their own.
        strict_query = self.path.startswith(("/v1/", "/problems"))
        known = {field.alias for field in get_flat_params(self.dependant) if isinstance(field.field_info, params.Query)}

        async def strict(request: Request) -> Response:
            if strict_query and request.scope["query_string"]:
                check_query(request, known)
            return await handle(await _StrictRequest.read(request) if takes_body else request)

        return strict


def check_query(request: Request, known: Collection[str]) -> None:
    """Refuse query parameters that are unknown or repeated, which the framework would ignore silently.

    Raises
    ------
    RequestValidationError
        With the name of each parameter.
    """
    counts = Counter(name for name, _ in request.query_params.multi_items())
    issues = [
        {"type": "repeated" if name in known else "extra_forbidden", "loc": ("query", name)}
        for name, count in counts.items()
        if name not in known or count > 1
    ]
    if issues:
        raise RequestValidationError(issues)


class _StrictRequest(Request):
    document: Any = None

    @classmethod
    async def read(cls, request: Request) -> _StrictRequest:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        coding = request.headers.get("content-encoding", "identity").strip().lower()
        body = await request.body()
        if coding != "identity" or (kind != "application/json" and (kind or body)):
            raise ProblemError(UNSUPPORTED, "send the body as Content-Type: application/json, not compressed")
        strict = cls(request.scope, request.receive)
        strict._body = body
        strict.document = parse_json(body) if body else None
        return strict

    async def json(self) -> Any:
        return self.document


def parse_json(body: bytes) -> Any:
    """Parse one JSON document (RFC 8259); refuse everything that parsers read differently.

    Raises
    ------
    ProblemError
        400 if the body is not UTF-8, begins with a byte order mark, holds NaN or Infinity, repeats a member, is nested
        too deeply, or is not JSON.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        _malformed(f"the body is not UTF-8: byte {error.start} cannot be decoded")
    if text.startswith("\ufeff"):
        _malformed("the body starts with a byte order mark; leave it out")
    try:
        document = json.loads(text, object_pairs_hook=_members, parse_constant=_constant)
    except json.JSONDecodeError as error:
        _malformed(f"the body is not JSON: line {error.lineno}, column {error.colno}")
    except RecursionError:
        _too_deep()
    except ValueError:  # an integer with thousands of digits
        _malformed("a number in the body has too many digits")
    _check_depth(document)
    return document


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        _malformed("an object in the body repeats a member")
    return members


def _constant(_: str) -> NoReturn:
    _malformed("NaN and Infinity are not JSON; every number must be finite")


def _check_depth(document: Any) -> None:
    level = [document]
    for _ in range(DEPTH_MAX):
        level = [
            child
            for item in level
            if isinstance(item, (dict, list))
            for child in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return
    _too_deep()


def _too_deep() -> NoReturn:
    _malformed(f"the body is nested too deeply; {DEPTH_MAX} levels are allowed")


def _malformed(detail: str) -> NoReturn:
    raise ProblemError(MALFORMED, detail)
