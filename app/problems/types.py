"""Every kind of problem: one table from error class to status, and what HTTP itself can refuse.

Each kind is documented at ``/problems/{slug}``; what happens to an error on its way out is in
:mod:`app.problems.handlers`.
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
    UploadDamagedError,
    UploadExistsError,
    UploadNotFoundError,
    UploadQuotaError,
)


@dataclass(frozen=True, kw_only=True)
class ProblemType:
    """One kind of problem, as documented at ``/problems/{slug}``."""

    code: str
    status: int
    title: str
    help: str  # what it means and what to do, shown on its page
    retry_after: int | None = None

    @property
    def slug(self) -> str:
        """The code as it is spelled in an address."""
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


# The table. A subclass without a row of its own would fall back on its parent's; a test forbids that.
TABLE: dict[type[tree.CytosynthError], ProblemType] = dict(
    (
        _of(tree.CytosynthError, 500, "Error", "Something failed in a way that has no better name. Report it."),
        _of(
            tree.SpecError,
            422,
            "The request cannot be carried out as written",
            "Each entry of errors points at a member of the body (pointer) or names a parameter, and says what is "
            "allowed there. Correct them and send the request again.",
        ),
        _of(
            tree.UnknownModelError,
            422,
            "There is no such model",
            "GET /v1/models lists the installed ones. A folder with weights and a card in one of the service's model "
            "folders is found without a restart.",
        ),
        _of(
            tree.TooLargeError,
            413,
            "The job is over the budget",
            "detail says what was asked and what is allowed. Lower grid, frames or count, or split the job: sequences "
            "are seeded from seed and index. POST /v1/estimates gives the cost of a spec without running it.",
        ),
        _of(
            tree.CheckpointError,
            500,
            "The model cannot be loaded",
            "Its weights or card are damaged or do not belong together. The operator must install it again.",
        ),
        _of(
            tree.SurfaceError,
            422,
            "No surface can be extracted",
            "The latent code leads to a field without a usable membrane. Try another seed or a lower temperature.",
        ),
        _of(
            tree.EmptySurfaceError,
            422,
            "The cell is empty",
            "The signed distance never changes sign: the latent code lies far from the learned ones. Try another seed, "
            "a lower temperature or less noise.",
        ),
        _of(
            tree.InvalidFieldError,
            422,
            "The field holds values that are not finite",
            "The latent code is so far from the learned ones that the network overflows. Use smaller values.",
        ),
        _of(
            tree.ImplausibleError,
            422,
            "No drawn code gives a plausible cell",
            "The gate rejected every code that was drawn for a sequence, and on_implausible is fail. Try another seed "
            "or a lower temperature, check the topology in the card of the model, or ask with on_implausible warn to "
            "see the last draw.",
        ),
        _of(tree.UploadError, 422, "The file cannot be used", "detail says what was found and what is allowed."),
        _of(tree.DatasetError, 422, "The training data cannot be used", "detail says what is missing or malformed."),
        _of(
            tree.ExportError,
            500,
            "The result cannot be written",
            "The worker could not write its files, most often because the disk is full. The operator must act.",
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
            "There is no such job",
            "The identifier is unknown, the job was removed, or its record is older than the service keeps records.",
        ),
        _of(
            job_errors.JobNotFinishedError,
            409,
            "The job is not finished",
            "Its files do not exist yet. Follow /v1/jobs/{id}/events, or GET /v1/jobs/{id}?wait=60, then try again.",
            2,
        ),
        _of(
            job_errors.JobExpiredError,
            410,
            "The files are gone",
            "They were removed after the retention time. spec in this document is complete: POST it to have the same "
            "bytes made again.",
        ),
        _of(
            job_errors.JobFailedError,
            409,
            "The job failed",
            "It ended without files. error in the job document says why.",
        ),
        _of(job_errors.JobCanceledError, 409, "The job was cancelled", "It has no files. POST its spec to start anew."),
        _of(
            job_errors.JobActiveError,
            409,
            "The job is active",
            "It is queued or running. Cancel it first: POST /v1/jobs/{id}/cancel.",
        ),
        _of(
            job_errors.ArtifactNotFoundError,
            404,
            "There is no such file",
            "GET /v1/jobs/{id}/files lists the files of a job.",
        ),
        _of(
            job_errors.ArtifactDamagedError,
            410,
            "The stored file is damaged",
            "The file is missing on the service's disk or is not what its manifest says, so it is not served. POST "
            "spec of this document, with a new Idempotency-Key or none, to have it made anew; the damaged files are "
            "not used for that. The other files of this job can still be downloaded.",
        ),
        _of(
            job_errors.LeaseLostError,
            409,
            "Another worker owns the job now",
            "A worker was silent for too long and its job was given to another one. Nothing to do.",
        ),
        _of(
            job_errors.WorkerCrashedError,
            500,
            "The worker died",
            "The workers that ran this job ended too often, most likely for lack of memory. Lower the grid, or ask the "
            "operator to look at the worker's log.",
        ),
        _of(
            job_errors.IdempotencyError,
            422,
            "The Idempotency-Key was used for another body",
            "A key names one request. Use a fresh key for a different body.",
        ),
        _of(
            job_errors.QueueUnavailableError,
            503,
            "The queue takes no work at the moment",
            "The broker does not answer, or as many jobs are queued as the service allows. Try again after the time "
            "in Retry-After.",
            5,
        ),
        _of(
            BrokerError,
            503,
            "The broker cannot be used",
            "It does not start, or it is configured so that it may lose jobs. The operator must act.",
            30,
        ),
        _of(
            BrokerAwayError,
            503,
            "The broker does not answer",
            "It is not started yet, is being restarted, or cannot be reached. Try again after the time in Retry-After.",
            5,
        ),
        _of(
            KeysError,
            500,
            "The keys cannot be used",
            "The file that holds the keys is damaged, or a change to it makes no sense. The operator must act.",
        ),
        _of(
            UploadNotFoundError,
            404,
            "There is no such upload",
            "The name is unknown, the upload was removed, or it has expired. GET /v1/uploads lists those there are.",
        ),
        _of(
            UploadExistsError,
            409,
            "There is another upload of that name",
            "An upload never changes, so that a recipe that names it always means the same. DELETE it first, or send "
            "the new one under another name.",
        ),
        _of(
            UploadDamagedError,
            410,
            "The stored upload is damaged",
            "Its bytes on the service's disk are not those that were sent. Send the file again under the same name.",
        ),
        _of(
            UploadQuotaError,
            413,
            "The uploads are over their quota",
            "detail says what is allowed. DELETE uploads that nobody needs; each goes by itself when it expires.",
        ),
        _of(
            DiskFullError,
            507,
            "The disk is nearly full",
            "What was asked would leave less free than the operator keeps in reserve. Remove finished jobs and uploads "
            "that nobody needs, or ask the operator for room.",
            60,
        ),
    )
)


def _http(code: str, status: int, title: str, advice: str, retry_after: int | None = None) -> ProblemType:
    return ProblemType(code=code, status=status, title=title, help=advice, retry_after=retry_after)


# What HTTP itself can refuse, before any of our errors is raised.
MALFORMED = _http(
    "malformed_json",
    400,
    "The body is not JSON",
    "A body is one JSON value in UTF-8: no NaN or Infinity, no member twice, no deep nesting, nothing after it.",
)
BAD_REQUEST = _http("bad_request", 400, "The request is malformed", "detail says what cannot be understood.")
NOT_FOUND = _http("not_found", 404, "There is nothing at this address", "/docs and /openapi.json list what there is.")
NOT_ALLOWED = _http(
    "method_not_allowed", 405, "The method is not allowed here", "The Allow header lists the methods of this address."
)
BODY_TOO_LONG = _http("body_too_long", 413, "The body is too long", "detail says how many bytes are allowed.")
UNSUPPORTED = _http(
    "unsupported_media_type",
    415,
    "The body is of the wrong type",
    "Send JSON as Content-Type: application/json, files as they are, and neither with a Content-Encoding.",
)
RANGE = _http(
    "range_not_satisfiable", 416, "The range lies outside the file", "Content-Range says how long the file is."
)
INTERNAL = _http(
    "internal",
    500,
    "Something went wrong inside the service",
    "Not your fault. Report request_id to the operator: the log has the details under it.",
)
NOT_READY = _http(
    "not_ready", 503, "The service is not ready", "checks says which part is missing: broker, storage or worker.", 5
)
# Who may come in, and how much of it.
UNAUTHORIZED = _http(
    "unauthorized",
    401,
    "A key is needed",
    "Send Authorization: Bearer KEY with a key of this service that was not revoked. The operator makes one with "
    "`cytosynth keys create NAME`. A browser asks for it: any name, the key as password.",
)
CLOSED = _http(
    "closed",
    403,
    "The service is open to its own machine only",
    "It has no keys yet, so it answers requests from this machine to 127.0.0.1 or localhost. The operator makes a key "
    "with `cytosynth keys create NAME`, or sets CYTOSYNTH_ALLOW_OPEN=true to serve whoever reaches the port.",
)
CROSS_SITE = _http(
    "cross_site",
    403,
    "A page of another site may not do this",
    "The browser says that another site sent this request. Only pages of this service may change anything.",
)
TOO_FAST = _http(
    "too_fast",
    429,
    "Too many requests",
    "A key may send so many requests a second, as detail says. Wait for the time in Retry-After.",
    1,
)
OVER_SHARE = _http(
    "over_share",
    429,
    "Too many active jobs",
    "As many jobs of this key are queued or running as one key may have. Retry-After is the time in which one of them "
    "has probably ended, as fast as jobs ended lately.",
    30,
)
BUSY = _http(
    "busy",
    503,
    "Too many requests at this moment",
    "More requests arrived at once than can be written down without keeping everybody waiting. Retry-After spreads "
    "those who come again.",
    1,
)
# Uploads.
DIGEST_MISMATCH = _http(
    "digest_mismatch",
    422,
    "The body is not what its digest says",
    "It was damaged on its way or the digest is of another file. Content-Digest is `sha-256=:BASE64:` (RFC 9530).",
)
TOO_SLOW = _http(
    "too_slow",
    408,
    "The request arrives too slowly",
    "Head or body took too long, or nothing arrived for too long; detail says what is allowed. Send the request again.",
)
# What the server itself refuses.
CLIENT_GONE = _http(
    "client_gone",
    499,
    "The client has left",
    "The connection ended before the body did. Nobody receives this answer; only the log and the figures show it.",
)
ADDRESS_TOO_LONG = _http(
    "address_too_long", 414, "The address is too long", "detail says how many bytes a request line may have."
)
HEAD_TOO_LONG = _http(
    "head_too_long", 431, "The headers are too long", "detail says how many bytes request line and headers may have."
)
TOO_MANY_CONNECTIONS = _http(
    "too_many_connections",
    503,
    "Too many connections",
    "As many connections are open, or as many requests are under way, as the service allows. Close those you do not "
    "use, and try again after the time in Retry-After.",
    5,
)
MODEL_NOT_YOURS = _http(
    "model_not_yours",
    403,
    "The model belongs to the installation",
    "Only a model that was made from an upload of this key can be removed here.",
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
)
PROBLEM_TYPES: dict[str, ProblemType] = {kind.slug: kind for kind in (*TABLE.values(), *OTHERS)}
BY_STATUS = {kind.status: kind for kind in (BAD_REQUEST, NOT_FOUND, NOT_ALLOWED, BODY_TOO_LONG, UNSUPPORTED, RANGE)}


def problem_type(error: type[tree.CytosynthError]) -> ProblemType:
    """Return the row of the nearest class in the table."""
    return next(TABLE[base] for base in error.__mro__ if base in TABLE)
