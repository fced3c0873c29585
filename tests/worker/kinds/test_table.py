"""Promises of the table of kinds: every row can be run, and a job's price travels in its record."""

from __future__ import annotations

from dataclasses import replace

import pytest
from workbench import submit

from model.spec import GenerationSpec
from worker.errors import SpecError
from worker.jobs import Job, JobQueue, Price
from worker.kinds.table import GENERATION, KINDS, price_of, runner_of


@pytest.mark.parametrize("name", sorted(KINDS))
def test_every_row_names_a_runner_that_exists(jobs: JobQueue, name: str) -> None:
    job = replace(submit(jobs), kind=name)
    assert callable(runner_of(job))
    assert KINDS[name].name == name


def test_a_kind_that_this_worker_does_not_know_is_refused(jobs: JobQueue) -> None:
    job = replace(submit(jobs), kind="origami")
    with pytest.raises(SpecError, match="origami"):
        runner_of(job)
    assert price_of(job) is None


def accepted(jobs: JobQueue, price: Price | None) -> Job:
    spec = GenerationSpec(model="celegans", seed=1, frames=3, grid=32, formats=["stl"]).model_dump(mode="json")
    job, _ = jobs.submit(
        kind="generation", spec=spec, model_id="celegans", model_sha256="0" * 64, digest="d", price=price
    )
    return job


def test_a_price_is_in_the_record_and_comes_back_with_a_rebuilding(jobs: JobQueue) -> None:
    price = Price(bytes=123, seconds=4.5)
    job = accepted(jobs, price)
    assert job.price == price
    jobs._store._redis.delete(*jobs._store._redis.keys(f"{jobs._prefix}*"))
    assert jobs.get(job.id).price == price


def test_a_record_of_an_older_version_is_priced_by_its_spec(jobs: JobQueue) -> None:
    job = accepted(jobs, None)
    assert job.price is None
    cost = GenerationSpec.model_validate(job.spec).cost()
    assert price_of(job) == Price(bytes=cost.bytes, seconds=cost.seconds) == GENERATION.price(job.spec)
