"""Any sequence of calls, losses of the broker included, against a plain description of what each may do.

The real scripts run on a real broker, with real files beside it; hypothesis looks for the shortest sequence that breaks
a promise: exactly one final state a job, a lease that was lost changes nothing, no accepted job is ever missing.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from worker.errors import JobActiveError, JobCanceledError, JobError, JobNotFoundError, LeaseLostError
from worker.jobs import JobQueue, JobRules, JobStatus, Lease
from worker.storage.artifacts import Artifacts
from worker.storage.journal import Journal

KEYS = ("", "a", "b")


@dataclass
class Known:
    """What a plain mind expects of one job."""

    status: JobStatus
    token: int | None = None
    lost: int = 0
    published: bool = False
    pinned: bool = False
    key: str = ""


class JobLife(RuleBasedStateMachine):
    """One broker prefix and one data folder; leases and retention run out at once, so a sweep finds all there is."""

    url = ""
    jobs_made: Bundle[str] = Bundle("jobs_made")
    leases: Bundle[Lease] = Bundle("leases")

    @initialize()
    def open(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.artifacts = Artifacts(self.folder)
        self.rules = JobRules(lease_s=-1.0, retention_s=0.0, record_s=1000.0)
        self.jobs = JobQueue.connect(
            self.url, artifacts=self.artifacts, wake_up=lambda _: None, rules=self.rules, prefix=f"{uuid4().hex}:"
        )
        self.known: dict[str, Known] = {}
        self.ends: dict[str, JobStatus] = {}
        self.flushed = False

    def teardown(self) -> None:
        self.jobs.close()
        shutil.rmtree(self.folder)

    # ------------------------------------------------------------------------------------------------ what clients do

    @rule(target=jobs_made, key=st.sampled_from(KEYS))
    def submit(self, key: str) -> str:
        job, new = self.jobs.submit(
            kind="probe", spec={}, model_id="m", model_sha256="0" * 64, digest=uuid4().hex,
            idempotency_key=key or None, request_digest=key or None,
        )  # fmt: skip
        self.flushed = False  # whoever is first rebuilds
        before = next((job_id for job_id, known in self.known.items() if key and known.key == key), None)
        assert new == (before is None)
        if new:
            self.known[job.id] = Known(JobStatus.QUEUED, key=key)
        else:
            assert job.id == before  # also after the broker has lost its data
        return job.id

    @rule(job_id=jobs_made)
    def cancel(self, job_id: str) -> None:
        if self._missing(job_id, lambda: self.jobs.cancel(job_id)):
            return
        known = self.known[job_id]
        if known.status.active:
            self._end(job_id, JobStatus.CANCELED)
        assert self.jobs.cancel(job_id).status is known.status

    @rule(job_id=jobs_made)
    def delete(self, job_id: str) -> None:
        if self._missing(job_id, lambda: self.jobs.delete(job_id)):
            return
        if self.known[job_id].status.active:
            with pytest.raises(JobActiveError):
                self.jobs.delete(job_id)
            return
        self.jobs.delete(job_id)
        del self.known[job_id]
        self.ends.pop(job_id, None)

    @rule()
    def look_around(self) -> None:
        assert {job.id for job in self.jobs.list(limit=200).jobs} == set(self.known)  # none is missing after a loss
        self.flushed = False

    @rule(job_id=jobs_made, pinned=st.booleans())
    def pin(self, job_id: str, pinned: bool) -> None:
        if self._missing(job_id, lambda: self.jobs.pin(job_id, pinned=pinned)):
            return
        known = self.known[job_id]
        if known.status.active or known.status is JobStatus.SUCCEEDED:
            assert self.jobs.pin(job_id, pinned=pinned).pinned == pinned
            known.pinned = pinned
        else:
            with pytest.raises(JobError, match="no files"):
                self.jobs.pin(job_id, pinned=pinned)

    # ------------------------------------------------------------------------------------------------ what workers do

    @rule(target=leases)
    def claim(self) -> object:
        lease = self.jobs.leases.claim(worker="w")
        self.flushed = False  # no job is started before every record is restored
        queued = [job_id for job_id, known in self.known.items() if known.status is JobStatus.QUEUED]
        if lease is None:
            assert queued == []
            return multiple()
        assert lease.job_id == queued[0]  # the job that was submitted first
        known = self.known[lease.job_id]
        assert known.token is None or lease.token > known.token
        known.status, known.token = JobStatus.RUNNING, lease.token
        return lease

    @rule(lease=leases)
    def publish(self, lease: Lease) -> None:
        staged = self.artifacts.staging(lease.job_id, lease.token)
        (staged / "manifest.json").write_text(json.dumps({"files": []}))
        self.artifacts.publish(lease.job_id, staged)
        if (known := self.known.get(lease.job_id)) is not None:
            known.published = True
            if self.flushed and known.status.active:
                self._end(lease.job_id, JobStatus.SUCCEEDED)  # whoever rebuilds the broker finds the files

    @rule(lease=leases, act=st.sampled_from(["renew", "finish", "fail", "release", "fail_attempt"]))
    def worker_acts(self, lease: Lease, act: str) -> None:
        known = self.known.get(lease.job_id)
        holds = known is not None and known.token == lease.token and not self.flushed
        if act == "finish" and not (known and known.published):
            return  # no worker finishes what it has not published
        said = self._said(known, act) if holds else False
        words = {"fail": {"code": "c", "message": "m"}}
        words["fail_attempt"] = words["fail"]
        if act in words:
            self.flushed = False  # nor ended
        try:
            getattr(self.jobs.leases, act)(lease, **words.get(act, {}))
        except JobCanceledError:
            assert holds
            assert known is not None
            assert known.status is JobStatus.CANCELED
        except LeaseLostError:
            assert not (holds and known is not None and known.status is JobStatus.RUNNING)
        else:
            assert holds
            assert known is not None
            assert known.status is JobStatus.RUNNING or said
            if not said:
                self._follow(lease.job_id, known, act)

    def _said(self, known: Known | None, act: str) -> bool:
        """Whether a worker says its last word once more, which does no harm."""
        ends = {"finish": JobStatus.SUCCEEDED, "fail": JobStatus.FAILED, "fail_attempt": JobStatus.FAILED}
        return known is not None and act in ends and known.status is ends[act]

    def _follow(self, job_id: str, known: Known, act: str) -> None:
        if act == "finish":
            self._end(job_id, JobStatus.SUCCEEDED)
        elif act == "fail":
            self._end(job_id, JobStatus.FAILED)
        elif act == "release":
            known.status = JobStatus.QUEUED
        elif act == "fail_attempt":
            known.lost += 1
            if known.lost >= self.rules.max_lost:
                self._end(job_id, JobStatus.FAILED)
            else:
                known.status = JobStatus.QUEUED

    # -------------------------------------------------------------------------------- what the service and fate do

    @rule()
    def sweep(self) -> None:
        """All leases have run out and so has the retention of files; a broker that was flushed is rebuilt first."""
        if self.flushed:
            self._forget_runs()
        running = {i for i, known in self.known.items() if known.status is JobStatus.RUNNING}
        over = {i for i, known in self.known.items() if known.status is JobStatus.SUCCEEDED and not known.pinned}
        swept = self.jobs.admin.sweep()
        self.flushed = False
        assert set(swept.requeued) | set(swept.crashed) == running
        for job_id in running:
            known = self.known[job_id]
            known.lost += 1
            if known.lost >= self.rules.max_lost:
                assert job_id in swept.crashed
                self._end(job_id, JobStatus.FAILED)
                known.token = -1
            else:
                known.status = JobStatus.QUEUED
        assert set(swept.expired) == over
        for job_id in over:
            self.known[job_id].status = self.ends[job_id] = JobStatus.EXPIRED

    @rule()
    def clean(self) -> None:
        self.jobs.admin.clean()

    @rule()
    def lose_the_broker(self) -> None:
        for key in self.jobs._redis.scan_iter(f"{self.jobs._prefix}*"):
            self.jobs._redis.delete(key)
        self.flushed = True
        self._forget_runs()

    @rule()
    def rebuild(self) -> None:
        assert self.jobs.admin.rebuild() == (len(self.known) if self.flushed else 0)
        self.flushed = False

    def _forget_runs(self) -> None:
        """After a loss, whoever ran a job has lost it; if its files were there, they are its end."""
        for job_id, known in self.known.items():
            known.lost = 0
            if known.status.active:
                known.status = JobStatus.QUEUED
                if known.published and self.artifacts.exists(job_id):
                    self._end(job_id, JobStatus.SUCCEEDED)
            known.token = -1 if known.token is not None else None

    def _end(self, job_id: str, status: JobStatus) -> None:
        assert job_id not in self.ends, "a second end"
        self.known[job_id].status = self.ends[job_id] = status

    def _missing(self, job_id: str, act: Callable[[], object]) -> bool:
        """Whether there is no such job, and it says so; who asks a flushed broker for one has it rebuilt first."""
        if job_id not in self.known:
            with pytest.raises(JobNotFoundError):
                act()
            self.flushed = False
            return True
        assert self.jobs.get(job_id).id == job_id
        self.flushed = False
        return False

    @invariant()
    def every_count_and_list_agrees(self) -> None:
        if self.flushed:
            return
        assert self.jobs.admin.counts() == {
            status: Counter(known.status for known in self.known.values())[status] for status in JobStatus
        }
        assert {job.id: job.status for job in self.jobs.list(limit=200).jobs} == {
            job_id: known.status for job_id, known in self.known.items()
        }

    @invariant()
    def what_succeeded_can_be_read_and_nothing_else_is_kept_for_good(self) -> None:
        for job_id, known in self.known.items():
            if known.status is JobStatus.SUCCEEDED:
                assert self.artifacts.exists(job_id)
        assert set(Journal(self.artifacts.root).requested()) == set(self.known)

    @invariant()
    def nothing_has_two_ends(self) -> None:
        if self.flushed:
            return
        for job_id in self.ends:
            told = [event.data["state"] for event in self.jobs.events(job_id) if event.event == "state"]
            final = [state for state in told if not JobStatus(state).active]
            assert final in ([self.ends[job_id]], ["succeeded", "expired"])


def test_no_sequence_of_calls_or_losses_breaks_the_life_of_a_job(broker_url: str) -> None:
    JobLife.url = broker_url
    run_state_machine_as_test(
        JobLife,
        settings=settings(
            max_examples=50,
            stateful_step_count=30,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )
