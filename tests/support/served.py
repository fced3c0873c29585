"""A real ``cytosynth serve`` process for tests: started on a free port, watched, ended."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
from click.testing import Result
from typer.testing import CliRunner
from workbench import ROOT, alive, eventually

from app.cli.commands import cli

VERIFY = False  # clients of plain HTTP: one that verifies reads all certificates first, 20 ms of computing
START_S = 300.0  # a busy machine reads Python's libraries slowly, and a new one compiles before it is ready


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", "NO_COLOR": "1", **more}


def cytosynth(*arguments: str, timeout_s: float = 120.0, **more: str) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end."""
    return subprocess.run(
        [sys.executable, "-m", "app.cli", *arguments],
        env=environment(**more), capture_output=True, text=True, timeout=timeout_s, check=False,
    )  # fmt: skip


def cytosynth_here(*arguments: str, **more: str) -> Result:
    """Run the command line within this process, which saves starting another."""
    return CliRunner().invoke(cli, arguments, env={"COLUMNS": "200", "NO_COLOR": "1", **more})


@dataclass
class Served:
    """A running service."""

    process: subprocess.Popen[bytes]
    address: str
    data_dir: Path
    log_file: Path

    def family(self) -> list[int]:
        """Process ids of the service and everything below it."""
        me = psutil.Process(self.process.pid)
        return [me.pid, *(child.pid for child in me.children(recursive=True))]

    def ready(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.address}/readyz", verify=VERIFY).status_code == 200
        return False

    def worker(self) -> psutil.Process | None:
        """The worker's parent process, while there is one."""
        for child in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                if "--until-stdin-ends" in child.cmdline():
                    return child
        return None

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")


@contextlib.contextmanager
def served(folder: Path, *arguments: str, **more: str) -> Iterator[Served]:
    """Run a service whose data lie in ``folder``; whatever is left of it in the end is killed."""
    ready, log_file = folder / "ready.json", folder / "serve.log"
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "app.cli", "serve", "--port", "0", "--data-dir", str(folder / "data")]
    with log_file.open("ab") as log:
        process = subprocess.Popen(
            [*command, "--ready-file", str(ready), *arguments],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd=folder,
            env=environment(**more),
        )  # fmt: skip
    family: list[int] = [process.pid]
    try:
        eventually(lambda: ready.exists() or process.poll() is not None, within_s=START_S)
        service = Served(process, json.loads(ready.read_text())["address"], folder / "data", log_file)
        eventually(service.ready, within_s=START_S)
        family = service.family()
        yield service
    finally:
        if process.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):
                family += service.family()
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(40)
        for pid in family:
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
        process.wait()
