"""Wake-up messages: tell the workers through Celery that a job waits.

A wake-up message says only that a job waits. The job records decide which, and the sweeper sends lost messages again.
Celery is imported when the first message is sent, because its import is slow.
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
    # Messages hold no data. JSON only, so that no message that could run code is read.
    "task_serializer": "json",
    "accept_content": ["json"],
    # The job record has the state; Celery would report an unknown id as PENDING.
    "result_backend": None,
    "task_ignore_result": True,
    # Celery's events and remote commands are not used; they would need connections and accept commands.
    "worker_send_task_events": False,
    "worker_enable_remote_control": False,
}


def wake_up_sender(url: str) -> WakeUpSender:
    """Return a function that sends one wake-up, within about two seconds or not at all."""
    from celery import Celery  # slow to import, and needed for sending only

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
