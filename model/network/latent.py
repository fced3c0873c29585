"""Latent codes: where they come from when a new cell is asked for, and how the cell is turned.

Promises: everything follows from the spec's seed and the index of the sequence, so any one of many can be remade alone;
as many sequences of a spec as there are learned codes lie around all of them, each once, and so do the first sequences
of as many seeds in a row; random rotations are uniform on SO(3).
Does not promise: that a code far from the learned ones gives a living shape.

References: uniform quaternions, Shoemake 1992, doi:10.1016/B978-0-08-050755-2.50036-1; shrinkage of a covariance,
Ledoit and Wolf 2004, doi:10.1016/S0047-259X(03)00096-4; smoothed bootstrap, Silverman and Young 1987,
doi:10.1093/biomet/74.3.469; balanced bootstrap, Davison, Hinkley and Schechtman 1986, doi:10.1093/biomet/73.3.555.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from model.errors import SpecError
from model.network.composition import PARTS_MAX, Composition, draw_directions
from model.spec import (
    ExplicitLatent,
    GenerationSpec,
    InterpolatedLatent,
    LearnedLatent,
    NearbyLatent,
    SampledLatent,
)

Floats = NDArray[np.float32]
ORDER, FIRST = 1, 2  # tell the generators that order learned codes from those of sequences, which have no third number


class Density(BaseModel):
    """How new codes are drawn, as weights state it.

    Chosen by held-out likelihood (:mod:`model.network.density`), or ``composed``: of several learned codes, each with
    noise (:mod:`model.network.composition`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    kind: Literal["gaussian", "shrunk", "mixture", "kernel", "composed"]
    shrinkage: float = Field(ge=0, le=1, description="Share of the mean variance in the covariance.")
    components: tuple[Annotated[int, Field(ge=0, le=9999)], ...] = Field(
        default=(), description="Of each learned code the number of its Gaussian; empty where there is one."
    )
    parts: int = Field(default=1, ge=1, le=PARTS_MAX, description="Learned cells of which a new one is composed.")
    near: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Share of the learned codes, those nearest to the first part's, for others.",
    )

    mirrors: bool = Field(default=False, description="Whether a part may be a mirror image along any axes.")

    @model_validator(mode="after")
    def _parts_of_composed_ones(self) -> Self:
        if (self.parts > 1) != (self.kind == "composed") or (self.kind == "composed" and self.components):
            raise ValueError("a composed density has several parts and no components, others one part")
        return self

    @model_serializer(mode="wrap")
    def _without_what_is_not_used(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what only composed densities have: files without them stay as they were, to the byte."""
        members: dict[str, Any] = handler(self)
        if self.parts == 1:
            del members["parts"], members["near"], members["mirrors"]
        return members

    def fits(self, codes: int) -> bool:
        """Whether the components are those of so many codes: numbers from 0, each used, or none."""
        used = set(self.components)
        return not used or (len(self.components) == codes and used == set(range(len(used))))


@dataclass(frozen=True)
class Prior:
    """Density of new codes: a Gaussian around each learned code, all of one shape.

    A code is drawn by choosing a learned one, moving it a little toward the mean, and adding noise, so that new codes
    have the spread of the learned ones (the smoothed bootstrap). One Gaussian over all codes was tried first;
    the middle between many cells is no cell: it seldom divides and has no filopodia. With a ``density`` that was chosen
    by held-out likelihood, a code is moved toward the mean of its component, and with a bandwidth of 1 drawn from that
    component's Gaussian.

    Attributes
    ----------
    centres
        (s, c) float32 learned codes.
    factor
        (k, c) float32; principal axes of the learned codes' covariance, scaled by their standard deviations.
    bandwidth
        Share of the spread that is noise, in [0, 1]: 0 repeats learned codes, near 1 it is one Gaussian.
    density
        How it was chosen, and the components; None for a bandwidth that was given.
    """

    centres: Floats
    factor: Floats
    bandwidth: float
    density: Density | None = None

    @property
    def mean(self) -> Floats:
        """Average of the learned codes, (c,) float32."""
        return np.asarray(self.centres.astype(np.float64).mean(axis=0), dtype=np.float32)

    def sample(self, rng: np.random.Generator, *, temperature: float = 1.0, around: int | None = None) -> Floats:
        """Draw one code.

        Parameters
        ----------
        rng
            Source of randomness.
        temperature
            Scales the noise; 0 repeats a learned code. Without a ``density`` no noise is wider than the learned spread.
        around
            Number of the learned code to start from; any, when None.

        Returns
        -------
        Floats
            (c,) float32.
        """
        chosen = rng.integers(len(self.centres)) if around is None else around
        centre = self.centres[chosen].astype(np.float64)
        noise = rng.standard_normal(len(self.factor)) @ self.factor.astype(np.float64)
        width = self.bandwidth * temperature
        if self.density is None:
            width, mean = min(width, 1.0), self.mean.astype(np.float64)
        else:
            mean = self._component_means[self.density.components[chosen] if self.density.components else 0]
        code = mean + np.sqrt(max(1.0 - width**2, 0.0)) * (centre - mean) + width * noise
        return np.asarray(code, dtype=np.float32)

    def draw(self, rng: np.random.Generator, *, temperature: float = 1.0, around: int | None = None) -> Floats:
        """Draw the code of a new cell: :meth:`sample`, or several in a composition where the density says so.

        Parameters
        ----------
        rng, temperature, around
            As :meth:`sample` takes them; ``around`` is the learned code of the first part. A temperature of 0 repeats
            one learned code.

        Returns
        -------
        Floats
            (c,) or (k · (c + 6),) float32.
        """
        count = min(1 if self.density is None else self.density.parts, len(self.centres))
        if count == 1 or temperature == 0.0:
            return self.sample(rng, temperature=temperature, around=around)
        assert self.density is not None
        first = int(rng.integers(len(self.centres))) if around is None else around
        away = np.linalg.norm(self.centres.astype(np.float64) - self.centres[first], axis=1)
        others = np.argsort(away, kind="stable")[1 : 1 + max(count - 1, round(self.density.near * len(away)))]
        chosen = [first, *(int(one) for one in rng.choice(others, count - 1, replace=False))]
        codes = np.stack([self.sample(rng, temperature=temperature, around=number) for number in chosen])
        signs = 1.0 - 2.0 * rng.integers(2, size=(count, 3)) * self.density.mirrors
        return Composition(codes, draw_directions(count, rng), signs.astype(np.float32)).values

    @cached_property
    def _component_means(self) -> NDArray[np.float64]:
        """Mean of each component's learned codes, (k, c)."""
        codes = self.centres.astype(np.float64)
        if self.density is None or not self.density.components:
            return np.asarray(codes.mean(axis=0)[None])
        of_code = np.array(self.density.components)
        return np.stack([codes[of_code == number].mean(axis=0) for number in np.unique(of_code)])


def fit_prior(codes: Floats, *, bandwidth: float = 0.35) -> Prior:
    """Fit the density of new codes to the learned ones.

    The covariance is shrunk toward the mean variance within the span of the codes (Ledoit and Wolf's intensity),
    because there are about as many codes as dimensions; directions that no code uses stay empty.

    Parameters
    ----------
    codes
        (s, c) learned codes.
    bandwidth
        Share of the spread that is noise. Larger is more novel and less often plausible; docs/explanation/science.md
        has the measurements behind the default.

    Returns
    -------
    Prior
        With min(s − 1, c) axes, at least one.
    """
    table = np.asarray(codes, dtype=np.float64)
    count, size = table.shape
    if count < 2:
        return Prior(np.asarray(table, dtype=np.float32), np.zeros((1, size), dtype=np.float32), bandwidth)
    centred = table - table.mean(axis=0)
    _, singular, axes = np.linalg.svd(centred, full_matrices=False)
    rank = min(count - 1, size)
    variance = singular[:rank] ** 2 / count
    scores = centred @ axes[:rank].T  # (s, rank)
    spread = variance.mean()
    distance = ((variance - spread) ** 2).sum()
    noise = ((scores**2).sum(axis=1) ** 2).sum() / count**2 - (variance**2).sum() / count
    intensity = float(np.clip(noise / distance, 0.0, 1.0)) if distance > 0 else 0.0
    shrunk = (1.0 - intensity) * variance + intensity * spread
    factor = np.sqrt(shrunk)[:, None] * axes[:rank]
    return Prior(np.asarray(table, dtype=np.float32), factor.astype(np.float32), bandwidth)


def sequence_generator(spec: GenerationSpec, index: int) -> np.random.Generator:
    """Source of randomness of one sequence of a completed spec."""
    return np.random.default_rng([_seed(spec), index])


def balanced_centre(spec: GenerationSpec, index: int, count: int) -> int:
    """Which of ``count`` learned codes the sequence of an index is drawn around.

    Drawn at random for each, a data set would hold near copies long before it has met every learned cell. So sequences
    go through the codes in an order that is drawn from the seed for every round. Many ask for one cell with seed
    0, one with seed 1 and so on; therefore the first codes of seeds in a row follow such an order too.

    Parameters
    ----------
    spec
        A completed one.
    index
        Of the sequence.
    count
        Learned codes.
    """
    seed = _seed(spec)
    lap, place = divmod(index, count)
    order = np.random.default_rng([seed, lap, ORDER]).permutation(count)
    if lap == 0:
        block, turn = divmod(seed, count)
        first = np.random.default_rng([block, 0, FIRST]).permutation(count)[turn]
        order[order == first], order[0] = order[0], first
    return int(order[place])


def _seed(spec: GenerationSpec) -> int:
    if spec.seed is None:
        raise SpecError("the spec has no seed; complete it first", pointer="/seed")
    return spec.seed


def draw_code(latent: object, *, prior: Prior, rng: np.random.Generator, around: int | None = None) -> Floats:
    """Make the latent code that a spec describes.

    Parameters
    ----------
    latent
        The spec's latent.
    prior
        Density fitted to the learned codes, which it holds.
    rng
        Source of randomness; not used for learned, interpolated and explicit codes.
    around
        For sampled codes, the learned one to start from; any, when None.

    Returns
    -------
    Floats
        (c,) float32, or a composed one.
    """
    codes = prior.centres
    match latent:
        case SampledLatent(temperature=temperature):
            return prior.draw(rng, temperature=temperature, around=around)
        case LearnedLatent(index=index):
            return np.array(codes[index], dtype=np.float32)
        case NearbyLatent(index=index, noise=noise):
            spread = codes.astype(np.float64).std(axis=0)
            return np.asarray(codes[index] + noise * spread * rng.standard_normal(codes.shape[1]), dtype=np.float32)
        case InterpolatedLatent(first=first, second=second, weight=weight):
            return np.asarray(_slerp(codes[first], codes[second], weight, centre=prior.mean), dtype=np.float32)
        case ExplicitLatent(values=values):
            return np.array(values, dtype=np.float32)
        case _:
            raise SpecError(f"unknown kind of latent: {type(latent).__name__}", pointer="/latent")


def draw_rotation(spec: GenerationSpec, rng: np.random.Generator) -> list[float]:
    """Unit quaternion [w, x, y, z] that a spec describes; random ones are uniform on SO(3)."""
    if spec.rotation == "none":
        return [1.0, 0.0, 0.0, 0.0]
    quaternion = rng.standard_normal(4) if spec.rotation == "random" else np.array(spec.rotation, dtype=np.float64)
    quaternion = quaternion / np.linalg.norm(quaternion)
    return [float(q) for q in (quaternion if quaternion[0] >= 0 else -quaternion)]


def rotation_matrix(quaternion: list[float]) -> NDArray[np.float64]:
    """Rotation matrix (3, 3) of a unit quaternion [w, x, y, z]; column vectors, x' = R x."""
    w, x, y, z = quaternion
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def _slerp(first: Floats, second: Floats, weight: float, *, centre: Floats) -> NDArray[np.float64]:
    """Spherical interpolation around the mean code: keeps the distance from the mean that learned codes have."""
    a, b = (np.asarray(code, dtype=np.float64) - centre for code in (first, second))
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    angle = np.arccos(np.clip(a @ b / lengths, -1.0, 1.0)) if lengths > 0 else 0.0
    if angle < 1e-6:
        return np.asarray(centre + (1 - weight) * a + weight * b)
    mixed = (np.sin((1 - weight) * angle) * a + np.sin(weight * angle) * b) / np.sin(angle)
    return np.asarray(centre + mixed)
