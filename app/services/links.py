"""Signed links: addresses that give access to one file, or the archive, of one job without a key for a limited time.

The signature is an HMAC-SHA256 over job, file and time of expiry, under a key of the operator; nothing is stored.

Promises: a link serves only the file or archive it was made for, and only until it expires, its job is removed, the API
key of the job's owner is revoked, or the operator changes the key. Comparisons take the same time wherever two
signatures differ. A wrong signature is refused before the broker or the disk is asked.
Does not promise: that a link stays secret. A receiver can pass it on.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from dataclasses import replace
from datetime import UTC, datetime
from urllib.parse import quote, urlencode

from app.middleware.authentication import OPEN_OWNER
from app.problems.handlers import ProblemError
from app.problems.types import LINK_INVALID, LINKS_OFF
from app.services.job_files import finished_job, reading_files
from app.services.resources import Resources
from worker.api_keys import Keys
from worker.errors import JobNotFoundError, KeysError

ARCHIVE = ""  # stands for the archive where a file is named
VERSION = "cytosynth-link/1"


def make_link(resources: Resources, job_id: str, *, file: str | None, seconds: int) -> tuple[str, datetime]:
    """Return the address of a new link to a file of the caller's job (None: to its archive), and when it expires.

    Raises
    ------
    ProblemError
        403 if the operator has set no key.
    JobNotFoundError, JobNotFinishedError, JobFailedError, JobCanceledError, ArtifactNotFoundError
        If the job has no such file.
    """
    key = resources.settings.link_key
    if key is None:
        raise ProblemError(LINKS_OFF, LINKS_OFF.help)
    finished_job(resources, job_id)
    if file is not None:
        with reading_files(resources, job_id):
            resources.artifacts.path(job_id, file)
    expires = int(time.time()) + seconds
    query = urlencode({"expires": expires, "signature": signature(key, job_id, file or ARCHIVE, expires)})
    place = "archive" if file is None else f"files/{quote(file)}"
    return f"/v1/links/{job_id}/{place}?{query}", datetime.fromtimestamp(expires, UTC)


def open_link(resources: Resources, job_id: str, *, file: str | None, expires: int, signed: str) -> Resources:
    """Return the resources of the owner of a job, if the link is valid.

    Raises
    ------
    ProblemError
        403 if the link is not valid, for any reason.
    """
    key = resources.settings.link_key
    good = key is not None and hmac.compare_digest(signature(key, job_id, file or ARCHIVE, expires), signed)
    if not good or expires <= time.time():
        raise ProblemError(LINK_INVALID, LINK_INVALID.help)
    try:
        owner = resources.records.get(job_id).owner
    except JobNotFoundError:
        raise ProblemError(LINK_INVALID, LINK_INVALID.help) from None
    if not _may_still_read(Keys(resources.settings.data_dir), owner):
        raise ProblemError(LINK_INVALID, LINK_INVALID.help)
    return replace(resources, owner=owner)


def signature(key: str, job_id: str, file: str, expires: int) -> str:
    """Return the signature of a link, 43 characters that need no quoting in an address."""
    text = json.dumps([VERSION, job_id, file, expires])
    digest = hmac.digest(key.encode("utf-8"), text.encode("ascii"), hashlib.sha256)
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")


def _may_still_read(keys: Keys, owner: str) -> bool:
    """Whether the owner's own requests would be served: its key is active, or there never was a key."""
    try:
        return not keys.required() if owner == OPEN_OWNER else any(key.id == owner and key.active for key in keys.all())
    except KeysError:
        return False
