"""What the service writes: the media type of each kind of file, for manifests and for HTTP."""

from __future__ import annotations

from pathlib import PurePosixPath

OTHER = "application/octet-stream"
# Whatever a manifest says, nothing is served as a page or a script. PLY has no registered type.
MEDIA_TYPES = {
    ".stl": "model/stl",
    ".obj": "model/obj",
    ".ply": "application/ply",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".png": "image/png",
    ".json": "application/json",
    ".txt": "text/plain",
}


def media_type(name: str) -> str:
    """Return the media type of a file by its ending, without regard to case."""
    return MEDIA_TYPES.get(PurePosixPath(name).suffix.lower(), OTHER)
