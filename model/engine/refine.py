"""Compiled steps of the sparse evaluation: which blocks to skip, which samples to evaluate.

Each step reads the stored samples and lists those whose distance the next step needs; :mod:`model.engine.sparse`
evaluates them in between. A block that the Lipschitz bound alone cannot rule out may, near the membrane, be decided by
its corners: if their distances rise in one direction, the block lies beside a nearly plane sheet, and the sheet crosses
only the grid cells that a linear interpolation predicts, and their neighbours.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from model.engine.bricks import BOUND, CELL, KNOWN, SAMPLES, UNKNOWN, WHAT, claim, claim_brick, locate
from model.engine.jit import compiled

_SLACK = 1.25  # factor on the slope measured at a block's corners; larger evaluates more and misses less
_PLANAR = 0.6  # share of the median slope that the corners must show in one direction for a block to count as a sheet
_FLAT = 0.88  # the same for blocks whose corners have one sign; smaller misses more detached components (decision 9)
_BENT = 0.8  # share of the distance from a corner to the centre of such a block by which a sheet may leave its plane
_ROUNDING = 1e-5  # units of Ω: allowance for float32 rounding in the signed distance function
_ASKED = 8  # bit of a sample's state: already in the list being made


@compiled
def coordinates(samples: Any, x: Any, y: Any, z: Any, out: Any) -> None:
    """Coordinates (n, 3) of samples (n, 3), from those along the axes."""
    for q in range(len(samples)):
        out[q, 0] = x[samples[q, 0]]
        out[q, 1] = y[samples[q, 1]]
        out[q, 2] = z[samples[q, 2]]


@compiled
def claim_all(table: Any, values: Any, bounds: Any, state: Any, used: Any, samples: Any) -> None:
    """Give samples (n, 3) a place."""
    for q in range(len(samples)):
        claim(table, values, bounds, state, used, samples[q, 0], samples[q, 1], samples[q, 2])


@compiled
def store(table: Any, values: Any, bounds: Any, state: Any, samples: Any, found: Any) -> int:
    """Store the distances (n,) of samples (n, 3) that have a place; return how many contradict the bound there."""
    value, bound, what = values.reshape(-1), bounds.reshape(-1), state.reshape(-1)
    refuted = 0
    for q in range(len(samples)):
        at = locate(table, samples[q, 0], samples[q, 1], samples[q, 2])
        if what[at] & WHAT == BOUND and (abs(found[q]) < abs(bound[at]) or (found[q] < 0) != (bound[at] < 0)):
            refuted += 1
        value[at] = bound[at] = found[q]
        what[at] = (what[at] & ~np.uint8(WHAT)) | KNOWN
    return refuted


@compiled
def split_blocks(
    table: Any, values: Any, bounds: Any, state: Any, used: Any, shape: Any, step: Any, blocks: Any, side: int,
    usual: float, lipschitz: float, wanted: Any, parts: Any, slopes: Any,
) -> tuple[int, int, int]:  # fmt: skip
    """Split blocks.

    ``usual`` is the slope seen near the membrane, infinite where only ``lipschitz`` may be trusted. Writes the samples
    to evaluate, the parts, and the slopes of blocks that were not skipped; returns how many of each.
    """
    value, bound = values.reshape(-1), bounds.reshape(-1)
    asked, made, kept = 0, 0, 0
    node = np.zeros((3, 3), dtype=np.int64)  # [axis, low middle high] sample
    extent = np.zeros(3, dtype=np.int64)  # cells along each axis, fewer than side at the end of the grid
    count = np.zeros(3, dtype=np.int64)  # nodes along each axis: two where a block has one cell
    length = np.zeros(3)
    fraction = np.zeros((3, 3))  # [axis, node] of the length
    away = np.zeros((27, 8))  # distance of each node from each corner
    corner = np.zeros((2, 2, 2))  # distances, or what they seem to be
    sure = np.zeros(8)  # lower bounds of their magnitudes, with sign
    guess = np.zeros((3, 3, 3))
    part = np.zeros((2, 2, 2), dtype=np.bool_)
    need = np.zeros((3, 3, 3), dtype=np.bool_)
    radius = 0.0
    for q in range(len(blocks)):
        same = True
        for axis in range(3):
            cells = min(side, shape[axis] - 1 - blocks[q, axis])
            same = same and cells == extent[axis]
            extent[axis] = cells
        if not same:
            radius = _measure(extent, side, step, count, length, fraction, away)
        _lattice(blocks[q], extent, side, count, node)
        least, inside, seen = _read(table, value, bound, state, node, count, corner, sure)
        steep, mean = _slopes(corner, length)
        slope = lipschitz if usual == np.inf else min(lipschitz, _SLACK * max(steep, usual))
        # Distances that were only guessed from other corners agree with them, whatever lies between.
        trusted = usual < np.inf and (seen == 8 or side == 2)
        flat = mean / steep if trusted and steep > _PLANAR * usual else 0.0
        reach = slope * radius * (_BENT if flat > _FLAT else 1.0) + _ROUNDING
        if (inside == 0 or inside == 8) and least > reach:
            continue
        slopes[kept] = steep
        kept += 1
        _interpolate(corner, fraction, count, guess)
        if side == 2 and flat > (_FLAT if inside == 0 or inside == 8 else _PLANAR):
            asked, made = _sheet(table, value, bound, state, used, node, count, guess, wanted, asked, parts, made)
            continue
        _choose(guess, count, reach if flat > _FLAT else np.inf, part, need)
        asked = _nodes(
            table,
            value,
            bound,
            state,
            used,
            node,
            count,
            need,
            guess,
            sure,
            away,
            slope,
            usual == np.inf,
            wanted,
            asked,
        )
        for a in range(count[0] - 1):
            for b in range(count[1] - 1):
                for c in range(count[2] - 1):
                    if part[a, b, c]:
                        parts[made, 0], parts[made, 1], parts[made, 2] = node[0, a], node[1, b], node[2, c]
                        made += 1
    return _still_asked(table, state, wanted, asked), made, kept


@compiled
def _lattice(first: Any, extent: Any, side: int, count: Any, node: Any) -> None:
    """Fill in the samples of a block's nodes along each axis."""
    for axis in range(3):
        node[axis, 0], node[axis, 1], node[axis, 2] = first[axis], first[axis] + side // 2, first[axis] + extent[axis]
        node[axis, count[axis] - 1] = first[axis] + extent[axis]


@compiled
def _read(
    table: Any, value: Any, bound: Any, state: Any, node: Any, count: Any, corner: Any, sure: Any
) -> tuple[float, int, int]:  # fmt: skip
    """Fill in the corners of a block; returns the least bound among them, how many are inside, how many are known."""
    what = state.reshape(-1)
    least, inside, seen = np.inf, 0, 0
    for n in range(8):
        a, b, c = n >> 2, n >> 1 & 1, n & 1
        at = locate(table, node[0, a * (count[0] - 1)], node[1, b * (count[1] - 1)], node[2, c * (count[2] - 1)])
        corner[a, b, c], sure[n] = value[at], bound[at]
        least = min(least, abs(bound[at]))
        inside += value[at] < 0.0
        seen += what[at] & WHAT == KNOWN
    return least, inside, seen


@compiled
def _choose(guess: Any, count: Any, margin: float, part: Any, need: Any) -> None:
    """Choose the parts of a block that a guess does not place farther than ``margin`` from the membrane."""
    need[:] = False
    for a in range(count[0] - 1):
        for b in range(count[1] - 1):
            for c in range(count[2] - 1):
                least, most = np.inf, -np.inf
                for n in range(8):
                    seen = guess[a + (n >> 2), b + (n >> 1 & 1), c + (n & 1)]
                    least, most = min(least, seen), max(most, seen)
                part[a, b, c] = least <= margin and most >= -margin
                if part[a, b, c]:
                    need[a : a + 2, b : b + 2, c : c + 2] = True


@compiled
def _nodes(
    table: Any, value: Any, bound: Any, state: Any, used: Any, node: Any, count: Any, need: Any, guess: Any,
    sure: Any, away: Any, slope: float, certain: bool, wanted: Any, asked: int,
) -> int:  # fmt: skip
    """Give every new node that a part needs a bound from its corners, or ask for its distance.

    Where bounds are ``certain``, the best that any block gives is kept, also in place of a distance that an earlier
    block has asked for. A bound from a slope seen in one block alone must not stand against what another block asks.
    """
    what = state.reshape(-1)
    for n in range(count[0] * count[1] * count[2]):
        a, b, c = n // (count[1] * count[2]), n // count[2] % count[1], n % count[2]
        if not need[a, b, c]:
            continue
        at = claim(table, value, bound, state, used, node[0, a], node[1, b], node[2, c])
        if what[at] & WHAT != UNKNOWN and not (certain and (what[at] & WHAT == BOUND or what[at] & _ASKED)):
            continue
        best, sign = 0.0, 1.0
        for corner in range(8):
            rest = abs(sure[corner]) - slope * away[9 * a + 3 * b + c, corner] - _ROUNDING
            if rest > best:
                best, sign = rest, sure[corner]
        if what[at] & WHAT == BOUND:
            if best > abs(bound[at]) and (sign > 0.0) == (bound[at] > 0.0):
                bound[at] = best if sign > 0.0 else -best
        elif best > 0.0:
            bound[at] = best if sign > 0.0 else -best
            value[at] = guess[a, b, c] if (guess[a, b, c] > 0.0) == (sign > 0.0) else bound[at]
            what[at] = BOUND
        elif what[at] & WHAT == UNKNOWN:
            # as soon as this step's samples are evaluated, unless a later block has a bound; no cell is marked yet
            what[at] = KNOWN | _ASKED
            wanted[asked, 0], wanted[asked, 1], wanted[asked, 2] = node[0, a], node[1, b], node[2, c]
            asked += 1
    return asked


@compiled
def _still_asked(table: Any, state: Any, wanted: Any, asked: int) -> int:
    """Leave out of a list the samples that a later block has found a bound for; returns how many stay, each once."""
    what = state.reshape(-1)
    left = 0
    for q in range(asked):
        at = locate(table, wanted[q, 0], wanted[q, 1], wanted[q, 2])
        if what[at] & _ASKED:
            what[at] = KNOWN
            wanted[left, 0], wanted[left, 1], wanted[left, 2] = wanted[q, 0], wanted[q, 1], wanted[q, 2]
            left += 1
    return left


@compiled
def _sheet(
    table: Any, value: Any, bound: Any, state: Any, used: Any, node: Any, count: Any, guess: Any, wanted: Any,
    asked: int, parts: Any, made: int,
) -> tuple[int, int]:  # fmt: skip
    """Ask for the corners of those cells alone that a sheet seems to cross; the continuation finds the others."""
    what = state.reshape(-1)
    for q in range((count[0] - 1) * (count[1] - 1) * (count[2] - 1)):
        a, b, c = q // ((count[1] - 1) * (count[2] - 1)), q // (count[2] - 1) % (count[1] - 1), q % (count[2] - 1)
        negative = 0
        for n in range(8):
            negative += guess[a + (n >> 2), b + (n >> 1 & 1), c + (n & 1)] < 0.0
        if negative == 0 or negative == 8:
            continue
        for n in range(8):
            i, j, k = node[0, a + (n >> 2)], node[1, b + (n >> 1 & 1)], node[2, c + (n & 1)]
            at = claim(table, value, bound, state, used, i, j, k)
            if what[at] & WHAT != KNOWN:
                what[at] = KNOWN | _ASKED
                wanted[asked, 0], wanted[asked, 1], wanted[asked, 2] = i, j, k
                asked += 1
        parts[made, 0], parts[made, 1], parts[made, 2] = node[0, a], node[1, b], node[2, c]
        made += 1
    return asked, made


@compiled
def _measure(extent: Any, side: int, step: Any, count: Any, length: Any, fraction: Any, away: Any) -> Any:
    """Fill in the geometry of blocks of ``extent`` cells; returns half their diagonal."""
    for axis in range(3):
        half = side // 2
        count[axis] = 3 if half < extent[axis] else 2
        length[axis] = extent[axis] * step[axis]
        fraction[axis, 0], fraction[axis, 1], fraction[axis, 2] = 0.0, half / extent[axis], 1.0
        fraction[axis, count[axis] - 1] = 1.0
    for n in range(27):
        for corner in range(8):
            square = 0.0
            for axis in range(3):
                at = fraction[axis, n // 9 if axis == 0 else (n // 3 % 3 if axis == 1 else n % 3)]
                square += (length[axis] * (1.0 - at if corner & 4 >> axis else at)) ** 2
            away[n, corner] = np.sqrt(square)
    return 0.5 * np.sqrt(length[0] ** 2 + length[1] ** 2 + length[2] ** 2)


@compiled
def _slopes(corner: Any, length: Any) -> tuple[float, float]:
    """Steepest slope that the corners of a block show along its edges, and the slope of their common plane."""
    steep_x = steep_y = steep_z = x = y = z = 0.0
    for a in range(2):
        for b in range(2):
            dx = corner[1, a, b] - corner[0, a, b]
            dy = corner[a, 1, b] - corner[a, 0, b]
            dz = corner[a, b, 1] - corner[a, b, 0]
            steep_x, steep_y, steep_z = max(steep_x, abs(dx)), max(steep_y, abs(dy)), max(steep_z, abs(dz))
            x, y, z = x + 0.25 * dx, y + 0.25 * dy, z + 0.25 * dz
    steep = (steep_x / length[0]) ** 2 + (steep_y / length[1]) ** 2 + (steep_z / length[2]) ** 2
    mean = (x / length[0]) ** 2 + (y / length[1]) ** 2 + (z / length[2]) ** 2
    return np.sqrt(steep), np.sqrt(mean)


@compiled
def _interpolate(corner: Any, fraction: Any, count: Any, guess: Any) -> None:
    """Guess the distance at the nodes of a block: linear between its corners along each axis."""
    for a in range(count[0]):
        x = fraction[0, a]
        for b in range(count[1]):
            y = fraction[1, b]
            low = (corner[0, 0, 0] * (1 - x) + corner[1, 0, 0] * x) * (1 - y)
            low += (corner[0, 1, 0] * (1 - x) + corner[1, 1, 0] * x) * y
            high = (corner[0, 0, 1] * (1 - x) + corner[1, 0, 1] * x) * (1 - y)
            high += (corner[0, 1, 1] * (1 - x) + corner[1, 1, 1] * x) * y
            for c in range(count[2]):
                guess[a, b, c] = low + (high - low) * fraction[2, c]


@compiled
def _signs(table: Any, values: Any, i: int, j: int, k: int) -> int:
    """Bits of the corners of a cell that are inside; corner (a, b, c) is bit 4 a + 2 b + c. −1 if one is not stored."""
    value = values.reshape(-1)
    bits = 0
    for corner in range(8):
        at = locate(table, i + (corner >> 2), j + ((corner >> 1) & 1), k + (corner & 1))
        if at < 0:
            return -1
        if value[at] < 0.0:
            bits |= 1 << corner
    return bits


@compiled
def keep_crossed(table: Any, values: Any, state: Any, cells: Any, found: Any) -> int:
    """Keep and mark the cells whose corners differ in sign; returns how many."""
    what = state.reshape(-1)
    count = 0
    for q in range(len(cells)):
        i, j, k = cells[q]
        bits = _signs(table, values, i, j, k)
        if 0 < bits < 255:
            what[locate(table, i, j, k)] |= CELL
            found[count] = cells[q]
            count += 1
    return count


@compiled
def list_corners(
    table: Any, values: Any, bounds: Any, state: Any, crossed: Any, used: Any, cells: Any, wanted: Any
) -> int:
    """List the corners of crossed cells whose distance is not known."""
    what = state.reshape(-1)
    asked = 0
    for q in range(len(cells)):
        for corner in range(8):
            i, j, k = cells[q, 0] + (corner >> 2), cells[q, 1] + ((corner >> 1) & 1), cells[q, 2] + (corner & 1)
            at = claim_brick(table, values, bounds, state, used, i, j, k)
            crossed[at // SAMPLES] = 1
            if what[at] & WHAT == KNOWN or what[at] & _ASKED:
                continue
            what[at] |= _ASKED
            wanted[asked, 0], wanted[asked, 1], wanted[asked, 2] = i, j, k
            asked += 1
    for q in range(asked):
        what[locate(table, wanted[q, 0], wanted[q, 1], wanted[q, 2])] &= ~np.uint8(_ASKED)
    return asked


@compiled
def list_neighbours(
    table: Any, values: Any, bounds: Any, state: Any, used: Any, shape: Any, cells: Any, found: Any
) -> int:
    """List the cells not seen before behind the crossed faces of cells."""
    what = state.reshape(-1)
    count = 0
    for q in range(len(cells)):
        i, j, k = cells[q]
        bits = _signs(table, values, i, j, k)
        for axis in range(3):
            # corners on the high side of the axis: bits of 4, 2 or 1 in the corner's number
            high = 0xF0 if axis == 0 else (0xCC if axis == 1 else 0xAA)
            for end in range(2):
                face = high if end == 1 else 255 ^ high
                if bits & face == 0 or bits & face == face:
                    continue
                a, b, c = i, j, k
                move = 1 if end == 1 else -1
                if axis == 0:
                    a += move
                elif axis == 1:
                    b += move
                else:
                    c += move
                if a < 0 or b < 0 or c < 0 or a >= shape[0] - 1 or b >= shape[1] - 1 or c >= shape[2] - 1:
                    continue
                at = claim(table, values, bounds, state, used, a, b, c)
                if what[at] & CELL == 0:
                    what[at] |= CELL
                    found[count, 0], found[count, 1], found[count, 2] = a, b, c
                    count += 1
    return count


@compiled
def take_field(table: Any, values: Any, bounds: Any, state: Any, crossed: Any, used: Any, field: Any) -> None:
    """Store the corners of the cells of a dense field that differ in sign."""
    value, what = values.reshape(-1), state.reshape(-1)
    at = claim_brick(table, values, bounds, state, used, 0, 0, 0)
    value[at] = field[0, 0, 0]
    what[at] |= KNOWN
    for i, j, k in np.ndindex(field.shape[0] - 1, field.shape[1] - 1, field.shape[2] - 1):
        inside = 0
        for a, b, c in np.ndindex(2, 2, 2):
            inside += field[i + a, j + b, k + c] < 0.0
        if inside == 0 or inside == 8:
            continue
        for a, b, c in np.ndindex(2, 2, 2):
            at = claim_brick(table, values, bounds, state, used, i + a, j + b, k + c)
            value[at] = field[i + a, j + b, k + c]
            what[at] |= KNOWN
            crossed[at // SAMPLES] = 1
        what[claim_brick(table, values, bounds, state, used, i, j, k)] |= CELL
