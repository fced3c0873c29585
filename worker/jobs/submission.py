"""Submission: the broker is asked whether it would accept a request, which is written to disk and then submitted.

Promises: a job that :meth:`Submission.submit` returns is complete on disk and in the broker. One Idempotency-Key gives
one job, before and after a loss of the broker, also if a process died between any two of these steps.
Does not promise: that nothing is left of a request that failed with an error. Cleaning removes it; if the broker is
rebuilt before, the job runs although its client was told of an error.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

from worker.errors import IdempotencyError, QueueUnavailableError
from worker.job_id import new_job_id
from worker.jobs.records import JobRules
from worker.jobs.redis_store import Store, fingerprint, options_text, price_text, result_key
from worker.storage.artifacts import Artifacts
from worker.storage.journal import Journal

log = logging.getLogger(__name__)

STEPS = 8  # ask, rebuild, ask, write, submit; and again if the broker is restarted meanwhile
# Bytes of a job's files that are hashed before the job answers another request; hashing more would delay other clients.
HASH_BYTES = 64 * 2**20
UNDECIDED = frozenset({"unknown", "free", "join", "late"})
UNSTORED = "the service cannot store more requests at the moment; try later"


class Submission:
    """Submits requests to one broker; ``restore`` restores its records if it has lost them."""

    def __init__(
        self,
        store: Store,
        artifacts: Artifacts | None,
        journal: Journal | None,
        rules: JobRules,
        *,
        restore: Callable[[], object],
    ) -> None:
        self._store, self._artifacts, self._journal = store, artifacts, journal
        self._rules, self._restore = rules, restore

    def submit(self, request: dict[str, Any], *, idempotency_key: str | None) -> tuple[str, bool]:
        """Accept a request, or find the job that answers it; returns the job's id and whether it is new.

        Raises
        ------
        IdempotencyError, QueueUnavailableError
            As :meth:`worker.jobs.JobQueue.submit`.
        """
        key = fingerprint(request["owner"], idempotency_key) if idempotency_key is not None else ""
        request = {"id": new_job_id(), **request, "idempotency": key}
        reuse = self._rules.reuse
        for _ in range(STEPS):
            if reuse:
                self._pass_over_damaged(result_key(request))
            answer, found, *more = self._ask(request, reuse=reuse)
            if answer not in UNDECIDED:
                break
            self._prepare(request, answer, found, *more)
        if answer in ("mismatch", "existing", "alias") or (answer == "full" and not key):
            # Another process was faster. If the queue is full, a process that joined may still submit.
            self._forget(request)
        if answer == "alias":
            self._keep_alias(key, job=found, digest=request["request_digest"])
        if answer == "mismatch":
            raise IdempotencyError("this Idempotency-Key was used with another body; use a new key for a new request")
        if answer == "full":
            raise QueueUnavailableError(
                f"{found} jobs are waiting, which is the most this service queues; try again later"
            )
        if answer in UNDECIDED:
            raise QueueUnavailableError("the queue has just lost its records and restores them; try again in a moment")
        return found, answer == "created"

    def _pass_over_damaged(self, key: str) -> None:
        """Exclude jobs whose files are damaged from answering, so that the request is computed again."""
        found = self._store.answering(key)
        if found is None or self._artifacts is None:
            return
        try:
            reusable = self._artifacts.reusable(found, hash_bytes=HASH_BYTES)
        except OSError as error:
            log.warning("job %s: its files cannot be read, it answers no other request: %s", found, error)
            reusable = False
        if not reusable:
            self._store.run("forget", found, key)

    def _ask(self, request: dict[str, Any], *, reuse: bool) -> list[str]:
        """Ask whether a request would be accepted or, if it has a time of creation, submit it."""
        spec = json.dumps(request["spec"], allow_nan=False, separators=(",", ":"))
        answer: list[str] = self._store.run(
            "submit", request["id"], request["kind"], request["owner"], spec, request["model_id"],
            request["model_sha256"], request["digest"], request["request_digest"], request["idempotency"],
            int(self._rules.idempotency_s), result_key(request), int(reuse),
            self._rules.max_queue, self._rules.write_s, request.get("created_at") or "",
            price_text(request), request.get("shards") or "", options_text(request),
        )  # fmt: skip
        return answer

    def _prepare(self, request: dict[str, Any], answer: str, found: str, *more: str) -> None:
        """Prepare the next attempt: restore records, or write the request to disk."""
        if answer == "unknown":
            self._restore()  # afterwards the broker may know this request
        elif answer == "free":
            self._forget({"id": more[0], "created_at": more[0]})  # the process that wrote it has died
            request["created_at"] = float(found)
            self._keep(request)
        elif answer == "join":
            self._forget(request)
            request |= {"id": found, "created_at": float(more[0])}
            self._keep(request)
        else:
            request |= {"id": new_job_id(), "created_at": None}  # cleaning removes what was written under the other id

    def _keep(self, request: dict[str, Any]) -> None:
        """Write a request to disk; if another process has written it under this id, use that one and its seed."""
        if self._journal is None:
            return
        try:
            request |= self._journal.record_request(request)
        except OSError as error:
            log.exception("job %s: the request cannot be stored", request["id"])
            raise QueueUnavailableError(UNSTORED) from error

    def _keep_alias(self, key: str, *, job: str, digest: str) -> None:
        """Record an Idempotency-Key that is answered with the job of another request."""
        if self._journal is None:
            return
        try:
            self._journal.record_alias(key, {"job": job, "digest": digest})
        except OSError as error:
            log.exception("job %s: what an Idempotency-Key stands for cannot be stored", job)
            raise QueueUnavailableError(UNSTORED) from error

    def _forget(self, request: dict[str, Any]) -> None:
        """Remove a written request that no process can submit any more."""
        if self._journal is None or not request.get("created_at"):
            return
        try:
            self._journal.forget_request(request["id"])
        except OSError as error:
            log.warning("request %s is not needed and stays until the next cleaning: %s", request["id"], error)
