"""The spec of a reconstruction: an uploaded cell, how to fit it, and how finely to write it.

Promises and limits are those of :mod:`model.spec`.
Does not promise: that the uploads exist; the service looks them up and fills in their checksums.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from model.errors import SpecError
from model.formats import describe_formats
from model.spec import (
    FRAMES_MAX,
    SEED_MAX,
    WHOLE,
    Cost,
    Formats,
    GenerationSpec,
    GridSize,
    Moment,
    Strict,
    check_formats,
    check_times,
    result_digest,
)

ADAPT_STEPS = 600  # as python -m model fit adapts by default
CODE_SECONDS, ADAPT_SECONDS = 40.0, 25.0  # measured on one core: a549, eight given frames of 32³
ALL_CELLS_SHARDS = 12  # each reads the whole recording again, a tenth of the time that its cells are fitted
LABEL_MAX = 65_535
ADAPTED = ("fitted/", "/weights.safetensors")  # of the networks that were adapted to the cells of a result
HELD_OUT_MIN = 3  # frames, so that one in the middle can be left out

UploadName = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,99}(\.(tif|tiff|stl|obj|ply|npy|npz|h5|hdf5|zip|zarr\.zip|tar|tgz|tar\.gz))?$"
    ),
]
Checksum = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Length = Annotated[float, Field(gt=0.0, le=1e9, allow_inf_nan=False)]


def is_adapted(manifest: Mapping[str, Any]) -> bool:
    """Whether a network that was adapted to them made the cells of a result."""
    begin, end = ADAPTED
    names = [file["name"] for file in manifest.get("files", [])]
    return any(name.startswith(begin) and name.endswith(end) for name in names)


class GivenCell(Strict):
    """A cell in files that the caller uploaded, and how it is fitted."""

    uploads: Annotated[
        list[UploadName], Field(min_length=1, max_length=FRAMES_MAX, json_schema_extra={"uniqueItems": True})
    ] = Field(
        description="Names of uploads: one TIFF, array of signed distances, archive or sequence of all frames, or one "
        "file for each frame in the order of time.",
        examples=[["cells.tif"]],
    )
    upload_sha256: Annotated[list[Checksum], Field(max_length=FRAMES_MAX)] | None = Field(
        default=None,
        description="Checksums of the uploads; filled in by the service. Given, they must be those of the uploads.",
    )
    given_times: Annotated[list[Moment], Field(min_length=1, max_length=FRAMES_MAX)] | None = Field(
        default=None, description="Times of the uploaded frames in τ = [-1, 1], increasing; evenly spaced when absent."
    )
    voxel: Annotated[list[Length], Field(min_length=3, max_length=3)] | None = Field(
        default=None,
        description="Distance of voxels along x, y and z in µm, instead of what the file says. Coordinates of meshes, "
        "which are taken in µm, are multiplied by it.",
    )
    place: Literal["centre", "omega"] = Field(
        default="centre",
        description="centre: each frame lies with its centre of mass at the middle of Ω; omega: volumes cover Ω.",
    )
    labels: (
        Annotated[list[Annotated[int, Field(ge=1, le=LABEL_MAX), WHOLE]], Field(min_length=1, max_length=100)] | None
    ) = Field(
        default=None,
        description="Labels of the cell where a volume holds several cells; a mother's and her daughters' together.",
    )
    method: Literal["adapted", "code"] = Field(
        default="adapted",
        description="code: the best latent code of the model; adapted: the network is then adapted to the cell too.",
    )
    orientations: Annotated[int, Field(ge=1, le=64), WHOLE] = Field(
        default=1, description="Number of orientations tried; 1 keeps the given orientation."
    )
    shift: bool = Field(default=False, description="Fit the cell's position too.")

    @field_validator("given_times")
    @classmethod
    def _given_times_increase_within_tau(cls, times: list[float] | None) -> list[float] | None:
        return None if times is None else check_times(times)

    @field_validator("uploads")
    @classmethod
    def _uploads_are_distinct(cls, uploads: list[str]) -> list[str]:
        if len(set(uploads)) != len(uploads):
            raise ValueError("uploads must not repeat")
        return uploads

    @property
    def adapt_steps(self) -> int:
        """Steps of adapting the network."""
        return ADAPT_STEPS if self.method == "adapted" else 0

    @property
    def fit_seconds(self) -> float:
        """Expected time of one fit; it does not depend on the cell."""
        return CODE_SECONDS + (ADAPT_SECONDS if self.adapt_steps else 0.0)

    def with_voxel(self, voxel: list[float]) -> Self:
        """Return the cell with the distance of samples that its uploads state, unless it states one."""
        return self if self.voxel is not None else self.model_copy(update={"voxel": voxel})

    def with_checksums(self, found: Sequence[tuple[str, int | None]], *, at: str = "") -> Self:
        """Return the cell with the checksums of its uploads.

        Parameters
        ----------
        found
            SHA-256 and number of frames of each upload; None for a sequence of files, whose frames the job counts.
        at
            Pointer of the member that holds the cell.

        Raises
        ------
        SpecError
            If they do not suit the cell; with the member's pointer.
        """
        sums, counts = [sha256 for sha256, _ in found], [count for _, count in found]
        frames = sum(count for count in counts if count is not None)
        if self.upload_sha256 is not None and self.upload_sha256 != sums:
            raise SpecError(
                "the uploads are not those of this spec: leave upload_sha256 out, or upload the same files again",
                pointer=f"{at}/upload_sha256",
            )
        if self.given_times is not None and None not in counts and len(self.given_times) != frames:
            raise SpecError(
                f"given_times holds {len(self.given_times)} times, the uploads hold {frames} frames: give one for each",
                pointer=f"{at}/given_times",
            )
        return self.model_copy(update={"upload_sha256": sums})


class ReconstructionSpec(GivenCell):
    """Fit an uploaded cell with a trained model, and write it at another resolution in space and time."""

    model_config = ConfigDict(serialize_by_alias=True)

    KIND: ClassVar[str] = "reconstruction"

    model: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")] = Field(
        description="Identifier of an installed model; GET /v1/models lists them."
    )
    held_out: bool = Field(
        default=False,
        alias="validate",
        description="Fit once more without the frame in the middle, and report how well that frame is predicted.",
    )
    cells: Literal["one", "all"] = Field(
        default="one",
        description="all: every tracked cell of one recording of label volumes, each fitted by itself and written over "
        "its own life; recording/labels.tif holds all of them where they were, recording/man_track.txt the lineage.",
    )
    refine: Annotated[int, Field(ge=1, le=8), WHOLE] = Field(
        default=2,
        description="With all cells: how many times finer than the given grid that of recording/labels.tif is.",
    )
    keep_given_frames: bool = Field(
        default=False,
        description="At times of given frames, write the given shape itself instead of the fitted one: its membrane is "
        "reproduced exactly, and may jump from the fitted frames beside it by the error that fit.json states.",
    )
    seed: Annotated[int, Field(ge=0, le=SEED_MAX), WHOLE] = Field(default=0, description="Seed of the search.")
    score_grid: Annotated[int, Field(ge=16, le=256), WHOLE] = Field(
        default=64, description="Samples along each side of the grid on which the fit is scored."
    )
    frames: Annotated[int, Field(ge=1, le=FRAMES_MAX), WHOLE] | None = Field(
        default=None,
        description="Number of frames written, evenly spaced over τ; 30 when both frames and times are absent.",
    )
    times: Annotated[list[Moment], Field(min_length=1, max_length=FRAMES_MAX)] | None = Field(
        default=None, description="Times of the frames written, in τ, increasing; instead of frames."
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

    @model_validator(mode="after")
    def _one_time_resolution(self) -> Self:
        if self.frames is not None and self.times is not None and len(self.times) != self.frames:
            raise ValueError("give frames or times, not both")
        return self

    @model_validator(mode="after")
    def _all_cells_are_told_by_their_labels(self) -> Self:
        if self.cells == "all" and (
            self.labels or self.given_times or self.times or self.place != "centre" or self.held_out
        ):
            raise ValueError("all cells take frames, grid and refine: leave labels, times, place and validate out")
        return self

    @property
    def written(self) -> GenerationSpec:
        """The spec of a sequence with the same frames, grid and formats."""
        return GenerationSpec(
            model=self.model, seed=0, frames=self.frames, times=self.times, grid=self.grid, formats=self.formats
        )

    @property
    def grid_shape(self) -> tuple[int, int, int]:
        """Samples along (x, y, z)."""
        return self.written.grid_shape

    def check_fits(self, *, latent_codes: int, latent_size: int) -> None:
        """Do nothing: a cell can be fitted with every model."""

    def with_uploads(self, found: Sequence[tuple[str, int | None]]) -> Self:
        """Return the spec with the checksums of its uploads; as :meth:`GivenCell.with_checksums`."""
        counts = [count for _, count in found]
        frames = sum(count for count in counts if count is not None)
        if self.held_out and None not in counts and frames < HELD_OUT_MIN:
            raise SpecError(
                f"validate needs at least {HELD_OUT_MIN} frames, the uploads hold {frames}: leave it out",
                pointer="/validate",
            )
        return self.with_checksums(found)

    def completed(self) -> Self:
        """Return the spec with its number of frames filled in."""
        return self.model_copy(update={"frames": self.written.frame_count})

    def cost(self) -> Cost:
        """Estimate points, bytes and seconds without running anything."""
        writing = self.written.cost()
        fit = self.fit_seconds * (2 if self.held_out else 1)
        return writing.model_copy(
            update={"seconds": round(writing.seconds + fit, 3), "bytes": writing.bytes + 2 * 2**20}
        )

    @property
    def frame_total(self) -> int:
        """Steps of the whole; 0, because they follow from the cells of the recording, which the worker counts."""
        return 0

    def shards(self) -> int:
        """Return into how many shards it is divided: one cell is not; all cells, however many, into as many."""
        return ALL_CELLS_SHARDS if self.cells == "all" else 1

    def shard_cost(self, number: int) -> Cost:
        """Estimate the bytes of one shard; its seconds are not known before its cells are counted, and 0."""
        return self.cost().model_copy(update={"seconds": 0.0})

    def digest(self, *, model_sha256: str) -> str:
        """Name the result of the completed spec; see :func:`model.spec.result_digest`."""
        return result_digest(self.KIND, self, model_sha256=model_sha256)
