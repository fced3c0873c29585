"""What the routes that submit a job share: their headers, their answers and how they are documented."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from fastapi import Depends, Header, Query, Response
from fastapi.exceptions import RequestValidationError

from app.schemas import JobView
from app.services.resources import Resources
from app.services.submission import JobSpec, submit
from model.training_spec import TrainingSpec
from worker.jobs import JobOptions
from worker.kinds.table import Kind
from worker.webhooks.addresses import URL_MAX, URL_PATTERN

WAIT_MAX_S = 60  # longest `Prefer: wait`; a proxy between client and service often ends a longer request

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        pattern=r"^[!-~]{1,255}$",
        description="A text of your choice, 1 to 255 printable ASCII characters. Repeating it with the same request "
        "returns the same job; using it with another request is refused with 422. A member left out and the same "
        "member with its default value count as the same request.",
    ),
]
Prefer = Annotated[
    str | None,
    Header(
        max_length=1000,
        description=f"`wait=N`: answer when the job has ended, or after N seconds (at most {WAIT_MAX_S}).",
        examples=["wait=30"],
    ),
]
# One label, and how they are written in a query. Names and values are short: they are for finding jobs, not for data.
LABEL = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}=[A-Za-z0-9_.:/@+-]{0,63}"
LABELS_MAX = 16
LABELS_PATTERN = rf"^{LABEL}(,{LABEL}){{0,{LABELS_MAX - 1}}}$"
PRIORITY_MAX = 1


def labels_of(text: str | None) -> list[tuple[str, str]]:
    """Read ``name=value,name=value``, which :data:`LABELS_PATTERN` describes."""
    pairs = [part.partition("=") for part in text.split(",")] if text else []
    return [(name, value) for name, _, value in pairs]


def job_options(
    labels: Annotated[
        str | None,
        Query(
            pattern=LABELS_PATTERN,
            max_length=2048,
            description="Labels of the job, `name=value,name=value`: up to 16, each name once. `GET /v1/jobs` finds "
            "the job by them. They do not change the files. A request with other labels than an earlier one gets a job "
            "of its own.",
            examples=["project=actin,run=7"],
        ),
    ] = None,
    priority: Annotated[
        int,
        Query(
            ge=-PRIORITY_MAX,
            le=PRIORITY_MAX,
            description="Order among your own jobs: 1 before 0 before -1. The turn of other callers is not affected.",
        ),
    ] = 0,
    webhook: Annotated[
        str | None,
        Query(
            pattern=URL_PATTERN,
            max_length=URL_MAX,
            description="https address that gets a signed message when the job ends (Standard Webhooks). Disabled "
            "unless the operator has enabled it.",
            examples=["https://lab.example/hooks/cytosynth"],
        ),
    ] = None,
) -> JobOptions:
    """Return what the caller attaches to the job; raises ``RequestValidationError`` for a repeated label."""
    pairs = labels_of(labels)
    if len(dict(pairs)) < len(pairs):
        error = "names of labels must not repeat"
        raise RequestValidationError([{"type": "value_error", "loc": ("query", "labels"), "ctx": {"error": error}}])
    return JobOptions(labels=dict(pairs), priority=priority, webhook=webhook or "")


Options = Annotated[JobOptions, Depends(job_options)]
ACCEPTED = "The job is queued, or it has not ended within `Prefer: wait`."
FINISHED: dict[int | str, dict[str, Any]] = {
    200: {
        "model": JobView,
        "description": "An identical request has been carried out before, or the job ended within `Prefer: wait`.",
    }
}


async def accept(
    kind: Kind,
    spec: JobSpec | TrainingSpec,
    resources: Resources,
    response: Response,
    *,
    idempotency_key: str | None,
    prefer: str | None,
    options: JobOptions,
) -> JobView:
    """Submit a request and answer 202, or 200 if its job has ended.

    Raises
    ------
    ProblemError
        503 if too many requests are being submitted; otherwise as :func:`app.services.submission.submit`.
    """
    submitted = await resources.submissions.run(submit, resources, kind, spec, idempotency_key, options)
    job, wait = submitted.job, preferred_wait(prefer)
    if wait is not None:
        response.headers["Preference-Applied"] = f"wait={wait}"
        job = await resources.wait_until_done(job, wait)
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    if job.status.active:
        response.status_code = 202
        response.headers["Retry-After"] = str(max(1, min(60, math.ceil(submitted.expected_s / 2))))
    else:
        response.status_code = 200
    return JobView.of(job)


def preferred_wait(prefer: str | None) -> int | None:
    """Read ``wait=N`` from a Prefer header (RFC 7240), in seconds; None if there is none. Others are ignored."""
    for preference in (prefer or "").split(","):
        found = re.fullmatch(r'\s*wait\s*=\s*"?(\d{1,9})"?\s*(;.*)?', preference, re.ASCII | re.IGNORECASE)
        if found:
            return min(WAIT_MAX_S, int(found[1]))
    return None
