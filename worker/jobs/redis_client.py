"""Connections to the broker that detect within seconds that it is down or frozen, and raise our own error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from worker.broker.urls import redis_url
from worker.errors import QueueUnavailableError

SILENCE_S = 5.0  # seconds; the longest wait for an answer on an open connection
REFUSALS = ("MISCONF", "OOM", "READONLY", "LOADING", "MASTERDOWN")  # the server runs but does not accept writes


def connect(url: str) -> redis.Redis:
    """Return a client that connects when it is first used; threads may share it."""
    return redis.Redis.from_url(redis_url(url), retry=Retry(_backoff(), 2, supported_errors=_CUT), **_options(url))


def connect_async(url: str) -> redis.asyncio.Redis:
    """Return a client for one event loop."""
    retry = AsyncRetry(_backoff(), 2, supported_errors=_CUT)
    return redis.asyncio.Redis.from_url(redis_url(url), retry=retry, **_options(url))


@contextmanager
def reachable() -> Iterator[None]:
    """Turn every error of the broker or the connection into ``QueueUnavailableError``."""
    try:
        yield
    except (redis.ConnectionError, redis.TimeoutError) as error:
        raise _unavailable() from error
    except redis.ResponseError as error:
        if not str(error).startswith(REFUSALS):
            raise
        raise _unavailable() from error


# A command is repeated after a cut connection (the broker was restarted), but not after a timeout, which took seconds.
# All our commands may be repeated.
_CUT = (redis.ConnectionError,)


def _backoff() -> ExponentialBackoff:
    return ExponentialBackoff(cap=0.2, base=0.02)


def _options(url: str) -> dict[str, Any]:
    options: dict[str, Any] = {
        "decode_responses": True,
        "socket_timeout": SILENCE_S,  # a frozen broker would otherwise block the caller for ever
        "health_check_interval": 10,  # a connection that was cut while idle is detected before it is used
    }
    if not redis_url(url).startswith("unix:"):
        options |= {"socket_connect_timeout": 3.0, "socket_keepalive": True}
    return options


def _unavailable() -> QueueUnavailableError:
    return QueueUnavailableError("the queue does not answer at the moment; try again in a few seconds")


PREFIX = "cytosynth:"


BLOCK_S = 2.0  # of one blocking read; below the socket's timeout, so that a dead broker is noticed


def event_id(text: str) -> str:
    """Return a stream id; anything else starts from the beginning (a ``Last-Event-ID`` is the client's to choose)."""
    time_part, dash, count = text.partition("-")
    good = all(part.isascii() and part.isdigit() and len(part) < 19 for part in (time_part, count or "0"))
    return text if good and bool(dash) == bool(count) else "0"


def block_ms(left_s: float) -> int | None:
    """Return how long one read may block; None: not at all (0 would mean for ever)."""
    return int(min(left_s, BLOCK_S) * 1000) or None if left_s > 0 else None
