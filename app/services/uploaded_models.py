"""Models made from uploaded weights: what a client states about them, and the model card that follows."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.problems.handlers import ProblemError
from app.problems.types import TABLE
from model.card import CARRIED, ModelCard, TrainingFacts
from model.errors import SpecError, UploadError
from model.spec import WHOLE
from worker.uploads.store import Upload

UNSTATED: dict[str, Any] = {
    "description": "", "cell_type": "unknown", "licence": "unstated", "topology": "single", "grid_min": 32,
    "grid_max": 256,
}  # fmt: skip
"""Members of the card of weights that hold no card, where the request does not state them."""

Finite = Annotated[float, Field(gt=0, lt=1e9, allow_inf_nan=False)]


class ModelSpec(BaseModel):
    """A model made from uploaded weights.

    Members that are left out are taken from the card inside the weights (`facts.card` of the upload), or from the card
    of the installed model that has the same weights. Without such a card, `title`, `micrometres`, `minutes` and
    `lipschitz` are required.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=())

    upload: Annotated[str, Field(max_length=128)] = Field(
        description="Name of an upload of kind safetensors.", examples=["mine.safetensors"]
    )
    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,47}$")] = Field(
        description="A short name; the service appends a dash and 12 hexadecimal digits to make it unique."
    )
    title: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    description: Annotated[str, Field(max_length=4000)] | None = None
    cell_type: Annotated[str, Field(max_length=200)] | None = None
    licence: Annotated[str, Field(max_length=200)] | None = None
    micrometres: Finite | None = Field(default=None, description="Length of one unit of Ω in µm.")
    minutes: Finite | None = Field(default=None, description="Duration of τ, from the first frame to the last.")
    lipschitz: Annotated[float, Field(ge=0.1, le=1e3)] | None = Field(
        default=None,
        description=(
            "Largest change of the signed distance per unit of Ω. If it is too small, parts of the surface are missing."
        ),
    )
    topology: Literal["single", "division"] | None = Field(
        default=None, description="single: one body in all frames; division: one body, later two."
    )
    grid_min: Annotated[int, Field(ge=8, le=2048), WHOLE] | None = None
    grid_max: Annotated[int, Field(ge=8, le=2048), WHOLE] | None = None
    data: Annotated[str, Field(max_length=1000)] = Field(default="unstated", description="The training data, in words.")


def card_of(spec: ModelSpec, upload: Upload, *, owner: str, installed: ModelCard | None = None) -> ModelCard:
    """Return the card of a model made from an upload.

    The id is derived from the owner, the weights and the members of the card: repeating a request gives the same model,
    and different requests give different ids.

    Parameters
    ----------
    installed
        The card of the installed model that has the same weights. It fills the members that neither the request nor the
        weights state.

    Raises
    ------
    ProblemError
        If the upload does not hold weights.
    SpecError
        If neither the request nor the weights state a required member; with its pointer.
    """
    if upload.kind != "safetensors":
        raise ProblemError(TABLE[UploadError], f"a model is made from a safetensors upload; this one is {upload.kind}")
    facts: dict[str, Any] = upload.facts
    spec = _resolved(spec, facts.get("card", {}), installed)
    named = hashlib.sha256(f"{owner}\0{upload.sha256}\0{spec.model_dump_json()}".encode()).hexdigest()[:12]
    training = TrainingFacts(
        data=spec.data, sequences=facts["latent_codes"], frames=0, held_out_frames="unstated", steps=0, points=0,
        minutes=0.0, device="unstated", seed=0, recipe="unstated",
    )  # fmt: skip
    return ModelCard(
        id=f"{spec.id}-{named}",
        created=datetime.now(UTC).date().isoformat(),
        sha256=upload.sha256,
        parameters=facts["parameters"],
        latent_size=facts["latent_size"],
        latent_codes=facts["latent_codes"],
        training=training,
        **spec.model_dump(exclude={"upload", "id", "data"}),
    )


def _resolved(spec: ModelSpec, stated: dict[str, Any], installed: ModelCard | None) -> ModelSpec:
    """Fill in the members that a request leaves out."""
    known = {**UNSTATED, **(installed.model_dump(include=set(CARRIED)) if installed else {}), **stated}
    missing = [name for name in CARRIED if getattr(spec, name) is None and known.get(name) is None]
    if missing:
        raise SpecError(
            f"the weights do not state {', '.join(missing)}; add what is missing to the request",
            pointer=f"/{missing[0]}",
        )
    return spec.model_copy(update={name: known[name] for name in CARRIED if getattr(spec, name) is None})
