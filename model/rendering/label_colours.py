"""Colours of labels that are easy to tell apart, as a lookup table of 256 entries for image programs.

Each colour is, of a regular lattice of colours, the one farthest in CIELAB from all before it and from black and white;
greys and dark colours are left out.

Promises: the same table on every machine, because distances are compared as integers. Entry 0, the background, is
black; no two entries are equal.

References
----------
Glasbey and others, Color Research & Application 2007, doi:10.1002/col.20327; IEC 61966-2-1 (sRGB); CIE 15 (CIELAB).
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

ENTRIES = 256
_LEVELS = 16  # of each of red, green and blue
_DARKEST, _GREYEST = 40.0, 25.0  # least lightness, of 100, and least chroma of a label's colour
_SCALE = 100.0  # distances are compared in hundredths of a unit of CIELAB


@cache
def label_colours() -> NDArray[np.uint8]:
    """Return the colours of labels 0 to 255, (256, 3) uint8 sRGB; do not change the array."""
    levels = np.arange(_LEVELS) * (255 // (_LEVELS - 1))
    lattice = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)  # (16³, 3)
    lab = to_cielab(lattice)
    lattice = lattice[(lab[:, 0] >= _DARKEST) & (np.hypot(lab[:, 1], lab[:, 2]) >= _GREYEST)]
    places = np.rint(_SCALE * to_cielab(lattice)).astype(np.int64)
    fixed = np.rint(_SCALE * to_cielab(np.array([[0, 0, 0], [255, 255, 255]]))).astype(np.int64)
    nearest = np.min([((places - place) ** 2).sum(axis=1) for place in fixed], axis=0)
    colours = np.zeros((ENTRIES, 3), dtype=np.uint8)
    for entry in range(1, ENTRIES):
        chosen = int(nearest.argmax())
        colours[entry] = lattice[chosen]
        nearest = np.minimum(nearest, ((places - places[chosen]) ** 2).sum(axis=1))
    colours.setflags(write=False)
    return colours


def to_cielab(colours: NDArray[np.integer]) -> NDArray[np.float64]:
    """Convert sRGB colours (n, 3), 0 to 255, to CIELAB (n, 3) with the white of D65."""
    share = colours / 255.0
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([
        [0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041],
    ])  # fmt: skip
    xyz = (linear[:, None, :] * to_xyz).sum(axis=2) / to_xyz.sum(axis=1)
    root = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = root.T
    return np.stack([116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)], axis=1)
