"""Strict readers of sampled signed distances: NumPy's ``.npy`` and ``.npz``, HDF5 as ``sdf-hdf5`` writes it, and Zarr.

Promises: sizes are checked against the length of the file, and bounded, before anything is unpacked; one frame is in
memory at a time, of Zarr all as 32-bit numbers. Nothing is unpickled. HDF5 is read from the bytes of the file only:
external, virtual and linked data sets, and filters other than gzip, shuffle, LZF and checksums, are refused.
Does not promise: that the values are distances; readers of cells use their zero level set only.

Formats: NEP 1 (.npy 1.0 to 3.0); HDF5 file format specification 3.0; Wiesner et al. 2022 for ``sdf_vid``.
"""

from __future__ import annotations

import ast
import math
import os
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from model.errors import UploadError
from model.upload_checks.archives import read_archive
from model.upload_checks.zarr_store import read_zarr

SIDE_MIN, SIDE_MAX = 4, 1024  # samples along x, y and z
FRAMES_MAX = 2000
SAMPLES_MAX = 2**27  # of all frames
HEADER_MAX = 4096  # characters of the header of a .npy file
LARGEST = 1e30  # magnitude of a value
CHUNK_MAX = 2**26  # bytes of one chunk of HDF5, unpacked
CHUNKS_MAX = 2**20
DATASET = "sdf_vid"
_MAGIC = b"\x93NUMPY"
_TYPE = re.compile(r"[<>]f[248]")
_FILTERS = frozenset({1, 2, 3, 32000})  # gzip, shuffle, Fletcher's checksum, LZF
Frames = Iterator[NDArray[np.floating[Any]]]


@dataclass(frozen=True)
class _Array:
    """Frames (x, y, z) of one file, and what it says of them."""

    shape: tuple[int, int, int, int]
    frames: Frames
    spacing: tuple[float, float, float] | None = None


def read_distances(
    data: memoryview, kind: str, *, copy: BinaryIO | None = None, after_import: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Return what a file of signed distances holds.

    Parameters
    ----------
    kind
        ``npy``, ``npz``, ``hdf5`` or ``zarr``; of all but the first the file is standard input, too.
    copy
        Gets a plain copy: a .npy file of (t, x, y, z) float32.
    after_import
        Called once all is imported, before the file is looked at.

    Returns
    -------
        ``axes``, ``shape`` (T, X, Y, Z), ``smallest`` and ``largest`` value, ``touches_border``, and ``voxel`` ((x, y,
        z) in µm, null where the file does not say).

    Raises
    ------
    UploadError
        If it holds anything else.
    """
    if kind == "hdf5":
        found = _hdf5(after_import)
    elif kind == "zarr":
        array = read_zarr(0, check=_check, after_import=after_import)
        t, x, y, z = array.values.shape
        spacing = None if array.spacing is None else _lengths(array.spacing)
        found = _Array((t, x, y, z), iter(array.values), spacing)
    else:
        after_import()
        found = _numpy(data if kind == "npy" else _only_member())
    _check(found.shape)
    if copy is not None:
        copy.write(_header(found.shape))
    low, high, border = math.inf, -math.inf, False
    for number, frame in enumerate(found.frames):
        smallest, largest = float(frame.min()), float(frame.max())
        if not -LARGEST < smallest <= largest < LARGEST:  # false of NaN
            raise UploadError(f"frame {number} holds NaN, infinity or a value over {LARGEST:g}")
        low, high = min(low, smallest), max(high, largest)
        single = np.ascontiguousarray(frame, dtype="<f4")
        inside = single < 0
        if not inside.any() or inside.all():
            where = "below 0, so it shows no cell: distances are negative inside" if not inside.any() else "above 0"
            raise UploadError(f"frame {number} has no value {where}")
        border = border or any(bool(np.take(inside, end, axis=axis).any()) for axis in range(3) for end in (0, -1))
        if copy is not None:
            copy.write(single.tobytes())
    return {
        "axes": "TXYZ", "shape": list(found.shape), "smallest": low, "largest": high, "touches_border": border,
        "voxel": list(found.spacing or (None, None, None)),
    }  # fmt: skip


def _check(shape: tuple[int, int, int, int]) -> None:
    frames, *sides = shape
    if not 1 <= frames <= FRAMES_MAX:
        raise UploadError(f"the array has {frames} frames")
    for axis, side in zip("xyz", sides, strict=True):
        if not SIDE_MIN <= side <= SIDE_MAX:
            raise UploadError(f"the array has {side} samples along {axis}")
    if math.prod(shape) > SAMPLES_MAX:
        raise UploadError(f"the array has {math.prod(shape):,} samples")


def _header(shape: tuple[int, int, int, int]) -> bytes:
    """Return the head of a .npy file, 1.0, of 32-bit numbers."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"
    text += " " * (-(len(_MAGIC) + 4 + len(text) + 1) % 64) + "\n"
    return _MAGIC + b"\1\0" + struct.pack("<H", len(text)) + text.encode("latin1")


# --------------------------------------------------------------------------------------------------------------- NumPy


def _only_member() -> memoryview:
    """Return the one array of a .npz file, which is standard input."""
    content = None
    for member in read_archive(0, "zip"):
        if content is not None or not member.path.endswith(".npy") or "/" in member.path:
            raise UploadError("a .npz file holds one array of distances, and nothing else")
        content = member.read()
    if content is None:
        raise UploadError("the .npz file holds no array")
    return memoryview(content)


def _numpy(data: memoryview) -> _Array:
    if bytes(data[:6]) != _MAGIC or len(data) < 12 or bytes(data[6:8]) not in (b"\1\0", b"\2\0", b"\3\0"):
        raise UploadError("the file does not begin as a .npy file does")
    short = data[6] == 1
    start = 10 if short else 12
    (length,) = struct.unpack("<H" if short else "<I", data[8:start])
    if length > HEADER_MAX or start + length > len(data):
        raise UploadError("the header of the .npy file is too long or cut off")
    shape, kind, by_column = _described(bytes(data[start : start + length]).decode("utf-8"))
    t, x, y, z = shape if len(shape) == 4 else (1, *shape)
    whole = (t, x, y, z)
    _check(whole)
    item = np.dtype(kind)
    if len(data) - start - length != math.prod(whole) * item.itemsize:
        raise UploadError(
            f"the header speaks of {math.prod(whole):,} samples of {item.itemsize} bytes, the file has "
            f"{len(data) - start - length:,} bytes of them"
        )
    values = np.frombuffer(data, item, offset=start + length).reshape(shape, order="F" if by_column else "C")
    return _Array(whole, iter(values.reshape(whole) if len(shape) == 3 else values))


def _described(header: str) -> tuple[tuple[int, ...], str, bool]:
    """Return shape, type and order of an array."""
    try:
        said = ast.literal_eval(header.strip())
    except (ValueError, SyntaxError, RecursionError):
        raise UploadError("the header of the .npy file cannot be understood") from None
    if not isinstance(said, dict) or set(said) != {"descr", "fortran_order", "shape"}:
        raise UploadError("the header of the .npy file has other members than descr, fortran_order and shape")
    kind, by_column, shape = said["descr"], said["fortran_order"], said["shape"]
    if not isinstance(kind, str) or not _TYPE.fullmatch(kind):
        what = "integers are labels, which are sent as TIFF" if "i" in str(kind) or "u" in str(kind) else "see below"
        raise UploadError(f"the values are of type {str(kind)[:40]!r}, which cannot be distances ({what})")
    if not isinstance(by_column, bool) or not isinstance(shape, tuple) or len(shape) not in (3, 4):
        raise UploadError(f"the shape {str(shape)[:60]} is neither (t, x, y, z) nor (x, y, z)")
    if not all(type(side) is int and side >= 0 for side in shape):
        raise UploadError(f"the shape {str(shape)[:60]} is none of an array")
    return shape, kind, by_column


# ---------------------------------------------------------------------------------------------------------------- HDF5


def _hdf5(after_import: Callable[[], None]) -> _Array:
    """Open the HDF5 file that is standard input."""
    try:
        h5py = import_module("h5py")
    except ImportError:
        raise UploadError("this installation reads no HDF5; send the distances as .npy") from None
    after_import()
    try:
        file = h5py.File(os.fdopen(0, "rb", closefd=False), "r")
        link = file.get(DATASET, getlink=True)
        if not isinstance(link, h5py.HardLink) or not isinstance(file[DATASET], h5py.Dataset):
            raise UploadError(f"the file holds no data set {DATASET}")
        stored = file[DATASET]
        shape = _checked(stored)
        spacing = _spacing(stored.attrs)
    except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UploadError(f"the file cannot be read as HDF5 ({type(error).__name__})") from None
    return _Array(shape, _frames_of(stored, shape[0]), spacing)


def _frames_of(stored: Any, count: int) -> Frames:
    for number in range(count):
        try:
            frame = np.asarray(stored[..., number] if stored.ndim == 4 else stored[()])
        except (OSError, RuntimeError) as error:
            raise UploadError(f"frame {number} cannot be read: the file is damaged ({type(error).__name__})") from None
        yield frame.transpose(1, 2, 0)


def _checked(stored: Any) -> tuple[int, int, int, int]:
    """Return the shape of a data set (T, X, Y, Z), if it is stored plainly in this file."""
    if stored.is_virtual or stored.external:
        raise UploadError("the data set lies in other files")
    if stored.ndim not in (3, 4) or stored.dtype.kind != "f" or stored.dtype.itemsize not in (2, 4, 8):
        raise UploadError(f"the data set has {stored.ndim} axes of {stored.dtype}, not (z, x, y, t) of floating point")
    z, x, y, t = stored.shape if stored.ndim == 4 else (*stored.shape, 1)
    shape = (int(t), int(x), int(y), int(z))
    _check(shape)
    plist = stored.id.get_create_plist()
    if not all(plist.get_filter(number)[0] in _FILTERS for number in range(plist.get_nfilters())):
        raise UploadError("the data set is packed by a filter other than gzip, shuffle and LZF")
    if stored.chunks is not None:
        if math.prod(stored.chunks) * stored.dtype.itemsize > CHUNK_MAX:
            raise UploadError(f"a chunk of the data set has {math.prod(stored.chunks):,} samples; write smaller ones")
        count = math.prod(-(-side // chunk) for side, chunk in zip(stored.shape, stored.chunks, strict=True))
        if count > CHUNKS_MAX:
            raise UploadError(f"the data set has {count:,} chunks; write larger ones")
    return shape


def _spacing(attributes: Any) -> tuple[float, float, float] | None:
    """Return the distance of samples that the format ``sdf-hdf5`` states, in µm."""
    if "spacing_um" not in attributes:
        return None
    return _lengths(attributes["spacing_um"])


def _lengths(stated: Any) -> tuple[float, float, float]:
    try:
        said = np.asarray(stated, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError):
        said = np.zeros(0)
    if said.size != 3 or not ((said >= 1e-6) & (said <= 1e6)).all():
        raise UploadError("spacing_um must be three lengths between 1e-6 and 1e6 µm")
    x, y, z = (float(side) for side in said)
    return (x, y, z)
