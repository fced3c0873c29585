"""Strict reader of one closed surface in STL, OBJ or PLY: triangles that enclose a cell.

Promises: an accepted surface is finite, of a size that a cell can have, and closed (every edge belongs to two triangles
with consistent orientation). A body that faces inward and lies in no other is taken for turned round, with a note; one
inside another is the wall of a cavity. :mod:`model.readers.winding` turns them. Coincident vertices count as one. The
work is bounded by counts (triangles, vertices, lines, numbers), not by the speed of the machine.
Does not promise: that the surface does not intersect itself.

Formats: binary and ASCII STL (3D Systems, 1989), Wavefront OBJ, PLY 1.0 (Turk, 1994).
"""

from __future__ import annotations

import itertools
import math
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from model.errors import UploadError

TRIANGLES_MAX = 400_000
VERTICES_MAX = 3 * TRIANGLES_MAX
LINES_MAX = 4 * VERTICES_MAX
LINE_MAX = 4096  # characters
INWARD_MAX = 8  # inward-facing bodies, cavities or turned round; each is compared with the bodies around it
SEEN_MAX = INWARD_MAX * TRIANGLES_MAX  # triangles seen from a point, to find the bodies that it lies in
FLAT = 1e-12  # a surface encloses more than this part of the cube of its length
PROPERTIES_MAX = 32  # of one PLY element
NUMBERS_MAX = 16 * VERTICES_MAX  # of a PLY file
LENGTH_MIN, LENGTH_MAX = 0.01, 1e5  # µm, along the longest side
ALLOWED = (
    f"one closed surface in µm, {LENGTH_MIN:g} to {LENGTH_MAX:g} µm long, of at most {TRIANGLES_MAX:,} triangles or "
    "quadrilaterals; STL (binary or ASCII), OBJ or PLY; one file a frame"
)
Point = tuple[float, float, float]
Face = tuple[int, int, int]
_STL_IGNORED = frozenset({"solid", "facet", "outer", "endloop", "endfacet", "endsolid"})
_OBJ_IGNORED = frozenset({"vn", "vt", "vp", "g", "o", "s", "usemtl", "mtllib"})  # other files are never opened
_PLY_TYPES = {
    "char": "b", "int8": "b", "uchar": "B", "uint8": "B", "short": "h", "int16": "h", "ushort": "H", "uint16": "H",
    "int": "i", "int32": "i", "uint": "I", "uint32": "I", "float": "f", "float32": "f", "double": "d", "float64": "d",
}  # fmt: skip
_PLY_HEADER_MAX = 65_536


@dataclass(frozen=True)
class Surface:
    """A surface that was checked.

    Attributes
    ----------
    facts
        Counts, volume, bounds and notes.
    points, faces
        As the file has them, faces of four corners cut in two.
    single
        Whether the coordinates are those of 32-bit numbers.
    """

    facts: dict[str, Any]
    points: Sequence[Point]
    faces: Sequence[Face]
    single: bool


def surface_of(data: memoryview, ending: str) -> Surface:
    """Return the surface of a file with the ending ``stl``, ``obj`` or ``ply``; raises ``UploadError``."""
    points, faces, single = {"stl": _stl, "obj": _obj, "ply": _ply}[ending](data)
    facts = _facts(points, faces)
    if ending == "stl":  # every triangle has corners of its own, as in the file
        points = [points[corner] for face in faces for corner in face]
        faces = [(k, k + 1, k + 2) for k in range(0, len(points), 3)]
    return Surface(facts, points, faces, single)


def read_stl(data: memoryview) -> dict[str, Any]:
    """Return the facts of an STL file; raises ``UploadError``."""
    points, faces, _ = _stl(data)
    return _facts(points, faces)


def read_obj(data: memoryview) -> dict[str, Any]:
    """Return the facts of an OBJ file; raises ``UploadError``."""
    points, faces, _ = _obj(data)
    return _facts(points, faces)


def read_ply(data: memoryview) -> dict[str, Any]:
    """Return the facts of a PLY file; raises ``UploadError``."""
    points, faces, _ = _ply(data)
    return _facts(points, faces)


def _stl(data: memoryview) -> tuple[list[Point], list[Face], bool]:
    count = int.from_bytes(data[80:84], "little")
    if len(data) >= 84 and len(data) == 84 + 50 * count:
        _check_count(count)
        numbered: dict[bytes, int] = {}
        number = numbered.setdefault
        faces = [
            (number(a, len(numbered)), number(b, len(numbered)), number(c, len(numbered)))
            for a, b, c in struct.iter_unpack("<12x12s12s12s2x", data[84:])
        ]
        return [struct.unpack("<3f", point) for point in numbered], faces, True
    if bytes(data[:5]).lower() == b"solid":
        return *_ascii_triangles(data), False
    raise UploadError(f"the file claims {count} triangles, which take {84 + 50 * count} bytes; it has {len(data)}")


def _obj(data: memoryview) -> tuple[list[Point], list[Face], bool]:
    points: list[Point] = []
    polygons: list[list[int]] = []
    for number, words in _lines(data):
        if words[0] == "v" and len(words) >= 4:
            points.append((float(words[1]), float(words[2]), float(words[3])))
            if len(points) > VERTICES_MAX:
                raise UploadError(f"the file has more than {VERTICES_MAX:,} vertices")
        elif words[0] == "f":
            corners = [int(word.partition("/")[0]) for word in words[1:5]]
            if len(words) > 5 or 0 in corners:
                raise UploadError(f"line {number}: a face has {len(words) - 1} corners, or one that is 0")
            polygons.append([corner - 1 if corner > 0 else len(points) + corner for corner in corners])
            _check_count(len(polygons))
        elif words[0] not in _OBJ_IGNORED:
            raise UploadError(f"line {number} cannot be understood")
    return points, _triangles(polygons, len(points)), False


def _ply(data: memoryview) -> tuple[list[Point], list[Face], bool]:
    form, elements, start = _ply_header(data)
    if form == "ascii":
        numbers = itertools.chain.from_iterable(words for _, words in _lines(data[start:]))
        points, polygons = _PlyText(numbers).elements(elements)
    else:
        order = "<" if form == "binary_little_endian" else ">"
        points, polygons = _PlyBinary(data[start:], order).elements(elements)
    single = all(kind == "f" for name, kind, _ in elements[0].properties if name in "xyz")
    return points, _triangles(polygons, len(points)), single


# ---------------------------------------------------------------------------------------------------------- the surface


def _facts(points: Sequence[Point], faces: list[Face]) -> dict[str, Any]:
    """Check a surface and describe it; ``faces`` number the points."""
    _check_count(len(faces))
    if len(faces) < 4:
        raise UploadError(f"{len(faces)} triangles enclose nothing")
    points, faces = _welded(points, faces)
    faces = [face for face in faces if len(set(face)) == 3]  # slivers that coincide with an edge
    low, high = _bounds(points)
    length = max(b - a for a, b in zip(low, high, strict=True))
    if not LENGTH_MIN <= length <= LENGTH_MAX:
        raise UploadError(f"the surface is {length:g} long")
    bodies = _check_closed(faces, len(points))
    volumes = [_volume(points, body) for body in bodies]
    if not max(map(abs, volumes)) > FLAT * length**3:
        raise UploadError("the surface encloses nothing: it is flat")
    turned = _turned(bodies, volumes, points)
    facts: dict[str, Any] = {
        "triangles": len(faces), "vertices": len(points), "bodies": len(bodies),
        "volume": math.fsum(-volume if number in turned else volume for number, volume in enumerate(volumes)),
        "bounds": [low, high],
    }  # fmt: skip
    if turned:
        which = "the surface" if len(bodies) == 1 else f"{len(turned)} of {len(bodies)} bodies"
        facts["notes"] = [f"{which} faced inward and was turned outward"]
    return facts


def _welded(points: Sequence[Point], faces: list[Face]) -> tuple[list[Point], list[Face]]:
    """Keep the points that faces use, those that coincide once, in the order of their use."""
    numbered: dict[Point, int] = {}
    target: dict[int, int] = {}
    for old in dict.fromkeys(itertools.chain.from_iterable(faces)):
        x, y, z = points[old]
        target[old] = numbered.setdefault((_finite(x), _finite(y), _finite(z)), len(numbered))
    return list(numbered), [(target[a], target[b], target[c]) for a, b, c in faces]


def _bounds(points: Iterable[Point]) -> tuple[list[float], list[float]]:
    columns = list(zip(*points, strict=True))
    return [min(column) for column in columns], [max(column) for column in columns]


def _check_closed(faces: list[Face], vertices: int) -> list[list[Face]]:
    """Refuse an open surface or one without two sides; return the faces of each body."""
    edges = [first * vertices + second for a, b, c in faces for first, second in ((a, b), (b, c), (c, a))]
    distinct = set(edges)
    if len(distinct) != len(edges):
        raise UploadError("neighbouring triangles disagree about their sides, or three share an edge")
    if any(edge % vertices * vertices + edge // vertices not in distinct for edge in edges):
        raise UploadError("the surface is open: an edge belongs to one triangle only")
    parent = list(range(vertices))

    def root(vertex: int) -> int:
        while parent[vertex] != vertex:
            parent[vertex] = parent[parent[vertex]]
            vertex = parent[vertex]
        return vertex

    for a, b, c in faces:
        top = root(a)
        parent[root(b)] = top
        parent[root(c)] = top
    bodies: dict[int, list[Face]] = {}
    for face in faces:
        bodies.setdefault(root(face[0]), []).append(face)
    return list(bodies.values())


def _turned(bodies: list[list[Face]], volumes: list[float], points: Sequence[Point]) -> set[int]:
    """Return the bodies that must be turned round, as :mod:`model.readers.winding` does it.

    The outermost bodies face outward afterwards; what lies in a body that is turned is turned with it.

    Raises
    ------
    UploadError
        If too many bodies face inward or lie in one that does, or one of them encloses nothing.
    """
    inward = [number for number, volume in enumerate(volumes) if not volume > 0.0]
    if len(inward) > INWARD_MAX:
        raise UploadError(f"{len(inward)} bodies face inward, more than the {INWARD_MAX} cavities that a cell may have")
    if not inward:
        return set()
    nesting = _Nesting(bodies, volumes, points)
    turned = {number for number in inward if volumes[nesting.outermost(number)] <= 0.0}
    for outer in [number for number in turned if nesting.outermost(number) == number]:
        if volumes[outer] == 0.0:
            raise UploadError(f"the body around {nesting.place(outer)} encloses nothing: it is flat")
        turned |= {inner for inner in nesting.in_box_of(outer) if nesting.outermost(inner) == outer}
    return turned


class _Nesting:
    """Which bodies lie in which; the work is counted."""

    def __init__(self, bodies: list[list[Face]], volumes: list[float], points: Sequence[Point]) -> None:
        self._bodies, self._sizes, self._points = bodies, [abs(volume) for volume in volumes], points
        self._bounds = [_bounds(points[vertex] for face in body for vertex in face) for body in bodies]
        self._largest_first = sorted(range(len(bodies)), key=self._sizes.__getitem__, reverse=True)
        self._outermost: dict[int, int] = {}
        self._triangles = 0  # that were looked at from a point

    def outermost(self, number: int) -> int:
        """Return the largest body that a body lies in, or itself."""
        if number not in self._outermost:
            corner = self._points[self._bodies[number][0][0]]
            around = (other for other in self._largest_first if self._may_hold(other, number))
            self._outermost[number] = next((other for other in around if self._holds(other, corner)), number)
        return self._outermost[number]

    def in_box_of(self, number: int) -> list[int]:
        """Return the smaller bodies whose boxes lie in that of a body that faces inward."""
        found = [other for other in range(len(self._bodies)) if self._may_hold(number, other)]
        if len(found) > INWARD_MAX:
            raise UploadError(
                f"{len(found)} bodies lie in one that faces inward, around {self.place(number)}; turn it round"
            )
        return found

    def place(self, number: int) -> str:
        """Return the centre of a body in words."""
        low, high = self._bounds[number]
        return "(" + ", ".join(f"{(a + b) / 2:.3g}" for a, b in zip(low, high, strict=True)) + ")"

    def _may_hold(self, outer: int, inner: int) -> bool:
        (outer_low, outer_high), (low, high) = self._bounds[outer], self._bounds[inner]
        return self._sizes[outer] > self._sizes[inner] and all(
            a <= b for a, b in zip((*outer_low, *high), (*low, *outer_high), strict=True)
        )

    def _holds(self, outer: int, point: Point) -> bool:
        self._triangles += len(self._bodies[outer])
        if self._triangles > SEEN_MAX:
            raise UploadError("it takes too long to find which bodies lie in which: bodies face inward; turn them")
        return abs(_winding(point, self._bodies[outer], self._points)) > 0.5


def _winding(point: Point, faces: list[Face], points: Sequence[Point]) -> float:
    """Return how often a closed surface winds round a point (van Oosterom and Strackee, 1983): 1 inside, 0 outside."""
    px, py, pz = point
    total = 0.0
    for face in faces:
        (ax, ay, az), (bx, by, bz), (cx, cy, cz) = (
            (points[vertex][0] - px, points[vertex][1] - py, points[vertex][2] - pz) for vertex in face
        )
        a, b, c = math.hypot(ax, ay, az), math.hypot(bx, by, bz), math.hypot(cx, cy, cz)
        triple = ax * (by * cz - bz * cy) + ay * (bz * cx - bx * cz) + az * (bx * cy - by * cx)
        ab, bc, ca = ax * bx + ay * by + az * bz, bx * cx + by * cy + bz * cz, cx * ax + cy * ay + cz * az
        total += 2.0 * math.atan2(triple, a * b * c + ab * c + bc * a + ca * b)
    return total / (4.0 * math.pi)


def _volume(points: Sequence[Point], faces: list[Face]) -> float:
    """Return the enclosed volume by the divergence theorem, from a corner of the surface so that little cancels."""
    ox, oy, oz = points[faces[0][0]]
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


def _triangles(polygons: list[list[int]], points: int) -> list[Face]:
    """Cut quadrilaterals in two."""
    faces = []
    for polygon in polygons:
        if len(polygon) not in (3, 4):
            raise UploadError(f"a face has {len(polygon)} corners")
        if min(polygon) < 0 or max(polygon) >= points:
            raise UploadError(f"a face names a vertex that is not among the {points} of the file")
        faces += [(polygon[0], polygon[k], polygon[k + 1]) for k in range(1, len(polygon) - 1)]
    return faces


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
    text = bytes(data).decode("utf-8")
    if text.count("\n") > LINES_MAX:
        raise UploadError(f"the file has more than {LINES_MAX:,} lines")
    lines = text.split("\n")
    del text
    if max(map(len, lines)) > LINE_MAX:
        raise UploadError(f"a line has more than {LINE_MAX} characters")
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if words and not words[0].startswith("#"):
            yield number, words


def _ascii_triangles(data: memoryview) -> tuple[list[Point], list[Face]]:
    """Read the corners, three a triangle."""
    corners: list[Point] = []
    for number, words in _lines(data):
        word = words[0].lower()
        if word == "vertex" and len(words) == 4:
            corners.append((float(words[1]), float(words[2]), float(words[3])))
        elif word not in _STL_IGNORED:
            raise UploadError(f"line {number} cannot be understood")
    if len(corners) % 3:
        raise UploadError("the last triangle is not complete")
    _check_count(len(corners) // 3)
    return corners, [(k, k + 1, k + 2) for k in range(0, len(corners), 3)]


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
        if len(element.properties) > PROPERTIES_MAX:
            raise UploadError(f"the element {element.name} has {len(element.properties)} properties")
    if sum(element.count * (len(element.properties) + 4) for element in elements) > NUMBERS_MAX:
        raise UploadError(f"the elements of the file have more than {NUMBERS_MAX:,} numbers")
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
        vertex, face = elements
        names = [name for name, _, size in vertex.properties]
        x, y, z = (names.index(axis) for axis in "xyz")
        points = [(row[x], row[y], row[z]) for row in self.rows(vertex)]
        return points, self.polygons(face)

    @abstractmethod
    def rows(self, element: _PlyElement) -> Iterable[Sequence[float]]:
        """Return the numbers of each row of an element without lists."""

    @abstractmethod
    def polygons(self, element: _PlyElement) -> list[list[int]]:
        """Return the list of each row of an element that has one."""


class _PlyText(_PlyReader):
    def __init__(self, words: Iterator[str]) -> None:
        self._words = words

    def rows(self, element: _PlyElement) -> Iterable[Sequence[float]]:
        width = len(element.properties)
        for _ in range(element.count):
            yield [float(word) for word in self._take(width)]

    def polygons(self, element: _PlyElement) -> list[list[int]]:
        before = [size for _, _, size in element.properties].index(next(s for _, _, s in element.properties if s))
        after = len(element.properties) - before - 1
        polygons = []
        for _ in range(element.count):
            length = _corners(int(self._take(before + 1)[-1]))
            polygons.append([int(word) for word in self._take(length + after)[:length]])
        return polygons

    def _take(self, count: int) -> list[str]:
        words = list(itertools.islice(self._words, count))
        if len(words) < count:
            raise UploadError("the file is cut off")
        return words


class _PlyBinary(_PlyReader):
    def __init__(self, data: memoryview, order: str) -> None:
        self._data, self._order, self._at = data, order, 0

    def rows(self, element: _PlyElement) -> Iterable[Sequence[float]]:
        row = struct.Struct(self._order + "".join(item for _, item, _ in element.properties))
        return row.iter_unpack(self._take(element.count * row.size))

    def polygons(self, element: _PlyElement) -> list[list[int]]:
        sizes = [size for _, _, size in element.properties]
        at = sizes.index(next(size for size in sizes if size))
        items = "".join(item for _, item, _ in element.properties)
        head = struct.Struct(self._order + items[:at] + sizes[at])
        bodies = {length: struct.Struct(self._order + items[at] * length + items[at + 1 :]) for length in (3, 4)}
        polygons = []
        for _ in range(element.count):
            length = _corners(int(head.unpack(self._take(head.size))[-1]))
            body = bodies[length]
            polygons.append([int(corner) for corner in body.unpack(self._take(body.size))[:length]])
        return polygons

    def _take(self, size: int) -> memoryview:
        start, self._at = self._at, self._at + size
        if self._at > len(self._data):
            raise UploadError("the file is cut off")
        return self._data[start : self._at]


def _corners(length: int) -> int:
    if not 3 <= length <= 4:
        raise UploadError(f"a face has {length} corners")
    return length
