"""Time-limited signed links: made by a job's owner, followed without a key."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from app.middleware.strict_bodies import StrictRoute
from app.routes.files import (
    BINARY,
    WHOLE_ARCHIVE,
    WHOLE_FILE,
    ZIP,
    FileName,
    IfNoneMatch,
    IfRange,
    Range,
    send_archive,
    send_file,
)
from app.routes.jobs import JobId
from app.schemas import LinkRequest, LinkView
from app.services.links import make_link, open_link
from app.services.resources import CallerResources, SharedResources
from model.formats import OTHER

router = APIRouter(tags=["links"], route_class=StrictRoute)

Expires = Annotated[int, Query(ge=0, le=2**40, description="When the link expires, in seconds since 1970.")]
Signature = Annotated[str, Query(pattern=r"^[A-Za-z0-9_-]{43}$", description="Made by the service.")]
PART: dict[int | str, dict[str, Any]] = {206: {"description": "The part named by `Range`.", "content": {OTHER: BINARY}}}
PART_OF_ARCHIVE: dict[int | str, dict[str, Any]] = {
    206: {"description": "The part named by `Range`.", "content": {OTHER: BINARY, ZIP: BINARY}}
}


@router.post(
    "/v1/jobs/{id}/links",
    operation_id="createLink",
    summary="Make a signed link to a file or to the archive",
    status_code=201,
    response_description="The link.",
)
def create_link(job_id: JobId, wanted: LinkRequest, resources: CallerResources) -> LinkView:
    """Return an address that gives access to one file of the job, or its archive, without a key until it expires.

    Removing the job, or revoking the key that owns it, ends the link. The operator enables links by setting
    CYTOSYNTH_LINK_KEY.
    """
    href, expires_at = make_link(resources, job_id, file=wanted.file, seconds=wanted.seconds)
    return LinkView(href=href, file=wanted.file, expires_at=expires_at)


@router.get(
    "/v1/links/{id}/archive",
    operation_id="getLinkedArchive",
    summary="Download all files of a job by a signed link",
    response_class=Response,
    responses=WHOLE_ARCHIVE | PART_OF_ARCHIVE,
)
@router.head("/v1/links/{id}/archive", include_in_schema=False, response_class=Response)
def get_linked_archive(
    job_id: JobId,
    expires: Expires,
    signature: Signature,
    resources: SharedResources,
    request: Request,
    if_none_match: IfNoneMatch = None,
    wanted: Range = None,
    if_range: IfRange = None,
) -> Response:
    """Download the archive that a link was made for; no key is needed."""
    owned = open_link(resources, job_id, file=None, expires=expires, signed=signature)
    return send_archive(
        owned, job_id, request, cell=None, if_none_match=if_none_match, wanted=wanted, if_range=if_range
    )


@router.get(
    "/v1/links/{id}/files/{name:path}",
    operation_id="getLinkedFile",
    summary="Download one file of a job by a signed link",
    response_class=Response,
    responses=WHOLE_FILE | PART,
)
@router.head("/v1/links/{id}/files/{name:path}", include_in_schema=False, response_class=Response)
def get_linked_file(
    job_id: JobId,
    name: FileName,
    expires: Expires,
    signature: Signature,
    resources: SharedResources,
    request: Request,
    if_none_match: IfNoneMatch = None,
    _range: Range = None,
    _if_range: IfRange = None,
) -> Response:
    """Download the file that a link was made for; no key is needed."""
    owned = open_link(resources, job_id, file=name, expires=expires, signed=signature)
    return send_file(owned, job_id, name, request, if_none_match=if_none_match)
