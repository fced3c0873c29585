"""How job records lie in Redis: the keys, the scripts that change them, the one way to read them.

====================  ========================================================================================
``job:<id>``          hash, the record
``events:<id>``       stream, what happened to it
``all``               sorted set of every id by order of submission; so are ``owner:<owner>``, ``status:<status>``
``status:queued``     which makes this one the queue
``leases``            sorted set of the running, by when their lease runs out
``retention``         sorted set of the ended, by when their files or records go
``result:<digest>``   the succeeded job that answers an identical request
``idem:<key>``        hash, the job that an Idempotency-Key stands for
``seq``, ``token``    counters: order of submission, fencing
``workers``           sorted set of workers by their last sign of life; ``worker-facts`` describes them
====================  ========================================================================================
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import redis

from worker.connection import reachable
from worker.records import Job, JobStatus, parse_job

LUA = Path(__file__).parent / "lua"
SCRIPTS = ("submit", "claim", "beat", "finish", "fail", "release", "cancel", "delete", "sweep", "restore")


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

    def now(self) -> float:
        """Return the broker's time, by which all hosts agree."""
        seconds, micros = self._redis.time()
        return float(seconds) + float(micros) / 1e6

    def last_event(self, job_id: str) -> str:
        """Return the id of the latest event of a job."""
        with reachable():
            last: Any = self._redis.xrevrange(self.events_key(job_id), count=1)
        return str(last[0][0]) if last else "0"

    def job_key(self, job_id: str) -> str:
        """Return the key of a record."""
        return f"{self._prefix}job:{job_id}"

    def events_key(self, job_id: str) -> str:
        """Return the key of a record's events."""
        return f"{self._prefix}events:{job_id}"
