"""How job records are stored in Redis: the keys, the scripts that change them, and how they are read.

:class:`worker.jobs.JobQueue` has the rules, the files and the errors, and uses no key itself.

====================  ========================================================================================
``job:<id>``          hash, the record
``events:<id>``       stream, the events of a job
``all``               sorted set of every id by order of submission; so are ``owner:<owner>``, ``status:<status>``
``status:queued``     which makes this one the queue
``leases``            sorted set of the running, by when their lease expires; ``<id>/<token>`` for a shard
``open:<id>``         sorted set of a divided job's shards that are neither leased nor finished; ``held:<id>``: hash,
                      the shard of a lease's token; ``shards:<id>``: hash, of each shard how often it was lost, its
                      progress, and whether it is finished; ``divided``: the active jobs that have shards
``ready:<owner>``     sorted set of the owner's jobs with something to claim, by priority and order of submission;
                      ``units:<owner>``: the owner's leases; ``ready_owners``: who is served next
``retention``         sorted set of the ended, by when their files or records are removed
``result:<digest>``   the succeeded job that answers an identical request
``idem:<key>``        hash, the job of an Idempotency-Key, or the request that is being written ``since`` a time
``content:<name>``    the succeeded job, of any owner, that has this content
``whole``             the run of the server in which no record is missing, and the rebuilding that ensured it;
                      ``round:<name>``: a rebuilding in progress
``seq``, ``token``    counters: order of submission, fencing; ``tally``: hash, counts of failures
``swept``             when the latest sweep was
``batch:<id>``        hash, jobs accepted together; ``batch_jobs:<id>``: sorted set of them by order of submission;
                      ``batch_active:<id>``: set of those that have not ended; ``events:<id>`` as of a job
``webhooks``          sorted set of what has ended and must still be told to an address, by when it is due
``timing:<group>``    hash, durations of jobs compared with their estimates (:mod:`worker.jobs.timings`)
``workers``           sorted set of workers by their last announcement; ``worker-facts`` describes them
====================  ========================================================================================
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import redis

from worker.jobs.records import (
    Job,
    JobEvent,
    JobFilter,
    JobPage,
    JobRules,
    JobStatus,
    Sweep,
    WorkerBeat,
    parse_events,
    parse_job,
)
from worker.jobs.redis_client import BLOCK_S, block_ms, event_id, reachable

LUA = Path(__file__).parent / "lua"
QUEUE = "cytosynth"  # the list that holds the wake-ups; Celery's queue of the same name
SCAN_MAX = 5000  # the most records that are read for one page, however few pass the filter
CRASHED = (
    "the workers that ran this job died {lost} times (out of memory?); "
    "ask for a smaller grid, fewer frames or a smaller count"
)
SCRIPTS = (
    "submit", "claim", "renew", "finish", "finish_shard", "reopen", "fail", "release", "fail_attempt", "cancel",
    "delete", "pin", "sweep", "restore", "complete", "alias", "timing", "forget", "take_webhook", "settle_webhook",
    "work", "submit_batch", "restore_batch",
)  # fmt: skip
# Where kombu keeps the wake-ups that a worker has taken and not yet acknowledged. The name is our own, because the
# server may carry messages of other programs.
UNDER_WAY, UNDER_WAY_INDEX, UNDER_WAY_LOCK = (f"{QUEUE}:unacked{tail}" for tail in ("", "_index", "_mutex"))
ROUND_S = 3600  # seconds after which the key of a rebuilding whose process died expires


class Store:
    """Runs the scripts and reads the records below one key prefix."""

    def __init__(self, client: redis.Redis, *, prefix: str) -> None:
        self._redis = client
        self._prefix = prefix
        prelude = (LUA / "prelude.lua").read_text(encoding="utf-8")
        self._scripts = {
            name: client.register_script(prelude + (LUA / f"{name}.lua").read_text(encoding="utf-8"))
            for name in SCRIPTS
        }

    def run(self, script: str, *args: str | float) -> Any:
        """Run one script: a transaction."""
        with reachable():
            return self._scripts[script](args=[self._prefix, *args])

    def fetch(self, job_ids: list[str]) -> list[Job]:
        """Return those jobs that exist, in the order asked for."""
        with reachable(), self._redis.pipeline() as pipe:
            for job_id in job_ids:
                pipe.hgetall(self.job_key(job_id))
                pipe.zrank(f"{self._prefix}status:{JobStatus.QUEUED}", job_id)
            rows = pipe.execute()
        return [parse_job(fields, rank=rank) for fields, rank in zip(rows[::2], rows[1::2], strict=True) if fields]

    def fetch_surely(self, job_ids: list[str]) -> tuple[list[Job], bool]:
        """Return those jobs that exist, and whether the others are known not to, read in one transaction.

        Two transactions would not do: if the broker lost its data before the first and was rebuilt before the second,
        an existing job would be reported as missing.
        """
        with reachable(), self._redis.pipeline() as pipe:
            for job_id in job_ids:
                pipe.hgetall(self.job_key(job_id))
                pipe.zrank(f"{self._prefix}status:{JobStatus.QUEUED}", job_id)
            pipe.get(self._prefix + "whole")
            pipe.info("server")
            *rows, token, facts = pipe.execute()
        found = [parse_job(fields, rank=rank) for fields, rank in zip(rows[::2], rows[1::2], strict=True) if fields]
        return found, _token_of_this_run(token, facts) is not None

    def completeness_token(self) -> str | None:
        """Return a token that is unchanged while no record is missing; None if records may be missing.

        A caller that reads in several steps compares the tokens from before and after.
        """
        with reachable(), self._redis.pipeline() as pipe:
            pipe.get(self._prefix + "whole")
            pipe.info("server")
            token, facts = pipe.execute()
        return _token_of_this_run(token, facts)

    def page(
        self,
        *,
        owner: str | None,
        status: JobStatus | None,
        kind: str | None,
        where: JobFilter,
        cursor: str | None,
        limit: int,
    ) -> JobPage:
        """Return jobs, newest first, after ``cursor``, the order of submission of the last job of the page before."""
        index = f"owner:{owner}" if owner is not None else f"status:{status}" if status else "all"
        index = f"batch_jobs:{where.batch}" if where.batch else index
        highest = f"({cursor}" if cursor else "+inf"
        # One more than asked for shows whether there is a next page; with filters more records are read.
        plain = kind is None and not where and (status is None or owner is None)
        chunk = limit + 1 if plain else max(limit + 1, 50)

        def shown(job: Job) -> bool:
            return (
                status in (None, job.status)
                and kind in (None, job.kind)
                and owner in (None, job.owner)
                and where.matches(job)
            )

        found: list[Job] = []
        for _ in range(0, SCAN_MAX, chunk):
            with reachable():
                rows: Any = self._redis.zrange(
                    self._prefix + index, highest, "-inf", desc=True, byscore=True, withscores=True,
                    offset=0, num=chunk,
                )  # fmt: skip
            more = len(rows) == chunk
            positions = {job_id: int(seq) for job_id, seq in rows}
            for job in self.fetch(list(positions)):
                if shown(job):
                    found.append(job)
                    if len(found) == limit:
                        last = not more and job.id == rows[-1][0]
                        return JobPage(jobs=found, next_cursor=None if last else str(positions[job.id]))
            if not more:
                return JobPage(jobs=found, next_cursor=None)
            highest = f"({int(rows[-1][1])}"
        return JobPage(jobs=found, next_cursor=highest[1:])

    def sweep(self, rules: JobRules) -> Sweep:
        """Run the sweeping script."""
        lists = self.run(
            "sweep", QUEUE, UNDER_WAY, UNDER_WAY_INDEX, rules.wake_up_after_s, rules.max_lost, rules.record_s,
            rules.sweep_batch, rules.lease_s, rules.away_s, CRASHED.format(lost=rules.max_lost),
        )  # fmt: skip
        return Sweep(**dict(zip(("requeued", "crashed", "woken", "expired", "purged"), lists, strict=True)))

    def restore(self, request: dict[str, Any], *, end: dict[str, Any], rules: JobRules, pinned: bool) -> bool:
        """Restore a missing record, or end a record whose job has ended; False if neither was necessary.

        Parameters
        ----------
        end
            ``status`` (queued or final) and, if final, ``finished_at`` and perhaps ``error``, ``warnings`` and
            ``kept_from``: from when on the files are kept.
        """
        spec = json.dumps(request["spec"], allow_nan=False, separators=(",", ":"))
        status, error = JobStatus(end["status"]), end.get("error") or {}
        warnings = end.get("warnings") or []
        succeeded, finished_at = status is JobStatus.SUCCEEDED, end.get("finished_at") or request["created_at"]
        answer = self.run(
            "restore", request["id"], request["kind"], request["owner"], spec, request["model_id"],
            request["model_sha256"], request["digest"], request.get("request_digest", request["digest"]),
            request.get("idempotency", ""), int(rules.idempotency_s), result_key(request),
            request["created_at"], int(pinned), status, finished_at, end.get("kept_from") or finished_at,
            rules.retention_s if succeeded else rules.record_s, rules.retention_s, request["id"] if succeeded else "",
            error.get("code", ""), error.get("message", ""), json.dumps(warnings) if warnings else "",
            price_text(request), request.get("shards") or "", options_text(request),
        )  # fmt: skip
        return bool(answer)

    def batch(self, batch_id: str) -> dict[str, str]:
        """Return the fields of a batch; empty if there is none."""
        with reachable():
            fields: Any = self._redis.hgetall(f"{self._prefix}batch:{batch_id}")
        return dict(fields)

    def batch_now(self, batch_id: str) -> tuple[dict[str, str], list[JobStatus]]:
        """Return the fields of a batch, empty if there is none, and the states of its jobs, all of one moment."""
        jobs = self.batch_jobs(batch_id)
        with reachable(), self._redis.pipeline() as pipe:
            pipe.hgetall(f"{self._prefix}batch:{batch_id}")
            for job_id in jobs:
                pipe.hget(self.job_key(job_id), "status")
            fields, *statuses = pipe.execute()
        return dict(fields), [JobStatus(status) for status in statuses if status]

    def batch_jobs(self, batch_id: str) -> list[str]:
        """Return the jobs of a batch that exist, in order."""
        with reachable():
            jobs: Any = self._redis.zrange(f"{self._prefix}batch_jobs:{batch_id}", 0, -1)
        return list(jobs)

    def batches(self, batch_ids: list[str]) -> set[str]:
        """Return those batches that exist."""
        with reachable(), self._redis.pipeline(transaction=False) as pipe:
            for batch_id in batch_ids:
                pipe.exists(f"{self._prefix}batch:{batch_id}")
            return {batch_id for batch_id, there in zip(batch_ids, pipe.execute(), strict=True) if there}

    def is_complete(self) -> bool:
        """Whether the broker, since it started, is known to hold every record."""
        return self.completeness_token() is not None

    def invalidate(self) -> None:
        """Regard the records as incomplete until the next rebuilding has ended."""
        with reachable():
            self._redis.delete(self._prefix + "whole")

    def begin_round(self, name: str) -> None:
        """Start a rebuilding."""
        with reachable():
            self._redis.set(f"{self._prefix}round:{name}", self._run_id(), ex=ROUND_S)

    def end_round(self, name: str) -> bool:
        """Mark the records as complete, unless the broker has lost its data since the rebuilding started."""
        return bool(self.run("complete", name))

    def answering(self, result_key: str) -> str | None:
        """Return the succeeded job that answers requests of one owner for one digest."""
        with reachable():
            job_id: Any = self._redis.get(f"{self._prefix}result:{result_key}")
        return job_id or None

    def count(self, what: str, times: int) -> None:
        """Increase a count of failures."""
        with reachable():
            self._redis.hincrby(self._prefix + "tally", what, times)

    def find_job_with_content(self, content: str) -> str | None:
        """Return the succeeded job of any owner that has a content."""
        with reachable():
            job_id: Any = self._redis.get(f"{self._prefix}content:{content}")
        return job_id if job_id and self.statuses([job_id]).get(job_id) is JobStatus.SUCCEEDED else None

    def holds(self, job_id: str, token: int) -> bool:
        """Whether a job runs under this token."""
        with reachable():
            status, own, shards = self._redis.hmget(self.job_key(job_id), ["status", "token", "shards"])
            if status == JobStatus.RUNNING and shards is not None:
                return bool(self._redis.hexists(f"{self._prefix}held:{job_id}", str(token)))
        return bool([status, own] == [JobStatus.RUNNING, str(token)])

    def timings(self, groups: list[str]) -> list[dict[str, str]]:
        """Return the measurements of each group of jobs; empty for a group without any."""
        with reachable(), self._redis.pipeline(transaction=False) as pipe:
            for group in groups:
                pipe.hgetall(f"{self._prefix}timing:{group}")
            found: list[dict[str, str]] = pipe.execute()
        return found

    def work(self) -> tuple[int, int]:
        """Return how many jobs and shards wait for a worker, and how many workers hold."""
        waiting, held = self.run("work")
        return int(waiting), int(held)

    def wake_ups_waiting(self) -> int:
        """Return how many wake-ups no worker has taken."""
        with reachable():
            return int(self._redis.llen(QUEUE))

    def events(self, job_id: str, *, after: str, block_s: float) -> list[JobEvent]:
        """Return the events after ``after``, waiting up to ``block_s`` for the first."""
        key, deadline = self.events_key(job_id), time.monotonic() + block_s
        while True:
            left = deadline - time.monotonic()
            with reachable():
                answer: Any = self._redis.xread({key: event_id(after)}, block=block_ms(left))
            if answer or left <= BLOCK_S:
                return parse_events(answer[0][1]) if answer else []

    def statuses(self, job_ids: list[str]) -> dict[str, JobStatus]:
        """Return the states of those jobs that exist."""
        with reachable(), self._redis.pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                pipe.hget(self.job_key(job_id), "status")
            statuses: list[str | None] = pipe.execute()
        return {job_id: JobStatus(status) for job_id, status in zip(job_ids, statuses, strict=True) if status}

    def counts(self) -> dict[JobStatus, int]:
        """Return how many jobs are in each state."""
        with reachable(), self._redis.pipeline() as pipe:
            for status in JobStatus:
                pipe.zcard(f"{self._prefix}status:{status}")
            return dict(zip(JobStatus, pipe.execute(), strict=True))

    def failure_counts(self) -> dict[str, int]:
        """Return the counts of failures; failures that never happened are left out."""
        with reachable():
            tally: Any = self._redis.hgetall(self._prefix + "tally")
        return {what: int(count) for what, count in tally.items()}

    def leased(self) -> set[str]:
        """Return the jobs that are running."""
        with reachable():
            leased: Any = self._redis.zrange(self._prefix + "leases", 0, -1)
        return {member.partition("/")[0] for member in leased}

    def try_lock(self, name: str, *, seconds: float) -> bool:
        """Take a lock and return whether it was free; it expires by itself."""
        with reachable():
            return bool(self._redis.set(f"{self._prefix}lock:{name}", "1", nx=True, px=max(1, int(seconds * 1000))))

    def announce(self, name: str, *, ready: bool, **facts: str | int) -> None:
        """Record the announcement of a worker and its description."""
        with reachable():
            now = self.now()
            # Not one of the facts: processes of older versions know them all, or fail.
            if ready:
                self._redis.srem(self._prefix + "workers-preparing", name)
            else:
                self._redis.sadd(self._prefix + "workers-preparing", name)
                self._redis.expire(self._prefix + "workers-preparing", 86400)
            self._redis.hset(self._prefix + "worker-facts", name, json.dumps(facts))
            self._redis.zadd(self._prefix + "workers", {name: now})

    def retire(self, name: str) -> None:
        """Remove the announcement of a worker."""
        with reachable():
            self._redis.zrem(self._prefix + "workers", name)
            self._redis.hdel(self._prefix + "worker-facts", name)
            self._redis.srem(self._prefix + "workers-preparing", name)

    def workers_alive(self, *, within_s: float) -> list[WorkerBeat]:
        """Return the workers that announced themselves recently; remove older announcements."""
        with reachable():
            now = self.now()
            self._redis.zremrangebyscore(self._prefix + "workers", "-inf", now - 86400.0)
            rows: Any = self._redis.zrange(
                self._prefix + "workers", now - within_s, "+inf", byscore=True, withscores=True
            )
            facts: Any = self._redis.hmget(self._prefix + "worker-facts", [name for name, _ in rows]) if rows else []
            preparing: Any = self._redis.smembers(self._prefix + "workers-preparing")
        return [
            WorkerBeat(name=name, seen_at=seen, ready=name not in preparing, **json.loads(text))
            for (name, seen), text in zip(rows, facts, strict=True)
            if text
        ]

    def now(self) -> float:
        """Return the broker's time, which all hosts use."""
        seconds, micros = self._redis.time()
        return float(seconds) + float(micros) / 1e6

    def last_event(self, job_id: str) -> str:
        """Return the id of the latest event of a job."""
        with reachable():
            last: Any = self._redis.xrevrange(self.events_key(job_id), count=1)
        return str(last[0][0]) if last else "0"

    def _run_id(self) -> str:
        facts: Any = self._redis.info("server")
        return str(facts["run_id"])

    def job_key(self, job_id: str) -> str:
        """Return the key of a record."""
        return f"{self._prefix}job:{job_id}"

    def events_key(self, job_id: str) -> str:
        """Return the key of a record's events."""
        return f"{self._prefix}events:{job_id}"


def _token_of_this_run(token: str | None, facts: dict[str, Any]) -> str | None:
    return token if token is not None and token.partition(":")[0] == facts["run_id"] else None


def fingerprint(*parts: str) -> str:
    """Return a name of fixed length for a value of the client's choice."""
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def price_text(request: dict[str, Any]) -> str:
    """Return a request's price as its record holds it; empty where it has none, as in older versions."""
    price = request.get("price")
    return json.dumps(price, allow_nan=False, separators=(",", ":")) if price else ""


def result_key(request: Mapping[str, Any]) -> str:
    """Return the key under which a succeeded job answers the next request of its owner that asks for the same.

    Labels and batch are part of it: a request with others gets a job of its own; a worker gives it the same files.
    """
    labels, batch = request.get("labels"), request.get("batch")
    own = [json.dumps([labels, batch] if batch else labels, sort_keys=True)] if labels or batch else []
    return fingerprint(request["owner"], request["digest"], *own)


def options_text(request: Mapping[str, Any]) -> str:
    """Return those members of a request that its record holds as texts, as JSON; empty where it has none."""
    members = {}
    if labels := request.get("labels"):
        members["labels"] = json.dumps(labels, sort_keys=True, separators=(",", ":"))
    if priority := request.get("priority"):
        members["priority"] = str(priority)
    for name in ("webhook", "webhook_done", "batch"):
        if text := request.get(name):
            members[name] = text
    return json.dumps(members) if members else ""
