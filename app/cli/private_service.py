"""A service for the duration of one command."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cytosynth import UnreachableError

START_S = 90.0  # a service started for one command must answer within this time


@contextmanager
def private_service(environment: dict[str, str]) -> Iterator[str]:
    """Start a service with its own data folder and yield its address; it ends with this process, even after a kill."""
    with tempfile.TemporaryDirectory(prefix="cytosynth-", ignore_cleanup_errors=True) as scratch:
        ready, output = Path(scratch) / "ready.json", Path(scratch) / "serve.log"
        command = [sys.executable, "-m", "app.cli", "serve", "--port", "0", "--host", "127.0.0.1"]
        command += ["--data-dir", str(Path(scratch) / "data"), "--ready-file", str(ready), "--until-stdin-ends"]
        with output.open("wb") as sink:
            service = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=sink, stderr=sink, start_new_session=True, env=environment
            )
        try:
            yield _await_address(service, ready, output)
        finally:
            if service.stdin:
                service.stdin.close()
            try:
                service.wait(30)
            except subprocess.TimeoutExpired:
                service.kill()
                service.wait()


def _await_address(service: subprocess.Popen[bytes], ready: Path, output: Path) -> str:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and service.poll() is None:
        with contextlib.suppress(FileNotFoundError):
            return str(json.loads(ready.read_text(encoding="utf-8"))["address"])
        time.sleep(0.02)
    last = "\n".join(output.read_text(encoding="utf-8", errors="replace").splitlines()[-5:])
    raise UnreachableError(f"the service does not start:\n{last}")
