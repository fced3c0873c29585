"""What a manifest says about the files of a job."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from cytosynth.errors import DamagedFileError


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """One file of a job.

    Parameters
    ----------
    name
        Relative to the folder of the result, with slashes, such as ``cell_0000/labels.tif``.
    bytes
        Its size.
    sha256
        Its checksum, 64 hexadecimal digits.
    media_type
        Its type.
    href
        Where it is downloaded.
    """

    name: str
    bytes: int
    sha256: str
    media_type: str
    href: str


def files_of(manifest: dict[str, Any], *, below: str) -> list[RemoteFile]:
    """Return the files of a manifest.

    Parameters
    ----------
    manifest
        The document.
    below
        Address of the list of files; each file is below it.

    Raises
    ------
    DamagedFileError
        If a name leads outside the folder of the result.
    """
    found = []
    for entry in manifest["files"]:
        name = PurePosixPath(entry["name"])
        if name.is_absolute() or not name.parts or ".." in name.parts or "\\" in entry["name"]:
            raise DamagedFileError(f"the service names a file outside the folder: {entry['name']!r}")
        found.append(
            RemoteFile(
                name=entry["name"],
                bytes=int(entry["bytes"]),
                sha256=entry["sha256"],
                media_type=entry["media_type"],
                href=f"{below}/{quote(entry['name'])}",
            )
        )
    return found
