"""The command line that starts a worker process."""

from __future__ import annotations

import sys


def worker_command() -> list[str]:
    """Return the command of a worker process that ends when its standard input does.

    Give it a pipe as standard input and ``CYTOSYNTH_REDIS_URL`` and ``CYTOSYNTH_DATA_DIR`` in its environment. Closing
    the pipe starts a warm shutdown, as SIGTERM does; so does the death of the process that holds it.
    """
    return [sys.executable, "-m", "worker", "--until-stdin-ends"]
