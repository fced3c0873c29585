"""The model card: a description of a checkpoint that is readable without opening the weights.

A model is a folder with ``weights.safetensors`` and ``card.json``. The card holds what a client or a scheduler needs
(physical scale, limits, quality, checksum), so that the web process never loads a numerical library.

Promises: a card that loads is complete, and its values lie within their bounds.
Does not promise: that the weights match their checksum; :func:`model.network.checkpoint.load_checkpoint` checks that.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from model.errors import CheckpointError, UnknownModelError

CARD_FILE = "card.json"
WEIGHTS_FILE = "weights.safetensors"
CARD_KEY = "cytosynth.card"  # in the metadata of the weights: the members below, as JSON
CARRIED = (
    "title", "description", "cell_type", "licence", "micrometres", "minutes", "lipschitz", "topology", "grid_min",
    "grid_max",
)  # fmt: skip
"""Members of a card that do not follow from the weights; they travel in the weights' metadata."""
FINEST, FINEST_ONCE = 2048, 512  # samples a side of a model without a limit of its own: today, and at first
SHIPPED_MODELS = Path(__file__).parent / "checkpoints"


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())


class TrainingFacts(_Frozen):
    """Facts about a training: data, length, device."""

    data: str = Field(description="Where the sequences came from.")
    sequences: int
    frames: int = Field(description="Frames of each sequence.")
    held_out_frames: str = Field(description="Which frames were left out of training.")
    steps: int
    points: int = Field(description="Point samples seen during training.")
    minutes: float
    device: str
    seed: int
    recipe: str = Field(description="The command that repeats the training.")


def _finest(grid_max: int) -> int:
    """Return the finest grid of a card; cards of before there were finer ones state the finest of then."""
    return FINEST if grid_max == FINEST_ONCE else grid_max


class ModelCard(_Frozen):
    """Plain description of a trained auto-decoder."""

    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
    title: str
    description: str
    cell_type: str
    licence: str
    created: str = Field(description="ISO 8601 date.")
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] = Field(description="Of weights.safetensors.")
    parameters: Annotated[int, Field(ge=1)] = Field(description="Network weights, without the latent table.")
    latent_size: Annotated[int, Field(ge=1)]
    latent_codes: Annotated[int, Field(ge=1)] = Field(description="Rows of the latent table: learned sequences.")
    micrometres: Annotated[float, Field(gt=0)] = Field(description="Length of one unit of Ω in µm.")
    minutes: Annotated[float, Field(gt=0)] = Field(description="Duration of τ, from the first frame to the last.")
    lipschitz: Annotated[float, Field(gt=0)] = Field(description="Largest observed change of the SDF per unit of Ω.")
    topology: Literal["single", "division"] = Field(description="single: always one body; division: one, then two.")
    grid_min: int = Field(default=32, description="Coarsest grid that keeps the finest parts of the cells.")
    grid_max: Annotated[int, BeforeValidator(_finest)] = Field(default=FINEST, description="Finest grid.")
    training: TrainingFacts
    quality: dict[str, float] = Field(default_factory=dict, description="Measured figures, named.")
    warnings: list[str] = Field(
        default_factory=list,
        description="What users of new cells must know, such as too few sequences for new shapes.",
    )

    def write(self, folder: Path) -> Path:
        """Write ``card.json`` into a model's folder and return its path."""
        path = folder / CARD_FILE
        path.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
        return path


def load_card(folder: Path) -> ModelCard:
    """Read the card of one model folder.

    Raises
    ------
    CheckpointError
        If the card is missing or malformed.
    """
    path = folder / CARD_FILE
    try:
        return ModelCard.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"the model folder {folder.name!r} has no {CARD_FILE}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "document"
        raise CheckpointError(f"the card of model {folder.name!r} is malformed at {where}: {first['msg']}") from None


def find_models(roots: Iterable[Path]) -> dict[str, Path]:
    """Map model ids to their folders; the first root has precedence, folders without a card are skipped."""
    found: dict[str, Path] = {}
    for root in roots:
        if not root.is_dir():
            continue
        for folder in sorted(root.iterdir()):
            if (folder / CARD_FILE).is_file():
                found.setdefault(folder.name, folder)
    return found


def find_model(model_id: str, roots: Iterable[Path]) -> Path:
    """Return the folder of one model.

    Raises
    ------
    UnknownModelError
        If no root holds it; the message names those that exist.
    """
    models = find_models(roots)
    if model_id not in models:
        known = ", ".join(sorted(models)) or "none is installed"
        raise UnknownModelError(f"there is no model {model_id!r}; installed: {known}", pointer="/model")
    return models[model_id]
