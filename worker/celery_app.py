"""The Celery instance: carries wake-ups, and keeps one computing process a worker.

``python -m worker`` or ``celery -A worker.celery_app worker`` starts one. Importing this module has no effect, and
nothing here imports a numerical library: the parent stays small and forks before any device is touched.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from typing import Any

from billiard import pool
from celery import Celery, signals
from celery.concurrency.asynpool import AsynPool

from worker.broker.check import check_server
from worker.broker.embedded import running_broker
from worker.broker.process_guard import die_with_parent
from worker.broker.urls import celery_url
from worker.errors import BrokerError
from worker.jobs.redis_store import UNDER_WAY, UNDER_WAY_INDEX, UNDER_WAY_LOCK
from worker.jobs.wake_up import SHARED
from worker.liveness.housekeeping import Housekeeping
from worker.liveness.shared_status import SharedStatus
from worker.settings import WorkerSettings

__all__ = ["STATUS", "celery_app", "configuration", "draining"]

log = logging.getLogger(__name__)

# Shared by the parent and the processes it forks. It is a page of memory instead of messages, so that the computing
# process can read it after every frame at no cost.
STATUS = SharedStatus()


def configuration() -> dict[str, Any]:
    """Return the configuration of a worker, each setting with its reason."""
    return SHARED | {
        "broker_url": celery_url(broker_url(WorkerSettings())),
        "broker_transport_options": {
            # With the defaults a worker receives nothing any more after its connection is cut without a FIN.
            "socket_timeout": 10,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": 10,
            # The sweeper removes wake-ups from here whose worker has died.
            "unacked_key": UNDER_WAY,
            "unacked_index_key": UNDER_WAY_INDEX,
            "unacked_mutex_key": UNDER_WAY_LOCK,
        },
        # The broker may start after the worker, or be restarted under it; wait for ever.
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        # A short outage of the broker must not end a running computation: its lease decides.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        # Early acks: a wake-up is removed when it arrives. Leases and sweeper repair what a dead worker leaves;
        # late acks would bring it back only after the visibility timeout, or twice.
        "task_acks_late": False,
        # A busy worker holds no further wake-ups, so another takes them and the sweeper sees their true number.
        "worker_disable_prefetch": True,
        "worker_prefetch_multiplier": 1,
        # One computing process a device; it uses all the threads it is given.
        "worker_pool": "prefork",
        "worker_concurrency": 1,
        # It imports torch as it starts, and reports that it is up when the import leaves it time for that.
        "worker_proc_alive_timeout": 60,
        # When that process is killed, nothing of its result can still be on the way: results do not go through Celery.
        "worker_lost_wait": 0.5,
    }


def broker_url(settings: WorkerSettings) -> str:
    """Return the configured broker, or the embedded one that a service runs on the data folder.

    Raises
    ------
    BrokerError
        If there is neither.
    """
    url = settings.redis_url or running_broker(settings.data_dir / "broker")
    if url is None:
        raise BrokerError(
            f"no broker: set CYTOSYNTH_REDIS_URL, or start the service that keeps its data in {settings.data_dir}"
        )
    return url


def draining() -> bool:
    """Whether the worker or this computing process is to stop: give the job back after this frame."""
    return STATUS.draining or _asked_to_stop


# Evaluated when the configuration is first needed, not now.
celery_app = Celery("cytosynth", include=["worker.tasks"])
celery_app.add_defaults(configuration)


def _refuse_unfit_broker(**_: object) -> None:
    try:
        check_server(celery_app.conf.broker_url)
    except BrokerError as error:
        raise SystemExit(f"cytosynth worker: {error}") from None


def _shorten_last_wait(**_: object) -> None:
    # A wake-up that was sent to the computing process but is not yet known to have arrived is dropped from the parent's
    # list when it stops. Nothing reads its result then, and the computing process would wait 30 s for that before it
    # ends: longer than some batch systems allow. Nothing is lost with it, because results do not go through Celery.
    pool.GUARANTEE_MESSAGE_CONSUMPTION_RETRY_LIMIT = LAST_WAIT_TENTHS


def _replace_lost_process_at_once(**_: object) -> None:
    # The pipe that tells Celery of the end of a computing process closes a moment before the process can be waited for.
    # Celery looks in that moment, finds the process alive, and would look again after up to 5 s.
    AsynPool.timers = property(lambda pool: {pool.maintain_pool: PROCESS_LOOK_S})


def _end_with_parent(**_: object) -> None:
    # The computing process must not go on after kill -9 of its parent: no process could stop it then.
    die_with_parent(signal.SIGKILL)


def _start_chores(**_: object) -> None:
    Housekeeping.start(celery_app.conf.broker_url, WorkerSettings(), STATUS)


def _drain(**_: object) -> None:
    STATUS.drain()


PROCESS_LOOK_S = 0.25  # seconds between two looks whether the computing process is there
LAST_WAIT_TENTHS = 10  # of a second, each one look at the counter of read results

# What batch systems, service managers and terminals send to a whole process group.
GROUP_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
RESULT_S = 5.0  # seconds after a task in which its result has surely been read
_asked_to_stop = False  # this computing process, by a signal to itself
_ended_at: float | None = None  # time.monotonic() of the end of a task after which the handlers were kept
_handlers: dict[signal.Signals, Any] = {}  # those that apply between two tasks


def _note_request(number: int, _frame: object) -> None:
    global _asked_to_stop
    _asked_to_stop = True
    if _ended_at is not None and time.monotonic() - _ended_at > RESULT_S:  # idle, and its parent did not stop
        _restore_handlers()
        os.kill(os.getpid(), number)


def _restore_handlers() -> None:
    while _handlers:
        signal.signal(*_handlers.popitem())


def _catch_signals(**_: object) -> None:
    """Let a signal to the computing process give its job back instead of killing it with a lease in hand.

    Connected at task_prerun: at worker_process_init billiard resets the handlers afterwards. Between two tasks its own
    handlers apply, which end the process at once.
    """
    global _asked_to_stop, _ended_at
    if threading.current_thread() is not threading.main_thread():
        return  # a pool of threads: signals go to the parent
    _asked_to_stop, _ended_at = False, None
    for number in GROUP_SIGNALS:
        if number not in _handlers and signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            _handlers[number] = signal.signal(number, _note_request)


def _leave_signals(**_: object) -> None:
    """Restore the handlers that apply between two tasks, unless the worker is about to stop.

    A second signal must not end this process before its parent has received the task's result: the parent would wait
    for it in vain. The parent ends this process itself; if it was not to stop, a later signal does.
    """
    global _ended_at
    if draining():
        _ended_at = time.monotonic()
        return
    _restore_handlers()


def _stop_on_hangup(**_: object) -> None:
    """Stop on SIGHUP as on SIGTERM; Celery would start ``worker/__main__.py`` again as a file, which cannot run."""
    if not _hangup_is_ignored:
        signal.signal(signal.SIGHUP, lambda *_: os.kill(os.getpid(), signal.SIGTERM))


_hangup_is_ignored = False


def _note_nohup(**_: object) -> None:
    global _hangup_is_ignored
    _hangup_is_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def _stop_chores(**_: object) -> None:
    Housekeeping.stop()
    log.info("worker %d stopped", os.getpid())


signals.worker_init.connect(_refuse_unfit_broker)
signals.worker_init.connect(_note_nohup)
signals.worker_init.connect(_shorten_last_wait)
signals.worker_init.connect(_replace_lost_process_at_once)
signals.worker_process_init.connect(_end_with_parent)
signals.worker_ready.connect(_start_chores)
signals.worker_ready.connect(_stop_on_hangup)
signals.task_prerun.connect(_catch_signals)
signals.task_postrun.connect(_leave_signals)
signals.worker_shutting_down.connect(_drain)
signals.worker_shutdown.connect(_stop_chores)
