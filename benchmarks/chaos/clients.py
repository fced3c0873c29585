"""Pipelines: each asks for jobs one after the other, follows them to their end and checks every byte.

A client does what a careful one would: one Idempotency-Key a request, again after an error or a refusal, for as long as
it takes. What it was promised with a 2xx answer it holds the service to.
"""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx

from benchmarks.chaos.truth import Order

FINAL = frozenset({"succeeded", "failed", "canceled", "expired"})
POLL_S = 0.25
GIVE_UP_S = 180.0  # on one job; then it counts as lost
KEPT_SHARE = 0.3  # of the jobs; the others are removed once checked, so that the same request is carried out again


@dataclass
class Ledger:
    """What clients were promised and what they got. Threads share it."""

    wanted: int
    accepted: dict[str, str] = field(default_factory=dict)  # job → Idempotency-Key
    ended: dict[str, str] = field(default_factory=dict)  # job → final state
    removed: set[str] = field(default_factory=set)
    complaints: list[tuple[str, str]] = field(default_factory=list)  # kind, what happened
    reused: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)
    faults_done: threading.Event = field(default_factory=threading.Event)

    def complain(self, kind: str, what: str) -> None:
        """Write down that a promise was broken: ``lost``, ``duplicated`` or ``wrong_bytes``."""
        with self.lock:
            self.complaints.append((kind, what))
        print(f"  !! {kind}: {what}")

    def count(self, kind: str) -> int:
        """Return how often a kind of promise was broken."""
        return sum(one == kind for one, _ in self.complaints)

    def enough(self) -> bool:
        """Whether no client need ask for more."""
        return self.faults_done.is_set() and len(self.accepted) >= self.wanted


class Client(threading.Thread):
    """One pipeline with requests of its own, so that no other removes what it still needs."""

    def __init__(self, address: str, orders: Sequence[Order], ledger: Ledger, *, seed: int) -> None:
        super().__init__(name=f"client-{seed}", daemon=True)  # a driver that fails must end
        self._http = httpx.Client(base_url=address, timeout=10.0)
        self._orders, self._ledger, self._rng = orders, ledger, random.Random(seed)

    def run(self) -> None:
        """Work until there is enough."""
        with self._http:
            while not self._ledger.enough():
                order = self._rng.choice(self._orders)
                job_id, known = self._submit(order)
                if job_id is None:
                    continue
                if known:
                    self._ledger.reused += 1
                self._follow(job_id, order)

    def _submit(self, order: Order) -> tuple[str | None, bool]:
        key, deadline = uuid4().hex, time.monotonic() + GIVE_UP_S
        while time.monotonic() < deadline:
            for name, content in order.uploads.items():
                self._ask("PUT", f"/v1/uploads/{name}", content=content)
            answer = self._ask("POST", order.path, json=order.body, headers={"Idempotency-Key": key})
            if answer is not None and answer.status_code in (200, 202):
                job_id = answer.json()["id"]
                again = self._ask("POST", order.path, json=order.body, headers={"Idempotency-Key": key})
                if again is not None and again.is_success and again.json()["id"] != job_id:
                    self._ledger.complain("duplicated", f"one key, two jobs: {job_id} and {again.json()['id']}")
                with self._ledger.lock:
                    known = job_id in self._ledger.accepted
                    self._ledger.accepted.setdefault(job_id, key)
                return job_id, known
            if answer is not None and answer.status_code not in (429, 503, 507):
                self._ledger.complain("lost", f"a good request was answered with {answer.status_code}: {answer.text}")
                return None, False
            time.sleep(POLL_S)
        self._ledger.complain("lost", "no job was accepted any more")
        return None, False

    def _follow(self, job_id: str, order: Order) -> None:
        deadline = time.monotonic() + GIVE_UP_S
        while time.monotonic() < deadline:
            answer = self._ask("GET", f"/v1/jobs/{job_id}")
            if answer is not None and answer.status_code == 404:
                self._ledger.complain("lost", f"job {job_id} was accepted and is unknown")
                return
            if answer is not None and answer.status_code == 200 and (state := answer.json()["state"]) in FINAL:
                self._end(job_id, state, answer.json(), order)
                return
            time.sleep(POLL_S)
        self._ledger.complain("lost", f"job {job_id} did not end")

    def _end(self, job_id: str, state: str, job: dict[str, Any], order: Order) -> None:
        before = self._ledger.ended.setdefault(job_id, state)
        if before != state:
            self._ledger.complain("duplicated", f"job {job_id} ended as {before} and then as {state}")
        if state != "succeeded":
            self._ledger.complain("lost", f"job {job_id} ended as {state}: {job['error']}")
            return
        for name, sha256 in order.files.items():
            place = "manifest" if name == "manifest.json" else f"files/{name}"
            answer = self._insist(f"/v1/jobs/{job_id}/{place}")
            if answer is None or answer.status_code != 200:
                self._ledger.complain("lost", f"file {name} of job {job_id} cannot be had")
            elif hashlib.sha256(answer.content).hexdigest() != sha256:
                self._ledger.complain("wrong_bytes", f"file {name} of job {job_id} differs")
        if self._rng.random() > KEPT_SHARE:
            self._remove(job_id)

    def _remove(self, job_id: str) -> None:
        with self._ledger.lock:
            self._ledger.removed.add(job_id)
        for _ in range(200):
            answer = self._ask("DELETE", f"/v1/jobs/{job_id}")
            if answer is not None and answer.status_code in (204, 404):
                return
            time.sleep(POLL_S)

    def _insist(self, path: str) -> httpx.Response | None:
        """Get something that was promised; a refusal for the time being is not the end."""
        deadline = time.monotonic() + GIVE_UP_S
        while time.monotonic() < deadline:
            answer = self._ask("GET", path)
            if answer is not None and answer.status_code < 500:
                return answer
            time.sleep(POLL_S)
        return None

    def _ask(self, method: str, path: str, **options: Any) -> httpx.Response | None:
        try:
            answer = self._http.request(method, path, **options)
        except httpx.HTTPError:
            return None  # nobody there just now
        self._ledger.statuses[answer.status_code] += 1
        return answer
