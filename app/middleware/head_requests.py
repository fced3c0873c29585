"""HEAD for every address that answers GET (RFC 9110 §9.3.2)."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class HeadMiddleware:
    """Answers HEAD like GET, with the same status and headers and without content (RFC 9110 §9.3.2)."""

    def __init__(self, app: ASGIApp, *, routes: Sequence[BaseRoute]) -> None:
        """Wrap ``app``; ``routes`` are all its routes."""
        self.app, self.routes = app, routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Turn HEAD into GET if no route has HEAD; end the answer where its content would begin."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return
        found = {route.matches(scope)[0] for route in self.routes}
        if Match.FULL in found or Match.PARTIAL not in found:
            await self.app(scope, receive, send)
            return

        async def heads(message: Message) -> None:
            if message["type"] != "http.response.body":
                await send(message)
                return
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            raise _AnsweredError

        scope["method"] = "GET"
        try:
            await self.app(scope, receive, heads)
        except* _AnsweredError:
            pass  # raised to end a stream, which would continue otherwise
        finally:
            scope["method"] = "HEAD"


class _AnsweredError(Exception):
    pass
