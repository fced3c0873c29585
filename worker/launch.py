"""The command line that starts a worker process, and the name by which the job records know one."""

from __future__ import annotations

import os
import socket
import sys
from functools import lru_cache
from secrets import token_hex


def process_name() -> str:
    """Return the name of this process, ``host:pid:random``, the same at each call.

    Host name and process id alone may be those of another container that shares the host's network.
    """
    return _name_of(os.getpid())


@lru_cache(maxsize=2)  # a forked process asks with its own id
def _name_of(pid: int) -> str:
    return f"{socket.gethostname()}:{pid}:{token_hex(4)}"


def worker_command() -> list[str]:
    """Return the command of a worker process that ends when its standard input does.

    Give it a pipe as standard input and ``CYTOSYNTH_REDIS_URL`` and ``CYTOSYNTH_DATA_DIR`` in its environment. Closing
    the pipe starts a warm shutdown, as SIGTERM does; so does the death of the process that holds it.
    """
    return [sys.executable, "-m", "worker", "--until-stdin-ends"]
