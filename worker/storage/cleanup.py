"""Removes everything on disk that no job needs: abandoned staging folders, left-over results, drafts, trash."""

from __future__ import annotations

from collections.abc import Collection

from worker.storage.artifacts import Artifacts
from worker.storage.journal import Journal


def stored_jobs(artifacts: Artifacts, journal: Journal) -> list[str]:
    """Return the ids of all jobs with anything on disk, sorted."""
    return sorted({*artifacts.published(), *artifacts.divided(), *artifacts.stateful(), *journal.stored()})


def remove_unneeded(
    artifacts: Artifacts,
    journal: Journal,
    *,
    leased: Collection[str],
    ended: Collection[str] = (),
    sealed: Collection[str] = (),
    unknown: Collection[str] = (),
    unknown_batches: Collection[str] = (),
    grace_s: float = 60.0,
    keep_s: float = 7 * 86400.0,
    alias_s: float = 7 * 86400.0,
) -> int:
    """Remove what no job needs; return how many files and folders were removed.

    Ages are by the clock of the file system, or of the object store, whatever this machine's says.

    Parameters
    ----------
    leased
        Jobs that are being run: their staging folders stay. Others go once they are ``grace_s`` old, as do drafts.
    ended
        Jobs that ended without files: their results go.
    sealed
        Jobs that succeeded: the folders of their shards go once they are ``grace_s`` old, and their kept state at once.
    unknown
        Jobs without a record in the broker: their files and records go once they are ``keep_s`` old, because a request
        is written before its record.
    unknown_batches
        The same for batches. They go before their jobs, so that a rebuilding restores no part of one.
    alias_s
        How many seconds an Idempotency-Key is answered with the same job.
    """
    removed, now = artifacts.discard_abandoned(leased=leased, grace_s=grace_s), artifacts.now()
    with_files = {*artifacts.published(), *artifacts.divided(), *artifacts.stateful()}
    for job_id in with_files.intersection(ended):
        artifacts.remove(job_id)
        removed += 1
    for job_id in sealed:
        removed += artifacts.remove_shards(job_id, grace_s=grace_s, now=now) + artifacts.remove_state(job_id)
    for batch_id in unknown_batches:
        if journal.batch_age_s(batch_id, now=now) > keep_s:
            journal.forget_batch(batch_id)
            removed += 1
    for job_id in unknown:
        results_s = artifacts.changed_s(job_id, now=now)
        if journal.changed_s(job_id, now=now) > keep_s and (results_s is None or results_s > keep_s):
            artifacts.remove(job_id)
            artifacts.clear_damage(job_id)
            journal.forget_request(job_id)
            removed += 1
    removed += journal.sweep(grace_s=grace_s, alias_s=alias_s, now=now)
    removed += artifacts.sweep_damage_marks(grace_s=grace_s, now=now)
    artifacts.empty_trash()
    return removed + artifacts.blobs.sweep()
