"""How a worker is configured: the only file of the back office that reads the environment."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from worker.jobs import JobRules


class WorkerSettings(BaseSettings):
    """Read from ``CYTOSYNTH_*`` variables; every member has a default that suits one machine."""

    model_config = SettingsConfigDict(
        env_prefix="CYTOSYNTH_",
        env_file=".env",
        env_ignore_empty=True,  # compose files and .env templates set what they do not use to nothing
        extra="ignore",
        frozen=True,
        protected_namespaces=(),
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
    lease_seconds: float = Field(default=60.0, gt=0, description="A silent worker loses its job after this long.")
    heartbeat_seconds: float = Field(default=15.0, gt=0, description="A worker renews its lease this often.")
    sweep_seconds: float = Field(
        default=15.0, gt=0, description="Lost leases and lost wake-ups are looked for this often."
    )
    hint_after_seconds: float = Field(
        default=30.0, gt=0, description="For a job queued this long the wake-up is sent again."
    )
    janitor_seconds: float = Field(default=600.0, gt=0, description="Orphaned files are looked for this often.")
    scrub_bytes_per_second: int = Field(
        default=4 * 2**20,
        ge=0,
        description="Stored files are read this fast, once a day, to find damage; one worker does. 0: never.",
    )
    retention_days: float = Field(default=7.0, gt=0, description="Files are kept this long after a job has succeeded.")
    record_days: float = Field(default=30.0, gt=0, description="A finished job stays listed this long.")
    max_queue: int = Field(default=10_000, ge=1, description="More queued jobs are refused.")
    reuse: bool = Field(
        default=True, description="A job whose files exist already, whoever asked for them, gets those; same bytes."
    )
    job_seconds: float = Field(default=21_600.0, gt=0, description="A job that takes longer is ended as failed.")
    deaf_seconds: float = Field(
        default=120.0, gt=0, description="A worker that takes no work for this long although there is some is ended."
    )
    disk_reserve_bytes: int = Field(
        default=2**30, ge=0, description="No job is begun that would leave less free; it waits."
    )
    device: Literal["cpu", "cuda"] = Field(
        default="cpu", description="Where cells are computed; cuda: an NVIDIA GPU, a path that no GPU has run yet."
    )
    threads: int | None = Field(
        default=None, ge=1, description="Threads of the computing process; unset: torch decides."
    )
    preload: bool = Field(
        default=True, description="Load the numerical libraries before the first job is claimed, not during it."
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
    def rules(self) -> JobRules:
        """What the job records must know of these settings."""
        return JobRules.of(self)
