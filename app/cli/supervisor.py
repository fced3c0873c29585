"""The whole service in one process tree: broker, workers and web, started and stopped together.

Promises: Ctrl-C, SIGTERM and SIGHUP stop the web first, then the workers (which release their jobs), then the broker.
After kill -9 of this process all children end too, because each of them ends with a pipe that this process holds. A
worker that dies, or sends no heartbeat for long, is replaced; so is a broker that dies. If the broker cannot be
restarted, the service ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog
import uvicorn

from app.main import create_app
from app.middleware.authentication import is_loopback
from app.server import BoundedServer, PortInUseError, listen, raise_file_limit, server_config
from app.settings import AppSettings, child_environment
from model.card import SHIPPED_MODELS
from worker.api_keys import Keys
from worker.broker.check import check_server
from worker.broker.embedded import Broker, start_broker
from worker.errors import BrokerError, QueueUnavailableError
from worker.jobs import JobQueue
from worker.launch import worker_command

__all__ = ["ExposedError", "Plan", "PortInUseError", "check_exposure", "listen", "run_service"]

log: structlog.stdlib.BoundLogger = structlog.get_logger("cytosynth.serve")

WEB_GRACE_S = 3  # seconds for answers in progress; requests that wait for a job end within this time
WORKER_NICENESS = 10
WORKER_GRACE_S = 15.0  # seconds for a worker to finish a frame and release its job
STEADY_S = 60.0  # after this many seconds the start of a worker counts as successful
BACKOFF_MAX_S = 30.0  # most seconds between two starts of a worker that keeps failing
CHECK_INTERVAL_S = 2.0  # seconds between two checks of the broker and the workers
HEARTBEAT_TIMEOUT_S = 120.0  # a worker that sends no heartbeat for this many seconds is replaced


class ExposedError(Exception):
    """Other machines could use the service without a key."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to run."""

    settings: AppSettings
    workers: int = 1
    ready_file: Path | None = None  # written once the service answers
    until_stdin_ends: bool = False  # end when standard input is closed, that is with the parent process
    heartbeat_timeout_s: float = HEARTBEAT_TIMEOUT_S


def run_service(plan: Plan, *, announce: Callable[[str], None]) -> None:
    """Run the service until a signal stops it; ``announce`` is called with its address.

    Raises
    ------
    PortInUseError, ExposedError
        Before anything is started.
    BrokerError
        If the broker cannot be started or may lose jobs.
    """
    settings = plan.settings
    check_exposure(settings)
    raise_file_limit()
    listener = listen(settings.host, settings.port)
    with listener, ExitStack() as stack:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        broker = None
        if settings.redis_url is None:
            broker = stack.enter_context(start_broker(settings.data_dir / "broker"))
            settings = settings.model_copy(update={"redis_url": broker.url})
        else:
            check_server(settings.redis_url)
        asyncio.run(_Service(plan, settings, listener, announce, broker=broker).run())
        if broker is not None and broker.lost:
            raise BrokerError(f"the broker died and does not start again; see {broker.folder / 'server.log'}")


def check_exposure(settings: AppSettings) -> None:
    """Check that other machines cannot use the service without a key.

    Raises
    ------
    ExposedError
        If they can: there are no keys, and the operator has not allowed open access.
    """
    if not (is_loopback(settings.host) or settings.allow_open or Keys(settings.data_dir).required()):
        raise ExposedError(
            f"{settings.host} can be reached from other machines and there are no keys: any of them could use the "
            "service. Create a key with `cytosynth keys create NAME`, or add --allow-open to allow that"
        )


class _Server(BoundedServer):
    """A web server that leaves signals to the supervisor, and reports when it answers."""

    def __init__(self, config: uvicorn.Config, *, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.should_exit:
            self._on_ready()


class _Service:
    """One run of the service inside an event loop."""

    def __init__(
        self,
        plan: Plan,
        settings: AppSettings,
        listener: socket.socket,
        announce: Callable[[str], None],
        *,
        broker: Broker | None,
    ) -> None:
        self._broker = broker
        self._plan, self._settings, self._listener, self._announce = plan, settings, listener, announce
        self._stopping = asyncio.Event()
        self._app = create_app(settings)
        self._server = _Server(server_config(self._app, grace_s=WEB_GRACE_S), on_ready=self._ready)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # nohup
                loop.add_signal_handler(number, self._stop)
        if self._plan.until_stdin_ends:
            loop.add_reader(sys.stdin.fileno(), self._read_stdin)
        workers = [asyncio.create_task(self._keep_worker(number)) for number in range(self._plan.workers)]
        watch = asyncio.create_task(self._watch_broker())
        try:
            await self._server.serve(sockets=[self._listener])
        finally:
            self._stopping.set()
            await asyncio.gather(watch, *workers)

    async def _watch_broker(self) -> None:
        """End the service when its broker cannot be restarted."""
        while not self._stopping.is_set():
            if self._broker is not None and self._broker.lost:
                log.critical("the broker died and does not start again; the service ends")
                self._stop()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), CHECK_INTERVAL_S)

    def _stop(self) -> None:
        # The second signal breaks off the answers in progress.
        self._server.force_exit = self._server.should_exit
        self._server.should_exit = True
        self._stopping.set()
        resources = getattr(self._app.state, "resources", None)
        if resources is not None:
            resources.closing.set()

    def _read_stdin(self) -> None:
        if not os.read(sys.stdin.fileno(), 4096):
            asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
            self._stop()

    def _ready(self) -> None:
        host, port = self._listener.getsockname()[:2]
        shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
        address = f"http://{shown}:{port}"
        if self._plan.ready_file is not None:
            draft = self._plan.ready_file.with_suffix(".draft")
            draft.write_text(json.dumps({"address": address, "pid": os.getpid()}), encoding="utf-8")
            draft.replace(self._plan.ready_file)
        self._announce(address)

    async def _keep_worker(self, number: int) -> None:
        """Run a worker; start another when it ends, as long as the service runs."""
        pause = 1.0
        while not self._stopping.is_set():
            started = time.monotonic()
            code = await self._run_worker()
            if self._stopping.is_set():
                return
            pause = 1.0 if time.monotonic() - started > STEADY_S else min(2 * pause, BACKOFF_MAX_S)
            log.error("a worker ended; starting another", worker=number, code=code, pause_s=pause)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)

    async def _run_worker(self) -> int:
        level = self._settings.log_level.upper()
        worker = await asyncio.create_subprocess_exec(
            *worker_command(),
            f"--loglevel={level}",
            env=self._worker_environment(),
            stdin=asyncio.subprocess.PIPE,  # its end tells the worker to stop, also after a kill of this process
            stdout=asyncio.subprocess.DEVNULL,  # celery's banner; its log goes to standard error
            start_new_session=True,  # Ctrl-C in the terminal reaches this process only, which stops the worker
        )
        # Workers use all processors; the web process goes first.
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, worker.pid, WORKER_NICENESS)
        ended, stopping = asyncio.create_task(worker.wait()), asyncio.create_task(self._stopping.wait())
        silent = asyncio.create_task(self._until_silent(worker.pid))
        await asyncio.wait((ended, stopping, silent), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if silent.done() and silent.exception() is None and not ended.done() and not self._stopping.is_set():
            log.error("a worker sends no heartbeat and is killed", pid=worker.pid)
            worker.kill()
        silent.cancel()
        if not ended.done():
            if worker.stdin is not None:
                worker.stdin.close()
            try:
                await asyncio.wait_for(asyncio.shield(ended), WORKER_GRACE_S)
            except TimeoutError:
                log.warning("a worker did not stop in time and is killed; its job is started again later")
                worker.kill()
        return await ended

    async def _until_silent(self, pid: int) -> None:
        """Return when a worker has stopped sending heartbeats, while the broker answers."""
        jobs, seen = JobQueue.connect(self._settings.redis_url or "", wake_up=lambda _: None), None
        try:
            timeout_s = self._plan.heartbeat_timeout_s / 2
            while seen is None or time.monotonic() - seen < timeout_s:
                try:
                    beats = await asyncio.to_thread(jobs.admin.workers_alive, within_s=timeout_s)
                except QueueUnavailableError:
                    seen = None if seen is None else time.monotonic()  # unknown: the broker does not answer
                else:
                    if any(beat.pid == pid and beat.hostname == socket.gethostname() for beat in beats):
                        seen = time.monotonic()
                await asyncio.sleep(CHECK_INTERVAL_S)
        finally:
            await asyncio.to_thread(jobs.close)

    def _worker_environment(self) -> dict[str, str]:
        """Return the environment of a worker; the folder of models made from uploads is one of its model folders."""
        roots = [str(root.resolve()) for root in self._settings.model_roots if root != SHIPPED_MODELS]
        shared = child_environment(self._settings, workers=self._plan.workers)
        return shared | {"CYTOSYNTH_MODEL_DIRS": json.dumps(roots)}
