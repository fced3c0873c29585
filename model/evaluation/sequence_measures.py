"""Measure whole sequences. Phantoms, real and generated cells go through the same code.

Promises: all sequences are sampled at the same number of moments and on the same grid, and measured by the same code.
The same source gives the same figures with any number of processes.
Does not promise: that a profile distinguishes mirror images.

References: distributions of distances as a signature of shape, Osada et al. 2002, doi:10.1145/571647.571648.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from model.domain import Grid
from model.evaluation.measures.descriptors import Body, Descriptors, Triangles, bodies_of, describe
from model.evaluation.measures.harmonics import own_axes, radial_coefficients
from model.evaluation.measures.protrusions import Protrusions, find_protrusions
from model.evaluation.sequence_sources import Sequences, Snapshot

Doubles = NDArray[np.float64]

SIDE = 64  # samples along each side of Ω
MOMENTS = (
    8  # frames measured of each sequence: frames of one sequence are alike, so more cells tell more than more frames
)
PROFILE_POINTS = 400  # points of a membrane whose pairwise distances give a profile
QUANTILES = 32  # of these distances, kept as the profile
PROTRUSION_NAMES = ("protrusions", "protrusion_length", "protrusion_total_length", "protrusion_thickness")
SEQUENCE_NAMES = ("growth", "speed", "membrane_speed", "division_time", "asymmetry")


@dataclass(frozen=True)
class SequenceMeasures:
    """One sequence, measured. Lengths in µm, times in minutes from the first frame.

    Attributes
    ----------
    name
        Where it comes from.
    minutes
        (T,).
    bodies
        Descriptors of the bodies of each frame, the largest first.
    centroids
        (T, 3), of all bodies together.
    profiles
        (T, QUANTILES): quantiles of the distances between points of the membrane.
    radial
        (T, h): the radius as spherical harmonics, in axes of its own.
    masks
        (T, bytes): which samples of the grid are inside, eight to a byte; empty for sequences that have no place in Ω.
    membrane_speed
        Mean speed of the membrane along its normal, µm a minute.
    protrusions
        Of each frame; empty where they are not looked for.
    rejected
        Codes rejected as implausible before this one.
    """

    name: str
    minutes: Doubles
    bodies: tuple[tuple[Descriptors, ...], ...]
    centroids: Doubles
    profiles: Doubles
    radial: Doubles
    masks: NDArray[np.uint8]
    membrane_speed: float
    protrusions: tuple[Protrusions, ...] = ()
    rejected: int = 0

    def values(self, name: str) -> list[float]:
        """Values of a descriptor: one for each body of each frame, for each frame, or for the sequence."""
        if name in SEQUENCE_NAMES:
            return [self._of_sequence(name)]
        if name in PROTRUSION_NAMES:
            return [self._of_protrusions(name, frame) for frame in self.protrusions]
        return [float(getattr(body, name)) for frame in self.bodies for body in frame]

    def counts(self) -> list[int]:
        """Bodies in each frame."""
        return [len(frame) for frame in self.bodies]

    def volumes(self) -> Doubles:
        """Volume of all bodies in each frame, (T,)."""
        return np.array([sum(body.volume for body in frame) for frame in self.bodies], dtype=np.float64)

    def _of_sequence(self, name: str) -> float:
        volumes, counts = self.volumes(), self.counts()
        if name == "growth":
            return float(volumes[-1] / volumes[0] - 1.0) if volumes[0] > 0.0 else float("nan")
        if name == "speed":
            path = np.linalg.norm(np.diff(self.centroids, axis=0), axis=1).sum()
            return float(path / (self.minutes[-1] - self.minutes[0]))
        if name == "membrane_speed":
            return self.membrane_speed
        if name == "division_time":
            divided = [k for k, count in enumerate(counts) if count > 1]
            return float(self.minutes[divided[0]]) if divided else float("nan")
        if counts[-1] != 2:
            return float("nan")
        first, second = (body.volume for body in self.bodies[-1])
        return (first - second) / (first + second)

    @staticmethod
    def _of_protrusions(name: str, found: Protrusions) -> float:
        if name == "protrusions":
            return float(found.number)
        if name == "protrusion_thickness":
            return found.thickness
        if name == "protrusion_total_length":
            return found.total_length
        return float(found.lengths.mean()) if len(found.lengths) else float("nan")


Mapped = Callable[..., Iterable[Any]]


def measure_sequences(
    source: Sequences,
    *,
    indices: Sequence[int] | None = None,
    mapped: Mapped = map,
    on_sequence: Callable[[SequenceMeasures], None] = lambda _sequence: None,
) -> list[SequenceMeasures]:
    """Measure sequences of a source.

    Parameters
    ----------
    source
        Where the sequences come from; see :mod:`model.evaluation.sequence_sources`.
    indices
        Which of them; all when None.
    mapped
        What :func:`processes` gives, to share the work.
    on_sequence
        Called after each.
    """
    sequences = []
    wanted = range(len(source)) if indices is None else indices
    for sequence in mapped(measure, [source] * len(wanted), wanted):
        sequences.append(sequence)
        on_sequence(sequence)
    return sequences


@contextmanager
def processes(count: int) -> Iterator[Mapped]:
    """Give a ``map`` over processes that keep to one core each; with one, the ordinary one."""
    if count == 1:
        yield map
        return
    with ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        yield pool.map


def _one_thread() -> None:
    torch.set_num_threads(1)


def measure(source: Sequences, index: int) -> SequenceMeasures:
    """Measure one sequence of a source."""
    scale = source.micrometres
    minutes, bodies, profiles, radial, masks, protrusions, centroids = [], [], [], [], [], [], []
    axes: Doubles | None = None
    rejected = 0
    for snapshot in source.snapshots(index, moments=MOMENTS, grid=Grid((SIDE, SIDE, SIDE))):
        found = bodies_of(_scaled(snapshot, scale))
        centre = _centre(found)
        axes = own_axes(_scaled(snapshot, scale), centre) if axes is None else axes
        minutes.append(snapshot.minute)
        bodies.append(tuple(describe(body) for body in found))
        centroids.append(centre)
        profiles.append(profile_of(found))
        radial.append(radial_coefficients(_scaled(snapshot, scale), centre, axes))
        masks.append(np.packbits(snapshot.inside))
        if source.has_protrusions:
            protrusions.append(find_protrusions(snapshot.inside, step=2.0 * scale / (SIDE - 1)))
        rejected = snapshot.rejected
    areas = np.array([sum(body.area for body in frame) for frame in bodies])
    times = np.array(minutes, dtype=np.float64) - minutes[0]
    packed = np.stack(masks)
    return SequenceMeasures(
        name=source.name(index),
        minutes=times,
        bodies=tuple(bodies),
        centroids=np.stack(centroids),
        profiles=np.stack(profiles),
        radial=np.stack(radial),
        masks=packed,
        membrane_speed=_membrane_speed(packed, areas, times, voxel=(2.0 * scale / (SIDE - 1)) ** 3),
        protrusions=tuple(protrusions),
        rejected=rejected,
    )


@dataclass(frozen=True)
class _Scaled:
    vertices: Doubles
    faces: NDArray[np.integer]


def _scaled(snapshot: Snapshot, scale: float) -> _Scaled:
    surface: Triangles = snapshot.surface
    return _Scaled(np.asarray(surface.vertices, dtype=np.float64) * scale, surface.faces)


def _centre(bodies: list[Body]) -> Doubles:
    volumes = np.array([body.volume for body in bodies])
    return np.asarray(volumes @ np.stack([body.centroid for body in bodies]) / volumes.sum())


def profile_of(bodies: list[Body]) -> Doubles:
    """Quantiles of the distances between points spread evenly over the membranes."""
    corners = np.concatenate([body.vertices[body.faces] for body in bodies])
    areas = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    strata = (np.arange(PROFILE_POINTS) + 0.5) / PROFILE_POINTS * areas.sum()
    points = corners.mean(axis=1)[np.searchsorted(np.cumsum(areas), strata).clip(max=len(areas) - 1)]
    apart = np.linalg.norm(points[:, None] - points[None], axis=2)[np.triu_indices(PROFILE_POINTS, 1)]
    return np.asarray(np.quantile(apart, (np.arange(QUANTILES) + 0.5) / QUANTILES))


def _membrane_speed(masks: NDArray[np.uint8], areas: Doubles, minutes: Doubles, *, voxel: float) -> float:
    """Volume swept between frames over area and time."""
    if len(masks) < 2:
        return float("nan")
    swept = np.bitwise_count(masks[1:] ^ masks[:-1]).sum(axis=1) * voxel
    return float((swept / (0.5 * (areas[1:] + areas[:-1])) / np.diff(minutes)).mean())
