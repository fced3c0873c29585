"""Phantoms of cells of a *C. elegans* embryo: grow, round up, elongate, are pinched by a ring and divide in two.

The core is exact: a body of revolution of two spheres joined by a fillet torus. If the fillet's radius is r and the
neck's w, the spheres' centres are ``sqrt((R1 + r)² - (w + r)²) + sqrt((R2 + r)² - (w + r)²)`` apart: at w = R a single
sphere, at w = 0 the instant of scission, at w = -r two whole spheres 2 r apart. One ring law w(t) therefore carries the
cell through its change of topology. Neighbours press the core with soft planes, short waves dimple it, long ones and a
stretch deform it, and a change of scale gives each frame its volume. How much of each there is was chosen so that
descriptors agree with those of real cells (`python -m model compare-phantoms`, docs/explanation/science.md).
:class:`~model.phantoms.implicit_distance.ShapeFrame` makes the result a distance.

Promises
--------
- One component before the scission, two after; it happens once, at ``phantom.scission`` in [-0.25, 0.45].
- The shape depends on time continuously and stays within 0.96 of the origin, however it is turned.
- Every cell lies in its own pose: it divides across the z axis, the larger daughter below.
- Same seed, same cell.

Does not promise
----------------
- Frames less than about 0.01 from the scission have a neck or gap finer than the sampling grid.
- Mechanics: volumes, asymmetries and the law of the ring follow measurements, forces are not modelled.

References
----------
Carvalho, Desai, Oegema 2009 (the ring), doi:10.1016/j.cell.2009.03.021.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numba
import numpy as np
from numpy.typing import NDArray

from model.phantoms.implicit_distance import ShapeFrame

__all__ = ["CelegansPhantom", "make"]

Doubles = NDArray[np.float64]

MICROMETRES = 13.5  # one unit of Ω: mothers of 400 to 850 µm³, as at the 16- to 50-cell stage
MINUTES = 30.0  # the duration of τ
RADIUS = (0.37, 0.444)  # range of the mother's equivalent radius at its largest, units of Ω
ROOM = 0.93  # farthest the membrane is from the origin in the frames looked at when a cell is drawn
CONSTRICTION = 0.34  # duration of the constriction, units of τ, whatever the cell's size
LINEAR = 0.5  # share of the neck that closes at a constant rate; from then on the rate follows the perimeter
OVERSHOOT = 0.6  # the perimeter law tends this far below zero, in necks: scission is reached in a finite time
SLENDER = 3.2  # how fast the fillet's radius falls as the furrow deepens
LOSS = 0.045  # daughters together hold this much less than their mother
BLEND = 0.24  # width of the soft edges of planes, in mother radii
LIPSCHITZ = 3.0  # of the implicit function; waves and dimples steepen it
LEAST_SLOPE = 0.20  # of the same, on the membrane
STREAM = 0xCE1E6A  # sets this cell type's random numbers apart from others of the same seed
MODES = 7  # slow waves that bend and swell the cell, DIMPLES: shorter ones that raise and lower its membrane
DIMPLES = 10
DIMPLE_SLOPE = 0.185  # of one dimple, typically
SMOOTH_RING = 0.50  # how far from the ring the furrow smooths the dimples, in mother radii
TRIAL = 0.30  # scale at which volumes are measured
TRIAL_TIMES = [k / 10.0 for k in range(-10, 11)]  # at which a cell is looked at when it is drawn
COUNTED_BLOCK = 4  # samples along a side of the blocks that are skipped where daughters are counted
FINE, COARSE = 96, 48  # sampling grids: of a frame; of its volume
FINER, NEAR_SCISSION = 160, 0.07  # sampling grid and span of time where neck or gap is fine


def _ease(t: float, start: float, duration: float) -> float:
    """Rise smoothly from 0 at ``start`` to 1 at ``start + duration``, with two continuous derivatives."""
    u = min(max((t - start) / duration, 0.0), 1.0)
    return u * u * u * (10.0 + u * (6.0 * u - 15.0))


@dataclass(frozen=True, eq=False)
class _Waves:
    """Slow smooth random functions of time, each of unit variance: two sines with periods longer than a third of τ."""

    frequencies: Doubles  # (n, 2), per unit of τ
    phases: Doubles  # (n, 2)

    @classmethod
    def draw(cls, rng: np.random.Generator, *, count: int) -> "_Waves":
        """Draw ``count`` functions."""
        return cls(rng.uniform(0.8, 3.6, (count, 2)), rng.uniform(0.0, 2.0 * np.pi, (count, 2)))

    def at(self, t: float) -> Doubles:
        """Return their values at a time, (n,)."""
        return np.asarray(np.sin(self.frequencies * t + self.phases).sum(axis=1))


@dataclass(frozen=True, eq=False)
class CelegansPhantom:
    """One dividing cell. Lengths are in mother radii unless said; times in units of τ."""

    seed: int
    scission: float
    volume: float  # the mother's at its largest, cubic units of Ω
    growth: float  # of volume, from the first frame to the scission
    asymmetry: float  # (V1 - V2) / (V1 + V2) of the daughters
    ratios: tuple[float, float]  # ln(R1³ / R2³) of the core's spheres, at scission and at the end, to that effect
    fillet: float  # final radius of the fillet: half the gap between the daughters' spheres
    tail: float  # adds to the fillet's radius while the furrow is shallow: how much the cell elongates
    rounding: float  # how much of its deformation the cell gives up to divide, in [0, 1]
    spin: Doubles  # (3,) rotation vector over half of τ
    stretch: Doubles  # (3, 3) symmetric, traceless: logarithm of the mother's stretch
    daughters_stretch: Doubles  # (3, 3) the same, of the daughters
    wave_vectors: Doubles  # (MODES, 3) radians per mother radius
    phases: Doubles  # (MODES,)
    directions: Doubles  # (MODES, 3) amplitudes
    mode_waves: _Waves  # 2 MODES: phase and size of each mode
    dimple_vectors: Doubles  # (DIMPLES, 3) radians per mother radius
    dimple_heights: Doubles  # (DIMPLES,)
    dimple_phases: Doubles  # (DIMPLES,)
    dimple_waves: _Waves  # 2 DIMPLES: phase and size of each dimple
    normals: Doubles  # (p, 3) of the planes of the neighbours
    depths: Doubles  # (p,) how deep each presses
    owners: NDArray[np.int64]  # (p,) 0: presses the whole cell; 1, 2: one daughter, once there are two
    plane_waves: _Waves  # 4 p: three for the normal, one for the depth
    cell_type: str = "celegans"
    micrometres: float = MICROMETRES
    minutes: float = MINUTES

    def frame(self, t: float) -> ShapeFrame:
        """Return the shape of the cell at a time of τ.

        Parameters
        ----------
        t
            Time in τ = [-1, 1].

        Returns
        -------
        ShapeFrame
            Exact signed distances to the membrane, in units of Ω.
        """
        near = abs(t - self.scission) < NEAR_SCISSION
        return self.shape(t, resolution=FINER if near else FINE)

    def moment(self, t: float) -> ShapeFrame:
        """Return the shape at a time of τ on a coarse mesh, for :meth:`ShapeFrame.projected`."""
        if abs(t - self.scission) < NEAR_SCISSION:
            return self.shape(t, resolution=FINE)
        trial, turn = self.trial(t), self._turn(t)
        scale = TRIAL * float(np.cbrt(self.target_volume(t) / trial.volume))
        return trial.scaled(scale / TRIAL, self._implicit(t, scale=scale, turn=turn))

    def shape(self, t: float, *, resolution: int) -> ShapeFrame:
        """Return the shape at a time of τ, found on a grid of ``resolution`` cells along an edge of Ω."""
        implicit = self._implicit(t, scale=self._scale(t), turn=self._turn(t))
        components = 1 if t < self.scission else 2
        return ShapeFrame(implicit, resolution=resolution, components=components, lipschitz=LIPSCHITZ)

    def target_volume(self, t: float) -> float:
        """Return the volume inside the membrane at a time of τ, cubic units of Ω."""
        lacking = self.growth / (1.0 + self.growth) * (1.0 - _ease(t, -1.0, self.scission + 1.0))
        return self.volume * (1.0 - lacking) * (1.0 - LOSS * _ease(t, self.scission, 0.6))

    @cached_property
    def _ring(self) -> tuple[float, float]:
        """Speed at which the ring first closes, in necks per unit of τ, and when it begins."""
        # Linear for the first part, then dw/dt = -speed (w + OVERSHOOT) / rest, down to w = 0 at scission.
        rest = 1.0 - LINEAR + OVERSHOOT
        speed = (LINEAR + rest * math.log(rest / OVERSHOOT)) / CONSTRICTION
        return speed, self.scission - CONSTRICTION

    def _furrow(self, t: float) -> float:
        """Return the depth of the furrow as a fraction of the neck: 0 none, 1 scission, more: the daughters part."""
        speed, begin = self._ring
        ramp = 0.24  # the speed is reached smoothly, as the cell elongates
        u = (t - begin) / ramp + 0.5
        if u <= 0.0:
            return 0.0
        # Integral of the smooth step 3 u² - 2 u³: a soft version of max(0, t - begin).
        elapsed = ramp * (u * u * u - 0.5 * u**4 if u < 1.0 else u - 0.5)
        depth = speed * elapsed
        if depth <= LINEAR:
            return depth
        rest = 1.0 - LINEAR + OVERSHOOT
        return 1.0 + OVERSHOOT - rest * math.exp(-(depth - LINEAR) / rest)

    def _radii(self, t: float) -> tuple[float, float]:
        """Return the radii of the two spheres: equal in the mother, those of the daughters from scission on."""
        at_scission, at_end = self.ratios
        ratio = at_scission + (at_end - at_scission) * self._ease_in(t)[1]
        share = math.tanh(ratio / 6.0) * (1.0 - (1.0 - min(self._furrow(t), 1.0)) ** 2)
        return 1.0 + share, 1.0 - share

    def _core(self, t: float) -> Doubles:
        """Return the core: z1, z2, R1, R2, then the fillet's centre (z, ρ) and radius."""
        furrow = self._furrow(t)
        first, second = self._radii(t)
        fillet = self.fillet + self.tail * (math.exp(-SLENDER * furrow) - math.exp(-SLENDER * (1.0 + OVERSHOOT)))
        neck = second * (1.0 - furrow)
        if neck < 0.0:  # tends to minus the fillet's radius: two whole spheres
            neck = fillet * math.tanh(neck / fillet)
        reach = neck + fillet
        left = math.sqrt(max((first + fillet) ** 2 - reach**2, 0.0))
        right = math.sqrt(max((second + fillet) ** 2 - reach**2, 0.0))
        start = -(left + right) / 2.0 + (first - second) / 2.0
        return np.array([start, start + left + right, first, second, start + left, reach, fillet])

    def _ease_in(self, t: float) -> tuple[float, float]:
        """Return how much of the mother's and of the daughters' deformation is there, each in [0, 1]."""
        mother = 1.0 - self.rounding * _ease(t, self.scission - 0.95, 0.6)
        mother *= 1.0 - _ease(t, self.scission - 0.3, 0.9)
        return mother, _ease(t, self.scission - 0.35, 0.9)

    def _planes(self, t: float, core: Doubles) -> tuple[Doubles, Doubles]:
        """Return the neighbours' planes: normals (p, 3) and offsets (p,), tangent to the core less their depths."""
        waves = self.plane_waves.at(t).reshape(-1, 4)
        normals = self.normals + 0.16 * waves[:, :3]
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        mother, daughters = self._ease_in(t)
        shares = np.where(self.owners == 0, mother + 0.7 * daughters, daughters)
        depths = self.depths * shares * (1.0 + 0.15 * waves[:, 3]) - 0.6 * BLEND * (1.0 - np.minimum(shares, 1.0))
        tips = np.stack([core[0] * normals[:, 2] + core[2], core[1] * normals[:, 2] + core[3]])
        supports = np.logaddexp(tips[0] * 8.0, tips[1] * 8.0) / 8.0 - 0.05
        supports = np.where(self.owners == 1, tips[0], np.where(self.owners == 2, tips[1], supports))
        return normals, supports - depths

    def _implicit(self, t: float, *, scale: float, turn: Doubles) -> "_Implicit":
        """Return the implicit function of the membrane at a time, for a given scale and rotation."""
        core = self._core(t)
        normals, offsets = self._planes(t, core)
        mother, daughters = self._ease_in(t)
        strain = -(mother * self.stretch + daughters * self.daughters_stretch)
        values, vectors = np.linalg.eigh(strain)
        relax = vectors @ np.diag(np.exp(values)) @ vectors.T
        waves = self.mode_waves.at(t)
        phases = self.phases + 0.5 * waves[:MODES]
        sizes = (0.6 + 0.4 * max(mother, daughters)) * (1.0 + 0.3 * waves[MODES:])
        ripples = self.dimple_waves.at(t)
        smooth = min(self._furrow(t), 1.0)
        # Once they have parted, the daughters flatten the faces they turn to each other: a soft slab between them.
        away = 0.5 * (1.0 - _ease(t, self.scission - 0.04, 0.3))
        slab = self.fillet * (0.4 + 1.1 * _ease(t, self.scission, 0.8)) - away
        return _Implicit(
            relax @ turn.T / scale,
            core,
            self.wave_vectors,
            phases,
            self.directions * sizes[:, None],
            normals,
            offsets,
            self.owners,
            slab,
            scale,
            self.dimple_vectors,
            self.dimple_phases + 0.6 * ripples[:DIMPLES],
            self.dimple_heights * (1.0 + 0.3 * ripples[DIMPLES:]),
            smooth,
        )

    def daughters_log_ratio(self, t: float) -> float:
        """Return ln(V1 / V2) of the daughters, counted on a coarse grid, at a time when there are two."""
        axis = np.linspace(-0.8, 0.8, 48).reshape(-1, COUNTED_BLOCK)
        implicit = self._implicit(t, scale=TRIAL, turn=np.eye(3))
        # Blocks of samples whose centre is too far outside to hold any of the cell are not evaluated.
        ends = axis[:, [0, -1]].mean(axis=1)
        centres = np.stack(np.meshgrid(ends, ends, ends, indexing="ij"), axis=-1)
        reach = LIPSCHITZ * np.sqrt(3.0) * (axis[0, -1] - axis[0, 0]) / 2.0
        near = np.argwhere(implicit(centres.reshape(-1, 3)).reshape(centres.shape[:3]) <= reach)
        x, y, z = (axis[near[:, k]] for k in range(3))  # (b, COUNTED_BLOCK) each
        points = np.stack(np.broadcast_arrays(x[:, :, None, None], y[:, None, :, None], z[:, None, None, :]), axis=-1)
        values, heights = implicit.evaluate(points.reshape(-1, 3))
        inside = values < 0.0
        first = np.count_nonzero(heights[inside] < 0.0)
        return math.log(first / (np.count_nonzero(inside) - first))

    def _turn(self, t: float) -> Doubles:
        """Return the rotation (3, 3) from the cell's own frame to Ω."""
        angle = float(np.linalg.norm(self.spin)) * t
        x, y, z = self.spin / np.linalg.norm(self.spin)
        cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
        turn = np.eye(3) + math.sin(angle) * cross + (1.0 - math.cos(angle)) * cross @ cross
        return np.asarray(turn)

    def _scale(self, t: float) -> float:
        """Return the length of a mother radius, in units of Ω, that gives the frame its volume.

        The whole shape scales, so the root of volume(scale) = target has a closed form once one volume is known.
        """
        return TRIAL * float(np.cbrt(self.target_volume(t) / self.trial(t).volume))

    def trial(self, t: float) -> ShapeFrame:
        """Return the shape at a time of τ on a coarse grid, at a scale at which every cell is far inside Ω."""
        implicit = self._implicit(t, scale=TRIAL, turn=self._turn(t))
        components = 1 if t < self.scission else 2
        return ShapeFrame(implicit, resolution=COARSE, components=components, lipschitz=LIPSCHITZ)

    def is_sound(self, t: float, trial: ShapeFrame) -> bool:
        """Tell whether waves and dimples leave the bodies that there should be, and a membrane that is nowhere vague.

        Near the scission neck and gap are too fine for a trial, and nothing is asked.
        """
        near = abs(t - self.scission) < NEAR_SCISSION
        return near or (trial.bodies() == trial.components and trial.least_slope() > LEAST_SLOPE)

    def reach(self, trials: dict[float, ShapeFrame]) -> float:
        """Return the greatest distance of the membrane from the origin at some times of τ, units of Ω."""
        scales = {t: np.cbrt(self.target_volume(t) / trial.volume) for t, trial in trials.items()}
        # Points of the surface are drawn only where they may reach farther than those that were seen.
        bounds = {t: trial.farthest * scales[t] for t, trial in trials.items()}
        farthest = 0.0
        for t in sorted(bounds, key=lambda t: -bounds[t]):
            if bounds[t] < farthest:
                break
            farthest = max(farthest, float(np.linalg.norm(trials[t].surface_points, axis=1).max() * scales[t]))
        return farthest


@dataclass(frozen=True, eq=False)
class _Implicit:
    """The membrane at one time as an implicit function: all that the formula needs, evaluated at that time."""

    to_cell: Doubles  # (3, 3) from Ω to the unstretched cell
    core: Doubles  # (7,)
    wave_vectors: Doubles  # (m, 3)
    phases: Doubles  # (m,)
    amplitudes: Doubles  # (m, 3)
    normals: Doubles  # (p, 3)
    offsets: Doubles  # (p,)
    owners: NDArray[np.int64]  # (p,)
    slab: float
    scale: float
    dimple_vectors: Doubles  # (d, 3)
    dimple_phases: Doubles  # (d,)
    dimple_heights: Doubles  # (d,)
    smooth: float

    def __call__(self, points: Doubles) -> Doubles:
        """Return the values at points (n, 3) of Ω, (n,): negative inside, about a distance near the membrane."""
        return self.evaluate(points)[0]

    def evaluate(self, points: Doubles) -> tuple[Doubles, Doubles]:
        """Return the values, and how far along the axis of division the points (n, 3) lie beyond the neck, each (n,).

        The height is negative in the first daughter.
        """
        values, heights = _membrane(
            points,
            self.to_cell,
            self.core,
            self.wave_vectors,
            self.phases,
            self.amplitudes,
            self.normals,
            self.offsets,
            self.owners,
            self.slab,
            self.scale,
            self.dimple_vectors,
            self.dimple_phases,
            self.dimple_heights,
            self.smooth,
        )
        return values, heights


@numba.njit(cache=True, nogil=True)
def _fillet_distance(core: Doubles, z: float, rho: float) -> float:
    """Return the signed distance, in the half plane (z, ρ >= 0), to two spheres joined by a fillet torus.

    Inside the triangle of the three centres the torus is nearest, elsewhere a sphere is.
    """
    z1, z2, r1, r2, zc, rhoc, rf = core[0], core[1], core[2], core[3], core[4], core[5], core[6]
    # Below both sides of the triangle c1 - c - c2 (its base is the axis).
    if (rho * (zc - z1) <= rhoc * (z - z1)) and (rho * (z2 - zc) <= rhoc * (z2 - z)) and z2 > z1 and rhoc > 0.0:
        return float(rf - math.sqrt((z - zc) ** 2 + (rho - rhoc) ** 2))
    return float(min(math.sqrt((z - z1) ** 2 + rho * rho) - r1, math.sqrt((z - z2) ** 2 + rho * rho) - r2))


@numba.njit(cache=True, nogil=True)
def _foot(core: Doubles, x: float, y: float, z: float) -> tuple[float, float, float]:
    """Return the point of the core's surface below or above a point, along the distance's gradient."""
    rho = max(math.sqrt(x * x + y * y), 1e-9)
    distance = _fillet_distance(core, z, rho)
    along, across = core[4], core[5]  # the centre of the fillet, of radius rf: its gradient points to it
    if distance == core[6] - math.sqrt((z - along) ** 2 + (rho - across) ** 2):
        scale = core[6] / max(core[6] - distance, 1e-9)
    else:
        first = math.sqrt((z - core[0]) ** 2 + rho * rho) - core[2] == distance
        along, across = core[0] if first else core[1], 0.0
        radius = core[2] if first else core[3]
        scale = radius / max(radius + distance, 1e-9)
    height, width = along + scale * (z - along), across + scale * (rho - across)
    return x * width / rho, y * width / rho, height


@numba.njit(cache=True, nogil=True)
def _soft_max(a: float, b: float) -> float:
    """Return the larger of two values, with a soft edge (cubic, so that curvature is continuous)."""
    h = max(BLEND - abs(a - b), 0.0) / BLEND
    return float(max(a, b) + h * h * h * BLEND / 6.0)


@numba.njit(cache=True, nogil=True)
def _membrane(
    points: Doubles,
    to_cell: Doubles,
    core: Doubles,
    wave_vectors: Doubles,
    phases: Doubles,
    amplitudes: Doubles,
    normals: Doubles,
    offsets: Doubles,
    owners: NDArray[np.int64],
    slab: float,
    scale: float,
    dimple_vectors: Doubles,
    dimple_phases: Doubles,
    dimple_heights: Doubles,
    smooth: float,
) -> tuple[Doubles, Doubles]:
    """Return the implicit function and the heights beyond the neck at points (n, 3); see :class:`_Implicit`."""
    values, heights = np.empty(len(points)), np.empty(len(points))
    for i in range(len(points)):
        a, b, c = points[i, 0], points[i, 1], points[i, 2]
        p = to_cell[0, 0] * a + to_cell[0, 1] * b + to_cell[0, 2] * c
        q = to_cell[1, 0] * a + to_cell[1, 1] * b + to_cell[1, 2] * c
        r = to_cell[2, 0] * a + to_cell[2, 1] * b + to_cell[2, 2] * c
        x, y, z = p, q, r
        for m in range(len(phases)):
            wave = math.sin(wave_vectors[m, 0] * p + wave_vectors[m, 1] * q + wave_vectors[m, 2] * r + phases[m])
            x += amplitudes[m, 0] * wave
            y += amplitudes[m, 1] * wave
            z += amplitudes[m, 2] * wave
        value = _fillet_distance(core, z, math.sqrt(x * x + y * y))
        for k in range(len(offsets)):
            if owners[k] == 0 or (owners[k] == 1) == (z < core[4]):
                plane = normals[k, 0] * x + normals[k, 1] * y + normals[k, 2] * z - offsets[k]
                value = _soft_max(value, plane)
        # Dimples are waves on the core's surface, so they do not change the slope of the value across it.
        rise, (u, v, w) = 0.0, _foot(core, x, y, z)
        for m in range(len(dimple_phases)):
            along = dimple_vectors[m, 0] * u + dimple_vectors[m, 1] * v + dimple_vectors[m, 2] * w
            rise += dimple_heights[m] * math.sin(along + dimple_phases[m])
        value += rise * (1.0 - smooth * math.exp(-(((z - core[4]) / SMOOTH_RING) ** 2)))
        values[i], heights[i] = scale * _soft_max(value, slab - abs(z - core[4])), z - core[4]
    return values, heights


def make(seed: int) -> CelegansPhantom:
    """Draw a dividing cell of a *C. elegans* embryo.

    Parameters
    ----------
    seed
        Non-negative integer; the same seed gives the same cell.

    Returns
    -------
    CelegansPhantom
        The cell. If it would leave the domain at some time it is drawn smaller, all frames alike; if waves and dimples
        would tear it, they are made lower.
    """
    phantom = _draw(seed, np.random.default_rng([seed, STREAM]))
    while True:
        phantom = replace(phantom, ratios=_ratios(phantom))
        trials = {t: phantom.trial(t) for t in TRIAL_TIMES}
        if all(phantom.is_sound(t, trial) for t, trial in trials.items()):
            break
        phantom = replace(phantom, directions=0.8 * phantom.directions, dimple_heights=0.94 * phantom.dimple_heights)
    return replace(phantom, volume=phantom.volume * min(1.0, ROOM / phantom.reach(trials)) ** 3)


def _draw(seed: int, rng: np.random.Generator) -> CelegansPhantom:
    """Draw everything but the ratio of the core's spheres and the final size."""
    count = int(rng.integers(3, 9))
    normals = _spread(rng, count=count)
    owners = np.zeros(count, dtype=np.int64)
    for owner, sign in ((1, -1.0), (2, 1.0)):
        own = rng.normal(size=(int(rng.integers(2, 5)), 3))
        own[:, 2] = sign * np.abs(own[:, 2]) * 0.7
        normals = np.concatenate([normals, own / np.linalg.norm(own, axis=1, keepdims=True)])
        owners = np.concatenate([owners, np.full(len(own), owner, dtype=np.int64)])
    wave_vectors = rng.normal(size=(MODES, 3))
    numbers = rng.uniform(1.2, 4.0, (MODES, 1))
    wave_vectors *= numbers / np.linalg.norm(wave_vectors, axis=1, keepdims=True)
    dimple_vectors = rng.normal(size=(DIMPLES, 3))
    dimple_numbers = rng.uniform(3.0, 5.0, DIMPLES)
    dimple_vectors *= (dimple_numbers / np.linalg.norm(dimple_vectors, axis=1))[:, None]
    return CelegansPhantom(
        seed=seed,
        scission=float(rng.uniform(-0.25, 0.45)),
        volume=4.0 / 3.0 * math.pi * float(rng.uniform(*RADIUS)) ** 3,
        growth=float(rng.uniform(0.05, 0.20)),
        asymmetry=min(float(rng.gamma(1.05, 0.165)), 0.45),
        ratios=(0.0, 0.0),
        fillet=float(rng.uniform(0.09, 0.16)),
        tail=float(rng.uniform(0.5, 1.3)),
        rounding=float(rng.uniform(0.25, 0.65)),
        spin=rng.normal(size=3) * 0.15,
        stretch=_strain(rng, low=0.15, high=0.28),
        daughters_stretch=_strain(rng, low=0.15, high=0.29),
        wave_vectors=wave_vectors,
        phases=rng.uniform(0.0, 2.0 * math.pi, MODES),
        directions=rng.normal(size=(MODES, 3)) * 0.15 / numbers,
        mode_waves=_Waves.draw(rng, count=2 * MODES),
        dimple_vectors=dimple_vectors,
        dimple_heights=rng.normal(size=DIMPLES) * DIMPLE_SLOPE / dimple_numbers,
        dimple_phases=rng.uniform(0.0, 2.0 * math.pi, DIMPLES),
        dimple_waves=_Waves.draw(rng, count=2 * DIMPLES),
        normals=normals,
        depths=np.where(owners == 0, rng.uniform(0.12, 0.40, len(owners)), rng.uniform(0.20, 0.50, len(owners))),
        owners=owners,
        plane_waves=_Waves.draw(rng, count=4 * len(normals)),
    )


def _ratios(phantom: CelegansPhantom) -> tuple[float, float]:
    """Find ln(R1³ / R2³) at scission and at the end such that the daughters differ by ``phantom.asymmetry``.

    What neighbours and modes take from each daughter hardly depends on the ratio, so adding the error to it converges.
    """
    wanted = 2.0 * math.atanh(phantom.asymmetry)
    ratios = np.array([wanted, wanted])
    times = (phantom.scission + 0.15, min(1.0, phantom.scission + 0.6))
    for _ in range(3):
        trial = replace(phantom, ratios=(float(ratios[0]), float(ratios[1])))
        ratios += wanted - np.array([trial.daughters_log_ratio(t) for t in times])
    return float(ratios[0]), float(ratios[1])


def _spread(rng: np.random.Generator, *, count: int) -> Doubles:
    """Draw directions (count, 3) that keep clear of each other, as neighbours around a cell do."""
    directions = np.empty((0, 3))
    while len(directions) < count:
        tries = rng.normal(size=(12, 3))
        tries /= np.linalg.norm(tries, axis=1, keepdims=True)
        nearest = (tries @ directions.T).max(axis=1) if len(directions) else np.zeros(12)
        directions = np.concatenate([directions, tries[[int(np.argmin(nearest))]]])
    return directions


def _strain(rng: np.random.Generator, *, low: float, high: float) -> Doubles:
    """Draw the logarithm (3, 3) of a stretch that keeps volume: symmetric, traceless, its size between two bounds."""
    quaternion = rng.normal(size=4)
    axes = _rotation(quaternion / np.linalg.norm(quaternion))
    values = rng.uniform(low, high) * np.array([-1.0, rng.uniform(-0.6, 0.4), 1.0])
    return np.asarray(axes @ np.diag(values - values.mean()) @ axes.T)


def _rotation(quaternion: Doubles) -> Doubles:
    """Return the rotation (3, 3) of a unit quaternion (w, x, y, z); uniform ones give Haar rotations."""
    w, x, y, z = quaternion
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
