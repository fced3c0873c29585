"""Signatures of webhooks as the Standard Webhooks specification (https://www.standardwebhooks.com) defines them, v1.

The operator sets one secret; each caller's is derived from it, so that no caller can sign messages to another.
"""

from __future__ import annotations

import base64
import hashlib
import hmac

PREFIX = "whsec_"


def secret_of(master: str, owner: str) -> bytes:
    """Return the 32 bytes that sign the webhooks of one owner."""
    return hmac.digest(master.encode("utf-8"), b"cytosynth-webhook/1\0" + owner.encode("utf-8"), hashlib.sha256)


def secret_text(secret: bytes) -> str:
    """Return a secret as receivers' libraries take it."""
    return PREFIX + base64.b64encode(secret).decode("ascii")


def signed_headers(secret: bytes, *, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the headers of a message.

    Parameters
    ----------
    message_id
        The same for each attempt to deliver a message.
    timestamp
        Of this attempt, in seconds since 1970.
    """
    digest = hmac.digest(secret, f"{message_id}.{timestamp}.".encode("ascii") + body, hashlib.sha256)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode('ascii')}",
    }
