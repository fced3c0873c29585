"""One command runs everything, and leaves nothing behind however it ends."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import httpx
import pytest
from served import cytosynth, served
from workbench import alive, eventually


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_however_the_service_ends(tmp_path: Path, how: signal.Signals) -> None:
    with served(tmp_path) as service:
        family = service.family()
        assert len(family) >= 4  # itself, broker and its guard, worker
        follower = httpx.Client(base_url=service.address)
        with follower.stream("GET", "/metrics"):
            service.process.send_signal(how)
        code = service.process.wait(30)
        assert code == (-how if how == signal.SIGKILL else 0)
        eventually(lambda: not any(alive(pid) for pid in family), within_s=30)
        follower.close()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{service.address}/livez")


def test_ctrl_c_reaches_all_even_as_the_terminal_sends_it(tmp_path: Path) -> None:
    with served(tmp_path) as service:
        family = service.family()
        os.killpg(service.process.pid, signal.SIGINT)
        assert service.process.wait(30) == 0
        eventually(lambda: not any(alive(pid) for pid in family), within_s=30)
        assert "Traceback" not in service.log()


def test_a_worker_that_dies_is_replaced(tmp_path: Path) -> None:
    with served(tmp_path) as service:
        old = service.worker()
        old.kill()
        eventually(lambda: not alive(old.pid) and service.worker().pid != old.pid, within_s=20)
        eventually(service.ready, within_s=30)


def test_taken_port_is_said_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = cytosynth("serve", "--port", str(port), "--data-dir", str(tmp_path / "data"))
    assert done.returncode == 1
    assert f"port {port}" in done.stderr
    assert "--port" in done.stderr
    assert not (tmp_path / "data").exists()


def test_a_second_service_on_the_same_data_is_refused(tmp_path: Path) -> None:
    with served(tmp_path) as service:
        done = cytosynth("serve", "--port", "0", "--data-dir", str(service.data_dir))
        assert done.returncode == 1
        assert "stop it" in done.stderr
        assert service.ready()
