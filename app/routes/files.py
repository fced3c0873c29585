"""The results of a job: the manifest, single files, and all files in one archive."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Annotated, Any
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi import Path as PathParameter

from app.middleware.strict_bodies import StrictRoute
from app.responses.byte_ranges import RangedFile, matches, not_modified, ranged_stream
from app.responses.negotiation import preferred_type
from app.responses.zip_stream import archive
from app.routes.jobs import JobId
from app.schemas import FileList, FileView
from app.services import job_files
from app.services.job_files import MANIFEST, PAGE, archive_entries, reading_files, report_damage
from app.services.resources import CallerResources, Resources
from model.formats import MEDIA_TYPES, OTHER, media_type
from model.output.contents import Position
from model.spec import COUNT_MAX, INDEX_MAX, LISTED_MAX
from worker.storage.objects import ObjectFile

router = APIRouter(prefix="/v1/jobs/{id}", tags=["files"], route_class=StrictRoute)

ZIP = "application/zip"
CACHING = {"Cache-Control": "private, no-cache"}  # caches must revalidate, so that a removed job is noticed

FileName = Annotated[
    str,
    PathParameter(
        max_length=255,
        description="Name of the file, as in the manifest.",
        examples=["cell_0000/frame_0000.stl"],
        alias="name",
    ),
]
IfNoneMatch = Annotated[
    str | None,
    Header(
        alias="If-None-Match",
        max_length=4096,
        description="ETag of an earlier answer; if it is still current, the answer is 304.",
    ),
]
Range = Annotated[
    str | None, Header(alias="Range", description="One range of bytes. If several are given, the whole is sent.")
]
IfRange = Annotated[
    str | None,
    Header(
        alias="If-Range",
        description="ETag of the part received so far; if it is no longer current, the whole is sent.",
    ),
]
BINARY: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
NOT_MODIFIED: dict[int | str, dict[str, Any]] = {304: {"description": "The ETag in If-None-Match is still current."}}
WHOLE_FILE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The file. `ETag` is its SHA-256, as in the manifest.",
        # Generated clients decode by the first media type.
        "content": dict.fromkeys((OTHER, *sorted(set(MEDIA_TYPES.values()))), BINARY),
    },
    307: {"description": "The file is in an object store, at the address in `Location`, which is valid for a while."},
    **NOT_MODIFIED,
}
WHOLE_MANIFEST: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The manifest: spec, model, latent codes, and every file with its SHA-256.",
        "content": {"application/json": {"schema": {"type": "object", "additionalProperties": True}}},
    },
    **NOT_MODIFIED,
}
WHOLE_ARCHIVE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A zip archive, the same bytes each time. Its type is `application/octet-stream` if `Accept` "
        "prefers that.",
        # Some generated clients know no other type of binary content, and decode by the first media type.
        "content": {OTHER: BINARY, ZIP: BINARY},
    },
    **NOT_MODIFIED,
}


@router.get(
    "/manifest", operation_id="getManifest", summary="Show the manifest",
    response_class=Response, responses=WHOLE_MANIFEST,
)  # fmt: skip
@router.head("/manifest", include_in_schema=False, response_class=Response)
def get_manifest(job_id: JobId, resources: CallerResources, if_none_match: IfNoneMatch = None) -> Response:
    """Return `manifest.json`: the spec, the model, and every file with its size and SHA-256."""
    with reading_files(resources, job_id):
        content = resources.artifacts.path(job_id, MANIFEST).read_bytes()
    headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', **CACHING}
    if matches(if_none_match, headers["ETag"]):
        return not_modified(headers, media_type="application/json", length=len(content))
    return Response(content, media_type="application/json", headers=headers)


@router.get(
    "/files",
    operation_id="listFiles",
    response_description="The files, or a page of them.",
    summary="List the files of a job",
)
def list_files(
    job_id: JobId,
    resources: CallerResources,
    response: Response,
    cursor: Annotated[
        str | None,
        Query(pattern=r"^[0-9]{1,9}\.[0-9]{1,12}$", description="Taken from `next` of the previous page."),
    ] = None,
    limit: Annotated[
        int | None,
        Query(
            ge=1,
            le=PAGE,
            description="Files per page. If it is left out, all files are listed, or, of a job of more than "
            f"{LISTED_MAX} sequences, {PAGE} per page.",
        ),
    ] = None,
) -> FileList:
    """List the files of the job, each with its address. `next`, also in the `Link` header, is that of the next page.

    A job that is divided into shards shows the files of finished shards while it runs. A list of all files is ordered
    by name; pages follow the manifest: shard by shard, each with its own manifest first if it has one.
    """
    start = Position() if cursor is None else Position(*map(int, cursor.split(".")))
    page = job_files.list_files(resources, job_id, start=start, limit=limit)
    here = f"/v1/jobs/{job_id}/files"
    following = None
    if page.following is not None:
        query = {"cursor": f"{page.following.shard}.{page.following.file}", "limit": limit}
        following = f"{here}?" + urlencode({name: value for name, value in query.items() if value is not None})
        response.headers["Link"] = f'<{following}>; rel="next"'
    return FileList(
        files=[
            FileView(
                name=entry["name"],
                bytes=entry["bytes"],
                sha256=entry["sha256"],
                media_type=media_type(entry["name"]),
                href=f"{here}/{quote(entry['name'])}",
            )
            for entry in page.entries
        ],
        next=following,
    )


@router.get(
    "/files/{name:path}", operation_id="getFile", summary="Download one file",
    response_class=Response,
    responses=WHOLE_FILE
    | {206: {"description": "The part named by `Range`.", "content": {"application/octet-stream": BINARY}}},
)  # fmt: skip
@router.head("/files/{name:path}", include_in_schema=False, response_class=Response)
def get_file(
    job_id: JobId,
    name: FileName,
    resources: CallerResources,
    request: Request,
    if_none_match: IfNoneMatch = None,
    _range: Range = None,
    _if_range: IfRange = None,
) -> Response:
    """Download one file of the manifest. Interrupted downloads can be resumed with `Range` and `If-Range`."""
    return send_file(resources, job_id, name, request, if_none_match=if_none_match)


def send_file(resources: Resources, job_id: str, name: str, request: Request, *, if_none_match: str | None) -> Response:
    """Answer with one file of a job; raises as :func:`app.services.job_files.find_file`."""
    valid_s = resources.settings.store_redirect_seconds if resources.settings.store is not None else 0.0
    path, sha256 = job_files.find_file(resources, job_id, name, unread=valid_s > 0)
    if isinstance(path, ObjectFile):
        return _send_object(path, name, sha256, request, if_none_match=if_none_match, valid_s=valid_s)
    with reading_files(resources, job_id) if not path.exists() else nullcontext():  # says why it is missing
        facts = path.stat()
    headers = {"ETag": f'"{sha256}"', **CACHING}
    if matches(if_none_match, headers["ETag"]):
        return not_modified(headers, media_type=media_type(name), length=facts.st_size)
    filename = name.replace("/", "_")
    return RangedFile(path, media_type=media_type(name), filename=filename, headers=headers, stat_result=facts)


def _send_object(
    file: ObjectFile, name: str, sha256: str, request: Request, *, if_none_match: str | None, valid_s: float
) -> Response:
    """Answer with a file of the object store: its bytes, or an address from which the client may fetch them."""
    kind, size = media_type(name), file.stat().st_size
    headers = {"ETag": f'"{sha256}"', **CACHING}
    if matches(if_none_match, headers["ETag"]):
        return not_modified(headers, media_type=kind, length=size)
    if valid_s > 0 and request.method == "GET" and name != MANIFEST:
        moved = {"Location": file.url(seconds=valid_s), "Cache-Control": "private, no-store"}
        return Response(status_code=307, headers=moved)
    filename = name.replace("/", "_")
    headers["Content-Disposition"] = f'attachment; filename="{filename}"'
    if request.method == "HEAD":
        return Response(media_type=kind, headers=headers | {"Accept-Ranges": "bytes", "Content-Length": str(size)})
    wanted = request.headers.get("range") if request.headers.get("if-range") in (None, headers["ETag"]) else None

    def content(first: int, last: int) -> Iterator[bytes]:
        return file.pieces(first, last + 1)

    return ranged_stream(content, size, wanted=wanted, media_type=kind, headers=headers, name="file")


@router.get(
    "/archive", operation_id="getArchive", summary="Download all files as one zip",
    response_class=Response,
    responses=WHOLE_ARCHIVE
    | {206: {"description": "The part named by `Range`.", "content": {OTHER: BINARY, ZIP: BINARY}}},
)  # fmt: skip
@router.head("/archive", include_in_schema=False, response_class=Response)
def get_archive(
    job_id: JobId,
    resources: CallerResources,
    request: Request,
    cell: Annotated[
        int | None,
        Query(
            ge=0,
            lt=INDEX_MAX + COUNT_MAX,
            description="Number of a cell, as in the name of its folder: only its files.",
        ),
    ] = None,
    if_none_match: IfNoneMatch = None,
    wanted: Range = None,
    if_range: IfRange = None,
) -> Response:
    """Download the manifest and all files, or the files of one cell.

    The archive is built while it is sent, and its length is known in advance. Interrupted downloads can be resumed with
    `Range` and `If-Range`.
    """
    return send_archive(
        resources, job_id, request, cell=cell, if_none_match=if_none_match, wanted=wanted, if_range=if_range
    )


def send_archive(
    resources: Resources,
    job_id: str,
    request: Request,
    *,
    cell: int | None,
    if_none_match: str | None,
    wanted: str | None,
    if_range: str | None,
) -> Response:
    """Answer with the archive of a job, or of one of its cells; raises as :func:`archive_entries`."""
    with reading_files(resources, job_id) as job:
        entries, size, sha256 = archive_entries(resources, job_id, cell=cell)
    kind = preferred_type(request.headers.get("accept"), (ZIP, OTHER)) or ZIP
    part = "" if cell is None else f"-cell_{cell:04d}"
    headers = {
        "ETag": f'"{sha256}"',
        "Content-Disposition": f'attachment; filename="cytosynth-{job.model_id}-{job.digest[:12]}{part}.zip"',
        "Vary": "Accept",
        **CACHING,
    }
    if matches(if_none_match, headers["ETag"]):
        return not_modified(headers, media_type=kind, length=size)
    if request.method == "HEAD":
        return Response(media_type=kind, headers=headers | {"Accept-Ranges": "bytes", "Content-Length": str(size)})

    def content(first: int, last: int) -> Iterator[bytes]:
        return report_damage(resources, job_id, archive(entries, first=first, last=last))

    wanted = wanted if if_range in (None, headers["ETag"]) else None
    return ranged_stream(content, size, wanted=wanted, media_type=kind, headers=headers, name="archive")
