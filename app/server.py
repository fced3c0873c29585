"""The HTTP server and its limits: how slow a client may be, and how many connections may be open.

Promises: the server closes a connection whose client sends headers or a body too slowly, or does not read the answer.
The number of connections leaves file descriptors for the rest of the process. A refusal by the server is a problem
document; refusals are counted by reason, and their log lines are limited.
Does not promise: fairness between addresses. A reverse proxy may limit connections by address.

uvicorn parses HTTP and calls the application. The limits are in a subclass of its protocol class, which it takes from
its setting ``http``. docs/decisions/0010-bounds-in-a-protocol-class.md compares the alternatives.
"""

from __future__ import annotations

import asyncio
import contextvars
import resource
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast
from uuid import uuid4

import h11
import structlog
import uvicorn
from asgi_correlation_id import correlation_id
from prometheus_client import CollectorRegistry, Counter
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from app.middleware.request_logs import report_suppressed
from app.middleware.security_headers import SecurityHeadersMiddleware
from app.problems.handlers import REFUSED, problem_response
from app.problems.types import (
    ADDRESS_TOO_LONG,
    BAD_REQUEST,
    HEAD_TOO_LONG,
    TOO_MANY_CONNECTIONS,
    TOO_SLOW,
    ProblemType,
)
from app.settings import AppSettings

log: structlog.stdlib.BoundLogger = structlog.get_logger("cytosynth.server")

STATE = "connections"  # key in the state that the application's lifespan passes to the server
HEALTH = frozenset({"/livez", "/readyz"})  # answered also when the limit of requests is reached
HEAD_BYTES = 16 * 1024  # most bytes of request line and headers
LINGER_S = 1.0  # seconds for which a refused client may read the refusal
SWEEP_MAX_S = 1.0  # most seconds between two checks of all connections
DRAIN_S, DRAIN_BYTES = 1.0, 64 * 1024  # time and bytes of a body that are read before its request is refused
BACKLOG = 2048  # connections that the kernel holds until they are accepted
OTHER_FILES = 128  # descriptors for the broker, pipes to the workers, libraries and the log
FILES_WANTED = 16_384  # descriptors requested from the system; more have no effect because of CONNECTIONS_MAX
CONNECTIONS_MAX = 8192


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Limits on clients and connections."""

    connections: int  # open at a time
    requests: int  # in progress at a time; each may hold further descriptors, for a file or the broker
    head_s: float  # seconds from the first byte of the headers to their end, and from the connection to that byte
    body_grace_s: float
    body_rate: float  # bytes per second, on average after the grace
    write_s: float  # seconds for which a client may read nothing of an answer

    @classmethod
    def of(cls, settings: AppSettings, *, files: int | None = None) -> Bounds:
        """Derive the limits from the settings and ``files``, the limit on open files (by default of this process)."""
        files = file_limit() if files is None else files
        room = max(8, (files - OTHER_FILES - 4 * accepted_at_once(files)) * 2 // 3)
        connections = min(room, settings.max_connections or CONNECTIONS_MAX)
        return cls(
            connections=connections,
            requests=max(1, connections // 2),
            head_s=settings.header_seconds,
            body_grace_s=settings.body_grace_seconds,
            body_rate=settings.min_body_rate,
            write_s=settings.write_seconds,
        )

    @property
    def sweep_s(self) -> float:
        """Seconds between two checks of the limits."""
        return min(SWEEP_MAX_S, min(self.head_s, self.body_grace_s, self.write_s) / 4)


def file_limit() -> int:
    """Return how many files this process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return FILES_WANTED if soft == resource.RLIM_INFINITY else soft


def raise_file_limit() -> None:
    """Raise the limit on open files as far as the system allows; the usual limit is too low for many clients."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_WANTED if hard == resource.RLIM_INFINITY else min(hard, FILES_WANTED)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def accepted_at_once(files: int) -> int:
    """Return how many connections one turn of the event loop accepts."""
    return min(128, max(8, files // 32))


class Connections:
    """State that all connections of one server share."""

    def __init__(
        self, bounds: Bounds, *, registry: CollectorRegistry | None = None, refusals: Counter | None = None
    ) -> None:
        """Start without connections; metrics go to ``registry``, and refusals to the counter of the application."""
        self.bounds = bounds
        self.waiting: dict[BoundedProtocol, None] = {}  # idle connections, the one that is idle for longest first
        self._ended = Counter(
            "cytosynth_connections_ended", "Connections ended by the server, by reason.", ("reason",), registry=registry
        )
        self._refusals = refusals
        self._sweeping = False

    def ended(self, reason: str) -> None:
        """Count and log a connection that the server ends."""
        self._ended.labels(reason).inc()
        (log.info if reason == "client_gone" else log.warning)("connection ended", reason=reason)

    def refused(self, kind: ProblemType) -> None:
        """Count a refusal."""
        if self._refusals is not None:
            self._refusals.labels(kind.code).inc()

    def sweep(self, connections: set[Any], loop: asyncio.AbstractEventLoop) -> None:
        """Check all connections regularly, as long as there are any."""
        if not self._sweeping:
            self._sweeping = True
            loop.call_later(self.bounds.sweep_s, self._check, connections, loop)

    def _check(self, connections: set[Any], loop: asyncio.AbstractEventLoop) -> None:
        self._sweeping = False
        now = loop.time()
        for connection in list(connections):
            connection.check(now)
        report_suppressed()
        if connections:
            self.sweep(connections, loop)


@dataclass
class _Clock:
    """Times and counts of one connection, in seconds of the event loop's clock."""

    head_since: float
    head_begun: bool = False
    body_since: float | None = None  # set while a body arrives
    body_bytes: int = 0
    checked: float = 0.0
    written: tuple[int, int] = (0, 0)  # changes whenever the client has read something
    written_at: float = 0.0
    refused_at: float | None = None
    resumed: int = field(default=0)


class BoundedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 protocol with limits."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: Any,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """Take the limits from the state of the application's lifespan."""
        super().__init__(config, server_state, app_state, _loop)
        if STATE not in app_state:
            app_state[STATE] = Connections(Bounds.of(AppSettings()))
        self.shared: Connections = app_state[STATE]
        self.conn = h11.Connection(h11.SERVER, HEAD_BYTES)
        self._served: ASGIApp = self.app
        self.app = self._admit
        self._clock = _Clock(self.loop.time())

    # ---------------------------------------------------------------------------------------------- arriving data

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept a connection; at the limit, close the connection that has been idle for longest."""
        super().connection_made(transport)
        self._clock = _Clock(self.loop.time())
        self.shared.sweep(self.connections, self.loop)
        if len(self.connections) > self.shared.bounds.connections:
            longest = next(iter(self.shared.waiting), None)
            if longest is None:
                self._end("no_room")
                return
            longest.make_room()
        self.shared.waiting[self] = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self.shared.waiting.pop(self, None)
        cycle = self.cycle
        if cycle is not None and cycle.response_started and not cycle.response_complete and not cycle.disconnected:
            self.shared.ended("client_gone")
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse arriving data and note the time."""
        clock = self._clock
        if clock.refused_at is not None:
            return  # discarded; it is read from the socket only so that the client receives the refusal
        if self.conn.their_state is h11.IDLE and not clock.head_begun:
            clock.head_begun, clock.head_since = True, self.loop.time()
        super().data_received(data)
        self._update_clock(len(data))

    def _update_clock(self, arrived: int = 0) -> None:
        """Note which part of a request is expected next."""
        clock, state = self._clock, self.conn.their_state
        if state is not h11.IDLE:
            clock.head_begun = False
            self.shared.waiting.pop(self, None)
        if state is not h11.SEND_BODY:
            clock.body_since = None
        elif clock.body_since is None:
            clock.body_since, clock.body_bytes = self.loop.time(), 0
        else:
            clock.body_bytes += arrived

    def on_response_complete(self) -> None:
        """Expect the next request."""
        super().on_response_complete()
        if self.transport.is_closing() or self._clock.refused_at is not None:
            return
        if self.conn.their_state is h11.IDLE:
            self._clock.head_begun = bool(self.conn.trailing_data[0])
            self._clock.head_since = self.loop.time()
            self.shared.waiting[self] = None
        self._update_clock()

    def resume_writing(self) -> None:
        """Note that the client has read something."""
        self._clock.resumed += 1
        super().resume_writing()

    def shutdown(self) -> None:
        """Close the connection when the server stops."""
        if self._clock.refused_at is not None:
            self.transport.abort()
        else:
            super().shutdown()

    # ------------------------------------------------------------------------------------------------ the limits

    def check(self, now: float) -> None:
        """Close the connection if its client is too slow."""
        clock, bounds = self._clock, self.shared.bounds
        if clock.refused_at is not None:
            if now - clock.refused_at > LINGER_S:
                self.transport.abort()
        elif self._unread(now):
            self._end("reader_too_slow")
        elif self.transport.is_closing():
            pass
        elif clock.body_since is not None:
            if self.flow.read_paused:  # the application has not taken the arrived data yet
                clock.body_since += now - clock.checked
            elif now - clock.body_since > bounds.body_grace_s + clock.body_bytes / bounds.body_rate:
                rate, grace = bounds.body_rate, bounds.body_grace_s
                detail = (
                    f"a body must arrive at {rate:g} bytes per second on average, after the first {grace:g} seconds"
                )
                self._refuse(TOO_SLOW, detail, reason="body_too_slow")
        elif self in self.shared.waiting and now - clock.head_since > bounds.head_s:
            if clock.head_begun:
                detail = f"the request line and the headers must arrive within {bounds.head_s:g} seconds"
                self._refuse(TOO_SLOW, detail, reason="head_too_slow")
            else:
                self._end("silent")
        clock.checked = now

    def _unread(self, now: float) -> bool:
        """Return whether the client has not read the answer for too long."""
        clock, held = self._clock, self.transport.get_write_buffer_size()
        state = (clock.resumed, held)
        if not held or state != clock.written:
            clock.written, clock.written_at = state, now
            return False
        return now - clock.written_at > self.shared.bounds.write_s

    def make_room(self) -> None:
        """Close this connection so that another can be accepted."""
        self.shared.waiting.pop(self, None)
        if self._clock.head_begun and self._clock.refused_at is None:
            self._refuse(TOO_MANY_CONNECTIONS, self._crowded(), reason="made_room")
            self.transport.close()
        else:
            self._end("made_room")

    def _end(self, reason: str) -> None:
        """Close the connection immediately."""
        self.shared.ended(reason)
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
        self.transport.abort()

    # -------------------------------------------------------------------------------------------------- refusals

    def send_400_response(self, msg: str) -> None:
        """Answer a request that is not HTTP; uvicorn calls this method when its parser fails."""
        arrived = self.conn.trailing_data[0]
        if len(arrived) <= HEAD_BYTES:
            self._refuse(BAD_REQUEST, "this is not an HTTP/1.1 request", reason="malformed")
        elif b"\n" in arrived:
            self._refuse(
                HEAD_TOO_LONG, f"request line and headers may have at most {HEAD_BYTES} bytes", reason="malformed"
            )
        else:
            self._refuse(ADDRESS_TOO_LONG, f"the request line may have at most {HEAD_BYTES} bytes", reason="malformed")

    def _refuse(self, kind: ProblemType, detail: str, *, reason: str) -> None:
        """Answer with a problem instead of the application, and close the connection."""
        self._unset_keepalive_if_required()
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            if cycle.response_started:
                self._end(reason)
                return
            cast(dict[str, Any], self.scope)[REFUSED] = kind
            cycle.disconnected = True
            cycle.message_event.set()
        else:
            self.shared.refused(kind)  # the application has not counted it
        self.shared.ended(reason)
        self._clock.refused_at = self.loop.time()
        response = refusal(kind, detail)
        headers = [*self.server_state.default_headers, *response.raw_headers]
        try:
            parts = [
                self.conn.send(h11.Response(status_code=kind.status, headers=headers)),
                self.conn.send(h11.Data(data=bytes(response.body))),
                self.conn.send(h11.EndOfMessage()),
            ]
        except h11.LocalProtocolError:  # the answer was sent before the request was complete
            self.transport.abort()
            return
        self.transport.write(b"".join(part or b"" for part in parts))
        # The client may still be sending. Closing a socket with unread data would discard the refusal.
        self.transport.write_eof()
        self.flow.resume_reading()

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on to the application unless a limit is exceeded."""
        if len(scope["raw_path"]) + len(scope["query_string"]) > HEAD_BYTES:
            problem = (ADDRESS_TOO_LONG, f"the request line may have at most {HEAD_BYTES} bytes")
        elif sum(len(name) + len(value) for name, value in scope["headers"]) > HEAD_BYTES:
            problem = (HEAD_TOO_LONG, f"request line and headers may have at most {HEAD_BYTES} bytes")
        elif len(self.tasks) > self.shared.bounds.requests and scope["path"] not in HEALTH:
            problem = (TOO_MANY_CONNECTIONS, self._crowded())
        else:
            await self._served(scope, receive, send)
            return
        self.shared.refused(problem[0])
        await _drain(receive)
        await refusal(*problem)(scope, receive, send)

    def _crowded(self) -> str:
        bounds = self.shared.bounds
        return f"at most {bounds.connections} connections and {bounds.requests} requests at a time are allowed"


async def _drain(receive: Receive) -> None:
    """Read a short body, so that the connection is not reset before the client has read the answer."""
    left = DRAIN_BYTES
    try:
        async with asyncio.timeout(DRAIN_S):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if not message.get("more_body"):
                    return
    except TimeoutError:
        return


def refusal(kind: ProblemType, detail: str) -> Response:
    """Build a problem document outside the application, with the headers that the application adds to all answers."""

    def build() -> Response:
        number = uuid4().hex
        correlation_id.set(number)
        security = {name.decode(): value.decode() for name, value in SecurityHeadersMiddleware.HEADERS}
        return problem_response(kind, detail, headers={**security, "X-Request-ID": number, "Connection": "close"})

    return contextvars.copy_context().run(build)


# ------------------------------------------------------------------------------------------------------------ starting


class PortInUseError(Exception):
    """Another process listens on the port."""


def listen(host: str, port: int) -> socket.socket:
    """Open the port, before anything else is started, so that a second service fails immediately."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise PortInUseError(f"cannot listen on {host} port {port}: {error.strerror or error}") from error


def server_config(app: Callable[..., Any], *, grace_s: int | None = None) -> uvicorn.Config:
    """Return the configuration of uvicorn; no other place configures it."""
    return uvicorn.Config(
        app,
        http=BoundedProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=accepted_at_once(file_limit()),
        timeout_graceful_shutdown=grace_s,
    )


class BoundedServer(uvicorn.Server):
    """uvicorn's server on a listening socket; one turn of the event loop accepts a limited number of connections."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then restore the backlog of the kernel, which the event loop has set to the limit of one turn."""
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(BACKLOG)


def serve_web(app: Callable[..., Any], listener: socket.socket) -> None:
    """Run the web application, without broker and workers, until a signal ends it."""
    BoundedServer(server_config(app)).run(sockets=[listener])
