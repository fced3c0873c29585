"""One HTTP request to one address that was checked: no redirect, no proxy, no second look-up of the name.

Promises: it ends within :data:`DEADLINE_S` after the name was resolved, however slowly the receiver answers; the body
of the answer is not read.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
from collections.abc import Mapping
from contextlib import suppress
from urllib.parse import urlsplit

from worker.webhooks.addresses import PORTS, Resolver, resolve

TIMEOUT_S = 10.0  # of each step: connecting, sending, the first line of the answer
DEADLINE_S = 20.0  # of the whole; Standard Webhooks recommends 15 to 30 s


class _PinnedConnection(http.client.HTTPConnection):
    """A connection to one address without resolving the host's name again; TLS still checks the name."""

    def __init__(self, host: str, address: tuple[str, int], *, context: ssl.SSLContext | None, port: int) -> None:
        super().__init__(host, port, timeout=TIMEOUT_S)
        self.default_port = PORTS["https" if context else "http"]
        self._address, self._context = address, context

    def connect(self) -> None:
        self.sock = socket.create_connection(self._address, TIMEOUT_S)
        if self._context is not None:
            self.sock = self._context.wrap_socket(self.sock, server_hostname=self.host)

    def abort(self) -> None:
        """End a request from another thread."""
        if self.sock is not None:
            with suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)


def post(
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    *,
    allow_private: bool = False,
    context: ssl.SSLContext | None = None,
    resolver: Resolver = socket.getaddrinfo,
) -> int:
    """Send a request; return the status of the answer.

    Parameters
    ----------
    allow_private
        Whether the host may have an address of a private network.
    context
        Of TLS; the system's certificates if absent.

    Raises
    ------
    AddressRefusedError
        If the host's address is not allowed; nothing was sent.
    OSError, http.client.HTTPException
        If no answer came.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or PORTS[parts.scheme]
    address = resolve(host, port, allow_private=allow_private, resolver=resolver)
    tls = (context or ssl.create_default_context()) if parts.scheme == "https" else None
    connection = _PinnedConnection(host, address, context=tls, port=port)
    deadline = threading.Timer(DEADLINE_S, connection.abort)
    deadline.daemon = True
    deadline.start()
    try:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("POST", target, body=body, headers={**headers, "Connection": "close"})
        return connection.getresponse().status
    finally:
        deadline.cancel()
        connection.close()
