"""Surfaces as VTK XML PolyData, a file a frame, and a ParaView collection with their times in minutes.

``frame_0000.vtp`` holds points in µm, triangles that face outward, and the label of each point; ``cell.pvd`` lists the
frames. Arrays are raw, little-endian, appended behind the XML.

References
----------
Kitware, The VTK User's Guide, 11th edition: XML file formats.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from model.encoding.surface_files import frame_vertex_labels, in_micrometres, mesh_faults
from model.engine.marching_cubes import Surface
from model.output.exporter import CellFiles, ExportFrame, WriteFrame
from model.output.manifest import WrittenCell

COLLECTION = "cell.pvd"
TYPES = {"<f4": "Float32", "<i4": "Int32", "<u2": "UInt16"}


@contextmanager
def open_writer(cell: CellFiles) -> Iterator[WriteFrame]:
    """Write a file a frame and, when all have come, the collection."""
    exporter = cell.exporter
    listed: list[tuple[float, str]] = []

    def write(frame: ExportFrame) -> None:
        labels = frame.once(frame_vertex_labels, exporter.grid).astype("<u2")
        name = f"frame_{frame.number:04d}.vtp"
        content = encode_polydata(frame.surface, labels, micrometres=exporter.micrometres)
        exporter.write_bytes(f"{cell.name}/{name}", content)
        listed.append((round(exporter.minutes_at(frame.time), 6), name))

    yield write
    lines = [f'    <DataSet timestep="{minutes!r}" group="" part="0" file="{name}"/>\n' for minutes, name in listed]
    text = (
        '<?xml version="1.0"?>\n<VTKFile type="Collection" version="0.1" byte_order="LittleEndian">\n'
        f"  <!-- timestep: minutes -->\n  <Collection>\n{''.join(lines)}  </Collection>\n</VTKFile>\n"
    )
    exporter.write_bytes(f"{cell.name}/{COLLECTION}", text.encode("ascii"))


def encode_polydata(surface: Surface, labels: NDArray[np.uint16], *, micrometres: float) -> bytes:
    """Encode a surface as ``.vtp``.

    Parameters
    ----------
    surface
        In Ω.
    labels
        Of each vertex, (v,) uint16.
    micrometres
        Length of one unit of Ω.
    """
    faces = surface.faces.astype("<i4")
    arrays: list[tuple[str, int, NDArray[np.generic]]] = [
        ("label", 1, labels),
        ("points", 3, in_micrometres(surface, micrometres).astype("<f4")),
        ("connectivity", 1, faces.reshape(-1)),
        ("offsets", 1, np.arange(3, 3 * len(faces) + 1, 3, dtype="<i4")),
    ]
    body, tags = b"", []
    for name, components, array in arrays:
        kind = TYPES[array.dtype.newbyteorder("<").str]
        tags.append(
            f'<DataArray type="{kind}" Name="{name}" NumberOfComponents="{components}" format="appended" '
            f'offset="{len(body)}"/>'
        )
        content = array.tobytes()
        body += struct.pack("<Q", len(content)) + content
    label, points, connectivity, offsets = tags
    head = (
        '<?xml version="1.0"?>\n'
        '<VTKFile type="PolyData" version="1.0" byte_order="LittleEndian" header_type="UInt64">\n'
        "  <!-- cytosynth, units micrometre -->\n  <PolyData>\n"
        f'    <Piece NumberOfPoints="{len(surface.vertices)}" NumberOfVerts="0" NumberOfLines="0" NumberOfStrips="0" '
        f'NumberOfPolys="{len(faces)}">\n'
        f'      <PointData Scalars="label">{label}</PointData>\n      <Points>{points}</Points>\n'
        f"      <Polys>{connectivity}{offsets}</Polys>\n    </Piece>\n  </PolyData>\n"
        '  <AppendedData encoding="raw">\n_'
    )
    return head.encode("ascii") + body + b"\n  </AppendedData>\n</VTKFile>\n"


def decode_polydata(content: bytes) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.uint16]]:
    """Read what :func:`encode_polydata` wrote: points (v, 3) in µm, triangles (f, 3), labels (v,).

    Raises
    ------
    ValueError
        If it is something else.
    """
    mark = content.index(b'<AppendedData encoding="raw">\n_') + len(b'<AppendedData encoding="raw">\n_')
    head = ElementTree.fromstring(content[:mark] + b"</AppendedData></VTKFile>")
    found = {}
    for tag in head.iter("DataArray"):
        at = mark + int(tag.attrib["offset"])
        (size,) = struct.unpack_from("<Q", content, at)
        kind = next(code for code, name in TYPES.items() if name == tag.attrib["type"])
        found[tag.attrib["Name"]] = np.frombuffer(content, kind, count=size // np.dtype(kind).itemsize, offset=at + 8)
    return found["points"].reshape(-1, 3), found["connectivity"].reshape(-1, 3), found["label"]


def find_faults(written: WrittenCell) -> Iterator[str]:
    """Read the surfaces and the collection back and compare them with the manifest."""
    for name in written.files:
        if name == COLLECTION:
            root = ElementTree.fromstring((written.folder / name).read_bytes())
            listed = [(float(tag.attrib["timestep"]), tag.attrib["file"]) for tag in root.iter("DataSet")]
            if listed != [(row["minutes"], f"frame_{row['frame']:04d}.vtp") for row in written.entry.frames]:
                yield f"{name}: not the frames of the manifest"
            continue
        frame = written.entry.frames[int(Path(name).stem.removeprefix("frame_"))]
        points, triangles, labels = decode_polydata((written.folder / name).read_bytes())
        for fault in mesh_faults(points, triangles, frame):
            yield f"{name}: {fault}"
        if [int(label) for label in np.unique(labels)] != frame["labels"]:
            yield f"{name}: its points have other labels than the manifest says"
