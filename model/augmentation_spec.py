"""The spec of an augmentation: a cell, and how far its variations may lie from it.

Promises and limits are those of :mod:`model.spec`.
Does not promise: that an earlier job or an upload exists; the service looks them up, puts the code of the job's cell
into the spec, and fills in the checksums of uploads.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from model.formats import describe_formats
from model.reconstruction_spec import GivenCell
from model.spec import (
    FRAMES_MAX,
    LISTED_MAX,
    SEED_MAX,
    WHOLE,
    Cost,
    ExplicitLatent,
    Finite,
    Formats,
    GenerationSpec,
    GridSize,
    LearnedLatent,
    Moment,
    Quaternion,
    Strict,
    check_formats,
    check_times,
    result_digest,
)


class LearnedCell(LearnedLatent):
    """A cell of the training set."""


class ExplicitCell(ExplicitLatent):
    """A cell by its code, for instance from a manifest or from ``fit.json``."""

    rotation: Quaternion | None = Field(default=None, description="Its rotation, a quaternion [w, x, y, z].")


class CellOfJob(Strict):
    """A cell of one of your earlier jobs with the same model; the service replaces it by its code."""

    kind: Literal["job"]
    job: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    cell: Annotated[int, Field(ge=0), WHOLE] = Field(default=0, description="Index of the cell in its manifest.")


class UploadedCell(GivenCell):
    """A cell that you upload; it is fitted first, as a reconstruction fits it."""

    kind: Literal["uploads"]
    seed: Annotated[int, Field(ge=0, le=SEED_MAX), WHOLE] = Field(default=0, description="Seed of the search.")


Source = Annotated[LearnedCell | ExplicitCell | CellOfJob | UploadedCell, Field(discriminator="kind")]
Size = Annotated[Finite, Field(ge=0.5, le=1.1)]
Speed = Annotated[Finite, Field(ge=0.1, le=1.0)]


class AugmentationSpec(Strict):
    """Variations of one cell: its code, orientation, handedness, size, speed and shape."""

    KIND: ClassVar[str] = "augmentation"

    model: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")] = Field(
        description="Identifier of an installed model; GET /v1/models lists them."
    )
    source: Source = Field(description="The cell that is varied.")
    seed: Annotated[int, Field(ge=0, le=SEED_MAX), WHOLE] | None = Field(
        default=None, description="Seed of all random draws; drawn and reported when absent."
    )
    count: Annotated[int, Field(ge=1, le=LISTED_MAX), WHOLE] = Field(default=8, description="Number of variations.")
    noise: Annotated[Finite, Field(ge=0.0, le=2.0)] = Field(
        default=0.2,
        description="Standard deviation of the noise in the code, in units of the learned codes' spread. It is halved "
        "for a variation as long as the plausibility check rejects its code.",
    )
    rotation: Literal["none", "random"] = Field(
        default="random", description="Rotation of each variation: that of the cell, or random (uniform on SO(3))."
    )
    mirror: bool = Field(default=True, description="Mirror every second variation, on average.")
    size: Annotated[list[Size], Field(min_length=2, max_length=2)] = Field(
        default=[0.9, 1.1], description="Smallest and largest factor on lengths."
    )
    speed: Annotated[list[Speed], Field(min_length=2, max_length=2)] = Field(
        default=[0.8, 1.0],
        description="Smallest and largest factor on speed. A slower cell shows a shorter part of its life, anywhere in "
        "it, in the same time.",
    )
    warp: Annotated[Finite, Field(ge=0.0, le=0.5)] = Field(
        default=0.0,
        description="Strength of a smooth warp of space, drawn anew for each variation: lengths change by factors "
        "between 1 / (1 + warp) and 1 / (1 - warp). It is halved together with the noise as long as the "
        "plausibility check rejects the cell.",
    )
    frames: Annotated[int, Field(ge=1, le=FRAMES_MAX), WHOLE] | None = Field(
        default=None,
        description="Number of frames, evenly spaced over τ = [-1, 1]; 30 when both frames and times are absent.",
    )
    times: Annotated[list[Moment], Field(min_length=1, max_length=FRAMES_MAX)] | None = Field(
        default=None, description="Times of the frames in τ = [-1, 1], increasing; instead of frames."
    )
    grid: GridSize | Annotated[list[GridSize], Field(min_length=3, max_length=3)] = Field(
        default=64, description="Number of samples along each side of Ω, or [x, y, z]."
    )
    formats: Formats = Field(default=["stl", "tiff"], description=describe_formats())

    @field_validator("times")
    @classmethod
    def _times_increase_within_tau(cls, times: list[float] | None) -> list[float] | None:
        return None if times is None else check_times(times)

    @field_validator("formats")
    @classmethod
    def _formats_are_distinct(cls, formats: list[str]) -> list[str]:
        return check_formats(formats)

    @field_validator("size", "speed")
    @classmethod
    def _bounds_are_in_order(cls, bounds: list[float]) -> list[float]:
        if bounds[0] > bounds[1]:
            raise ValueError("give the smallest factor first")
        return bounds

    @model_validator(mode="after")
    def _one_time_resolution(self) -> Self:
        if self.frames is not None and self.times is not None and len(self.times) != self.frames:
            raise ValueError("give frames or times, not both")
        return self

    @property
    def written(self) -> GenerationSpec:
        """The spec of as many sequences with the same frames, grid and formats."""
        return GenerationSpec(
            model=self.model, seed=self.seed, count=self.count, frames=self.frames, times=self.times, grid=self.grid,
            formats=self.formats, latent=LearnedLatent(kind="learned", index=0),
        )  # fmt: skip

    @property
    def grid_shape(self) -> tuple[int, int, int]:
        """Samples along (x, y, z)."""
        return self.written.grid_shape

    @property
    def cell_of_job(self) -> tuple[str, int] | None:
        """Job and index of the cell, where an earlier job made it."""
        return (self.source.job, self.source.cell) if isinstance(self.source, CellOfJob) else None

    def with_cell(self, latent: Sequence[float], rotation: Sequence[float]) -> Self:
        """Return the spec with the code of the cell that a job made."""
        source = ExplicitCell(kind="explicit", values=list(latent), rotation=list(rotation))
        return self.model_copy(update={"source": source})

    def check_fits(self, *, latent_codes: int, latent_size: int) -> None:
        """Check the cell against the model's codes; raises ``SpecError`` with the member's pointer."""
        if not isinstance(self.source, CellOfJob | UploadedCell):
            self.written.model_copy(update={"latent": self.source}).check_fits(
                latent_codes=latent_codes, latent_size=latent_size, at="/source"
            )

    @property
    def uploads(self) -> list[str]:
        """Names of the uploads that show the cell, if it is an uploaded one."""
        return self.source.uploads if isinstance(self.source, UploadedCell) else []

    def with_voxel(self, voxel: list[float]) -> Self:
        """Return the spec with the distance of samples that its uploads state, unless it states one."""
        if not isinstance(self.source, UploadedCell):
            return self
        return self.model_copy(update={"source": self.source.with_voxel(voxel)})

    def with_uploads(self, found: Sequence[tuple[str, int | None]]) -> Self:
        """Return the spec with the checksums of its uploads; as :meth:`GivenCell.with_checksums`."""
        if not isinstance(self.source, UploadedCell):
            return self
        return self.model_copy(update={"source": self.source.with_checksums(found, at="/source")})

    def completed(self) -> Self:
        """Return the spec with its seed and frames filled in."""
        seed = self.seed if self.seed is not None else secrets.randbits(53)
        return self.model_copy(update={"seed": seed, "frames": self.written.frame_count})

    def cost(self) -> Cost:
        """Estimate points, bytes and seconds without running anything."""
        cost = self.written.cost()
        if isinstance(self.source, UploadedCell):
            cost = cost.model_copy(update={"seconds": round(cost.seconds + self.source.fit_seconds, 3)})
        return cost

    def digest(self, *, model_sha256: str) -> str:
        """Name the result of the completed spec; see :func:`model.spec.result_digest`."""
        return result_digest(self.KIND, self, model_sha256=model_sha256)
