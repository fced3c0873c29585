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

from benchmarks.chaos.receiver import Receiver
from benchmarks.chaos.truth import Order

FINAL = frozenset({"succeeded", "failed", "canceled", "expired"})
POLL_S = 0.25
GIVE_UP_S = 1800.0  # on one job, also where other work slows this machine down; then it counts as lost
KEPT_SHARE = 0.3  # of the jobs; the others are removed once checked, so that the same request is carried out again
BATCH_SHARE = 0.15  # of the requests that are sent together with others
BATCH = 3  # requests in a batch


@dataclass
class Ledger:
    """What clients were promised and what they got. Threads share it."""

    wanted: int
    accepted: dict[str, str] = field(default_factory=dict)  # job → Idempotency-Key
    ended: dict[str, str] = field(default_factory=dict)  # job → final state
    removed: set[str] = field(default_factory=set)
    complaints: list[tuple[str, str]] = field(default_factory=list)  # kind, what happened
    reused: int = 0
    kinds: Counter[str] = field(default_factory=Counter)  # jobs whose files were compared, by kind
    shards: Counter[str] = field(default_factory=Counter)  # of those: divided jobs, and their shards
    batches: int = 0  # of which all that was checked, and the message about their end had come
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

    def accept(self, job_id: str, key: str) -> bool:
        """Note that a job was promised; return whether it had been before."""
        with self.lock:
            known = job_id in self.accepted
            self.accepted.setdefault(job_id, key)
            self.reused += known
        return known

    def enough(self) -> bool:
        """Whether no client need ask for more."""
        return self.faults_done.is_set() and len(self.accepted) >= self.wanted


class Client(threading.Thread):
    """One pipeline with requests of its own, so that no other removes what it still needs."""

    def __init__(
        self, address: str, orders: Sequence[Order], ledger: Ledger, *, receiver: Receiver | None = None, seed: int
    ) -> None:
        super().__init__(name=f"client-{seed}", daemon=True)  # a driver that fails must end
        self._http = httpx.Client(base_url=address, timeout=10.0)
        self._orders, self._ledger, self._rng = orders, ledger, random.Random(seed)
        self._receiver = receiver

    def run(self) -> None:
        """Send each request once, then work until there is enough."""
        with self._http:
            for order in self._orders:
                self._send(order)
            while not self._ledger.enough():
                if self._receiver is not None and self._rng.random() < BATCH_SHARE:
                    self._send_together(self._rng.choices(self._orders, k=BATCH), self._receiver)
                else:
                    self._send(self._rng.choice(self._orders))

    def _send(self, order: Order) -> None:
        self._upload(order)
        key = uuid4().hex
        if (accepted := self._promised(order.path, order.body, key)) is not None:
            self._ledger.accept(accepted["id"], key)
            self._follow(accepted["id"], order)
            if self._rng.random() > KEPT_SHARE:
                self._remove(f"/v1/jobs/{accepted['id']}", [accepted["id"]])

    def _send_together(self, orders: Sequence[Order], receiver: Receiver) -> None:
        """Send a batch, follow its jobs and wait for the message about its end."""
        for order in orders:
            self._upload(order)
        key = uuid4().hex
        body = {"jobs": [{"kind": order.kind, "spec": order.body} for order in orders], "webhook": receiver.url}
        batch = self._promised("/v1/batches", body, key)
        if batch is None:
            return
        listed = self._get_until_answered(f"/v1/jobs?batch={batch['id']}")
        jobs = [job["id"] for job in reversed(listed.json()["jobs"])] if listed is not None else []
        if len(jobs) != len(orders):
            self._ledger.complain("lost", f"batch {batch['id']} has {len(jobs)} of {len(orders)} jobs")
            return
        for job_id in jobs:
            self._ledger.accept(job_id, key)
        for job_id, order in zip(jobs, orders, strict=True):
            self._follow(job_id, order)
        deadline = time.monotonic() + GIVE_UP_S
        while not receiver.has(batch["id"]) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        if not receiver.has(batch["id"]):
            self._ledger.complain("lost", f"nobody was told of the end of batch {batch['id']}")
        with self._ledger.lock:
            self._ledger.batches += 1
        if self._rng.random() > KEPT_SHARE:
            self._remove(f"/v1/batches/{batch['id']}", jobs)

    def _upload(self, order: Order) -> None:
        """Upload what a request names, unless it is there; what is refused for the time being is tried again."""
        for name, content in order.uploads.items():
            sha256, deadline = hashlib.sha256(content).hexdigest(), time.monotonic() + GIVE_UP_S
            while time.monotonic() < deadline:
                answer = self._ask("GET", f"/v1/uploads/{name}")
                if answer is not None and answer.status_code == 404:
                    answer = self._ask("PUT", f"/v1/uploads/{name}", content=content)
                if answer is not None and answer.is_success and answer.json()["sha256"] == sha256:
                    break
                time.sleep(POLL_S)

    def _promised(self, path: str, body: dict[str, Any], key: str) -> dict[str, Any] | None:
        """Send a request until it is accepted; return what was accepted."""
        deadline = time.monotonic() + GIVE_UP_S
        while time.monotonic() < deadline:
            answer = self._ask("POST", path, json=body, headers={"Idempotency-Key": key})
            if answer is not None and answer.status_code in (200, 202):
                accepted: dict[str, Any] = answer.json()
                again = self._ask("POST", path, json=body, headers={"Idempotency-Key": key})
                if again is not None and again.is_success and again.json()["id"] != accepted["id"]:
                    self._ledger.complain("duplicated", f"one key, two ids: {accepted['id']} and {again.json()['id']}")
                return accepted
            if answer is not None and answer.status_code not in (429, 503, 507):
                self._ledger.complain("lost", f"a good request was answered with {answer.status_code}: {answer.text}")
                return None
            time.sleep(POLL_S)
        self._ledger.complain("lost", "no job was accepted any more")
        return None

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
        self._ledger.complain("lost", f"job {job_id} of kind {order.kind} did not end")

    def _end(self, job_id: str, state: str, job: dict[str, Any], order: Order) -> None:
        before = self._ledger.ended.setdefault(job_id, state)
        if before != state:
            self._ledger.complain("duplicated", f"job {job_id} ended as {before} and then as {state}")
        if state != "succeeded":
            self._ledger.complain("lost", f"job {job_id} of kind {order.kind} ended as {state}: {job['error']}")
            return
        for name, sha256 in order.files.items():
            place = "manifest" if name == "manifest.json" else f"files/{name}"
            answer = self._get_until_answered(f"/v1/jobs/{job_id}/{place}")
            if answer is None or answer.status_code != 200:
                self._ledger.complain("lost", f"file {name} of job {job_id} cannot be had")
            elif hashlib.sha256(answer.content).hexdigest() != sha256:
                self._ledger.complain("wrong_bytes", f"file {name} of job {job_id}, of kind {order.kind}, differs")
        with self._ledger.lock:
            self._ledger.kinds[order.kind] += 1
            if divided := job.get("shards"):
                self._ledger.shards.update(jobs=1, computed=divided["total"])

    def _remove(self, path: str, jobs: Sequence[str]) -> None:
        """Remove a job or a batch, with its jobs."""
        with self._ledger.lock:
            self._ledger.removed.update(jobs)
        for _ in range(200):
            answer = self._ask("DELETE", path)
            if answer is not None and answer.status_code in (204, 404):
                return
            time.sleep(POLL_S)

    def _get_until_answered(self, path: str) -> httpx.Response | None:
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
