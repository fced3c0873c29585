"""The public names of worker.jobs: what app and the rest of worker may rely on."""

from __future__ import annotations

import worker.jobs

NAMES = [
    "AsyncJobQueue", "BATCH_MAX", "Batch", "BatchJob", "Delivery", "Job", "JobEvent", "JobFailure", "JobFilter",
    "JobLeases", "JobOptions", "JobPage", "JobProgress", "JobQueue", "JobRules", "JobShards", "JobStatus", "Lease",
    "Price", "QueueAdmin", "SEAL", "Sweep", "Timing", "Webhook", "WorkerBeat",
]  # fmt: skip


def test_public_names_are_these() -> None:
    assert sorted(worker.jobs.__all__) == NAMES
    assert all(hasattr(worker.jobs, name) for name in NAMES)


def test_each_side_of_the_queue_offers_what_its_callers_need() -> None:
    sides = {
        worker.jobs.JobQueue: {"submit", "get", "list", "cancel", "delete", "pin", "events", "wait", "wake_up"},
        worker.jobs.JobLeases: {
            "claim", "renew", "holds", "finish", "finish_shard", "reopen_shards", "fail", "fail_attempt",
            "release", "find_job_with_content",
            "report_damage",
        },
        worker.jobs.QueueAdmin: {
            "sweep", "clean", "clean_staging", "rebuild", "assure", "counts", "failure_counts", "workers_alive",
            "announce", "retire", "ping", "try_lock", "wake_ups_waiting", "work",
        },
    }  # fmt: skip
    for side, names in sides.items():
        offered = {name for name in vars(side) if not name.startswith("_")}
        assert offered - {"connect", "close"} == names
