"""Chaos: pipelines ask a real service for cells while its processes are killed, frozen, starved and robbed.

``python -m benchmarks.chaos --jobs 300 --faults 300`` prints its progress and a summary, writes ``summary.json`` and
ends with 1 if one accepted job was lost, ended twice, or gave other bytes than a direct computation, if anything was
left behind, or if recovery took longer than a lease and 20 seconds (``--recovery-max``: other seconds, for a machine
that does other work beside). ``--soak MINUTES`` runs without faults instead, and
measures whether the processes grow.

Faults come one after the other, each when the service has recovered from the one before: the web answers, and every job
that was running has ended or was taken up again.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.chaos.audit import check_ends, settle
from benchmarks.chaos.clients import GIVE_UP_S, Client, Ledger
from benchmarks.chaos.faults import COSTLY, Fault, deck
from benchmarks.chaos.service import LEASE_S, Service, data_folder
from benchmarks.chaos.soak import soak
from benchmarks.chaos.truth import Order, orders
from worker.errors import CytosynthError, JobNotFoundError
from worker.jobs import Job, JobStatus

CLIENTS = 6
ORDERS = 12
RECOVERY_MAX_S = LEASE_S + 20.0
GIVE_UP_AFTER_S = 120.0  # for one fault; then the service counts as not recovered
CALM_S = 20.0  # to wait for a job that can be hit; a fault that hits none is a fault too
HITS_MAX = 1  # faults that may cost one job an attempt; the third would end it, rightly


@dataclass
class Recovery:
    """How long the service took after each fault, by kind."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def worst(self) -> float:
        """Return the longest."""
        return max((most for times in self.seconds.values() for most in times), default=0.0)


def running(service: Service) -> dict[str, Job]:
    """Return the running jobs by id."""
    try:
        return {job.id: job for job in service.jobs.list(status=JobStatus.RUNNING).jobs}
    except CytosynthError:
        return {}


def recovered(service: Service, before: dict[str, Job]) -> bool:
    """Whether the web answers and what was running has ended, was taken up again, or goes on."""
    return service.answers() and all(_settled(service, job) for job in before.values())


def _settled(service: Service, before: Job) -> bool:
    try:
        job = service.jobs.get(before.id)
    except JobNotFoundError:
        return True  # it ended, and its client has removed it
    except CytosynthError:
        return False
    if job.shards and before.shards and (job.lost, job.shards.done) != (before.lost, before.shards.done):
        return True
    return not job.status.active or (job.status is JobStatus.RUNNING and job.attempts != before.attempts)


def inject(service: Service, faults: list[Fault], recovery: Recovery, rng: random.Random) -> None:
    """Do the damage, fault by fault."""
    for number, fault in enumerate(faults, start=1):
        time.sleep(rng.uniform(0.0, 0.4))
        service.note_family()
        before = calm(service, hits_max=HITS_MAX if fault in COSTLY else None)
        begun = time.monotonic()
        fault(service, rng)
        damage_s = time.monotonic() - begun
        while not service.answers() and time.monotonic() - begun < GIVE_UP_AFTER_S:
            time.sleep(0.05)
        web_s = time.monotonic() - begun - damage_s
        while not recovered(service, before) and time.monotonic() - begun < GIVE_UP_AFTER_S:
            time.sleep(0.05)
        took = time.monotonic() - begun - damage_s
        recovery.seconds[fault.__name__].append(took)
        parts = f"recovered in {took:5.1f} s (the web answered in {web_s:.1f} s)"
        print(f"{number:4}/{len(faults)}  {fault.__name__:18} {parts}", flush=True)


def calm(service: Service, *, hits_max: int | None) -> dict[str, Job]:
    """Wait until jobs run, none of which has been hit too often; return them."""
    deadline = time.monotonic() + CALM_S
    while True:
        now = running(service)
        fit = bool(now) and (
            hits_max is None or max(max(job.attempts, job.lost + 1) for job in now.values()) <= hits_max
        )
        if fit or time.monotonic() > deadline:
            return now
        time.sleep(0.05)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__)
    parser.add_argument("--jobs", type=int, default=300, help="at least")
    parser.add_argument("--faults", type=int, default=300)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--recovery-max", type=float, metavar="SECONDS", default=RECOVERY_MAX_S, help="a slower recovery is a failure"
    )
    parser.add_argument("--long", action="store_true", help="reconstructions and evaluations take part too")
    parser.add_argument("--soak", type=float, metavar="MINUTES", help="no faults; measure growth")
    parser.add_argument("--out", type=Path, default=Path("out/chaos"))
    arguments = parser.parse_args()
    shutil.rmtree(arguments.out, ignore_errors=True)
    arguments.out.mkdir(parents=True)
    out = arguments.out.resolve()
    print(f"computing {ORDERS} answers without the service")
    answers = orders(ORDERS, seed=arguments.seed, long=arguments.long)
    if arguments.soak:
        sys.exit(soak(out, answers, minutes=arguments.soak, workers=arguments.workers))
    sys.exit(chaos(out, answers, arguments))


def chaos(out: Path, answers: list[Order], arguments: argparse.Namespace) -> int:
    """Run pipelines and faults side by side; return the exit status."""
    rng, ledger, recovery, started = random.Random(arguments.seed), Ledger(arguments.jobs), Recovery(), time.monotonic()
    with data_folder(out / "data") as (data, small):
        with Service(data, out / "service.log", workers=arguments.workers) as service:
            while not (service.answers() and len(service.jobs.admin.workers_alive(within_s=5.0)) == arguments.workers):
                time.sleep(0.1)
            clients = [Client(service.address, answers[n::CLIENTS], ledger, seed=n) for n in range(CLIENTS)]
            for client in clients:
                client.start()
            time.sleep(1.0)
            inject(service, deck(arguments.faults, small_disk=small, rng=rng), recovery, rng)
            ledger.faults_done.set()
            print(f"all faults done, {len(ledger.accepted)} jobs accepted; waiting for the pipelines", flush=True)
            for client in clients:
                client.join(4 * GIVE_UP_S)
            left = settle(service)
            strays = check_ends(service, ledger)
        left += [f"process {pid}" for pid in service.leftovers()]
        restarts = {kept.name: kept.starts - 1 for kept in service.kept}
    summary = {
        "jobs": len(ledger.accepted),
        "faults": sum(len(times) for times in recovery.seconds.values()),
        "lost": ledger.count("lost"),
        "duplicated": ledger.count("duplicated"),
        "wrong_bytes": ledger.count("wrong_bytes"),
        "max_recovery_s": round(recovery.worst(), 1),
        "left_behind": left,
        "known_requests": ledger.reused,
        "unasked_jobs": strays,
        "restarts": restarts,
        "lease_s": LEASE_S,
        "minutes": round((time.monotonic() - started) / 60.0, 1),
        "by_fault": {
            kind: {"count": len(times), "max_recovery_s": round(max(times), 1)}
            for kind, times in sorted(recovery.seconds.items())
        },
        "answers": {str(status): count for status, count in sorted(ledger.statuses.items())},
        "complaints": [f"{kind}: {what}" for kind, what in ledger.complaints],
    }
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return judge(summary, out, recovery_max_s=arguments.recovery_max)


def judge(summary: dict[str, object], out: Path, *, recovery_max_s: float) -> int:
    """Print what came of it; return the exit status."""
    broken = [key for key in ("lost", "duplicated", "wrong_bytes", "left_behind") if summary[key]]
    if float(str(summary["max_recovery_s"])) > recovery_max_s:
        broken.append("max_recovery_s")
    for key in ("jobs", "faults", "lost", "duplicated", "wrong_bytes", "max_recovery_s", "left_behind", "minutes"):
        print(f"{key:15} {summary[key]}")
    print(f"{'BROKEN: ' + ', '.join(broken) if broken else 'every promise was kept'}; {out / 'summary.json'}")
    return 1 if broken else 0


if __name__ == "__main__":
    main()
