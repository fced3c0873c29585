"""Copies of few training sequences: turned by quarter turns and mirrored, with exact distances.

The 48 symmetries of a cube map Ω onto itself, so the points of a copy are those of its sequence with axes exchanged and
signs changed, and its distances are the same numbers. Each copy has a code of its own: a network that meets a cell in
several poses learns what shape is apart from pose. That helps where cells lie in any direction, as migrating cells do,
and does not where all lie in one, as the phantoms.

Promises: nothing is rounded, resampled or kept twice in memory. The sequences themselves come first, then their copies.
Does not promise: new shapes (:mod:`model.learning.warps` makes some); time never runs backwards.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import permutations, product

import numpy as np
from numpy.typing import NDArray

from model.learning.dataset import Dataset, Floats, Samples

MOST = 47  # copies of a sequence: the symmetries of a cube but the identity


@dataclass(frozen=True)
class Symmetry:
    """One symmetry of Ω: new coordinate k is coordinate ``axes[k]`` times ``signs[k]``."""

    axes: tuple[int, ...]
    signs: tuple[int, ...]

    def matrix(self) -> NDArray[np.float64]:
        """Return it as an orthogonal matrix (3, 3); its determinant is -1 for mirror images."""
        return np.asarray(np.eye(3)[list(self.axes)] * np.array(self.signs)[:, None])


SYMMETRIES = tuple(Symmetry(axes, signs) for axes in permutations(range(3)) for signs in product((1, -1), repeat=3))


@dataclass(frozen=True)
class TurnedSamples:
    """Training points of a sequence, turned when a frame is read."""

    samples: Samples
    symmetry: Symmetry

    @property
    def shape(self) -> tuple[int, ...]:
        """(frames, points, 4)."""
        return self.samples.shape

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, frame: int) -> Floats:
        """Points of a frame, (points, 4): x, y, z and signed distance."""
        turned = self.samples[frame][:, [*self.symmetry.axes, 3]]
        turned[:, :3] *= np.array(self.symmetry.signs, dtype=turned.dtype)
        return turned


def with_copies(dataset: Dataset, copies: int, *, seed: int) -> Dataset:
    """Return a data set and, behind its sequences, so many copies of each; the same one without copies.

    Parameters
    ----------
    dataset
        What is copied.
    copies
        Of each sequence, at most ``MOST``; each is turned or mirrored differently.
    seed
        Of the choice of symmetries.
    """
    if not copies:
        return dataset
    names, samples, uneven = list(dataset.names), list(dataset.samples), dict(dataset.uneven)
    count = len(dataset.samples)
    chosen = [np.random.default_rng([seed, 23, number]).permutation(MOST)[:copies] + 1 for number in range(count)]
    for copy in range(copies):
        for number in range(count):
            names.append(f"{dataset.names[number]}, copy {copy + 1}")
            samples.append(TurnedSamples(dataset.samples[number], SYMMETRIES[int(chosen[number][copy])]))
            if number in dataset.uneven:
                uneven[(copy + 1) * count + number] = dataset.uneven[number]
    return replace(dataset, names=names, samples=samples, uneven=uneven)
