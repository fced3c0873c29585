"""The upload that the examples of the API documentation name: a small recording, shipped with the service.

It shows four learned cells of the shipped model ``celegans`` in eight frames, each with one label for life. A caller
who names it and has no upload of that name gets it, so that examples run on a fresh installation.

Promises: it is then an upload of the caller like any other: inspected, counted, listed, removed.
"""

from __future__ import annotations

from pathlib import Path

from app.services.resources import Resources
from worker.errors import UploadNotFoundError, UploadQuotaError
from worker.uploads.sandbox import kind_of
from worker.uploads.store import Upload

EXAMPLE_UPLOAD = "example-cells.tif"
EXAMPLE_FILE = Path(__file__).with_name(EXAMPLE_UPLOAD)


def find_upload(resources: Resources, name: str) -> Upload:
    """Return an upload of the caller; the shipped example is put there if it is named and not there.

    Raises
    ------
    UploadNotFoundError
        If there is no upload of that name.
    DiskFullError
        If there is no room for the example; where the caller's quota has none, it is not there.
    """
    try:
        return resources.uploads.get(resources.owner, name)
    except UploadNotFoundError:
        if name != EXAMPLE_UPLOAD:
            raise
    try:
        with resources.uploads.arriving(resources.owner) as arrived:
            arrived.write(EXAMPLE_FILE.read_bytes())
            arrived.close()
            kind = kind_of(name)
            facts = arrived.inspect(kind)
            upload, _ = resources.uploads.keep(resources.owner, arrived, name=name, kind=kind, facts=facts)
    except UploadQuotaError as error:
        raise UploadNotFoundError(f"there is no room for {name}: {error.message}") from None
    return upload
