"""Whether the processes grow: pipelines without faults for a while, resident memory and descriptors seen all along."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from pathlib import Path

import psutil

from benchmarks.chaos.clients import Client, Ledger
from benchmarks.chaos.service import Service
from benchmarks.chaos.truth import Order

EVERY_S = 5.0
WARM_SHARE = 0.4  # of the time, before caches are full; growth is measured after it
CLIENTS = 3


def soak(out: Path, answers: list[Order], models: Path, *, minutes: float, workers: int) -> int:
    """Run, write ``soak.json`` and print it; return the exit status: 1 if a pipeline complains."""
    (out / "data").mkdir()
    ledger, samples = Ledger(wanted=0), []
    with Service(out / "data", out / "service.log", workers=workers, models=models) as service:
        while not (service.answers() and len(service.jobs.admin.workers_alive(within_s=5.0)) == workers):
            time.sleep(0.1)
        clients = [
            Client(service.addresses[n % service.webs], answers[n::CLIENTS], ledger, seed=n) for n in range(CLIENTS)
        ]
        for client in clients:
            client.start()
        begun, stop = time.monotonic(), threading.Event()
        while (now := time.monotonic() - begun) < 60.0 * minutes:
            samples.append({"second": round(now, 1), **sizes(service)})
            stop.wait(EVERY_S)
        ledger.faults_done.set()
        for client in clients:
            client.join()
    report = {"minutes": minutes, "jobs": len(ledger.accepted), "growth": growth(samples), "samples": samples}
    (out / "soak.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"{report['jobs']} jobs in {minutes:g} minutes; after the first {WARM_SHARE:.0%}:")
    for name, (megabytes, descriptors) in growth(samples).items():
        print(f"{name:20} {megabytes:+8.2f} MB/h resident   {descriptors:+5.1f} descriptors")
    print(f"complaints: {ledger.complaints or 'none'}; {out / 'soak.json'}")
    return 1 if ledger.complaints else 0


def sizes(service: Service) -> dict[str, list[float]]:
    """Return resident MB and descriptors of each process."""
    seen = {}
    for kept in service.kept:
        assert kept.process is not None
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(kept.process.pid)
            seen[kept.name] = _size(process)
            for child in process.children():
                seen[f"{kept.name}/computing"] = _size(child)
    return seen


def growth(samples: list[dict[str, object]]) -> dict[str, tuple[float, float]]:
    """Return MB an hour (least squares over the warm part) and by how many descriptors the warm part grew."""
    warm = samples[int(WARM_SHARE * len(samples)) :]
    names = [name for name in warm[-1] if name != "second"] if warm else []
    found = {}
    for name in names:
        rows = [(float(str(s["second"])), s[name]) for s in warm if name in s]
        times = [second for second, _ in rows]
        memory = [float(size[0]) for _, size in rows]  # type: ignore[index]
        files = [float(size[1]) for _, size in rows]  # type: ignore[index]
        found[name] = (round(3600.0 * _slope(times, memory), 2), files[-1] - files[0])
    return found


def _slope(x: list[float], y: list[float]) -> float:
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    spread = sum((one - mean_x) ** 2 for one in x)
    return sum((one - mean_x) * (other - mean_y) for one, other in zip(x, y, strict=True)) / spread if spread else 0.0


def _size(process: psutil.Process) -> list[float]:
    return [round(process.memory_info().rss / 1e6, 2), process.num_fds()]
