"""``python -m worker``: one worker, as containers and ``cytosynth serve`` start it."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time

from worker.celery_app import celery_app
from worker.errors import CytosynthError

GRACE_S = 20.0


def main() -> None:
    """Run a worker until SIGTERM, SIGINT or, if asked, the end of standard input; its job is then given back."""
    parser = argparse.ArgumentParser(prog="python -m worker", description=main.__doc__)
    parser.add_argument(
        "--until-stdin-ends", action="store_true", help="stop when standard input ends: the parent has exited"
    )
    parser.add_argument("--include", default="", help="modules with further kinds of jobs, separated by commas")
    parser.add_argument("--loglevel", default="INFO")
    arguments = parser.parse_args()
    if arguments.until_stdin_ends:
        threading.Thread(target=_follow_stdin, name="stdin", daemon=True).start()
    options = ["worker", f"--loglevel={arguments.loglevel}", "--without-gossip", "--without-mingle"]
    if arguments.include:
        options.append(f"--include={arguments.include}")
    try:
        celery_app.worker_main([*options, "--without-heartbeat"])  # housekeeping announces the worker
    except CytosynthError as error:
        sys.exit(f"cytosynth worker: {error.message}")


def _follow_stdin() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    # The broker may have ended together with the parent. A shutdown that hangs for it would then never be ended.
    time.sleep(GRACE_S)
    os._exit(1)


if __name__ == "__main__":
    main()
