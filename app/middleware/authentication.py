"""Who may come in: a key, or this very machine while there are none.

Promises: every address that is not in :data:`PUBLIC` asks for a caller, also one that is added later; a caller is known
before a byte of the body is read; without keys nobody but this machine is served, unless the operator says so, and no
page of another site can reach the service through a browser here.
Does not promise: secrecy on the wire; put TLS in front before a key crosses a network.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import math
import re
from dataclasses import dataclass
from functools import lru_cache

import structlog
from fastapi import Request, Response
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from app.problems.handlers import problem_response
from app.problems.types import CLOSED, CROSS_SITE, TOO_FAST, UNAUTHORIZED
from app.settings import AppSettings
from worker.api_keys import Keys
from worker.errors import KeysError, QueueUnavailableError
from worker.jobs.quotas import Rates

log: structlog.stdlib.BoundLogger = structlog.get_logger("cytosynth.access")

# What says nothing of anybody: probes, pages, their styles and scripts, the description of the interface.
PUBLIC = frozenset({"/", "/docs", "/openapi.json", "/favicon.ico", "/livez", "/readyz", "/v1/version", "/problems"})
PUBLIC_BELOW = ("/static/", "/problems/")
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
# Browsers ask their user for a key and then send it with every request of the page, downloads and events included.
CHALLENGE = 'Bearer realm="cytosynth", Basic realm="cytosynth: any name, the key as password", charset="UTF-8"'
OPEN_OWNER = ""  # owns what is made while there are no keys


@dataclass(frozen=True)
class Caller:
    """Who asks. ``owner`` owns what the request makes and is all that it sees."""

    owner: str


def caller_of(request: Request) -> Caller:
    """Return who asks; a request that has passed no guard is a fault of ours."""
    caller: Caller = request.scope["cytosynth.caller"]
    return caller


def is_public(path: str) -> bool:
    """Whether an address is served to anybody."""
    return path in PUBLIC or path.startswith(PUBLIC_BELOW)


class AuthenticationMiddleware:
    """Let in whoever may come, slow down whoever asks too fast, and note who it is."""

    def __init__(self, app: ASGIApp, *, settings: AppSettings) -> None:
        """Wrap ``app``."""
        self.app = app
        self._settings = settings
        self._keys = Keys(settings.data_dir)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Judge one request."""
        if scope["type"] != "http" or is_public(scope["path"]):
            await self.app(scope, receive, send)
            return
        answer = self._judge(scope) or await self._pace(scope)
        await (answer or self.app)(scope, receive, send)

    def _judge(self, scope: Scope) -> Response | None:
        """Note the caller, or return a refusal. The rest of a refused body is never read."""
        headers = Headers(scope=scope)
        if scope["method"] not in SAFE and headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return problem_response(CROSS_SITE, CROSS_SITE.help, headers={"Connection": "close"})
        try:
            if not self._keys.required():
                if not (self._settings.allow_open or (_from_here(scope) and _to_here(headers))):
                    return problem_response(CLOSED, CLOSED.help, headers={"Connection": "close"})
                scope["cytosynth.caller"] = Caller(OPEN_OWNER)
                return None
            key = self._keys.find(secret_of(headers.get("authorization", "")))
        except KeysError as error:
            log.exception("the keys cannot be read; nobody is let in", reason=error.message)
            key = None
        if key is None:
            refusal = {"WWW-Authenticate": CHALLENGE, "Connection": "close"}
            return problem_response(UNAUTHORIZED, UNAUTHORIZED.help, headers=refusal)
        structlog.contextvars.bind_contextvars(key=key.id)
        scope["cytosynth.caller"] = Caller(key.id)
        return None

    async def _pace(self, scope: Scope) -> Response | None:
        """Refuse a key that asks too fast. Without a broker there is no pace to keep, and little to ask for."""
        owner = scope["cytosynth.caller"].owner
        if owner == OPEN_OWNER:
            return None
        rates: Rates = scope["app"].state.resources.rates
        rate, burst = self._settings.max_rate, self._settings.max_burst
        try:
            wait = await rates.take(owner, rate=rate, burst=burst)
        except QueueUnavailableError:
            return None
        if wait <= 0:
            return None
        detail = f"a key may send {rate:g} requests a second, and {burst} at once; try again after Retry-After"
        headers = {"Retry-After": str(math.ceil(wait)), "Connection": "close"}
        return problem_response(TOO_FAST, detail, headers=headers)


def secret_of(authorization: str) -> str:
    """Return the key in an Authorization header, a Bearer token or the password of Basic; empty if there is none."""
    scheme, _, rest = authorization.strip().partition(" ")
    rest = rest.strip()
    if scheme.lower() == "bearer":
        return rest
    if scheme.lower() == "basic" and len(rest) < 1000:
        try:
            return base64.b64decode(rest, validate=True).decode("utf-8").partition(":")[2]
        except (binascii.Error, ValueError):
            return ""
    return ""


@lru_cache(maxsize=1024)  # of every request; a rush comes from few addresses
def is_loopback(host: str) -> bool:
    """Whether a name or an address means this machine only."""
    if host.lower() in ("localhost", ""):
        return host != ""
    try:
        return ipaddress.ip_address(host.strip("[]").partition("%")[0]).is_loopback
    except ValueError:
        return False


def _from_here(scope: Scope) -> bool:
    # No address: a Unix socket, or a server without a network.
    client = scope.get("client")
    return client is None or is_loopback(client[0])


def _to_here(headers: Headers) -> bool:
    """Whether the request is addressed to this machine by its own name.

    A page of another site that has its name pointed at 127.0.0.1 (DNS rebinding) is same-origin to a browser, but it
    cannot choose another Host.
    """
    host = re.sub(r":\d*$", "", headers.get("host", ""))
    return is_loopback(host)
