"""Every kind of problem: one table from error class to HTTP status, and the kinds that have no error class.

Each kind is documented at ``/problems/{slug}``. :mod:`app.problems.handlers` turns errors into answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from model import errors as tree
from worker import errors as job_errors
from worker.errors import (
    BrokerAwayError,
    BrokerError,
    DiskFullError,
    KeysError,
    StoreUnavailableError,
    UploadDamagedError,
    UploadExistsError,
    UploadNotFoundError,
    UploadOffsetError,
    UploadQuotaError,
)


@dataclass(frozen=True, kw_only=True)
class ProblemType:
    """One kind of problem, as documented at ``/problems/{slug}``."""

    code: str
    status: int
    title: str
    help: str  # what the problem means and what to do, for its page
    retry_after: int | None = None

    @property
    def slug(self) -> str:
        """The code as it appears in an address."""
        return self.code.replace("_", "-")

    @property
    def uri(self) -> str:
        """Address of the documentation, relative to the service."""
        return f"/problems/{self.slug}"

    def document(self) -> dict[str, Any]:
        """Return the members of its documentation as JSON."""
        return {"type": self.uri, "code": self.code, "status": self.status, "title": self.title, "help": self.help}


def _of(
    error: type[tree.CytosynthError], status: int, title: str, advice: str, retry_after: int | None = None
) -> tuple[type[tree.CytosynthError], ProblemType]:
    return error, ProblemType(code=error.code, status=status, title=title, help=advice, retry_after=retry_after)


# A subclass without a row would have the row of its parent; a test requires a row for each.
TABLE: dict[type[tree.CytosynthError], ProblemType] = dict(
    (
        _of(
            tree.CytosynthError, 500, "Error", "An error without a kind of its own occurred. Report it to the operator."
        ),
        _of(
            tree.SpecError,
            422,
            "The request is not valid",
            "Each entry of errors names a member of the body (pointer) or a parameter, and says what is allowed there. "
            "Correct them and send the request again.",
        ),
        _of(
            tree.UnknownModelError,
            422,
            "The model does not exist",
            "GET /v1/models lists the models that you may use. The service finds a new model folder without a restart.",
        ),
        _of(
            tree.TooLargeError,
            413,
            "The job is too large",
            "detail says how much was requested and how much is allowed. Lower grid, frames or count, or send several "
            "smaller requests with different seeds. POST /v1/estimates returns the cost of a spec without running it.",
        ),
        _of(
            tree.CheckpointError,
            500,
            "The model cannot be loaded",
            "Its weights or card are damaged, or do not belong to each other. The operator must install the model "
            "again.",
        ),
        _of(
            tree.SurfaceError,
            422,
            "No surface can be extracted",
            "The latent code gives a field without a usable membrane. Try another seed or a lower temperature.",
        ),
        _of(
            tree.EmptySurfaceError,
            422,
            "The cell is empty",
            "The signed distance has the same sign everywhere: the latent code is far from the learned ones. Try "
            "another seed, a lower temperature or less noise.",
        ),
        _of(
            tree.InvalidFieldError,
            422,
            "The field contains values that are not finite",
            "The latent code is so far from the learned ones that the network overflows. Use smaller values.",
        ),
        _of(
            tree.ImplausibleError,
            422,
            "No plausible cell was found",
            "The plausibility check rejected every code that was drawn for a sequence, and on_implausible is fail. Try "
            "another seed or a lower temperature, check the topology in the model's card, or set on_implausible to "
            "warn to get the last draw.",
        ),
        _of(
            tree.UploadError,
            422,
            "The file cannot be used",
            "detail says what the inspection found and what is allowed.",
        ),
        _of(
            tree.DatasetError,
            422,
            "The training data cannot be used",
            "detail says what is missing or malformed. Of a training, each entry of errors is a finding in its "
            "uploads: an error must be corrected, a warning may be ignored.",
        ),
        _of(
            tree.ExportError,
            500,
            "The result cannot be written",
            "The worker could not write its files, usually because the disk is full. The operator must make room.",
        ),
        _of(
            job_errors.JobError,
            409,
            "The job does not allow this",
            "detail says why. GET /v1/jobs/{id} shows its state.",
        ),
        _of(
            job_errors.JobNotFoundError,
            404,
            "The job does not exist",
            "The identifier is unknown, the job was removed, or the retention time of its record has passed.",
        ),
        _of(
            job_errors.BatchNotFoundError,
            404,
            "The batch does not exist",
            "The identifier is unknown, or the last job of the batch was removed.",
        ),
        _of(
            job_errors.JobNotFinishedError,
            409,
            "The job is not finished",
            "Its files do not exist yet. Follow /v1/jobs/{id}/events, or GET /v1/jobs/{id}?wait=60, then repeat the "
            "request.",
            2,
        ),
        _of(
            job_errors.JobExpiredError,
            410,
            "The files have expired",
            "They were removed after the retention time. The member spec is complete: POST it to get the same bytes "
            "again.",
        ),
        _of(
            job_errors.JobFailedError,
            409,
            "The job failed",
            "It has no files. The member error of the job says why.",
        ),
        _of(
            job_errors.JobCanceledError,
            409,
            "The job was cancelled",
            "It has no files. POST its spec to start it again.",
        ),
        _of(
            job_errors.JobActiveError,
            409,
            "The job is active",
            "It is queued or running. Cancel it first with POST /v1/jobs/{id}/cancel.",
        ),
        _of(
            job_errors.ArtifactNotFoundError,
            404,
            "The file does not exist",
            "GET /v1/jobs/{id}/files lists the files of a job.",
        ),
        _of(
            job_errors.ArtifactDamagedError,
            410,
            "The stored file is damaged",
            "The file is missing on the service's disk, or differs from its manifest, and is not served. POST the "
            "member spec with a new Idempotency-Key or none to compute it again; the damaged files are not reused. "
            "The other files of this job can still be downloaded.",
        ),
        _of(
            job_errors.LeaseLostError,
            409,
            "Another worker has the job now",
            "A worker did not renew its lease in time, and its job was given to another worker. No action is needed.",
        ),
        _of(
            job_errors.WorkerCrashedError,
            500,
            "The worker died",
            "Several workers died while they ran this job, most likely for lack of memory. Lower the grid, or ask the "
            "operator to read the worker's log.",
        ),
        _of(
            job_errors.IdempotencyError,
            422,
            "The Idempotency-Key was used with another request",
            "A key belongs to one request. Use a new key for a different request.",
        ),
        _of(
            job_errors.QueueUnavailableError,
            503,
            "The queue accepts no jobs at the moment",
            "The broker does not answer, or the queue is full. Try again after the number of seconds in Retry-After.",
            5,
        ),
        _of(
            BrokerError,
            503,
            "The broker cannot be used",
            "It does not start, or its configuration may lose jobs. The operator must correct it.",
            30,
        ),
        _of(
            BrokerAwayError,
            503,
            "The broker does not answer",
            "It has not started yet, is restarting, or cannot be reached. Try again after the number of seconds in "
            "Retry-After.",
            5,
        ),
        _of(
            KeysError,
            500,
            "The API keys cannot be used",
            "The file of the keys is damaged, or the requested change to it is not possible. The operator must "
            "correct it.",
        ),
        _of(
            UploadNotFoundError,
            404,
            "The upload does not exist",
            "The name is unknown, or the upload was removed or has expired. GET /v1/uploads lists your uploads.",
        ),
        _of(
            UploadExistsError,
            409,
            "Another upload has this name",
            "An upload never changes, so that a spec that names it always means the same file. DELETE it first, or "
            "send the new file under another name.",
        ),
        _of(
            UploadOffsetError,
            409,
            "The part does not continue the upload",
            "The header Upload-Offset of the answer says how many bytes have arrived. Send what follows them, with "
            "that number as Upload-Offset.",
        ),
        _of(
            UploadDamagedError,
            410,
            "The stored upload is damaged",
            "Its bytes on the service's disk differ from those that were sent. Send the file again under the same "
            "name.",
        ),
        _of(
            UploadQuotaError,
            413,
            "The uploads exceed their quota",
            "detail says how much is allowed. DELETE uploads that you no longer need, or wait until some expire.",
        ),
        _of(
            DiskFullError,
            507,
            "The disk is nearly full",
            "The request would leave less free space than the operator keeps in reserve. Remove finished jobs and "
            "uploads that you no longer need, or ask the operator for more space.",
            60,
        ),
        _of(
            StoreUnavailableError,
            503,
            "The object store does not answer",
            "Files, records and uploads are kept in an object store, which does not answer or refuses the request. Try "
            "again later.",
            5,
        ),
    )
)


def _http(code: str, status: int, title: str, advice: str, retry_after: int | None = None) -> ProblemType:
    return ProblemType(code=code, status=status, title=title, help=advice, retry_after=retry_after)


# Refusals by HTTP itself, which have no error class.
MALFORMED = _http(
    "malformed_json",
    400,
    "The body is not JSON",
    "A body is one JSON value in UTF-8, without NaN, Infinity, repeated members or deep nesting, and nothing follows "
    "it.",
)
BAD_REQUEST = _http("bad_request", 400, "The request is malformed", "detail says which part cannot be parsed.")
NOT_FOUND = _http("not_found", 404, "The address does not exist", "/docs and /openapi.json list all addresses.")
NOT_ALLOWED = _http(
    "method_not_allowed", 405, "The method is not allowed", "The Allow header lists the methods of this address."
)
BODY_TOO_LONG = _http("body_too_long", 413, "The body is too long", "detail says how many bytes are allowed.")
UNSUPPORTED = _http(
    "unsupported_media_type",
    415,
    "The type of the body is not supported",
    "Send JSON with Content-Type: application/json, and files unchanged; neither with a Content-Encoding.",
)
RANGE = _http(
    "range_not_satisfiable", 416, "The range is outside the file", "Content-Range holds the length of the file."
)
INTERNAL = _http(
    "internal",
    500,
    "An internal error occurred",
    "The request did not cause it. Report request_id to the operator: the log holds the details under it.",
)
NOT_READY = _http(
    "not_ready",
    503,
    "The service is not ready",
    "checks says which part is not in order: broker, storage or worker.",
    5,
)
# Authentication and rates.
UNAUTHORIZED = _http(
    "unauthorized",
    401,
    "An API key is required",
    "Send Authorization: Bearer KEY with a key of this service that is not revoked. The operator creates keys with "
    "`cytosynth keys create NAME`. A browser asks for a name and a password: enter any name, and the key as password.",
)
CLOSED = _http(
    "closed",
    403,
    "The service answers its own machine only",
    "It has no API keys, so it answers only requests from its own machine to 127.0.0.1 or localhost. The operator "
    "creates a key with `cytosynth keys create NAME`, or sets CYTOSYNTH_ALLOW_OPEN=true to serve all clients.",
)
CROSS_SITE = _http(
    "cross_site",
    403,
    "The request comes from another site",
    "According to the browser, a page of another site sent this request. Only pages of this service may change data.",
)
TOO_FAST = _http(
    "too_fast",
    429,
    "Too many requests",
    "detail says how many requests per second a key may send. Wait for the number of seconds in Retry-After.",
    1,
)
OVER_SHARE = _http(
    "over_share",
    429,
    "Too many active jobs",
    "This key has as many queued and running jobs as one key may have. Retry-After estimates when one of them will "
    "have ended, from the rate at which jobs ended lately.",
    30,
)
BUSY = _http(
    "busy",
    503,
    "Too many requests at the moment",
    "More requests arrived than the service can accept without delaying all of them. Try again after the number of "
    "seconds in Retry-After, which differs between clients so that they do not return together.",
    1,
)
# Uploads.
DIGEST_MISMATCH = _http(
    "digest_mismatch",
    422,
    "The body does not match its digest",
    "The body was damaged in transit, or the digest is of another file. Content-Digest is `sha-256=:BASE64:` (RFC "
    "9530).",
)
TOO_SLOW = _http(
    "too_slow",
    408,
    "The request arrives too slowly",
    "The headers or the body took too long, or nothing arrived for too long; detail says how long is allowed. Send the "
    "request again.",
)
# Refusals by the server, before the application sees the request.
CLIENT_GONE = _http(
    "client_gone",
    499,
    "The client closed the connection",
    "The connection ended before the body was complete. No client receives this answer; logs and metrics show it.",
)
ADDRESS_TOO_LONG = _http(
    "address_too_long", 414, "The address is too long", "detail says how long a request line may be."
)
HEAD_TOO_LONG = _http(
    "head_too_long", 431, "The headers are too long", "detail says how long request line and headers may be together."
)
TOO_MANY_CONNECTIONS = _http(
    "too_many_connections",
    503,
    "Too many connections",
    "The service has as many open connections, or requests in progress, as it allows. Close connections that you do "
    "not use, and try again after the number of seconds in Retry-After.",
    5,
)
MODEL_NOT_YOURS = _http(
    "model_not_yours",
    403,
    "The model belongs to the installation",
    "Only models that were made from uploads of this key can be removed.",
)
# Signed links and webhooks.
WEBHOOKS_OFF = _http(
    "webhooks_off",
    403,
    "Webhooks are switched off",
    "The operator has not enabled webhooks. To enable them, set CYTOSYNTH_WEBHOOK_SECRET.",
)
LINKS_OFF = _http(
    "links_off",
    403,
    "Links are switched off",
    "The operator has not enabled signed links. To enable them, set CYTOSYNTH_LINK_KEY.",
)
LINK_INVALID = _http(
    "link_invalid",
    403,
    "The link is not valid",
    "It has expired or was changed, or its job was removed. Ask the sender for a new link.",
)
OTHERS = (
    MALFORMED,
    BAD_REQUEST,
    NOT_FOUND,
    NOT_ALLOWED,
    BODY_TOO_LONG,
    UNSUPPORTED,
    RANGE,
    INTERNAL,
    NOT_READY,
    UNAUTHORIZED,
    CLOSED,
    CROSS_SITE,
    TOO_FAST,
    OVER_SHARE,
    BUSY,
    DIGEST_MISMATCH,
    TOO_SLOW,
    CLIENT_GONE,
    ADDRESS_TOO_LONG,
    HEAD_TOO_LONG,
    TOO_MANY_CONNECTIONS,
    MODEL_NOT_YOURS,
    WEBHOOKS_OFF,
    LINKS_OFF,
    LINK_INVALID,
)
PROBLEM_TYPES: dict[str, ProblemType] = {kind.slug: kind for kind in (*TABLE.values(), *OTHERS)}
BY_STATUS = {kind.status: kind for kind in (BAD_REQUEST, NOT_FOUND, NOT_ALLOWED, BODY_TOO_LONG, UNSUPPORTED, RANGE)}


def problem_type(error: type[tree.CytosynthError]) -> ProblemType:
    """Return the row of the nearest class in the table."""
    return next(TABLE[base] for base in error.__mro__ if base in TABLE)
