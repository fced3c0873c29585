"""What a receiver of webhooks needs: the secret that their signatures are checked with."""

from __future__ import annotations

from fastapi import APIRouter, Response

from app.middleware.strict_bodies import StrictRoute
from app.problems.handlers import ProblemError
from app.problems.types import WEBHOOKS_OFF
from app.schemas import WebhookSecret
from app.services.resources import CallerResources
from worker.webhooks.signing import secret_of, secret_text

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"], route_class=StrictRoute)


@router.get(
    "/secret",
    operation_id="getWebhookSecret",
    response_description="The secret.",
    summary="Show the secret that signs your webhooks",
)
def get_webhook_secret(resources: CallerResources, response: Response) -> WebhookSecret:
    """Return the secret with which a receiver verifies the signatures of the caller's webhooks.

    It is derived from the operator's secret and the API key's identifier, so each key has its own.
    """
    master = resources.settings.webhook_secret
    if master is None:
        raise ProblemError(WEBHOOKS_OFF, WEBHOOKS_OFF.help)
    response.headers["Cache-Control"] = "no-store"
    return WebhookSecret(secret=secret_text(secret_of(master, resources.owner)))
