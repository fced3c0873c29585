"""Tubes: compiled distances to curved, tapering axes, and their smooth union with a body.

Promises: the distance to one tube is exact where its axis bends less than its radius; far from the others a tube is not
changed by them.
Does not promise: distances where tubes are blended; :class:`~model.phantoms.implicit_distance.ShapeFrame` restores
them.
"""

import numpy as np
from numpy.typing import NDArray

from model.engine.jit import compiled

Doubles = NDArray[np.float64]

GROUP = 4  # segments of an axis that a point passes by together, where they are too far to count


@compiled
def _cone(chain: Doubles, k: int, x: float, y: float, z: float) -> tuple[float, float]:
    """Return the distance from a point to the round cone from node k to the next, and the place of its foot, in nodes.

    A round cone is the union of the spheres between two; radius and centre go linearly from one to the other. For a
    point at r across and h along its axis, the radius falling by δ per unit of length, the nearest sphere is at
    h - rδ/√(1-δ²).
    """
    ax, ay, az = chain[k + 1, 0] - chain[k, 0], chain[k + 1, 1] - chain[k, 1], chain[k + 1, 2] - chain[k, 2]
    px, py, pz = x - chain[k, 0], y - chain[k, 1], z - chain[k, 2]
    length = max(np.sqrt(ax * ax + ay * ay + az * az), 1e-9)
    along = (px * ax + py * ay + pz * az) / length
    across = np.sqrt(max(px * px + py * py + pz * pz - along * along, 0.0))
    taper = max(min((chain[k, 3] - chain[k + 1, 3]) / length, 0.9), -0.9)
    foot = min(max(along - across * taper / np.sqrt(1.0 - taper * taper), 0.0), length)
    return np.sqrt(across * across + (along - foot) ** 2) - chain[k, 3] + taper * foot, k + foot / length


@compiled
def _tube(chain: Doubles, place: float, x: float, y: float, z: float) -> float:
    """Return the distance from a point to the tube along a smooth axis, from a place, in nodes, near its foot.

    Axis and radius are cubic between nodes. Three Newton steps find the sphere that is nearest, so that unlike the
    chain of round cones the tube has no creases.
    """
    last = len(chain) - 1
    p = (x, y, z)
    for step in range(4):
        k = min(int(place), last - 1)
        f = place - k
        squared, speed, along, bend = 0.0, 0.0, 0.0, 0.0  # |q|², |c'|², q·c' and q·c'' for q = p - c
        radius, slope = 0.0, 0.0
        for axis in range(4):
            start, rate = chain[k, axis], chain[k, 4 + axis]
            whole, end_rate = chain[k + 1, axis] - start, chain[k + 1, 4 + axis]
            second, third = 3.0 * whole - 2.0 * rate - end_rate, rate + end_rate - 2.0 * whole
            value = start + f * (rate + f * (second + f * third))
            change = rate + f * (2.0 * second + 3.0 * f * third)
            if axis == 3:
                radius, slope = value, change
            else:
                q = p[axis] - value
                squared += q * q
                speed += change * change
                along += q * change
                bend += q * (2.0 * second + 6.0 * f * third)
        distance = np.sqrt(squared)
        if step < 3:
            move = (along + slope * distance) / max(speed - bend, 0.3 * speed, 1e-12)
            place = min(max(place + max(min(move, 1.0), -1.0), 0.0), float(last))
    return float(distance - radius)


@compiled
def _ball(nodes: Doubles) -> tuple[float, float, float, float]:
    """Return the centre and radius of a ball that holds the round cones between nodes (n, 8)."""
    cx, cy, cz = nodes[:, 0].mean(), nodes[:, 1].mean(), nodes[:, 2].mean()
    bound = 0.0
    for k in range(len(nodes)):
        dx, dy, dz = nodes[k, 0] - cx, nodes[k, 1] - cy, nodes[k, 2] - cz
        bound = max(bound, np.sqrt(dx * dx + dy * dy + dz * dz) + nodes[k, 3])
    return cx, cy, cz, bound


@compiled
def _nearest_cone(chain: Doubles, balls: Doubles, limit: float, x: float, y: float, z: float) -> tuple[float, float]:
    """Return the distance from a point to the nearest round cone, and the place of its foot; ∞, 0 beyond ``limit``.

    ``balls`` (g, 4) hold the cones group by group: a group is passed by where its ball is beyond what is found.
    """
    nearest, place = np.inf, 0.0
    for group in range(len(balls)):
        reach = min(nearest, limit) + balls[group, 3]
        dx, dy, dz = x - balls[group, 0], y - balls[group, 1], z - balls[group, 2]
        if reach < 0.0 or dx * dx + dy * dy + dz * dz > reach * reach:
            continue
        for k in range(group * GROUP, min(group * GROUP + GROUP, len(chain) - 1)):
            distance, foot = _cone(chain, k, x, y, z)
            if distance < nearest:
                nearest, place = distance, foot
    return nearest, place


@compiled
def union(values: Doubles, points: Doubles, chains: Doubles, blends: Doubles) -> None:
    """Blend tubes (f, n, 8) into the values (n,) at points (n, 3), one after the other.

    The smooth union is a cubic in the difference of both values, and equals the minimum where that is over the width.
    """
    groups = (chains.shape[1] - 2 + GROUP) // GROUP  # of segments
    balls = np.empty((groups, 4))
    for f in range(len(chains)):
        chain, blend = chains[f], blends[f]
        cx, cy, cz, bound = _ball(chain)
        bound += 0.02  # what an axis, cubic between nodes, bulges
        for group in range(groups):
            balls[group] = _ball(chain[group * GROUP : group * GROUP + GROUP + 1])
        for i in range(len(points)):
            x, y, z = points[i, 0], points[i, 1], points[i, 2]
            if np.sqrt((x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2) - bound > values[i] + blend:
                continue
            limit = values[i] + blend + 0.02
            nearest, place = _nearest_cone(chain, balls, limit, x, y, z)
            if nearest > limit:
                continue
            nearest = _tube(chain, place, x, y, z)
            overlap = max(blend - abs(values[i] - nearest), 0.0)
            values[i] = min(values[i], nearest)
            if overlap > 0.0:
                values[i] -= overlap * overlap * overlap / (6.0 * blend * blend)
