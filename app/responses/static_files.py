"""Static files whose 304 answers tell the compression middleware what the 200 would be."""

from __future__ import annotations

import os
from mimetypes import guess_type

from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from app.responses.byte_ranges import not_modified


class RevalidatedFiles(StaticFiles):
    """The framework's static files, with the type and length of a file in its 304; see :func:`not_modified`."""

    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        """Answer a request for a file that exists."""
        response = super().file_response(full_path, stat_result, scope, status_code)
        if response.status_code != 304:
            return response
        kind = guess_type(str(full_path))[0] or "application/octet-stream"
        return not_modified(response.headers, media_type=kind, length=stat_result.st_size)
