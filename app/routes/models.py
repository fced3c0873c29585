"""The models: installed ones, and those made from uploaded weights."""

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
    """Return the cards of your models and of the installed ones, with scale, limits and measured quality."""
    return ModelList(models=[ModelView.of(card) for card in resources.catalogue.cards(owner=resources.owner)])


@router.post(
    "",
    operation_id="createModel",
    response_description="The card of the new model.",
    summary="Make a model from uploaded weights",
    status_code=201,
    response_model=ModelView,
    responses={200: {"model": ModelView, "description": "The model exists already."}},
)
def create_model(spec: Annotated[ModelSpec, Body()], resources: CallerResources, response: Response) -> ModelView:
    """Make a model from an upload. It is private to you and usable immediately, and stays when the upload expires.

    Weights written by `python -m model train` contain their card: the request needs only `upload` and `id`. Other
    members of the request replace those of the card.
    """
    upload = resources.uploads.get(resources.owner, spec.upload)
    card = card_of(spec, upload, owner=resources.owner, installed=resources.catalogue.installed(upload.sha256))
    known = resources.catalogue.has(card.id) and resources.uploads.models.installed(resources.owner, card)
    if not known:
        resources.uploads.models.install(resources.owner, spec.upload, card)
    response.status_code = 200 if known else 201
    response.headers["Location"] = f"/v1/models/{card.id}"
    return ModelView.of(resources.catalogue.card(card.id, owner=resources.owner))


@router.get("/{id}", operation_id="getModel", response_description="The model's card.", summary="Show one model")
def get_model(model_id: ModelId, resources: CallerResources) -> ModelView:
    """Return the card of one model."""
    try:
        return ModelView.of(resources.catalogue.card(model_id, owner=resources.owner))
    except UnknownModelError:
        raise _unknown() from None


@router.delete(
    "/{id}",
    operation_id="deleteModel",
    response_description="The model is removed.",
    summary="Remove one of your models",
    status_code=204,
)
def delete_model(model_id: ModelId, resources: CallerResources) -> Response:
    """Remove a model that was made from an upload. Its queued jobs will fail; finished jobs keep their files."""
    if resources.uploads.models.uninstall(resources.owner, model_id):
        return Response(status_code=204)
    try:
        resources.catalogue.card(model_id, owner=resources.owner)
    except UnknownModelError:
        raise _unknown() from None
    raise ProblemError(MODEL_NOT_YOURS, MODEL_NOT_YOURS.help)


def _unknown() -> ProblemError:
    return ProblemError(NOT_FOUND, "the model does not exist; GET /v1/models lists the models that you may use")
