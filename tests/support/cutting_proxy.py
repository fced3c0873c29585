"""A real TCP proxy that cuts connections after a number of bytes."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass
class CuttingProxy:
    """Forwards connections to a service; the n-th is cut after ``cuts[n]`` bytes of the answer, later ones are not.

    With ``requests`` it is cut after so many bytes of the request instead.
    """

    service: str
    cuts: list[int]
    requests: bool = False
    listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))
    connections: int = 0
    forwarded: int = 0  # bytes of answers

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                cut = self.cuts[self.connections] if self.connections < len(self.cuts) else None
                self.connections += 1
                threading.Thread(target=self._serve, args=(client, cut), daemon=True).start()

    def _serve(self, client: socket.socket, cut: int | None) -> None:
        parts = urlsplit(self.service)
        with client, socket.create_connection((parts.hostname, parts.port)) as server:
            ahead = cut if self.requests else None
            threading.Thread(target=self._send_requests, args=(client, server, ahead), daemon=True).start()
            with contextlib.suppress(OSError):
                self._send_answers(client, server, None if self.requests else cut)
            for end in (client, server):  # also wakes the thread that reads from it
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def _send_answers(self, client: socket.socket, server: socket.socket, cut: int | None) -> None:
        while cut is None or cut > 0:
            part = server.recv(65536 if cut is None else min(65536, cut))
            if not part:
                return
            self.forwarded += len(part)
            client.sendall(part)
            cut = None if cut is None else cut - len(part)
        server.recv(1)  # cut once the service has answered: what was asked has been done

    def _send_requests(self, client: socket.socket, server: socket.socket, cut: int | None) -> None:
        with contextlib.suppress(OSError):
            while part := client.recv(65536):
                server.sendall(part if cut is None else part[:cut])
                if cut is not None and (cut := cut - len(part)) <= 0:
                    for end in (client, server):
                        end.shutdown(socket.SHUT_RDWR)


@contextmanager
def cutting_proxy(service: str, *cuts: int, requests: bool = False) -> Iterator[CuttingProxy]:
    proxy = CuttingProxy(service, list(cuts), requests)
    threading.Thread(target=proxy.run, daemon=True).start()
    try:
        yield proxy
    finally:
        proxy.listener.close()
