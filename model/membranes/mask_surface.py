"""Membranes from binary masks, with sub-voxel accuracy.

A mask tells only on which side of the membrane each voxel's centre lies. Smoothing a mask gives a plausible surface but
shrinks curved parts. The shrinking is therefore corrected: the result is a field that, sampled and smoothed again,
gives the smoothed mask. Starting from the smoothed mask, the difference to its own sampled and smoothed image is added
a few times (van Cittert's iteration). The position error falls to 0.1 voxel and the shrinking to 0.03 voxel, down to
radii of two voxels (tests/model/membranes/test_mask_surface.py has the figures).

Thick slices are first interpolated by shape: the signed distances within neighbouring slices are interpolated, not
their grey values. The surface is then triangulated; distances to triangles are exact
(:mod:`model.membranes.triangle_distance`).

Promises: a closed surface. No part of a mask with even spacing is lost, not even a single voxel.
Does not promise: detail that the mask does not hold. With thick slices the ends of a cell are assumed halfway to the
next slice, and a thin part that moves sideways by more than its thickness between two slices is disconnected.

References: shape-based interpolation, Raya and Udupa 1990, doi:10.1109/42.52980; iterated correction of a known blur,
van Cittert 1931, doi:10.1007/BF01391351.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.interpolate import PchipInterpolator
from scipy.special import ndtri
from skimage.measure import marching_cubes

from model.errors import DatasetError
from model.membranes.triangle_distance import Membrane

Doubles = NDArray[np.float64]
Spacing = tuple[float, float, float]

SIGMA = 1.4  # voxels: standard deviation of the smoothing, which averages the staircase of about 30 voxels
CORRECTIONS = 3  # iterations: fewer lose thin parts, more restore the staircase
REACH = 3.5  # voxels: distance from the smoothed surface within which the field is corrected
WRONG_SIDE = 0.4  # voxels: a centre farther than this on the wrong side belongs to a part that smoothing lost
KEPT = 0.1  # voxels: distance at which the surface then passes such a centre
LARGEST = 224  # voxels along a side: finer masks are averaged down, because a network holds less detail
THICK = 1.5  # times the finest spacing: thicker slices are interpolated by shape


def membrane_of_mask(mask: NDArray[np.bool_], spacing: Spacing) -> Membrane:
    """Find the membrane of a cell from its mask.

    Parameters
    ----------
    mask
        (nx, ny, nz), True inside. Sample (i, j, k) lies at (i, j, k) · spacing.
    spacing
        Distance of neighbouring voxels along x, y and z, in µm.

    Returns
    -------
    Membrane
        Closed, outward, in µm. A cell cut by the border of the volume is closed half a voxel outside.

    Raises
    ------
    DatasetError
        If nothing is inside.
    """
    inside = np.argwhere(mask)
    if len(inside) == 0:
        raise DatasetError("the mask is empty; it shows no cell")
    low, high = inside.min(axis=0), inside.max(axis=0) + 1
    cut = mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    occupancy, step, first = _coarsened(np.pad(cut, 1).astype(np.float64), np.array(spacing, dtype=np.float64))
    origin = (low - 1) * np.array(spacing) + first
    thick = [axis for axis in range(3) if step[axis] > THICK * step.min()]
    for axis in thick:
        parts = round(step[axis] / step.min())
        occupancy = _filled_in(occupancy >= 0.5, axis, parts=parts, spacing=step)
        step[axis] /= parts
    margin = 1 + int(np.ceil(3 * SIGMA))
    occupancy = np.pad(occupancy, margin)
    field = _corrected(occupancy, step / step.min())
    if not thick or not (field < 0).any():
        field = _restored(field, occupancy >= 0.5)
    return _triangulated(field, step, origin - margin * step)


def membrane_of_field(field: NDArray[np.floating], spacing: Spacing) -> Membrane:
    """Find the zero level set of a sampled function, negative inside; its values need not be distances.

    Parameters
    ----------
    field
        (nx, ny, nz). Sample (i, j, k) lies at (i, j, k) · spacing.
    spacing
        In µm.

    Raises
    ------
    DatasetError
        If a value is not finite, or none is inside.
    """
    values = np.asarray(field, dtype=np.float64)
    if not np.isfinite(values).all():
        raise DatasetError("the signed distances hold NaN or infinity")
    if not (values < 0).any():
        raise DatasetError("no sample is inside (negative); the frame shows no cell")
    step = np.array(spacing, dtype=np.float64)
    outside = float(np.abs(values).max()) or 1.0
    return _triangulated(np.pad(values, 1, constant_values=outside), step, -step)


def _triangulated(field: Doubles, step: Doubles, origin: Doubles) -> Membrane:
    """Triangulate the zero level set; no sample may be zero, or vertices would coincide."""
    near = 1e-3 * float(step.min() / step.max())
    kept = np.where(np.abs(field) < near, np.where(field < 0, -near, near), field)
    vertices, faces, _, _ = marching_cubes(kept, 0.0, method="lorensen", gradient_direction="descent")
    membrane = Membrane(vertices.astype(np.float64) * step + origin, np.ascontiguousarray(faces, dtype=np.int32))
    return membrane if membrane.volume > 0 else Membrane(membrane.vertices, membrane.faces[:, ::-1])


def _coarsened(occupancy: Doubles, spacing: Doubles) -> tuple[Doubles, Doubles, Doubles]:
    """Average blocks of voxels along sides of more than ``LARGEST`` voxels; returns also spacing and first position."""
    step, first = spacing.copy(), np.zeros(3)
    for axis in range(3):
        size = occupancy.shape[axis]
        factor = -(-size // LARGEST)
        if factor > 1:
            widths = [(0, -size % factor if a == axis else 0) for a in range(3)]
            padded = np.moveaxis(np.pad(occupancy, widths), axis, -1)
            blocks = padded.reshape(*padded.shape[:2], -1, factor)  # (…, blocks, factor)
            occupancy = np.moveaxis(blocks.mean(axis=-1), -1, axis)
            first[axis] = 0.5 * (factor - 1) * step[axis]
            step[axis] *= factor
    return np.pad(occupancy, 1), step, first - step


def _filled_in(mask: NDArray[np.bool_], axis: int, *, parts: int, spacing: Doubles) -> Doubles:
    """Fill in between slices: ``parts`` samples for each slice, by interpolation of the distances within slices.

    A slice beyond the end of a body gets the distances of its last one, raised so that the surface closes halfway.
    """
    slices = np.moveaxis(mask, axis, 0)  # (n, a, b)
    flat = [float(s) for a, s in enumerate(spacing) if a != axis]
    unit = min(flat)
    distances = np.stack([_distance_within(one, flat) for one in slices])
    some = np.asarray(slices.any(axis=(1, 2)))
    for number in np.flatnonzero(~some):
        beside = [n for n in (number - 1, number + 1) if 0 <= n < len(slices) and some[n]]
        raised = [distances[n] - 2.0 * distances[n].min() for n in beside]
        distances[number] = np.minimum.reduce(raised) if raised else np.hypot(*mask.shape[:2]) * unit
    places = np.arange(len(slices), dtype=np.float64)
    fine = np.arange(parts * (len(slices) - 1) + 1) / parts
    field = PchipInterpolator(places, distances, axis=0)(fine)
    return np.moveaxis(np.clip(0.5 - field / unit, 0.0, 1.0), 0, axis)


def _distance_within(inside: NDArray[np.bool_], spacing: list[float]) -> Doubles:
    """Signed distance within one slice, half a voxel corrected."""
    if not inside.any():
        return np.full(inside.shape, np.inf)
    half = 0.5 * min(spacing)
    outward = ndimage.distance_transform_edt(~inside, sampling=spacing) - half
    inward = half - ndimage.distance_transform_edt(np.pad(inside, 1), sampling=spacing)[1:-1, 1:-1]
    return np.asarray(np.where(inside, inward, outward), dtype=np.float64)


def _corrected(occupancy: Doubles, step: Doubles) -> Doubles:
    """Signed field, in voxels near zero, whose sampled and smoothed image is the smoothed occupancy."""
    sigma = SIGMA / step

    def image(inside: Doubles) -> Doubles:
        """Distance from a flat wall whose smoothed occupancy has this value."""
        smooth = ndimage.gaussian_filter(inside, sigma, truncate=4.0)
        return np.asarray(-SIGMA * ndtri(np.clip(smooth, 1e-6, 1.0 - 1e-6)))

    wanted = image(occupancy)
    weight = np.clip(REACH - np.abs(wanted), 0.0, 1.0)  # farther out both images are tails of nothing
    field = wanted.copy()
    for _ in range(CORRECTIONS):
        slope = np.sqrt(sum(gradient**2 for gradient in np.gradient(field, *step)))
        metric = field / np.maximum(slope, 0.2)
        field += weight * (wanted - image(np.clip(0.5 - metric, 0.0, 1.0)))
    return field


def _restored(field: Doubles, inside: NDArray[np.bool_]) -> Doubles:
    """Restore voxels that smoothing lost and gaps that it closed, and the voxels that connect them to the rest."""
    for side, sign in ((inside, 1.0), (~inside, -1.0)):
        lost = side & (sign * field > WRONG_SIDE)
        if lost.any():
            wrong = side & (sign * field > 0.0)
            field[ndimage.binary_propagation(lost, np.ones((3, 3, 3)), mask=wrong)] = -sign * KEPT
    return field
