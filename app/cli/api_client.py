"""The HTTP client of the command line. It uses the same API as any other client."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import httpx

CHUNK = 2**18
FINAL = frozenset({"succeeded", "failed", "canceled", "expired"})
START_S = 90.0  # a service started for one command must answer within this time
Json = dict[str, Any]


class UnreachableError(Exception):
    """No service answers, or what answers is not a cytosynth service."""


class RefusedError(Exception):
    """The service refused the request; ``problem`` is the problem document."""

    def __init__(self, problem: Json) -> None:
        super().__init__(problem.get("detail") or problem.get("title") or "refused")
        self.problem = problem


class DamagedFileError(Exception):
    """A downloaded file differs from the manifest."""


class ServiceClient:
    """An HTTP client of one service."""

    def __init__(self, address: str, *, key: str | None = None) -> None:
        self.address = address.rstrip("/")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(base_url=self.address, headers=headers, timeout=httpx.Timeout(75.0, connect=5.0))

    def __enter__(self) -> ServiceClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def is_cytosynth(self) -> bool:
        """Return whether a cytosynth service answers."""
        try:
            return self.get("/v1/version").get("name") == "cytosynth"
        except (UnreachableError, RefusedError):
            return False

    def get(self, path: str) -> Json:
        """Return a JSON document."""
        return self._json("GET", path)

    def post(self, path: str, body: Json | None = None) -> Json:
        """Send a JSON document and return the answer."""
        return self._json("POST", path, json=body)

    def put(self, path: str) -> Json:
        """Send PUT without a body and return the answer."""
        return self._json("PUT", path)

    def delete(self, path: str) -> Json:
        """Send DELETE and return the answer."""
        return self._json("DELETE", path)

    def upload(self, path: Path, name: str, *, on_bytes: Callable[[int], None]) -> Json:
        """Send a file with its SHA-256, which the service checks; return the upload."""
        sha256 = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                sha256.update(chunk)
        digest = base64.b64encode(sha256.digest()).decode()

        def chunks() -> Iterator[bytes]:
            with path.open("rb") as source:
                while part := source.read(CHUNK):
                    yield part
                    on_bytes(len(part))

        headers = {"Content-Digest": f"sha-256=:{digest}:", "Content-Length": str(path.stat().st_size)}
        return self._json("PUT", f"/v1/uploads/{name}", content=chunks(), headers=headers)

    def follow(self, job: Json, *, on_event: Callable[[str, Json], None]) -> Json:
        """Call ``on_event`` for each event of a job until the job ends; return the job. A broken stream is resumed."""
        last_id, failures = "", 0
        while job["state"] not in FINAL:
            try:
                for event_id, event, data in self._events(job["links"]["events"], last_id):
                    last_id, failures = event_id or last_id, 0
                    on_event(event, data)
            except httpx.TransportError as error:
                failures += 1
                if failures > 5:
                    raise UnreachableError(f"{self.address} no longer answers: {error}") from error
                time.sleep(min(2.0**failures / 4, 4.0))
            job = self.get(job["links"]["self"])
        return job

    def download(self, job: Json, folder: Path, *, on_bytes: Callable[[int], None]) -> list[Path]:
        """Download all files of a job and its manifest, and check the SHA-256 of each file.

        Raises
        ------
        DamagedFileError
            If a file differs from the manifest, or its name leads outside ``folder``.
        """
        files = self.get(job["links"]["files"])["files"]
        written = [self._fetch(file, folder, on_bytes) for file in files]
        manifest = folder / "manifest.json"
        manifest.parent.mkdir(parents=True, exist_ok=True)
        manifest.write_bytes(self._ask("GET", job["links"]["manifest"]).content)
        return [*written, manifest]

    def _fetch(self, file: Json, folder: Path, on_bytes: Callable[[int], None]) -> Path:
        name = PurePosixPath(file["name"])
        if name.is_absolute() or ".." in name.parts:
            raise DamagedFileError(f"the service names a file outside the folder: {file['name']!r}")
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        draft, sha256 = path.with_name(path.name + ".part"), hashlib.sha256()
        try:
            with self._transport(), self._http.stream("GET", file["href"]) as answer, draft.open("wb") as target:
                answer.raise_for_status()
                for chunk in answer.iter_bytes():
                    sha256.update(chunk)
                    target.write(chunk)
                    on_bytes(len(chunk))
            if sha256.hexdigest() != file["sha256"]:
                raise DamagedFileError(f"{file['name']} was damaged on the way: its SHA-256 differs from the manifest")
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
        return path

    def _events(self, path: str, last_id: str) -> Iterator[tuple[str, str, Json]]:
        """Yield (id, event, data) of a stream of server-sent events."""
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last_id} if last_id else {})
        with self._http.stream("GET", path, headers=headers) as answer:
            if answer.status_code != 200:
                return
            fields: dict[str, str] = {}
            for line in answer.iter_lines():
                if line and not line.startswith(":"):
                    name, _, value = line.partition(":")
                    fields[name] = value.removeprefix(" ")
                elif not line and "data" in fields:
                    yield fields.get("id", ""), fields.get("event", "message"), json.loads(fields["data"])
                    fields = {}

    def _json(self, method: str, path: str, **options: Any) -> Json:
        try:
            document: Json = self._ask(method, path, **options).json()
        except ValueError as error:
            raise UnreachableError(f"{self.address} does not answer in JSON; is it a cytosynth service?") from error
        return document

    def _ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        with self._transport():
            answer = self._http.request(method, path, **options)
        if answer.is_error:
            try:
                problem = answer.json()
            except ValueError:
                problem = {"detail": f"{self.address} answers {answer.status_code}"}
            raise RefusedError({"status": answer.status_code, **problem})
        return answer

    @contextmanager
    def _transport(self) -> Iterator[None]:
        try:
            yield
        except httpx.HTTPError as error:
            raise UnreachableError(f"{self.address} does not answer: {error}") from error


@contextmanager
def private_service(environment: dict[str, str]) -> Iterator[str]:
    """Start a service with its own data folder and yield its address; it ends with this process, even after a kill."""
    with tempfile.TemporaryDirectory(prefix="cytosynth-", ignore_cleanup_errors=True) as scratch:
        ready, output = Path(scratch) / "ready.json", Path(scratch) / "serve.log"
        command = [sys.executable, "-m", "app.cli", "serve", "--port", "0", "--host", "127.0.0.1"]
        command += ["--data-dir", str(Path(scratch) / "data"), "--ready-file", str(ready), "--until-stdin-ends"]
        with output.open("wb") as sink:
            service = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=sink, stderr=sink, start_new_session=True, env=environment
            )
        try:
            yield _await_address(service, ready, output)
        finally:
            if service.stdin:
                service.stdin.close()
            try:
                service.wait(30)
            except subprocess.TimeoutExpired:
                service.kill()
                service.wait()


def _await_address(service: subprocess.Popen[bytes], ready: Path, output: Path) -> str:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and service.poll() is None:
        with contextlib.suppress(FileNotFoundError):
            return str(json.loads(ready.read_text(encoding="utf-8"))["address"])
        time.sleep(0.02)
    last = "\n".join(output.read_text(encoding="utf-8", errors="replace").splitlines()[-5:])
    raise UnreachableError(f"the service does not start:\n{last}")
