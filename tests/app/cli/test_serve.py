"""One command runs everything, and leaves nothing behind however it ends."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import httpx
import pytest
from served import Served, cytosynth, served
from workbench import alive, eventually


def gone(family: list[int]) -> bool:
    return not any(alive(pid) for pid in family)


def ended(service: Served, family: list[int]) -> int:
    """Wait until nothing of a service is left; return its exit code."""
    code = service.process.wait(40)
    eventually(lambda: gone(family), within_s=40)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{service.address}/livez")
    return code


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_signal_of_a_terminal_ends_everything_in_good_order(tmp_path: Path, number: signal.Signals) -> None:
    with served(tmp_path, CYTOSYNTH_PRELOAD="0") as service:
        family = service.family()
        assert len(family) >= 4  # itself, the broker and its guard, a worker
        os.killpg(service.process.pid, number)  # Ctrl-C, or a terminal that is closed
        assert ended(service, family) == 0
        assert "Traceback" not in service.log()


def test_kill_9_leaves_nothing_behind(tmp_path: Path) -> None:
    with served(tmp_path, CYTOSYNTH_PRELOAD="0") as service:
        family = service.family()
        service.process.kill()
        assert ended(service, family) == -signal.SIGKILL


def test_the_service_heals_its_workers_and_guards_its_data(tmp_path: Path) -> None:
    with served(tmp_path) as service:
        old = service.worker()
        assert old is not None
        old.kill()
        eventually(lambda: (new := service.worker()) is not None and new.pid != old.pid, within_s=40)
        assert not alive(old.pid)
        eventually(service.ready, within_s=60)

        second = cytosynth("serve", "--port", "0", "--data-dir", str(service.data_dir))
        assert second.returncode == 1
        assert "stop it" in second.stderr
        assert service.ready()

        family = service.family()
        service.process.terminate()
        assert ended(service, family) == 0


def test_taken_port_is_said_before_anything_is_started(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = cytosynth("serve", "--port", str(port), "--data-dir", str(tmp_path / "data"))
    assert done.returncode == 1
    assert f"port {port}" in done.stderr
    assert "--port" in done.stderr
    assert not (tmp_path / "data").exists()
