"""The table of the kinds of job. A new kind is one row here, its runner's file, its spec and its route.

Runners are named by dotted strings because import contracts see imports inside functions: this table is light, its
runners are not.
"""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self, cast, runtime_checkable

from model.augmentation_spec import AugmentationSpec
from model.evaluation_spec import EvaluationSpec
from model.reconstruction_spec import ReconstructionSpec
from model.spec import Cost, GenerationSpec
from model.training_spec import TrainingSpec
from worker.errors import SpecError
from worker.jobs import Job, Price
from worker.kinds.base import Installer, PartRunner, Runner, Sealer


class Spec(Protocol):
    """The members that every spec has; a pydantic model."""

    @classmethod
    def model_validate_json(cls, json_data: str) -> Self:
        """Read a recorded spec."""
        ...

    def cost(self) -> Cost:
        """Estimate bytes and seconds without running it."""
        ...

    def model_dump(self, *, mode: str) -> dict[str, Any]:
        """Return it as JSON-able members."""
        ...


@runtime_checkable
class DivisibleSpec(Spec, Protocol):
    """A spec whose parts several workers may compute at once."""

    @property
    def frame_total(self) -> int:
        """Frames of all its sequences; 0 where only the worker can count them."""
        ...

    def shards(self) -> int:
        """Return into how many shards it is divided; follows from the spec alone."""
        ...

    def shard_cost(self, number: int) -> Cost:
        """Estimate one shard, numbered from 0; its seconds are 0 where they are not known."""
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
    description
        What such a job does; the description of its tag in the OpenAPI document.
    spec
        Class of its specs; None where specs have no class, and so no price.
    runner
        ``module:function``, a :data:`~worker.kinds.base.Runner`.
    part_runner, sealer
        The same for a :data:`~worker.kinds.base.PartRunner` and a :data:`~worker.kinds.base.Sealer`; empty where jobs
        are not divided.
    reads_parts
        Its sealer reads the files of shards, not only their manifests.
    installer
        The same for an :data:`~worker.kinds.base.Installer`; empty where files are only files.
    is_long
        Its jobs take hours, have a time limit of their own, and keep a state from which another attempt goes on.
    """

    name: str
    path: str
    spec: type[Spec] | None
    runner: str
    description: str = ""
    part_runner: str = ""
    sealer: str = ""
    reads_parts: bool = False
    installer: str = ""
    is_long: bool = False

    def price(self, spec: dict[str, Any]) -> Price | None:
        """Price a recorded spec; None where the kind has no estimate."""
        if self.spec is None:
            return None
        cost = self.spec.model_validate_json(json.dumps(spec)).cost()
        return Price(bytes=cost.bytes, seconds=cost.seconds)


GENERATION = Kind(
    name=GenerationSpec.KIND,
    path="/v1/generations",
    spec=GenerationSpec,
    description="Request new living-cell sequences, or an estimate of their cost.",
    runner="worker.kinds.generation:run",
    part_runner="worker.kinds.generation:run_part",
    sealer="worker.kinds.generation:seal",
)
RECONSTRUCTION = Kind(
    name=ReconstructionSpec.KIND,
    path="/v1/reconstructions",
    spec=ReconstructionSpec,
    description="Fit a cell that you upload, and write it at another resolution.",
    runner="worker.kinds.reconstruction:run",
    part_runner="worker.kinds.reconstruction:run_part",
    sealer="worker.kinds.reconstruction:seal",
    reads_parts=True,
)
AUGMENTATION = Kind(
    name=AugmentationSpec.KIND,
    path="/v1/augmentations",
    spec=AugmentationSpec,
    description="Variations of one cell, each with its strength.",
    runner="worker.kinds.augmentation:run",
)
EVALUATION = Kind(
    name=EvaluationSpec.KIND,
    path="/v1/evaluations",
    spec=EvaluationSpec,
    description="Compare a model's cells, or a job's, with real or reference cells.",
    runner="worker.kinds.evaluation:run",
    part_runner="worker.kinds.evaluation:run_part",
    sealer="worker.kinds.evaluation:seal",
    reads_parts=True,
)
TRAINING = Kind(
    name=TrainingSpec.KIND,
    path="/v1/trainings",
    spec=TrainingSpec,
    description="Train a model on cells that you upload.",
    runner="worker.kinds.training:run",
    installer="worker.kinds.training:install",
    is_long=True,
)
KINDS: dict[str, Kind] = {kind.name: kind for kind in (GENERATION, RECONSTRUCTION, AUGMENTATION, EVALUATION, TRAINING)}


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
    return cast(Runner, _named(kind_of(job).runner))


def part_runner_of(job: Job) -> PartRunner:
    """Import and return what carries out shards of a divided job; raises ``SpecError`` as :func:`kind_of`."""
    return cast(PartRunner, _named(kind_of(job).part_runner))


def sealer_of(job: Job) -> Sealer:
    """Import and return the sealer of a divided job's kind; raises ``SpecError`` as :func:`kind_of`."""
    return cast(Sealer, _named(kind_of(job).sealer))


def install(job: Job, folder: Path) -> None:
    """Make the files of a job usable beyond the job, where its kind asks for it.

    Raises
    ------
    ExportError
        If they are not what they should be.
    SpecError
        As :func:`kind_of`.
    """
    if path := kind_of(job).installer:
        cast(Installer, _named(path))(job, folder)


def shard_of(job: Job, number: int) -> tuple[Price, int]:
    """Return the price of one shard of a divided job, and the frames of all shards.

    Raises
    ------
    SpecError
        If this worker does not know the kind, or divides the spec differently from the service that accepted it.
    """
    kind = kind_of(job)
    spec = kind.spec.model_validate_json(json.dumps(job.spec)) if kind.spec else None
    if not isinstance(spec, DivisibleSpec) or job.shards is None or spec.shards() != job.shards.total:
        raise SpecError("this worker divides the job otherwise than the service that accepted it; send it again")
    cost = spec.shard_cost(number)
    return Price(bytes=cost.bytes, seconds=cost.seconds), spec.frame_total


def _named(path: str) -> object:
    module, _, function = path.partition(":")
    return getattr(importlib.import_module(module), function)


def price_of(job: Job) -> Price | None:
    """Return the price in a job's record; for a record of an older version, that of its spec."""
    if job.price is not None or job.kind not in KINDS:
        return job.price
    return KINDS[job.kind].price(job.spec)
