"""Request bodies: bounded in length, and JSON that every parser reads alike.

Promises: a body over the limit is refused before it is read (by its Content-Length) or as soon as it grows past the
limit; a document that two parsers could read differently is refused.
Does not promise: anything about the meaning of a document; the specs check that.
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

DEPTH_MAX = 32  # a spec needs 3
UPLOADS = "/v1/uploads/"


class BodyLimitMiddleware:
    """Refuse bodies over a number of bytes, announced or not."""

    def __init__(self, app: ASGIApp, *, limit: int, uploads: int) -> None:
        """Wrap ``app``; ``uploads`` is the limit of uploads, ``limit`` that of everything else."""
        self.app, self.limit, self.uploads = app, limit, uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Look at Content-Length first, then count what arrives."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = self.uploads if scope["method"] == "PUT" and scope["path"].startswith(UPLOADS) else self.limit
        detail = f"a body may have at most {limit} bytes here"
        announced = Headers(scope=scope).get("content-length", "0")
        if not (announced.isascii() and announced.isdigit()) or int(announced[:20]) > limit:
            # The rest of the body is never read, so the connection cannot be used again.
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
    """A route whose JSON body is checked before the framework looks at it."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap the framework's handler."""
        handle = super().get_route_handler()
        takes_body = self.body_field is not None
        # Probes and scrapers may add members of their own.
        judged = self.path.startswith(("/v1/", "/problems"))
        known = {field.alias for field in get_flat_params(self.dependant) if isinstance(field.field_info, params.Query)}

        async def strict(request: Request) -> Response:
            if judged and request.scope["query_string"]:
                check_query(request, known)
            return await handle(await _StrictRequest.read(request) if takes_body else request)

        return strict


def check_query(request: Request, known: Collection[str]) -> None:
    """Refuse members of the query that are not known or repeated: one would be ignored without a word.

    Raises
    ------
    RequestValidationError
        With the name of each.
    """
    counts = Counter(name for name, _ in request.query_params.multi_items())
    faults = [
        {"type": "repeated" if name in known else "extra_forbidden", "loc": ("query", name)}
        for name, count in counts.items()
        if name not in known or count > 1
    ]
    if faults:
        raise RequestValidationError(faults)


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
    """Parse one JSON document (RFC 8259), refusing what parsers disagree about.

    Raises
    ------
    ProblemError
        400: not UTF-8, a byte order mark, NaN or Infinity, a member given twice, too deep, or not JSON at all.
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
    except ValueError:  # an integer of thousands of digits
        _malformed("a number in the body has too many digits")
    _check_depth(document)
    return document


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        _malformed("an object in the body has a member twice")
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
