"""Limits of one job: those that the operator sets, and those of the model's card."""

from __future__ import annotations

from typing import Protocol

from app.settings import AppSettings
from model.card import ModelCard
from model.errors import SpecError, TooLargeError
from model.spec import Cost


class ModelSpecific(Protocol):
    """A spec whose members must suit a model."""

    @property
    def grid_shape(self) -> tuple[int, int, int]:
        """Samples along (x, y, z)."""
        ...

    def check_fits(self, *, latent_codes: int, latent_size: int) -> None:
        """Raise ``SpecError`` for a latent that the model cannot have."""
        ...


def check_fits_model(spec: ModelSpecific, card: ModelCard) -> None:
    """Check the members of a spec whose bounds only the model's card states.

    Raises
    ------
    SpecError
        If the grid is finer than the model allows, or the latent does not exist; with the member's pointer.
    """
    if max(spec.grid_shape) > card.grid_max:
        raise SpecError(f"grid may be at most {card.grid_max} for model {card.id}", pointer="/grid")
    spec.check_fits(latent_codes=card.latent_codes, latent_size=card.latent_size)


def check_budget(cost: Cost, settings: AppSettings) -> None:
    """Check a job's cost against the limits that the operator has set.

    Raises
    ------
    TooLargeError
        If the job writes more samples of label volumes or more bytes, or takes longer, than allowed; the message says
        how much is allowed.
    """
    if cost.painted > settings.max_points:
        raise TooLargeError(
            f"the job writes {cost.painted:.3g} grid samples of label volumes (count x frames x grid samples); at most "
            f"{settings.max_points:.3g} are allowed: lower grid, frames or count, or ask for surfaces only"
        )
    if cost.seconds > settings.max_seconds:
        raise TooLargeError(
            f"the job would take about {cost.seconds:.3g} s of one worker; at most {settings.max_seconds:.3g} are "
            "allowed: lower grid, frames or count, or send several requests with first_index"
        )
    if cost.bytes > settings.max_bytes:
        raise TooLargeError(
            f"the job would write about {cost.bytes:.3g} bytes; at most {settings.max_bytes:.3g} are allowed: "
            "lower grid, frames or count, or ask for fewer formats"
        )
