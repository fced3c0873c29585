"""Wake-up messages: tell the workers through Celery that a job waits.

A wake-up message carries no order and no data that matter: the job records decide, and the sweeper repairs lost
messages. Celery is imported when the first message is sent, because its import is slow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from worker.broker.urls import celery_url
from worker.jobs.redis_store import QUEUE

WakeUpSender = Callable[[str], None]
"""Sends one wake-up message for the job of this id; may raise, and then the sweeper repairs it."""

TASK = "cytosynth.run_job"


SHARED: dict[str, Any] = {
    "task_default_queue": QUEUE,
    # A message is one job id; nothing that could run code is ever read.
    "task_serializer": "json",
    "accept_content": ["json"],
    # The job record is the truth; Celery would call an unknown id PENDING.
    "result_backend": None,
    "task_ignore_result": True,
    # Nobody reads Celery's own events and remote commands; they would cost connections and open a door.
    "worker_send_task_events": False,
    "worker_enable_remote_control": False,
}


def wake_up_sender(url: str) -> WakeUpSender:
    """Return a function that sends one wake-up, within about two seconds or not at all."""
    from celery import Celery  # slow to import, and nothing but sending needs it

    sender = Celery("cytosynth-wake-ups", set_as_current=False)
    sender.conf.update(
        SHARED,
        broker_url=celery_url(url),
        broker_connection_timeout=2,
        broker_transport_options={
            "socket_timeout": 2,
            "socket_connect_timeout": 2,
            "socket_keepalive": True,
            "health_check_interval": 10,
            "max_retries": 1,
            "interval_start": 0,
            "interval_max": 0.1,
        },
    )

    def publish(_: str) -> None:
        sender.send_task(TASK, retry=False, ignore_result=True)

    return publish
