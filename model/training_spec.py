"""The spec of a training: a user's own cells, how to prepare them, how long to train, and the name of the model.

Promises and limits are those of :mod:`model.spec`.
Does not promise: that the cells can be trained on; the worker checks them before it trains
(:mod:`model.readers.survey`).
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, field_validator

from model.errors import SpecError, TooLargeError
from model.reconstruction_spec import Checksum, Length, UploadName
from model.spec import SEED_MAX, WHOLE, Cost, Finite, Strict, result_digest

UPLOADS_MAX = 1000
FRAMES_MIN = 3  # of a sequence, as python -m model validate asks for
STEPS_MAX, MINUTES_MAX = 10_000_000, 100_000.0  # whatever the operator allows
POINT_BYTES = 16  # x, y, z and distance, float32
DATASET_BYTES_MAX = 8 * 2**30  # of the training points of all frames
# Measured on one core: reading and importing a frame of a mask of 64³, and each of its training points.
FRAME_SECONDS, POINT_SECONDS = 0.16, 5e-6
# A step of 8 frames of 512 points, with no layer and for a network of 6 layers of 128 units.
STEP_BASE_SECONDS, STEP_SECONDS = 0.002, 0.045
STEP_POINTS, STEP_WEIGHTS = 8 * 512, 6 * 128**2
# The figures: calibration and pictures; a frame that is scored; the outline of a training cell, a frame of it; a new
# cell, with no layer and for a network of 6 layers of 128 units.
FIGURE_SECONDS, SCORE_SECONDS, OUTLINE_SECONDS, CELL_BASE_SECONDS, CELL_SECONDS = 3.0, 0.1, 0.015, 0.2, 0.6
FRAMES_SCORED = 120  # at most
NEW_CELLS_MIN, NEW_CELLS_MAX = 4, 24  # drawn for the novelty that the card states
NEW_CELLS_SHARE = 0.2  # of the time of the training, at most, unless that are fewer than the least
RESULT_BYTES = 8 * 2**20  # weights, figures and the training state, generously

VOLUMES, MESHES, DISTANCES = (".tif", ".tiff"), (".stl", ".obj", ".ply"), (".npy", ".npz", ".h5", ".hdf5", ".zarr.zip")
ONE_SORT = "uploads must be all label volumes, all surfaces, all distances or all archives: leave the others out"
ARCHIVE_FRAMES = 300  # expected in an archive, whose frames are not counted before it is read


@dataclass(frozen=True, kw_only=True)
class TrainingLimits:
    """The longest training that the operator of a service allows."""

    steps: int
    sequences: int
    minutes: float


class TrainingSpec(Strict):
    """Train a model on uploaded cells."""

    KIND: ClassVar[str] = "training"

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,47}$")] = Field(
        description="A short name of the model to make; the service appends a dash and 12 hexadecimal digits.",
        examples=["my-cells"],
    )
    uploads: Annotated[
        list[UploadName], Field(min_length=1, max_length=UPLOADS_MAX, json_schema_extra={"uniqueItems": True})
    ] = Field(
        description="Names of uploads: TIFFs of label volumes or masks, or arrays of signed distances (.npy, .npz, "
        ".h5, .zarr.zip), one for each recording; surfaces, one for each frame, whose names number cells and frames "
        "(cell1_t0.stl); or archives of label volumes and surfaces, a folder a recording.",
        examples=[["cells.tif"]],
    )
    upload_sha256: Annotated[list[Checksum], Field(max_length=UPLOADS_MAX)] | None = Field(
        default=None,
        description="Checksums of the uploads; filled in by the service. Given, they must be those of the uploads.",
    )
    model: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")] | None = Field(
        default=None, description="Identifier of the model to make; filled in by the service."
    )
    title: Annotated[str, Field(min_length=1, max_length=200)] | None = Field(
        default=None, description="Title of the model; by default its name."
    )
    description: Annotated[str, Field(max_length=4000)] | None = Field(
        default=None, description="What the cells are; by default how many sequences were learned."
    )
    cell_type: Annotated[str, Field(max_length=200)] | None = Field(default=None, description="By default the name.")
    licence: Annotated[str, Field(max_length=200)] = Field(
        default="not for redistribution", description="Licence of the model."
    )
    voxel: Annotated[list[Length], Field(min_length=3, max_length=3)] | None = Field(
        default=None,
        description="Distance of voxels along x, y and z in µm, instead of what the files say. Coordinates of meshes, "
        "which are taken in µm, are multiplied by it.",
    )
    interval: Length | None = Field(
        default=None, description="Minutes between frames, instead of what the files say; 1 where nothing says it."
    )
    margin: Annotated[Finite, Field(ge=0.0, le=0.9)] = Field(
        default=0.15, description="Share of Ω that stays free around the largest cell."
    )
    scale: Literal["shared", "sequence"] = Field(
        default="shared",
        description="shared: one scale for all sequences, so that sizes are learned; sequence: each cell fills Ω.",
    )
    points: Annotated[int, Field(ge=1024, le=131_072), WHOLE] = Field(
        default=32_768, description="Training points in each frame."
    )
    bend_share: Annotated[Finite, Field(ge=0.0, le=1.0)] = Field(
        default=0.0,
        description="Share of the points near the membrane that are drawn where it bends; 0.5 for cells with thin "
        "parts.",
    )
    left_out_every: Annotated[int, Field(ge=0, le=100), WHOLE] | None = Field(
        default=None,
        description="Every n-th frame is kept from training, to measure how well time is interpolated; 0: none. By "
        "default every fifth where sequences have ten frames or more.",
    )
    latent_size: Annotated[int, Field(ge=1, le=256), WHOLE] | None = Field(
        default=None, description="Numbers in a code; by default 16 for up to eight sequences, 64 for more."
    )
    width: Annotated[int, Field(ge=8, le=256), WHOLE] = Field(default=128, description="Units in a layer.")
    depth: Annotated[int, Field(ge=2, le=12), WHOLE] = Field(default=6, description="Layers.")
    rates: Annotated[Finite, Field(ge=0.001, le=10.0)] = Field(
        default=1.0, description="Factor on the learning rates of the default recipe."
    )
    steps: Annotated[int, Field(ge=10, le=STEPS_MAX), WHOLE] = Field(default=24_000, description="Training steps.")
    sequences: Annotated[int, Field(ge=1), WHOLE] | None = Field(
        default=None,
        description="Most sequences to train on, the first ones found; by default what the service allows.",
    )
    minutes: Annotated[Finite, Field(gt=0.0, le=MINUTES_MAX)] | None = Field(
        default=None,
        description="Most minutes of training; then it ends with the best model so far. By default what the service "
        "allows. The result depends on the machine if this ends it.",
    )
    keep_on_cancel: bool = Field(
        default=False,
        description="POST /v1/jobs/{id}/cancel ends the training and keeps the best model so far: the job succeeds.",
    )
    seed: Annotated[int, Field(ge=0, le=SEED_MAX), WHOLE] | None = Field(
        default=None, description="Seed of all random draws; drawn and reported when absent."
    )

    @field_validator("uploads")
    @classmethod
    def _uploads_are_distinct_and_of_one_sort(cls, uploads: list[str]) -> list[str]:
        if len(set(uploads)) != len(uploads):
            raise ValueError("uploads must not repeat")
        if len({tuple(map(name.endswith, (VOLUMES, MESHES, DISTANCES))) for name in uploads}) > 1:
            raise ValueError(ONE_SORT)
        return uploads

    @field_validator("left_out_every")
    @classmethod
    def _something_is_left(cls, every: int | None) -> int | None:
        if every == 1:
            raise ValueError("every frame would be left out: give 0 or at least 2")
        return every

    @property
    def formats(self) -> list[str]:
        """Formats of cells: none are written."""
        return []

    def with_uploads(self, found: Sequence[tuple[str, int | None]]) -> Self:
        """Return the spec with the checksums of its uploads.

        Parameters
        ----------
        found
            SHA-256 and number of frames of each upload; None for an archive.

        Raises
        ------
        SpecError
            If they do not suit the spec; with the member's pointer.
        """
        sums = [sha256 for sha256, _ in found]
        if self.upload_sha256 is not None and self.upload_sha256 != sums:
            raise SpecError(
                "the uploads are not those of this spec: leave upload_sha256 out, or upload the same files again",
                pointer="/upload_sha256",
            )
        known = [frames for _, frames in found if frames is not None]
        if len(known) == len(found) < FRAMES_MIN and max(known) < FRAMES_MIN:
            raise SpecError(
                f"a sequence needs at least {FRAMES_MIN} frames; the uploads hold {sum(known)}",
                pointer="/uploads",
            )
        return self.model_copy(update={"upload_sha256": sums})

    def within(self, limits: TrainingLimits) -> Self:
        """Return the spec with the limits of a service filled in.

        Raises
        ------
        TooLargeError
            If it asks for more.
        """
        asked = {"steps": self.steps, "sequences": self.sequences, "minutes": self.minutes}
        for member, value in asked.items():
            most = getattr(limits, member)
            if value is not None and value > most:
                raise TooLargeError(f"{member} may be at most {most:g} here; {value:g} was asked", pointer=f"/{member}")
        return self.model_copy(
            update={
                "sequences": self.sequences if self.sequences is not None else limits.sequences,
                "minutes": self.minutes if self.minutes is not None else limits.minutes,
            }
        )

    def named_for(self, owner: str) -> Self:
        """Return the completed spec with the identifier of its model, which follows from the spec and the owner.

        Raises
        ------
        SpecError
            If it names another.
        """
        bare = self.model_copy(update={"model": None})
        digest = hashlib.sha256(f"{owner}\0{bare.model_dump_json()}".encode()).hexdigest()
        model_id = f"{self.name}-{digest[:12]}"
        if self.model is not None and self.model != model_id:
            raise SpecError(f"the model of this spec is called {model_id}: leave model out", pointer="/model")
        return self.model_copy(update={"model": model_id})

    def completed(self) -> Self:
        """Return the spec with its seed filled in."""
        return self.model_copy(update={"seed": self.seed if self.seed is not None else secrets.randbits(53)})

    def cost_of(self, frames: int) -> Cost:
        """Estimate what the training takes, given the frames of its uploads."""
        training = self.steps * _step_seconds(self.width, self.depth)
        if self.minutes is not None:
            training = min(training, 60.0 * self.minutes)
        drawn = new_cells_of(steps=self.steps, width=self.width, depth=self.depth)
        figures = FIGURE_SECONDS + SCORE_SECONDS * min(frames, FRAMES_SCORED) + OUTLINE_SECONDS * frames
        figures += drawn * _cell_seconds(self.width, self.depth)
        return Cost(
            frames=frames,
            points=self.steps * STEP_POINTS,
            bytes=frames * self.points * POINT_BYTES + RESULT_BYTES,
            seconds=round(frames * (FRAME_SECONDS + POINT_SECONDS * self.points) + training + figures, 3),
        )

    def cost(self) -> Cost:
        """Estimate what the training takes with as many uploads of 30 frames."""
        return self.cost_of(30 * len(self.uploads))

    def digest(self, *, model_sha256: str) -> str:
        """Name the result of the completed spec; see :func:`model.spec.result_digest`."""
        return result_digest(self.KIND, self, model_sha256=model_sha256)


def new_cells_of(*, steps: int, width: int, depth: int) -> int:
    """Return how many new cells are drawn to measure the novelty of a trained model.

    Drawing them takes about a fifth of the time of the training at most, but 4 are always drawn, and never more than
    24. The number follows from the training's length, not from a clock: the same training draws the same cells.

    Parameters
    ----------
    steps
        That were done, each of 8 frames of 512 points.
    width, depth
        Units in a layer of the network, and layers.
    """
    within = NEW_CELLS_SHARE * steps * _step_seconds(width, depth) / _cell_seconds(width, depth)
    return min(max(int(within), NEW_CELLS_MIN), NEW_CELLS_MAX)


def _step_seconds(width: int, depth: int) -> float:
    return STEP_BASE_SECONDS + STEP_SECONDS * depth * width**2 / STEP_WEIGHTS


def _cell_seconds(width: int, depth: int) -> float:
    return CELL_BASE_SECONDS + CELL_SECONDS * depth * width**2 / STEP_WEIGHTS
