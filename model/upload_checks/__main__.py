"""``python -m model.upload_checks KIND ADDRESS_SPACE CPU_SECONDS [COPY [NUMBERS]]``: inspect standard input.

``COPY`` is the number of an open file that gets a plain copy (:mod:`model.upload_checks.plain_copies`), ``NUMBERS``
that of one that holds, as JSON, the number that each label gets in the copy of a file of a sequence. The output is
JSON: ``{"facts": …}`` or ``{"refused": "why"}``, with exit code 0. Any other end (a signal, another code) means that
the file could not be read within the limits. The limits apply before the first byte is read.
"""

from __future__ import annotations

import json
import mmap
import os
import resource
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any, BinaryIO

from model.errors import UploadError
from model.upload_checks.file_set import ALLOWED as FILES_ALLOWED
from model.upload_checks.file_set import TRACKS_ALLOWED, copy_tracks, read_file_set
from model.upload_checks.label_tiff import ALLOWED as LABELS_ALLOWED
from model.upload_checks.label_tiff import read_frame_labels, read_labels
from model.upload_checks.limits import lower
from model.upload_checks.plain_copies import COPY_MAX, write_surface
from model.upload_checks.surface_mesh import ALLOWED as SURFACES_ALLOWED
from model.upload_checks.surface_mesh import surface_of
from model.upload_checks.weights import ALLOWED as WEIGHTS_ALLOWED
from model.upload_checks.weights import read_weights

Reader = Callable[[memoryview, "BinaryIO | None"], dict[str, Any]]
PartReader = Callable[[memoryview, "BinaryIO | None", "dict[int, int] | None"], dict[str, Any]]


def main() -> None:
    """Inspect one file."""
    kind, address_space, cpu_s = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    copy = os.fdopen(int(sys.argv[4]), "wb") if len(sys.argv) > 4 else None
    numbers = _numbers(int(sys.argv[5])) if len(sys.argv) > 5 else None
    for what, limit in (
        (resource.RLIMIT_AS, address_space),
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0 if copy is None else COPY_MAX),  # it writes nothing else
        (resource.RLIMIT_NOFILE, 8),  # and opens no more than imports need at once
        (resource.RLIMIT_NPROC, 0),  # and starts nobody (root is exempt from this one)
    ):
        lower(what, limit)
    sys.stdout.write(json.dumps(_inspected(kind, copy, numbers)))
    sys.stdout.flush()
    os._exit(0)  # what is left of a failed copy is not written


def _numbers(descriptor: int) -> dict[int, int]:
    """Read the number of each label, ascending by label; the service wrote it."""
    with os.fdopen(descriptor, "rb") as file:
        return dict(sorted((int(label), number) for label, number in json.load(file).items()))


def _inspected(kind: str, copy: BinaryIO | None, numbers: dict[int, int] | None) -> dict[str, Any]:
    allowed = _ALLOWED[kind]
    try:
        if os.fstat(0).st_size == 0:
            return {"refused": f"the file is empty. Allowed: {allowed}"}
        if kind in ARCHIVES:
            facts = read_file_set(0, kind, copy, after_import=_open_nothing_more)
        else:
            # Never closed: a parser that failed may still hold parts of it, and the process ends in a moment.
            data = memoryview(mmap.mmap(0, 0, access=mmap.ACCESS_READ))
            facts = PARTS[kind](data, copy, numbers) if kind in PARTS else READERS[kind](data, copy)
        if copy is not None:
            copy.flush()
    except UploadError as error:
        return {"refused": f"{error.message}. Allowed: {allowed}"}
    except (MemoryError, OSError):  # OSError: the file itself does not fit, or its copy
        return {"refused": f"the file takes more memory to read than is allowed. Allowed: {allowed}"}
    except Exception as error:  # noqa: BLE001 - a parser may raise anything at what means harm; all of it is a refusal
        return {"refused": f"the file is damaged or is no {kind} ({type(error).__name__}). Allowed: {allowed}"}
    return {"facts": facts}


def _read_tiff(data: memoryview, copy: BinaryIO | None) -> dict[str, Any]:
    return read_labels(data, copy=copy, after_import=_open_nothing_more)


def _read_frame(data: memoryview, copy: BinaryIO | None, numbers: dict[int, int] | None) -> dict[str, Any]:
    return read_frame_labels(data, copy=copy, numbers=numbers, after_import=_open_nothing_more)


def _read_surface(data: memoryview, copy: BinaryIO | None, *, ending: str) -> dict[str, Any]:
    surface = surface_of(data, ending)
    if copy is not None:
        write_surface(copy, surface.points, surface.faces, single=surface.single)
    return surface.facts


def _read_distances(data: memoryview, copy: BinaryIO | None, *, kind: str) -> dict[str, Any]:
    try:
        reader = import_module("model.upload_checks.distance_arrays")  # which needs NumPy
    except ImportError:
        raise UploadError("this installation reads no arrays of distances") from None
    facts: dict[str, Any] = reader.read_distances(data, kind, copy=copy, after_import=_open_nothing_more)
    return facts


def _read_weights(data: memoryview, _copy: BinaryIO | None) -> dict[str, Any]:
    return read_weights(data)


def _open_nothing_more() -> None:
    """Allow no new file and no socket: standard streams and what is open stay."""
    lower(resource.RLIMIT_NOFILE, 3)


ARCHIVES = ("zip", "tar", "tgz")
SURFACES = ("stl", "obj", "ply")
DISTANCES = ("npy", "npz", "hdf5", "zarr")
READERS: dict[str, Reader] = {
    "tiff": _read_tiff,
    **{ending: partial(_read_surface, ending=ending) for ending in SURFACES},
    **{kind: partial(_read_distances, kind=kind) for kind in DISTANCES},
    "safetensors": _read_weights,
}
# Of files of a sequence that is sent file by file, whose labels may get other numbers.
PARTS: dict[str, PartReader] = {"frame": _read_frame, "tracks": copy_tracks}
DISTANCES_ALLOWED = (
    "signed distances, negative inside, as floating point numbers: (t, x, y, z) or (x, y, z) in a .npy file or alone "
    "in a .npz, (z, x, y, t) in the data set sdf_vid of an HDF5 file, or (t, z, y, x) in a zip of a Zarr store of one "
    "array (.zarr.zip); 4 to 1024 samples a side, at most 2,000 frames and 134,217,728 samples in all"
)
_ALLOWED = {
    "tiff": LABELS_ALLOWED, "frame": LABELS_ALLOWED, "safetensors": WEIGHTS_ALLOWED, "tracks": TRACKS_ALLOWED,
    **dict.fromkeys(DISTANCES, DISTANCES_ALLOWED), **dict.fromkeys(SURFACES, SURFACES_ALLOWED),
    **dict.fromkeys(ARCHIVES, FILES_ALLOWED),
}  # fmt: skip


if __name__ == "__main__":
    main()
