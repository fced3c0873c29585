"""Delivers the webhooks that are due, from any worker; the broker has the list of them.

Promises: each is delivered at least once, or tried :data:`~worker.jobs.outbox.ATTEMPTS` times over about three days,
even if processes or the broker are restarted meanwhile; every attempt has the same ``webhook-id``.
Does not promise: delivery exactly once, or any order. A receiver compares the ids with those it has received.
"""

from __future__ import annotations

import http.client
import json
import logging
import random
import ssl
import time
from datetime import UTC, datetime
from typing import Any

from model import __version__
from worker.jobs import Delivery, JobQueue
from worker.webhooks.sender import post
from worker.webhooks.signing import secret_of, signed_headers

log = logging.getLogger(__name__)

# Seconds from one attempt to the next, as Standard Webhooks recommends; each is varied by a fifth.
RETRIES_S = (5.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0)
GONE = 410  # the receiver accepts no further messages


class WebhookDelivery:
    """Sends what is due.

    Parameters
    ----------
    secret
        The operator's, from which those of the owners are derived.
    allow_private
        Whether receivers may have addresses of a private network.
    context
        Of TLS; the system's certificates if absent.
    retries_s
        Seconds between attempts; the last is repeated.
    """

    def __init__(
        self,
        jobs: JobQueue,
        *,
        secret: str,
        allow_private: bool = False,
        context: ssl.SSLContext | None = None,
        retries_s: tuple[float, ...] = RETRIES_S,
    ) -> None:
        self._jobs, self._secret = jobs, secret
        self._allow_private, self._context, self._retries_s = allow_private, context, retries_s

    def deliver_one(self) -> bool:
        """Make one attempt, if any is due; returns whether there was one.

        Raises
        ------
        QueueUnavailableError
            If the broker does not answer; the attempt may be repeated.
        """
        due = self._jobs.outbox.take()
        if due is None:
            return False
        body = json.dumps(message_of(due), ensure_ascii=True, separators=(",", ":")).encode("ascii")
        headers = {"Content-Type": "application/json", "User-Agent": f"cytosynth/{__version__}"}
        headers |= signed_headers(
            secret_of(self._secret, due.owner), message_id=f"msg_{due.id}", timestamp=int(time.time()), body=body
        )
        try:
            status = post(due.url, body, headers, allow_private=self._allow_private, context=self._context)
        except (OSError, http.client.HTTPException, ValueError) as error:
            log.info("webhook of %s, attempt %d: %s", due.id, due.attempt, error)
            status = 0
        if 200 <= status < 300:
            self._jobs.outbox.settle(due, "delivered")
        elif status == GONE:
            self._jobs.outbox.settle(due, "refused")
        else:
            pause_s = self._retries_s[min(due.attempt, len(self._retries_s)) - 1]
            # Receivers that were away are not all called at the same instant.
            self._jobs.outbox.defer(due, seconds=pause_s * random.uniform(0.8, 1.2))
        return True


def message_of(due: Delivery) -> dict[str, Any]:
    """Return the body of a message: what ended and how. Receivers fetch the rest with their key."""
    return {
        "type": f"{due.kind}.{due.state}",
        "timestamp": datetime.fromtimestamp(due.ended_at, UTC).isoformat().replace("+00:00", "Z"),
        "data": due.data,
    }
