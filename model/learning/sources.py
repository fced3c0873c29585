"""Sources of training sequences, as named in a recipe: phantoms, folders of masks, imported cells."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import tifffile
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from model.errors import DatasetError


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Share = Annotated[
    float, Field(ge=0, le=1, description="Share of the points near the membrane that are drawn where it bends.")
]


class PhantomSource(_Frozen):
    """Sequences of procedural cells.

    With ``moments``, each sequence is sampled at that many times drawn at random over τ, on coarse meshes with
    projected distances: thousands of sequences take about a second each. Without, at ``frames`` evenly spread times,
    exactly.
    """

    kind: Literal["phantoms"] = "phantoms"
    cell_type: str
    sequences: int = Field(ge=1, le=10_000)
    frames: int = Field(default=30, ge=1, le=1000)
    moments: int | None = Field(default=None, ge=1, le=1000)
    first_seed: int = Field(default=0, ge=0)
    points_per_frame: int = Field(default=32_768, ge=1024)
    bend_share: Share = 0.0
    fresh: bool = Field(
        default=False, description="Draw moments and points again when training has seen as many points as there are."
    )

    @model_serializer(mode="wrap")
    def _without_what_is_not_used(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out ``fresh`` when it is false: data sets and training states from before it stay valid."""
        members: dict[str, Any] = handler(self)
        if not self.fresh:
            members.pop("fresh", None)
        return members

    @model_validator(mode="after")
    def _fresh_moments(self) -> Self:
        if self.fresh and not self.moments:
            raise ValueError("only sequences at random moments can be fresh: give moments")
        return self


class MaskSource(_Frozen):
    """Sequences of binary TIFF volumes (TZYX, cubic voxels, any non-zero value is the cell), one file a sequence."""

    kind: Literal["masks"]
    folder: Path
    pattern: str = "*.tif"
    micrometres: float = Field(default=1.0, gt=0, description="Length of one unit of Ω in µm.")
    minutes: float = Field(default=1.0, gt=0, description="Duration of τ.")
    points_per_frame: int = Field(default=32_768, ge=1024)
    bend_share: Share = 0.0


class ImportedSource(_Frozen):
    """Sequences that ``python -m model import`` made from a user's own cells; they lie ready in a folder."""

    kind: Literal["imported"]
    folder: Path = Field(default=Path(), description="The folder given to the import as --out.")


AnySource = PhantomSource | MaskSource | ImportedSource
Source = Annotated[AnySource, Field(discriminator="kind")]


def mask_frames(path: Path) -> NDArray[np.bool_]:
    """Read a TIFF of masks as (t, x, y, z) booleans.

    Raises
    ------
    DatasetError
        If it is no TZYX volume, or a frame is empty or full.
    """
    try:
        volume = tifffile.imread(path)
    except (OSError, ValueError, tifffile.TiffFileError) as error:
        raise DatasetError(f"{path.name} cannot be read as TIFF: {error}") from None
    if volume.ndim != 4:
        raise DatasetError(f"{path.name} has {volume.ndim} axes; a sequence of masks has four: T, Z, Y, X")
    masks = np.ascontiguousarray((volume != 0).transpose(0, 3, 2, 1))
    for frame, mask in enumerate(masks):
        if mask.all() or not mask.any():
            raise DatasetError(f"{path.name}: frame {frame} is {'full' if mask.any() else 'empty'}; it shows no cell")
    return masks


def mask_files(source: MaskSource) -> list[Path]:
    """Files of a mask source in the order of its sequences.

    Raises
    ------
    DatasetError
        If there is none.
    """
    files = sorted(source.folder.glob(source.pattern))
    if not files:
        raise DatasetError(f"no file matches {source.pattern!r} in {source.folder}")
    return files
