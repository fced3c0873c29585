"""Settings of the web service and the command line: the only file of ``app`` that reads the environment."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from model.card import SHIPPED_MODELS


class AppSettings(BaseSettings):
    """Settings from ``CYTOSYNTH_*`` environment variables and ``.env``. The defaults suit a single machine."""

    model_config = SettingsConfigDict(
        env_prefix="CYTOSYNTH_",
        env_file=".env",
        env_ignore_empty=True,  # compose files and .env templates set unused variables to an empty string
        extra="ignore",
        frozen=True,
        protected_namespaces=(),
    )

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    allow_open: bool = Field(
        default=False, description="Without keys, serve all clients, not only those on this machine."
    )
    redis_url: str | None = Field(
        default=None,
        repr=False,  # the address may hold a password
        description="Address of the broker: redis://, rediss:// or redis+socket://. Unset: the embedded broker in "
        "data_dir.",
    )
    data_dir: Path = Field(
        default=Path("var"), description="Folder for results, requests and the data of the embedded broker."
    )
    store: str | None = Field(
        default=None,
        pattern=r"^s3://[^/]+(/.*)?$",
        description="Object store for results, records and uploads, shared by all hosts: s3://bucket/prefix. Unset: "
        "they are in data_dir.",
    )
    model_dirs: Annotated[list[Path], NoDecode] = Field(
        default_factory=list, description="Folders with further models, separated like PATH or as a JSON list."
    )
    max_points: int = Field(
        default=4 * 30 * 256**3,
        ge=1,
        description="Most grid samples of the label volumes of one job: count x frames x (x * y * z).",
    )
    max_seconds: float = Field(
        default=300_000.0,
        gt=0,
        description="Longest computing time of one job, as estimated, in seconds of one worker.",
    )
    max_bytes: int = Field(default=8 * 2**30, ge=1, description="Most bytes of files of one job, as estimated.")
    max_training_steps: int = Field(default=200_000, ge=10, description="Most steps of one training.")
    max_training_sequences: int = Field(
        default=1000, ge=1, description="Most sequences of one training; those beyond are left out."
    )
    max_training_minutes: float = Field(
        default=1440.0, gt=0, description="Most minutes of training of one request; then it ends with what it has."
    )
    max_body_bytes: int = Field(default=256 * 1024, ge=1024, description="Longest JSON body, in bytes.")
    max_queue: int = Field(default=10_000, ge=1, description="Most queued jobs; more are refused.")
    reuse: bool = Field(
        default=True,
        description="Return the finished job for a request that is identical to an earlier one; the "
        "bytes are the same.",
    )
    max_active: int = Field(default=1000, ge=1, description="Most queued and running jobs of one key.")
    max_rate: float = Field(default=50.0, gt=0, description="Requests per second that one key may send, on average.")
    max_burst: int = Field(default=200, ge=1, description="Requests that one key may send in a burst.")
    max_connections: int | None = Field(
        default=None,
        ge=1,
        description="Most connections at a time. Unset: as many as the limit on open files allows, which is also the "
        "upper bound.",
    )
    header_seconds: float = Field(
        default=10.0, gt=0, description="Seconds within which request line and headers must arrive."
    )
    min_body_rate: float = Field(
        default=1024.0,
        gt=0,
        description="Lowest rate of a body, in bytes per second, on average after body_grace_seconds.",
    )
    body_grace_seconds: float = Field(
        default=20.0, gt=0, description="Seconds during which a body may arrive at any rate."
    )
    write_seconds: float = Field(
        default=30.0, gt=0, description="Seconds for which a client may read nothing of an answer."
    )
    max_upload_bytes: int = Field(default=2**30, ge=1024, description="Longest upload, in bytes.")
    max_uploads_bytes: int = Field(default=8 * 2**30, ge=1024, description="Most bytes of uploads of one key.")
    upload_days: float = Field(default=7.0, gt=0, description="Days for which an upload is kept.")
    disk_reserve_bytes: int = Field(
        default=2**30, ge=0, description="Bytes of disk space that requests must leave free."
    )
    max_wait_seconds: float = Field(
        default=60.0, ge=0.0, le=60.0, description="Longest wait in one request, in seconds."
    )
    retention_days: float = Field(
        default=7.0, gt=0, description="Days for which files are kept after a job has succeeded."
    )
    record_days: float = Field(default=30.0, gt=0, description="Days for which a finished job stays listed.")
    webhook_secret: str | None = Field(
        default=None,
        min_length=32,
        repr=False,
        description="Secret of at least 32 characters from which those that sign webhooks are derived. Unset: no "
        "webhooks.",
    )
    webhook_http: bool = Field(default=False, description="Allow webhooks without TLS.")
    webhook_private: bool = Field(
        default=False, description="Allow webhooks to addresses of private networks and of this machine."
    )
    store_redirect_seconds: float = Field(
        default=0.0,
        ge=0,
        le=604_800,
        description="With an object store: seconds for which an address in it is valid to which downloads of files are "
        "redirected. 0: files are sent through the service.",
    )
    link_key: str | None = Field(
        default=None,
        min_length=32,
        repr=False,
        description="Secret of at least 32 characters that signs links to files. Unset: no links are made or served.",
    )
    log_level: str = Field(
        default="info", pattern="^(debug|info|warning|error)$", description="Lowest level that is logged."
    )
    log_json: bool = Field(default=False, description="Log JSON lines instead of text.")
    server: str | None = Field(default=None, description="Address of the service that the command line uses.")
    api_key: str | None = Field(
        default=None, repr=False, description="API key that the command line sends to that service."
    )

    @field_validator("model_dirs", mode="before")
    @classmethod
    def _split_like_path(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        if value.lstrip().startswith("["):
            return json.loads(value)
        return [part for part in value.split(os.pathsep) if part]

    @property
    def model_roots(self) -> list[Path]:
        """Folders of models, in the order of precedence: the operator's, those made from uploads, the shipped ones."""
        return [*self.model_dirs, self.data_dir / "models", SHIPPED_MODELS]


def child_environment(settings: AppSettings, *, workers: int = 1) -> dict[str, str]:
    """Return the environment for a worker process that must have the same ``settings`` as this process.

    If ``workers`` is above 1, each worker gets an equal share of the processors, unless CYTOSYNTH_THREADS is set.
    """
    shared = {
        "CYTOSYNTH_DATA_DIR": str(settings.data_dir.resolve()),
        "CYTOSYNTH_MODEL_DIRS": json.dumps([str(path.resolve()) for path in settings.model_dirs]),
        "CYTOSYNTH_MAX_QUEUE": str(settings.max_queue),
        "CYTOSYNTH_REUSE": str(settings.reuse),
        "CYTOSYNTH_RETENTION_DAYS": repr(settings.retention_days),
        "CYTOSYNTH_RECORD_DAYS": repr(settings.record_days),
        "CYTOSYNTH_DISK_RESERVE_BYTES": str(settings.disk_reserve_bytes),
        "CYTOSYNTH_WEBHOOK_SECRET": settings.webhook_secret or "",
        "CYTOSYNTH_WEBHOOK_HTTP": str(settings.webhook_http),
        "CYTOSYNTH_WEBHOOK_PRIVATE": str(settings.webhook_private),
    }
    if settings.store is not None:
        shared["CYTOSYNTH_STORE"] = settings.store
    if settings.redis_url is not None:
        shared["CYTOSYNTH_REDIS_URL"] = settings.redis_url
    # The code may run from a checkout; the child must import the same code, in any working folder.
    path = os.pathsep.join(filter(None, (str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH"))))
    threads = {"CYTOSYNTH_THREADS": str(max(1, (os.cpu_count() or 1) // workers))} if workers > 1 else {}
    return {**threads, **os.environ, **shared, "PYTHONPATH": path}
