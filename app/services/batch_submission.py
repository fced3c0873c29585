"""Many requests that are accepted together, or not at all."""

from __future__ import annotations

from collections.abc import Sequence

from app.services.resources import Resources
from app.services.submission import JobSpec, Prepared, check_room, check_webhook, digest_of, prepare
from model.errors import SpecError
from model.training_spec import TrainingSpec
from worker.jobs import Batch, JobOptions
from worker.kinds.table import Kind


def submit_batch(
    resources: Resources,
    specs: Sequence[tuple[Kind, JobSpec | TrainingSpec]],
    options: JobOptions,
    webhook: str,
    idempotency_key: str | None = None,
) -> Batch:
    """Check, complete, price and queue all requests of a batch. Blocks; run it in a thread.

    Parameters
    ----------
    options
        Of every job.
    webhook
        Address that is told when the last job has ended; empty: none.

    Raises
    ------
    UnknownModelError, SpecError, TooLargeError, DiskFullError, UploadNotFoundError, JobNotFoundError
        If one request cannot be accepted as it is; none of them is.
    ProblemError, IdempotencyError, QueueUnavailableError
        As :meth:`app.services.caller_jobs.CallerJobs.submit_batch`.
    """
    if webhook:
        check_webhook(resources, webhook)
    prepared = [_prepare(resources, kind, spec, number) for number, (kind, spec) in enumerate(specs)]
    check_room(resources, prepared)
    return resources.jobs.submit_batch(
        [one.job for one in prepared],
        request_digest=digest_of([[one.asked for one in prepared], options.members(), webhook]),
        options=options,
        webhook=webhook,
        idempotency_key=idempotency_key,
    )


def _prepare(resources: Resources, kind: Kind, spec: JobSpec | TrainingSpec, number: int) -> Prepared:
    """Prepare one request; an error names its place in the batch."""
    try:
        return prepare(resources, kind, spec)
    except SpecError as error:
        raise type(error)(error.message, pointer=f"/jobs/{number}/spec{error.pointer or ''}") from None
