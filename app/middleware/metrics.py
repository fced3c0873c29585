"""Metrics for Prometheus. Labels come from closed sets only: route templates, known methods, job states.

Each application has its own registry, so that several applications in one process do not share metrics.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.problems.handlers import PROBLEM_NOTE
from model.errors import CytosynthError
from worker.jobs import Job, JobQueue, JobStatus

log: structlog.stdlib.BoundLogger = structlog.get_logger("cytosynth.http")

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OVERLOAD = frozenset({429, 503})
LATEST = 200  # jobs that the quantiles are computed from
QUANTILES = (0.5, 0.9, 0.99)
BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)


def refusal_counter(registry: CollectorRegistry) -> Counter:
    """Return the counter of refusals; the application and the server increment it."""
    return Counter("cytosynth_refusals", "Requests answered by a problem, by its code.", ("code",), registry=registry)


class MetricsMiddleware:
    """Measures and logs the time from each request to the start of its response."""

    def __init__(self, app: ASGIApp, *, registry: CollectorRegistry, refusals: Counter) -> None:
        """Wrap ``app``."""
        self.app = app
        self._times = Histogram(
            "cytosynth_http_request_seconds",
            "Time until the response begins.",
            ("method", "route", "status"),
            buckets=BUCKETS,
            registry=registry,
        )
        self._known: dict[tuple[str, str, int], Histogram] = {}  # its keys come from closed sets, so it stays small
        self._refusals = refusals

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Time one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = time.perf_counter()

        async def timed(message: Message) -> None:
            if message["type"] == "http.response.start":
                taken = time.perf_counter() - begun
                method = scope["method"] if scope["method"] in METHODS else "other"
                route = route_template(scope)
                self._time(method, route, message["status"]).observe(taken)
                facts = {"method": method, "route": route, "status": message["status"], "ms": round(1000 * taken, 1)}
                if (code := message.pop(PROBLEM_NOTE, None)) is None:
                    log.debug("request", **facts)
                else:
                    self._refusals.labels(code).inc()
                    # An overloaded service refuses thousands of requests; logging each would add to the load.
                    tell = log.debug if message["status"] in OVERLOAD else log.info
                    tell("refused", code=code, **facts)
            await send(message)

        await self.app(scope, receive, timed)

    def _time(self, method: str, route: str, status: int) -> Histogram:
        labels = (method, route, status)
        if (time_ := self._known.get(labels)) is None:
            time_ = self._known[labels] = self._times.labels(method, route, str(status))
        return time_


def route_template(scope: Scope) -> str:
    """Return the template of the route that answered; addresses without a route count as one."""
    found = getattr(scope.get("route"), "path", None)
    if isinstance(found, str):
        return found
    if scope["path"].startswith("/static/"):
        return "/static"
    return "/openapi.json" if scope["path"] == "/openapi.json" else "unmatched"


class QueueCollector(Collector):
    """Reads the job records when Prometheus asks. A broker that does not answer is a metric, not an error."""

    def __init__(self, jobs: JobQueue) -> None:
        """Read from ``jobs``."""
        self._jobs = jobs

    def collect(self) -> Iterator[Metric]:
        """Yield the current metrics."""
        up = GaugeMetricFamily("cytosynth_broker_up", "1 if the broker answers.")
        states = GaugeMetricFamily("cytosynth_jobs", "Jobs by state.", labels=("state",))
        depth = GaugeMetricFamily("cytosynth_queue_depth", "Jobs that wait for a worker.")
        work = GaugeMetricFamily(
            "cytosynth_work",
            "Jobs and shards that wait for a worker or are being computed: how many workers could be busy.",
        )
        workers = GaugeMetricFamily("cytosynth_workers", "Workers that sent a heartbeat recently.")
        stages = GaugeMetricFamily(
            "cytosynth_job_seconds",
            f"Seconds that the latest {LATEST} succeeded jobs waited and were computed, as quantiles.",
            labels=("stage", "quantile"),
        )
        again = GaugeMetricFamily(
            "cytosynth_jobs_repeated", f"Jobs out of the latest {LATEST} that were started more than once."
        )
        leases = CounterMetricFamily("cytosynth_leases_lost", "Leases that expired because their worker died or hung.")
        crashed = CounterMetricFamily(
            "cytosynth_jobs_worker_crashed", "Jobs that ended as worker_crashed, after too many lost leases."
        )
        damaged = CounterMetricFamily(
            "cytosynth_contents_damaged",
            "Stored files found missing or damaged, by a request or by a scrub.",
        )
        try:
            counts, units, alive, failures = (
                self._jobs.admin.counts(),
                self._jobs.admin.work(),
                len(self._jobs.admin.workers_alive()),
                self._jobs.admin.failure_counts(),
            )
            latest = self._jobs.list(limit=LATEST).jobs
            done = self._jobs.list(status=JobStatus.SUCCEEDED, limit=LATEST).jobs
        except CytosynthError:
            up.add_metric((), 0)
            yield up
            return
        up.add_metric((), 1)
        for state, count in counts.items():
            states.add_metric((state.value,), count)
        depth.add_metric((), counts[JobStatus.QUEUED])
        work.add_metric((), sum(units))
        workers.add_metric((), alive)
        for stage, seconds in stage_seconds(done).items():
            for quantile in QUANTILES if seconds else ():
                stages.add_metric((stage, f"{quantile:g}"), seconds[int(quantile * (len(seconds) - 1))])
        again.add_metric((), sum(job.attempts > 1 for job in latest))
        leases.add_metric((), failures["leases_lost"])
        crashed.add_metric((), failures["worker_crashed"])
        damaged.add_metric((), failures.get("contents_damaged", 0))
        yield from (up, states, depth, work, workers, stages, again, leases, crashed, damaged)


def stage_seconds(jobs: list[Job]) -> dict[str, list[float]]:
    """Return the seconds that each job waited and was computed, in ascending order."""
    started = [(job, job.started_at) for job in jobs if job.started_at is not None]
    waited = sorted(at - job.created_at for job, at in started)
    computed = sorted(job.finished_at - at for job, at in started if job.finished_at is not None)
    return {"queued": waited, "running": computed}
