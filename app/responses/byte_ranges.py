"""Conditional requests and byte ranges (RFC 9110 §13 and §14): one range of a file or of any body of known length.

Promises: a Range header that asks for several ranges, or that is malformed, is ignored and the whole body is sent; a
range outside the body is 416 with the length in Content-Range.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from fastapi import Response
from fastapi.responses import FileResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

from app.problems.handlers import problem_response
from app.problems.types import RANGE


def matches(if_none_match: str | None, etag: str) -> bool:
    """Return whether If-None-Match (RFC 9110 §13.1.2) contains the tag, by weak comparison."""
    if if_none_match is None:
        return False
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return if_none_match.strip() == "*" or etag in tags


def not_modified(headers: Mapping[str, str], *, media_type: str, length: int) -> Response:
    """Build a 304.

    ``media_type`` and ``length`` are those that a 200 would have. They tell the compression middleware whether a 200
    would be encoded, and with it which ETag and Vary the 304 needs; the middleware removes them.
    """
    told = {"Content-Type": media_type, "Content-Length": str(length)}
    return Response(status_code=304, headers={**headers, **told})


class RangedFile(FileResponse):
    """A file response with one byte range; invalid ranges are ignored (RFC 9110 §14.2)."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check the Range header, then let the framework send the file."""
        size = self.stat_result.st_size if self.stat_result else 0
        wanted = dict(scope["headers"]).get(b"range", b"").decode("latin-1")
        if_range = dict(scope["headers"]).get(b"if-range", b"").decode("latin-1")
        applies = scope["method"] == "GET" and if_range in ("", self.headers["etag"], self.headers["last-modified"])
        satisfiable = is_satisfiable(wanted, size) if applies else None
        if satisfiable is False:
            await unsatisfiable("file", size)(scope, receive, send)
            return
        if satisfiable is None:
            scope = {**scope, "headers": [pair for pair in scope["headers"] if pair[0] != b"range"]}
        await super().__call__(scope, receive, send)


def ranged_stream(
    content: Callable[[int, int], Iterator[bytes]],
    size: int,
    *,
    wanted: str | None,
    media_type: str,
    headers: Mapping[str, str],
    name: str,
) -> Response:
    """Stream a body, or one byte range of it.

    Parameters
    ----------
    content
        Yields the bytes from a first to a last position, inclusive.
    size
        Bytes of the whole body.
    wanted
        The Range header; None if it does not apply.
    name
        What the body is called in a refusal.
    """
    satisfiable = is_satisfiable(wanted or "", size)
    if satisfiable is False:
        return unsatisfiable(name, size)
    first, last = bounds(wanted or "", size) if satisfiable else (0, size - 1)
    told = {**headers, "Accept-Ranges": "bytes", "Content-Length": str(last - first + 1)}
    if satisfiable:
        told["Content-Range"] = f"bytes {first}-{last}/{size}"
    return StreamingResponse(content(first, last), 206 if satisfiable else 200, media_type=media_type, headers=told)


def is_satisfiable(wanted: str, size: int) -> bool | None:
    """Return whether a Range header can be satisfied; None if it must be ignored."""
    found = re.fullmatch(r"\s*bytes\s*=\s*(\d{0,18})-(\d{0,18})\s*", wanted, re.ASCII | re.IGNORECASE)
    if not found or found[1] == found[2] == "":
        return None
    first, last = found[1], found[2]
    if first and last and int(first) > int(last):
        return None
    return int(first) < size if first else int(last) > 0 and size > 0


def bounds(wanted: str, size: int) -> tuple[int, int]:
    """Return the first and the last byte, inclusive, of a range that is satisfiable."""
    first, _, last = wanted.partition("=")[2].strip().partition("-")
    if not first:
        return max(0, size - int(last)), size - 1
    return int(first), min(int(last), size - 1) if last else size - 1


def unsatisfiable(name: str, size: int) -> Response:
    """Build the 416 for a body of ``size`` bytes."""
    headers = {"Content-Range": f"bytes */{size}", "Accept-Ranges": "bytes"}
    return problem_response(RANGE, f"the {name} has {size} bytes", headers=headers)
