"""Inspect an uploaded file in a sandboxed child process: little memory, little time, and no other open file.

The child (``python -m model.upload_checks``) runs in isolated mode and imports the standard library and its own
readers; for a TIFF it may also import the packages beside imagecodecs, last on its path, for codecs that the standard
library lacks, for signed distances NumPy, h5py and imagecodecs. No ``.pth`` file is read. It gets the file as its
standard input, and neither the environment of the service nor a path. It can write to one file only, which is open when
it starts: the plain copies, all that the rest of the service reads.

Promises: returns shortly after ``seconds`` at the latest. Even if the file makes the child fail, the result is facts or
an ``UploadError`` that says what is allowed.
Does not promise: that the content of the file makes sense.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from model.errors import UploadError

TREE = Path(__file__).parents[2]
# The tree comes last on the path, so that no module in it can replace one of the standard library.
START = (
    "import runpy, sys; sys.path += filter(None, (sys.argv.pop(1), sys.argv.pop(1))); "
    "runpy.run_module('model.upload_checks', run_name='__main__')"
)
ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1"}  # the child may start no threads
KINDS = {
    ".tif": "tiff", ".tiff": "tiff", ".stl": "stl", ".obj": "obj", ".ply": "ply", ".safetensors": "safetensors",
    ".npy": "npy", ".npz": "npz", ".h5": "hdf5", ".hdf5": "hdf5",
    ".zip": "zip", ".tar": "tar", ".tgz": "tgz", ".tar.gz": "tgz", ".zarr.zip": "zarr",
}  # fmt: skip
ARCHIVES = frozenset({"zip", "tar", "tgz"})
DISTANCES = frozenset({"npy", "npz", "hdf5", "zarr"})  # sampled signed distances
TRACKS = ("man_track.txt", "res_track.txt")
PLAIN = {
    "tiff": ".tif",
    "frame": ".tif",
    "stl": ".ply",
    "obj": ".ply",
    "ply": ".ply",
    "tracks": ".txt",
    "npy": ".npy",
    "npz": ".npy",
    "hdf5": ".npy",
    "zarr": ".npy",
}  # endings of plain copies
ADDRESS_SPACE = 2 * 2**30
# The readers bound their work by counts, which allow up to 8 s of one core of a current machine. The time limit is much
# higher, so that a slow or busy machine refuses nothing that is allowed.
SECONDS = 60
ARCHIVE_SECONDS = 180  # an archive may hold some times as much as a file
ANSWER_MAX = 2**21  # bytes: 65,535 labels of 19 digits and more
# What a path in an archive may be. The child has checked that, but what it says is not trusted.
PATH = re.compile(r"(?!\.)[^/\\:\x00-\x1f]{1,100}(?:/(?!\.)[^/\\:\x00-\x1f]{1,100}){0,7}")


@dataclass(frozen=True)
class Part:
    """A plain copy within what a child has written: its path, and where it lies."""

    path: str
    offset: int
    bytes: int


def kind_of(name: str) -> str:
    """Return the kind of a file by the ending of its name; empty if it has none that is known."""
    return next((kind for ending, kind in reversed(KINDS.items()) if name.endswith(ending)), "")


def kind_of_member(path: str) -> str:
    """Return the kind of a file of a sequence by its name; empty if it cannot be one."""
    if path.rpartition("/")[2] in TRACKS:
        return "tracks"
    kind = kind_of(path)
    return "frame" if kind == "tiff" else kind if kind in ("stl", "obj", "ply") else ""


def inspect_and_copy(
    path: Path, kind: str, copy: Path, *, numbers: dict[int, int] | None = None
) -> tuple[dict[str, Any], tuple[Part, ...]]:
    """Return what a file holds, and the plain copies that were written to ``copy``, which must not exist.

    ``numbers`` are those of :func:`inspect_file`.

    Raises
    ------
    UploadError
        As :func:`inspect_file`.
    """
    facts = inspect_file(path, kind, copy=copy, numbers=numbers)
    stored = facts.pop("stored", None)
    if stored is None:
        return facts, (Part(f"content{PLAIN[kind]}", 0, copy.stat().st_size),)
    if not all(PATH.fullmatch(part["path"]) for part in stored):
        raise _too_much(kind)
    return facts, tuple(Part(part["path"], part["offset"], part["bytes"]) for part in stored)


def inspect_file(
    path: Path,
    kind: str,
    *,
    copy: Path | None = None,
    numbers: dict[int, int] | None = None,
    address_space: int = ADDRESS_SPACE,
    seconds: int | None = None,
) -> dict[str, Any]:
    """Return what a file of ``kind`` (one of :data:`KINDS`) holds.

    Parameters
    ----------
    copy
        Gets the plain copies; it must not exist.
    numbers
        The number that each label of a file of a sequence (``frame`` or ``tracks``) gets in its copy.
    address_space
        Bytes of memory the child may map, the file included.
    seconds
        The limit of processor time, and of wall time.

    Raises
    ------
    UploadError
        If it is damaged, of another kind, or more than this service reads; the message says what is allowed.
    """
    if seconds is None:
        seconds = ARCHIVE_SECONDS if kind in ARCHIVES else SECONDS
    command = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        START,
        str(TREE),
        _packages(kind),
        kind,
        str(address_space),
        str(seconds),
    ]
    with path.open("rb") as file, ExitStack() as stack:
        passed = [stack.enter_context(copy.open("xb")).fileno()] if copy is not None else []
        if numbers is not None:
            given = stack.enter_context(TemporaryFile())
            given.write(json.dumps(numbers).encode())
            given.seek(0)
            passed.append(given.fileno())
        try:
            done = subprocess.run(
                [*command, *map(str, passed)], stdin=file, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                env=ENVIRONMENT, timeout=seconds + 0.5, check=False, close_fds=True, pass_fds=passed,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise _too_much(kind) from None
    if done.returncode != 0 or len(done.stdout) > ANSWER_MAX:
        raise _too_much(kind)
    answer = json.loads(done.stdout)
    if "refused" in answer:
        raise UploadError(answer["refused"])
    facts: dict[str, Any] = answer["facts"]
    return facts


def _packages(kind: str) -> str:
    """Return the folder of packages that a reader may need; empty if it needs none or they are not installed."""
    wanted = "numpy" if kind in DISTANCES else "imagecodecs" if kind in ("tiff", "frame", *ARCHIVES) else ""
    found = find_spec(wanted) if wanted else None
    return str(Path(found.origin).parents[1]) if found is not None and found.origin else ""


def _too_much(kind: str) -> UploadError:
    return UploadError(
        f"the file takes more memory or time to read than a {kind} may take here; send a smaller or plainer one"
    )
