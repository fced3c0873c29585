"""Compression by Accept-Encoding (RFC 9110 §12.5.3): zstd or gzip for text; other bodies are sent unchanged.

JSON, OBJ, pages and scripts shrink to a third or less. STL, TIFF, PNG, PLY and archives hardly shrink.

Promises: a body that is streamed is compressed while it is sent and never held in memory as a whole. A compressed
answer has a weak ETag, so that no client joins byte ranges of different codings; a request for a range is answered
without compression. Event streams are never compressed, because a compressor would delay events.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Protocol

import zstandard
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.responses.negotiation import weighted
from model.formats import FORMATS

LEAST_BYTES = 1000  # shorter bodies are sent unchanged: they fit into one network packet anyway
GZIP_LEVEL, ZSTD_LEVEL = 5, 3
# Of answers beside files, and of formats. Chunks of Zarr arrays are application/octet-stream, so JSON is always text.
TEXTS = {
    "application/json", "application/problem+json", "application/javascript", "application/openapi+json",
    "image/svg+xml",
} | {row.media_type for row in FORMATS.values() if row.text}  # fmt: skip
EVENTS = "text/event-stream"


class _Encoder(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


def _gzip() -> _Encoder:
    return zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, 31)  # 31: with the header of gzip


def _zstd() -> _Encoder:
    return zstandard.ZstdCompressor(level=ZSTD_LEVEL).compressobj()


# In the order of our preference, for clients that have none.
CODINGS: dict[str, Callable[[], _Encoder]] = {"zstd": _zstd, "gzip": _gzip}


class CompressionMiddleware:
    """Compresses bodies of text."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        coding = None if "range" in headers else preferred_coding(headers.get("accept-encoding"))
        answer = _Answer(send, coding=coding, head=scope["method"] == "HEAD")
        await self._app(scope, receive, answer.send)


class _Answer:
    """The answer to one request, message by message."""

    def __init__(self, send: Send, *, coding: str | None, head: bool) -> None:
        self._send, self._coding, self._head = send, coding, head
        self._start: Message | None = None
        self._encoder: _Encoder | None = None

    async def send(self, message: Message) -> None:
        """Pass a message on, compressed if the answer is to be compressed."""
        if message["type"] == "http.response.start":
            if message["status"] == 304:
                self._describe_unmodified(message)
            elif is_text(message):
                MutableHeaders(raw=message["headers"]).add_vary_header("Accept-Encoding")
                if self._coding is not None and message["status"] not in (204, 206):
                    self._start = message  # held back until the body shows its length
                    return
            await self._send(message)
        elif message["type"] == "http.response.body" and (self._start is not None or self._encoder is not None):
            await self._encode(message)
        else:
            await self._send(message)

    async def _encode(self, message: Message) -> None:
        body, more = message.get("body", b""), message.get("more_body", False)
        if self._start is not None:
            start, self._start = self._start, None
            headers = MutableHeaders(raw=start["headers"])
            length = int(headers.get("content-length") or (-1 if more or self._head else len(body)))
            if 0 <= length < LEAST_BYTES:
                await self._send(start)
                await self._send(message)
                return
            encoder = CODINGS[self._coding or ""]()
            if not more and not self._head:
                body = encoder.compress(body) + encoder.flush()
            elif not self._head:
                self._encoder = encoder
            self._describe(headers, length=None if more or self._head else len(body))
            await self._send(start)
        if self._encoder is not None:
            body = self._encoder.compress(body)
            if not more:
                body += self._encoder.flush()
            elif not body:
                return
        await self._send({"type": "http.response.body", "body": body, "more_body": more})

    def _describe(self, headers: MutableHeaders, *, length: int | None) -> None:
        headers["Content-Encoding"] = self._coding or ""
        for name in ("content-length", "accept-ranges"):
            del headers[name]
        if length is not None:
            headers["Content-Length"] = str(length)
        _weaken(headers)

    def _describe_unmodified(self, start: Message) -> None:
        """Give a 304 the Vary and the ETag of the 200 that it stands for (RFC 9110 §15.4.5).

        The application states the type and the length of that 200; a 304 itself has neither.
        """
        headers = MutableHeaders(raw=start["headers"])
        if is_text(start):
            headers.add_vary_header("Accept-Encoding")
            if self._coding is not None and int(headers.get("content-length", LEAST_BYTES)) >= LEAST_BYTES:
                _weaken(headers)
        for name in ("content-type", "content-length"):
            del headers[name]


def _weaken(headers: MutableHeaders) -> None:
    if (etag := headers.get("etag")) and not etag.startswith("W/"):
        headers["ETag"] = f"W/{etag}"


def is_text(start: Message) -> bool:
    """Return whether the answer that begins with this message is text that is not compressed yet."""
    headers = Headers(raw=start["headers"])
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    return "content-encoding" not in headers and kind != EVENTS and (kind.startswith("text/") or kind in TEXTS)


def preferred_coding(accepted: str | None) -> str | None:
    """Return the coding of :data:`CODINGS` that an Accept-Encoding header prefers; None if it accepts none."""
    weights = dict(weighted(accepted))
    others = weights.get("*", 0.0)
    ranked = {name: weights.get(name, others) for name in CODINGS}
    best = max(ranked, key=lambda name: ranked[name])  # the first of equals
    return best if ranked[best] > 0.0 and ranked[best] >= weights.get("identity", 0.0) else None
