"""Analytic signed distance functions whose volume, area and topology are known.

Each shape is a :class:`Shape`: call it with points (n, 3) float32 to get distances (n,) float32, exact or (smooth
unions) with Lipschitz bound ``lipschitz``. Arithmetic is elementwise, so a value does not depend on its neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float32]
Distances = NDArray[np.float32]
Point = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A signed distance function and what is known of it; unknown figures are NaN."""

    sdf: Callable[[Points], Distances]
    volume: float = math.nan
    area: float = math.nan
    euler_number: int = 2
    components: int = 1
    lipschitz: float = 1.0

    def __call__(self, points: Points) -> Distances:
        """Signed distances (n,) float32 of points (n, 3)."""
        return self.sdf(points)


def sphere(radius: float = 0.6, *, centre: Point = (0.0, 0.0, 0.0)) -> Shape:
    """Build a ball: Euler number 2."""

    def sdf(points: Points) -> Distances:
        return np.asarray(_length(points - np.float32(centre)) - np.float32(radius), dtype=np.float32)

    return Shape(sdf=sdf, volume=4 / 3 * math.pi * radius**3, area=4 * math.pi * radius**2)


def torus(major: float = 0.55, minor: float = 0.22) -> Shape:
    """Build a torus around the z axis: Euler number 0."""

    def sdf(points: Points) -> Distances:
        ring = np.hypot(points[:, 0], points[:, 1]) - np.float32(major)
        return np.asarray(np.hypot(ring, points[:, 2]) - np.float32(minor), dtype=np.float32)

    return Shape(sdf=sdf, volume=2 * math.pi**2 * major * minor**2, area=4 * math.pi**2 * major * minor, euler_number=0)


def capsule(start: Point, end: Point, radius: float) -> Shape:
    """Build a cylinder with round ends."""
    a, ab = np.float32(start), np.float32(end) - np.float32(start)
    length = float(np.sqrt((ab * ab).sum()))

    def sdf(points: Points) -> Distances:
        ap = points - a
        along = np.clip((ap * ab).sum(axis=1) / np.float32(max(length**2, 1e-12)), 0.0, 1.0)
        return np.asarray(_length(ap - along[:, None] * ab) - np.float32(radius), dtype=np.float32)

    return Shape(
        sdf=sdf,
        volume=math.pi * radius**2 * (length + 4 / 3 * radius),
        area=2 * math.pi * radius * (length + 2 * radius),
    )


def box(half: Point = (0.5, 0.4, 0.3)) -> Shape:
    """Build a box with sharp edges."""

    def sdf(points: Points) -> Distances:
        q = np.abs(points) - np.float32(half)
        return np.asarray(_length(np.maximum(q, 0.0)) + np.minimum(q.max(axis=1), 0.0), dtype=np.float32)

    a, b, c = half
    return Shape(sdf=sdf, volume=8 * a * b * c, area=8 * (a * b + b * c + c * a))


def union(*shapes: Shape) -> Shape:
    """Unite shapes that do not touch: volumes, areas, components and Euler numbers add up."""

    def sdf(points: Points) -> Distances:
        return np.asarray(np.minimum.reduce([shape(points) for shape in shapes]), dtype=np.float32)

    return Shape(
        sdf=sdf,
        volume=sum(shape.volume for shape in shapes),
        area=sum(shape.area for shape in shapes),
        euler_number=sum(shape.euler_number for shape in shapes),
        components=sum(shape.components for shape in shapes),
        lipschitz=max(shape.lipschitz for shape in shapes),
    )


def smooth_union(*shapes: Shape, width: float = 0.15) -> Shape:
    """Blend shapes (log-sum-exp of their distances); keeps the Lipschitz bound, volume unknown."""

    def sdf(points: Points) -> Distances:
        values = np.stack([shape(points) for shape in shapes])  # (shapes, n)
        low = values.min(axis=0)
        return np.asarray(
            low - np.float32(width) * np.log(np.exp((low - values) / np.float32(width)).sum(axis=0)), dtype=np.float32
        )

    return Shape(sdf=sdf, lipschitz=max(shape.lipschitz for shape in shapes))


def scaled(shape: Shape, slope: float) -> Shape:
    """Multiply the distances: the same surface with another Lipschitz bound."""
    return Shape(
        sdf=lambda points: np.asarray(shape(points) * np.float32(slope), dtype=np.float32),
        volume=shape.volume,
        area=shape.area,
        euler_number=shape.euler_number,
        components=shape.components,
        lipschitz=shape.lipschitz * slope,
    )


def dividing_cell(time: float, *, radius: float = 0.42) -> Shape:
    """Build a cell that elongates from τ = −1, is two daughters (one a little smaller) from about t = 0.3 on."""
    reach = max(0.0, (time + 0.7) / 1.7) * 0.5
    shrink = 1.0 - 0.2 * max(0.0, (time + 0.7) / 1.7)
    mother = sphere(radius * shrink, centre=(-reach, 0.1 * reach, 0.0))
    daughter = sphere(radius * shrink * (1.0 - 0.15 * reach), centre=(reach, -0.1 * reach, 0.15 * reach))
    return smooth_union(mother, daughter, width=0.02)


def filopodia_cell(time: float, *, seed: int = 0, arms: int = 9) -> Shape:
    """Build a migrating body with thin arms that swing and change in length."""
    rng = np.random.default_rng(seed)
    body = smooth_union(
        sphere(0.36, centre=(0.06 * time, 0.0, 0.0)),
        sphere(0.28, centre=(0.2 + 0.05 * time, 0.15, 0.05)),
        sphere(0.26, centre=(-0.2, -0.12 + 0.05 * time, -0.05)),
        width=0.06,
    )
    parts = [body]
    for _ in range(arms):
        direction = rng.standard_normal(3)
        direction /= np.linalg.norm(direction)
        bend = rng.standard_normal(3) * 0.15
        phase, span = rng.uniform(0, 2 * math.pi), rng.uniform(0.55, 0.85)
        length = span * (0.8 + 0.2 * math.sin(2.2 * time + phase))
        elbow = 0.55 * length * direction
        tip = length * direction + bend * (1 + 0.5 * time)
        parts.append(capsule((0.0, 0.0, 0.0), _triple(elbow), 0.07))
        parts.append(capsule(_triple(elbow), _triple(tip), 0.04))
    return smooth_union(*parts, width=0.025)


def _triple(point: NDArray[np.float64]) -> Point:
    x, y, z = point.tolist()
    return x, y, z


def _length(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(np.sqrt((vectors * vectors).sum(axis=1)), dtype=np.float32)
