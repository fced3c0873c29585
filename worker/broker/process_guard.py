"""Stop a server when the service that started it ends; a program of its own, run by its path.

``process_guard.py LOCK_FD SCRATCH COMMAND…`` starts the command and stops it when standard input ends. The parent holds
the other end of that pipe, which the system closes however the parent ends, kill -9 included. A server that dies
earlier is started again. The server inherits the lock's descriptor, so the lock is free only when the server has ended.
``SCRATCH`` is a folder to remove at the end, or empty.

A pipe is used instead of PR_SET_PDEATHSIG alone, because that signal is sent when the *thread* that started this
process ends, and because a pipe works on macOS too. PR_SET_PDEATHSIG is set for the server: on Linux, kill -9 of this
process ends the server too.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time

PR_SET_PDEATHSIG = 1
STOP_S = 2.0
STEADY_S = 5.0  # seconds; a server that ran this long has started properly
ATTEMPTS = 5  # so many servers in a row that ended sooner, and no further one is started
PAUSE_S = 0.1


def die_with_parent(death: signal.Signals = signal.SIGTERM) -> None:
    """Ask the kernel for a signal when the parent dies (Linux; elsewhere nothing)."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, death, 0, 0, 0)


def main(lock_fd: int, scratch: str, command: list[str]) -> int:
    """Keep the command running until standard input ends, SIGTERM arrives or it keeps failing; return its status."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    status = failures = 0
    try:
        while failures < ATTEMPTS:
            started = time.monotonic()
            status, wanted = run_once(lock_fd, command)
            if not wanted:
                break
            failures = failures + 1 if time.monotonic() - started < STEADY_S else 0
            time.sleep(PAUSE_S)
    finally:
        if scratch:
            with contextlib.suppress(OSError):
                shutil.rmtree(scratch)
    return status


def run_once(lock_fd: int, command: list[str]) -> tuple[int, bool]:
    """Run the command until it or standard input ends; return its status and whether to start it again."""
    # The server inherits the write end, so the read end becomes readable when the server has ended.
    alive, held_by_server = os.pipe()
    server = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        pass_fds=(lock_fd, held_by_server),
        # Safe here: this process has one thread.
        preexec_fn=die_with_parent,
    )
    os.close(held_by_server)
    try:
        ready, _, _ = select.select([sys.stdin.fileno(), alive], [], [])
    finally:
        os.close(alive)
        server.terminate()
        try:
            server.wait(STOP_S)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
    return server.returncode, sys.stdin.fileno() not in ready


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
