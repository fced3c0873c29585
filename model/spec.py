"""Specs: complete recipes of what to synthesise, validated once and then immutable.

A spec is parsed where it enters (HTTP body, command line, file), completed once (:meth:`GenerationSpec.completed` fills
in the seed) and then passed on unchanged. The same completed spec and the same checkpoint give the same bytes.

Promises: unknown members, NaN and infinity are refused; every message states the bound.
Does not promise: that the model exists, or that the service's budget allows the spec; the caller checks both.
"""

from __future__ import annotations

import hashlib
import json
import math
import secrets
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from model import __version__
from model.errors import SpecError
from model.formats import FORMATS, describe_finest, describe_formats

GRID_MIN, GRID_MAX = 8, 512  # samples a side: coarser grids show no cell; time and memory grow with N²
FINEST_GRID = 2048  # samples a side of new cells, in formats that go so far
FRAGMENTS_KEPT = 512  # samples a side up to which fragments can be kept: each sample is then labelled alone
FRAMES_MAX = 1000  # of one sequence
PARTS_MAX = 4  # of a composed code (model.network.composition)
CODE_MAX = PARTS_MAX * (1024 + 6)  # numbers in a code, composed or not
COUNT_MAX = 100_000  # sequences of one spec
LISTED_MAX = 10_000  # sequences that one manifest lists, at about 8 kB each; those of more are in manifests of shards
INDEX_MAX = 10**9  # of a sequence among those of one seed
SHARD_SECONDS = 20.0  # expected computing time of a shard: some shards a worker even for a few hundred cells
SHARDS_MAX = 10_000  # of a spec; beyond that shards take longer
# Evaluations of the network, means over the shipped models and grids of 16 to 128: a frame takes a fixed number and one
# that grows with N², a sampled code is checked on 16 frames of 40 samples a side.
FRAME_EVALUATIONS, FACE_EVALUATIONS, CHECK_EVALUATIONS = 1200, 2.2, 75_000
SEED_MAX = 2**64 - 1  # numpy's generators take 64 bits


LATER_MEMBERS: dict[str, Any] = {
    "on_implausible": "warn",
    "first_index": 0,
    "separate_bodies": False,
}  # added to the spec since, with defaults


def whole(value: Any) -> Any:
    """Return an integer for a float such as 64.0: JSON Schema makes no difference, and some clients write it so."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def with_kind(latent: Any) -> Any:
    """Add the kind of a latent that leaves it out: ``sampled``, where it has no member of another kind."""
    if isinstance(latent, dict) and latent.keys() <= {"temperature"}:
        return {"kind": "sampled", **latent}
    return latent


WHOLE = BeforeValidator(whole)  # after the bounds in Annotated; before them, they would be missing in the JSON Schema
if TYPE_CHECKING:
    Format = str
else:
    Format = Literal[tuple(FORMATS)]
GridSize = Annotated[int, Field(ge=GRID_MIN, le=GRID_MAX), WHOLE]
FineGridSize = Annotated[int, Field(ge=GRID_MIN, le=FINEST_GRID), WHOLE]
Finite = Annotated[float, Field(allow_inf_nan=False)]
# The validators below check these rules with clearer messages; the JSON Schema states them too.
Moment = Annotated[Finite, Field(json_schema_extra={"minimum": -1.0, "maximum": 1.0})]
Formats = Annotated[list[Format], Field(min_length=1, max_length=len(FORMATS), json_schema_extra={"uniqueItems": True})]


def check_times(times: list[float]) -> list[float]:
    """Return the times of frames; raises ``ValueError`` unless they lie in τ and increase."""
    if any(t < -1.0 or t > 1.0 for t in times):
        raise ValueError("times must lie in the temporal domain [-1, 1]: the first frame is -1, the last is 1")
    if any(b <= a for a, b in pairwise(times)):
        raise ValueError("times must increase strictly")
    return times


def check_formats(formats: list[Format]) -> list[Format]:
    """Return formats; raises ``ValueError`` if one repeats, or lacks another that it needs."""
    if len(set(formats)) != len(formats):
        raise ValueError("formats must not repeat")
    for name in formats:
        if lacking := [other for other in FORMATS[name].needs if other not in formats]:
            raise ValueError(f"format {name} needs {' and '.join(lacking)}: ask for it too")
    return formats


def result_digest(kind: str, spec: BaseModel, *, model_sha256: str) -> str:
    """SHA-256 of a completed spec, the model's weights and the software's version: names the result.

    Canonical JSON, sorted keys. The kind of device, which decides the last bits too, is the worker's to add.
    """
    document: dict[str, Any] = {"kind": kind, "model_sha256": model_sha256, "spec": spec.model_dump(mode="json")}
    document["version"] = __version__
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


class Strict(BaseModel):
    """Frozen, no unknown members, no silent conversion of types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=())


class SampledLatent(Strict):
    """A new code, drawn from the density fitted to the learned codes: a new cell."""

    kind: Literal["sampled"] = "sampled"
    temperature: Annotated[float, Field(ge=0.0, le=2.0, allow_inf_nan=False)] = Field(
        default=1.0,
        description="Novelty: 0 repeats a learned cell, 1 draws from the fitted density, larger values spread further.",
    )


def parts_of(numbers: int, latent_size: int) -> int:
    """Parts that a list of so many numbers describes: 1 for the code of one cell, 0 for no code at all."""
    if numbers == latent_size:
        return 1
    parts, rest = divmod(numbers, latent_size + 6)
    return parts if not rest and 2 <= parts <= PARTS_MAX else 0


class LearnedLatent(Strict):
    """The code of one training sequence."""

    kind: Literal["learned"]
    index: Annotated[int, Field(ge=0), WHOLE] = Field(description="Number of the training sequence, from 0.")


class NearbyLatent(Strict):
    """A learned code with noise: a variation of one training sequence."""

    kind: Literal["nearby"]
    index: Annotated[int, Field(ge=0), WHOLE]
    noise: Annotated[float, Field(ge=0.0, le=2.0, allow_inf_nan=False)] = Field(
        default=0.2, description="Standard deviation of the noise, in units of the learned codes' spread."
    )


class InterpolatedLatent(Strict):
    """A code between two learned ones."""

    kind: Literal["interpolated"]
    first: Annotated[int, Field(ge=0), WHOLE]
    second: Annotated[int, Field(ge=0), WHOLE]
    weight: Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)] = Field(
        default=0.5, description="Position between the two codes: 0 is the first, 1 the second."
    )


class ExplicitLatent(Strict):
    """An explicit code, for instance from an earlier manifest; also one that is composed of the codes of parts."""

    kind: Literal["explicit"]
    values: Annotated[list[Finite], Field(min_length=1, max_length=CODE_MAX)]


Latent = Annotated[
    SampledLatent | LearnedLatent | NearbyLatent | InterpolatedLatent | ExplicitLatent,
    Field(discriminator="kind"),
    BeforeValidator(with_kind),
]
Quaternion = Annotated[list[Finite], Field(min_length=4, max_length=4)]


class Cost(Strict):
    """The cost of a spec: exact counts and rough estimates, without running it."""

    frames: int = Field(description="Frames of all sequences together.")
    points: int = Field(description="Grid samples of all frames together.")
    painted: int = Field(
        default=0, description="Those of them that are written in label volumes; 0 without such files."
    )
    evaluations: int = Field(
        default=0, description="Expected evaluations of the network, which grow with the square of the grid."
    )
    bytes: int = Field(description="Expected size of all files, within a factor of about two.")
    seconds: float = Field(
        description="Expected computing time of one worker, before correction by the times that workers measured."
    )


class GenerationSpec(Strict):
    """Synthesise living-cell sequences with a trained model."""

    KIND: ClassVar[str] = "generation"

    model: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")] = Field(
        description="Identifier of an installed model; GET /v1/models lists them."
    )
    seed: Annotated[int, Field(ge=0, le=SEED_MAX), WHOLE] | None = Field(
        default=None,
        description="Seed of all random draws; drawn and reported when absent. The same seed gives the same cells.",
    )
    count: Annotated[int, Field(ge=1, le=COUNT_MAX), WHOLE] = Field(default=1, description="Number of sequences.")
    first_index: Annotated[int, Field(ge=0, le=INDEX_MAX), WHOLE] = Field(
        default=0,
        description=(
            "Index of the first sequence. A request of 100 sequences and one of 10 with first_index 40 give the same "
            "files for sequences 40 to 49, if all else is the same."
        ),
    )
    frames: Annotated[int, Field(ge=1, le=FRAMES_MAX), WHOLE] | None = Field(
        default=None,
        description="Number of frames, evenly spaced over τ = [-1, 1]; 30 when both frames and times are absent.",
    )
    times: Annotated[list[Moment], Field(min_length=1, max_length=FRAMES_MAX)] | None = Field(
        default=None, description="Times of the frames in τ = [-1, 1], increasing; instead of frames."
    )
    grid: FineGridSize | Annotated[list[FineGridSize], Field(min_length=3, max_length=3)] = Field(
        default=64, description=f"Number of samples along each side of Ω, or [x, y, z]. {describe_finest()}"
    )
    latent: Latent = Field(default_factory=SampledLatent)
    rotation: Literal["none", "random"] | Quaternion = Field(
        default="none",
        description="Rotation of the cell: none, random (uniform on SO(3)), or a quaternion [w, x, y, z].",
    )
    formats: Formats = Field(
        default=["stl", "tiff"],
        description=describe_formats(),
    )
    separate_bodies: bool = Field(
        default=False,
        description="obj and ply: tell the cells of a frame apart, by an object or a face property label for each.",
    )
    fragments: Literal["remove", "keep"] = Field(
        default="remove",
        description=(
            "Detached components smaller than 2 % of the cell's volume: removed (and counted in the manifest) or kept."
        ),
    )
    exact: Literal["adaptive", "certified"] = Field(
        default="adaptive",
        description=(
            "Search for the membrane. adaptive is fast and may miss detached components smaller than two grid steps; "
            "certified misses none and takes about twice as long."
        ),
    )

    on_implausible: Literal["warn", "fail"] = Field(
        default="warn",
        description=(
            "What to do when the plausibility check rejects every code drawn for a sequence: warn (the last draw is "
            "written, and the manifest has a warning) or fail (the job fails with the code implausible_cell)."
        ),
    )

    @model_serializer(mode="wrap")
    def _leave_out_the_default(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave later members out unless they are asked for: digests and manifests are those of before they existed."""
        document: dict[str, Any] = handler(self)
        for member, default in LATER_MEMBERS.items():
            if document.get(member) == default:
                del document[member]
        return document

    @field_validator("times")
    @classmethod
    def _times_increase_within_tau(cls, times: list[float] | None) -> list[float] | None:
        return None if times is None else check_times(times)

    @field_validator("rotation")
    @classmethod
    def _quaternion_has_length(cls, rotation: str | list[float]) -> str | list[float]:
        if isinstance(rotation, list) and not 1e-6 < math.hypot(*rotation) < 1e6:
            raise ValueError("a rotation quaternion [w, x, y, z] must not be zero; it is normalised for you")
        return rotation

    @field_validator("formats")
    @classmethod
    def _formats_are_distinct(cls, formats: list[Format]) -> list[Format]:
        return check_formats(formats)

    @model_validator(mode="after")
    def _one_time_resolution(self) -> Self:
        if self.frames is not None and self.times is not None and len(self.times) != self.frames:
            raise ValueError("give frames or times, not both")
        return self

    @model_validator(mode="after")
    def _some_format_separates_bodies(self) -> Self:
        if self.separate_bodies and not any(FORMATS[name].separates for name in self.formats):
            able = " or ".join(name for name, row in FORMATS.items() if row.separates)
            raise ValueError(f"separate_bodies changes only {able}: ask for one of them, or leave it out")
        return self

    @model_validator(mode="after")
    def _everything_goes_so_far(self) -> Self:
        samples = math.prod(self.grid_shape)
        for name in self.formats:
            side = FORMATS[name].finest
            if samples > side**3:
                raise ValueError(f"the format {name} goes up to {side} x {side} x {side} samples. {describe_finest()}")
        if samples > FRAGMENTS_KEPT**3 and self.fragments == "keep":
            raise ValueError(f"fragments can be kept up to {FRAGMENTS_KEPT} samples a side: leave fragments out")
        return self

    @property
    def grid_shape(self) -> tuple[int, int, int]:
        """Samples along (x, y, z)."""
        if isinstance(self.grid, int):
            return (self.grid, self.grid, self.grid)
        nx, ny, nz = self.grid
        return (nx, ny, nz)

    @property
    def frame_count(self) -> int:
        """Frames of one sequence."""
        if self.times is not None:
            return len(self.times)
        return self.frames if self.frames is not None else 30

    @property
    def frame_total(self) -> int:
        """Frames of all sequences."""
        return self.count * self.frame_count

    @property
    def is_listed(self) -> bool:
        """Whether one manifest lists all sequences; otherwise each shard has one of its own."""
        return self.count <= LISTED_MAX

    def check_fits(self, *, latent_codes: int, latent_size: int, at: str = "/latent") -> None:
        """Check the latent against the model's number and size of codes.

        Parameters
        ----------
        latent_codes
            Number of codes that the model learned.
        latent_size
            Numbers in a code.
        at
            Pointer of the member that holds the latent.

        Raises
        ------
        SpecError
            If an index is not in the latent table or explicit values have another length; with the member's pointer.
        """
        latent = self.latent
        if isinstance(latent, ExplicitLatent) and not parts_of(len(latent.values), latent_size):
            raise SpecError(
                f"values must hold {latent_size} numbers for model {self.model}, or, composed of k parts, k times "
                f"{latent_size + 6}",
                pointer=f"{at}/values",
            )
        indices: dict[str, int] = {}
        if isinstance(latent, LearnedLatent | NearbyLatent):
            indices = {"index": latent.index}
        elif isinstance(latent, InterpolatedLatent):
            indices = {"first": latent.first, "second": latent.second}
        for name, index in indices.items():
            if index >= latent_codes:
                raise SpecError(
                    f"{name} must be at most {latent_codes - 1}: model {self.model} learned {latent_codes} sequences",
                    pointer=f"{at}/{name}",
                )

    def completed(self) -> GenerationSpec:
        """Return the spec with its seed and frames filled in, so that the result can be reproduced.

        A drawn seed has 53 bits, so that it survives clients that read JSON numbers as doubles.
        """
        return self.model_copy(
            update={
                "seed": self.seed if self.seed is not None else secrets.randbits(53),
                "frames": self.frame_count,
            }
        )

    def cost(self) -> Cost:
        """Estimate points, bytes and seconds without running anything.

        Notes
        -----
        The constants are measured means (docs/explanation/performance.md): a frame takes a fixed time and one that
        grows with N², a sequence 0.5 s to draw and check its code. The table of formats (:mod:`model.formats`) says
        what files add.
        """
        nx, ny, nz = self.grid_shape
        frames = self.count * self.frame_count
        points = frames * nx * ny * nz
        face = (nx * ny * nz) ** (2.0 / 3.0)
        chosen = [FORMATS[name] for name in self.formats]
        size = sum(row.bytes(cells=self.count, frames=frames, face=face, voxels=points) for row in chosen)
        painted = points if any(row.bytes_per_voxel > 0.0 for row in chosen) else 0
        check = CHECK_EVALUATIONS if isinstance(self.latent, SampledLatent) else 0
        evaluations = self.count * check + frames * (FRAME_EVALUATIONS + FACE_EVALUATIONS * face)
        seconds = 0.5 * self.count + frames * (0.03 + 8e-6 * face)
        seconds += sum(row.seconds(cells=self.count, frames=self.frame_count, face=face) for row in chosen)
        return Cost(
            frames=frames,
            points=points,
            painted=painted,
            evaluations=int(evaluations),
            bytes=int(size) + 4096,
            seconds=round(seconds, 3),
        )

    def shard_size(self) -> int:
        """Sequences in each shard of the spec, but the last, which may have fewer; ``count`` where it is not divided.

        It follows from the spec alone, so that a request has the same shards whatever workers there are.
        """
        if self.count == 1:
            return 1
        seconds = self.cost().seconds / self.count
        size = min(self.count, max(1, int(SHARD_SECONDS / seconds)))
        return size if self.is_listed else min(LISTED_MAX, max(size, math.ceil(self.count / SHARDS_MAX)))

    def shards(self) -> int:
        """Return into how many shards the spec is divided, which several workers may compute at once."""
        return math.ceil(self.count / self.shard_size())

    def shard(self, number: int) -> GenerationSpec:
        """Return the spec of one shard, numbered from 0: the same sequences give the same files."""
        size = self.shard_size()
        first = number * size
        return self.model_copy(update={"first_index": self.first_index + first, "count": min(size, self.count - first)})

    def shard_cost(self, number: int) -> Cost:
        """Estimate one shard, numbered from 0."""
        return self.shard(number).cost()

    def shard_of_cell(self, index: int) -> int | None:
        """Return the number of the shard that a sequence belongs to, by its index; None if the spec has none such."""
        offset = index - self.first_index
        return offset // self.shard_size() if 0 <= offset < self.count else None

    def digest(self, *, model_sha256: str) -> str:
        """Name the result of the completed spec; see :func:`result_digest`."""
        return result_digest(self.KIND, self, model_sha256=model_sha256)
