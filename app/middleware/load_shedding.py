"""Load shedding for submissions: bounds how many are processed and queued at a time; the rest get 503 with Retry-After.

Promises: an accepted submission waits for a bounded number of others. A refused one is answered immediately. Its
Retry-After assumes that refused clients return one after the other, at half of the rate at which submissions were
processed lately.
Does not promise: fairness between callers. :mod:`worker.jobs.quotas` limits the rate and the jobs of each.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from anyio import CapacityLimiter, to_thread
from starlette.types import ASGIApp, Receive, Scope, Send

from app.problems.handlers import ProblemError, problem_response
from app.problems.types import BUSY
from worker.kinds.table import KINDS

T = TypeVar("T")
# Submissions processed at a time, each in a thread, and submissions that wait for one of these threads. Measured with
# 500 clients on two cores (docs/explanation/reliability.md): with 2 and 3, the slowest hundredth of submissions took 87
# ms; with 4 and 6 it took 228 ms, and not more of them were accepted.
CONCURRENT_SUBMISSIONS = 2
WAITING_SUBMISSIONS = 3
# Part of the throughput that Retry-After assigns to clients that return; new clients get the rest.
SHARE_OF_RETURNING = 0.5
RETRY_MAX_S = 120
BATCHES = "/v1/batches"
# Weight of the latest submission in the running mean of their durations: about the last 20 count.
MEAN_WEIGHT = 0.05


class SubmissionLimiter:
    """Runs functions in threads: at most ``concurrent`` at a time, at most ``waiting`` more in the queue.

    Parameters
    ----------
    concurrent
        Functions that run at a time.
    waiting
        Functions that wait for a thread; more are refused.
    """

    def __init__(self, *, concurrent: int = CONCURRENT_SUBMISSIONS, waiting: int = WAITING_SUBMISSIONS) -> None:
        self._threads = CapacityLimiter(concurrent)
        self._limit = concurrent + waiting
        self._concurrent = concurrent
        self._admitted = 0
        self._mean_s = 0.01
        self._last_return_at = 0.0  # when the client refused last was told to return, on the monotonic clock

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """Run ``function(*args)`` in a thread and return its result.

        Raises
        ------
        ProblemError
            503 with Retry-After, if the limit is reached.
        """
        self.check()
        self._admitted += 1
        try:
            return await to_thread.run_sync(partial(self._timed, function, *args), limiter=self._threads)
        finally:
            self._admitted -= 1

    def check(self) -> None:
        """Raise the ``ProblemError`` that :meth:`run` would raise now."""
        if self._admitted >= self._limit:
            detail = f"{self._limit} requests are being submitted at the moment, which is the most the service takes"
            raise ProblemError(BUSY, detail, headers={"Retry-After": str(self._retry_after_s())})

    def _timed(self, function: Callable[..., T], *args: object) -> T:
        begun = time.monotonic()
        try:
            return function(*args)
        finally:
            self._mean_s += MEAN_WEIGHT * (time.monotonic() - begun - self._mean_s)

    def _retry_after_s(self) -> int:
        """Return the seconds after which the client refused now may return: one interval after the one before it."""
        now = time.monotonic()
        interval_s = self._mean_s / (self._concurrent * SHARE_OF_RETURNING)
        self._last_return_at = min(max(self._last_return_at, now) + interval_s, now + RETRY_MAX_S)
        return max(1, math.ceil(self._last_return_at - now))


class LoadSheddingMiddleware:
    """Refuses submissions over the limit before their bodies are parsed."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._paths = frozenset({*(kind.path for kind in KINDS.values()), BATCHES})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check the limiter, then pass the request on."""
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in self._paths:
            try:
                scope["app"].state.resources.submissions.check()
            except ProblemError as error:
                # Bodies are short. A body that was read lets the client use the connection again.
                while (await receive()).get("more_body"):
                    pass
                await problem_response(error.kind, error.detail, headers=error.headers)(scope, receive, send)
                return
        await self.app(scope, receive, send)
