"""The OpenAPI document: what FastAPI derives, with the problems, headers and examples of each operation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from app.middleware.authentication import is_public
from app.problems.handlers import PROBLEM_JSON
from app.problems.types import (
    ADDRESS_TOO_LONG,
    BAD_REQUEST,
    BODY_TOO_LONG,
    BUSY,
    CLOSED,
    DIGEST_MISMATCH,
    HEAD_TOO_LONG,
    INTERNAL,
    LINK_INVALID,
    LINKS_OFF,
    MALFORMED,
    MODEL_NOT_YOURS,
    NOT_FOUND,
    NOT_READY,
    OVER_SHARE,
    RANGE,
    TABLE,
    TOO_FAST,
    TOO_MANY_CONNECTIONS,
    TOO_SLOW,
    UNAUTHORIZED,
    UNSUPPORTED,
    WEBHOOKS_OFF,
    ProblemType,
)
from app.routes.examples import DETAILS, MEMBERS, METRICS, OWN_DETAILS, answers
from app.schemas import Problem
from model import __version__
from model import errors as tree
from worker import errors as job_errors
from worker.errors import (
    DiskFullError,
    UploadDamagedError,
    UploadExistsError,
    UploadNotFoundError,
    UploadOffsetError,
    UploadQuotaError,
)
from worker.kinds.table import KINDS

TITLE = "cytosynth"
SUMMARY = "Generates the shapes of living cells on demand."
DESCRIPTION = """\
A request names a model, a seed, a number of frames and a grid. The model, a trained auto-decoder, gives a signed
distance function over space and time. The service returns its surfaces (STL, OBJ, PLY) or label volumes (TIFF).

1. `POST /v1/generations` with a spec returns a job with **202**. If the spec has no seed, the service draws one and
   reports it in the job.
2. `GET /v1/jobs/{id}/events` streams the progress of the job; `GET /v1/jobs/{id}?wait=60` answers when it has ended.
3. `GET /v1/jobs/{id}/archive` downloads all files; `/manifest` and `/files/{name}` download one file each.

The same spec and model give the same bytes. Errors are [RFC 9457](https://www.rfc-editor.org/rfc/rfc9457) problem
documents; each kind is documented at [/problems](/problems).
"""
TAGS = [
    *({"name": kind.path.rpartition("/")[2], "description": kind.description} for kind in KINDS.values()),
    {"name": "jobs", "description": "List jobs, show, follow, cancel, pin and remove them."},
    {"name": "files", "description": "The results of a job."},
    {"name": "batches", "description": "Many requests in one: accepted, followed, canceled and removed together."},
    {"name": "links", "description": "Time-limited signed links to files, for people without a key."},
    {"name": "webhooks", "description": "Signed messages to an address of yours when a job ends."},
    {"name": "models", "description": "Installed models and your own, with their scale, limits and measured quality."},
    {"name": "uploads", "description": "Label volumes, surfaces and weights that you upload."},
    {"name": "health", "description": "For operators and orchestrators."},
    {"name": "problems", "description": "The documentation of all errors."},
]

_SPEC, _LARGE, _QUEUE = TABLE[tree.SpecError], TABLE[tree.TooLargeError], TABLE[job_errors.QueueUnavailableError]
_JOB, _UNFINISHED, _EXPIRED = (
    TABLE[job_errors.JobNotFoundError],
    TABLE[job_errors.JobNotFinishedError],
    TABLE[job_errors.JobExpiredError],
)
_BODY = (MALFORMED, UNSUPPORTED, BODY_TOO_LONG)
_DISK, _UPLOAD, _FILE = TABLE[DiskFullError], TABLE[UploadNotFoundError], TABLE[tree.UploadError]
_FILES = (_JOB, _UNFINISHED, _EXPIRED, _QUEUE)

# Of every operation that submits a job.
SUBMISSION_PROBLEMS = (*_BODY, _LARGE, _QUEUE, OVER_SHARE, BUSY, _DISK, WEBHOOKS_OFF)
_BATCH = TABLE[job_errors.BatchNotFoundError]
# Of every operation: what app.server answers before the application sees a request.
SERVER_PROBLEMS = (BAD_REQUEST, TOO_SLOW, ADDRESS_TOO_LONG, HEAD_TOO_LONG, TOO_MANY_CONNECTIONS)
# The problems of each operation, besides those that all have: 422 for parameters, and 500. Estimates also have _BODY.
PROBLEMS: dict[str, tuple[ProblemType, ...]] = {
    "createReconstruction": (_UPLOAD,),
    "createTraining": (_UPLOAD, TABLE[tree.DatasetError], TABLE[UploadDamagedError]),
    "createTrainingEstimate": (_UPLOAD, _QUEUE),
    "createAugmentation": (_UPLOAD, _JOB),
    "createEvaluation": (_UPLOAD, _JOB),
    "createEvaluationEstimate": (_UPLOAD, _JOB, _QUEUE),
    "createAugmentationEstimate": (_UPLOAD, _JOB, _QUEUE),
    "createReconstructionEstimate": (_UPLOAD,),
    "listJobs": (_QUEUE,),
    "getJob": (_JOB, _QUEUE),
    "cancelJob": (_JOB, _QUEUE),
    "pinJob": (_JOB, TABLE[job_errors.JobFailedError], TABLE[job_errors.JobCanceledError], _EXPIRED, _QUEUE),
    "unpinJob": (_JOB, TABLE[job_errors.JobFailedError], TABLE[job_errors.JobCanceledError], _EXPIRED, _QUEUE),
    "deleteJob": (_JOB, TABLE[job_errors.JobActiveError], _QUEUE),
    "followJob": (_JOB, _QUEUE),
    "getManifest": _FILES,
    "listFiles": _FILES,
    "getFile": (*_FILES, RANGE),
    "getArchive": (*_FILES, RANGE),
    "createLink": (*_BODY, LINKS_OFF, TABLE[job_errors.ArtifactNotFoundError], *_FILES),
    "createBatch": (*SUBMISSION_PROBLEMS, _JOB, _UPLOAD),
    "getBatch": (_BATCH, _QUEUE),
    "cancelBatch": (_BATCH, _QUEUE),
    "deleteBatch": (_BATCH, TABLE[job_errors.JobActiveError], _QUEUE),
    "followBatch": (_BATCH, _QUEUE),
    "getWebhookSecret": (WEBHOOKS_OFF,),
    "getLinkedFile": (LINK_INVALID, NOT_FOUND, *_FILES[1:], RANGE),
    "getLinkedArchive": (LINK_INVALID, *_FILES[1:], RANGE),
    "getModel": (NOT_FOUND,),
    "createModel": (*_BODY, _UPLOAD, _FILE, _DISK),
    "deleteModel": (NOT_FOUND, MODEL_NOT_YOURS),
    "putUpload": (
        UNSUPPORTED,
        BODY_TOO_LONG,
        TABLE[UploadQuotaError],
        TABLE[UploadExistsError],
        DIGEST_MISMATCH,
        _FILE,
        TOO_SLOW,
        _DISK,
    ),
    "putUploadFile": (
        NOT_FOUND,
        UNSUPPORTED,
        BODY_TOO_LONG,
        TABLE[UploadQuotaError],
        TABLE[UploadExistsError],
        DIGEST_MISMATCH,
        _FILE,
        TOO_SLOW,
        _DISK,
    ),
    "appendUpload": (
        UNSUPPORTED,
        BODY_TOO_LONG,
        TABLE[UploadQuotaError],
        TABLE[UploadExistsError],
        TABLE[UploadOffsetError],
        DIGEST_MISMATCH,
        _FILE,
        TOO_SLOW,
        _DISK,
    ),
    "getUpload": (_UPLOAD,),
    "deleteUpload": (_UPLOAD,),
    "isReady": (NOT_READY,),
    "getProblem": (NOT_FOUND,),
}
SUBMISSION_HEADERS = {
    "202": {
        "Location": "Address of the job.",
        "Retry-After": "Seconds after which the job has probably made progress.",
        "Preference-Applied": "The wait that was granted, if the request preferred one.",
    },
    "200": {
        "Location": "Address of the job.",
        "Preference-Applied": "The wait that was granted, if the request preferred one.",
    },
}
# Headers of answers, by operation and status.
HEADERS: dict[str, dict[str, dict[str, str]]] = {
    "createBatch": {"202": {"Location": "Address of the batch."}},
    "putUpload": {"201": {"Location": "Address of the upload."}, "200": {"Location": "Address of the upload."}},
    "putUploadFile": {
        "201": {"Location": "Address of the sequence."},
        "200": {"Location": "Address of the sequence."},
    },
    "appendUpload": {
        "201": {"Location": "Address of the upload."},
        "200": {"Location": "Address of the upload."},
        "204": {"Upload-Offset": "Bytes that have arrived.", "Upload-Complete": "`?0`."},
    },
    "getUpload": {
        "200": {"Upload-Offset": "Bytes of the file.", "Upload-Complete": "`?1`."},
        "204": {"Upload-Offset": "Bytes that have arrived.", "Upload-Complete": "`?0`."},
    },
    "createModel": {"201": {"Location": "Address of the model."}, "200": {"Location": "Address of the model."}},
    "listJobs": {"200": {"Link": "The next page, as rel=next."}},
    "getFile": {"200": {"ETag": "SHA-256 of the file."}, "206": {"Content-Range": "The range in the body."}},
    "getLinkedFile": {"200": {"ETag": "SHA-256 of the file."}, "206": {"Content-Range": "The range in the body."}},
    "getLinkedArchive": {
        "200": {"ETag": "Changes with the content."},
        "206": {"Content-Range": "The range in the body."},
    },
    "getManifest": {"200": {"ETag": "SHA-256 of the manifest."}},
    "getArchive": {
        "200": {"ETag": "Changes with the content."},
        "206": {"Content-Range": "The range in the body."},
    },
}
EVENTS = """\
Server-sent events, each with `id`, `event` and one line of `data`, a JSON object. `event: state`: `state`, `attempts`
and, of a failed job, `error` {`code`, `message`}. `event: progress`: `fraction`, `stage`, `frame`, `frames`, `eta_s`,
and of a training that learns `loss` and, where frames are left out of it, `dice`.
Lines that begin with a colon are comments that keep the connection open. The stream ends after the final state.
"""
EVENTS_EXAMPLE = """\
event: progress
data: {"fraction": 0.5, "stage": "frames", "frame": 3, "frames": 6, "eta_s": 1.5}
id: 1764000000000-0

event: state
data: {"state": "succeeded", "attempts": 1}
id: 1764000000001-0

"""


def describe(app: FastAPI) -> None:
    """Make ``app`` serve this document as its OpenAPI document."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title=TITLE,
        version=__version__,
        summary=SUMMARY,
        description=DESCRIPTION,
        routes=app.routes,
        tags=TAGS,
        servers=[{"url": "/", "description": "This service."}],
        license_info={"name": "BSD-3-Clause", "identifier": "BSD-3-Clause"},
        contact={"name": "The cytosynth authors"},
    )
    schemas = document["components"]["schemas"]
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}", by_alias=True)
    schemas.update(problem.pop("$defs", {}))
    schemas["Problem"] = problem
    latent = schemas["GenerationSpec"]["properties"]["latent"]
    latent["anyOf"] = latent.pop("oneOf")  # a latent without a kind is sampled, so no single member discriminates
    submissions = {kind.path for kind in KINDS.values()}
    for path, operation in _operations(document):
        guarded = not is_public(path)
        _document_events(operation)
        submits = path in submissions and "post" in document["paths"][path]
        _document_problems(
            operation, guarded=guarded, strict_query=path.startswith(("/v1/", "/problems")), submits=submits
        )
        _document_headers(operation, submits=submits)
        _document_answers(operation, submits=submits)
        operation["security"] = [{"key": []}, {}] if guarded else []
    document["components"]["securitySchemes"] = {
        "key": {
            "type": "http",
            "scheme": "bearer",
            "description": "An API key, from the operator. While the service has no keys, none is needed.",
        }
    }
    return document


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if method in ("get", "head", "post", "put", "patch", "delete"):
                yield path, operation


def _document_problems(operation: dict[str, Any], *, guarded: bool, strict_query: bool, submits: bool) -> None:
    responses = operation["responses"] = {str(status): answer for status, answer in operation["responses"].items()}
    name = operation["operationId"]
    body = _BODY if name.endswith("Estimate") else ()
    kinds = [*body, *PROBLEMS.get(name, ()), *(SUBMISSION_PROBLEMS if submits else ()), INTERNAL]
    kinds += [kind for kind in SERVER_PROBLEMS if kind not in kinds]
    if guarded:
        kinds += [UNAUTHORIZED, CLOSED, TOO_FAST]
    if (
        responses.pop("422", None) is not None or strict_query
    ):  # the framework documents 422 for declared parameters only
        kinds.append(_SPEC)
    by_status: dict[int, list[ProblemType]] = {}
    for kind in kinds:
        by_status.setdefault(kind.status, []).append(kind)
    for status, same in sorted(by_status.items()):
        answer: dict[str, Any] = {
            "description": " Or: ".join(f"{kind.title} (`{kind.code}`)." for kind in same),
            "content": {
                PROBLEM_JSON: {
                    "schema": {"$ref": "#/components/schemas/Problem"},
                    "examples": {kind.code: {"summary": kind.title, "value": _example_of(kind, name)} for kind in same},
                }
            },
        }
        if any(kind.retry_after for kind in same):
            answer["headers"] = {"Retry-After": _header("Seconds after which to try again.")}
        responses[str(status)] = answer


def _example_of(kind: ProblemType, operation: str) -> dict[str, Any]:
    """Return a problem document of one kind, as the service sends it for an operation."""
    return {
        "type": kind.uri, "title": kind.title, "status": kind.status,
        "detail": OWN_DETAILS.get((operation, kind.code), DETAILS.get(kind.code, kind.help)), "code": kind.code,
        "request_id": "6f1c1c0e5d4b4a57a9a2b7c3d1e0f9a8", **MEMBERS.get(kind.code, {}),
    }  # fmt: skip


def _document_answers(operation: dict[str, Any], *, submits: bool) -> None:
    name = "createGeneration" if submits else operation["operationId"]  # all kinds are answered with a job
    for status, answer in operation["responses"].items():
        if name == "getMetrics" and status == "200":
            answer["content"]["text/plain"]["example"] = METRICS
        if (body := answers().get((name, status))) is not None:
            answer["content"]["application/json"]["example"] = body


def _document_events(operation: dict[str, Any]) -> None:
    """Describe event streams by an example, in place of what only OpenAPI 3.2 can express."""
    for answer in operation["responses"].values():
        stream = answer.get("content", {}).get("text/event-stream")
        if stream is not None:
            stream.clear()
            stream["schema"] = {"type": "string", "description": EVENTS}
            stream["example"] = EVENTS_EXAMPLE


def _document_headers(operation: dict[str, Any], *, submits: bool) -> None:
    for status, headers in (SUBMISSION_HEADERS if submits else HEADERS.get(operation["operationId"], {})).items():
        shown = operation["responses"][status].setdefault("headers", {})
        shown.update({name: _header(text) for name, text in headers.items()})


def _header(text: str) -> dict[str, Any]:
    return {"description": text, "schema": {"type": "string"}}
