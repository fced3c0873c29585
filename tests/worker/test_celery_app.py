"""The Celery instance of the workers: what Celery and billiard are told."""

from __future__ import annotations

from multiprocessing import Value

import pytest
from billiard import pool
from celery import signals

import worker.celery_app


def test_a_computing_process_whose_last_result_nothing_reads_ends_within_two_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool, "GUARANTEE_MESSAGE_CONSUMPTION_RETRY_LIMIT", 300)  # billiard's own; put back afterwards
    assert worker.celery_app._shorten_last_wait in [receiver() for _, receiver in signals.worker_init.receivers]
    worker.celery_app._shorten_last_wait()

    slept: list[float] = []
    monkeypatch.setattr(pool.time, "sleep", slept.append)
    process = object.__new__(pool.Worker)
    process.on_ready_counter = Value("i", 4)  # results that the parent has read
    assert process._ensure_messages_consumed(completed=5) is False
    assert 0.5 < sum(slept) < 2.0
    assert process._ensure_messages_consumed(completed=4) is True
