"""Frames of label volumes in TIFF and NumPy files: which planes belong to a frame, and their values.

Promises: axes and the order of planes are those of tifffile's first series, which follows the descriptions of ImageJ
and OME, over several files where OME names them. One frame is in memory at a time. Every fault of a file is raised as a
:class:`~model.errors.DatasetError` of one sentence.
Does not promise: channels, time in flat images, or NumPy arrays with other axes than (t, z, y, x) and (z, y, x).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from model.errors import DatasetError
from model.readers.recording import Calibration, ReadingWarning
from model.readers.voxel_size import read_calibration

ARRAY = ".npy"
_UNNAMED = "IQ"  # letters of tifffile for axes that the file does not name


@dataclass(frozen=True)
class Contents:
    """What one file holds.

    Attributes
    ----------
    frames
        How many.
    has_time
        Whether the file has an axis of time.
    axes
        In words for people.
    files
        All files that its frames lie in; more than one for an OME-TIFF of several files.
    """

    frames: int
    has_time: bool
    axes: str
    calibration: Calibration
    warnings: tuple[ReadingWarning, ...] = ()
    files: tuple[Path, ...] = ()


def read_contents(path: Path) -> Contents:
    """Read the axes and the scale of a file, not its values.

    Raises
    ------
    DatasetError
        If it cannot be read, or its axes are not those of label volumes.
    """
    if path.suffix.lower() == ARRAY:
        shape = _label_array(path).shape
        axes = "TZYX" if len(shape) == 4 else "ZYX"
        message = f"NumPy files do not name their axes; {_sides(shape)} was taken for {axes}"
        return Contents(
            shape[0] if len(shape) == 4 else 1,
            len(shape) == 4,
            axes,
            Calibration(),
            (ReadingWarning("axes", message),),
            (path,),
        )
    with _remarks() as remarks, _opened(path) as tiff, _readable(path, "its description cannot be read"):
        layout = _layout(tiff, path)
        warnings = []
        if remarks:
            warnings.append(ReadingWarning("description", f"the file contradicts itself: {remarks[0]}"))
        if layout.is_guess:
            message = f"the file does not name its axes; {_sides(layout.shape)} was taken for TZYX"
            warnings.append(ReadingWarning("axes", message))
        if len(tiff.series) > 1:
            message = f"the file holds {len(tiff.series)} images; the first, {_sides(layout.shape)}, was taken"
            warnings.append(ReadingWarning("images", message))
        read_as = "TZYX" if layout.has_time else "ZYX"
        axes = read_as if layout.axes == read_as else f"{layout.axes}, read as {read_as}"
        files = dict.fromkeys([path, *(Path(page.parent.filehandle.path) for page in tiff.series[0].pages if page)])
        if len({one.resolve() for one in files}) > 1:
            axes += f", in {len(files)} files"
        return Contents(
            layout.frames, layout.has_time, axes, read_calibration(tiff, layout.slices), tuple(warnings), tuple(files)
        )


def read_frame(path: Path, frame: int) -> NDArray[Any]:
    """Read one frame, (z, y, x).

    Raises
    ------
    DatasetError
        If it cannot be read.
    """
    if path.suffix.lower() == ARRAY:
        array = _label_array(path)
        return np.array(array[frame] if array.ndim == 4 else array)
    with _remarks(), _opened(path) as tiff:
        layout, series = _layout(tiff, path), tiff.series[0]
        with _readable(path, f"frame {frame} cannot be read"):
            if series.dataoffset is not None and series.dtype is not None:  # one run of bytes: map, do not read
                dtype = series.dtype.newbyteorder(tiff.byteorder)
                mapped = tiff.filehandle.memmap_array(dtype, series.shape, series.dataoffset)
                return np.array(layout.frame_of(mapped, frame))
            return _read_pages(series, layout, path, frame)


def is_label_array(path: Path) -> bool:
    """Whether a NumPy file holds integers or booleans, which cannot be distances."""
    with _readable(path, "cannot be read"):
        kind: str = np.asanyarray(np.load(path, mmap_mode="r", allow_pickle=False)).dtype.kind
    return kind in "biu"


def leading_files(files: list[Path]) -> list[Path]:
    """Leave out the files of an OME-TIFF of several files that an earlier file of the list leads to."""
    known: set[Path] = set()
    leading = []
    for path in files:
        if path.resolve() in known:
            continue
        leading.append(path)
        if path.name.lower().endswith((".ome.tif", ".ome.tiff")) or _is_ome(path):
            known |= {other.resolve() for other in read_contents(path).files}
    return leading


@dataclass(frozen=True)
class _Layout:
    """Axes of a series without those of length 1 that have no meaning here."""

    axes: str
    shape: tuple[int, ...]
    is_guess: bool

    @property
    def has_time(self) -> bool:
        return "T" in self.axes

    @property
    def frames(self) -> int:
        return self.shape[self.axes.index("T")] if self.has_time else 1

    @property
    def slices(self) -> int:
        return self.shape[self.axes.index("Z")]

    def frame_of(self, whole: NDArray[Any], frame: int) -> NDArray[Any]:
        """Cut one frame, (z, y, x), out of an array of all."""
        whole, axes = whole.reshape(self.shape), self.axes
        if self.has_time:
            whole, axes = whole.take(frame, axis=axes.index("T")), axes.replace("T", "")
        return whole.transpose([axes.index(axis) for axis in "ZYX"])


def _layout(tiff: tifffile.TiffFile, path: Path) -> _Layout:
    """Axes and shape of the first series."""
    with _readable(path, "its description cannot be read"):
        series = tiff.series[0]
        named = [(axis, n) for axis, n in zip(series.axes, series.shape, strict=True) if axis in "ZYXT" or n > 1]
    axes, shape = "".join(axis for axis, _ in named), tuple(n for _, n in named)
    unnamed = [axis for axis in axes[:-2] if axis in _UNNAMED]
    is_guess = len(axes) == 4 and bool(unnamed)
    if len(axes) in (3, 4) and axes[-2:] == "YX" and unnamed and all(a in "ZT" + _UNNAMED for a in axes[:-2]):
        wanted = {3: "ZYX", 4: "TZYX"}[len(axes)]
        if all(a in (b, *_UNNAMED) for a, b in zip(axes, wanted, strict=True)):
            axes = wanted
    if sorted(axes) not in (sorted("TZYX"), sorted("ZYX")):
        raise DatasetError(f"{path.name} has the axes {axes}; label volumes are TZYX, or ZYX for one frame")
    if 0 in shape:
        raise DatasetError(f"{path.name} has an axis of length 0: {_sides(shape)}")
    return _Layout(axes, shape, is_guess)


def _read_pages(series: tifffile.TiffPageSeries, layout: _Layout, path: Path, frame: int) -> NDArray[Any]:
    """Read the pages of one frame, wherever in the series, and in whichever file, they are."""
    pages, lead = list(series.pages), 0
    while lead < len(layout.shape) and math.prod(layout.shape[:lead]) < len(pages):
        lead += 1
    outer, inner = layout.shape[:lead], layout.shape[lead:]
    if math.prod(outer) != len(pages):
        raise DatasetError(f"{path.name} has {len(pages)} pages, which do not make up its axes {layout.axes}")
    if "T" not in layout.axes[:lead]:  # a page holds several frames
        return np.ascontiguousarray(layout.frame_of(np.asarray(series.asarray()), frame))
    numbers = np.arange(len(pages)).reshape(outer).take(frame, axis=layout.axes.index("T"))
    wanted = []
    for number in numbers.reshape(-1):
        if (page := pages[number]) is None:
            raise DatasetError(f"{path.name}: frame {frame} is not complete; are all files of the OME-TIFF there?")
        with _open_file_of(page):
            wanted.append(np.asarray(page.asarray()).reshape(inner))
    axes = layout.axes.replace("T", "")
    volume = np.stack(wanted).reshape(*numbers.shape, *inner)
    return np.ascontiguousarray(volume.transpose([axes.index(axis) for axis in "ZYX"]))


@contextmanager
def _remarks() -> Iterator[list[str]]:
    """Collect what tifffile logs about a file instead of printing it."""
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(" ".join(record.getMessage().split()))  # type: ignore[method-assign]
    logger = logging.getLogger("tifffile")
    propagates, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield said
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagates


@contextmanager
def _open_file_of(page: tifffile.TiffPage | tifffile.TiffFrame) -> Iterator[None]:
    """Hold the file of a page open; tifffile closes all files of an OME-TIFF but the first."""
    handle = page.parent.filehandle
    if not handle.closed:
        yield
        return
    handle.open()
    try:
        yield
    finally:
        handle.close()


def _opened(path: Path) -> tifffile.TiffFile:
    with _readable(path, "cannot be read as TIFF"):
        return tifffile.TiffFile(path)


def _is_ome(path: Path) -> bool:
    with _remarks(), _opened(path) as tiff:
        return bool(tiff.is_ome)


def _label_array(path: Path) -> NDArray[Any]:
    with _readable(path, "cannot be read"):
        array = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    if array.ndim not in (3, 4) or 0 in array.shape:
        raise DatasetError(f"{path.name} has the shape {_sides(array.shape)}; labels are (t, z, y, x) or (z, y, x)")
    return array


def _sides(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape)) or "()"


@contextmanager
def _readable(path: Path, what: str) -> Iterator[None]:
    """Convert every error that a reader raises on a bad file to a DatasetError."""
    try:
        yield
    except DatasetError:
        raise
    except MemoryError:
        raise DatasetError(f"{path.name}: {what}: it needs more memory than there is") from None
    except ImportError as error:
        raise DatasetError(f"{path.name}: {what}: install the package imagecodecs ({error})") from None
    except Exception as error:  # noqa: BLE001 (tifffile and codecs raise almost anything on a bad file)
        why = " ".join(str(error).split()) or type(error).__name__
        raise DatasetError(f"{path.name}: {what}: {why}") from None
