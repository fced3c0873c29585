"""Files that clients upload: label volumes, surfaces, weights."""

from __future__ import annotations

import asyncio
import base64
import re
from functools import partial
from typing import Annotated, Literal

from anyio import to_thread
from fastapi import APIRouter, Header, Path, Request, Response

from app.middleware.strict_bodies import StrictRoute
from app.problems.handlers import ProblemError
from app.problems.types import BODY_TOO_LONG, DIGEST_MISMATCH, TABLE, TOO_SLOW, UNSUPPORTED
from app.schemas import UploadList, UploadView
from app.services.resources import CallerResources
from model.errors import UploadError
from worker.errors import UploadExistsError, UploadNotFoundError, UploadOffsetError
from worker.uploads.sandbox import KINDS, kind_of, kind_of_member
from worker.uploads.store import FOLDER, MEMBER, NAME, IncomingUpload, Upload

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
        ".stl, .obj, .ply, .npy, .npz, .h5, .zarr.zip, .safetensors, or .zip, .tar, .tar.gz for a sequence in many "
        "files.",
        examples=["cells.tif"],
    ),
]
FolderName = Annotated[
    str,
    Path(
        alias="name",
        max_length=128,
        description="A name of your choice for the sequence: letters, digits, - and _, without an ending.",
        examples=["embryo"],
    ),
]
MemberPath = Annotated[
    str,
    Path(
        alias="file",
        max_length=256,
        description="Path of the file in the sequence: .tif, .stl, .obj or .ply, or man_track.txt or res_track.txt; "
        "letters, digits, -, _ and ., in at most 3 folders.",
        examples=["t000.tif"],
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
WholeDigest = Annotated[
    str | None,
    Header(
        alias="Repr-Digest",
        max_length=1000,
        json_schema_extra={"pattern": DIGEST},
        description="`sha-256=:BASE64:` of the whole file (RFC 9530), the same with each part. It is refused if "
        "the file that arrives has another SHA-256.",
    ),
]
Offset = Annotated[
    int,
    Header(
        alias="Upload-Offset",
        ge=0,
        le=2**53,
        description="Number of bytes of the file that precede the body; 0 begins an upload.",
    ),
]
Complete = Annotated[
    Literal["?0", "?1"],
    Header(alias="Upload-Complete", description="`?1`: the file ends with this body; `?0`: more will follow."),
]
BINARY = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


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
            "content": BINARY,
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
    _check_request(request, name)
    wanted = digest_of(content_digest)
    with resources.uploads.arriving(resources.owner) as arrived:
        await _receive(request, arrived)
        if wanted is not None and wanted != arrived.sha256:
            raise ProblemError(DIGEST_MISMATCH, "the SHA-256 of the body differs from the one in Content-Digest")
        await to_thread.run_sync(arrived.close)
        upload, new = await _inspected_and_kept(resources, arrived, name)
    return _shown(response, upload, new=new)


@router.put(
    "/{name}/{file:path}",
    operation_id="putUploadFile",
    response_description="The file is stored; the sequence as it is now.",
    summary="Upload a file of a sequence",
    status_code=201,
    response_model=UploadView,
    responses={200: {"model": UploadView, "description": "The sequence has the same file already."}},
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "The bytes of the file: no form, no Content-Encoding.",
            "content": BINARY,
        }
    },
)
async def put_upload_file(
    name: FolderName,
    file: MemberPath,
    request: Request,
    resources: CallerResources,
    response: Response,
    content_digest: Digest = None,
) -> UploadView:
    """Add a file to a sequence that is sent file by file, after an inspection; the first makes the sequence.

    A file of a sequence never changes. A spec that names the sequence means the files that it had when the request was
    accepted: add all files first. `sha256` of the sequence is that of lines `SHA-256  path` of what was sent, sorted
    by path.
    """
    kind = kind_of_member(file)
    if not (FOLDER.fullmatch(name) and MEMBER.fullmatch(file) and kind):
        detail = (
            "the name of a sequence has at most 100 letters, digits, - and _; a file in it ends in .tif, .stl, .obj or "
            ".ply or is man_track.txt or res_track.txt, in at most 3 folders"
        )
        raise ProblemError(UNSUPPORTED, detail)
    _check_coding(request)
    wanted = digest_of(content_digest)
    with resources.uploads.arriving(resources.owner) as arrived:
        await _receive(request, arrived)
        if wanted is not None and wanted != arrived.sha256:
            raise ProblemError(DIGEST_MISMATCH, "the SHA-256 of the body differs from the one in Content-Digest")
        await to_thread.run_sync(arrived.close)
        facts = await to_thread.run_sync(arrived.inspect, kind, limiter=resources.inspections)
        add = partial(resources.uploads.add, resources.owner, arrived, name=name, path=file, kind=kind, facts=facts)
        upload, new = await to_thread.run_sync(add)
    return _shown(response, upload, new=new)


@router.patch(
    "/{name}",
    operation_id="appendUpload",
    response_description="The file is complete and stored.",
    summary="Send a file in parts, or resume it",
    status_code=201,
    response_model=UploadView,
    responses={
        200: {
            "model": UploadView,
            "description": "The service has the same file already; its retention time starts again.",
        },
        204: {"description": "The part is stored; more is to follow."},
    },
    openapi_extra={
        "requestBody": {
            "description": "The bytes that follow Upload-Offset: no form, no Content-Encoding; may be empty.",
            "content": BINARY,
        }
    },
)
async def append_upload(
    name: UploadName,
    request: Request,
    resources: CallerResources,
    response: Response,
    upload_offset: Offset,
    upload_complete: Complete,
    repr_digest: WholeDigest = None,
) -> Response | UploadView:
    """Append a body to a file that arrives in parts; with `Upload-Complete: ?1` the file is inspected and stored.

    What has arrived when a connection breaks stays for a day: `HEAD` of this address says in `Upload-Offset` how many
    bytes that are. Send what follows them. A part that begins elsewhere is refused with 409 and the right offset.
    """
    _check_request(request, name)
    uploads, owner, wanted = resources.uploads, resources.owner, digest_of(repr_digest)
    if wanted is not None and upload_offset == 0:
        _check_free(resources, name, wanted)
    try:
        with uploads.resuming(owner, name, offset=upload_offset, sha256=wanted) as arrived:
            limit = resources.settings.max_upload_bytes
            await _receive(request, arrived, limit=limit)
            await to_thread.run_sync(arrived.close)
            if upload_complete == "?0":
                return Response(status_code=204, headers={"Upload-Offset": str(arrived.bytes), "Upload-Complete": "?0"})
            if wanted is not None and wanted != await to_thread.run_sync(lambda: arrived.sha256):
                uploads.finish_partial(owner, name)
                raise ProblemError(DIGEST_MISMATCH, "the SHA-256 of the file differs from the one in Repr-Digest")
            try:
                upload, new = await _inspected_and_kept(resources, arrived, name)
            except (UploadError, UploadExistsError):
                uploads.finish_partial(owner, name)
                raise
            uploads.finish_partial(owner, name)
    except UploadOffsetError as error:
        headers = {"Upload-Offset": str(error.offset), "Upload-Complete": "?0"}
        raise ProblemError(TABLE[UploadOffsetError], error.message, headers=headers) from None
    return _shown(response, upload, new=new)


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
    response_model=UploadView,
    responses={204: {"description": "The file arrives in parts and is not complete."}},
)
def get_upload(name: UploadName, resources: CallerResources, response: Response) -> Response | UploadView:
    """Return the results of the inspection of a file, and when the file will be removed.

    Of a file that arrives in parts, `Upload-Offset` says how many bytes have arrived, and `Repr-Digest` of which file.
    """
    arriving = resources.uploads.partial(resources.owner, name)
    if arriving is not None:
        limit = resources.settings.max_upload_bytes
        headers = {"Upload-Offset": str(arriving.bytes), "Upload-Complete": "?0", "Upload-Limit": f"max-size={limit}"}
        if arriving.sha256 is not None:
            headers["Repr-Digest"] = f"sha-256=:{base64.b64encode(bytes.fromhex(arriving.sha256)).decode()}:"
        return Response(status_code=204, headers=headers)
    upload = resources.uploads.get(resources.owner, name)
    response.headers.update({"Upload-Offset": str(upload.bytes), "Upload-Complete": "?1"})
    return UploadView.of(upload)


@router.delete(
    "/{name}",
    operation_id="deleteUpload",
    response_description="The upload is removed.",
    summary="Remove an upload",
    status_code=204,
)
def delete_upload(name: UploadName, resources: CallerResources) -> Response:
    """Remove an upload, or what has arrived of it in parts. A model that was made from it stays."""
    resources.uploads.remove(resources.owner, name)
    return Response(status_code=204)


def _check_request(request: Request, name: str) -> None:
    """Refuse a name that uploads cannot have, and a body that is coded."""
    if not NAME.fullmatch(name):
        detail = f"a name has at most 100 letters, digits, - and _, and one of the endings {', '.join(KINDS)}"
        raise ProblemError(UNSUPPORTED, detail)
    _check_coding(request)


def _check_coding(request: Request) -> None:
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise ProblemError(UNSUPPORTED, "send the file without Content-Encoding")


def _check_free(resources: CallerResources, name: str, sha256: str) -> None:
    """Refuse a file whose name stands for another one before it is sent."""
    try:
        kept = resources.uploads.get(resources.owner, name)
    except UploadNotFoundError:
        return
    if kept.sha256 != sha256:
        raise UploadExistsError(f"there is another upload called {name}; remove it or use another name")


async def _inspected_and_kept(resources: CallerResources, arrived: IncomingUpload, name: str) -> tuple[Upload, bool]:
    """Inspect a file that has arrived, and keep it; return the upload and whether it is new."""
    kind = kind_of(name)
    facts = await to_thread.run_sync(arrived.inspect, kind, limiter=resources.inspections)
    keep = partial(resources.uploads.keep, resources.owner, arrived, name=name, kind=kind, facts=facts)
    return await to_thread.run_sync(keep)


def _shown(response: Response, upload: Upload, *, new: bool) -> UploadView:
    response.status_code = 201 if new else 200
    view = UploadView.of(upload)
    response.headers["Location"] = view.href
    return view


async def _receive(request: Request, arrived: IncomingUpload, *, limit: int | None = None) -> None:
    """Write a body to disk as it arrives; refuse a client that stops sending, and a file over ``limit`` bytes.

    What has arrived is on disk also if the client stops or leaves.
    """
    waiting = bytearray()
    parts = aiter(request.stream())
    try:
        while (part := await asyncio.wait_for(anext(parts, None), SILENCE_MAX_S)) is not None:
            if limit is not None and arrived.bytes + len(waiting) + len(part) > limit:
                detail = f"a file may have at most {limit} bytes"
                raise ProblemError(BODY_TOO_LONG, detail, headers={"Connection": "close"})
            waiting += part
            if len(waiting) >= WRITE_BYTES:
                await to_thread.run_sync(arrived.write, bytes(waiting))
                waiting.clear()
    except TimeoutError:
        raise ProblemError(
            TOO_SLOW, f"nothing arrived for {SILENCE_MAX_S:g} seconds", headers={"Connection": "close"}
        ) from None
    finally:  # not in a thread: the request may have been canceled
        arrived.write(bytes(waiting))


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
