"""The installed models."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path

from app.border import StrictRoute
from app.desk import DeskNow
from app.errors import NOT_FOUND, ProblemError
from app.schemas import ModelList, ModelView
from model.errors import UnknownModelError

router = APIRouter(prefix="/v1/models", tags=["models"], route_class=StrictRoute)


@router.get("", operation_id="listModels", summary="List the installed models")
def list_models(desk: DeskNow) -> ModelList:
    """Show the card of every model: cell type, scale, licence, checksum, limits and measured quality."""
    return ModelList(models=[ModelView.of(card) for card in desk.catalogue.cards()])


@router.get("/{id}", operation_id="getModel", summary="Look at one model")
def get_model(
    model_id: Annotated[str, Path(alias="id", max_length=64, examples=["celegans"])], desk: DeskNow
) -> ModelView:
    """Show one model card."""
    try:
        return ModelView.of(desk.catalogue.card(model_id))
    except UnknownModelError:
        raise ProblemError(NOT_FOUND, "there is no such model; GET /v1/models lists the installed ones") from None
