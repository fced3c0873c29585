"""HTTP requests that are repeated until they are answered, and streams of bytes and events.

Promises: a request is repeated after a broken connection and after 429, 502, 503 and 504, never before the time in
``Retry-After``, and for at most ``retry_for_s`` seconds; then the last error is raised. Every POST carries an
``Idempotency-Key``, the same in all its repetitions. Any other refusal is raised at once.
Does not promise: order. Each call is one request after another, in the caller's thread.
"""

from __future__ import annotations

import contextlib
import json
import random
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from cytosynth.errors import ProblemError, UnreachableError, problem_error

REPEATED = frozenset({429, 502, 503, 504})
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 8.0  # the pause doubles from one attempt to the next
CONNECT_S, READ_S = 5.0, 75.0  # the service holds a waiting request for up to 60 s
Json = dict[str, Any]


@dataclass
class Retry:
    """How long to wait before the next attempt, and when to stop trying.

    Parameters
    ----------
    limit_s
        The most seconds from the first failure, or the last progress, to the last attempt.
    """

    limit_s: float
    _attempt: int = field(default=0, init=False)
    _deadline: float | None = field(default=None, init=False)

    def wait(self, error: UnreachableError | ProblemError) -> None:
        """Sleep before another attempt, or raise ``error`` if that would take too long."""
        now = time.monotonic()
        if self._deadline is None:
            self._deadline = now + self.limit_s
        pause = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**self._attempt) * random.uniform(0.5, 1.0)
        if isinstance(error, ProblemError) and error.retry_after_s is not None:
            pause = max(pause, error.retry_after_s)
        if now + pause > self._deadline:
            raise error
        self._attempt += 1
        time.sleep(pause)

    def reset(self) -> None:
        """Forget earlier failures, because bytes or events have arrived since."""
        self._attempt, self._deadline = 0, None


@dataclass(frozen=True)
class Event:
    """One server-sent event."""

    id: str
    name: str
    data: Json


class Transport:
    """The connections to one service.

    Parameters
    ----------
    address
        Of the service, such as ``http://127.0.0.1:8000``.
    key
        API key, if the service needs one.
    retry_for_s
        How long a request is repeated, in seconds; 0: not at all.
    """

    def __init__(self, address: str, *, key: str | None, retry_for_s: float) -> None:
        self.address = address.rstrip("/")
        self.retry_for_s = retry_for_s
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(
            base_url=self.address, headers=headers, timeout=httpx.Timeout(READ_S, connect=CONNECT_S)
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def new_retry(self) -> Retry:
        """Return the pauses and the time limit of one request with all its repetitions."""
        return Retry(self.retry_for_s)

    def request(
        self,
        method: str,
        path: str,
        *,
        headers: dict[str, str] | None = None,
        body: Json | None = None,
        content: Callable[[], Iterator[bytes]] | None = None,
    ) -> httpx.Response:
        """Send a request until it is answered; return the answer.

        Parameters
        ----------
        method, path
            Of the request; the path may have a query.
        headers
            Further headers.
        body
            Sent as JSON.
        content
            Makes the bytes to send, anew for each attempt.

        Raises
        ------
        UnreachableError, ProblemError
            If no attempt succeeded, or the service refuses the request.
        """
        headers = dict(headers or {})
        if method == "POST":
            headers.setdefault("Idempotency-Key", uuid.uuid4().hex)
        retry = self.new_retry()
        while True:
            try:
                return self.attempt(method, path, headers=headers, body=body, content=content() if content else None)
            except (UnreachableError, ProblemError) as error:
                self.wait_or_raise(retry, error)

    def attempt(
        self,
        method: str,
        path: str,
        *,
        headers: dict[str, str] | None = None,
        body: Json | None = None,
        content: Iterator[bytes] | None = None,
    ) -> httpx.Response:
        """Send a request once; as :meth:`request` otherwise."""
        with self._reported():
            answer = self._http.request(method, path, headers=headers or {}, json=body, content=content)
        if answer.is_error:
            raise self._refusal(answer)
        return answer

    def document(self, method: str, path: str, **options: Any) -> Json:
        """Send a request as :meth:`request` does; return the JSON document of the answer, empty for 204."""
        answer = self.request(method, path, **options)
        if answer.status_code == 204:
            return {}
        with contextlib.suppress(ValueError):
            document = answer.json()
            if isinstance(document, dict):
                return document
        raise UnreachableError(f"{self.address} does not answer in JSON; is it a cytosynth service?")

    @contextmanager
    def stream(
        self, path: str, *, headers: dict[str, str] | None = None, read_s: float = READ_S
    ) -> Iterator[httpx.Response]:
        """Yield the answer to one GET while its body arrives; one attempt.

        Raises
        ------
        UnreachableError, ProblemError
            If the connection breaks, also later in the block, or the service refuses the request.
        """
        timeout = httpx.Timeout(read_s, connect=CONNECT_S)
        with self._reported(), self._http.stream("GET", path, headers=headers or {}, timeout=timeout) as answer:
            if answer.is_error:
                answer.read()
                raise self._refusal(answer)
            yield answer

    def events(self, path: str, *, last_id: str, until: float | None = None) -> Iterator[Event]:
        """Yield the events of a job until the service closes the stream; one attempt.

        Parameters
        ----------
        path
            Of the stream.
        last_id
            Of the last event received; empty: the latest of each kind come first.
        until
            When to give up, by the monotonic clock.

        Raises
        ------
        TimeoutError
            At ``until``.
        UnreachableError, ProblemError
            If the connection breaks, or the service refuses the request.
        """
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last_id} if last_id else {})
        read_s = READ_S if until is None else max(0.01, min(READ_S, until - time.monotonic()))
        fields: dict[str, str] = {}
        with self.stream(path, headers=headers, read_s=read_s) as answer:
            for line in answer.iter_lines():
                if until is not None and time.monotonic() > until:
                    raise TimeoutError
                if line and not line.startswith(":"):
                    name, _, value = line.partition(":")
                    fields[name] = value.removeprefix(" ")
                elif not line and "data" in fields:
                    yield Event(fields.get("id", ""), fields.get("event", "message"), json.loads(fields["data"]))
                    fields = {}

    def wait_or_raise(self, retry: Retry, error: UnreachableError | ProblemError) -> None:
        """Wait before another attempt if one may succeed, or raise ``error``."""
        if isinstance(error, ProblemError) and error.status not in REPEATED:
            raise error
        if isinstance(error.__cause__, httpx.UnsupportedProtocol):
            raise error
        retry.wait(error)

    def _refusal(self, answer: httpx.Response) -> ProblemError:
        try:
            problem = answer.json()
        except ValueError:
            problem = None
        if not isinstance(problem, dict):
            problem = {"detail": f"{self.address} answers {answer.status_code}"}
        retry_after_s = _seconds(answer.headers.get("Retry-After", ""))
        return problem_error(problem, status=answer.status_code, retry_after_s=retry_after_s)

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except httpx.RequestError as error:
            raise UnreachableError(f"{self.address} does not answer: {error or type(error).__name__}") from error


def _seconds(retry_after: str) -> float | None:
    """Return the seconds that a ``Retry-After`` header names: a number, or a date (RFC 9110, 10.2.3)."""
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        moment = parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
