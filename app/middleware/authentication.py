"""Authentication by API keys; while there are no keys, only requests from the service's own machine are answered.

Promises: every address outside :data:`PUBLIC` requires authentication, including addresses that are added later. The
caller is known before the body is read. Without keys only this machine is served, unless the operator allows all
clients; a page of another site cannot reach the service through a browser on this machine.
Does not promise: encryption. Put a reverse proxy with TLS in front before a key is sent over a network.
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

# Addresses without data of callers: health checks, pages with their styles and scripts, the description of the API.
# Links carry a signature in place of a key (app.services.links).
PUBLIC = frozenset({"/", "/docs", "/openapi.json", "/favicon.ico", "/livez", "/readyz", "/v1/version", "/problems"})
PUBLIC_BELOW = ("/static/", "/problems/", "/v1/links/")
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
# With Basic, a browser asks its user for the key and sends it with every request of the page, downloads and events
# included.
CHALLENGE = 'Bearer realm="cytosynth", Basic realm="cytosynth: any name, the key as password", charset="UTF-8"'
OPEN_OWNER = ""  # owner of everything that is created while there are no keys


@dataclass(frozen=True)
class Caller:
    """The caller of a request. The request sees only what ``owner`` owns, and what it creates belongs to ``owner``."""

    owner: str


def caller_of(request: Request) -> Caller:
    """Return the caller of a request that the middleware has authenticated."""
    caller: Caller = request.scope["cytosynth.caller"]
    return caller


def is_public(path: str) -> bool:
    """Return whether an address is served without authentication."""
    return path in PUBLIC or path.startswith(PUBLIC_BELOW)


class AuthenticationMiddleware:
    """Authenticates callers, limits the rate of each, and notes the caller in the scope."""

    def __init__(self, app: ASGIApp, *, settings: AppSettings) -> None:
        """Wrap ``app``."""
        self.app = app
        self._settings = settings
        self._keys = Keys(settings.data_dir)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Authenticate one request; refuse it or pass it on."""
        if scope["type"] != "http" or is_public(scope["path"]):
            await self.app(scope, receive, send)
            return
        answer = self._authenticate(scope) or await self._limit_rate(scope)
        await (answer or self.app)(scope, receive, send)

    def _authenticate(self, scope: Scope) -> Response | None:
        """Note the caller, or return a refusal. The body of a refused request is not read."""
        headers = Headers(scope=scope)
        if scope["method"] not in SAFE and headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return problem_response(CROSS_SITE, CROSS_SITE.help, headers={"Connection": "close"})
        try:
            if not self._keys.required():
                if not (self._settings.allow_open or (_is_from_here(scope) and _is_to_here(headers))):
                    return problem_response(CLOSED, CLOSED.help, headers={"Connection": "close"})
                scope["cytosynth.caller"] = Caller(OPEN_OWNER)
                return None
            key = self._keys.find(secret_of(headers.get("authorization", "")))
        except KeysError as error:
            log.exception("the keys cannot be read; all requests are refused", reason=error.message)
            key = None
        if key is None:
            refusal = {"WWW-Authenticate": CHALLENGE, "Connection": "close"}
            return problem_response(UNAUTHORIZED, UNAUTHORIZED.help, headers=refusal)
        structlog.contextvars.bind_contextvars(key=key.id)
        scope["cytosynth.caller"] = Caller(key.id)
        return None

    async def _limit_rate(self, scope: Scope) -> Response | None:
        """Return a refusal if the key sends requests too fast. If the broker does not answer, no rate is limited."""
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
        detail = f"a key may send {rate:g} requests per second, and {burst} in a burst; try again after Retry-After"
        headers = {"Retry-After": str(math.ceil(wait)), "Connection": "close"}
        return problem_response(TOO_FAST, detail, headers=headers)


def secret_of(authorization: str) -> str:
    """Return the key of an Authorization header: the Bearer token or the Basic password; empty if there is none."""
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


@lru_cache(maxsize=1024)  # called for every request; many requests come from few addresses
def is_loopback(host: str) -> bool:
    """Return whether a host name or an IP address means this machine only."""
    if host.lower() in ("localhost", ""):
        return host != ""
    try:
        return ipaddress.ip_address(host.strip("[]").partition("%")[0]).is_loopback
    except ValueError:
        return False


def _is_from_here(scope: Scope) -> bool:
    # There is no address on a Unix socket, and in tests without a network.
    client = scope.get("client")
    return client is None or is_loopback(client[0])


def _is_to_here(headers: Headers) -> bool:
    """Return whether the Host header names this machine.

    A page of another site whose name resolves to 127.0.0.1 (DNS rebinding) is same-origin for a browser, but its Host
    header holds the name of that site.
    """
    host = re.sub(r":\d*$", "", headers.get("host", ""))
    return is_loopback(host)
