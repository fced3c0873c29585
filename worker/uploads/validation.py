"""Whether anything can be trained on in uploads, found out in a child process before a training is queued.

The child runs :mod:`model.learning.validation` on the plain copies: the code that the training itself begins with, so
the findings are the same, for every kind of upload and every voxel size. Label volumes need NumPy and tifffile, which a
web image holds; surfaces and distances need more of the library's requirements, which it does not. Where they are
missing, and for what takes longer to check than a request may, the answer is that it is not known; the training then
checks the cells itself, and fails with its findings.

Promises: an answer after about ``SECONDS`` of one core at the latest. The child has limits on memory, time and files,
no environment and no path but that of the copies. The same uploads and scale are checked once in a process.
Does not promise: an answer.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from worker.uploads.sandbox import TREE
from worker.uploads.store import Upload, Uploads

log = logging.getLogger(__name__)

# The tree comes last on the path, so that no module in it can replace one of a library.
START = (
    "import runpy, sys; sys.path.append(sys.argv.pop(1)); "
    "runpy.run_module('model.learning.validation', run_name='__main__')"
)
ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # one core
NEEDED = ("numpy", "tifffile")  # of all kinds
SECONDS = 20  # of processor time: twenty cells of 30 frames of 64³ voxels take 5
WALL_SECONDS = 60  # on a busy machine
BYTES_MAX = 2**28  # of plain copies; more takes too long
ANSWER_MAX = 2**23  # bytes
KEPT = 256  # answers


@dataclass(frozen=True)
class Validation:
    """What was found: why nothing can be trained on (None: something can), and all findings, a sentence each."""

    refused: str | None
    findings: tuple[str, ...]


class CellValidation:
    """Checks uploads for trainings, and keeps the last answers; threads may share it."""

    def __init__(self, uploads: Uploads) -> None:
        self._uploads = uploads
        self._known: OrderedDict[str, Validation] = OrderedDict()
        self._lock = threading.Lock()

    def validate(
        self,
        owner: str,
        uploads: Sequence[Upload],
        *,
        folder: str,
        voxel: Sequence[float] | None,
        interval: float | None,
    ) -> Validation | None:
        """Check uploads of an owner as a training would; None if that cannot be told here.

        Parameters
        ----------
        folder
            Name of the training, after which a recording of several files is called.
        voxel, interval
            What the request states of the scale.

        Raises
        ------
        SpecError, UploadDamagedError, UploadNotFoundError
            As :meth:`worker.uploads.store.Uploads.lay_out_all`.
        """
        if any(not upload.files for upload in uploads) or not all(map(find_spec, NEEDED)):
            return None  # files of an earlier version would have to be read first
        if sum(file.bytes for upload in uploads for file in upload.files) > BYTES_MAX:
            return None
        said = json.dumps({"voxel": voxel, "interval": interval})
        key = json.dumps([owner, [(upload.name, upload.sha256) for upload in uploads], folder, said])
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
                return self._known[key]
        found = self._checked(owner, [upload.name for upload in uploads], folder, said)
        if found is not None:
            with self._lock:
                self._known[key] = found
                while len(self._known) > KEPT:
                    self._known.popitem(last=False)
        return found

    def _checked(self, owner: str, names: Sequence[str], folder: str, said: str) -> Validation | None:
        with TemporaryDirectory(prefix="cytosynth-") as above:
            shelf = Path(above) / folder
            shelf.mkdir()
            self._uploads.lay_out_all(owner, names, shelf)
            try:
                done = subprocess.run(
                    [sys.executable, "-I", "-c", START, str(TREE), str(shelf), str(SECONDS)],
                    input=said.encode(),
                    capture_output=True,
                    env=ENVIRONMENT,
                    timeout=WALL_SECONDS,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                return None
        if done.returncode != 0 or len(done.stdout) > ANSWER_MAX:
            why = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
            log.info("uploads could not be checked before a training", extra={"code": done.returncode, "why": why})
            return None
        answer = json.loads(done.stdout)
        return Validation(answer["refused"], tuple(answer["findings"]))
