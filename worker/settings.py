"""Settings of a worker: the only file of ``worker`` that reads the environment."""

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
    store: str | None = Field(
        default=None,
        pattern=r"^s3://[^/]+(/.*)?$",
        description="Object store for results, records and uploads, shared by all hosts: s3://bucket/prefix. Unset: "
        "they are in data_dir.",
    )
    model_dirs: Annotated[list[Path], NoDecode] = Field(
        default_factory=list, description="Folders of models besides the shipped ones, separated like PATH or as JSON."
    )
    lease_seconds: float = Field(
        default=60.0, gt=0, description="Seconds after which a worker that does not renew its lease loses its job."
    )
    heartbeat_seconds: float = Field(default=15.0, gt=0, description="Seconds between two renewals of a lease.")
    sweep_seconds: float = Field(
        default=15.0, gt=0, description="Seconds between two searches for lost leases and lost wake-ups."
    )
    hint_after_seconds: float = Field(
        default=30.0, gt=0, description="Seconds in the queue after which a job's wake-up is sent again."
    )
    janitor_seconds: float = Field(
        default=600.0, gt=0, description="Seconds between two searches for files that belong to no job."
    )
    scrub_bytes_per_second: int = Field(
        default=4 * 2**20,
        ge=0,
        description="Bytes per second at which one worker reads all stored files daily, to find damage. 0: never.",
    )
    retention_days: float = Field(
        default=7.0, gt=0, description="Days for which files are kept after a job has succeeded."
    )
    record_days: float = Field(default=30.0, gt=0, description="Days for which a finished job stays listed.")
    max_queue: int = Field(default=10_000, ge=1, description="Most queued jobs; more are refused.")
    reuse: bool = Field(
        default=True,
        description="Give a job the files of an identical earlier job of any caller; the bytes are the same.",
    )
    job_seconds: float = Field(
        default=21_600.0, gt=0, description="Longest time of one job, in seconds; one that takes longer fails."
    )
    training_seconds: float = Field(
        default=172_800.0,
        gt=0,
        description="Longest time of one attempt at a training, in seconds, instead of job_seconds.",
    )
    training_save_seconds: float = Field(
        default=30.0,
        gt=0,
        description="Seconds between two savings of a training's state: what is lost if its worker is killed.",
    )
    deaf_seconds: float = Field(
        default=120.0, gt=0, description="Seconds for which a worker may take no job although some wait; then it ends."
    )
    idle_exit_seconds: float = Field(
        default=0.0,
        ge=0,
        description="Seconds for which a worker may have nothing to do while no job is queued; then it ends. 0: never.",
    )
    disk_reserve_bytes: int = Field(
        default=2**30, ge=0, description="Bytes of disk space that jobs must leave free; a job that would not waits."
    )
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
    device: Literal["cpu", "cuda"] = Field(
        default="cpu",
        description="Where cells are computed: cpu, or cuda, an NVIDIA GPU (its tests have not run on one).",
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
