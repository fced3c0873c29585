"""Files that clients bring: label volumes, surfaces, weights."""

from __future__ import annotations

import asyncio
import base64
import re
from functools import partial
from pathlib import PurePosixPath
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Header, Path, Request, Response

from app.middleware.strict_bodies import StrictRoute
from app.problems.handlers import ProblemError
from app.problems.types import DIGEST_MISMATCH, TOO_SLOW, UNSUPPORTED
from app.schemas import UploadList, UploadView
from app.services.resources import CallerResources
from worker.uploads.sandbox import KINDS, inspect_file
from worker.uploads.store import NAME, IncomingUpload

router = APIRouter(prefix="/v1/uploads", tags=["uploads"], route_class=StrictRoute)

PATIENCE_S = 30.0  # with a client that sends nothing
WRITE_BYTES = 2**20  # a thread's errand is worth this much

DIGEST = r"(^|,)\s*sha-256=:[A-Za-z0-9+/]{43}=:\s*(,|$)"

UploadName = Annotated[
    str,
    Path(
        alias="name",
        max_length=128,
        description="Of your choosing: letters, digits, - and _, and the ending that says what it is: "
        ".tif, .stl, .obj, .ply or .safetensors.",
        examples=["cells.tif"],
    ),
]
Digest = Annotated[
    str | None,
    Header(
        alias="Content-Digest",
        max_length=1000,
        json_schema_extra={"pattern": DIGEST},
        description="`sha-256=:BASE64:` (RFC 9530): the upload is refused unless it arrives as it was sent.",
    ),
]


@router.put(
    "/{name}",
    operation_id="putUpload",
    response_description="The file is stored.",
    summary="Send a file",
    status_code=201,
    response_model=UploadView,
    responses={200: {"model": UploadView, "description": "It is here already, and is kept for longer now."}},
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "The file as it is; no form, no archive, no Content-Encoding.",
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def put_upload(
    name: UploadName, request: Request, resources: CallerResources, response: Response, content_digest: Digest = None
) -> UploadView:
    """Receive a file, look into it, and keep it under its name. It never changes; sent again, it is kept for longer.

    `facts` in the answer is what was found: shapes, counts, volumes. A file that is not exactly what its ending says is
    refused with 422, and the refusal says what is allowed.
    """
    if not NAME.fullmatch(name):
        detail = f"a name has up to 100 letters, digits, - and _, and one of the endings {', '.join(KINDS)}"
        raise ProblemError(UNSUPPORTED, detail)
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise ProblemError(UNSUPPORTED, "send the file without Content-Encoding")
    wanted = digest_of(content_digest)
    kind = KINDS[PurePosixPath(name).suffix]
    with resources.uploads.arriving(resources.owner) as arrived:
        await _receive(request, arrived)
        if wanted is not None and wanted != arrived.sha256:
            raise ProblemError(DIGEST_MISMATCH, "the SHA-256 of the body is not the one in Content-Digest")
        await to_thread.run_sync(arrived.close)
        facts = await to_thread.run_sync(inspect_file, arrived.path, kind, limiter=resources.inspections)
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
    """Show what is kept, ordered by name, and how much room is left."""
    uploads = resources.uploads.kept(resources.owner)
    quota = resources.settings.max_uploads_bytes
    return UploadList(
        uploads=[UploadView.of(upload) for upload in uploads], used=resources.uploads.used(resources.owner), quota=quota
    )


@router.get(
    "/{name}",
    operation_id="getUpload",
    response_description="What the inspection of the file found.",
    summary="Look at one upload",
)
def get_upload(name: UploadName, resources: CallerResources) -> UploadView:
    """Show what was found in a file, and until when it is kept."""
    return UploadView.of(resources.uploads.get(resources.owner, name))


@router.delete(
    "/{name}",
    operation_id="deleteUpload",
    response_description="The upload is removed.",
    summary="Remove an upload",
    status_code=204,
)
def delete_upload(name: UploadName, resources: CallerResources) -> Response:
    """Remove an upload. A model that was made of it stays."""
    resources.uploads.remove(resources.owner, name)
    return Response(status_code=204)


async def _receive(request: Request, arrived: IncomingUpload) -> None:
    """Write a body down as it comes; a client that falls silent is not waited for."""
    waiting = bytearray()
    parts = aiter(request.stream())
    while True:
        try:
            part = await asyncio.wait_for(anext(parts, None), PATIENCE_S)
        except TimeoutError:
            raise ProblemError(
                TOO_SLOW, f"nothing arrived for {PATIENCE_S:g} seconds", headers={"Connection": "close"}
            ) from None
        waiting += part or b""
        if part is None or len(waiting) >= WRITE_BYTES:
            await to_thread.run_sync(arrived.write, bytes(waiting))
            waiting.clear()
        if part is None:
            return


def digest_of(header: str | None) -> str | None:
    """Return the SHA-256 in a Content-Digest header, in hexadecimal digits; None if there is no header.

    Raises
    ------
    ProblemError
        If there is one without a readable sha-256.
    """
    if header is None:
        return None
    found = re.search(r"(?:^|,)\s*sha-256=:([A-Za-z0-9+/]{43}=):\s*(?:,|$)", header)
    if found is None:
        raise ProblemError(DIGEST_MISMATCH, "Content-Digest must hold sha-256=:BASE64: (RFC 9530)")
    return base64.b64decode(found[1]).hex()
