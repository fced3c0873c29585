"""Label volumes and meshes of a job, a frame at a time. Needs the extra ``arrays``."""

from __future__ import annotations

import io
import re
import tempfile
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from cytosynth.errors import CytosynthError
from cytosynth.manifest import RemoteFile

if TYPE_CHECKING:
    import numpy as np
    import trimesh
    from numpy.typing import NDArray

Fetch = Callable[[RemoteFile, BinaryIO], None]
VOLUMES = ("labels.tif", "labels.ome.tif")  # one file of all frames
VOLUME_A_FRAME = r"frames/t\d+\.tif"
MESHES = (r"frame_\d+\.ply", r"frame_\d+\.stl", r"frame_\d+\.obj")  # the first that the job has; PLY shares vertices


def label_volumes(
    files: list[RemoteFile], fetch: Fetch, *, cell: int, frames: int
) -> Iterator[NDArray[np.unsignedinteger[Any]]]:
    """Yield the label volume of each frame, (z, y, x); one frame is in memory at a time.

    Raises
    ------
    CytosynthError
        If the job has no file with label volumes that this client reads.
    """
    import tifffile

    here = {file.name.partition("/")[2]: file for file in files if file.name.startswith(f"cell_{cell:04d}/")}
    for name in VOLUMES:
        if name in here:
            with tempfile.NamedTemporaryFile() as target:
                fetch(here[name], cast("BinaryIO", target))
                target.seek(0)
                with tifffile.TiffFile(target) as tiff:
                    planes = len(tiff.pages) // frames
                    for frame in range(frames):
                        yield tiff.asarray(key=slice(frame * planes, (frame + 1) * planes))
            return
    single = sorted(name for name in here if re.fullmatch(VOLUME_A_FRAME, name))
    if not single:
        raise CytosynthError(f"the job has no label volumes of cell {cell}; ask for the format tiff")
    for name in single:
        yield tifffile.imread(_content(here[name], fetch))


def meshes(files: list[RemoteFile], fetch: Fetch, *, cell: int) -> Iterator[trimesh.Trimesh]:
    """Yield the mesh of each frame, in µm.

    Raises
    ------
    CytosynthError
        If the job has no file with meshes that this client reads.
    """
    import trimesh

    here = {file.name.partition("/")[2]: file for file in files if file.name.startswith(f"cell_{cell:04d}/")}
    for pattern in MESHES:
        if names := sorted(name for name in here if re.fullmatch(pattern, name)):
            for name in names:
                yield trimesh.load_mesh(_content(here[name], fetch), file_type=name.rpartition(".")[2])
            return
    raise CytosynthError(f"the job has no meshes of cell {cell}; ask for the format ply or stl")


def _content(file: RemoteFile, fetch: Fetch) -> io.BytesIO:
    target = io.BytesIO()
    fetch(file, target)
    target.seek(0)
    return target
