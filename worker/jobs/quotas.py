"""Quotas of a caller: its rate of requests, its number of active jobs, and when to try again after a refusal.

The broker decides for all web processes, each decision in one script. To keep a caller within its share of the queue, a
place is reserved before the job is written and returned once the job is submitted. Reserved places count as active
jobs meanwhile, so that the share is not exceeded by requests that arrive at the same time.

====================  ========================================================================================
``rate:<owner>``      hash, a bucket of tokens and when it was filled last
``places:<owner>``    sorted set of reserved places, by when they expire
====================  ========================================================================================

Promises: no caller ever has more active jobs than its share. A bucket gives at most ``burst`` tokens at once and
``rate`` tokens a second after that.
Does not promise: exact waiting times; they are extrapolated from the last minutes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Self

import redis
import redis.asyncio

from worker.errors import QueueUnavailableError
from worker.jobs.records import JobOptions, JobRules
from worker.jobs.redis_client import PREFIX, connect, connect_async, reachable
from worker.jobs.redis_store import fingerprint, result_key

LUA = Path(__file__).with_name("lua")
RESERVATION_S = 30.0  # seconds after which a reserved place expires, if the process that reserved it died
WINDOW_S = 300.0  # seconds of the past in which ended jobs are counted
WAIT_MAX_S = 600.0  # the longest Retry-After
FRESH_S, KNOWN_MAX = 1.0, 1000
ATTEMPTS, UNKNOWN = 5, -1


@dataclass(frozen=True, kw_only=True)
class QueueThroughput:
    """Active jobs of all callers and of one, and how many jobs ended per second in the last minutes."""

    active: int
    own: int
    per_second: float

    def until_one_of_own_ends(self) -> int:
        """Estimate the seconds until one of the caller's jobs ends, if they end as often as those of others."""
        return _clipped(self.active / (max(1, self.own) * self.per_second) if self.per_second else None)

    def until_room(self) -> int:
        """Estimate the seconds until a twentieth of a full queue has ended, so that refused callers find room."""
        return _clipped(self.active / (20 * self.per_second) if self.per_second else None)


class OverShareError(Exception):
    """The caller has as many active jobs as it may have. Not a ``CytosynthError``: ``app`` writes the message."""

    def __init__(self, throughput: QueueThroughput) -> None:
        super().__init__(f"{throughput.own} active jobs")
        self.throughput = throughput


class Quota:
    """Shares of the queue. Threads may share it.

    Parameters
    ----------
    assure
        :meth:`worker.jobs.QueueAdmin.assure`, because a broker that has lost records counts too few jobs.
    """

    def __init__(
        self,
        client: redis.Redis,
        *,
        assure: Callable[[], None],
        rules: JobRules | None = None,
        prefix: str = PREFIX,
    ) -> None:
        self._redis, self._prefix, self._rules, self._assure = client, prefix, rules or JobRules(), assure
        self._known: dict[str, tuple[float, QueueThroughput]] = {}
        self._throughput_script = client.register_script(_script("throughput"))
        self._reserve = client.register_script(_script("reserve"))

    @classmethod
    def connect(
        cls, url: str, *, assure: Callable[[], None], rules: JobRules | None = None, prefix: str = PREFIX
    ) -> Self:
        """Connect lazily."""
        return cls(connect(url), assure=assure, rules=rules, prefix=prefix)

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()

    def throughput(self, owner: str) -> QueueThroughput:
        """Return the throughput, at most a second old; raises ``QueueUnavailableError``."""
        now = time.monotonic()
        seen, throughput = self._known.get(owner, (-math.inf, None))
        if throughput is not None and now - seen < FRESH_S:
            return throughput  # so that many refused requests do not make the broker count each time
        with reachable():
            answer = self._throughput_script(
                args=[self._prefix, owner, WINDOW_S, self._rules.retention_s, self._rules.record_s]
            )
        active, own, ended = (int(number) for number in answer)
        throughput = QueueThroughput(active=active, own=own, per_second=ended / WINDOW_S)
        if len(self._known) >= KNOWN_MAX:
            self._known.clear()
        self._known[owner] = (now, throughput)
        return throughput

    @contextmanager
    def reservation(
        self,
        owner: str,
        *,
        share: int,
        digest: str,
        idempotency_key: str | None = None,
        options: JobOptions | None = None,
        places: int = 1,
    ) -> Iterator[None]:
        """Reserve places among the caller's active jobs while as many are submitted: all of them or none.

        A request that an existing job answers, by its digest or its Idempotency-Key, needs no place.

        Raises
        ------
        OverShareError
            If the caller has ``share`` active jobs.
        QueueUnavailableError
            If the broker does not answer, or keeps losing its records.
        """
        token = token_hex(8)
        key = fingerprint(owner, idempotency_key) if idempotency_key is not None else ""
        result = result_key({"owner": owner, "digest": digest, **(options or JobOptions()).members()})
        for _ in range(ATTEMPTS):
            with reachable():
                free = self._reserve(args=[self._prefix, owner, share, token, RESERVATION_S, result, key, places])
            if free != UNKNOWN:
                break
            self._assure()
        else:
            raise QueueUnavailableError("the queue has just lost its records and restores them; try again in a moment")
        if not free:
            raise OverShareError(self.throughput(owner))
        try:
            yield
        finally:
            # The job is submitted; a place that cannot be returned expires by itself.
            with suppress(QueueUnavailableError), reachable():
                self._redis.zrem(f"{self._prefix}places:{owner}", *(f"{token}:{n + 1}" for n in range(places)))


class Rates:
    """Token buckets, for an event loop."""

    def __init__(self, client: redis.asyncio.Redis, *, prefix: str = PREFIX) -> None:
        self._redis, self._prefix = client, prefix
        self._take = client.register_script(_script("take"))

    @classmethod
    def connect(cls, url: str, *, prefix: str = PREFIX) -> Self:
        """Connect lazily; use it within one event loop."""
        return cls(connect_async(url), prefix=prefix)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    async def take(self, owner: str, *, rate: float, burst: int) -> float:
        """Take a token; returns 0, or the seconds until there is one.

        Raises
        ------
        QueueUnavailableError
            If the broker does not answer.
        """
        with reachable():
            return float(await self._take(args=[self._prefix, owner, rate, burst]))


def _script(name: str) -> str:
    return "".join((LUA / f"{part}.lua").read_text(encoding="utf-8") for part in ("prelude", name))


def _clipped(seconds: float | None) -> int:
    # No job has ended lately, so the rate is unknown: a moderate time.
    return 30 if seconds is None else max(1, math.ceil(min(seconds, WAIT_MAX_S)))
