"""A real TCP proxy before an object store: slow, refusing, gone, or cutting connections in the middle of a request."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

REFUSAL = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@dataclass
class StoreProxy:
    """Forwards connections to a store; what it does may be changed while it runs.

    Attributes
    ----------
    mode
        ``pass``, ``refuse`` (503 to every request) or ``drop`` (connections are closed at once).
    delay_s
        Seconds by which every part of at most 64 kB is delayed, either way.
    cut_after
        Bytes of requests after which a connection is cut, as long as ``cuts`` are left.
    """

    store: str
    mode: str = "pass"
    delay_s: float = 0.0
    cut_after: int = 0
    cuts: int = 0
    cut: int = 0  # connections so far
    refused: int = 0
    listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))
    open: set[socket.socket] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    @contextmanager
    def refusing(self, mode: str = "refuse") -> Iterator[None]:
        """Refuse every request; connections that are open are ended."""
        self.mode = mode
        self._end_all()
        try:
            yield
        finally:
            self.mode = "pass"

    @contextmanager
    def slow(self, delay_s: float) -> Iterator[None]:
        self.delay_s = delay_s
        try:
            yield
        finally:
            self.delay_s = 0.0

    def cut_next(self, count: int, *, after: int) -> None:
        """Cut the next connections that send more than ``after`` bytes of requests from now on."""
        self._end_all()
        self.cut_after, self.cuts = after, count

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        if self.mode != "pass":
            self.refused += 1
            with client, contextlib.suppress(OSError):
                if self.mode == "refuse":
                    client.recv(65536)
                    client.sendall(REFUSAL)
            return
        parts = urlsplit(self.store)
        with contextlib.suppress(OSError), client, socket.create_connection((parts.hostname, parts.port)) as server:
            self.open |= {client, server}
            back = threading.Thread(target=self._copy, args=(server, client), daemon=True)
            back.start()
            self._copy(client, server, requests=True)
            back.join(1)
            self.open -= {client, server}

    def _copy(self, source: socket.socket, target: socket.socket, *, requests: bool = False) -> None:
        sent = 0
        with contextlib.suppress(OSError):
            while part := source.recv(65536):
                if self.delay_s:
                    time.sleep(self.delay_s)
                sent += len(part)
                if requests and self.cuts > 0 and sent > self.cut_after:
                    self.cuts -= 1
                    self.cut += 1
                    target.sendall(part[: len(part) // 2])
                    break
                target.sendall(part)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _end_all(self) -> None:
        for end in list(self.open):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextmanager
def store_proxy(store: str) -> Iterator[StoreProxy]:
    proxy = StoreProxy(store)
    threading.Thread(target=proxy.run, daemon=True).start()
    try:
        yield proxy
    finally:
        proxy.listener.close()
