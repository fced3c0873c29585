"""Batches: many jobs accepted by one request, all or none, and followed, canceled and removed as one.

A batch is written down in two steps: the requests of its jobs, then its own record, ``batches/<id>.json``, which names
them. The second is the commit: a rebuilding restores the jobs of a batch only if its record exists.

Promises: all jobs of a batch exist, in the broker and on disk, or none; one Idempotency-Key gives one batch.
Does not promise: that canceling or removing a batch is one step. Each may be repeated, and goes on where it stopped.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from worker.errors import BatchNotFoundError, IdempotencyError, JobActiveError, JobNotFoundError, QueueUnavailableError
from worker.job_id import new_job_id
from worker.jobs.reconciliation import Reconciler
from worker.jobs.records import Batch, JobOptions, JobRules, JobStatus, Price, parse_batch
from worker.jobs.redis_store import Store, fingerprint, options_text, price_text, result_key
from worker.storage.journal import Journal

log = logging.getLogger(__name__)

BATCH_MAX = 1000  # jobs of one batch
WRITE_S = 120.0  # to write all requests; below the age at which the janitor removes what has no record
STEPS = 6
WAKE_UPS_MAX = 256
ANOTHER_BODY = "this Idempotency-Key was used with another body; use a new key for a new request"
UNSTORED = "the service cannot store more requests at the moment; try later"


@dataclass(frozen=True, kw_only=True)
class BatchJob:
    """One job of a batch to be accepted; members as of :meth:`worker.jobs.JobQueue.submit`."""

    kind: str
    spec: dict[str, Any]
    model_id: str
    model_sha256: str
    digest: str
    price: Price | None = None
    shards: int = 1


class Batches:
    """The batches of one broker; made by :class:`worker.jobs.queue.JobQueue`."""

    def __init__(
        self,
        store: Store,
        journal: Journal | None,
        rules: JobRules,
        *,
        reconciler: Reconciler,
        wake_up: Callable[[str], None],
        cancel: Callable[[str], object],
        delete: Callable[[str], object],
    ) -> None:
        self._store, self._journal, self._rules = store, journal, rules
        self._reconciler, self._wake_up = reconciler, wake_up
        self._cancel, self._delete = cancel, delete

    def submit(
        self,
        jobs: Sequence[BatchJob],
        *,
        owner: str,
        request_digest: str,
        options: JobOptions,
        webhook: str = "",
        idempotency_key: str | None = None,
    ) -> tuple[Batch, bool]:
        """Accept all jobs, or none; return their batch, and whether it is new.

        Parameters
        ----------
        request_digest
            Of the request as the client sent it.
        options
            Of every job; the batch has the same labels.
        webhook
            Address that is told when the last job has ended.
        idempotency_key
            The same key with the same ``request_digest`` gives the same batch.

        Raises
        ------
        IdempotencyError
            If the key was used with another request.
        QueueUnavailableError
            If the queue has no room for all, the broker does not answer or the requests cannot be stored.
        """
        batch_id = new_job_id() if idempotency_key is None else fingerprint(owner, "batch", idempotency_key)[:32]
        head: dict[str, Any] = {"id": batch_id, "owner": owner, "request_digest": request_digest}
        head |= {"labels": dict(options.labels)} if options.labels else {}
        head |= {"webhook": webhook} if webhook else {}
        names = sorted(new_job_id() for _ in jobs)  # a rebuilding restores them in this order
        requests = [self._request(name, head, job, options) for name, job in zip(names, jobs, strict=True)]
        answer, head, requests = self._insert(head, requests)
        if answer == "late" or (answer == "full" and idempotency_key is None):
            # Under a key, another process may be about to submit what was written, where there is room for it.
            self._forget(head, requests)
        if answer == "mismatch":
            raise IdempotencyError(ANOTHER_BODY)
        if answer == "full":
            raise QueueUnavailableError(
                f"the queue has no room for {len(jobs)} more jobs; try again later, or send fewer"
            )
        if answer not in ("created", "existing"):
            raise QueueUnavailableError("the batch could not be stored in time; try again later, or send fewer jobs")
        if answer == "created":
            for request in requests[:WAKE_UPS_MAX]:
                self._wake_up(request["id"])
        return self.get(batch_id), answer == "created"

    def _insert(
        self, head: dict[str, Any], requests: list[dict[str, Any]]
    ) -> tuple[str, dict[str, Any], list[dict[str, Any]]]:
        """Ask, write down and submit; return the broker's answer, and what it concerns."""
        answer, asked = "", head["request_digest"]
        for _ in range(STEPS):
            answer, told = self._ask(head, requests)
            if answer == "unknown":
                self._reconciler.find([])
            elif answer == "free":
                head, requests = self._keep(head | {"created_at": float(told)}, requests)
            else:
                break
            if head["request_digest"] != asked:
                return "mismatch", head, requests
        return answer, head, requests

    def find(self, *, owner: str, request_digest: str, idempotency_key: str) -> Batch | None:
        """Return the batch that a key stands for already; raises ``IdempotencyError`` as :meth:`submit`."""
        batch_id = fingerprint(owner, "batch", idempotency_key)[:32]
        fields = self._store.batch(batch_id)
        if fields and fields["digest"] != request_digest:
            raise IdempotencyError(ANOTHER_BODY)
        return self.get(batch_id) if fields else None

    def get(self, batch_id: str, *, owner: str | None = None) -> Batch:
        """Return one batch; without ``owner`` whoever owns it.

        Raises
        ------
        BatchNotFoundError
            If it does not exist or belongs to another owner: both look the same.
        QueueUnavailableError
            If the broker does not answer, or has lost its data and cannot be rebuilt.
        """
        fields, statuses = self._store.batch_now(batch_id)
        if not fields:
            self._reconciler.find([])
            fields, statuses = self._store.batch_now(batch_id)
        if not fields or (owner is not None and fields["owner"] != owner):
            raise BatchNotFoundError(f"there is no batch {batch_id[:64]!r}")
        return parse_batch(fields, counts={status: statuses.count(status) for status in JobStatus})

    def cancel(
        self, batch_id: str, *, owner: str | None = None, ends_itself: Callable[[str], bool] = lambda _job_id: False
    ) -> Batch:
        """Cancel every job that has not ended, but those that end by themselves; return the batch."""
        self.get(batch_id, owner=owner)
        for job_id, status in self._store.statuses(self._store.batch_jobs(batch_id)).items():
            if status.active and not ends_itself(job_id):
                self._cancel(job_id)
        return self.get(batch_id)

    def delete(self, batch_id: str, *, owner: str | None = None) -> None:
        """Remove a batch whose jobs have all ended, with the jobs and their files.

        Raises
        ------
        JobActiveError
            While one is queued or running.
        """
        if self.get(batch_id, owner=owner).active:
            raise JobActiveError(f"jobs of batch {batch_id} have not ended; cancel it before removing it")
        for job_id in self._store.batch_jobs(batch_id):
            try:
                self._delete(job_id)
            except JobNotFoundError:
                log.info("job %s was removed already", job_id)
        if self._journal is not None:  # the broker forgot the batch with its last job
            self._journal.forget_batch(batch_id)

    def _request(self, job_id: str, head: dict[str, Any], job: BatchJob, options: JobOptions) -> dict[str, Any]:
        request = {
            "id": job_id, "kind": job.kind, "owner": head["owner"], "spec": job.spec, "model_id": job.model_id,
            "model_sha256": job.model_sha256, "digest": job.digest, "batch": head["id"], **options.members(),
        }  # fmt: skip
        if job.price is not None:
            request["price"] = asdict(job.price)
        return request | ({"shards": job.shards} if job.shards > 1 else {})

    def _ask(self, head: dict[str, Any], requests: list[dict[str, Any]]) -> list[str]:
        rows = [
            [
                request["id"], request["kind"], json.dumps(request["spec"], allow_nan=False, separators=(",", ":")),
                request["model_id"], request["model_sha256"], request["digest"], result_key(request),
                price_text(request), str(request.get("shards") or ""), options_text(request),
            ]
            for request in requests
        ]  # fmt: skip
        answer: list[str] = self._store.run(
            "submit_batch", head["id"], head["owner"], head["request_digest"], labels_text(head),
            head.get("webhook", ""), self._rules.max_queue, WRITE_S, head.get("created_at", ""), json.dumps(rows),
        )  # fmt: skip
        return answer

    def _keep(
        self, head: dict[str, Any], requests: list[dict[str, Any]]
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Write a batch down; return what counts: what another process wrote under this key, if one was faster."""
        requests = [request | {"created_at": head["created_at"]} for request in requests]
        if self._journal is None:
            return head, requests
        head = head | {"jobs": [request["id"] for request in requests]}
        try:
            self._journal.record_requests(requests)
            kept = self._journal.record_batch(head)
            if kept["jobs"] == head["jobs"]:
                return head, requests
            for request in requests:
                self._journal.forget_request(request["id"])
            return kept, list(self._journal.requests(kept["jobs"]))
        except OSError as error:
            log.exception("batch %s: it cannot be stored", head["id"])
            self._forget(head, requests)
            raise QueueUnavailableError(UNSTORED) from error

    def _forget(self, head: dict[str, Any], requests: list[dict[str, Any]]) -> None:
        """Remove what was written of a batch that was refused, its own record first."""
        if self._journal is None or "jobs" not in head:
            return
        try:
            self._journal.forget_batch(head["id"])
            for request in requests:
                self._journal.forget_request(request["id"])
        except OSError as error:
            log.warning("batch %s is not needed and stays until the janitor comes: %s", head["id"], error)


def labels_text(head: dict[str, Any]) -> str:
    """Return the labels of a batch as its record holds them; empty where it has none."""
    labels = head.get("labels")
    return json.dumps(labels, sort_keys=True, separators=(",", ":")) if labels else ""
