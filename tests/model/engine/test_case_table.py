"""Promises of model.engine.case_table: every case closes, whatever lies behind its faces."""

from __future__ import annotations

from collections import Counter

import numpy as np

from model.engine.case_table import CORNERS, EDGES, triangle_table

TABLE = triangle_table()


def triangles(case: int) -> list[tuple[int, int, int]]:
    row = TABLE[case][TABLE[case] >= 0].reshape(-1, 3)
    return [(int(a), int(b), int(c)) for a, b, c in row]


def on_face(edge: int, axis: int, end: int) -> bool:
    corner, along = EDGES[edge]
    return bool(along != axis and CORNERS[corner][axis] == end)


def test_every_crossed_edge_has_a_vertex_and_no_other() -> None:
    for case in range(256):
        crossed = {n for n, (low, axis) in enumerate(EDGES) if (case >> low & 1) != (case >> (low | 4 >> axis) & 1)}
        assert {edge for triangle in triangles(case) for edge in triangle} == crossed


def test_triangles_close_but_on_the_faces() -> None:
    """An edge of the triangulation within the cell has two triangles; one on a face has one, and never more."""
    for case in range(256):
        count = Counter(frozenset(pair) for a, b, c in triangles(case) for pair in ((a, b), (b, c), (c, a)))
        for pair, times in count.items():
            shared = [(axis, end) for axis in range(3) for end in (0, 1) if all(on_face(e, axis, end) for e in pair)]
            assert times == (1 if shared else 2), (case, sorted(pair))


def test_neighbours_draw_the_same_lines_on_their_common_face() -> None:
    """For all 16 signs of a face, every cell above and below it draws the same lines, in opposite directions."""

    def lines(case: int, axis: int, end: int) -> frozenset[tuple[tuple[float, ...], tuple[float, ...]]]:
        found = set()
        for a, b, c in triangles(case):
            for first, second in ((a, b), (b, c), (c, a)):
                if on_face(first, axis, end) and on_face(second, axis, end):
                    ends = []
                    for edge in (first, second):
                        middle = CORNERS[EDGES[edge][0]] + 0.5 * np.eye(3)[EDGES[edge][1]]
                        ends.append(tuple(np.delete(middle, axis).tolist()))
                    found.add((ends[0], ends[1]))
        return frozenset(found)

    for axis in range(3):
        bit = 4 >> axis
        low = [n for n in range(8) if not n & bit]
        below: dict[tuple[int, ...], set[object]] = {}
        above: dict[tuple[int, ...], set[object]] = {}
        for case in range(256):
            above.setdefault(tuple(case >> n & 1 for n in low), set()).add(lines(case, axis, 0))
            below.setdefault(tuple(case >> (n | bit) & 1 for n in low), set()).add(
                frozenset((b, a) for a, b in lines(case, axis, 1))
            )
        for signs, drawn in above.items():
            assert len(drawn) == 1
            assert drawn == below[signs]


def test_inside_corners_are_joined_across_a_face_but_not_across_the_cell() -> None:
    def sheets(case: int) -> int:
        groups: list[set[int]] = []
        for triangle in triangles(case):
            touching = [group for group in groups if group & set(triangle)]
            groups = [group for group in groups if group not in touching]
            groups.append(set(triangle).union(*touching))
        return len(groups)

    assert sheets(1 << 0 | 1 << 3) == 1  # across a face's diagonal
    assert sheets(1 << 0 | 1 << 7) == 2  # across the cell's
