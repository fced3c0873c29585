"""The service does what its description says, for requests that nobody thought of."""

from __future__ import annotations

import re
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

# The check positive_data_acceptance knows status codes only. In its place: a request that the schema allows is refused
# for what the schema cannot know, the state of the service (what exists, what is known of a key, what a file holds) …
LEFT_OUT = [CHECKS.get_one("positive_data_acceptance")]
BY_STATE = frozenset(
    {
        "job_not_found", "upload_not_found", "not_found", "model_not_yours", "unknown_model", "idempotency_mismatch",
        "bad_upload", "digest_mismatch", "unsupported_media_type", "job_not_finished", "job_failed", "job_canceled",
        "job_expired", "job_active", "upload_exists", "model_exists", "too_large", "artifact_damaged", "upload_damaged",
    }
)  # fmt: skip
# … or for a rule that JSON Schema cannot state.
BEYOND_SCHEMA = re.compile(
    "^give frames or times, not both|times must increase strictly|quaternion .* must not be zero"
    "|at most 18446744073709551615$"  # 2^64 as a floating point number is not above it
    "|^(grid|index|first|second) (must|may) be at most|must hold [0-9]+ numbers"  # the model's card knows
    "|grid_min .* grid_max"
)


@pytest.fixture(autouse=True)
def worker(house: Any) -> Iterator[None]:
    """A sign of life, so that the service counts as ready."""
    house.jobs.admin.announce(name="contract", hostname="h", pid=1, device="cpu")
    yield
    house.jobs.admin.retire("contract")


@schema.parametrize()
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
def test_answers_are_as_described(case: Case, house: Any) -> None:
    # No worker computes here: a request that asks to wait for the end would wait in vain, a minute each.
    for values in (case.headers, case.query):
        for name in [name for name in values or {} if name.lower() in ("prefer", "wait")]:
            del values[name]
    answer = case.call(base_url=house.url, timeout=30)
    case.validate_response(answer, excluded_checks=LEFT_OUT)
    if case.meta is not None and case.meta.generation.mode.is_positive and 400 <= answer.status_code < 500:
        problem = answer.json()
        told = problem.get("errors") or [{"detail": problem["code"]}]
        assert problem["code"] in BY_STATE or all(BEYOND_SCHEMA.search(fault["detail"]) for fault in told), problem
