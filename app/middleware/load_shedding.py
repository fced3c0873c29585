"""What keeps answers quick when more is asked than can be done: a few at work, a few in line, the rest come later.

Promises: whoever is let in waits for a bounded number of others; whoever is not is answered at once, with a time to
come again that is a place in an imaginary line of all who were refused, served as fast as the real one was lately.
Does not promise: fairness between callers; their rates and shares (:mod:`worker.jobs.quotas`) see to that.
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

T = TypeVar("T")
SUBMISSIONS = frozenset({"/v1/generations"})
GIVEN_TO_RETURNERS = 0.5  # of what can be served; the rest is for those who come for the first time
AGAIN_MAX_S = 120


class Turnstile:
    """Runs functions in threads of its own, ``at_once`` at a time with ``in_line`` waiting; turns the rest away."""

    def __init__(self, *, at_once: int, in_line: int) -> None:
        """Start with nobody inside."""
        self._threads = CapacityLimiter(at_once)
        self._room = at_once + in_line
        self._at_once = at_once
        self._inside = 0
        self._mean_s = 0.01  # of one turn; corrected by every one that is taken
        self._line_ends = 0.0  # when the last of those who were refused may come

    async def take(self, function: Callable[..., T], *args: object) -> T:
        """Run ``function(*args)`` in a thread and return what it returns.

        Raises
        ------
        ProblemError
            503 with Retry-After, if there is no room.
        """
        self.check()
        self._inside += 1
        try:
            return await to_thread.run_sync(partial(self._timed, function, *args), limiter=self._threads)
        finally:
            self._inside -= 1

    def check(self) -> None:
        """Raise what :meth:`take` would raise at this moment."""
        if self._inside >= self._room:
            detail = f"{self._room} requests are being written down at this moment; that is the most there may be"
            raise ProblemError(BUSY, detail, headers={"Retry-After": str(self._again_s())})

    def _timed(self, function: Callable[..., T], *args: object) -> T:
        begun = time.monotonic()
        try:
            return function(*args)
        finally:
            self._mean_s += 0.05 * (time.monotonic() - begun - self._mean_s)

    def _again_s(self) -> int:
        """Seconds after which one more who was refused may come: the end of their line, which grows by one."""
        now = time.monotonic()
        turn_s = self._mean_s / (self._at_once * GIVEN_TO_RETURNERS)
        self._line_ends = min(max(self._line_ends, now) + turn_s, now + AGAIN_MAX_S)
        return max(1, math.ceil(self._line_ends - now))


class Shed:
    """Turn requests away before their bodies are read and understood, where there is no room for them anyway."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap ``app``."""
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Look at the turnstile first."""
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in SUBMISSIONS:
            try:
                scope["app"].state.desk.submissions.check()
            except ProblemError as error:
                while (await receive()).get("more_body"):  # short, and the connection can be used again
                    pass
                await problem_response(error.kind, error.detail, headers=error.headers)(scope, receive, send)
                return
        await self.app(scope, receive, send)
