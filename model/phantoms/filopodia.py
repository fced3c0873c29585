"""Filopodia and their branches: how they are born, where there is room for them, and how their axes run.

Births are a Poisson process; lengths are lognormal; an axis is a persistent random walk that sways; a filopodium grows,
pauses and retracts; branches live while their parents reach past their roots.

Promises
--------
- At every one of `TIMES` all filopodia are inside the ball of radius `REACH`, and axes keep their distance from each
  other and from the body: their smooth union has no handles.
- As many as the style says are seen at all times, at least two are born and two vanish.

Does not promise
----------------
- Gaps between those times.
"""

import math
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from model.engine.jit import compiled
from model.phantoms.wandering import beside, smoothstep, spline, unit, wander

__all__ = ["REACH", "TIMES", "Axis", "Filopodium", "Style", "axis_of", "draw_filopodia", "outside_lengths"]

Doubles = NDArray[np.float64]

REACH = 0.93  # radius of the ball that holds the cell, units of Ω: any rotation keeps it inside
FRAME = 2.0 / 29.0  # one frame of a sequence of 30, units of τ
TIMES = np.linspace(-1.0, 1.0, 59)  # frames and the middles between them: when a cell is checked
PROBED = slice(None, None, 10)  # of TIMES, looked at first

LEVELS = 3  # filopodium, branch, branch of a branch
SEEN = 0.05  # length from which one is seen, units of Ω
SPEED = 0.05  # of growth and retraction, units of Ω a frame
SWIFTEST = 5.0  # frames from nothing to full length, at least
CURVE = 40  # points at which a full axis is computed
ALONG_CURVE = np.linspace(0.0, 1.0, CURVE)  # fractions of an axis


@dataclass(frozen=True)
class Style:
    """What the filopodia of a cell type have in common. Lengths in units of Ω.

    Attributes
    ----------
    shortest, longest
        Full lengths outside the membrane.
    median
        Least and most of a cell's median length.
    base_radius, tip_radius
        Radius at the membrane, beyond the foot, and at the tip.
    foot_radius, foot
        What the flared foot adds to the radius at the membrane, and its extent.
    gap, branch_gap, body_gap
        Left free between filopodia, branches of one, either and the body: more than a third of the width of their
        blend, or it would bridge them.
    blend, branch_blend
        Widths of the smooth unions with the body and with a parent.
    fewest, most
        Filopodia and branches to be seen at any time.
    crowd
        Least and most of a cell's mean number of filopodia alive at a time.
    branching
        Least and most of a cell's mean number of branches per unit of Ω of a filopodium.
    depth
        How far below the membrane filopodia are rooted.
    hidden
        Depth of the root below the membrane, at every time, from which a filopodium is wholly inside at birth: more
        than its tip radius, and what the blend adds.
    departure
        Least gain of the gap to what a filopodium grows on, per unit of Ω along its axis, until it is clear; without,
        one may creep along its parent at a gap that a coarse grid cannot resolve.
    segments
        Number of cubic segments of an axis; they are to be shorter than the foot.
    """

    shortest: float = 0.12
    longest: float = 0.50
    median: tuple[float, float] = (0.30, 0.48)
    base_radius: float = 0.058
    tip_radius: float = 0.038  # 1.8 voxels of a 96³ grid
    foot_radius: float = 0.032
    foot: float = 0.10
    gap: float = 0.09
    branch_gap: float = 0.065
    body_gap: float = 0.075
    blend: float = 0.14
    branch_blend: float = 0.12
    fewest: int = 3
    most: int = 9
    crowd: tuple[float, float] = (3.5, 6.0)
    branching: tuple[float, float] = (1.0, 10.0)
    depth: float = 0.11
    hidden: float = 0.075
    departure: float = 0.0
    segments: int = 11


class BodyPose(Protocol):
    """The body that filopodia grow on, at T times."""

    def membrane(self, direction: Doubles) -> tuple[Doubles, Doubles]:
        """Return the point of the membrane in a direction (3,) from the centre, and the outward normal: (T, 3) each."""
        ...

    def levels(self, points: Doubles) -> Doubles:
        """Return the level of the body at points (T, n, 3): (T, n), about a distance, negative inside."""
        ...

    def some(self, chosen: slice) -> Self:
        """Return the body at some of its times."""
        ...


@dataclass(frozen=True, eq=False)
class _Life:
    """How long a filopodium is over time: it grows, pauses and retracts, coming smoothly to rest in between."""

    times: Doubles  # (k,), units of τ, increasing
    levels: Doubles  # (k,), fractions of its full length; first and last are 0

    def at(self, times: Doubles) -> Doubles:
        """Return the fraction of the full length at times (T,)."""
        place = np.interp(times, self.times, np.arange(len(self.times)))
        before = np.minimum(place.astype(np.int64), len(self.times) - 2)
        rise = self.levels[before + 1] - self.levels[before]
        return np.asarray(self.levels[before] + rise * smoothstep(place - before))

    def sampled(self) -> tuple[Doubles, Doubles]:
        """Return 400 times from birth to end, and the fraction of the full length at each: (400,) both."""
        times = np.linspace(self.times[0], self.times[-1], 400)
        return times, self.at(times)


@compiled
def _longest_above(times: Doubles, levels: Doubles, level: float) -> tuple[float, float]:
    """Return first and last of ``times`` (n,) of the longest run of ``levels`` (n,) above a level; 0, 0 if none is."""
    longest, start, stop, length = 0, 0.0, 0.0, 0
    for k in range(len(levels)):
        length = length + 1 if levels[k] > level else 0
        if length > longest:
            longest, start, stop = length, times[k - length + 1], times[k]
    return start, stop


@dataclass(frozen=True, eq=False)
class Filopodium:
    """A filopodium or a branch: where it is rooted, how its axis runs, and when it lives."""

    level: int  # 1 on the body, 2 a branch, 3 a branch of a branch
    parent: int  # place of its parent among the filopodia; -1 for the body
    anchor: Doubles  # (3,): direction from the body's centre, or, for a branch, the side it leaves its parent on
    along: float  # where on the parent's axis it is rooted, units of Ω
    angle: float  # at which it leaves its parent
    buried: float  # length of the axis below the membrane
    length: float  # full length of the axis outside it, units of Ω
    walk: Doubles  # (k, 2): knots along the axis of its slope sideways
    sway: Doubles  # (k, 2): knots over τ of what is added to the slope at the tip
    reference: Doubles  # (3,): fixes what sideways is
    life: _Life
    style: Style


@dataclass(frozen=True, eq=False)
class Axis:
    """The axis of a filopodium at T times."""

    points: Doubles  # (T, CURVE, 3): the full axis, evenly spaced; only ``extent`` of it has grown
    tangents: Doubles  # (T, CURVE, 3)
    extent: Doubles  # (T,): length grown, with the part below the membrane
    full: float
    base: Doubles  # (T,): radius at the root
    foot: Doubles  # (T,): what is added to the radius at the membrane
    buried: float
    style: Style

    def some(self, chosen: slice) -> "Axis":
        """Return the axis at some of its times."""
        return Axis(
            self.points[chosen], self.tangents[chosen], self.extent[chosen], self.full, self.base[chosen],
            self.foot[chosen], self.buried, self.style,
        )  # fmt: skip

    def place(self, along: Doubles) -> tuple[Doubles, Doubles]:
        """Return points and tangents (T, n, 3) at lengths ``along`` (T, n) from the root."""
        points, tangents = _place(self.points, self.tangents, along / self.full * (CURVE - 1))
        return points, unit(tangents)

    def radius(self, along: Doubles) -> tuple[Doubles, Doubles]:
        """Return the radius, and its slope, (T, n) each at lengths ``along`` (T, n): a foot, and a taper to the tip."""
        extent = np.maximum(self.extent, 1e-9)[:, None]
        left = np.clip(1.0 - along / extent, 0.0, 1.0)
        past = (along - self.buried) / self.style.foot
        foot = self.foot[:, None] * np.exp(-(past**2))
        more = self.base[:, None] - self.style.tip_radius + foot
        return self.style.tip_radius + more * left, -2.0 * past / self.style.foot * foot * left - more / extent

    def chain(self) -> Doubles:
        """Return the nodes of the axis grown so far, (T, segments + 1, 8): points, radii, and their change a node."""
        segments = self.style.segments
        along = self.extent[:, None] * np.linspace(0.0, 1.0, segments + 1)
        points, tangents = self.place(along)
        radii, slopes = self.radius(along)
        changes = np.concatenate([tangents, slopes[..., None]], axis=2) * (self.extent / segments)[:, None, None]
        return np.concatenate([points, radii[..., None], changes], axis=2)


@compiled
def _place(points: Doubles, tangents: Doubles, place: Doubles) -> tuple[Doubles, Doubles]:
    """Interpolate points and tangents (T, CURVE, 3) of an axis at places (T, n) along it: (T, n, 3) both."""
    at, towards = np.empty((*place.shape, 3)), np.empty((*place.shape, 3))
    for t in range(place.shape[0]):
        for k in range(place.shape[1]):
            before = min(int(place[t, k]), CURVE - 2)
            f = place[t, k] - before
            for axis in range(3):
                at[t, k, axis] = points[t, before, axis] * (1 - f) + points[t, before + 1, axis] * f
                towards[t, k, axis] = tangents[t, before, axis] * (1 - f) + tangents[t, before + 1, axis] * f
    return at, towards


@compiled
def _gap(chain: Doubles, k: int, other: Doubles) -> float:
    """Return the least gap between the sphere at node k of a chain (n, 8) and those at the nodes of another."""
    least = np.inf
    for j in range(len(other)):
        x, y, z = chain[k, 0] - other[j, 0], chain[k, 1] - other[j, 1], chain[k, 2] - other[j, 2]
        least = min(least, np.sqrt(x * x + y * y + z * z) - (chain[k, 3] + other[j, 3]))
    return least


@compiled
def _gaps(chain: Doubles, other: Doubles) -> Doubles:
    """Return the gap (T, n) between each node of a chain (T, n, 8) and the nearest node of another."""
    gaps = np.empty(chain.shape[:2])
    for t in range(chain.shape[0]):
        for k in range(chain.shape[1]):
            gaps[t, k] = _gap(chain[t], k, other[t])
    return gaps


@compiled
def _comes_near(chain: Doubles, other: Doubles, alive: NDArray[np.bool_], clear: float) -> bool:
    """Tell whether two chains (T, n, 8) come nearer than ``clear``, at the times at which both are alive (T,)."""
    for t in range(chain.shape[0]):
        if alive[t]:
            for k in range(chain.shape[1]):
                if _gap(chain[t], k, other[t]) < clear:
                    return True
    return False


def axis_of(filopodium: Filopodium, times: Doubles, *, body: BodyPose, parent: Axis | None) -> Axis:
    """Return the axis of a filopodium at times (T,), carried by the body or by its parent."""
    style, full = filopodium.style, filopodium.buried + filopodium.length
    extent = filopodium.life.at(times) * full
    if parent is None:
        root, normals = body.membrane(filopodium.anchor)
        outward = unit(normals + filopodium.anchor)
        root = root - filopodium.buried * outward
        grown = smoothstep((extent - filopodium.buried) / 0.25)
        base = style.tip_radius + (style.base_radius - style.tip_radius) * grown
        foot = style.foot_radius * grown
    else:
        along = np.full((len(times), 1), filopodium.along)
        points, tangents = parent.place(along)
        root, tangent = points[:, 0], tangents[:, 0]
        side = beside(filopodium.anchor[None], tangent)
        outward = math.cos(filopodium.angle) * tangent + math.sin(filopodium.angle) * side
        thickness = 0.85 * (parent.radius(along)[0][:, 0] - style.tip_radius)
        base = style.tip_radius + thickness * smoothstep(extent / 0.15)
        foot = np.zeros_like(base)
    sideways = beside(filopodium.reference[None], outward)
    slopes = spline(filopodium.walk, ALONG_CURVE)[None] + (
        spline(filopodium.sway, (times + 1.0) / 2.0)[:, None] * ALONG_CURVE[None, :, None]
    )  # (T, CURVE, 2)
    frames = np.stack([sideways, np.cross(outward, sideways)], axis=1)  # (T, 2, 3)
    tangents = unit(outward[:, None] + slopes @ frames)
    steps = (tangents[:, 1:] + tangents[:, :-1]) / 2.0 * (full / (CURVE - 1))
    points = root[:, None] + np.concatenate([np.zeros_like(root)[:, None], np.cumsum(steps, axis=1)], axis=1)
    return Axis(points, tangents, extent, full, base, foot, filopodium.buried, style)


@dataclass(frozen=True)
class _Temper:
    """What a cell's filopodia have in common."""

    style: Style
    crowd: float  # filopodia alive at a time, on average
    median: float  # of their lengths, units of Ω
    branching: float  # branches per unit of Ω
    curl: float  # standard deviation of the slope gained over a quarter of the axis
    restless: float  # the same of the slope at the tip over time
    front: float  # preference for one end of the body


def _draw_life(rng: Generator, length: float) -> tuple[Doubles, Doubles]:
    """Draw how a filopodium of a length grows, pauses and retracts: durations (k,) in τ, and fractions (k + 1,)."""
    whole = max(SWIFTEST, length / SPEED)
    halfway = rng.uniform(0.45, 0.8) if rng.random() < 0.5 else 1.0
    grow, shrink = whole * rng.uniform(1.0, 1.4, 2)
    pause = min(4.0 + rng.exponential(9.0), max(4.0, 38.0 - grow - shrink))
    if halfway < 1.0:
        frames = np.array([halfway * grow, rng.uniform(1.0, 4.0), max(2.0, (1.0 - halfway) * grow), pause, shrink])
        return frames * FRAME, np.array([0.0, halfway, halfway, 1.0, 1.0, 0.0])
    return np.array([grow, pause, shrink]) * FRAME, np.array([0.0, 1.0, 1.0, 0.0])


def _draw_length(rng: Generator, median: float, style: Style) -> float:
    """Draw a full length: lognormal, between the shortest and the longest there are."""
    return float(np.clip(median * math.exp(0.35 * rng.standard_normal()), style.shortest, style.longest))


def _draw_walk(rng: Generator, temper: _Temper) -> tuple[Doubles, Doubles]:
    """Draw a persistent random walk along the axis, and how the tip sways over time."""
    steps = temper.curl * rng.standard_normal((8, 2))
    steps[0] *= 0.8
    return np.cumsum(steps, axis=0), temper.restless * wander(rng, np.full(2, 0.6))


def _draw_births(rng: Generator, temper: _Temper) -> list[tuple[float, _Life]]:
    """Draw lengths and lives of the filopodia on the body, born as a Poisson process from long before the sequence."""
    oldest, mean_life = 40.0 * FRAME, 25.0 * FRAME
    count = rng.poisson(temper.crowd / mean_life * (2.0 + oldest))
    births = []
    for start in np.sort(rng.uniform(-1.0 - oldest, 1.0, count)):
        length = _draw_length(rng, temper.median, temper.style)
        durations, levels = _draw_life(rng, length)
        life = _Life(start + np.concatenate([[0.0], np.cumsum(durations)]), levels)
        if life.at(TIMES).max() > 0.0:
            births.append((length, life))
    return births


class _Nursery:
    """The filopodia of a cell while they are drawn, and their axes at all times that are checked."""

    def __init__(self, rng: Generator, temper: _Temper, *, body: BodyPose) -> None:
        self._rng = rng
        self._temper = temper
        self._body = body
        self._front = unit(rng.standard_normal(3) * [1.0, 0.4, 0.4])
        self.filopodia: list[Filopodium] = []
        self._axes: list[Axis] = []
        self._chains: list[Doubles] = []
        self._lives: list[tuple[Doubles, Doubles]] = []  # sampled

    def plant(self, length: float, life: _Life) -> bool:
        """Place a filopodium on the body, made shorter until there is room; False if there is none."""
        style = self._temper.style
        for attempt in range(60):
            walk, sway = _draw_walk(self._rng, self._temper)
            around = self._rng.standard_normal((2, 3))
            anchor = unit(unit(around[0]) + self._temper.front * self._rng.random() * self._front)
            shorter = max(style.shortest, length * 0.98**attempt)
            planted = Filopodium(
                1, -1, anchor, 0.0, 0.0, style.depth, shorter, walk, sway, beside(around[1], anchor), life, style
            )
            if self._admit(planted):
                return True
        return False

    def branch(self, parent: int) -> None:
        """Try to grow branches on a filopodium, in number proportional to its length, and branches on those."""
        stem = self.filopodia[parent]
        if stem.level == LEVELS:
            return
        for _ in range(self._rng.poisson(self._temper.branching * stem.length)):
            for _ in range(16):
                branch = self._draw_branch(parent)
                if branch is not None and self._admit(branch):
                    self.branch(len(self.filopodia) - 1)
                    break

    def _draw_branch(self, parent: int) -> Filopodium | None:
        """Draw a branch whose life fits into the time in which its parent reaches past its root."""
        rng, stem = self._rng, self.filopodia[parent]
        full = stem.buried + stem.length
        low, high = stem.buried + (0.10 if stem.level == 1 else 0.07), 0.8 * full
        if low >= high:
            return None
        along = rng.uniform(low, high)
        start, stop = _longest_above(*self._lives[parent], (along + self._temper.style.tip_radius) / full)
        length = _draw_length(rng, 0.7 * self._temper.median, self._temper.style)
        durations, levels = _draw_life(rng, length)
        durations[-2] += min(0.0, stop - start - durations.sum())  # a shorter pause
        if durations[-2] < 2.0 * FRAME or stop < -1.0 or start > 1.0:
            return None
        start += rng.uniform(0.0, 0.5) * (stop - start - durations.sum())
        life = _Life(start + np.concatenate([[0.0], np.cumsum(durations)]), levels)
        walk, sway = _draw_walk(rng, self._temper)
        angle = math.radians(rng.uniform(48.0, 80.0))
        side, reference = unit(rng.standard_normal((2, 3)))
        return Filopodium(
            stem.level + 1, parent, side, along, angle, 0.0, length, walk, sway, reference, life, self._temper.style
        )

    def _admit(self, filopodium: Filopodium) -> bool:
        """Add a filopodium if it keeps inside the ball and clear of the body and of all others, at all times."""
        # Nearly all are refused; a few of the times, which cost a tenth, tell of most of them.
        if self._fits(filopodium, PROBED) is None:
            return False
        fitting = self._fits(filopodium, slice(None))
        if fitting is None or not (fitting[0].extent > 0.0).any():
            return False
        axis, chain = fitting
        self.filopodia.append(filopodium)
        self._axes.append(axis)
        self._chains.append(chain)
        self._lives.append(filopodium.life.sampled())
        return True

    def _fits(self, filopodium: Filopodium, chosen: slice) -> tuple[Axis, Doubles] | None:
        """Return the axis and the chain of a filopodium at some of the times; None if there is no room for it."""
        style = self._temper.style
        parent = self._axes[filopodium.parent].some(chosen) if filopodium.level > 1 else None
        body = self._body.some(chosen)
        axis = axis_of(filopodium, TIMES[chosen], body=body, parent=parent)
        chain = axis.chain()
        if not self._inside(filopodium, axis=axis, chain=chain, body=body, parent=parent):
            return None
        stem = self._stem(filopodium.parent)
        for place in range(len(self._chains)):
            other = self._chains[place][chosen]
            both = (axis.extent > 0.0) & (self._axes[place].extent[chosen] > 0.0)
            if place == filopodium.parent:
                gaps = _gaps(chain, other)[both]
                if not (_departs(gaps, style.branch_gap) and self._leaves(gaps, axis.extent[both], style.branch_gap)):
                    return None
            elif _comes_near(
                chain, other, both, style.branch_gap if stem >= 0 and self._stem(place) == stem else style.gap
            ):
                return None
        return axis, chain

    def _leaves(self, gaps: Doubles, extent: Doubles, clear: float, *, buried: float = 0.0) -> bool:
        """Tell whether gaps (T, n) along axes of lengths (T,) grow as fast as the style says until they are clear."""
        style = self._temper.style
        past = extent[:, None] * np.linspace(0.0, 1.0, gaps.shape[1]) - buried
        least = np.minimum(style.departure * past - 2.5 * style.base_radius, clear)
        return not style.departure or bool((gaps >= least)[past > 0.0].all())

    def _stem(self, place: int) -> int:
        """Return the filopodium on the body that one belongs to; -1 for the body."""
        while place >= 0 and self.filopodia[place].parent >= 0:
            place = self.filopodia[place].parent
        return place

    def _inside(
        self, filopodium: Filopodium, *, axis: Axis, chain: Doubles, body: BodyPose, parent: Axis | None
    ) -> bool:
        """Tell whether an axis stays inside the ball, clear of the body past its foot, and turns with its root."""
        if (np.linalg.norm(chain[..., :3], axis=2) + chain[..., 3]).max() > REACH - 0.01:
            return False
        levels = body.levels(chain[..., :3])
        gaps = (levels - chain[..., 3])[axis.extent > 0.0]
        if filopodium.level > 1 and gaps.min(initial=np.inf) < self._temper.style.body_gap:
            return False
        if parent is None:
            clear, grown = self._temper.style.body_gap, axis.extent[axis.extent > 0.0]
            if not (_departs(gaps, clear) and self._leaves(gaps, grown, clear, buried=axis.buried)):
                return False
            return bool(levels[:, 0].max() < -self._temper.style.hidden)
        tangents = parent.place(np.full((len(chain), 1), filopodium.along))[1][:, 0]
        return bool(np.linalg.norm(np.cross(tangents, filopodium.anchor), axis=1).min() > 0.5)


def _departs(gaps: Doubles, clear: float) -> bool:
    """Tell whether gaps (T, n) along axes grow until they are clear, and stay so: then no loop is closed."""
    return bool((gaps[:, 1:] >= np.minimum(gaps[:, :-1], clear) - np.where(gaps[:, 1:] < clear, 0.01, 0.0)).all())


def outside_lengths(filopodia: list[Filopodium] | tuple[Filopodium, ...], times: Doubles) -> Doubles:
    """Return the lengths (T, f) of filopodia outside the membrane at times (T,)."""
    lengths = [np.maximum(f.life.at(times) * (f.buried + f.length) - f.buried, 0.0) for f in filopodia]
    return np.stack(lengths, axis=1) if lengths else np.zeros((len(times), 0))


def draw_filopodia(rng: Generator, body: BodyPose, style: Style) -> tuple[Filopodium, ...]:
    """Draw the filopodia of a cell, again until their number is right at all times and some come and go."""
    temper = _Temper(
        style=style,
        crowd=rng.uniform(*style.crowd),
        median=rng.uniform(*style.median),
        branching=rng.uniform(*style.branching),
        curl=rng.uniform(0.2, 0.45),
        restless=rng.uniform(0.08, 0.2),
        front=rng.uniform(0.0, 1.6),
    )
    for _ in range(2000):
        births = _draw_births(rng, temper)
        lengths = [life.at(TIMES) * (length + style.depth) - style.depth for length, life in births]
        if len(births) < style.fewest or not _lively(np.stack(lengths, axis=1), style):
            continue
        nursery = _Nursery(rng, temper, body=body)
        if not all(nursery.plant(length, life) for length, life in births):
            continue
        for parent in range(len(births)):
            nursery.branch(parent)
        if _lively(outside_lengths(nursery.filopodia, TIMES), style):
            return tuple(nursery.filopodia)
    raise RuntimeError("no arrangement of filopodia fits this body")


def _lively(lengths: Doubles, style: Style) -> bool:
    """Tell whether lengths (T, f) show the right number of filopodia at all times, and births and ends."""
    seen = lengths > SEEN
    counts = seen.sum(axis=1)
    births, ends = (~seen[0] & seen.any(axis=0)).sum(), (~seen[-1] & seen.any(axis=0)).sum()
    return bool(counts.min() >= style.fewest and counts.max() <= style.most and births >= 2 and ends >= 2)
