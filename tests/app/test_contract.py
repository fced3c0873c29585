"""The service does what its description says, for requests that nobody thought of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import Case
from schemathesis.checks import CHECKS

from app.main import create_app
from app.settings import AppSettings

schema = schemathesis.openapi.from_dict(create_app(AppSettings(_env_file=None)).openapi())  # type: ignore[call-arg]

# Well-formed requests are refused all the same where they name no model or job; that is no breach.
LEFT_OUT = [CHECKS.get_one("positive_data_acceptance")]


@pytest.fixture(autouse=True)
def worker(house: Any) -> Iterator[None]:
    """A sign of life, so that the service counts as ready."""
    house.jobs.announce(name="contract", hostname="h", pid=1, device="cpu")
    yield
    house.jobs.retire("contract")


@schema.parametrize()
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
def test_answers_are_as_described(case: Case, house: Any) -> None:
    # No worker computes here: a request that asks to wait for the end would wait in vain, a minute each.
    for values in (case.headers, case.query):
        for name in [name for name in values or {} if name.lower() in ("prefer", "wait")]:
            del values[name]
    case.call_and_validate(base_url=house.url, excluded_checks=LEFT_OUT, timeout=30)
