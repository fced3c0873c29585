"""A real service for every test here: a broker, the web application behind a real server, and no worker.

Tests play the worker themselves, through the worker's own interface, so that they decide when a job moves.
"""

from __future__ import annotations

import hashlib
import json
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
import uvicorn
from claims import claim_job
from workbench import eventually

from app.main import create_app
from app.server import BoundedServer, server_config
from app.settings import AppSettings
from model.card import ModelCard, TrainingFacts
from worker.broker.embedded import Broker, start_broker
from worker.jobs import JobProgress, JobQueue, Lease
from worker.storage.artifacts import Artifacts

MAX_POINTS = 50_000_000
LINK_KEY, WEBHOOK_SECRET = "k" * 32, "w" * 32


def make_card(model_id: str, **changes: Any) -> ModelCard:
    facts = TrainingFacts(
        data="made for a test", sequences=5, frames=4, held_out_frames="none", steps=1, points=1, minutes=0.1,
        device="cpu", seed=0, recipe="none",
    )  # fmt: skip
    members = {
        "id": model_id, "title": model_id.title(), "description": "For tests.", "cell_type": "round",
        "licence": "BSD-3-Clause", "created": "2026-01-01", "sha256": "ab" * 32, "parameters": 1000, "latent_size": 4,
        "latent_codes": 5, "micrometres": 10.0, "minutes": 20.0, "lipschitz": 1.5, "topology": "single",
        "grid_max": 256, "training": facts, "quality": {"dice": 0.98},
    }  # fmt: skip
    return ModelCard(**(members | changes))


@dataclass
class House:
    """The running service, from outside (``url``, ``client``) and from the back office (``jobs``, ``artifacts``)."""

    url: str
    client: httpx.Client
    jobs: JobQueue
    artifacts: Artifacts
    models: Path
    settings: AppSettings

    def post(self, body: Any = None, path: str = "/v1/generations", **headers: str) -> httpx.Response:
        """Send JSON; text and bytes go out as they are."""
        content = body if isinstance(body, (str, bytes)) else json.dumps(body)
        return self.client.post(path, content=content, headers={"Content-Type": "application/json", **headers})

    def submit(self, **changes: Any) -> dict[str, Any]:
        """Send a small request, different from all others, and return the job."""
        answer = self.post({"model": "round", "frames": 2, "grid": 16, **changes})
        if answer.status_code != 202:
            pytest.fail(answer.text)
        document: dict[str, Any] = answer.json()
        return document

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self.client.get(path, headers=headers)

    def install(self, model_id: str) -> Path:
        """Put one more model into the folder the service looks into."""
        folder = self.models / model_id
        folder.mkdir()
        return make_card(model_id).write(folder)

    def claim(self, job_id: str) -> Lease:
        lease = claim_job(self.jobs, job_id, worker="test")
        assert lease is not None
        return lease

    def carry_out(self, job_id: str, *, files: dict[str, bytes] | None = None) -> dict[str, bytes]:
        """Do what workers do, with files that need no model."""
        lease = self.claim(job_id)
        while isinstance(lease.shard, int):  # of a divided job; the last lease is for sealing it
            self.jobs.leases.finish_shard(lease)
            lease = self.claim(job_id)
        files = files or {
            "cell_0000/frame_0000.stl": b"solid one" * 1000,
            "cell_0000/frame_0001.stl": b"solid two" * 1000,
            "cell_0000/labels.tif": b"II*\0" + bytes(5000),
        }
        staged = self.artifacts.staging(job_id, lease.token)
        listed = []
        for count, (name, content) in enumerate(sorted(files.items())):
            (staged / name).parent.mkdir(parents=True, exist_ok=True)
            (staged / name).write_bytes(content)
            sha256 = hashlib.sha256(content).hexdigest()
            listed.append({"name": name, "bytes": len(content), "sha256": sha256, "media_type": "x/y"})
            self.jobs.leases.renew(
                lease,
                progress=JobProgress(
                    fraction=(count + 1) / len(files), stage="frames", frame=count + 1, frames=len(files), eta_s=0.5
                ),
            )
        (staged / "manifest.json").write_text(json.dumps({"format": "cytosynth-manifest/1", "files": listed}))
        self.artifacts.publish(job_id, staged)
        self.jobs.leases.finish(lease)
        return files


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with start_broker(tmp_path_factory.mktemp("service") / "broker") as started:
        yield started


@pytest.fixture(scope="session")
def settings(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> AppSettings:
    models = tmp_path_factory.mktemp("models")
    for card in (make_card("round"), make_card("long", grid_max=32, latent_size=2, latent_codes=1)):
        (models / card.id).mkdir()
        card.write(models / card.id)
    return AppSettings(
        _env_file=None,  # type: ignore[call-arg]
        redis_url=broker.url, data_dir=broker.folder.parent, model_dirs=[models], max_points=MAX_POINTS,
        max_body_bytes=64 * 1024, log_level="error", link_key=LINK_KEY,
        webhook_secret=WEBHOOK_SECRET,
    )  # fmt: skip


@pytest.fixture(scope="session")
def serve() -> Iterator[Callable[[AppSettings], str]]:
    """Run the application on a port of its own; returns its address."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.dev.set_exc_info,
            # as the service has it; the default, with local variables, takes seconds
            structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
    )
    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(settings: AppSettings) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        server = BoundedServer(server_config(create_app(settings), grace_s=2))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        running.append((server, thread))
        eventually(lambda: server.started)
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join(10)


@pytest.fixture(scope="session")
def house(settings: AppSettings, serve: Callable[[AppSettings], str]) -> Iterator[House]:
    url = serve(settings)
    artifacts = Artifacts(settings.data_dir)
    jobs = JobQueue.connect(settings.redis_url or "", artifacts=artifacts, wake_up=lambda _: None)
    with httpx.Client(base_url=url, timeout=30) as client:
        yield House(url, client, jobs, artifacts, settings.model_dirs[0], settings)
    jobs.close()
