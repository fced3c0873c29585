"""A job of the service: its state, its end, its files."""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from cytosynth import arrays
from cytosynth.downloads import download_file, fetch
from cytosynth.errors import JobFailedError, ProblemError, UnreachableError
from cytosynth.manifest import MANIFEST, Manifest, RemoteFile
from cytosynth.progress import ProgressBar
from cytosynth.transport import Json, Transport

if TYPE_CHECKING:
    import numpy as np
    import trimesh
    from numpy.typing import NDArray

FINAL_STATES = frozenset({"succeeded", "failed", "canceled", "expired"})


class Job:
    """One request, its state and its result.

    Attributes
    ----------
    document
        The job as the service last showed it.
    """

    def __init__(self, transport: Transport, document: Json) -> None:
        self._transport = transport
        self.document = document

    def __repr__(self) -> str:
        return f"<Job {self.id} {self.state}>"

    @property
    def id(self) -> str:
        """Its identifier."""
        return str(self.document["id"])

    @property
    def state(self) -> str:
        """``queued``, ``running``, or one of :data:`FINAL_STATES`."""
        return str(self.document["state"])

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self.state in FINAL_STATES

    @property
    def spec(self) -> Json:
        """The complete spec, with the seed."""
        return dict(self.document["spec"])

    @property
    def links(self) -> dict[str, str]:
        """Addresses of its events, manifest, files and archive."""
        return dict(self.document["links"])

    def refresh(self) -> Self:
        """Ask the service for the present state; return the job."""
        self.document = self._transport.document("GET", self.links["self"])
        return self

    def cancel(self) -> Self:
        """Cancel it; a job that has ended stays as it is."""
        self.document = self._transport.document("POST", self.links["cancel"])
        return self

    def remove(self) -> None:
        """Remove record and files of a job that has ended; cancel one that has not."""
        self._transport.document("DELETE", self.links["self"])

    def pin(self) -> Self:
        """Keep the files beyond their retention time."""
        self.document = self._transport.document("PUT", self.links["pin"])
        return self

    def unpin(self) -> Self:
        """Let the retention time of the files start again."""
        self.document = self._transport.document("DELETE", self.links["pin"])
        return self

    def wait(self, *, timeout_s: float | None = None, progress: bool | None = None) -> Self:
        """Wait until the job has succeeded; return the job.

        Parameters
        ----------
        timeout_s
            The most seconds to wait; the job goes on after that.
        progress
            Show a progress bar on standard error; by default if that is a terminal.

        Raises
        ------
        JobFailedError
            If it ended otherwise.
        TimeoutError
            After ``timeout_s``.
        """
        bar = ProgressBar(sys.stderr) if (sys.stderr.isatty() if progress is None else progress) else None
        try:
            self.follow(bar.show if bar else lambda _name, _data: None, timeout_s=timeout_s)
        finally:
            if bar:
                bar.clear()
        if self.state != "succeeded":
            raise JobFailedError(self.document)
        return self

    def follow(self, on_event: Callable[[str, Json], None], *, timeout_s: float | None = None) -> Self:
        """Call a function for each event until the job ends, however it ends; a broken stream is resumed.

        Parameters
        ----------
        on_event
            Gets ``state`` or ``progress``, and the data of the event.
        timeout_s
            The most seconds to wait.

        Raises
        ------
        TimeoutError
            After ``timeout_s``.
        UnreachableError, ProblemError
            If the service no longer answers.
        """
        until = None if timeout_s is None else time.monotonic() + timeout_s
        last_id, retry = "", self._transport.new_retry()
        while not self.ended:
            try:
                for event in self._transport.events(self.links["events"], last_id=last_id, until=until):
                    last_id = event.id or last_id
                    retry.reset()
                    on_event(event.name, event.data)
            except TimeoutError:
                pass
            except (UnreachableError, ProblemError) as error:
                if until is None or time.monotonic() < until:
                    self._transport.wait_or_raise(retry, error)
            self.refresh()
            if not self.ended and until is not None and time.monotonic() >= until:
                raise TimeoutError(f"job {self.id} has not ended after {timeout_s:g} s; it is {self.state}")
        return self

    @cached_property
    def _manifest(self) -> bytes:
        return self._transport.request("GET", self.links["manifest"]).content

    @property
    def manifest(self) -> Json:
        """The manifest of a job that has succeeded: spec, units, cells with their tracks, and files.

        Of a job of more than 10,000 cells it has ``shards`` instead of cells and files; :meth:`iter_cells` and
        :meth:`iter_files` read on there.
        """
        document: Json = json.loads(self._manifest)
        return document

    @cached_property
    def _contents(self) -> Manifest:
        return Manifest(self.manifest, self._content, below=self.links["files"])

    @property
    def files(self) -> list[RemoteFile]:
        """The files that the manifest names, and those of its shards."""
        return list(self.iter_files())

    def iter_files(self) -> Iterator[RemoteFile]:
        """Yield the files; the manifests of shards are fetched one by one."""
        return self._contents.files()

    def iter_cells(self) -> Iterator[Json]:
        """Yield what the manifest says of each cell: index, code, tracks, frames; shards as :meth:`iter_files`."""
        return self._contents.cells()

    def download(self, folder: Path | str, *, on_bytes: Callable[[int, int], None] | None = None) -> list[Path]:
        """Download all files and, last, the manifest; return their paths.

        Files that are there already are kept, and what an earlier call left unfinished is continued.

        Parameters
        ----------
        folder
            Where to; it is made if need be.
        on_bytes
            Called with the bytes that are there, and those of all files.

        Raises
        ------
        DamagedFileError
            If a file differs from the manifest.
        UnreachableError, ProblemError
            If the service does not answer, or refuses.
        """
        folder, before, written = Path(folder), 0, list[Path]()

        def on_disk(file: RemoteFile) -> bytes:
            return folder.joinpath(*file.name.split("/")).read_bytes()  # it is downloaded before the files it lists

        contents = Manifest(self.manifest, on_disk, below=self.links["files"])
        total = contents.bytes
        for file in contents.files():

            def advanced(held: int, before: int = before) -> None:
                if on_bytes:
                    on_bytes(before + held, total)

            written.append(download_file(self._transport, file, folder, on_bytes=advanced))
            before += file.bytes
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MANIFEST).write_bytes(self._manifest)
        return [*written, folder / MANIFEST]

    def read(self, name: str) -> bytes:
        """Return the content of one file, such as ``cell_0000/labels.tif``, compared with its checksum.

        Raises
        ------
        KeyError
            If the manifest does not name it.
        DamagedFileError, UnreachableError, ProblemError
            As :meth:`download`.
        """
        return self._content(self._contents.file(name))

    def labels(self, cell: int = 0) -> Iterator[NDArray[np.unsignedinteger[Any]]]:
        """Yield the label volume of each frame of a cell, (z, y, x); 0 is background.

        :attr:`spacing_um` and :meth:`minutes` give the scale. Needs the extra ``arrays``, and a job with the format
        ``tiff``, ``ome-tiff`` or ``tiff-frames``.
        """
        frames = len(self._contents.cell(cell)["frames"])
        return arrays.label_volumes(self._contents.files_of_cell(cell), self._fetch, cell=cell, frames=frames)

    def meshes(self, cell: int = 0) -> Iterator[trimesh.Trimesh]:
        """Yield the mesh of each frame of a cell, in µm.

        Needs the extra ``arrays``, and a job with the format ``ply``, ``stl`` or ``obj``.
        """
        return arrays.meshes(self._contents.files_of_cell(cell), self._fetch, cell=cell)

    @property
    def spacing_um(self) -> tuple[float, float, float]:
        """Distance of neighbouring voxels along (z, y, x) in µm."""
        x, y, z = self.manifest["units"]["spacing"]
        return z, y, x

    def minutes(self, cell: int = 0) -> list[float]:
        """Return the time of each frame of a cell."""
        return [frame["minutes"] for frame in self._contents.cell(cell)["frames"]]

    def _content(self, file: RemoteFile) -> bytes:
        target = io.BytesIO()
        self._fetch(file, target)
        return target.getvalue()

    def _fetch(self, file: RemoteFile, target: BinaryIO) -> None:
        fetch(self._transport, file, target, on_bytes=lambda _held: None)

    def _cancel_quietly(self) -> None:
        with suppress(UnreachableError, ProblemError):
            self.cancel()
