"""The recipe of a model: a TOML file with the data, the network, and the length and rates of training."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from model.errors import SpecError
from model.learning.sources import MaskSource, Source
from model.network.autodecoder import NetworkConfig


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class HeldOut(_Frozen):
    """Frames kept from training, to measure how well time is interpolated: every n-th, from an offset."""

    every: int = Field(default=5, ge=0, description="0 keeps none out.")
    offset: int = Field(default=2, ge=0)

    def frames(self, count: int) -> list[int]:
        """Numbers of the frames left out of a sequence of ``count``."""
        return list(range(self.offset, count, self.every)) if self.every else []


class Optimisation(_Frozen):
    """How long and how fast to train."""

    steps: int = Field(default=40_000, ge=1)
    frames_per_step: int = Field(default=16, ge=1)
    points_per_frame: int = Field(default=1024, ge=16)
    learning_rate: float = Field(default=1e-3, gt=0)
    latent_learning_rate: float = Field(default=2e-3, gt=0)
    hidden_learning_rate: float = Field(
        default=0.0, ge=0, description="Of Muon, for the matrices between sine layers; 0: Adam takes them too."
    )
    warm_up: int = Field(default=500, ge=0, description="Steps of linear rise of the learning rates.")
    final: float = Field(default=0.01, ge=0, le=1, description="Last learning rate over the highest (cosine decay).")
    clip: float = Field(default=1.0, gt=0, description="Largest norm of the network's gradient.")
    latent_penalty: float = Field(default=1e-4, ge=0)
    latent_spread: float = Field(default=0.1, gt=0, description="Standard deviation of the initial codes.")
    latent_start: Literal["random", "shapes"] = Field(
        default="random", description="shapes: codes begin at principal components of the sequences' distances."
    )
    far_weight: float = Field(
        default=1.0, gt=0, le=1, description="Weight of errors farther than 0.08 from the membrane; those near have 1."
    )
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="bfloat16 multiplies hidden layers in half precision on devices with units for it: twice as fast.",
    )
    full_precision_after: float = Field(
        default=0.8, ge=0, le=1, description="Share of the steps after which bfloat16 training goes on in float32."
    )
    compiled: bool = Field(default=False, description="torch.compile: faster, needs a C++ compiler.")


class TrainConfig(_Frozen):
    """A complete recipe of a model."""

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")
    title: str
    description: str
    cell_type: str
    topology: Literal["single", "division"] = "single"
    licence: str = "BSD-3-Clause"
    grid_min: int = Field(default=32, ge=8, le=512, description="Coarsest grid that keeps the finest parts.")
    seed: int = Field(default=0, ge=0)
    threads: int | None = Field(default=None, ge=1)
    data: Source
    copies: int = Field(
        default=0, ge=0, le=47, description="Turned and mirrored copies of each sequence, each with a code of its own."
    )
    warps: int = Field(
        default=0,
        ge=0,
        le=64,
        description="Warped copies of each sequence of a user's own cells, with exact distances and a code each.",
    )
    held_out: HeldOut = HeldOut()
    network: NetworkConfig = NetworkConfig()
    optimisation: Optimisation = Optimisation()
    stored_precision: Literal["float32", "float16"] = Field(
        default="float32",
        description="Of codes and low-rank conditioning in the weights' file; float16 halves it.",
    )
    prior_bandwidth: float = Field(default=0.35, ge=0, lt=1, description="Share of noise in new codes.")
    density: Literal["bandwidth", "likelihood", "composed"] = Field(
        default="bandwidth",
        description="Of new codes: of prior_bandwidth; the one under which learned codes left out of its fit are "
        "likeliest; or composed of several learned codes, each in a sector of its own, with prior_bandwidth of noise.",
    )
    parts: int = Field(default=3, ge=2, le=4, description="Of a composed code.")
    near: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Share of the learned codes, nearest to the first, of which others are taken.",
    )

    mirrors: bool = Field(
        default=False,
        description="Whether parts may be mirrored: for cells that lie either way round on every axis.",
    )

    @model_validator(mode="after")
    def _whole_cells_that_can_be_composed(self) -> Self:
        if self.density == "composed" and self.topology != "single":
            raise ValueError("cells that divide cannot be composed of parts: choose another density")
        return self

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a TOML recipe; a relative ``data.folder`` is taken from the current folder.

        Raises
        ------
        SpecError
            If the file is missing or malformed; the message names the member.
        """
        try:
            return cls.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise SpecError(f"there is no recipe {path}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SpecError(f"{path} is not TOML: {error}") from None
        except ValidationError as error:
            faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False))
            raise SpecError(f"{path}: {faults}") from None

    def with_folder(self, folder: Path | None) -> Self:
        """The same recipe on the masks of another folder; unchanged when ``folder`` is None.

        Raises
        ------
        SpecError
            If the recipe does not train on masks.
        """
        if folder is None:
            return self
        if not isinstance(self.data, MaskSource):
            raise SpecError(f"the recipe {self.id!r} trains on {self.data.kind}; only one of masks takes a folder")
        return self.model_copy(update={"data": self.data.model_copy(update={"folder": folder})})

    def with_plan(self, *, steps: int | None = None, rates: float = 1.0) -> Self:
        """The same recipe with another number of steps (None: its own), and all learning rates times a factor."""
        plan = self.optimisation
        changes: dict[str, float] = {
            name: getattr(plan, name) * rates
            for name in ("learning_rate", "hidden_learning_rate", "latent_learning_rate")
        }
        if steps is not None:
            changes["steps"] = steps
        return self.model_copy(update={"optimisation": plan.model_copy(update=changes)})
