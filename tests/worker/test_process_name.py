"""Each process has a name of its own, whatever host name and process id it shares with another."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable

from worker.launch import process_name

TEXT = """
import os
from worker.launch import process_name
os.getpid = lambda: 7  # as the first process of each container
print(process_name(), process_name())
"""


def test_two_processes_of_one_host_name_and_process_id_have_two_names(
    python: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    names = [python(TEXT).stdout.split() for _ in range(2)]
    assert all(len(set(same)) == 1 for same in names)
    first, second = names[0][0], names[1][0]
    assert first != second
    assert first.rsplit(":", 1)[0] == second.rsplit(":", 1)[0] == f"{socket.gethostname()}:7"


def test_a_process_keeps_its_name() -> None:
    assert process_name() == process_name()
    assert process_name().startswith(f"{socket.gethostname()}:{os.getpid()}:")
