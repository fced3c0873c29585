"""Fair shares of one service: how fast a caller may ask, how many of its jobs may wait, when to ask again.

What must be decided once for all web processes is decided in the broker, each decision in one script. A caller's share
of the queue is a promise made before the job is written: a place is reserved, the job is submitted, the place is given
back; whoever counts meanwhile counts both. So the share is never exceeded, however many requests arrive at once.

====================  ========================================================================================
``rate:<owner>``      hash, a bucket of tokens and when it was filled last
``places:<owner>``    sorted set of reserved places, by when they run out
====================  ========================================================================================

Promises: no caller ever has more active jobs than its share; a bucket gives out at most ``burst`` tokens at once and
``rate`` a second after that.
Does not promise: that a waiting time is exact; it is what the last minutes suggest.
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
RESERVATION_S = 30.0  # a reserved place whose caller died runs out by itself
WINDOW_S = 300.0  # of the past that tells how fast jobs end
WAIT_MAX_S = 600.0  # nobody plans further ahead
FRESH_S, KNOWN_MAX = 1.0, 1000
ATTEMPTS, UNKNOWN = 5, -1


@dataclass(frozen=True, kw_only=True)
class QueueThroughput:
    """How the queue moves: active jobs of all and of one caller, and jobs that ended a second lately."""

    active: int
    own: int
    per_second: float

    def until_one_of_own_ends(self) -> int:
        """Seconds until one of the caller's jobs has probably ended: its share of the ends equals its share of jobs."""
        return _clipped(self.active / (max(1, self.own) * self.per_second) if self.per_second else None)

    def until_room(self) -> int:
        """Seconds until a twentieth of a full queue has probably gone, so that not all who were refused meet again."""
        return _clipped(self.active / (20 * self.per_second) if self.per_second else None)


class OverShareError(Exception):
    """The caller has as many active jobs as one may have. No error of the client's tree: the web words it."""

    def __init__(self, throughput: QueueThroughput) -> None:
        super().__init__(f"{throughput.own} active jobs")
        self.throughput = throughput


class Quota:
    """Shares of the queue. Threads may share it.

    Parameters
    ----------
    assure
        :meth:`worker.jobs.JobQueue.assure`: a broker that has lost its records counts too few.
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
        """Return how the queue moves, as it was at most a second ago; raises ``QueueUnavailableError``."""
        now = time.monotonic()
        seen, throughput = self._known.get(owner, (-math.inf, None))
        if throughput is not None and now - seen < FRESH_S:
            return throughput  # a crowd that is refused must not keep the broker busy counting
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
    ) -> Iterator[None]:
        """Hold a place among the caller's active jobs while one is submitted.

        A request that will be answered by a job that exists already (its digest or its Idempotency-Key says so) needs
        no place.

        Raises
        ------
        OverShareError
            If the caller has ``share`` active jobs.
        QueueUnavailableError
            If the broker does not answer, or loses its records faster than they can be restored.
        """
        token = token_hex(8)
        key = fingerprint(owner, idempotency_key) if idempotency_key is not None else ""
        result = result_key({"owner": owner, "digest": digest, **(options or JobOptions()).members()})
        for _ in range(ATTEMPTS):
            with reachable():
                free = self._reserve(args=[self._prefix, owner, share, token, RESERVATION_S, result, key])
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
            # The job is in; a place that cannot be given back runs out by itself.
            with suppress(QueueUnavailableError), reachable():
                self._redis.zrem(f"{self._prefix}places:{owner}", token)


class Rates:
    """Buckets of tokens, for an event loop."""

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
    # Nothing has ended lately, so nothing is known: a time that is worth waiting for, and not long.
    return 30 if seconds is None else max(1, math.ceil(min(seconds, WAIT_MAX_S)))
