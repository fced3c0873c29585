"""What keeps records and files in step for the whole service: sweeping, cleaning, and rebuilding a lost broker.

What was accepted lies on disk as ``requests/<job>.json``, what was made as ``results/<job>``, how a job ended without
files as ``verdicts/<job>.json``; so the records can be made again. A broker that is known to hold all of them has the
number of its run under a key of its own (``whole``). One that does not is new, was restarted (and may have lost its
last second) or has lost its data, and takes no request before what is missing was restored.

Promises: a rebuilt record has the state that its client was told, unless the broker was lost in the instant in which
the job ended: then the job is carried out again, to the same bytes. Any of this may run anywhere, any time, twice, and
beside others who change what it looks at: what was restored is compared with the disk once more.
Does not promise: attempts, progress and events of before; they start again.
"""

from __future__ import annotations

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

ROUNDS = 5  # of rebuilding, for a broker that loses its data again meanwhile
UNSTEADY = "the broker loses its data again and again; look into its log"
UNKNOWN_LEASES = 10.0  # leases until what has no record counts as left over; a request is written before its record


@contextmanager
def _changing() -> Iterator[None]:
    """Say of a disk that takes no change what is said of a broker that does not answer: try again."""
    try:
        yield
    except OSError as error:
        log.warning("what is stored of a job cannot be changed: %s", error)
        raise QueueUnavailableError("the stored files cannot be changed at the moment; try again later") from error


class Reconciler:
    """Works on the records of one broker and, where there are some, the files beside it."""

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
                if self.record_end(job):  # else it was lost meanwhile, and restored with its files
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
            return 0  # what looks unknown may be all that is left of a job
        stored = stored_jobs(self._artifacts, self._journal)
        leased, known = self._store.leased(), self._store.statuses(stored)
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
            sealed=[i for i in self._artifacts.divided() if known.get(i) is JobStatus.SUCCEEDED],
            unknown=[i for i in stored if i not in known],
            grace_s=self._rules.lease_s,
            keep_s=UNKNOWN_LEASES * self._rules.lease_s,
            alias_s=self._rules.idempotency_s,
        )
        return removed + len(late) - len(unwritten)

    def record_end(self, job: Job) -> bool:
        """Write down how a job ended that has no files; False if that is not on disk, :meth:`clean` tries again."""
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
        """Whether it is written down how a job ended."""
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
        """Return :meth:`worker.jobs.redis_store.Store.page`, in which none is missing; raises as :meth:`find`."""
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
        """Remove a job that has ended, and its files; False, and all is as before, if it goes on again.

        What is half removed, because the disk took no more, is finished by the next attempt.
        """
        recorded = list(self._journal.requests([job_id])) if self._journal else []
        if self._journal:
            self._journal.forget_request(job_id)  # first: what is half removed must not come back with a rebuilding
        active = self.run("delete", job_id, "0") == "active"
        if self._journal and active:  # it came back with a rebuilding just before
            for request in recorded:
                self._journal.record_request(request)
        elif self._artifacts:
            self._artifacts.remove(job_id)
            self._artifacts.clear_damage(job_id)
        return not active

    @_changing()
    def pin(self, job_id: str, *, pinned: bool) -> bool:
        """Keep a job's files or let them go; False if by now it has none, or the broker has lost it."""
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
            Look even where the broker is known to hold every record.

        Raises
        ------
        QueueUnavailableError
            If the broker does not answer, or loses its data again and again.
        OSError
            If the requests cannot be read: better no broker than one that has forgotten them.
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
            if self._store.end_round(begun):
                if restored:
                    log.warning("the broker had lost its data; restored %d jobs", restored)
                return restored
        raise QueueUnavailableError(UNSTEADY)

    def find(self, job_ids: list[str]) -> list[Job]:
        """Look once more for jobs that the broker does not know, if it may have lost some; raises as :meth:`rebuild`.

        An ``OSError`` becomes ``QueueUnavailableError``: whoever asks for a job must not be told that there is none.
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
        job_id, end = request["id"], _end(request["id"], artifacts, journal)
        if request.get("webhook"):
            request = request | {"webhook_done": journal.delivery(job_id) or ""}
        if not self._store.restore(request, end=end, rules=self._rules, pinned=journal.pinned(job_id)):
            return False
        # The disk was read before the record was there for others to see; they may have ended or removed the job since.
        if not journal.has_request(job_id):
            self._store.run("delete", job_id, "1")
            return False
        if (now := _end(job_id, artifacts, journal)) != end:
            self._store.restore(request, end=now, rules=self._rules, pinned=journal.pinned(job_id))
        if now["status"] == JobStatus.QUEUED:
            self._wake_up(job_id)
        return True

    def _restore_aliases(self, journal: Journal) -> None:
        for key, alias, since in journal.aliases():
            left_s = int(since + self._rules.idempotency_s - time.time())
            if left_s > 0:
                self._store.run("alias", key, alias["job"], alias["digest"], left_s)


def _end(job_id: str, artifacts: Artifacts, journal: Journal) -> dict[str, Any]:
    """Tell from the disk alone how a job ended, or that it did not."""
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
