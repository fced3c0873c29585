"""What keeps records and files in step for the whole service: sweeping, cleaning, and rebuilding a lost broker.

What was accepted lies on disk as ``requests/<job>.json``, what was made as ``results/<job>``, how a job ended without
files as ``verdicts/<job>.json``; so the records can be made again. A broker that is known to hold all of them has the
number of its run under a key of its own (``whole``). One that does not is new, was restarted (and may have lost its
last second) or has lost its data, and takes no request before what is missing was restored.

Promises: a rebuilt record has the state that its client was told, unless the broker was lost in the instant in which
the job ended: then the job is carried out again, to the same bytes. Any of this may run anywhere, any time, twice.
Does not promise: attempts, progress and events of before; they begin anew.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from secrets import token_hex
from typing import Any

from worker.artifacts import Artifacts
from worker.errors import ArtifactNotFoundError, QueueUnavailableError
from worker.records import Job, JobRules, JobStatus, Sweep
from worker.store import Store

log = logging.getLogger(__name__)

ROUNDS = 5  # of rebuilding, for a broker that loses its data again meanwhile
UNKNOWN_LEASES = 10.0  # leases until what has no record counts as left over; a request is written before its record


class Upkeep:
    """Works on the records of one broker and, where there are some, the files beside it."""

    def __init__(
        self, store: Store, artifacts: Artifacts | None, rules: JobRules, *, hint: Callable[[str], None]
    ) -> None:
        self._store, self._artifacts, self._rules, self._hint = store, artifacts, rules, hint

    def sweep(self) -> Sweep:
        """Repair what dead workers and lost hints left behind, and apply retention; rebuild a broker that lost all."""
        if not self._store.whole():
            self.rebuild()
        swept = self._store.sweep(self._rules)
        for job_id in dict.fromkeys(swept.requeued + swept.hinted):
            self._hint(job_id)
        if self._artifacts:
            for job in self._store.fetch(swept.crashed + swept.expired):
                self.record_end(job)
                self._artifacts.remove(job.id)
            for job_id in swept.purged:
                self._artifacts.forget_request(job_id)
                self._artifacts.remove(job_id)
        return swept

    def clean(self) -> int:
        """Remove files that belong to no job, and write down verdicts that were not; returns how many."""
        if self._artifacts is None or not self._store.whole():
            return 0  # what looks unknown may be all that is left of a job
        stored = self._artifacts.stored()
        leased, known = self._store.leased(), self._store.statuses(stored)
        ended = [i for i, status in known.items() if not status.active and status is not JobStatus.SUCCEEDED]
        late = [job for job in self._store.fetch(ended) if self._artifacts.verdict(job.id) is None]
        for job in late:
            self.record_end(job)
        removed = self._artifacts.sweep(
            leased=leased,
            ended=ended,
            unknown=[i for i in stored if i not in known],
            grace_s=self._rules.lease_s,
            keep_s=UNKNOWN_LEASES * self._rules.lease_s,
        )
        return removed + len(late)

    def record_end(self, job: Job) -> None:
        """Write down how a job ended that has no files; where the disk does not take it, :meth:`clean` tries again."""
        if self._artifacts is None or job.status.active or job.status is JobStatus.SUCCEEDED:
            return
        error = {"code": job.error.code, "message": job.error.message} if job.error else None
        verdict = {"status": job.status.value, "finished_at": job.finished_at, "error": error}
        try:
            self._artifacts.record_verdict(job.id, verdict)
        except OSError as error_:
            log.warning("job %s: its end is not written down yet: %s", job.id, error_)

    def rebuild(self, *, doubt: bool = False) -> int:
        """Restore the record of every request that the broker does not know; returns how many.

        Parameters
        ----------
        doubt
            Look even where the broker is known to hold every record.

        Raises
        ------
        QueueUnavailableError
            If the broker does not answer, or loses its data again and again.
        OSError
            If the requests cannot be read: better no broker than one that has forgotten them.
        """
        restored = 0
        if doubt:
            self._store.doubt()
        for _ in range(ROUNDS):
            begun = token_hex(8)
            self._store.begin_round(begun)
            if self._artifacts:
                recorded = self._artifacts.requested()
                known = self._store.statuses(recorded)
                missing = self._artifacts.requests([job_id for job_id in recorded if job_id not in known])
                restored += sum(self._restore(request, self._artifacts) for request in missing)
                for job_id in (job_id for job_id, status in known.items() if status.active):
                    verdict = self._artifacts.verdict(job_id)
                    if verdict and verdict["status"] == JobStatus.CANCELED:  # the client was told so
                        self._store.run("cancel", job_id, self._rules.record_s)
            if self._store.end_round(begun):
                if restored:
                    log.warning("the broker had lost its data; restored %d jobs", restored)
                return restored
        raise QueueUnavailableError("the broker loses its data again and again; look into its log")

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
        raise QueueUnavailableError("the broker loses its data again and again; look into its log")

    def _restore(self, request: dict[str, Any], artifacts: Artifacts) -> bool:
        job_id = request["id"]
        end = artifacts.verdict(job_id)
        if end is None:
            try:
                end = {"status": JobStatus.SUCCEEDED.value, "finished_at": artifacts.published_at(job_id)}
            except ArtifactNotFoundError:
                end = {"status": JobStatus.QUEUED.value}
        restored = self._store.restore(request, end=end, rules=self._rules, pinned=artifacts.pinned(job_id))
        if restored and end["status"] == JobStatus.QUEUED:
            self._hint(job_id)
        return restored
