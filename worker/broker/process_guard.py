"""Keeps a server from outliving the service that started it; a program of its own, run by its path.

``guard.py LOCK_FD SCRATCH COMMAND…``: starts the command and holds it until standard input ends, which it does however
the parent dies, kill -9 included; a server that dies before is started again. The parent keeps the other end of that
pipe and does nothing. The lock's descriptor
is handed on to the server, so the lock is free only when the server is gone. ``SCRATCH`` is a folder to remove at the
end, or empty.

A pipe rather than only PR_SET_PDEATHSIG, because that signal comes when the *thread* that started us ends, and because
it works on macOS too. PR_SET_PDEATHSIG guards the guard: kill -9 of this process takes the server along on Linux.
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
STEADY_S = 5.0  # a server that lived this long had no trouble starting
ATTEMPTS = 5  # in a row that did not; then it is of no use to try again
PAUSE_S = 0.1


def die_with_parent(death: signal.Signals = signal.SIGTERM) -> None:
    """Ask the kernel for a signal when the parent dies (Linux; elsewhere nothing)."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, death, 0, 0, 0)


def main(lock_fd: int, scratch: str, command: list[str]) -> int:
    """Keep the command running until standard input ends, SIGTERM arrives or it will not run; return its status."""
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
    """Run the command until it ends or standard input does; return its status and whether it is still wanted."""
    alive, held_by_server = os.pipe()  # the read end is readable when the server, which has the other, is gone
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
