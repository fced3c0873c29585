"""Looks into a file from outside in a child process that can do no harm: little memory, little time, nothing else open.

The child (``python -m model.upload_checks``) runs in isolated mode and imports the standard library and its own
readers; for a TIFF it may also import the packages beside imagecodecs, last on its path, for codecs that the standard
library lacks. No ``.pth`` file is read. It gets the file as its standard input, no environment of ours and no path.

Promises: returns within ``seconds`` and a moment; whatever the file does to the child, the answer is facts or an
``UploadError`` that says what is allowed.
Does not promise: anything about what the file means.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from model.errors import UploadError

TREE = Path(__file__).parents[2]
# The tree comes last on the path, so that nothing in it can stand in for a module of the standard library.
START = (
    "import runpy, sys; sys.path += filter(None, (sys.argv.pop(1), sys.argv.pop(1))); "
    "runpy.run_module('model.upload_checks', run_name='__main__')"
)
ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1"}  # the child may start no threads
KINDS = {
    ".tif": "tiff", ".tiff": "tiff", ".stl": "stl", ".obj": "obj", ".ply": "ply", ".safetensors": "safetensors",
}  # fmt: skip
ADDRESS_SPACE = 2 * 2**30
# The readers bound their work by counts. What these allow takes up to 8 s of one core of a present machine; time is the
# last resort, far above, so that a slow or busy machine refuses nothing that is allowed.
SECONDS = 60
ANSWER_MAX = 65_536


def inspect_file(
    path: Path, kind: str, *, address_space: int = ADDRESS_SPACE, seconds: int = SECONDS
) -> dict[str, Any]:
    """Return what a file of ``kind`` (one of :data:`KINDS`) holds.

    Parameters
    ----------
    address_space
        Bytes of memory the child may map, the file included.
    seconds
        Of computing, and on the clock.

    Raises
    ------
    UploadError
        If it is damaged, of another kind, or more than this service reads; the message says what is allowed.
    """
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
    with path.open("rb") as file:
        try:
            done = subprocess.run(
                command, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=ENVIRONMENT,
                timeout=seconds + 0.5,
                check=False, close_fds=True,
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
    found = find_spec("imagecodecs") if kind == "tiff" else None
    return str(Path(found.origin).parents[1]) if found is not None and found.origin else ""


def _too_much(kind: str) -> UploadError:
    return UploadError(
        f"the file takes more memory or time to read than a {kind} may take here; send a smaller or plainer one"
    )
