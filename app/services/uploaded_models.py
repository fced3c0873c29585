"""What a client says of weights that it has uploaded, and the card that becomes of it."""

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
"""Of weights that say nothing of themselves."""

Finite = Annotated[float, Field(gt=0, lt=1e9, allow_inf_nan=False)]


class ModelSpec(BaseModel):
    """A model made of uploaded weights.

    What a member leaves open is what the weights say of themselves: `facts.card` of the upload, or the card of the
    installed model that has the same weights. Weights that say nothing need `title`, `micrometres`, `minutes` and
    `lipschitz`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=())

    upload: Annotated[str, Field(max_length=128)] = Field(
        description="Name of an upload of kind safetensors.", examples=["mine.safetensors"]
    )
    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,47}$")] = Field(
        description="A short name; the service adds letters and digits that make it the only one."
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
            "Largest change of the signed distance per unit of Ω; too small a value costs parts of the surface."
        ),
    )
    topology: Literal["single", "division"] | None = Field(
        default=None, description="single: always one body; division: one, then two."
    )
    grid_min: Annotated[int, Field(ge=8, le=512), WHOLE] | None = None
    grid_max: Annotated[int, Field(ge=8, le=512), WHOLE] | None = None
    data: Annotated[str, Field(max_length=1000)] = Field(default="unstated", description="What it was trained on.")


def card_of(spec: ModelSpec, upload: Upload, *, owner: str, installed: ModelCard | None = None) -> ModelCard:
    """Return the card of a model made of an upload.

    The id follows from owner, weights and what the model is: the same request again is the same model, and no two can
    collide.

    Parameters
    ----------
    installed
        The card of the installed model that has the same weights: what it says holds where the weights and the request
        say nothing.

    Raises
    ------
    ProblemError
        If the upload holds no weights.
    SpecError
        If neither the request nor the weights say what must be known; with the member's pointer.
    """
    if upload.kind != "safetensors":
        raise ProblemError(TABLE[UploadError], f"a model is made of a safetensors upload; this one is {upload.kind}")
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
    """Fill in what a request leaves open."""
    known = {**UNSTATED, **(installed.model_dump(include=set(CARRIED)) if installed else {}), **stated}
    missing = [name for name in CARRIED if getattr(spec, name) is None and known.get(name) is None]
    if missing:
        raise SpecError(
            f"the weights do not say what the model's {', '.join(missing)} {'is' if len(missing) == 1 else 'are'}; "
            "state what is missing in the request",
            pointer=f"/{missing[0]}",
        )
    return spec.model_copy(update={name: known[name] for name in CARRIED if getattr(spec, name) is None})
