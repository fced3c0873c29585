"""Comparison of a model's new cells with held-out cells, between an upper and a lower reference.

Three sets of sequences are compared with the held-out set by every descriptor: the model's new cells; the sequences it
was trained on, which are the best that any model of them can reach; and draws of the baseline, which a model must beat.
Without held-out sequences the training set is halved, and its second half is held out.

Promises: the same plan gives the same figures.
Does not promise: agreement in descriptors that are not listed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from model.evaluation.measures.descriptors import bodies_of, describe
from model.evaluation.measures.harmonics import draw_rows, star_surface
from model.evaluation.measures.statistics import DRAWS, Comparison, compare, compare_sets, distances
from model.evaluation.novelty import Outline, find_outlines, novelty_figures, outline_of
from model.evaluation.sequence_measures import (
    PROTRUSION_NAMES,
    SEQUENCE_NAMES,
    SequenceMeasures,
    measure_sequences,
    processes,
    profile_of,
)
from model.evaluation.sequence_sources import Sequences
from model.network.plausibility import is_plausible

Doubles = NDArray[np.float64]
_Row = TypeVar("_Row")
Topology = Literal["single", "division"]

BODY_NAMES = (
    "volume", "area", "sphericity", "solidity", "elongation", "middle_to_long", "short_to_long", "extent_long",
    "extent_middle", "extent_short", "mean_curvature", "curvature_spread", "concave",
)  # fmt: skip
NAMES = (*BODY_NAMES, *SEQUENCE_NAMES, *PROTRUSION_NAMES)
JUMP = 0.3  # largest plausible change of volume between moments, relative; they lie 4 frames of 30 apart


@dataclass(frozen=True)
class Sides:
    """The measured sets.

    Attributes
    ----------
    generated, held_out, training, baseline
        Each as it was measured.
    searched
        Outlines of the training cells among which the nearest is looked for; those measured, when None.
    is_halved
        Whether the held-out set is half of the training cells, because there is no other.
    """

    generated: list[SequenceMeasures]
    held_out: list[SequenceMeasures]
    training: list[SequenceMeasures]
    baseline: list[SequenceMeasures]
    searched: list[Outline] | None = None
    is_halved: bool = False

    @cached_property
    def outlines(self) -> list[Outline]:
        """Outlines of the new cells."""
        return [outline_of(sequence) for sequence in self.generated]

    @cached_property
    def training_outlines(self) -> list[Outline]:
        """Outlines of the training cells among which the nearest is looked for."""
        return self.searched or [outline_of(sequence) for sequence in self.training]

    @property
    def moments(self) -> int:
        """Number of frames at which sequences are compared: those that every set has."""
        return min(max(len(sequence.minutes) for sequence in sequences) for sequences in self.named().values())

    def named(self) -> dict[str, list[SequenceMeasures]]:
        """Sets by the names that reports give them, the reference first."""
        return {
            "held-out": self.held_out,
            "generated": self.generated,
            "training": self.training,
            "baseline": self.baseline,
        }


@dataclass(frozen=True)
class MeasuredSets:
    """What was measured of the sets of a comparison: of all their sequences, or of a part of each set.

    Attributes
    ----------
    generated, training
        Each as it was measured.
    held_out
        None where there is no such set.
    searched
        Outlines of the training cells among which the nearest is looked for; None where those of ``training`` serve.
    """

    generated: list[SequenceMeasures]
    training: list[SequenceMeasures]
    held_out: list[SequenceMeasures] | None = None
    searched: list[Outline] | None = None


def measure_sets(
    *,
    generated: Sequences,
    training: Sequences,
    held_out: Sequences | None,
    searched: Sequences | None = None,
    part: tuple[int, int] = (0, 1),
    workers: int = 1,
    on_sequence: Callable[[str], None] = lambda _name: None,
) -> MeasuredSets:
    """Measure all sets of a comparison, or a part of each.

    Parameters
    ----------
    generated, training, held_out
        Where they come from.
    searched
        All sequences that the model was trained on, for the nearest of them; ``training`` when None.
    part
        Which part, numbered from 0, of how many: consecutive sequences of each set.
    workers
        Processes.
    on_sequence
        Called with the name of every sequence that was measured.
    """
    with processes(workers) as mapped:

        def measured(source: Sequences) -> list[SequenceMeasures]:
            return measure_sequences(
                source, indices=_share(len(source), part), mapped=mapped,
                on_sequence=lambda sequence: on_sequence(sequence.name),
            )  # fmt: skip

        made, learned = measured(generated), measured(training)
        kept = measured(held_out) if held_out is not None else None
        outlines = None
        if searched is not None and len(searched) > len(training):
            share = _share(len(searched), part)
            outlines = find_outlines(searched, indices=share, mapped=mapped, on_sequence=on_sequence)
    return MeasuredSets(made, learned, kept, outlines)


def _share(count: int, part: tuple[int, int]) -> range:
    number, total = part
    return range(number * count // total, (number + 1) * count // total)


def put_together(parts: Sequence[MeasuredSets]) -> MeasuredSets:
    """Return the sets of which all parts were measured, given in order."""

    def joined(lists: list[list[_Row] | None]) -> list[_Row] | None:
        known = [rows for rows in lists if rows is not None]
        return [row for rows in known for row in rows] if known else None

    return MeasuredSets(
        joined([part.generated for part in parts]) or [],
        joined([part.training for part in parts]) or [],
        joined([part.held_out for part in parts]),
        joined([part.searched for part in parts]),
    )


def sides_of(measured: MeasuredSets) -> Sides:
    """Return what is compared; without held-out sequences the training set is halved."""
    learned, kept = measured.training, measured.held_out
    outlines = measured.searched or [outline_of(sequence) for sequence in learned]
    if kept is None:
        learned, kept = learned[::2], learned[1::2]
    baseline = draw_baseline(learned, len(measured.generated), np.random.default_rng(0))
    return Sides(measured.generated, kept, learned, baseline, outlines, measured.held_out is None)


def draw_baseline(sequences: list[SequenceMeasures], count: int, rng: np.random.Generator) -> list[SequenceMeasures]:
    """Draw sequences from spherical harmonics with principal components, fitted to sequences of equal length."""
    frames = min(len(sequence.minutes) for sequence in sequences)
    usual = [sequence for sequence in sequences if len(sequence.minutes) >= frames]
    size = usual[0].radial.shape[1]
    rows = np.stack(
        [
            np.concatenate(
                [sequence.radial[:frames].ravel(), (sequence.centroids[:frames] - sequence.centroids[0]).ravel()]
            )
            for sequence in usual
        ]
    )
    drawn = draw_rows(rows, count, rng)
    return [
        _star_sequence(f"baseline {number}", row[: frames * size].reshape(frames, size), row[frames * size :], usual[0])
        for number, row in enumerate(drawn)
    ]


def _star_sequence(name: str, radial: Doubles, path: Doubles, like: SequenceMeasures) -> SequenceMeasures:
    frames = len(radial)
    bodies, profiles = [], []
    for coefficients in radial:
        found = bodies_of(star_surface(coefficients))
        bodies.append(tuple(describe(body) for body in found))
        profiles.append(profile_of(found))
    return SequenceMeasures(
        name=name,
        minutes=like.minutes[:frames],
        bodies=tuple(bodies),
        centroids=path.reshape(frames, 3),
        profiles=np.stack(profiles),
        radial=radial,
        masks=np.zeros((frames, 0), dtype=np.uint8),
        membrane_speed=float("nan"),
    )


def compare_sides(sides: Sides, *, topology: Topology, rng: np.random.Generator, draws: int = DRAWS) -> dict[str, Any]:
    """Compare every set with the held-out one.

    Returns
    -------
    dict
        ``descriptors``: for each, comparisons of the generated, training and baseline sets with the held-out one;
        ``sets``: 1-NNA, coverage and matching distance of the same; ``novelty`` and ``plausibility`` of the new cells.
    """
    descriptors: dict[str, dict[str, dict[str, float]]] = {}
    named = sides.named()
    reference = named.pop("held-out")
    for name in NAMES:
        rows = {side: _compared(sequences, reference, name, rng, draws) for side, sequences in named.items()}
        found = {side: row.as_dict() for side, row in rows.items() if row is not None}
        if "generated" in found or "training" in found:
            descriptors[name] = found
    moments = sides.moments
    profiles = {side: profile_rows(sequences, moments) for side, sequences in sides.named().items()}
    return {
        "sequences": {side: len(sequences) for side, sequences in sides.named().items()},
        "moments": moments,
        "descriptors": descriptors,
        "sets": {
            side: compare_sets(rows, profiles["held-out"]).as_dict()
            for side, rows in profiles.items()
            if side != "held-out"
        },
        "novelty": novelty(sides),
        "plausibility": plausibility(sides.generated, topology),
    }


def _compared(
    sequences: list[SequenceMeasures],
    reference: list[SequenceMeasures],
    name: str,
    rng: np.random.Generator,
    draws: int,
) -> Comparison | None:
    if name in PROTRUSION_NAMES and not (sequences and sequences[0].protrusions):
        return None
    return compare(
        [sequence.values(name) for sequence in sequences],
        [sequence.values(name) for sequence in reference],
        rng=rng,
        draws=draws,
    )


def profile_rows(sequences: list[SequenceMeasures], moments: int) -> Doubles:
    """Rows (n, k) whose Euclidean distance is the root mean square difference of two sequences' profiles, in µm."""
    rows = np.stack([sequence.profiles[_spread(sequence, moments)].ravel() for sequence in sequences])
    return np.asarray(rows / np.sqrt(rows.shape[1]))


def _spread(sequence: SequenceMeasures, moments: int) -> NDArray[np.int64]:
    """Return the frames of a sequence nearest to times spread over it."""
    return np.linspace(0, len(sequence.minutes) - 1, moments).round().astype(np.int64)


def novelty(sides: Sides) -> dict[str, float]:
    """Distance of new cells from the nearest training sequence, compared with that of held-out cells.

    By profile, which does not see how a cell is turned (``nearest_training_um``, that ``…_of_held_out`` cells, and
    their ``ratio``), and by overlap: see :func:`model.evaluation.novelty.novelty_figures`.
    """
    training, made, kept = (
        profile_rows(sequences, sides.moments) for sequences in (sides.training, sides.generated, sides.held_out)
    )
    of_made, of_kept = distances(made, training).min(axis=1), distances(kept, training).min(axis=1)
    figures = {
        "nearest_training_um": float(np.median(of_made)),
        "nearest_training_um_of_held_out": float(np.median(of_kept)),
        "ratio": float(np.median(of_made) / max(float(np.median(of_kept)), 1e-12)),
    }
    held_out = None if sides.is_halved else [outline_of(sequence) for sequence in sides.held_out]
    overlap = novelty_figures(sides.outlines, sides.training_outlines, held_out)
    return {**overlap, **{name: round(value, 4) for name, value in figures.items()}}


def plausibility(sequences: list[SequenceMeasures], topology: Topology) -> dict[str, float]:
    """Share of sequences with the bodies that the cell type has, before the plausibility check and after it."""
    whole = [is_plausible(sequence.counts(), sequence.volumes(), topology, largest_jump=JUMP) for sequence in sequences]
    return {
        "before_gate": round(float(np.mean([sequence.rejected == 0 for sequence in sequences])), 4),
        "after_gate": round(float(np.mean(whole)), 4),
        "rejected_per_cell": round(float(np.mean([sequence.rejected for sequence in sequences])), 4),
    }
