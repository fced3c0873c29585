"""The models: the installed ones, and those made of uploaded weights."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Path, Response

from app.middleware.strict_bodies import StrictRoute
from app.problems.handlers import ProblemError
from app.problems.types import MODEL_NOT_YOURS, NOT_FOUND
from app.schemas import ModelList, ModelView
from app.services.resources import CallerResources
from app.services.uploaded_models import ModelSpec, card_of
from model.errors import UnknownModelError

router = APIRouter(prefix="/v1/models", tags=["models"], route_class=StrictRoute)

ModelId = Annotated[str, Path(alias="id", max_length=64, examples=["celegans"])]


@router.get(
    "",
    operation_id="listModels",
    response_description="The cards of all models that the caller may use.",
    summary="List the models",
)
def list_models(resources: CallerResources) -> ModelList:
    """Show the card of every model you may use: cell type, scale, licence, checksum, limits and measured quality."""
    return ModelList(models=[ModelView.of(card) for card in resources.catalogue.cards(owner=resources.owner)])


@router.post(
    "",
    operation_id="createModel",
    response_description="The card of the new model.",
    summary="Make a model of uploaded weights",
    status_code=201,
    response_model=ModelView,
    responses={200: {"model": ModelView, "description": "It has been made before."}},
)
def create_model(spec: Annotated[ModelSpec, Body()], resources: CallerResources, response: Response) -> ModelView:
    """Make a model that you, and nobody else, can use at once. It stays when the upload expires.

    Weights that `python -m model train` wrote say what they are; a request needs `upload` and `id` alone, and what else
    it states holds instead.
    """
    upload = resources.uploads.get(resources.owner, spec.upload)
    card = card_of(spec, upload, owner=resources.owner, installed=resources.catalogue.installed(upload.sha256))
    known = resources.catalogue.has(card.id) and resources.uploads.models.installed(resources.owner, card)
    if not known:
        resources.uploads.models.install(resources.owner, spec.upload, card)
    response.status_code = 200 if known else 201
    response.headers["Location"] = f"/v1/models/{card.id}"
    return ModelView.of(resources.catalogue.card(card.id, owner=resources.owner))


@router.get("/{id}", operation_id="getModel", response_description="The model's card.", summary="Look at one model")
def get_model(model_id: ModelId, resources: CallerResources) -> ModelView:
    """Show one model card."""
    try:
        return ModelView.of(resources.catalogue.card(model_id, owner=resources.owner))
    except UnknownModelError:
        raise _unknown() from None


@router.delete(
    "/{id}",
    operation_id="deleteModel",
    response_description="The model is removed.",
    summary="Remove a model of your own",
    status_code=204,
)
def delete_model(model_id: ModelId, resources: CallerResources) -> Response:
    """Remove a model that was made of an upload. Jobs that wait for it will fail; finished ones keep their files."""
    if resources.uploads.models.uninstall(resources.owner, model_id):
        return Response(status_code=204)
    try:
        resources.catalogue.card(model_id, owner=resources.owner)
    except UnknownModelError:
        raise _unknown() from None
    raise ProblemError(MODEL_NOT_YOURS, MODEL_NOT_YOURS.help)


def _unknown() -> ProblemError:
    return ProblemError(NOT_FOUND, "there is no such model; GET /v1/models lists those you may use")
