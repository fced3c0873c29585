"""Choice of the density of new codes: the one under which learned codes that it was not fitted to are likeliest.

Four families are compared. All are mixtures of Gaussians of one covariance: one Gaussian with the codes' covariance;
the same with the covariance shrunk toward the mean variance; Gaussians around the means of groups of codes; and a
Gaussian around each code (a kernel estimate, as a smoothed bootstrap draws it). Each is fitted to four fifths of the
codes and scored by the mean logarithm of its density at the other fifth, for all five fifths.

Promises: the same codes give the same choice. A constant direction of the codes stays constant.
Does not promise: that likelier codes give better cells; an evaluation tells.

References: cross-validated likelihood, Stone 1974, doi:10.1111/j.2517-6161.1974.tb00994.x, and for kernels, Duin 1976,
doi:10.1109/TC.1976.1674577; shrinkage, Ledoit and Wolf 2004, doi:10.1016/S0047-259X(03)00096-4; k-means++, Arthur and
Vassilvitskii 2007.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from model.network.latent import Density, Floats, Prior, fit_prior

Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]

FOLDS = 5
LEAST_CODES = 10  # fewer cannot be split into fifths that tell anything
SHRINKAGE = (0.01, 0.03, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)  # toward the mean variance; the kernels use each as well
GROUPS = (2, 3, 4, 6, 8, 12)
BANDWIDTHS = (0.1, 0.2, 0.35, 0.5, 0.7, 0.9)
GROUPING_AXES = 12  # principal components by which codes are grouped: far more are noise to k-means
ROUNDS = 50  # of k-means; it stops when nothing changes
LEAST_VARIANCE = 1e-9  # share of the largest variance under which a direction counts as constant


@dataclass(frozen=True)
class Candidate:
    """One density that may be chosen.

    Attributes
    ----------
    kind
        ``gaussian``, ``shrunk``, ``mixture`` or ``kernel``.
    shrinkage
        Share of the mean variance in the covariance, in [0, 1].
    groups
        Number of Gaussians of a mixture.
    bandwidth
        Share of the spread that is noise; 1 but for kernels.
    """

    kind: str
    shrinkage: float = 0.0
    groups: int = 1
    bandwidth: float = 1.0


def candidates() -> list[Candidate]:
    """Return all densities that are compared."""
    found = [Candidate("gaussian")]
    found += [Candidate("shrunk", share) for share in SHRINKAGE]
    found += [Candidate("mixture", share, groups) for groups in GROUPS for share in SHRINKAGE]
    found += [Candidate("kernel", share, bandwidth=width) for width in BANDWIDTHS for share in SHRINKAGE]
    return found


def composed_density(codes: Floats, *, parts: int, near: float, bandwidth: float, mirrors: bool = False) -> Prior:
    """Return the density of cells that are composed of learned ones (:mod:`model.network.composition`).

    Parameters
    ----------
    codes
        (s, c) learned codes.
    parts
        Cells of which one is composed.
    near
        Share of the codes, those nearest to the first part's, from which the others are taken.
    bandwidth
        Share of the codes' spread that is noise, in each part.
    mirrors
        Whether parts may be mirror images: where cells lie as often one way round as the other, along every axis.
    """
    chosen = Density(kind="composed", shrinkage=0.0, parts=parts, near=near, mirrors=mirrors)
    return replace(fit_prior(codes, bandwidth=bandwidth), density=chosen)


def choose_density(codes: Floats) -> tuple[Prior, dict[str, float]]:
    """Fit the density of new codes that held-out codes are likeliest under.

    Parameters
    ----------
    codes
        (s, c) learned codes.

    Returns
    -------
    tuple
        The prior, and the mean logarithm of the density at held-out codes of the best of each kind, in nats a number of
        the code that varies. With fewer than ``LEAST_CODES`` codes it is empty, and the prior that of
        :func:`model.network.latent.fit_prior`.
    """
    if len(codes) < LEAST_CODES:
        return fit_prior(codes), {}
    reduced, _ = _varying(np.asarray(codes, dtype=np.float64))
    order = np.random.default_rng(len(codes)).permutation(len(codes))
    folds = [order[start::FOLDS] for start in range(FOLDS)]
    scores: dict[Candidate, float] = {}
    for candidate in candidates():
        likelihoods = []
        for fold in folds:
            kept = np.setdiff1d(order, fold)
            likelihoods.append(_log_density(reduced[fold], reduced[kept], candidate))
        scores[candidate] = float(np.concatenate(likelihoods).mean()) / max(reduced.shape[1], 1)
    best = max(scores, key=lambda candidate: scores[candidate])
    kinds = dict.fromkeys(candidate.kind for candidate in scores)
    told = {kind: round(max(scores[one] for one in scores if one.kind == kind), 4) for kind in kinds}
    return fit_density(codes, best), told


def fit_density(codes: Floats, candidate: Candidate) -> Prior:
    """Fit one density to all codes."""
    table = np.asarray(codes, dtype=np.float64)
    reduced, axes = _varying(table)
    groups = group(reduced, candidate.groups)
    variances, directions = np.linalg.eigh(_covariance(reduced, groups, candidate.shrinkage))
    factor = np.sqrt(variances.clip(0.0))[:, None] * (directions.T @ axes)  # (k, c)
    components = tuple(int(number) for number in groups) if candidate.groups > 1 else ()
    density = Density(kind=candidate.kind, shrinkage=candidate.shrinkage, components=components)
    return Prior(np.asarray(codes, dtype=np.float32), factor.astype(np.float32), candidate.bandwidth, density)


def group(codes: Doubles, count: int) -> Integers:
    """Divide codes (s, d) into groups by k-means on their first components: (s,) numbers from 0, all of them used."""
    if count == 1:
        return np.zeros(len(codes), dtype=np.int64)
    points = codes[:, :GROUPING_AXES]
    rng = np.random.default_rng(count)
    middles = points[[int(rng.integers(len(points)))]]
    while len(middles) < count:
        apart = _squares(points, middles).min(axis=1)
        if not apart.any():
            break  # fewer different codes than groups
        middles = np.concatenate([middles, points[[int(rng.choice(len(points), p=apart / apart.sum()))]]])
    labels = _squares(points, middles).argmin(axis=1)
    for _ in range(ROUNDS):
        middles = np.stack([points[labels == number].mean(axis=0) for number in np.unique(labels)])
        before, labels = labels, _squares(points, middles).argmin(axis=1)
        if np.array_equal(before, labels):
            break
    return np.unique(labels, return_inverse=True)[1].astype(np.int64)


def _squares(points: Doubles, middles: Doubles) -> Doubles:
    return np.asarray(((points[:, None] - middles[None]) ** 2).sum(axis=2))


def _varying(table: Doubles) -> tuple[Doubles, Doubles]:
    """Components (s, d) of codes along the directions in which they vary, the first most, and these (d, c)."""
    centred = table - table.mean(axis=0)
    _, singular, axes = np.linalg.svd(centred, full_matrices=False)
    kept = singular**2 > LEAST_VARIANCE * max(float(singular[0]) ** 2, np.finfo(np.float64).tiny)
    axes = axes[kept]
    axes = axes * np.where(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)] < 0, -1.0, 1.0)[:, None]
    return centred @ axes.T, axes


def _covariance(codes: Doubles, groups: Integers, shrinkage: float) -> Doubles:
    """Covariance (d, d) within groups, shrunk."""
    centred = codes.copy()
    for number in np.unique(groups):
        centred[groups == number] -= codes[groups == number].mean(axis=0)
    found = centred.T @ centred / len(codes)
    spread = np.trace(found) / len(found)
    return np.asarray((1.0 - shrinkage) * found + shrinkage * spread * np.eye(len(found)))


def _log_density(at: Doubles, codes: Doubles, candidate: Candidate) -> Doubles:
    """Logarithm of a density that is fitted to ``codes`` (s, d), at other codes (m, d): (m,)."""
    groups = group(codes, candidate.groups)
    covariance = _covariance(codes, groups, candidate.shrinkage) * candidate.bandwidth**2
    if candidate.kind == "kernel":
        mean = codes.mean(axis=0)
        centres, shares = mean + np.sqrt(1.0 - candidate.bandwidth**2) * (codes - mean), np.ones(len(codes))
    else:
        numbers = np.unique(groups)
        centres = np.stack([codes[groups == number].mean(axis=0) for number in numbers])
        shares = np.array([(groups == number).sum() for number in numbers], dtype=np.float64)
    try:
        lower = np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:  # fewer codes than directions, not shrunk: no density
        return np.full(len(at), -np.inf)
    white = np.linalg.solve(lower, np.concatenate([at, centres]).T).T
    white_at, white_centres = white[: len(at)], white[len(at) :]
    squares = (white_at**2).sum(axis=1)[:, None] + (white_centres**2).sum(axis=1) - 2.0 * white_at @ white_centres.T
    constant = np.log(np.diag(lower)).sum() + 0.5 * codes.shape[1] * np.log(2.0 * np.pi)
    weights = np.log(shares / shares.sum())
    return np.asarray(logsumexp(weights - 0.5 * squares, axis=1) - constant)
