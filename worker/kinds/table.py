"""The table of the kinds of job. A new kind is one row here, its runner's file, its spec and its route.

Runners are named by dotted strings because import contracts see imports inside functions: this table is light, its
runners are not.
"""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass
from typing import Any, Protocol, Self, cast

from model.spec import Cost, GenerationSpec
from worker.errors import SpecError
from worker.jobs import Job, Price
from worker.kinds.base import Runner


class Spec(Protocol):
    """What a kind's spec can do, whatever it describes; a pydantic model."""

    @classmethod
    def model_validate_json(cls, json_data: str) -> Self:
        """Read a recorded spec."""
        ...

    def cost(self) -> Cost:
        """Estimate what it takes, without running it."""
        ...


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of job.

    Attributes
    ----------
    name
        Member ``kind`` of a job.
    path
        Address that accepts its specs.
    spec
        Class of its specs; None where specs have no class, and so no price.
    runner
        ``module:function``, a :data:`~worker.kinds.base.Runner`.
    """

    name: str
    path: str
    spec: type[Spec] | None
    runner: str

    def price(self, spec: dict[str, Any]) -> Price | None:
        """Price a recorded spec; None where the kind has no estimate."""
        if self.spec is None:
            return None
        cost = self.spec.model_validate_json(json.dumps(spec)).cost()
        return Price(bytes=cost.bytes, seconds=cost.seconds)


GENERATION = Kind(
    name=GenerationSpec.KIND, path="/v1/generations", spec=GenerationSpec, runner="worker.kinds.generation:run"
)
KINDS: dict[str, Kind] = {kind.name: kind for kind in (GENERATION,)}


def kind_of(job: Job) -> Kind:
    """Return the row of a job's kind.

    Raises
    ------
    SpecError
        If this worker does not know it.
    """
    if job.kind not in KINDS:
        raise SpecError(f"this worker cannot carry out a job of kind {job.kind!r}; it may be older than the service")
    return KINDS[job.kind]


def runner_of(job: Job) -> Runner:
    """Import and return the runner of a job's kind; raises ``SpecError`` as :func:`kind_of`."""
    module, _, function = kind_of(job).runner.partition(":")
    return cast(Runner, getattr(importlib.import_module(module), function))


def price_of(job: Job) -> Price | None:
    """Return what a job is expected to take: its record's price, or, for a record of an older version, its spec's."""
    if job.price is not None or job.kind not in KINDS:
        return job.price
    return KINDS[job.kind].price(job.spec)
