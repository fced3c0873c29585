"""A service with keys, seen by its callers: each a client that sends its own key."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from claims import claim_job
from served import VERIFY

from app.settings import AppSettings
from model.card import SHIPPED_MODELS
from worker.api_keys import Keys
from worker.jobs import JobQueue
from worker.storage.artifacts import Artifacts

WEIGHTS = (SHIPPED_MODELS / "a549" / "weights.safetensors").read_bytes()
MODEL = {
    "upload": "mine.safetensors", "id": "mine", "title": "Mine", "micrometres": 20.0, "minutes": 60.0, "lipschitz": 2.0,
}  # fmt: skip


@dataclass
class Keyed:
    """The running service and its back office."""

    url: str
    keys: Keys
    jobs: JobQueue
    artifacts: Artifacts
    settings: AppSettings

    @classmethod
    def start(cls, settings: AppSettings, serve: Callable[[AppSettings], str], data_dir: Path, **changes: Any) -> Keyed:
        """Start a service of its own data on the broker that tests share."""
        settings = settings.model_copy(update={"data_dir": data_dir, "max_rate": 1000.0, "max_burst": 5000, **changes})
        keys = Keys(data_dir)
        artifacts = Artifacts(data_dir)
        jobs = JobQueue.connect(settings.redis_url or "", artifacts=artifacts, wake_up=lambda _: None)
        return cls(serve(settings), keys, jobs, artifacts, settings)

    def caller(self, secret: str | None = None) -> httpx.Client:
        """Return a client that shows a key; without one given, a new one of its own."""
        secret = self.keys.create(uuid4().hex)[0] if secret is None else secret
        headers = {"Authorization": f"Bearer {secret}"} if secret else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=30, verify=VERIFY)

    def owner(self, client: httpx.Client) -> str:
        key = self.keys.find(client.headers["Authorization"].removeprefix("Bearer "))
        assert key is not None
        return key.id

    def finished_job(self, client: httpx.Client) -> dict[str, Any]:
        """Have a job accepted and carried out, with one file."""
        answer = client.post("/v1/generations", json={"model": "round", "frames": 1, "grid": 16})
        assert answer.status_code == 202, answer.text
        job: dict[str, Any] = answer.json()
        lease = claim_job(self.jobs, job["id"], worker="test")
        assert lease is not None
        staged, content = self.artifacts.staging(job["id"], lease.token), b"solid"
        (staged / "x.stl").write_bytes(content)
        entry = {
            "name": "x.stl", "bytes": 5, "sha256": hashlib.sha256(content).hexdigest(), "media_type": "model/stl",
        }  # fmt: skip
        (staged / "manifest.json").write_text(json.dumps({"format": "cytosynth-manifest/1", "files": [entry]}))
        self.artifacts.publish(job["id"], staged)
        self.jobs.leases.finish(lease)
        return job

    def upload(self, client: httpx.Client, name: str = "mine.safetensors", content: bytes = WEIGHTS) -> httpx.Response:
        return client.put(f"/v1/uploads/{name}", content=content)

    def model(self, client: httpx.Client) -> str:
        """Have a model made of the shipped weights; return its id."""
        self.upload(client)
        answer = client.post("/v1/models", json=MODEL)
        assert answer.status_code in (200, 201), answer.text
        model_id: str = answer.json()["id"]
        return model_id

    def close(self) -> None:
        self.jobs.close()


def all_at_once(count: int, call: Callable[[int], Any]) -> list[Any]:
    """Call a function from many threads that start together; return what each got."""
    gate, answers = threading.Barrier(count), [None] * count

    def run(number: int) -> None:
        with suppress(threading.BrokenBarrierError):
            gate.wait(20)
        answers[number] = call(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return answers
