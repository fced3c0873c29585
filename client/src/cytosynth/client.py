"""The client of one service.

>>> from cytosynth import Client
>>> with Client("http://127.0.0.1:8000") as client:  # doctest: +SKIP
...     job = client.generate("celegans", seed=7, frames=12, grid=64, formats=["tiff"]).wait()
...     volumes = list(job.labels())
"""

from __future__ import annotations

import base64
import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, urlencode

from cytosynth.errors import ConflictError, NotFoundError, ProblemError, UnreachableError
from cytosynth.job import Job
from cytosynth.transport import Json, Transport

CHUNK = 2**18
RESUMED_BYTES = 2**24  # longer files continue after a broken connection


class Client:
    """A client of one service. Use it in a ``with`` block, or call :meth:`close`.

    Parameters
    ----------
    url
        Address of the service.
    key
        API key, if the service needs one.
    retry_for_s
        How many seconds a request is repeated after broken connections, 429 and 503, before the error is raised; a
        download starts to count anew whenever bytes arrive. 0: nothing is repeated.
    """

    def __init__(
        self, url: str = "http://127.0.0.1:8000", *, key: str | None = None, retry_for_s: float = 120.0
    ) -> None:
        self._transport = Transport(url, key=key, retry_for_s=retry_for_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    @property
    def url(self) -> str:
        """Address of the service."""
        return self._transport.address

    def is_cytosynth(self) -> bool:
        """Return whether a cytosynth service answers."""
        try:
            return self.version().get("name") == "cytosynth"
        except (UnreachableError, ProblemError):
            return False

    def version(self) -> Json:
        """Return the versions of the service."""
        return self._transport.document("GET", "/v1/version")

    def models(self) -> list[Json]:
        """Return the cards of all models that may be used."""
        return list(self._transport.document("GET", "/v1/models")["models"])

    def model(self, model_id: str) -> Json:
        """Return the card of a model."""
        return self._transport.document("GET", f"/v1/models/{quote(model_id, safe='')}")

    def generate(
        self,
        model: str,
        *,
        seed: int | None = None,
        count: int | None = None,
        first_index: int | None = None,
        frames: int | None = None,
        times: Sequence[float] | None = None,
        grid: int | Sequence[int] | None = None,
        latent: Json | None = None,
        rotation: str | Sequence[float] | None = None,
        formats: Sequence[str] | None = None,
        separate_bodies: bool | None = None,
        exact: str | None = None,
        on_implausible: str | None = None,
        fragments: str | None = None,
        idempotency_key: str | None = None,
        labels: Mapping[str, str] | None = None,
        priority: int = 0,
        **members: Any,
    ) -> Job:
        """Ask for new cells; return the job at once.

        Parameters
        ----------
        model
            Identifier of the model.
        seed, count, first_index, frames, times, grid, latent, rotation, formats, separate_bodies, exact
            Members of the spec, as the documentation of the HTTP interface says. What is None is left out, and the
            service fills in its default.
        on_implausible, fragments
            More of them.
        idempotency_key
            A name of the caller's for this request: the same name and request give the same job, also after this
            program was started again. Without one, a new name is made for each call.
        labels, priority
            As in :meth:`submit`.
        members
            Further members of the spec.

        Raises
        ------
        InvalidRequestError, TooLargeError
            If the service refuses the request.
        UnreachableError, ProblemError
            If it does not answer, or refuses for another reason.
        """
        spec = {
            "model": model, "seed": seed, "count": count, "first_index": first_index, "frames": frames, "times": times,
            "grid": grid, "latent": latent, "rotation": rotation, "formats": formats,
            "separate_bodies": separate_bodies, "exact": exact, "on_implausible": on_implausible,
            "fragments": fragments, **members,
        }  # fmt: skip
        spec = {name: value for name, value in spec.items() if value is not None}
        return self.submit("/v1/generations", spec, idempotency_key=idempotency_key, labels=labels, priority=priority)

    def reconstruct(
        self,
        model: str,
        uploads: Sequence[str],
        *,
        frames: int | None = None,
        times: Sequence[float] | None = None,
        grid: int | Sequence[int] | None = None,
        formats: Sequence[str] | None = None,
        given_times: Sequence[float] | None = None,
        voxel: Sequence[float] | None = None,
        place: str | None = None,
        labels: Sequence[int] | None = None,
        method: str | None = None,
        orientations: int | None = None,
        shift: bool | None = None,
        validate: bool | None = None,
        keep_given_frames: bool | None = None,
        cells: str | None = None,
        refine: int | None = None,
        seed: int | None = None,
        idempotency_key: str | None = None,
        **members: Any,
    ) -> Job:
        """Ask for an uploaded cell at another resolution; return the job at once.

        Parameters
        ----------
        model
            Identifier of the model.
        uploads
            Names of uploads, as :meth:`upload` returned them: one TIFF of all frames, or one file for each frame.
        frames, times, grid, formats, given_times, voxel, place, labels, method, orientations, shift, validate,
        keep_given_frames, cells, refine, seed
            Members of the spec; ``labels`` are those of the cell in the label volumes.
        idempotency_key, members
            As in :meth:`generate`.

        Raises
        ------
        InvalidRequestError, TooLargeError, NotFoundError, UnreachableError, ProblemError
            As :meth:`generate`; ``NotFoundError`` if there is no such upload.
        """
        spec = {
            "model": model, "uploads": list(uploads), "frames": frames, "times": times, "grid": grid,
            "formats": formats, "given_times": given_times, "voxel": voxel, "place": place, "labels": labels,
            "method": method, "orientations": orientations, "shift": shift, "validate": validate,
            "keep_given_frames": keep_given_frames, "cells": cells, "refine": refine, "seed": seed, **members,
        }  # fmt: skip
        return self._ask("/v1/reconstructions", spec, idempotency_key)

    def augment(
        self,
        model: str,
        source: Json,
        *,
        count: int | None = None,
        seed: int | None = None,
        noise: float | None = None,
        rotation: str | None = None,
        mirror: bool | None = None,
        size: Sequence[float] | None = None,
        speed: Sequence[float] | None = None,
        warp: float | None = None,
        frames: int | None = None,
        times: Sequence[float] | None = None,
        grid: int | Sequence[int] | None = None,
        formats: Sequence[str] | None = None,
        idempotency_key: str | None = None,
        **members: Any,
    ) -> Job:
        """Ask for variations of a cell; return the job at once.

        Parameters
        ----------
        model
            Identifier of the model.
        source
            The cell, such as ``{"kind": "learned", "index": 0}``, ``{"kind": "job", "job": job.id, "cell": 0}`` or
            ``{"kind": "uploads", "uploads": ["cells.tif"]}``.
        count, seed, noise, rotation, mirror, size, speed, warp, frames, times, grid, formats
            Members of the spec.
        idempotency_key, members
            As in :meth:`generate`.

        Raises
        ------
        InvalidRequestError, TooLargeError, NotFoundError, UnreachableError, ProblemError
            As :meth:`generate`; ``NotFoundError`` if there is no such job.
        """
        spec = {
            "model": model, "source": source, "count": count, "seed": seed, "noise": noise, "rotation": rotation,
            "mirror": mirror, "size": size, "speed": speed, "warp": warp, "frames": frames, "times": times,
            "grid": grid, "formats": formats, **members,
        }  # fmt: skip
        return self._ask("/v1/augmentations", spec, idempotency_key)

    def evaluate(
        self,
        model: str,
        *,
        job: str | None = None,
        uploads: Sequence[str] | None = None,
        count: int | None = None,
        draws: int | None = None,
        voxel: Sequence[float] | None = None,
        interval: float | None = None,
        seed: int | None = None,
        idempotency_key: str | None = None,
        **members: Any,
    ) -> Job:
        """Ask for a comparison of cells; return the job at once. Its files are a report, figures and measurements.

        Parameters
        ----------
        model
            Identifier of the model.
        job
            Id of a job whose cells are evaluated; by default new cells of the model.
        uploads
            Names of uploads with the cells to compare with; by default the reference cells of the model.
        count, draws, voxel, interval, seed
            Members of the spec.
        idempotency_key, members
            As in :meth:`generate`.

        Raises
        ------
        InvalidRequestError, TooLargeError, NotFoundError, UnreachableError, ProblemError
            As :meth:`generate`; ``NotFoundError`` if there is no such job or upload.
        """
        spec = {
            "model": model, "job": job, "uploads": None if uploads is None else list(uploads), "count": count,
            "draws": draws, "voxel": voxel, "interval": interval, "seed": seed, **members,
        }  # fmt: skip
        return self._ask("/v1/evaluations", spec, idempotency_key)

    def train(
        self,
        name: str,
        uploads: Sequence[str],
        *,
        steps: int | None = None,
        minutes: float | None = None,
        voxel: Sequence[float] | None = None,
        interval: float | None = None,
        keep_on_cancel: bool | None = None,
        seed: int | None = None,
        idempotency_key: str | None = None,
        **members: Any,
    ) -> Job:
        """Ask for a model trained on your own cells; return the job at once.

        The job's member ``model`` has the identifier of the model, which can be used once the job has succeeded.

        Parameters
        ----------
        name
            Short name of the model; the service makes it unique.
        uploads
            Names of uploads with the cells.
        steps, minutes, voxel, interval, keep_on_cancel, seed
            Members of the spec.
        idempotency_key, members
            As in :meth:`generate`.

        Raises
        ------
        InvalidRequestError, TooLargeError, NotFoundError, UnreachableError, ProblemError
            As :meth:`generate`; ``NotFoundError`` if there is no such upload.
        """
        spec = {
            "name": name, "uploads": list(uploads), "steps": steps, "minutes": minutes, "voxel": voxel,
            "interval": interval, "keep_on_cancel": keep_on_cancel, "seed": seed, **members,
        }  # fmt: skip
        return self._ask("/v1/trainings", spec, idempotency_key)

    def _ask(self, path: str, spec: Json, idempotency_key: str | None) -> Job:
        """Submit what is given of a spec."""
        given = {name: value for name, value in spec.items() if value is not None}
        return self.submit(path, given, idempotency_key=idempotency_key)

    def stream(self, model: str, *, seeds: Iterable[int], ahead: int = 2, **members: Any) -> Iterator[Job]:
        """Yield a succeeded job for each seed, in order; the next ones are computed meanwhile.

        Parameters
        ----------
        model
            Identifier of the model.
        seeds
            One job each; it may have no end, such as ``itertools.count()``.
        ahead
            How many jobs to keep queued beyond the one that is used.
        members
            Members of the spec, as :meth:`generate`.

        Raises
        ------
        JobFailedError
            If a job fails. The other jobs are canceled.
        """
        waiting: deque[Job] = deque()
        try:
            for seed in seeds:
                waiting.append(self.generate(model, seed=seed, **members))
                if len(waiting) > ahead:
                    yield waiting.popleft().wait(progress=False)
            while waiting:
                yield waiting.popleft().wait(progress=False)
        finally:
            for job in waiting:
                job._cancel_quietly()

    def submit(
        self,
        path: str,
        body: Json,
        *,
        idempotency_key: str | None = None,
        labels: Mapping[str, str] | None = None,
        priority: int = 0,
        webhook: str | None = None,
    ) -> Job:
        """Send a request for a job of any kind; return the job at once.

        Parameters
        ----------
        path
            Such as ``/v1/generations``.
        body
            The spec.
        idempotency_key
            As in :meth:`generate`.
        labels
            Short texts by name, by which :meth:`jobs` finds the job.
        priority
            1 before 0 before -1 among your own jobs.
        webhook
            https address that gets a message when the job ends.
        """
        query = {"labels": _joined(labels), "priority": priority or None, "webhook": webhook}
        query = {name: value for name, value in query.items() if value is not None}
        path = f"{path}?{urlencode(query)}" if query else path
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        return Job(self._transport, self._transport.document("POST", path, body=body, headers=headers))

    def batch(
        self,
        requests: Sequence[tuple[str, Json]],
        *,
        labels: Mapping[str, str] | None = None,
        priority: int = 0,
        webhook: str | None = None,
        idempotency_key: str | None = None,
    ) -> Json:
        """Send many requests, which are accepted together or not at all; return the batch as the service shows it.

        ``jobs(batch=…)`` with its ``id`` yields the jobs.

        Parameters
        ----------
        requests
            Kind and spec of each, such as ``("generation", {"model": "celegans"})``.
        labels, priority, webhook, idempotency_key
            As in :meth:`submit`; the webhook is told when the last job has ended.
        """
        body: Json = {"jobs": [{"kind": kind, "spec": spec} for kind, spec in requests], "priority": priority}
        body |= {"labels": dict(labels or {}), "webhook": webhook}
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        return self._transport.document("POST", "/v1/batches", body=body, headers=headers)

    def estimate(self, model: str, **members: Any) -> Json:
        """Return what a request would cost, and whether it would be accepted; members as in :meth:`generate`."""
        return self._transport.document("POST", "/v1/estimates", body={"model": model, **members})

    def job(self, job_id: str) -> Job:
        """Return a job."""
        return Job(self._transport, self._transport.document("GET", f"/v1/jobs/{quote(job_id, safe='')}"))

    def job_page(self, **query: Any) -> Json:
        """Return one page of jobs as the service shows it; the query has members of ``GET /v1/jobs``."""
        query = {name: value for name, value in query.items() if value is not None}
        return self._transport.document("GET", f"/v1/jobs?{urlencode(query)}" if query else "/v1/jobs")

    def jobs(
        self,
        *,
        state: str | None = None,
        kind: str | None = None,
        model: str | None = None,
        labels: Mapping[str, str] | None = None,
        batch: str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
    ) -> Iterator[Job]:
        """Yield your jobs, newest first; all arguments narrow the list."""
        page = self.job_page(
            state=state, kind=kind, model=model, labels=_joined(labels), batch=batch,
            created_after=created_after and created_after.isoformat(),
            created_before=created_before and created_before.isoformat(),
        )  # fmt: skip
        while True:
            for document in page["jobs"]:
                yield Job(self._transport, document)
            if not page.get("next"):
                return
            page = self._transport.document("GET", page["next"])

    def upload(
        self, path: Path | str, *, name: str | None = None, on_bytes: Callable[[int], None] | None = None
    ) -> Json:
        """Send a file with its SHA-256, which the service checks; return the upload.

        After a broken connection a file of more than 16 MiB continues where the service stopped receiving, also if this
        program was started again within a day.

        Parameters
        ----------
        path
            The file.
        name
            Its name on the service; by default its own.
        on_bytes
            Called with the number of bytes sent.
        """
        path = Path(path)
        with path.open("rb") as file:
            digest = f"sha-256=:{base64.b64encode(hashlib.file_digest(file, 'sha256').digest()).decode()}:"
        address = f"/v1/uploads/{quote(name or path.name, safe='')}"

        def content(offset: int = 0) -> Iterator[bytes]:
            sent = offset
            with path.open("rb") as source:
                source.seek(offset)
                while part := source.read(CHUNK):
                    yield part
                    sent += len(part)
                    if on_bytes:
                        on_bytes(sent)

        if path.stat().st_size > RESUMED_BYTES:
            return self._upload_in_parts(address, content, size=path.stat().st_size, digest=digest)
        headers = {"Content-Digest": digest, "Content-Length": str(path.stat().st_size)}
        return self._transport.document("PUT", address, content=content, headers=headers)

    def _upload_in_parts(
        self, address: str, content: Callable[[int], Iterator[bytes]], *, size: int, digest: str
    ) -> Json:
        """Send a file from where the service stopped receiving it, until it is complete."""
        retry, before = self._transport.new_retry(), -1
        while True:
            try:
                offset = self._arrived(address, digest)
                if offset > before:
                    retry.reset()
                    before = offset
                headers = {
                    "Upload-Offset": str(offset), "Upload-Complete": "?1", "Repr-Digest": digest,
                    "Content-Length": str(size - offset), "Content-Type": "application/partial-upload",
                }  # fmt: skip
                answer = self._transport.attempt("PATCH", address, headers=headers, content=content(offset))
                return dict(answer.json())
            except (UnreachableError, ProblemError) as error:
                if isinstance(error, ConflictError) and error.code == "upload_offset":
                    retry.wait(error)  # the service has not noticed yet that the last connection broke
                else:
                    self._transport.wait_or_raise(retry, error)

    def _arrived(self, address: str, digest: str) -> int:
        """Return how many bytes of a file have arrived; parts of another file of that name are removed."""
        try:
            answer = self._transport.attempt("HEAD", address)
        except NotFoundError:
            return 0
        if answer.headers.get("Upload-Complete") != "?0":
            return 0
        if answer.headers.get("Repr-Digest") != digest:
            self._transport.attempt("DELETE", address)
            return 0
        return int(answer.headers["Upload-Offset"])


def _joined(labels: Mapping[str, str] | None) -> str | None:
    return ",".join(f"{name}={value}" for name, value in labels.items()) if labels else None
