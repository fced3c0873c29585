"""Logs of the web service: one line per event, with the request id; never bodies, never keys.

Promises: events that clients can cause at will (refusals, ended connections, errors) are limited to a number of lines
per kind and interval. The suppressed lines are counted, and the count is logged.
"""

from __future__ import annotations

import logging
import sys
import time
from collections import defaultdict

import structlog
import structlog.tracebacks
from asgi_correlation_id import correlation_id
from structlog.typing import EventDict, Processor, WrappedLogger

from app.settings import AppSettings

log: structlog.stdlib.BoundLogger = structlog.get_logger("cytosynth.logs")
CAUSED_BY_CLIENTS = frozenset({"refused", "connection ended"})
# Local variables of a traceback hold request bodies, and headers with the key: they are not logged.
WITHOUT_LOCALS = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)


LINES_MAX = 20  # lines of one kind per interval
INTERVAL_S = 10.0
KINDS_MAX = 1000  # kinds that are counted apart; all others count as one kind
SERVER_LOGS = ("uvicorn.error", "asyncio")  # loggers of the standard library whose lines clients can cause


class LineLimit:
    """Passes a number of lines per kind and interval, and counts the others."""

    def __init__(self, *, lines: int = LINES_MAX, interval_s: float = INTERVAL_S) -> None:
        """Start with nothing suppressed."""
        self._lines, self._interval_s, self._ends = lines, interval_s, time.monotonic() + interval_s
        self._seen: defaultdict[str, int] = defaultdict(int)

    def passes(self, kind: str) -> bool:
        """Return whether one more line of this kind may be written."""
        if kind not in self._seen and len(self._seen) >= KINDS_MAX:
            kind = "others"
        self._seen[kind] += 1
        return self._seen[kind] <= self._lines

    def suppressed(self) -> dict[str, int]:
        """Return the number of suppressed lines by kind, once after each interval; otherwise nothing."""
        if time.monotonic() < self._ends:
            return {}
        counts = {kind: count - self._lines for kind, count in self._seen.items() if count > self._lines}
        self._seen.clear()
        self._ends = time.monotonic() + self._interval_s
        return counts


LIMIT = LineLimit()


def report_suppressed(limit: LineLimit = LIMIT) -> None:
    """Log how many lines were suppressed in the last interval, once; call it regularly."""
    for kind, lines in limit.suppressed().items():
        log.warning("lines suppressed", of=kind, lines=lines)


def limit_lines(_: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Drop a line beyond the limit of its kind. Debug and info lines that clients do not cause are not limited."""
    kind = "/".join(str(event[part]) for part in ("event", "code", "reason") if part in event)[:120]
    bounded = method not in ("debug", "info") or event.get("event") in CAUSED_BY_CLIENTS
    if bounded and not LIMIT.passes(kind):
        raise structlog.DropEvent
    return event


class _ServerLines(logging.Filter):
    """Applies the limit to the lines of uvicorn and the event loop."""

    def filter(self, record: logging.LogRecord) -> bool:
        return LIMIT.passes(f"{record.name}/{str(record.msg).partition(chr(10))[0][:80]}")


def configure_logs(settings: AppSettings) -> None:
    """Send the log to standard error, as text or as JSON lines."""
    for name in SERVER_LOGS:
        logger = logging.getLogger(name)
        if not any(isinstance(known, _ServerLines) for known in logger.filters):
            logger.addFilter(_ServerLines())
    rendering: list[Processor] = (
        [structlog.processors.ExceptionRenderer(WITHOUT_LOCALS), structlog.processors.JSONRenderer()]
        if settings.log_json
        else [
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
        ]
    )
    structlog.configure(
        processors=[
            limit_lines,
            structlog.contextvars.merge_contextvars,  # the id of the caller's key
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _add_request_id,
            *rendering,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, settings.log_level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


def _add_request_id(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    if (request_id := correlation_id.get()) is not None:
        event["request_id"] = request_id
    return event
