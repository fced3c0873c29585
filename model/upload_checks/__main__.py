"""``python -m model.upload_checks KIND ADDRESS_SPACE CPU_SECONDS``: inspect the file on standard input, print JSON.

Exit code 0 and ``{"facts": …}``, or ``{"refused": "why"}``. Any other end (a signal, another code) means that the file
could not be read within the limits. The limits apply before the first byte is read.
"""

from __future__ import annotations

import json
import mmap
import os
import resource
import sys
from collections.abc import Callable
from typing import Any

from model.errors import UploadError
from model.upload_checks.label_tiff import ALLOWED as LABELS_ALLOWED
from model.upload_checks.label_tiff import read_labels
from model.upload_checks.surface_mesh import ALLOWED as SURFACES_ALLOWED
from model.upload_checks.surface_mesh import read_obj, read_ply, read_stl
from model.upload_checks.weights import ALLOWED as WEIGHTS_ALLOWED
from model.upload_checks.weights import read_weights

READERS: dict[str, tuple[Callable[[memoryview], dict[str, Any]], str]] = {
    "tiff": (lambda data: read_labels(data, after_import=_open_nothing_more), LABELS_ALLOWED),
    "stl": (read_stl, SURFACES_ALLOWED),
    "obj": (read_obj, SURFACES_ALLOWED),
    "ply": (read_ply, SURFACES_ALLOWED),
    "safetensors": (read_weights, WEIGHTS_ALLOWED),
}


def main() -> None:
    """Inspect one file."""
    kind, address_space, cpu_s = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    for what, limit in (
        (resource.RLIMIT_AS, address_space),
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),  # it writes nothing
        (resource.RLIMIT_NOFILE, 8),  # and opens no more than imports need at once
        (resource.RLIMIT_NPROC, 0),  # and starts nobody (root is exempt from this one)
    ):
        _lower(what, limit)
    sys.stdout.write(json.dumps(_inspected(kind)))


def _inspected(kind: str) -> dict[str, Any]:
    read, allowed = READERS[kind]
    try:
        if os.fstat(0).st_size == 0:
            return {"refused": f"the file is empty. Allowed: {allowed}"}
        # Never closed: a parser that failed may still hold parts of it, and the process ends in a moment.
        return {"facts": read(memoryview(mmap.mmap(0, 0, access=mmap.ACCESS_READ)))}
    except UploadError as error:
        return {"refused": f"{error.message}. Allowed: {allowed}"}
    except (MemoryError, OSError):  # OSError: the file itself does not fit
        return {"refused": f"the file takes more memory to read than is allowed. Allowed: {allowed}"}
    except Exception as error:  # noqa: BLE001 - a parser may raise anything at what means harm; all of it is a refusal
        return {"refused": f"the file is damaged or is no {kind} ({type(error).__name__}). Allowed: {allowed}"}


def _open_nothing_more() -> None:
    """Allow no new file and no socket: standard streams and what is open stay."""
    _lower(resource.RLIMIT_NOFILE, 3)


def _lower(what: int, limit: int) -> None:
    hard = resource.getrlimit(what)[1]
    value = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    try:
        resource.setrlimit(what, (value, value))
    except (ValueError, OSError):  # macOS knows some of these by name only; the parent's clock holds everywhere
        return


if __name__ == "__main__":
    main()
