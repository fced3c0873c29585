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
    """Read from ``CYTOSYNTH_*`` variables and ``.env``; every default suits one machine."""

    model_config = SettingsConfigDict(
        env_prefix="CYTOSYNTH_",
        env_file=".env",
        env_ignore_empty=True,  # compose files and .env templates set what they do not use to nothing
        extra="ignore",
        frozen=True,
        protected_namespaces=(),
    )

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    allow_open: bool = Field(
        default=False, description="Without keys, serve whoever reaches the port, not this machine only."
    )
    redis_url: str | None = Field(
        default=None,
        repr=False,  # it may hold a password
        description="redis://, rediss:// or redis+socket:// of the broker; unset: the embedded broker of data_dir.",
    )
    data_dir: Path = Field(default=Path("var"), description="Results, requests and the embedded broker's data.")
    model_dirs: Annotated[list[Path], NoDecode] = Field(
        default_factory=list, description="Folders of models besides the shipped ones, separated like PATH or as JSON."
    )
    max_points: int = Field(
        default=4 * 30 * 256**3, ge=1, description="Grid samples one job may take: count x frames x (x * y * z)."
    )
    max_bytes: int = Field(default=8 * 2**30, ge=1, description="Bytes of files one job may be expected to write.")
    max_body_bytes: int = Field(default=256 * 1024, ge=1024, description="Longest JSON body, in bytes.")
    max_queue: int = Field(default=10_000, ge=1, description="More queued jobs are refused.")
    reuse: bool = Field(
        default=True, description="A request that was carried out before is answered with its finished job; same bytes."
    )
    max_active: int = Field(default=1000, ge=1, description="Queued and running jobs one key may have.")
    max_rate: float = Field(default=50.0, gt=0, description="Requests a second that one key may send for long,")
    max_burst: int = Field(default=200, ge=1, description="and at once.")
    max_connections: int | None = Field(
        default=None,
        ge=1,
        description="Connections at a time; unset, and at most: what the limit on open files allows.",
    )
    header_seconds: float = Field(default=10.0, gt=0, description="A request's line and headers must arrive within.")
    min_body_rate: float = Field(default=1024.0, gt=0, description="Least bytes a second of a body, on average,")
    body_grace_seconds: float = Field(default=20.0, gt=0, description="after this long.")
    write_seconds: float = Field(
        default=30.0, gt=0, description="A client may read nothing of an answer for this long."
    )
    max_upload_bytes: int = Field(default=256 * 2**20, ge=1024, description="Longest upload, in bytes.")
    max_uploads_bytes: int = Field(default=8 * 2**30, ge=1024, description="Bytes of uploads one key may keep.")
    upload_days: float = Field(default=7.0, gt=0, description="An upload is kept this long.")
    disk_reserve_bytes: int = Field(default=2**30, ge=0, description="Nothing is accepted that would leave less free.")
    max_wait_seconds: float = Field(default=60.0, ge=0.0, le=60.0, description="Longest wait in one call.")
    retention_days: float = Field(default=7.0, gt=0, description="Files are kept this long after a job has succeeded.")
    record_days: float = Field(default=30.0, gt=0, description="A finished job stays listed this long.")
    log_level: str = Field(default="info", pattern="^(debug|info|warning|error)$", description="Least level logged.")
    log_json: bool = Field(default=False, description="Log JSON lines instead of text.")
    server: str | None = Field(default=None, description="Address of the service the command line talks to.")
    api_key: str | None = Field(default=None, repr=False, description="The key the command line shows to that service.")

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
        """Folders that hold models: the operator's own, those made of uploads, the shipped ones."""
        return [*self.model_dirs, self.data_dir / "models", SHIPPED_MODELS]


def child_environment(settings: AppSettings, *, workers: int = 1) -> dict[str, str]:
    """Return this process's environment with ``settings`` spelled out, for one of ``workers`` that must agree with it.

    Several workers on one machine share its processors, unless the operator has said how many threads each may use.
    """
    shared = {
        "CYTOSYNTH_DATA_DIR": str(settings.data_dir.resolve()),
        "CYTOSYNTH_MODEL_DIRS": json.dumps([str(path.resolve()) for path in settings.model_dirs]),
        "CYTOSYNTH_MAX_QUEUE": str(settings.max_queue),
        "CYTOSYNTH_REUSE": str(settings.reuse),
        "CYTOSYNTH_RETENTION_DAYS": repr(settings.retention_days),
        "CYTOSYNTH_RECORD_DAYS": repr(settings.record_days),
        "CYTOSYNTH_DISK_RESERVE_BYTES": str(settings.disk_reserve_bytes),
    }
    if settings.redis_url is not None:
        shared["CYTOSYNTH_REDIS_URL"] = settings.redis_url
    # The tree may be run without being installed; a child must find the same one wherever it is started.
    path = os.pathsep.join(filter(None, (str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH"))))
    threads = {"CYTOSYNTH_THREADS": str(max(1, (os.cpu_count() or 1) // workers))} if workers > 1 else {}
    return {**threads, **os.environ, **shared, "PYTHONPATH": path}
