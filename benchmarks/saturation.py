"""How many workers one broker serves: simulated workers that sleep instead of computing, until the broker is the limit.

``python -m benchmarks.saturation [--workers 64]`` submits one request of many shards to a broker with the settings that
the service demands (append-only file, synced at every write). Simulated workers claim, report and finish shards as real
ones do, each with a real :class:`worker.jobs.JobQueue`. It prints, for each length of a shard, how many shards a second
were finished and how many would have been if the broker took no time; the rate at length 0 is the broker's limit.
Files, Celery and the network between machines are left out. The figures go to ``out/bench/saturation.json``. Nothing
is asserted.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import threading
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import redis

from worker.broker.embedded import start_broker
from worker.broker.urls import redis_url
from worker.jobs import SEAL, JobProgress, JobQueue

PROCESSES = 4  # the workers are threads of these
REPORT_S = 0.2  # between two reports of progress, as worker/liveness/lease_keeper.py bounds them
CELLS_PER_SHARD = 10
SHARD_SECONDS = (20.0, 5.0, 1.0, 0.2, 0.0)


def work(url: str, threads: int, shard_s: float, seconds: float, finished: Any, ready: Any) -> None:
    """Be several workers for some seconds, when all processes are ready; count what they finish."""
    ready.wait()
    until = time.time() + seconds
    workers = [threading.Thread(target=_work, args=(url, shard_s, until, finished)) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def _work(url: str, shard_s: float, until: float, finished: Any) -> None:
    jobs = JobQueue.connect(url, wake_up=lambda _: None)
    while time.time() < until:
        lease = jobs.leases.claim(worker="simulated")
        if lease is None or lease.shard == SEAL:
            break
        end = time.time() + shard_s
        while (left := end - time.time()) > 0:
            time.sleep(min(left, REPORT_S))
            jobs.leases.renew(lease, progress=JobProgress(stage="frames", frame=1, frames=CELLS_PER_SHARD))
        jobs.leases.finish_shard(lease)
        if time.time() < until:
            with finished.get_lock():
                finished.value += 1
    jobs.close()


def measure(workers: int, shard_s: float, *, seconds: float) -> dict[str, Any]:
    """Run one length of a shard for some seconds on a broker of its own."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as place, start_broker(Path(place) / "broker") as broker:
        jobs = JobQueue.connect(broker.url, wake_up=lambda _: None)
        jobs.submit(
            kind="generation", spec={}, model_id="none", model_sha256="0" * 64, digest=uuid4().hex, shards=100_000
        )
        finished, ready = context.Value("q", 0), context.Barrier(PROCESSES + 1)
        processes = [
            context.Process(target=work, args=(broker.url, workers // PROCESSES, shard_s, seconds, finished, ready))
            for _ in range(PROCESSES)
        ]
        for process in processes:
            process.start()
        server = redis.Redis.from_url(redis_url(broker.url))
        ready.wait()
        before, started = _facts(server), time.time()
        time.sleep(seconds)
        after, count, took = _facts(server), finished.value, time.time() - started
        for process in processes:
            process.join()
        jobs.close()
    return {
        "workers": workers, "shard_seconds": shard_s, "shards_per_second": round(count / took, 2),
        "ideal": round(workers / shard_s, 2) if shard_s else None,
        "cells_per_second": round(count * CELLS_PER_SHARD / took, 1),
        "commands_per_second": round((after["commands"] - before["commands"]) / took),
        "broker_cpu": round((after["cpu"] - before["cpu"]) / took, 2),
    }  # fmt: skip


def _facts(server: redis.Redis) -> dict[str, float]:
    facts: Any = server.info()
    cpu = float(facts["used_cpu_sys"]) + float(facts["used_cpu_user"])
    return {"commands": float(facts["total_commands_processed"]), "cpu": cpu}


def main() -> None:
    """Print a row for each length of a shard."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.saturation", description=__doc__)
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=25.0, help="for each row")
    parser.add_argument("--out", type=Path, default=Path("out/bench/saturation.json"))
    arguments = parser.parse_args()
    rows = []
    for shard_s in SHARD_SECONDS:
        rows.append(row := measure(arguments.workers, shard_s, seconds=arguments.seconds + shard_s))
        ideal = f"of {row['ideal']:8.2f}" if row["ideal"] else "at the limit"
        print(
            f"{row['workers']:4} workers  shards of {shard_s:5.1f} s: {row['shards_per_second']:8.2f} a second {ideal}"
            f"  {row['cells_per_second']:8.1f} cells a second  {row['commands_per_second']:6} commands a second  "
            f"broker {100 * row['broker_cpu']:.0f} % of a core",
            flush=True,
        )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
