"""Reads one closed surface out of STL, OBJ or PLY, strictly: triangles that enclose a cell, facing outward.

Promises: what passes is finite, of a size that a cell can have, closed (every edge belongs to two triangles that agree
about their sides) and encloses a positive volume. Vertices that coincide count as one.
Does not promise: that the surface does not cut through itself.

Formats: binary and ASCII STL (3D Systems, 1989), Wavefront OBJ, PLY 1.0 (Turk, 1994).
"""

from __future__ import annotations

import itertools
import math
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any

from model.errors import UploadError

TRIANGLES_MAX = 400_000
VERTICES_MAX = 3 * TRIANGLES_MAX
LINES_MAX = 4 * VERTICES_MAX
LENGTH_MIN, LENGTH_MAX = 0.01, 1e5  # µm, along the longest side
ALLOWED = (
    f"one closed surface in µm, {LENGTH_MIN:g} to {LENGTH_MAX:g} µm long, of at most {TRIANGLES_MAX:,} triangles or "
    "quadrilaterals that face outward; STL (binary or ASCII), OBJ or PLY; one file a frame"
)
Point = tuple[float, float, float]
_OBJ_IGNORED = frozenset({"vn", "vt", "vp", "g", "o", "s", "usemtl", "mtllib"})  # other files are never opened
_PLY_TYPES = {
    "char": "b", "int8": "b", "uchar": "B", "uint8": "B", "short": "h", "int16": "h", "ushort": "H", "uint16": "H",
    "int": "i", "int32": "i", "uint": "I", "uint32": "I", "float": "f", "float32": "f", "double": "d", "float64": "d",
}  # fmt: skip
_PLY_HEADER_MAX = 65_536


def read_stl(data: memoryview) -> dict[str, Any]:
    """Return the facts of an STL file; raises ``UploadError``."""
    count = int.from_bytes(data[80:84], "little")
    if len(data) >= 84 and len(data) == 84 + 50 * count:
        _check_count(count)
        rows = struct.iter_unpack("<12fH", data[84:])
        return _facts(_welded((row[3:6], row[6:9], row[9:12]) for row in rows))
    if bytes(data[:5]).lower() == b"solid":
        return _facts(_welded(_ascii_triangles(data)))
    raise UploadError(f"the file claims {count} triangles, which take {84 + 50 * count} bytes; it has {len(data)}")


def read_obj(data: memoryview) -> dict[str, Any]:
    """Return the facts of an OBJ file; raises ``UploadError``."""
    points: list[Point] = []
    polygons: list[list[int]] = []
    for number, words in _lines(data):
        if words[0] == "v" and len(words) >= 4:
            points.append((float(words[1]), float(words[2]), float(words[3])))
        elif words[0] == "f":
            corners = [int(word.partition("/")[0]) for word in words[1:5]]
            if len(words) > 5 or 0 in corners:
                raise UploadError(f"line {number}: a face has {len(words) - 1} corners, or one that is 0")
            polygons.append([corner - 1 if corner > 0 else len(points) + corner for corner in corners])
        elif words[0] not in _OBJ_IGNORED:
            raise UploadError(f"line {number} cannot be understood")
        _check_count(len(polygons))
        if len(points) > VERTICES_MAX:
            raise UploadError(f"the file has more than {VERTICES_MAX:,} vertices")
    return _facts(_resolved(points, polygons))


def read_ply(data: memoryview) -> dict[str, Any]:
    """Return the facts of a PLY file; raises ``UploadError``."""
    form, elements, start = _ply_header(data)
    if form == "ascii":
        numbers = itertools.chain.from_iterable(words for _, words in _lines(data[start:]))
        read = _PlyText(numbers)
        return _facts(_resolved(*read.elements(elements)))
    body = _PlyBinary(data[start:], "<" if form == "binary_little_endian" else ">")
    return _facts(_resolved(*body.elements(elements)))


# ---------------------------------------------------------------------------------------------------------- the surface


def _facts(triangles: list[tuple[Point, Point, Point]]) -> dict[str, Any]:
    """Check a surface and describe it."""
    _check_count(len(triangles))
    if len(triangles) < 4:
        raise UploadError(f"{len(triangles)} triangles enclose nothing")
    numbered: dict[Point, int] = {}
    faces = [tuple(numbered.setdefault(point, len(numbered)) for point in triangle) for triangle in triangles]
    faces = [face for face in faces if len(set(face)) == 3]  # slivers that coincide with an edge
    low = [min(point[axis] for point in numbered) for axis in range(3)]
    high = [max(point[axis] for point in numbered) for axis in range(3)]
    length = max(b - a for a, b in zip(low, high, strict=True))
    if not all(map(math.isfinite, (*low, *high))) or not LENGTH_MIN <= length <= LENGTH_MAX:
        raise UploadError(f"the surface is {length:g} long")
    bodies = _check_closed(faces, len(numbered))
    volume = _volume(list(numbered), faces)
    if not volume > 0.0:
        raise UploadError("the surface is inside out: its triangles face inward; turn them round")
    return {
        "triangles": len(faces), "vertices": len(numbered), "bodies": bodies, "volume": volume,
        "bounds": [low, high],
    }  # fmt: skip


def _check_closed(faces: list[tuple[int, ...]], vertices: int) -> int:
    """Refuse an open surface or one without two sides; return how many bodies there are."""
    edges: set[int] = set()
    parent = list(range(vertices))

    def root(vertex: int) -> int:
        while parent[vertex] != vertex:
            parent[vertex] = parent[parent[vertex]]
            vertex = parent[vertex]
        return vertex

    for a, b, c in faces:
        for first, second in ((a, b), (b, c), (c, a)):
            edge = first * vertices + second
            if edge in edges:
                raise UploadError("neighbouring triangles disagree about their sides, or three share an edge")
            edges.add(edge)
        parent[root(b)] = root(a)
        parent[root(c)] = root(a)
    for edge in edges:
        first, second = divmod(edge, vertices)
        if second * vertices + first not in edges:
            raise UploadError("the surface is open: an edge belongs to one triangle only")
    return len({root(vertex) for face in faces for vertex in face})


def _volume(points: list[Point], faces: list[tuple[int, ...]]) -> float:
    """Return the enclosed volume by the divergence theorem, from a corner of the surface so that little cancels."""
    ox, oy, oz = points[0]
    total = 0.0
    for a, b, c in faces:
        ax, ay, az = points[a]
        bx, by, bz = points[b]
        cx, cy, cz = points[c]
        ax, ay, az, bx, by, bz, cx, cy, cz = (
            ax - ox, ay - oy, az - oz, bx - ox, by - oy, bz - oz, cx - ox, cy - oy, cz - oz,
        )  # fmt: skip
        total += ax * (by * cz - bz * cy) + ay * (bz * cx - bx * cz) + az * (bx * cy - by * cx)
    return total / 6.0


def _welded(triangles: Iterable[tuple[Any, Any, Any]]) -> list[tuple[Point, Point, Point]]:
    """Make points of numbers, with one zero instead of two, so that coinciding vertices are equal."""
    return [
        tuple((_finite(x), _finite(y), _finite(z)) for x, y, z in triangle)  # type: ignore[misc]
        for triangle in triangles
    ]


def _resolved(points: list[Point], polygons: list[list[int]]) -> list[tuple[Point, Point, Point]]:
    """Cut quadrilaterals in two and put points for their numbers."""
    points = [(_finite(x), _finite(y), _finite(z)) for x, y, z in points]
    triangles = []
    for polygon in polygons:
        if len(polygon) not in (3, 4):
            raise UploadError(f"a face has {len(polygon)} corners")
        if min(polygon) < 0 or max(polygon) >= len(points):
            raise UploadError(f"a face names a vertex that is not among the {len(points)} of the file")
        for k in range(1, len(polygon) - 1):
            triangles.append((points[polygon[0]], points[polygon[k]], points[polygon[k + 1]]))
    return triangles


def _finite(number: float) -> float:
    if not -1e30 < number < 1e30:
        raise UploadError("a vertex is not a finite point")
    return number + 0.0


def _check_count(triangles: int) -> None:
    if triangles > TRIANGLES_MAX:
        raise UploadError(f"the surface has {triangles:,} triangles")


# ------------------------------------------------------------------------------------------------------------ the files


def _lines(data: memoryview) -> Iterator[tuple[int, list[str]]]:
    """Yield number and words of each line that says something."""
    number = 0
    for number, line in enumerate(_split(data), start=1):
        words = line.split()
        if words and not words[0].startswith("#"):
            yield number, words
        if number > LINES_MAX:
            raise UploadError(f"the file has more than {LINES_MAX:,} lines")


def _split(data: memoryview) -> Iterator[str]:
    text = bytes(data).decode("utf-8")
    start = 0
    while start < len(text):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        if end - start > 4096:
            raise UploadError("a line has more than 4096 characters")
        yield text[start:end]
        start = end + 1


def _ascii_triangles(data: memoryview) -> Iterator[tuple[Point, Point, Point]]:
    corners: list[Point] = []
    for number, words in _lines(data):
        word = words[0].lower()
        if word == "vertex" and len(words) == 4:
            corners.append((float(words[1]), float(words[2]), float(words[3])))
            if len(corners) % 3 == 0:
                _check_count(len(corners) // 3)
                yield corners[-3], corners[-2], corners[-1]
        elif word not in ("solid", "facet", "outer", "endloop", "endfacet", "endsolid"):
            raise UploadError(f"line {number} cannot be understood")
    if len(corners) % 3:
        raise UploadError("the last triangle is not complete")


def _ply_header(data: memoryview) -> tuple[str, list[_PlyElement], int]:
    head = bytes(data[:_PLY_HEADER_MAX])
    end = head.find(b"end_header\n")
    if not head.startswith(b"ply\n") or end < 0:
        raise UploadError("the file does not begin as a PLY does")
    first, *lines = head[4:end].decode("ascii").splitlines()
    form = first.removeprefix("format ").removesuffix(" 1.0")
    if form not in ("ascii", "binary_little_endian", "binary_big_endian"):
        raise UploadError("the second line must name a format of PLY 1.0")
    elements = _ply_elements(lines)
    if [element.name for element in elements] != ["vertex", "face"]:
        raise UploadError("the file must have the elements vertex and face, in this order")
    for element, most in zip(elements, (VERTICES_MAX, TRIANGLES_MAX), strict=True):
        if not 0 <= element.count <= most:
            raise UploadError(f"the file claims {element.count} elements {element.name}; at most {most:,} may be")
    if [name for name, _, size in elements[1].properties if size] not in (["vertex_indices"], ["vertex_index"]):
        raise UploadError("the element face must have one list, vertex_indices")
    if not {"x", "y", "z"} <= {name for name, _, size in elements[0].properties if not size}:
        raise UploadError("the element vertex must have x, y and z")
    return form, elements, end + len(b"end_header\n")


def _ply_elements(lines: list[str]) -> list[_PlyElement]:
    elements: list[_PlyElement] = []
    for line in lines:
        match line.split():
            case ["element", ("vertex" | "face") as name, count]:
                elements.append(_PlyElement(name, int(count)))
            case ["property", "list", size, item, name] if elements:
                elements[-1].properties.append((name, _PLY_TYPES[item], _PLY_TYPES[size]))
            case ["property", item, name] if elements:
                elements[-1].properties.append((name, _PLY_TYPES[item], ""))
            case ["comment" | "obj_info", *_] | []:
                pass
            case _:
                raise UploadError("the header of the file has a line that cannot be understood")
    return elements


class _PlyElement:
    """What the header says of one element; a property is name, type, and the type of its length if it is a list."""

    def __init__(self, name: str, count: int) -> None:
        self.name, self.count = name, count
        self.properties: list[tuple[str, str, str]] = []


class _PlyReader(ABC):
    """Reads the elements in the order the header gives them."""

    def elements(self, elements: list[_PlyElement]) -> tuple[list[Point], list[list[int]]]:
        """Return the points and the corners of the faces."""
        points: list[Point] = []
        polygons: list[list[int]] = []
        for element in elements:
            for _ in range(element.count):
                row: dict[str, Any] = {}
                for name, item, size in element.properties:
                    if not size:
                        row[name] = self.take(item)
                        continue
                    length = int(self.take(size))
                    if not 3 <= length <= 4:
                        raise UploadError(f"a face has {length} corners")
                    row["corners"] = [int(self.take(item)) for _ in range(length)]
                if element.name == "vertex":
                    points.append((row["x"], row["y"], row["z"]))
                else:
                    polygons.append(row["corners"])
        return points, polygons

    @abstractmethod
    def take(self, code: str) -> float:
        """Return the next number."""


class _PlyText(_PlyReader):
    def __init__(self, words: Iterator[str]) -> None:
        self._words = words

    def take(self, code: str) -> float:
        word = next(self._words, None)
        if word is None:
            raise UploadError("the file is cut off")
        return float(word) if code in "fd" else int(word)


class _PlyBinary(_PlyReader):
    def __init__(self, data: memoryview, order: str) -> None:
        self._data, self._at = data, 0
        self._structs = {code: struct.Struct(order + code) for code in "bBhHiIfd"}

    def take(self, code: str) -> float:
        layout = self._structs[code]
        if self._at + layout.size > len(self._data):
            raise UploadError("the file is cut off")
        number: float = layout.unpack_from(self._data, self._at)[0]
        self._at += layout.size
        return number
