"""What Python's standard library does not have or does slowly: codecs and predictors of TIFF, values of wide samples.

Only the child process that inspects uploads imports this module, and only for a file that needs it.

Promises: no call makes more bytes than it is asked for.
Does not promise: that damaged input is noticed; the caller compares lengths.

Formats: TIFF 6.0 (Aldus, 1992), sections 9, 13 and 14; Adobe Photoshop TIFF Technical Note 3 (2005) for predictor 3.
"""

from __future__ import annotations

from typing import Literal

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from model.errors import UploadError

# Looked up here, since imagecodecs imports a codec when it is first named.
_DECODERS = {5: imagecodecs.lzw_decode, 32773: imagecodecs.packbits_decode, 50000: imagecodecs.zstd_decode}
_NAMES = {5: "LZW", 32773: "PackBits", 50000: "Zstandard"}

TABLE = 2**20  # values below are counted in a table, which is faster than sorting
ByteOrder = Literal["<", ">"]


def unpacked(packed: memoryview, compression: int, *, most: int) -> bytes:
    """Return what a strip or tile holds.

    Parameters
    ----------
    compression
        As the tag of TIFF has it.
    most
        Bytes to make at most.

    Raises
    ------
    UploadError
        If the packed bytes are damaged, or hold more.
    """
    try:
        return bytes(_DECODERS[compression](bytes(packed), out=most))
    except RuntimeError:
        raise UploadError(
            f"a strip or tile is damaged, or holds more than its page declares: it is no {_NAMES[compression]} of it"
        ) from None


def summed(part: bytes, width: int, code: str, *, order: ByteOrder) -> bytes:
    """Undo predictor 2, the differences of neighbours in a row.

    Parameters
    ----------
    width
        Samples of a row.
    code
        Type of a sample, as of :mod:`array`; integers.
    order
        ``"<"`` or ``">"``.
    """
    kind = np.dtype(code).newbyteorder(order)
    rows = np.frombuffer(part, kind).reshape(-1, width)
    total: NDArray[np.integer] = np.cumsum(rows, axis=1, dtype=np.dtype(code))  # overflows as the differences did
    return total.astype(kind).tobytes()


def float_summed(part: bytes, width: int, code: str, *, order: ByteOrder) -> bytes:
    """Undo predictor 3: differences of the bytes of a row, which are sorted by their significance.

    Parameters
    ----------
    width
        Samples of a row.
    code
        Type of a sample, as of :mod:`array`; floating point.
    order
        ``"<"`` or ``">"``, of the answer.
    """
    item = np.dtype(code).itemsize
    rows = np.frombuffer(part, np.uint8).reshape(-1, width * item)
    total = np.cumsum(rows, axis=1, dtype=np.uint8).reshape(-1, item, width)  # overflows as the differences did
    values = np.ascontiguousarray(total.transpose(0, 2, 1)).view(np.dtype(code).newbyteorder(">"))
    return values.astype(np.dtype(code).newbyteorder(order)).tobytes()


def shortened(samples: bytes, code: str, *, order: ByteOrder, numbers: dict[int, int] | None) -> bytes:
    """Return the labels of a plane in 16 bits, little-endian.

    Parameters
    ----------
    code
        Type of a sample, as of :mod:`array`.
    numbers
        The new number of each label, ascending by label; None: labels keep theirs, which is less than 65,536.
    """
    values = np.frombuffer(samples, np.dtype(code).newbyteorder(order)).astype(code)
    if values.dtype.kind == "f":
        values = values.astype(np.int64)
    if numbers is not None:
        labels = np.fromiter(numbers, dtype=np.int64, count=len(numbers))
        given = np.fromiter(numbers.values(), dtype=np.uint16, count=len(numbers))
        inside = values != 0
        new = np.zeros(values.shape, dtype=np.uint16)
        new[inside] = given[np.searchsorted(labels, values[inside].astype(np.int64))]
        values = new
    return values.astype("<u2").tobytes()


def distinct(samples: bytes, code: str, *, order: ByteOrder, most: int) -> set[int]:
    """Return the different values of a plane.

    Parameters
    ----------
    code
        Type of a sample, as of :mod:`array`.
    most
        Return no more than so many.

    Raises
    ------
    UploadError
        If a value is not whole, or as a floating point number far over any label.
    """
    values = np.frombuffer(samples, np.dtype(code).newbyteorder(order)).astype(code)
    if values.dtype.kind == "f":
        whole = np.isfinite(values) & (values == np.floor(values))
        if not whole.all():
            raise UploadError(
                f"a sample is {values[~whole][0]:.6g}; labels are whole numbers (is it an image or a probability?)"
            )
        if float(np.abs(values).max()) >= 2.0**63:
            raise UploadError(f"a sample is {np.abs(values).max():.6g}; labels are less than 2^63")
        values = values.astype(np.int64)
    if int(values.min()) >= 0 and int(values.max()) < TABLE:
        here = np.zeros(TABLE, dtype=np.bool_)
        here[values] = True
        return set(np.flatnonzero(here)[:most].tolist())
    # Not np.unique, which imports more when it is first called. Labels lie in runs: the first of each is enough.
    ordered = np.sort(values[np.concatenate([[True], values[1:] != values[:-1]])])
    return set(ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])][:most].tolist())
