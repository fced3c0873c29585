"""A kind of job for tests, loaded into real worker processes: writes frames slowly, or misbehaves as its spec says."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import time
from pathlib import Path

from celery import signals

from model.errors import EmptySurfaceError
from worker.jobs import Job
from worker.kinds.base import Report
from worker.kinds.table import KINDS, Kind


def probe(job: Job, folder: Path, report: Report) -> None:
    spec = job.spec
    if spec.get("fault") == "error":
        raise EmptySurfaceError("there is no membrane in this field")
    if spec.get("fault") == "bug":
        raise ZeroDivisionError("a secret of the house")
    if spec.get("fault") == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    if spec.get("fault") == "freeze":
        os.kill(os.getpid(), signal.SIGSTOP)
    if spec.get("fault") == "full":
        raise OSError(errno.ENOSPC, "No space left on device", str(folder / "x"))
    frames, files = spec.get("frames", 1), []
    (folder / "cell_0000").mkdir()
    for frame in range(frames):
        time.sleep(spec.get("pause_s", 0.0))
        name = f"cell_0000/frame_{frame:04d}.txt"
        content = f"{job.digest} {frame}".encode().ljust(spec.get("bytes", 0))
        (folder / name).write_bytes(content)
        files.append({"name": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()})
        report(stage="frames", frame=frame + 1, frames=frames)
    (folder / "manifest.json").write_text(json.dumps({"files": files}))


def _linger(**_: object) -> None:
    """Between the end of a task and the sending of its result, say so and wait for permission to go on, if asked to.

    A test asks once its job is being computed: a wake-up that was left over is a task as well.
    """
    if (folder := os.environ.get("PROBE_LINGER")) and (Path(folder) / "linger").exists():
        (Path(folder) / "lingers").touch()
        while not (Path(folder) / "go on").exists():
            time.sleep(0.01)
        (Path(folder) / "went on").touch()


signals.task_postrun.connect(_linger)  # after the product's own receivers, which were connected before
KINDS["probe"] = Kind(name="probe", path="", spec=None, runner=f"{__name__}:probe")
