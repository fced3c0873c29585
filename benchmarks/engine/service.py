"""Whole jobs: the memory of a large one, and the time from a request to the first byte of its result."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from app.cli.private_service import private_service
from app.settings import AppSettings, child_environment

ROOT = Path(__file__).parents[2]
REPEATS = 5


def memory_of_job(model: str, *, grid: int, frames: int) -> dict[str, Any]:
    """Run an STL job in a fresh process; return its seconds and its largest resident size."""
    command = [sys.executable, "-m", "benchmarks.engine.job", "--model", model]
    answer = subprocess.run(
        [*command, "--grid", str(grid), "--frames", str(frames)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(answer.stdout)
    return {"job": f"{model}, {grid}^3 x {frames}, stl", **found}


def first_byte(model: str) -> dict[str, Any]:
    """Seconds from POST to the first byte of the archive of a new 64³ × 10 STL job, on a warm service of our own."""
    with (
        private_service(child_environment(AppSettings())) as address,
        httpx.Client(base_url=address, timeout=90.0) as http,
    ):
        seconds = [_once(http, model, seed) for seed in range(REPEATS + 2)][2:]  # the first ones warm it
    return {"model": model, "median_s": statistics.median(seconds), "seconds": [round(s, 3) for s in seconds]}


def _once(http: httpx.Client, model: str, seed: int) -> float:
    spec = {"model": model, "seed": seed, "grid": 64, "frames": 10, "formats": ["stl"]}
    begun = time.perf_counter()
    job = http.post("/v1/generations", json=spec, headers={"Prefer": "wait=60"}).raise_for_status().json()
    if job["state"] != "succeeded":
        raise RuntimeError(f"the job ended as {job['state']}: {job}")
    with http.stream("GET", job["links"]["archive"]) as answer:
        answer.raise_for_status()
        next(answer.iter_raw())
        return time.perf_counter() - begun
