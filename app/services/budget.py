"""What one job may take: bounds set by the operator, and by the model's card."""

from __future__ import annotations

from app.settings import AppSettings
from model.card import ModelCard
from model.errors import SpecError, TooLargeError
from model.spec import Cost, GenerationSpec


def check_fits_model(spec: GenerationSpec, card: ModelCard) -> None:
    """Raise ``SpecError`` where a member does not suit the model."""
    if max(spec.grid_shape) > card.grid_max:
        raise SpecError(f"grid may be at most {card.grid_max} for model {card.id}", pointer="/grid")
    spec.check_fits(latent_codes=card.latent_codes, latent_size=card.latent_size)


def check_budget(cost: Cost, settings: AppSettings) -> None:
    """Refuse what would keep a worker busy, or fill the disk, beyond what the operator allows."""
    if cost.points > settings.max_points:
        raise TooLargeError(
            f"the job takes {cost.points:.3g} grid samples (count x frames x grid samples); at most "
            f"{settings.max_points:.3g} are allowed: lower grid, frames or count"
        )
    if cost.bytes > settings.max_bytes:
        raise TooLargeError(
            f"the job would write about {cost.bytes:.3g} bytes; at most {settings.max_bytes:.3g} are allowed: "
            "lower grid, frames or count, or ask for fewer formats"
        )
