"""A receiver of webhooks that notes which messages came, and whether each was signed."""

from __future__ import annotations

import hmac
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

from benchmarks.chaos.service import WEBHOOK_SECRET
from worker.webhooks.signing import secret_of, signed_headers


class Receiver:
    """Listens on this machine; a context manager.

    Parameters
    ----------
    owner
        Whose messages come here.
    """

    def __init__(self, *, owner: str) -> None:
        self._secret, self._lock = secret_of(WEBHOOK_SECRET, owner), threading.Lock()
        self.received: Counter[str] = Counter()  # webhook-id → how often it came
        self.forged = 0
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver._take(self.headers, self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="receiver", daemon=True)

    @property
    def url(self) -> str:
        """Address to name in requests."""
        return f"http://127.0.0.1:{self._server.server_port}/told"

    def has(self, ended: str) -> bool:
        """Whether the end of a job or a batch was told."""
        with self._lock:
            return self.received[f"msg_{ended}"] > 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _take(self, headers: object, body: bytes) -> None:
        given = {name.lower(): value for name, value in dict(headers).items()}  # type: ignore[call-overload]
        message_id, timestamp = given["webhook-id"], int(given["webhook-timestamp"])
        due = signed_headers(self._secret, message_id=message_id, timestamp=timestamp, body=body)
        with self._lock:
            if hmac.compare_digest(due["webhook-signature"], given["webhook-signature"]):
                self.received[message_id] += 1
            else:
                self.forged += 1
