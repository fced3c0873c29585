"""Orientation of the triangles of each body of a mesh, by where the bodies lie.

Promises: a closed body that lies in no other faces outward afterwards, whatever the file says. A body inside a turned
body is turned with it, so that the wall of a cavity stays one.
Does not promise: anything about open sheets, or about bodies that intersect.

References: solid angle of a triangle, Van Oosterom and Strackee 1983, doi:10.1109/TBME.1983.325207.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from model.membranes.triangle_distance import Doubles, Membrane

PROBES = 16  # points of a body that are tested for lying in another body


@dataclass(frozen=True)
class Facing:
    """A membrane whose outermost bodies face outward.

    Attributes
    ----------
    turned
        Outermost bodies that faced inward.
    nested
        Bodies that lie directly in another and face the same way: neither walls of a cavity nor cells of their own.
    """

    membrane: Membrane
    turned: int
    nested: int


def facing_outward(membrane: Membrane) -> Facing:
    """Turn the bodies of a membrane so that the outermost ones face outward."""
    sheet_of_face = _sheets(membrane.faces)
    ends = np.cumsum(np.bincount(sheet_of_face))[:-1]
    sheets = np.split(np.argsort(sheet_of_face, kind="stable"), ends)
    parts = [Membrane(membrane.vertices, membrane.faces[rows]) for rows in sheets]
    volumes = np.array([part.volume for part in parts])
    depth, outermost = _nesting(parts, volumes)
    flips = [volumes[outermost[k]] < 0 for k in range(len(parts))]
    faces = membrane.faces.copy()
    for rows, flip in zip(sheets, flips, strict=True):
        if flip:
            faces[rows] = faces[rows][:, ::-1]
    outward = (volumes > 0) != np.array(flips)
    return Facing(
        Membrane(membrane.vertices, faces),
        turned=sum(1 for k, flip in enumerate(flips) if flip and depth[k] == 0),
        nested=sum(1 for k, out in enumerate(outward) if depth[k] and volumes[k] and bool(out) != (depth[k] % 2 == 0)),
    )


def _sheets(faces: NDArray[np.int32]) -> NDArray[np.int64]:
    """Number the sets of triangles that are joined by edges; a corner in common does not join."""
    edges = np.sort(faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).astype(np.int64), axis=1)
    _, edge_of = np.unique(edges[:, 0] * (int(faces.max()) + 1) + edges[:, 1], return_inverse=True)
    rows = np.repeat(np.arange(len(faces)), 3)
    count = len(faces)
    size = count + int(edge_of.max()) + 1
    graph = coo_array((np.ones(len(rows), np.int8), (rows, count + edge_of.reshape(-1))), shape=(size, size))
    _, found = connected_components(graph, directed=False)
    _, numbers = np.unique(found[:count], return_inverse=True)
    return np.asarray(numbers.reshape(-1), dtype=np.int64)


def _nesting(parts: list[Membrane], volumes: Doubles) -> tuple[list[int], list[int]]:
    """For each part: how many others it lies in, and the outermost of them, or itself."""
    lows = np.array([part.corners.min(axis=(0, 1)) for part in parts])
    highs = np.array([part.corners.max(axis=(0, 1)) for part in parts])
    order = np.argsort(-np.abs(volumes))
    depth, outermost = [0] * len(parts), list(range(len(parts)))
    for rank, inner in enumerate(order):
        larger = order[:rank]
        around = (lows[larger] <= lows[inner]).all(axis=1) & (highs[larger] >= highs[inner]).all(axis=1)
        for outer in larger[around]:
            if not _lies_in(parts[inner], parts[outer]):
                continue
            depth[inner] += 1
            if depth[outer] == 0:
                outermost[inner] = int(outer)
    return depth, outermost


def _lies_in(inner: Membrane, outer: Membrane) -> bool:
    """Whether probes all over one surface lie inside another, by the solid angle that it covers as seen from them."""
    chosen = np.linspace(0, len(inner.faces) - 1, min(PROBES, len(inner.faces))).astype(int)
    for probe in inner.corners[chosen].mean(axis=1):
        a, b, c = np.moveaxis(outer.corners - probe, 1, 0)
        la, lb, lc = (np.linalg.norm(side, axis=1) for side in (a, b, c))
        over = np.einsum("ij,ij->i", a, np.cross(b, c))
        under = (
            la * lb * lc
            + np.einsum("ij,ij->i", a, b) * lc
            + np.einsum("ij,ij->i", b, c) * la
            + np.einsum("ij,ij->i", c, a) * lb
        )
        if abs(float(np.arctan2(over, under).sum())) < np.pi:  # half the angle: 2π inside, 0 outside
            return False
    return True
