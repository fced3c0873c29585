"""What grows with the number of sequences of one request: accepted, computed, sealed, listed, downloaded, removed.

``python -m benchmarks.large_request [--count 10001] [--accept 100000] [--model celegans]`` starts a service with two
workers of one thread each. It submits a request of ``--accept`` sequences and cancels it; then it submits one of
``--count``, of one small frame each, and lets it end. It prints how long each step took, the memory of web, workers and
broker, and the keys in the broker. The figures go to ``out/bench/large_request.json``. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
import redis

from app.settings import AppSettings, child_environment
from worker.broker.embedded import start_broker
from worker.broker.urls import redis_url

T = TypeVar("T")
SPEC = {
    "seed": 1, "frames": 1, "grid": 16, "formats": ["stl"], "rotation": "random",
    "latent": {"kind": "learned", "index": 1},
}  # fmt: skip
POLL_S = 1.0


def measure(spec: dict[str, Any], count: int, accepted: int, place: Path, url: str) -> dict[str, Any]:
    """Run both requests on a service of its own; return the figures."""
    ready, figures = place / "ready.json", dict[str, Any]()
    environment = {**child_environment(AppSettings()), "CYTOSYNTH_THREADS": "1", "CYTOSYNTH_REDIS_URL": url}
    command = [
        sys.executable, "-m", "app.cli", "serve", "--port", "0", "--data-dir", str(place / "data"),
        "--workers", "2", "--ready-file", str(ready),
    ]  # fmt: skip
    with (place / "log").open("wb") as log:
        service = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        while not ready.exists():
            time.sleep(0.1)
        with httpx.Client(base_url=json.loads(ready.read_text())["address"], timeout=3600) as client:
            while client.get("/readyz").status_code != 200:
                time.sleep(POLL_S)
            for number, cancel in ((accepted, True), (count, False)):
                figures[str(number)] = _request(
                    client, spec | {"count": number}, service.pid, redis_url(url), cancel=cancel
                )
    finally:
        service.terminate()
        service.wait(60)
    return figures


def _request(client: httpx.Client, spec: dict[str, Any], pid: int, url: str, *, cancel: bool) -> dict[str, Any]:
    count, server, rows = int(spec["count"]), redis.Redis.from_url(url), dict[str, Any]()

    def timed(step: str, action: Callable[[], T]) -> T:
        started = time.monotonic()
        found = action()
        rows[f"{step}_s"] = round(time.monotonic() - started, 2)
        print(f"{count} cells: {step} {rows[f'{step}_s']} s", flush=True)
        return found

    def memory() -> dict[str, float]:
        facts: Any = server.info("memory")
        here = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        sizes = [round(process.memory_info().rss / 1e6, 1) for process in here]
        return {"web_mb": sizes[0], "workers_mb": round(sum(sizes[1:]), 1), "broker_mb": facts["used_memory"] / 1e6}

    before: Any = server.dbsize()
    rows["before"] = memory()
    job = timed("accept", lambda: client.post("/v1/generations", json=spec)).raise_for_status().json()
    rows["accepted"] = memory()
    after: Any = server.dbsize()
    rows |= {"shards": job["shards"]["total"], "further_keys": after - before}
    if cancel:
        timed("cancel", lambda: client.post(job["links"]["cancel"]))
        return rows

    def finish() -> None:
        while True:
            now = client.get(job["links"]["self"]).json()
            if "all_shards_done" not in rows and now["shards"]["done"] == rows["shards"]:
                rows["all_shards_done"] = time.monotonic()
            if now["state"] not in ("queued", "running"):
                break
            time.sleep(POLL_S)
        if now["state"] != "succeeded":
            raise SystemExit(f"the job {now['state']}: {now['error']}")

    timed("compute_and_seal", finish)
    rows["seal_at_most_s"] = round(time.monotonic() - rows.pop("all_shards_done") + POLL_S, 1)
    rows["root_manifest_bytes"] = len(timed("manifest", lambda: client.get(job["links"]["manifest"])).content)
    rows["files"] = timed("list", lambda: _listed(client, job["links"]["files"]))
    last = f"{job['links']['files']}/cell_{count - 1:04d}/frame_0000.stl"
    timed("last_file", lambda: client.get(last).raise_for_status())
    rows["archive_bytes"] = timed("archive", lambda: _drained(client, job["links"]["archive"]))
    rows["served"] = memory()
    timed("same_request", lambda: client.post("/v1/generations", json=job["spec"]).raise_for_status())
    timed("remove", lambda: client.delete(job["links"]["self"]).raise_for_status())
    return rows


def _listed(client: httpx.Client, address: str | None) -> int:
    count = 0
    while address:
        page = client.get(address).raise_for_status().json()
        count, address = count + len(page["files"]), page["next"]
    return count


def _drained(client: httpx.Client, address: str) -> int:
    with client.stream("GET", address) as answer:
        return sum(len(chunk) for chunk in answer.iter_bytes())


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large_request", description=__doc__)
    parser.add_argument("--count", type=int, default=10_001)
    parser.add_argument("--accept", type=int, default=100_000)
    parser.add_argument("--model", default="celegans")
    parser.add_argument("--out", type=Path, default=Path("out/bench/large_request.json"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place, start_broker(Path(place) / "broker") as broker:
        spec = SPEC | {"model": arguments.model}
        figures = measure(spec, arguments.count, arguments.accept, Path(place), broker.url)
    print(json.dumps(figures, indent=2))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
