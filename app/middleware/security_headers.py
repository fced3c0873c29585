"""Response headers that restrict what a browser may do with a page of this service."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class SecurityHeadersMiddleware:
    """Tell browsers to run nothing but what this service serves itself."""

    # Swagger UI sets styles inline and draws its icons from data: addresses.
    POLICY = (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
        "connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )

    # As they are sent: this is done for every answer, refusals in a rush included.
    GUARDING = (
        (b"x-content-type-options", b"nosniff"),
        (b"content-security-policy", POLICY.encode("ascii")),
        (b"referrer-policy", b"no-referrer"),
        (b"cross-origin-resource-policy", b"same-origin"),
    )

    def __init__(self, app: ASGIApp) -> None:
        """Wrap ``app``."""
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Add the headers to every response that has none of its own."""

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = list(message.get("headers", ()))
                names = {name.lower() for name, _ in own}
                message["headers"] = own + [pair for pair in self.GUARDING if pair[0] not in names]
            await send(message)

        await self.app(scope, receive, guarded if scope["type"] == "http" else send)
