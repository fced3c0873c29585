"""Surfaces of all frames as one binary glTF 2.0, ``cell.glb``, which plays in viewers.

One node a frame; a STEP animation of its scale shows it in its turn, five frames a second. A mesh has one primitive and
one material a label, so that daughters have colours of their own. Coordinates are µm, which glTF reads as metres; the
root node turns z up to glTF's y up, so that programs with z up (Blender) show the cell's own axes.

Promises: one frame in memory; the binary part waits in a hidden file beside until its JSON is known. The same surfaces
give the same bytes.

References
----------
Khronos Group, glTF 2.0 specification.
"""

from __future__ import annotations

import json
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
import trimesh
from numpy.typing import NDArray

from model.encoding.surface_files import frame_vertex_labels, in_micrometres, volumes_differ
from model.output.exporter import CellFiles, ExportFrame, WriteFrame
from model.output.manifest import WrittenCell
from model.rendering.render import PALETTES

NAME = "cell.glb"
FRAME_S = 0.2  # for which a frame is shown
FLOAT, UINT = 5126, 5125
VERTICES, INDICES = 34962, 34963
PIECE = 2**20


@contextmanager
def open_writer(cell: CellFiles) -> Iterator[WriteFrame]:
    """Write the file when all frames have come."""
    exporter = cell.exporter
    exporter.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=exporter.folder, prefix=".glb-") as binary:
        scene = _Scene(binary, frames=len(cell.times), palette=cell.palette)

        def write(frame: ExportFrame) -> None:
            labels = frame.once(frame_vertex_labels, exporter.grid)
            points = in_micrometres(frame.surface, exporter.micrometres)
            scene.add(points, frame.surface.faces, np.asarray(labels), minutes=exporter.minutes_at(frame.time))

        yield write
        head = scene.json()
        size = binary.tell()
        with exporter.open(f"{cell.name}/{NAME}") as file:
            file.write(struct.pack("<4sII", b"glTF", 2, 12 + 8 + len(head) + 8 + size))
            file.write(struct.pack("<I4s", len(head), b"JSON") + head)
            file.write(struct.pack("<I4s", size, b"BIN\0"))
            binary.seek(0)
            while piece := binary.read(PIECE):
                file.write(piece)


class _Scene:
    """Gathers nodes, meshes and accessors; arrays go straight to the binary file."""

    def __init__(self, binary: IO[bytes], *, frames: int, palette: str) -> None:
        self._binary, self._frames = binary, frames
        self._palette = PALETTES.get(palette, PALETTES["neutral"])
        self._views: list[dict[str, Any]] = []
        self._accessors: list[dict[str, Any]] = []
        self._meshes: list[dict[str, Any]] = []
        self._nodes: list[dict[str, Any]] = []
        self._materials: dict[int, int] = {}  # by label
        self._samplers: list[dict[str, Any]] = []
        self._channels: list[dict[str, Any]] = []

    def add(
        self, points: NDArray[np.float32], faces: NDArray[np.integer[Any]], labels: NDArray[Any], *, minutes: float
    ) -> None:
        """Add the next frame: points (v, 3) in µm, triangles (f, 3), label of each vertex (v,)."""
        number = len(self._nodes)
        position = self._store(points.astype("<f4"), "VEC3", target=VERTICES, bounds=True)
        owner = labels[faces[:, 0]]
        primitives = [
            {
                "attributes": {"POSITION": position},
                "indices": self._store(faces[owner == label].astype("<u4").reshape(-1), "SCALAR", target=INDICES),
                "material": self._material(int(label)),
            }
            for label in np.unique(owner)
        ]
        self._meshes.append({"name": f"frame {number}, {minutes:.6g} min", "primitives": primitives})
        first = 1.0 if number == 0 else 0.0
        self._nodes.append({"name": f"frame_{number:04d}", "mesh": number, "scale": [first] * 3})
        if self._frames > 1:
            self._animate(number)

    def _animate(self, number: int) -> None:
        """Show a node from its own time to the next frame's, and the last one for as long as any."""
        keys = [(0.0, 0.0), (number * FRAME_S, 1.0), ((number + 1) * FRAME_S, 0.0)]
        if number == 0:
            keys = keys[1:]
        if number == self._frames - 1:
            keys[-1] = (keys[-1][0], 1.0)
        times = np.array([time for time, _ in keys], dtype="<f4")
        scales = np.array([[scale] * 3 for _, scale in keys], dtype="<f4")
        sampler = {
            "input": self._store(times, "SCALAR", bounds=True),
            "output": self._store(scales, "VEC3"),
            "interpolation": "STEP",
        }
        self._channels.append({"sampler": len(self._samplers), "target": {"node": number, "path": "scale"}})
        self._samplers.append(sampler)

    def _material(self, label: int) -> int:
        if label not in self._materials:
            self._materials[label] = len(self._materials)
        return self._materials[label]

    def _store(self, array: NDArray[Any], kind: str, *, target: int | None = None, bounds: bool = False) -> int:
        """Append an array to the binary part; return its accessor. All items have four bytes, so all is aligned."""
        content = array.tobytes()
        view: dict[str, Any] = {"buffer": 0, "byteOffset": self._binary.tell(), "byteLength": len(content)}
        if target is not None:
            view["target"] = target
        accessor: dict[str, Any] = {
            "bufferView": len(self._views), "componentType": UINT if array.dtype.kind == "u" else FLOAT,
            "count": len(array), "type": kind,
        }  # fmt: skip
        if bounds:
            rows = array.reshape(len(array), -1)
            accessor |= {"min": [float(v) for v in rows.min(axis=0)], "max": [float(v) for v in rows.max(axis=0)]}
        self._binary.write(content)
        self._views.append(view)
        self._accessors.append(accessor)
        return len(self._accessors) - 1

    def json(self) -> bytes:
        """Return the JSON part, padded to four bytes."""
        root = len(self._nodes)
        turn = float(np.sqrt(0.5))
        nodes = [*self._nodes, {"name": "cell", "children": list(range(root)), "rotation": [-turn, 0.0, 0.0, turn]}]
        document: dict[str, Any] = {
            "asset": {"version": "2.0", "generator": "cytosynth", "extras": {"unit": "micrometre"}},
            "scene": 0,
            "scenes": [{"nodes": [root]}],
            "nodes": nodes,
            "meshes": self._meshes,
            "materials": [self._describe_material(label) for label in self._materials],
            "accessors": self._accessors,
            "bufferViews": self._views,
            "buffers": [{"byteLength": self._binary.tell()}],
        }
        if self._channels:
            document["animations"] = [{"name": "life", "samplers": self._samplers, "channels": self._channels}]
        text = json.dumps(document, separators=(",", ":"), allow_nan=False).encode("ascii")
        return text + b" " * (-len(text) % 4)

    def _describe_material(self, label: int) -> dict[str, Any]:
        red, green, blue = self._colour(label)
        return {
            "name": f"label {label}",
            "pbrMetallicRoughness": {
                "baseColorFactor": [red, green, blue, 1.0], "metallicFactor": 0.0, "roughnessFactor": 0.8,
            },
        }  # fmt: skip

    def _colour(self, label: int) -> list[float]:
        """Linear red, green, blue of a label: the middle shade of its colours in pictures."""
        shade = self._palette[(label - 1) % len(self._palette)][1]
        srgb = np.array([int(shade[at : at + 2], 16) for at in (1, 3, 5)]) / 255.0
        linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
        return [round(float(value), 6) for value in linear]


def find_faults(written: WrittenCell) -> Iterator[str]:
    """Read the file back with trimesh and compare each frame's volume with the manifest."""
    for name in written.files:
        scene: Any = trimesh.load(written.folder / name, file_type="glb", process=False)
        by_frame: dict[int, float] = {}
        for key, mesh in scene.geometry.items():
            number = int(key.split(",")[0].split()[1])
            corners = mesh.vertices[mesh.faces].astype(np.float64)
            cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
            by_frame[number] = by_frame.get(number, 0.0) + float(np.einsum("fi,fi->", corners[:, 0], cross)) / 6.0
        for frame in written.entry.frames:
            volume = by_frame.get(frame["frame"], 0.0)
            if volumes_differ(volume, frame["volume_um3"]):
                yield f"{name}: frame {frame['frame']} encloses {volume:.1f} µm³, not {frame['volume_um3']:.1f}"
