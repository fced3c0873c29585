"""Cells as users have them, written to disk: two cells, one of which divides, in every format that is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import trimesh
from numpy.typing import NDArray

SHAPE = (30, 44, 52)  # z, y, x
FRAMES = 6
DIVISION = 3  # first frame of the daughters
SPACING = (0.5, 0.5, 1.0)  # x, y, z in µm
MOTHER, OTHER, DAUGHTERS = 2, 5, (7, 8)
_Z, _Y, _X = np.meshgrid(*(np.arange(n, dtype=float) for n in SHAPE), indexing="ij")


def ball(centre: tuple[float, float, float], radius: float) -> NDArray[np.bool_]:
    """A ball in µm; the centre is (x, y, z)."""
    x, y, z = centre
    dx, dy, dz = _X * SPACING[0] - x, _Y * SPACING[1] - y, _Z * SPACING[2] - z
    return np.asarray(dx**2 + dy**2 + dz**2 < radius**2)


def mother_centre(frame: int) -> tuple[float, float, float]:
    return (8.0 + 0.3 * frame, 10.0, 14.0)


def labels(frame: int) -> NDArray[np.uint16]:
    """Labels of a frame, (z, y, x)."""
    volume = np.zeros(SHAPE, dtype=np.uint16)
    volume[ball((19.0, 11.0 + 0.2 * frame, 12.0), 4.2)] = OTHER
    x, y, z = mother_centre(frame)
    if frame < DIVISION:
        volume[ball((x, y, z), 5.0)] = MOTHER
    else:
        apart = 3.6 + 0.2 * (frame - DIVISION)
        volume[ball((x, y - apart, z), 3.4)] = DAUGHTERS[0]
        volume[ball((x, y + apart, z), 3.4)] = DAUGHTERS[1]
    return volume


def stack() -> NDArray[np.uint16]:
    return np.stack([labels(frame) for frame in range(FRAMES)])


def write_imagej(path: Path, volume: NDArray[Any], **metadata: object) -> Path:
    """Write TZYX as ImageJ does, with scale."""
    tifffile.imwrite(
        path,
        volume,
        imagej=True,
        resolution=(1 / SPACING[0], 1 / SPACING[1]),
        metadata={"axes": "TZYX", "spacing": SPACING[2], "unit": "um", "finterval": 90.0, "tunit": "sec", **metadata},
    )
    return path


def write_challenge(folder: Path, *, name: str = "man_track") -> Path:
    """Write a folder of the Cell Tracking Challenge; its files carry no scale."""
    folder.mkdir(parents=True)
    for frame in range(FRAMES):
        tifffile.imwrite(folder / f"{name}{frame:03d}.tif", labels(frame), compression="zlib")
    last, first = FRAMES - 1, DIVISION
    lines = [f"{MOTHER} 0 {first - 1} 0", f"{OTHER} 0 {last} 0"]
    lines += [f"{daughter} {first} {last} {MOTHER}" for daughter in DAUGHTERS]
    table = "man_track.txt" if name == "man_track" else "res_track.txt"
    (folder / table).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def write_meshes(folder: Path, suffix: str) -> Path:
    """Write a growing ellipsoid, a mesh a frame, 5 µm long at first."""
    folder.mkdir(parents=True)
    for frame in range(FRAMES):
        mesh = trimesh.creation.icosphere(subdivisions=4)
        mesh.apply_scale([5.0 + 0.2 * frame, 4.0, 3.0])
        mesh.apply_translation([30.0, -12.0, 3.0 * frame])
        mesh.export(folder / f"cell_{frame + 1}{suffix}")  # not zero-padded: cell_10 comes after cell_9
    return folder
