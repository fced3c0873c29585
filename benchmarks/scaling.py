"""How one large request spreads over workers: the same cells with one worker and with several, side by side.

``python -m benchmarks.scaling [--cells 200] [--workers 1 2]`` starts a service for each number of workers, one thread
each, asks it for all cells in one request, and prints the time until the first file could be fetched and until the job
had succeeded, the broker's commands a cell, and whether all runs gave the same manifest. The figures go to
``out/bench/scaling.json``. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import redis

from app.settings import AppSettings, child_environment
from worker.broker.embedded import start_broker
from worker.broker.urls import redis_url

WARM_UP = {"model": "celegans", "seed": 1, "frames": 2, "grid": 32, "formats": ["stl"]}


def measure(cells: int, workers: int, *, frames: int, grid: int) -> dict[str, Any]:
    """Run the request on a service of its own."""
    with tempfile.TemporaryDirectory() as place, start_broker(Path(place) / "broker") as broker:
        ready = Path(place) / "ready.json"
        environment = {
            **child_environment(AppSettings()), "CYTOSYNTH_THREADS": "1", "OMP_NUM_THREADS": "1",
            "CYTOSYNTH_REUSE": "false", "CYTOSYNTH_REDIS_URL": broker.url, "CYTOSYNTH_MAX_POINTS": str(2**53),
        }  # fmt: skip
        command = [
            sys.executable, "-m", "app.cli", "serve", "--port", "0", "--data-dir", str(Path(place) / "data"),
            "--workers", str(workers), "--ready-file", str(ready),
        ]  # fmt: skip
        with (Path(place) / "log").open("wb") as log:
            service = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            while not ready.exists():
                time.sleep(0.1)
            with httpx.Client(base_url=json.loads(ready.read_text())["address"], timeout=90) as client:
                for seed in range(4 * workers):  # each worker compiles its kernels and loads the model
                    _finish(client, client.post("/v1/generations", json={**WARM_UP, "seed": seed}).json())
                server = redis.Redis.from_url(redis_url(broker.url))
                before = _commands(server)
                spec = {**WARM_UP, "seed": 7, "count": cells, "frames": frames, "grid": grid}
                started = time.monotonic()
                job = client.post("/v1/generations", json=spec).raise_for_status().json()
                first, ended = _finish(client, job, started=started)
                commands = (_commands(server) - before) / cells
                manifest = client.get(job["links"]["manifest"]).raise_for_status().content
        finally:
            service.terminate()
            service.wait(60)
    return {
        "workers": workers, "cells": cells, "shards": (job["shards"] or {"total": 1})["total"],
        "seconds": round(ended, 2), "first_file_seconds": round(first, 2),
        "broker_commands_per_cell": round(commands, 1), "manifest": hashlib.sha256(manifest).hexdigest(),
    }  # fmt: skip


def _finish(client: httpx.Client, job: dict[str, Any], *, started: float = 0.0) -> tuple[float, float]:
    """Wait for a job; return when its first file could be listed and when it had succeeded."""
    first = 0.0
    while True:
        job = client.get(job["links"]["self"]).raise_for_status().json()
        if not first and started and client.get(job["links"]["files"]).status_code == 200:
            first = time.monotonic() - started
        if job["state"] not in ("queued", "running"):
            if job["state"] != "succeeded":
                raise SystemExit(f"the job {job['state']}: {job['error']}")
            return first, time.monotonic() - started
        time.sleep(0.2)


def _commands(server: redis.Redis) -> int:
    facts: Any = server.info("stats")
    return int(facts["total_commands_processed"])


def main() -> None:
    """Print a row for each number of workers."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--cells", type=int, default=200)
    parser.add_argument("--frames", type=int, default=10)
    parser.add_argument("--grid", type=int, default=64)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--out", type=Path, default=Path("out/bench/scaling.json"))
    arguments = parser.parse_args()
    rows = [measure(arguments.cells, n, frames=arguments.frames, grid=arguments.grid) for n in arguments.workers]
    for row in rows:
        print(
            f"{row['workers']:3} workers  {row['shards']:4} shards  {row['seconds']:8.1f} s  "
            f"{rows[0]['seconds'] / row['seconds']:5.2f} x  first file {row['first_file_seconds']:6.1f} s  "
            f"{row['broker_commands_per_cell']:6.1f} broker commands a cell"
        )
    print("same manifest" if len({row["manifest"] for row in rows}) == 1 else "MANIFESTS DIFFER")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
