"""The uploads that a job names, shown to a runner as files under their names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from worker.errors import SpecError
from worker.jobs import Job
from worker.settings import WorkerSettings
from worker.storage.objects import open_store
from worker.uploads.store import Uploads


@contextmanager
def uploaded_files(
    job: Job, names: Sequence[str], checksums: Sequence[str] | None, settings: WorkerSettings, *, folder: str = ""
) -> Iterator[list[Path]]:
    """Yield what uploads hold, in a folder of their own: readers go by the names of files.

    A label volume is ``<stem>.tif``, a surface ``<stem>.ply``, a sequence of files a folder ``<stem>``.

    Parameters
    ----------
    folder
        Name of the folder, after which readers call a recording of several files.

    Raises
    ------
    UploadNotFoundError, UploadDamagedError, SpecError
        If one was removed, damaged or replaced after the job was accepted, or two would have the same name.
    """
    uploads = Uploads(settings.data_dir, store=open_store(settings.store))
    with TemporaryDirectory(prefix="cytosynth-") as above:
        shelf = Path(above) / folder
        shelf.mkdir(exist_ok=True)
        sources = uploads.lay_out_all(job.owner, names, shelf)
        for name, sha256 in zip(names, checksums or [], strict=True):
            if uploads.get(job.owner, name).sha256 != sha256:
                raise SpecError(f"the upload {name} was replaced after this job was accepted; send the request again")
        yield sources
