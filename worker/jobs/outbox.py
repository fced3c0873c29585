"""Webhooks that are due: who must still be told that a job has ended. Kept in the broker, decided by its scripts.

The script that ends a job puts it on the list, if its request named an address. What was delivered is written to the
journal before the broker is told, so that a rebuilt broker does not deliver it again.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Literal

from worker.jobs.records import Job, JobStatus, parse_batch, parse_job
from worker.jobs.redis_store import Store
from worker.storage.journal import Journal

log = logging.getLogger(__name__)

ATTEMPTS = 10
IN_FLIGHT_S = 60.0  # a worker that died over an attempt is followed by another after this long
Outcome = Literal["delivered", "refused", "gave_up"]


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """One attempt to deliver a message.

    Attributes
    ----------
    id
        Of what ended; the message is named after it.
    attempt
        From 1.
    data
        What the message says, JSON-able.
    """

    id: str
    kind: str
    owner: str
    url: str
    state: str
    ended_at: float
    attempt: int
    data: dict[str, Any]


class Outbox:
    """The list of one broker."""

    def __init__(self, store: Store, journal: Journal | None) -> None:
        self._store, self._journal = store, journal

    def take(self) -> Delivery | None:
        """Return what is due, to one caller only for :data:`IN_FLIGHT_S`; None if nothing is.

        Raises
        ------
        QueueUnavailableError
            If the broker does not answer.
        """
        while answer := self._store.run("take_webhook", IN_FLIGHT_S):
            attempt, flat, kind = int(answer[0]), answer[1], answer[2]
            fields = dict(zip(flat[::2], flat[1::2], strict=True))
            due = self._of_batch(fields, attempt) if kind == "batch" else _of_job(parse_job(fields), attempt)
            if attempt <= ATTEMPTS:
                return due
            self.settle(due, "gave_up")
        return None

    def _of_batch(self, fields: dict[str, str], attempt: int) -> Delivery:
        _, statuses = self._store.batch_now(fields["id"])
        batch = parse_batch(fields, counts={status: statuses.count(status) for status in JobStatus})
        counts = {status.value: count for status, count in batch.counts.items()}
        return Delivery(
            id=batch.id,
            kind="batch",
            owner=batch.owner,
            url=batch.webhook.url if batch.webhook else "",
            state="ended",
            ended_at=batch.ended_at or batch.created_at,
            attempt=attempt,
            data={
                "id": batch.id, "labels": dict(batch.labels), "jobs": counts,
                "links": {"self": f"/v1/batches/{batch.id}", "jobs": f"/v1/jobs?batch={batch.id}"},
            },
        )  # fmt: skip

    def settle(self, due: Delivery, outcome: Outcome) -> None:
        """Take a message off the list for good."""
        if outcome != "delivered":
            log.warning("webhook of %s: %s after %d attempts", due.id, outcome, due.attempt)
        try:
            if self._journal is not None:
                self._journal.record_delivery(due.id, outcome)
        except OSError as error:  # a rebuilt broker delivers it once more
            log.warning("webhook of %s: its delivery cannot be written down: %s", due.id, error)
        self._store.run("settle_webhook", due.id, outcome, "")

    def defer(self, due: Delivery, *, seconds: float) -> None:
        """Let a message be tried again later, or give it up after :data:`ATTEMPTS`."""
        if due.attempt >= ATTEMPTS:
            self.settle(due, "gave_up")
        else:
            self._store.run("settle_webhook", due.id, "", seconds)


def _of_job(job: Job, attempt: int) -> Delivery:
    state = (JobStatus.SUCCEEDED if job.status is JobStatus.EXPIRED else job.status).value  # as it ended
    return Delivery(
        id=job.id,
        kind="job",
        owner=job.owner,
        url=job.webhook.url if job.webhook else "",
        state=state,
        ended_at=job.finished_at or job.created_at,
        attempt=attempt,
        data={
            "id": job.id, "kind": job.kind, "state": state, "labels": dict(job.labels),
            "error": {"code": job.error.code, "message": job.error.message} if job.error else None,
            "links": {"self": f"/v1/jobs/{job.id}"},
        },
    )  # fmt: skip
