"""Reconciliation of the broker's records with the files on disk: sweeping, cleaning, and rebuilding a lost broker.

The disk has accepted requests as ``requests/<job>.json``, results as ``results/<job>`` and outcomes without files as
``verdicts/<job>.json``, from which the records can be restored. A broker that is known to hold all of them has the id
of its run in a key (``whole``). Otherwise it is new, was restarted (and may have lost its last second) or has lost its
data. It then accepts no request until the missing records are restored.

Promises: a restored record has the state that its client was told, unless the broker was lost in the instant in which
the job ended; then the job is run again and gives the same bytes. Every operation may run in any process at any time,
twice, and while other processes change the same jobs: restored records are compared with the disk again.
Does not promise: to restore attempts, progress and events; they start again.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from secrets import token_hex
from typing import Any

from worker.errors import ArtifactNotFoundError, QueueUnavailableError
from worker.jobs.records import Job, JobPage, JobRules, JobStatus, Sweep
from worker.jobs.redis_store import Store
from worker.storage.artifacts import Artifacts
from worker.storage.cleanup import remove_unneeded, stored_jobs
from worker.storage.journal import Journal, is_request

log = logging.getLogger(__name__)

ROUNDS = 5  # of rebuilding, in case the broker loses its data again meanwhile
UNSTEADY = "the broker loses its data again and again; see its log"
UNKNOWN_LEASES = 10.0  # leases after which files without a record are left over; a request is written before its record


@contextmanager
def _changing() -> Iterator[None]:
    """Turn an ``OSError`` of the disk into ``QueueUnavailableError``, so that the client tries again."""
    try:
        yield
    except OSError as error:
        log.warning("what is stored of a job cannot be changed: %s", error)
        raise QueueUnavailableError("the stored files cannot be changed at the moment; try again later") from error


class Reconciler:
    """Works on the records of one broker and, if there is a data folder, its files."""

    def __init__(
        self,
        store: Store,
        artifacts: Artifacts | None,
        journal: Journal | None,
        rules: JobRules,
        *,
        wake_up: Callable[[str], None],
    ) -> None:
        self._store, self._artifacts, self._journal = store, artifacts, journal
        self._rules, self._wake_up = rules, wake_up

    def sweep(self) -> Sweep:
        """Requeue jobs of dead workers, repeat lost wake-ups, apply retention; rebuild a broker that lost all."""
        if not self._store.is_complete():
            self.rebuild()
        swept = self._store.sweep(self._rules)
        for job_id in (*dict.fromkeys(swept.requeued), *swept.woken):
            self._wake_up(job_id)
        if self._artifacts and self._journal:
            for job in self._store.fetch(swept.crashed + swept.expired):
                if self.record_end(job):  # otherwise the record was lost meanwhile, and restored with its files
                    self._artifacts.remove(job.id)
            for job_id in swept.purged:
                self._journal.forget_request(job_id)
                self._artifacts.remove(job_id)
                self._artifacts.clear_damage(job_id)
        return swept

    def clean(self) -> int:
        """Remove files that belong to no job, and record outcomes that were not recorded; returns how many."""
        mark = self._store.completeness_token()
        if self._artifacts is None or self._journal is None or mark is None:
            return 0  # files without a record may be all that is left of a job
        stored = stored_jobs(self._artifacts, self._journal)
        leased, known = self._store.leased(), self._store.statuses(stored)
        recorded = self._journal.recorded_batches()
        batches = self._store.batches(recorded)
        if self._store.completeness_token() != mark:
            return 0
        ended = [i for i, status in known.items() if not status.active and status is not JobStatus.SUCCEEDED]
        late = [job for job in self._store.fetch(ended) if self._journal.outcome(job.id) is None]
        unwritten = {job.id for job in late if not self.record_end(job)}
        removed = remove_unneeded(
            self._artifacts,
            self._journal,
            leased=leased,
            ended=[job_id for job_id in ended if job_id not in unwritten],
            sealed=[
                job_id
                for job_id in {*self._artifacts.divided(), *self._artifacts.stateful()}
                if known.get(job_id) is JobStatus.SUCCEEDED
            ],
            unknown=[i for i in stored if i not in known],
            unknown_batches=[i for i in recorded if i not in batches],
            grace_s=self._rules.lease_s,
            keep_s=UNKNOWN_LEASES * self._rules.lease_s,
            alias_s=self._rules.idempotency_s,
        )
        return removed + len(late) - len(unwritten)

    def clean_staging(self) -> int:
        """Remove staging folders of this host that no lease needs, and return how many."""
        if self._artifacts is None or self._store.completeness_token() is None:
            return 0
        return self._artifacts.discard_abandoned(leased=self._store.leased(), grace_s=self._rules.lease_s)

    def record_end(self, job: Job) -> bool:
        """Record the outcome of a job without files on disk; False if that fails, and :meth:`clean` tries again."""
        if self._journal is None or job.status.active or job.status is JobStatus.SUCCEEDED:
            return False
        error = {"code": job.error.code, "message": job.error.message} if job.error else None
        outcome = {"status": job.status.value, "finished_at": job.finished_at, "error": error}
        try:
            self._journal.record_outcome(job.id, outcome)
        except OSError as error_:
            log.warning("job %s: its end is not written down yet: %s", job.id, error_)
            return False
        return True

    def recorded_end(self, job_id: str) -> bool:
        """Whether the outcome of a job is on disk."""
        return self._journal is None or self._journal.outcome(job_id) is not None

    def run(self, script: str, *args: str | float) -> Any:
        """Run a script that waits until no record is missing; raises as :meth:`find`."""
        for _ in range(ROUNDS):
            answer = self._store.run(script, *args)
            if answer != "unknown":
                return answer
            self.find([])
        raise QueueUnavailableError(UNSTEADY)

    def page(self, **query: Any) -> JobPage:
        """Return :meth:`worker.jobs.redis_store.Store.page` without a missing job; raises as :meth:`find`."""
        for _ in range(ROUNDS):
            mark = self._store.completeness_token()
            if mark is None:
                self.find([])
                continue
            page = self._store.page(**query)
            if self._store.completeness_token() == mark:
                return page
        raise QueueUnavailableError(UNSTEADY)

    @_changing()
    def remove(self, job_id: str) -> bool:
        """Remove a job that has ended, and its files; False, and nothing is changed, if it is active again.

        If the disk fails halfway, the next attempt removes the rest.
        """
        recorded = list(self._journal.requests([job_id])) if self._journal else []
        batch = recorded[0].get("batch") if recorded else None
        if self._journal:
            self._journal.forget_request(job_id)  # first, so that a half removed job is not restored
        active = self.run("delete", job_id, "0") == "active"
        if self._journal and active:  # it was restored just before
            for request in recorded:
                self._journal.record_request(request)
        elif self._artifacts:
            self._artifacts.remove(job_id)
            self._artifacts.clear_damage(job_id)
        if batch and self._journal and not active and not self._store.batches([batch]):
            self._journal.forget_batch(batch)  # that was its last job
        return not active

    @_changing()
    def pin(self, job_id: str, *, pinned: bool) -> bool:
        """Pin or unpin a job's files; False if by now it has none, or the broker has lost the record."""
        if pinned and self._journal:
            self._journal.pin(job_id, pinned=True)
        done = self._store.run("pin", job_id, int(pinned), self._rules.retention_s)
        if done == "done" and not pinned and self._journal and self._journal.pinned(job_id):
            self._journal.pin(job_id, pinned=False)
        if done == "over" and self._journal:
            self._journal.unpin(job_id)
        return bool(done == "done")

    def rebuild(self, *, suspect: bool = False) -> int:
        """Restore the record of every request that the broker does not know; returns how many.

        Parameters
        ----------
        suspect
            Compare even if the broker is known to hold every record.

        Raises
        ------
        QueueUnavailableError
            If the broker does not answer, or loses its data again and again.
        OSError
            If the requests cannot be read; the broker then accepts nothing.
        """
        restored = 0
        if suspect:
            self._store.invalidate()
        for _ in range(ROUNDS):
            begun = token_hex(8)
            self._store.begin_round(begun)
            if self._artifacts and self._journal:
                recorded = self._journal.requested()
                known = self._store.statuses(recorded)
                missing = [job_id for job_id in recorded if job_id not in known]
                for request in self._journal.requests(missing):
                    restored += self._restore(request, self._artifacts, self._journal)
                forgotten = [job_id for job_id, status in known.items() if status.active and self.recorded_end(job_id)]
                for request in self._journal.requests(forgotten):
                    self._restore(request, self._artifacts, self._journal)
                self._restore_aliases(self._journal)
                self._restore_batches(self._journal)
            if self._store.end_round(begun):
                if restored:
                    log.warning("the broker had lost its data; restored %d jobs", restored)
                return restored
        raise QueueUnavailableError(UNSTEADY)

    def find(self, job_ids: list[str]) -> list[Job]:
        """Return jobs that the broker does not know, after restoring lost records; raises as :meth:`rebuild`.

        An ``OSError`` becomes ``QueueUnavailableError``, so that an existing job is not reported as missing.
        """
        for _ in range(ROUNDS):
            found, certain = self._store.fetch_surely(job_ids)
            if certain or (job_ids and len(found) == len(job_ids)):
                return found
            try:
                self.rebuild()
            except OSError as error:
                log.exception("the queue cannot be restored: recorded requests cannot be read")
                raise QueueUnavailableError("the queue cannot be restored at the moment; try again later") from error
        raise QueueUnavailableError(UNSTEADY)

    def _restore(self, request: dict[str, Any], artifacts: Artifacts, journal: Journal) -> bool:
        if not is_request(request):
            log.critical("job %s: its recorded request is damaged and cannot be restored", request["id"])
            return False
        if request.get("batch") and not journal.has_batch(request["batch"]):
            return False  # the batch was not written down to its end, so none of its jobs was accepted
        job_id, end = request["id"], _end(request["id"], artifacts, journal)
        if request.get("webhook"):
            request = request | {"webhook_done": journal.delivery(job_id) or ""}
        if not self._store.restore(request, end=end, rules=self._rules, pinned=journal.pinned(job_id)):
            return False
        # The disk was read before the record was visible; other processes may have ended or removed the job since.
        if not journal.has_request(job_id):
            self._store.run("delete", job_id, "1")
            return False
        if (now := _end(job_id, artifacts, journal)) != end:
            self._store.restore(request, end=now, rules=self._rules, pinned=journal.pinned(job_id))
        if now["status"] == JobStatus.QUEUED:
            self._wake_up(job_id)
        return True

    def _restore_batches(self, journal: Journal) -> None:
        for batch in journal.batches():
            labels = json.dumps(batch["labels"]) if batch.get("labels") else ""
            done = (journal.delivery(batch["id"]) or "") if batch.get("webhook") else ""
            self._store.run(
                "restore_batch", batch["id"], batch["owner"], batch["request_digest"], labels,
                batch.get("webhook", ""), done, batch["created_at"],
            )  # fmt: skip

    def _restore_aliases(self, journal: Journal) -> None:
        for key, alias, since in journal.aliases():
            left_s = int(since + self._rules.idempotency_s - time.time())
            if left_s > 0:
                self._store.run("alias", key, alias["job"], alias["digest"], left_s)


def _end(job_id: str, artifacts: Artifacts, journal: Journal) -> dict[str, Any]:
    """Return the outcome of a job according to the disk alone, or that it has none."""
    outcome = journal.outcome(job_id)
    if outcome is not None:
        return outcome
    try:
        finished_at = artifacts.published_at(job_id)
    except ArtifactNotFoundError:
        return {"status": JobStatus.QUEUED.value}
    kept_from = max(finished_at, journal.released_at(job_id))
    return {
        "status": JobStatus.SUCCEEDED.value, "finished_at": finished_at, "kept_from": kept_from,
        "warnings": artifacts.warnings(job_id),
    }  # fmt: skip
