"""Statistics of two samples of sequences; frames of one sequence are not independent.

The effect size is the Kolmogorov-Smirnov distance D, the largest difference of two distribution functions: 0 for equal
distributions, 1 for distributions that do not overlap. Its confidence interval resamples whole sequences. Its p-value
exchanges whole sequences between the samples.

Promises: the same generator gives the same figures. Neither interval nor p-value treats frames as independent.
Does not promise: an unbiased D. For two finite samples of one distribution D is above 0; the training set's own D
against the same held-out sequences shows by how much.

References: bootstrap of clusters, Davison and Hinkley 1997, doi:10.1017/CBO9780511802843; permutation tests, Good 2005,
doi:10.1007/b138696; 1-NN accuracy, coverage and minimum matching distance of sets of shapes, Achlioptas et al. 2018,
arXiv:1707.02392, and Yang et al. 2019, arXiv:1906.12320.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

Doubles = NDArray[np.float64]

DRAWS = 1000  # resamplings of an interval or a p-value
CONFIDENCE = 0.95  # of the intervals


@dataclass(frozen=True)
class Comparison:
    """Difference of two samples of one descriptor.

    Attributes
    ----------
    distance, low, high
        Kolmogorov-Smirnov D, and the bounds between which 95 % of its resampled values lie.
    p
        Share of exchanges of whole sequences that give a D as large.
    median, median_of_other
        Of the samples.
    """

    distance: float
    low: float
    high: float
    p: float
    median: float
    median_of_other: float

    def as_dict(self) -> dict[str, float]:
        """Names and values, rounded for reading."""
        return {name: float(f"{value:.4g}") for name, value in asdict(self).items()}


def compare(
    sample: Sequence[Sequence[float]],
    other: Sequence[Sequence[float]],
    *,
    rng: np.random.Generator,
    draws: int = DRAWS,
) -> Comparison | None:
    """Compare two samples of sequences, each a list of values; nothing if either has no finite value.

    Parameters
    ----------
    sample, other
        One list of values a sequence; NaN are left out.
    rng
        Source of the resampling.
    draws
        Resamples, and exchanges.
    """
    first, second = _finite(sample), _finite(other)
    if not first or not second:
        return None
    values = np.unique(np.concatenate([*first, *second]))
    counts = np.stack([np.bincount(np.searchsorted(values, one), minlength=len(values)) for one in [*first, *second]])
    below = counts.cumsum(axis=1).astype(np.float64)  # (sequences, values)
    whole = np.array([len(one) for one in [*first, *second]], dtype=np.float64)
    split = len(first)
    chosen = np.zeros(len(below))
    chosen[:split] = 1.0
    distance = float(_gap(below, whole, chosen[None], 1.0 - chosen[None])[0])
    resampled = np.zeros((draws, len(below)))
    resampled[:, :split] = rng.multinomial(split, np.full(split, 1.0 / split), draws)
    rest = len(below) - split
    resampled[:, split:] = rng.multinomial(rest, np.full(rest, 1.0 / rest), draws)
    spread = _gap(below, whole, resampled * chosen, resampled * (1.0 - chosen))
    exchanged = rng.permuted(np.tile(chosen, (draws, 1)), axis=1)
    null = _gap(below, whole, exchanged, 1.0 - exchanged)
    tail = (1.0 - CONFIDENCE) / 2.0
    return Comparison(
        distance=distance,
        low=float(np.quantile(spread, tail)),
        high=float(np.quantile(spread, 1.0 - tail)),
        p=float((1 + (null >= distance - 1e-12).sum()) / (1 + draws)),
        median=float(np.median(np.concatenate(first))),
        median_of_other=float(np.median(np.concatenate(second))),
    )


def _finite(sample: Sequence[Sequence[float]]) -> list[Doubles]:
    kept = [np.asarray(one, dtype=np.float64) for one in sample]
    kept = [one[np.isfinite(one)] for one in kept]
    return [one for one in kept if len(one)]


def _gap(below: Doubles, whole: Doubles, first: Doubles, second: Doubles) -> Doubles:
    """Largest gap between the distribution functions of two weightings (d, sequences) of the sequences, (d,)."""
    one = (first @ below) / np.maximum(first @ whole, 1e-12)[:, None]
    two = (second @ below) / np.maximum(second @ whole, 1e-12)[:, None]
    return np.asarray(np.abs(one - two).max(axis=1))


@dataclass(frozen=True)
class SetComparison:
    """Agreement of a set of generated sequences with reference sequences, by their distances.

    Attributes
    ----------
    one_nn
        Share of all sequences whose nearest neighbour is of their own set: 0.5 if the sets cannot be told apart, 1 if
        they are apart, less than 0.5 if each generated sequence copies a reference.
    coverage
        Share of reference sequences that are the nearest to some generated one.
    matching
        Mean distance from a reference sequence to the nearest generated one.
    """

    one_nn: float
    coverage: float
    matching: float

    def as_dict(self) -> dict[str, float]:
        """Names and values, rounded for reading."""
        return {name: float(f"{value:.4g}") for name, value in asdict(self).items()}


def compare_sets(generated: Doubles, reference: Doubles) -> SetComparison:
    """Compare sets of sequences by their profiles.

    Parameters
    ----------
    generated, reference
        (g, k) and (r, k) rows whose Euclidean distance is that of two sequences. The larger set is cut to the size of
        the smaller, for sets of unequal size bias the share of neighbours.
    """
    count = min(len(generated), len(reference))
    one, two = generated[:count], reference[:count]
    both = distances(np.concatenate([one, two]), np.concatenate([one, two]))
    np.fill_diagonal(both, np.inf)
    own = np.arange(2 * count) < count
    across = both[:count, count:]
    return SetComparison(
        one_nn=float((own[both.argmin(axis=1)] == own).mean()),
        coverage=len(np.unique(across.argmin(axis=1))) / count,
        matching=float(across.min(axis=0).mean()),
    )


def distances(first: Doubles, second: Doubles) -> Doubles:
    """Euclidean distances (a, b) of rows (a, k) and (b, k)."""
    return np.asarray(cdist(first, second))
