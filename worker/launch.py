"""The command line that starts a worker process."""

from __future__ import annotations

import sys


def worker_command() -> list[str]:
    """Return the command of a worker process that ends when its standard input does.

    Give it a pipe as standard input and ``CYTOSYNTH_REDIS_URL`` and ``CYTOSYNTH_DATA_DIR`` in its environment. Closing
    the pipe, or the death of whoever holds it, is a warm shutdown, as is SIGTERM.
    """
    return [sys.executable, "-m", "worker", "--until-stdin-ends"]
