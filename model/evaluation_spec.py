"""The spec of an evaluation: which cells are evaluated, and which cells they are compared with.

Promises and limits are those of :mod:`model.spec`.
Does not promise: that uploads and jobs exist; the service looks them up and fills in their checksums.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, field_validator, model_validator

from model.errors import SpecError
from model.reconstruction_spec import Checksum, Length, UploadName, is_adapted
from model.spec import GRID_MIN, SEED_MAX, SHARD_SECONDS, WHOLE, Cost, Strict, result_digest

RECIPES = Path(__file__).parent / "recipes"
CELLS_MIN = 4  # in each set: with fewer, no exchange of cells between two sets gives a p-value below 0.05
CELLS_MAX = 200
SETS = 3  # measured: new cells, learned cells, and those compared with
FRAMES_MIN = 3  # of a job's cells, as of uploaded ones (model.readers.survey)
UPLOADS_MAX = 1000
MOMENTS, SIDE = 8, 64  # frames measured of each cell, and samples along each side (model.evaluation.sequence_measures)
SEARCHED = 4  # training cells for each new cell among which the nearest is looked for
SEARCH_SECONDS = 0.5  # of one core, for each of them
START_SECONDS, CELL_SECONDS = 25.0, 2.5  # measured on one core: compiling and pictures; a cell of either shipped model


def _sort_of(name: str) -> str:
    """Return which uploads an upload may be named with."""
    if name.endswith((".tif", ".tiff")):
        return "volume"
    if name.endswith((".npy", ".npz", ".h5", ".hdf5", ".zarr.zip")):
        return "distances"
    return "surface" if name.endswith((".stl", ".obj", ".ply")) else "archive"


class EvaluationSpec(Strict):
    """Compare new cells of a model, or the cells of a job, with cells that you upload or with reference cells."""

    KIND: ClassVar[str] = "evaluation"

    model: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")] = Field(
        description="Identifier of an installed model; GET /v1/models lists them."
    )
    job: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")] | None = Field(
        default=None,
        description="One of your finished jobs with the same model, whose cells are evaluated; new cells when absent.",
    )
    job_sha256: Checksum | None = Field(
        default=None, description="Checksum of the job's manifest; filled in by the service."
    )
    uploads: Annotated[list[UploadName], Field(max_length=UPLOADS_MAX, json_schema_extra={"uniqueItems": True})] = (
        Field(
            default=[],
            description="Names of uploads that hold the cells compared with: label TIFFs, each of one or several "
            "tracked cells, or the surfaces of one cell, a file for each frame, or archives of such files. Empty: the "
            "model's reference cells.",
            examples=[["cells.tif"]],
        )
    )
    upload_sha256: Annotated[list[Checksum], Field(max_length=UPLOADS_MAX)] | None = Field(
        default=None,
        description="Checksums of the uploads; filled in by the service. Given, they must be those of the uploads.",
    )
    voxel: Annotated[list[Length], Field(min_length=3, max_length=3)] | None = Field(
        default=None, description="Distance of voxels along x, y and z in µm, instead of what the files say."
    )
    interval: Length | None = Field(
        default=None, description="Minutes between frames of the uploads, instead of what the files say."
    )
    count: Annotated[int, Field(ge=CELLS_MIN, le=CELLS_MAX), WHOLE] = Field(
        default=20, description="Cells in each set, at most; all sets are cut to it."
    )
    seed: Annotated[int, Field(ge=0, le=SEED_MAX), WHOLE] = Field(default=0, description="Seed of the new cells.")
    draws: Annotated[int, Field(ge=100, le=10_000), WHOLE] = Field(
        default=1000, description="Resamplings of each interval, and exchanges of cells for each p-value."
    )

    @field_validator("uploads")
    @classmethod
    def _uploads_are_distinct_and_of_one_sort(cls, uploads: list[str]) -> list[str]:
        if len(set(uploads)) != len(uploads):
            raise ValueError("uploads must not repeat")
        if len({_sort_of(name) for name in uploads}) > 1:
            raise ValueError(
                "uploads must be all label volumes, all surfaces, all distances or all archives: leave the others out"
            )
        return uploads

    @model_validator(mode="after")
    def _scale_is_of_uploads(self) -> Self:
        if not self.uploads and (self.voxel is not None or self.interval is not None):
            raise ValueError("voxel and interval belong to uploads: name uploads too, or leave them out")
        return self

    @property
    def formats(self) -> list[str]:
        """Formats of files: none, an evaluation writes a report."""
        return []

    @property
    def grid_shape(self) -> tuple[int, int, int]:
        """Smallest grid of a request: the report chooses its own, and every model can be evaluated."""
        return (GRID_MIN, GRID_MIN, GRID_MIN)

    @property
    def result_of_job(self) -> str | None:
        """The job whose cells are evaluated."""
        return self.job

    def check_fits(self, *, latent_codes: int, latent_size: int) -> None:
        """Check that there is something to compare with; raises ``SpecError`` with the member's pointer."""
        if not self.uploads and recipe_of_reference(self.model) is None:
            raise SpecError(
                f"model {self.model} has no reference cells of its own: name uploads to compare with",
                pointer="/uploads",
            )

    def with_voxel(self, voxel: list[float]) -> Self:
        """Return the spec with the distance of samples that its uploads state, unless it states one."""
        return self if self.voxel is not None else self.model_copy(update={"voxel": voxel})

    def with_uploads(self, found: Sequence[tuple[str, int | None]]) -> Self:
        """Return the spec with the checksums of its uploads, given SHA-256 and number of frames of each.

        Raises
        ------
        SpecError
            If the spec states other checksums.
        """
        if not self.uploads:
            if self.upload_sha256:
                raise SpecError("upload_sha256 belongs to uploads: leave it out", pointer="/upload_sha256")
            return self
        sums = [sha256 for sha256, _ in found]
        if self.upload_sha256 is not None and self.upload_sha256 != sums:
            raise SpecError(
                "the uploads are not those of this spec: leave upload_sha256 out, or upload the same files again",
                pointer="/upload_sha256",
            )
        return self.model_copy(update={"upload_sha256": sums})

    def with_result(self, manifest: Mapping[str, Any], sha256: str) -> Self:
        """Return the spec with the checksum of the job's manifest.

        Raises
        ------
        SpecError
            If the job made too few cells, cells of too few frames, or cells of adapted networks.
        """
        cells = manifest.get("cells", [])
        if is_adapted(manifest):
            raise SpecError(
                "the job's cells belong to networks adapted to them: name a generation or an augmentation",
                pointer="/job",
            )
        if len(cells) < CELLS_MIN:
            raise SpecError(
                f"the job made {len(cells)} cells; a comparison needs at least {CELLS_MIN}: ask for more with count",
                pointer="/job",
            )
        if min(len(cell["frames"]) for cell in cells) < FRAMES_MIN:
            raise SpecError(f"the job's cells have fewer than {FRAMES_MIN} frames: ask for more", pointer="/job")
        if self.job_sha256 is not None and self.job_sha256 != sha256:
            raise SpecError("the job's files are not those of this spec: leave job_sha256 out", pointer="/job_sha256")
        return self.model_copy(update={"job_sha256": sha256})

    def completed(self) -> Self:
        """Return the spec itself: all defaults are fixed."""
        return self

    @property
    def cells(self) -> int:
        """Cells that are measured, at most: new ones, learned ones, and those compared with."""
        return SETS * self.count

    @property
    def frame_total(self) -> int:
        """Steps of the whole: a cell that is measured is one."""
        return self.cells

    def cost(self) -> Cost:
        """Estimate points, bytes and seconds without running anything."""
        return self._cost_of(self.cells, beside_s=START_SECONDS)

    def shards(self) -> int:
        """Return into how many shards the measuring is divided, which several workers may compute at once.

        It follows from the spec alone. Each shard measures the same share of each set.
        """
        of_each = max(1, int(SHARD_SECONDS / (SETS * CELL_SECONDS)))
        return math.ceil(self.count / of_each)

    def shard_cost(self, number: int) -> Cost:
        """Estimate one shard, numbered from 0."""
        shards = self.shards()
        first, last = (number * self.count // shards, (number + 1) * self.count // shards)
        return self._cost_of(SETS * (last - first))

    @staticmethod
    def _cost_of(cells: int, *, beside_s: float = 0.0) -> Cost:
        frames = cells * MOMENTS
        return Cost(
            frames=frames, points=frames * SIDE**3, bytes=4 * 2**20,
            seconds=round(beside_s + (CELL_SECONDS + SEARCHED * SEARCH_SECONDS / SETS) * cells, 3),
        )  # fmt: skip

    def digest(self, *, model_sha256: str) -> str:
        """Name the result of the completed spec; see :func:`model.spec.result_digest`."""
        return result_digest(self.KIND, self, model_sha256=model_sha256)


@cache
def recipe_of_reference(model_id: str) -> Path | None:
    """Return the recipe of a model of constructed cells, of which as many as wanted are held out; None for others."""
    path = RECIPES / f"{model_id}.toml"
    if not path.is_file():
        return None
    data = tomllib.loads(path.read_text(encoding="utf-8")).get("data", {})
    return path if data.get("kind") == "phantoms" else None
