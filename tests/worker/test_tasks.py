"""What the computing process does before its first job."""

from __future__ import annotations

import sys
import threading
from types import SimpleNamespace

import pytest
from workbench import eventually

from worker import tasks
from worker.liveness.shared_status import SharedStatus


def test_a_process_that_compiles_is_busy_and_alive_and_afterwards_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """The watchdog ends a worker that is idle for two minutes while wake-ups wait; compiling may take longer."""
    status, begun, go_on = SharedStatus(), threading.Event(), threading.Event()

    def warm_up() -> None:
        begun.set()
        assert go_on.wait(30.0)

    monkeypatch.setattr(tasks, "STATUS", status)
    monkeypatch.setattr(tasks, "BEAT_S", 0.01)
    monkeypatch.setitem(sys.modules, "worker.kinds.warm_up", SimpleNamespace(warm_up=warm_up))
    preparing = threading.Thread(target=tasks._preload)
    preparing.start()
    assert begun.wait(30.0)
    seen = status.snapshot()
    assert seen is not None
    assert (seen.pid != 0, seen.job_id) == (True, "")
    eventually(lambda: (now := status.snapshot()) is not None and now.beats > seen.beats + 2)
    go_on.set()
    preparing.join(30.0)
    after = status.snapshot()
    assert after is not None
    assert (after.pid, after.taken) == (0, seen.taken)
