"""Durations of jobs compared with their estimates, kept in the broker, to correct later estimates.

A job belongs to three groups: its kind; its kind and model; its kind, model and formats. The smallest group that has a
measurement corrects the estimate of a new job by the geometric mean of measured over estimated seconds. A job that
makes its model belongs to its kind only; its model's identifier is empty here.

Promises: a broker without measurements (new, or flushed) gives the uncorrected estimate, with a wide spread.
Does not promise: to include the time a job waits in the queue, or other load of the machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from worker.jobs.redis_store import Store

LEAST_WEIGHT = 0.1  # weight of the latest job in the running mean: about the last twenty count
SPREAD = 1.2816  # standard deviations on both sides of the mean that hold 80 % of a normal distribution
UNMEASURED = math.log(4.0) / SPREAD  # of an estimate that no job has corrected: a factor of 4 either way
FEW = math.log(2.0) / SPREAD  # further uncertainty of one measurement; of n measurements, over √n
SHORTEST_S = 1e-3


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds of one worker.

    Attributes
    ----------
    expected
        The estimate, corrected by what was measured.
    low, high
        About 80 % of such jobs take between these seconds.
    jobs
        The number of measured jobs in the correction.
    """

    expected: float
    low: float
    high: float
    jobs: int


class Timings:
    """The measurements of one broker."""

    def __init__(self, store: Store) -> None:
        """Use the records below the store's prefix."""
        self._store = store

    def record(self, *, kind: str, model_id: str, formats: Sequence[str], estimated_s: float, took_s: float) -> None:
        """Record the duration of one job; raises ``QueueUnavailableError``."""
        ratio = math.log(max(took_s, SHORTEST_S) / max(estimated_s, SHORTEST_S))
        self._store.run("timing", f"{ratio:.9f}", LEAST_WEIGHT, *_groups(kind, model_id, formats))

    def expect(self, *, kind: str, model_id: str, formats: Sequence[str], estimated_s: float) -> Timing:
        """Return the seconds a job will take; raises ``QueueUnavailableError``."""
        for fields in self._store.timings(list(reversed(_groups(kind, model_id, formats)))):
            if fields:
                return _timing(estimated_s, fields)
        return _timing(estimated_s, {})


def _groups(kind: str, model_id: str, formats: Sequence[str]) -> tuple[str, ...]:
    if not model_id:
        return (kind,)
    return kind, f"{kind}:{model_id}", f"{kind}:{model_id}:{','.join(sorted(formats))}"


def _timing(estimated_s: float, fields: dict[str, Any]) -> Timing:
    jobs = int(fields.get("jobs", 0))
    expected = estimated_s * math.exp(float(fields.get("mean", 0.0)))
    deviation = UNMEASURED if jobs == 0 else math.sqrt(float(fields["variance"]) + FEW**2 / jobs)
    factor = math.exp(SPREAD * deviation)
    return Timing(expected=expected, low=expected / factor, high=expected * factor, jobs=jobs)
