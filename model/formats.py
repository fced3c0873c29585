"""The file formats that the service writes, one row each: the spec, its cost, HTTP and the start page read this table.

To add a format, add a row here and a module to :mod:`model.export` that holds ``open_writer`` and ``find_faults``
(:mod:`model.output.frame_writers` says what they must do); nothing else changes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import PurePosixPath

USUAL_FINEST = 512  # samples a side


@dataclass(frozen=True, kw_only=True)
class Format:
    """One file format.

    Parameters
    ----------
    name
        In a spec's ``formats``.
    title
        On the start page.
    description
        What files a client gets; in the API's description of ``formats``.
    files
        A regular expression that matches the names of its files, and no other format's, relative to the cell's folder.
    suffix
        Of its files, with the dot; of a format with several kinds of files, of the one that gives it its name.
    media_type
        Of files with that suffix, in manifests and HTTP responses. PLY has no registered type.
    module
        Holds ``open_writer`` and ``find_faults``.
    media_types
        Of its other files, by suffix.
    needs
        Names of formats that must be asked for with it, because its files refer to theirs.
    text
        Whether its files are text although their media type does not say so; they are sent compressed, as ``text/…``
        and JSON are.
    separates
        Whether a spec's ``separate_bodies`` changes its files.
    distances
        Whether its files hold signed distances, so that those of the search for the membrane are kept for it.
    bytes_per_face
        Expected bytes of each frame over N², the samples of a side of the grid; a closed surface of a cell has about
        1.5 N² triangles and 0.5 N² vertices.
    bytes_per_voxel
        Expected bytes for each sample of each frame.
    bytes_per_cell
        Expected bytes for each cell, whatever its frames.
    seconds_per_frame
        Computing time of each frame shown, beside that of every frame.
    seconds_per_face
        The same over N².
    frames_shown
        The most frames of a cell that it shows; 0: all.
    finest
        The most samples a side of a grid, that of a cube of as many samples.
    files_per_frame, files_per_cell
        The least number of files.
    """

    name: str
    title: str
    description: str
    files: str
    suffix: str
    media_type: str
    module: str
    media_types: Mapping[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    text: bool = False
    separates: bool = False
    distances: bool = False
    bytes_per_face: float = 0.0
    bytes_per_voxel: float = 0.0
    bytes_per_cell: float = 0.0
    seconds_per_frame: float = 0.0
    seconds_per_face: float = 0.0
    frames_shown: int = 0
    finest: int = USUAL_FINEST
    files_per_frame: int = 0
    files_per_cell: int = 1

    def writes(self, name: str) -> bool:
        """Whether a file of a cell, by its name relative to the cell's folder, is one of this format."""
        return re.fullmatch(self.files, name) is not None

    def bytes(self, *, cells: int, frames: int, face: float, voxels: int) -> float:
        """Estimate the size of its files.

        Parameters
        ----------
        cells
            How many sequences.
        frames
            Of all sequences together.
        face
            N² of a frame's grid.
        voxels
            Samples of all frames together.
        """
        return self.bytes_per_face * face * frames + self.bytes_per_voxel * voxels + self.bytes_per_cell * cells

    def least_files(self, *, cells: int, frames: int) -> int:
        """Return the number of files that it writes at least, ``frames`` being those of all sequences together."""
        return self.files_per_frame * frames + self.files_per_cell * cells

    def seconds(self, *, cells: int, frames: int, face: float) -> float:
        """Estimate the computing time that it adds, ``frames`` being those of one sequence."""
        shown = min(self.frames_shown, frames) if self.frames_shown else frames
        return (self.seconds_per_frame + self.seconds_per_face * face) * shown * cells


_MESH = "a mesh of each frame"

# The sizes are means measured for the shipped models (docs/explanation/performance.md).
FORMATS: dict[str, Format] = {
    row.name: row
    for row in (
        Format(
            name="stl", title="STL", description=_MESH, suffix=".stl", media_type="model/stl",
            files=r"frame_\d{4}\.stl", module="model.export.stl", bytes_per_face=75.0, finest=2048,
            files_per_frame=1, files_per_cell=0,
        ),
        Format(
            name="obj", title="OBJ", description=_MESH, suffix=".obj", media_type="model/obj",
            files=r"frame_\d{4}\.obj", module="model.export.obj", bytes_per_face=55.0,
            text=True, separates=True, finest=2048, files_per_frame=1, files_per_cell=0,
        ),
        Format(
            name="ply", title="PLY", description=_MESH, suffix=".ply", media_type="application/ply",
            files=r"frame_\d{4}\.ply", module="model.export.ply", bytes_per_face=32.0,
            separates=True, finest=2048, files_per_frame=1, files_per_cell=0,
        ),
        Format(
            name="tiff", title="TIFF labels", description="one file of label volumes of all frames", suffix=".tif",
            media_type="image/tiff", files=r"labels\.tif", module="model.export.imagej_tiff", bytes_per_voxel=1 / 40,
            finest=1024,
        ),
        Format(
            name="tiff-frames", title="TIFF a frame", description="a label volume of each frame", suffix=".tif",
            media_type="image/tiff", files=r"frames/t\d{4}\.tif", module="model.export.tiff_frames",
            bytes_per_voxel=2.0, finest=1024, files_per_frame=1, files_per_cell=0,
        ),
        Format(
            name="ctc", title="Cell Tracking Challenge",
            description="tracking and segmentation truth in the Cell Tracking Challenge's layout", suffix=".tif",
            media_type="image/tiff", files=r"ctc/01_GT/(TRA|SEG)/man_[a-z]+\d*\.(tif|txt)", module="model.export.ctc",
            media_types={".txt": "text/plain"}, bytes_per_voxel=4.0, finest=1024, files_per_frame=2,
        ),
        Format(
            name="ome-tiff", title="OME-TIFF",
            description="one OME-TIFF of label volumes of all frames, BigTIFF where it could exceed 4 GiB",
            suffix=".tif", media_type="image/tiff", files=r"labels\.ome\.tif",
            module="model.export.ome_tiff", bytes_per_voxel=1 / 40, finest=1024,
        ),
        Format(
            name="ome-zarr", title="OME-Zarr",
            description="an OME-Zarr label image with a pyramid, a shard of each frame", suffix=".json",
            media_type="application/json", files=r"labels\.ome\.zarr/.+", module="model.export.ome_zarr",
            bytes_per_voxel=1 / 30, bytes_per_cell=4e3, finest=1024, files_per_frame=1, files_per_cell=2,
        ),
        Format(
            name="glb", title="glTF", description="one binary glTF of all frames, which plays in viewers",
            suffix=".glb", media_type="model/gltf-binary", files=r"cell\.glb",
            module="model.export.glb", bytes_per_face=24.0, finest=2048,
        ),
        Format(
            name="vtk", title="VTK / ParaView",
            description="a labelled mesh of each frame as VTK PolyData, and a collection with their times",
            suffix=".vtp", media_type="application/octet-stream", files=r"frame_\d{4}\.vtp|cell\.pvd",
            module="model.export.vtk", media_types={".pvd": "application/octet-stream"}, bytes_per_face=31.0,
            finest=2048, files_per_frame=1,
        ),
        Format(
            name="stl-series", title="STL series", description="the times of the STL files, for ParaView",
            suffix=".series", media_type="application/json", files=r"frames\.stl\.series",
            module="model.export.stl_series", needs=("stl",), bytes_per_cell=2e3, finest=2048,
        ),
        Format(
            name="sdf", title="Signed distances (Zarr)",
            description="a Zarr array of signed distances near the membrane, a shard of each frame", suffix=".json",
            media_type="application/json", files=r"distances\.zarr/.+", module="model.export.sdf_zarr",
            distances=True, bytes_per_face=13.0, bytes_per_cell=4e3, seconds_per_face=4e-6, files_per_frame=1,
        ),
        Format(
            name="sdf-hdf5", title="Signed distances (HDF5)",
            description="an HDF5 file of signed distances near the membrane of all frames", suffix=".h5",
            media_type="application/x-hdf5", files=r"distances\.h5", module="model.export.sdf_hdf5",
            distances=True, bytes_per_face=13.0, bytes_per_cell=4e3, seconds_per_face=4e-6,
        ),
        Format(
            name="csv", title="Measurements", description="a table of volume, area, sphericity and centroid",
            suffix=".csv", media_type="text/csv", files=r"measurements\.csv", module="model.export.measurements_csv",
            bytes_per_cell=4e3, finest=2048,
        ),
        Format(
            name="geff", title="GEFF lineage",
            description="the lineage as a graph (GEFF): a node a label and frame, edges from mothers to daughters",
            suffix=".json", media_type="application/json", files=r"lineage\.geff/.+", module="model.export.geff",
            bytes_per_cell=2e4, files_per_cell=30,
        ),
        Format(
            name="report", title="Quality report", description="a report on the quality of each frame's surface",
            suffix=".json", media_type="application/json", files=r"report\.json",
            module="model.export.quality_report", bytes_per_cell=2e4,
        ),
        Format(
            name="png", title="PNG picture", description="one preview picture", suffix=".png",
            media_type="image/png", files=r"preview\.png", module="model.export.preview",
            bytes_per_cell=4e5, seconds_per_frame=0.05, frames_shown=8,
        ),
    )
}  # fmt: skip

OTHER = "application/octet-stream"
# Whatever a manifest says, nothing is served as a page or a script.
MEDIA_TYPES = {suffix: kind for row in FORMATS.values() for suffix, kind in row.media_types.items()}
MEDIA_TYPES |= {row.suffix: row.media_type for row in FORMATS.values()} | {
    ".tiff": "image/tiff",
    ".json": "application/json",
    ".txt": "text/plain",
}


def media_type(name: str) -> str:
    """Return the media type of a file by its ending, without regard to case."""
    return MEDIA_TYPES.get(PurePosixPath(name).suffix.lower(), OTHER)


def describe_formats() -> str:
    """Say what files each format gives: ``stl, obj: a mesh a frame; tiff: …``."""
    groups = groupby(FORMATS.values(), key=lambda row: row.description)
    return "; ".join(f"{', '.join(row.name for row in rows)}: {text}" for text, rows in groups) + "."


def describe_finest() -> str:
    """Say which formats go beyond the usual finest grid: ``Over 512 samples a side: stl up to 2048; …``."""
    rows = sorted((row for row in FORMATS.values() if row.finest > USUAL_FINEST), key=lambda row: -row.finest)
    groups = groupby(rows, key=lambda row: row.finest)
    said = "; ".join(f"{', '.join(row.name for row in some)} up to {side}" for side, some in groups)
    return f"Over {USUAL_FINEST} samples a side: {said}."
