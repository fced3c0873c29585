"""Files that clients upload: label volumes, surfaces, weights."""

from __future__ import annotations

import asyncio
import base64
import re
from functools import partial
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Header, Path, Request, Response

from app.middleware.strict_bodies import StrictRoute
from app.problems.handlers import ProblemError
from app.problems.types import DIGEST_MISMATCH, TOO_SLOW, UNSUPPORTED
from app.schemas import UploadList, UploadView
from app.services.resources import CallerResources
from worker.uploads.sandbox import KINDS, kind_of
from worker.uploads.store import NAME, IncomingUpload

router = APIRouter(prefix="/v1/uploads", tags=["uploads"], route_class=StrictRoute)

SILENCE_MAX_S = 30.0  # a client that sends nothing for this long is refused
WRITE_BYTES = 2**20  # bytes that are collected before a thread writes them

DIGEST = r"(^|,)\s*sha-256=:[A-Za-z0-9+/]{43}=:\s*(,|$)"

UploadName = Annotated[
    str,
    Path(
        alias="name",
        max_length=128,
        description="A name of your choice: letters, digits, - and _, and an ending for the type of the file: .tif, "
        ".stl, .obj, .ply, .safetensors, or .zip, .tar, .tar.gz for a sequence in many files.",
        examples=["cells.tif"],
    ),
]
Digest = Annotated[
    str | None,
    Header(
        alias="Content-Digest",
        max_length=1000,
        json_schema_extra={"pattern": DIGEST},
        description="`sha-256=:BASE64:` (RFC 9530). The upload is refused if the file that arrives has another "
        "SHA-256.",
    ),
]


@router.put(
    "/{name}",
    operation_id="putUpload",
    response_description="The file is stored.",
    summary="Upload a file",
    status_code=201,
    response_model=UploadView,
    responses={
        200: {
            "model": UploadView,
            "description": "The service has the same file already; its retention time starts again.",
        }
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "The bytes of the file: no form, no Content-Encoding.",
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def put_upload(
    name: UploadName, request: Request, resources: CallerResources, response: Response, content_digest: Digest = None
) -> UploadView:
    """Store a file under a name, after an inspection. An upload never changes; sending it again extends its retention.

    `facts` in the answer holds the results of the inspection: shapes, counts, volumes. A file that does not match its
    ending is refused with 422; the refusal says what is allowed.
    """
    if not NAME.fullmatch(name):
        detail = f"a name has at most 100 letters, digits, - and _, and one of the endings {', '.join(KINDS)}"
        raise ProblemError(UNSUPPORTED, detail)
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise ProblemError(UNSUPPORTED, "send the file without Content-Encoding")
    wanted = digest_of(content_digest)
    kind = kind_of(name)
    with resources.uploads.arriving(resources.owner) as arrived:
        await _receive(request, arrived)
        if wanted is not None and wanted != arrived.sha256:
            raise ProblemError(DIGEST_MISMATCH, "the SHA-256 of the body differs from the one in Content-Digest")
        await to_thread.run_sync(arrived.close)
        facts = await to_thread.run_sync(arrived.inspect, kind, limiter=resources.inspections)
        keep = partial(resources.uploads.keep, resources.owner, arrived, name=name, kind=kind, facts=facts)
        upload, new = await to_thread.run_sync(keep)
    response.status_code = 201 if new else 200
    view = UploadView.of(upload)
    response.headers["Location"] = view.href
    return view


@router.get(
    "",
    operation_id="listUploads",
    response_description="The caller's uploads, ordered by name.",
    summary="List your uploads",
)
def list_uploads(resources: CallerResources) -> UploadList:
    """Return your uploads, ordered by name, the bytes that they use, and your quota."""
    uploads = resources.uploads.kept(resources.owner)
    quota = resources.settings.max_uploads_bytes
    return UploadList(
        uploads=[UploadView.of(upload) for upload in uploads], used=resources.uploads.used(resources.owner), quota=quota
    )


@router.get(
    "/{name}",
    operation_id="getUpload",
    response_description="What the inspection of the file found.",
    summary="Show one upload",
)
def get_upload(name: UploadName, resources: CallerResources) -> UploadView:
    """Return the results of the inspection of a file, and when the file will be removed."""
    return UploadView.of(resources.uploads.get(resources.owner, name))


@router.delete(
    "/{name}",
    operation_id="deleteUpload",
    response_description="The upload is removed.",
    summary="Remove an upload",
    status_code=204,
)
def delete_upload(name: UploadName, resources: CallerResources) -> Response:
    """Remove an upload. A model that was made from it stays."""
    resources.uploads.remove(resources.owner, name)
    return Response(status_code=204)


async def _receive(request: Request, arrived: IncomingUpload) -> None:
    """Write a body to disk as it arrives; refuse a client that stops sending."""
    waiting = bytearray()
    parts = aiter(request.stream())
    while True:
        try:
            part = await asyncio.wait_for(anext(parts, None), SILENCE_MAX_S)
        except TimeoutError:
            raise ProblemError(
                TOO_SLOW, f"nothing arrived for {SILENCE_MAX_S:g} seconds", headers={"Connection": "close"}
            ) from None
        waiting += part or b""
        if part is None or len(waiting) >= WRITE_BYTES:
            await to_thread.run_sync(arrived.write, bytes(waiting))
            waiting.clear()
        if part is None:
            return


def digest_of(header: str | None) -> str | None:
    """Return the SHA-256 of a Content-Digest header as hexadecimal digits; None if there is no header.

    Raises
    ------
    ProblemError
        If the header holds no valid sha-256.
    """
    if header is None:
        return None
    found = re.search(r"(?:^|,)\s*sha-256=:([A-Za-z0-9+/]{43}=):\s*(?:,|$)", header)
    if found is None:
        raise ProblemError(DIGEST_MISMATCH, "Content-Digest must hold sha-256=:BASE64: (RFC 9530)")
    return base64.b64decode(found[1]).hex()
