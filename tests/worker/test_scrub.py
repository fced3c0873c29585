"""A worker finds damage by itself."""

from __future__ import annotations

import hashlib
import json

from damage import flip
from workbench import Service, eventually

JOB = "1" * 32


def test_a_worker_reads_what_is_stored_and_reports_damage(service: Service) -> None:
    staged = service.artifacts.staging(JOB, 1)
    (staged / "a").write_bytes(b"content")
    entry = {"name": "a", "bytes": 7, "sha256": hashlib.sha256(b"content").hexdigest()}
    (staged / "manifest.json").write_text(json.dumps({"files": [entry]}))
    service.artifacts.publish(JOB, staged)
    flip(service.artifacts.path(JOB, "a"))
    service.start_worker(CYTOSYNTH_JANITOR_SECONDS="600", CYTOSYNTH_LEASE_SECONDS="60")
    eventually(lambda: service.jobs.admin.failure_counts().get("contents_damaged", 0) == 1)
    assert not service.artifacts.reusable(JOB)
    assert service.artifacts.path(JOB, "a").exists()  # nothing is removed
    assert f"damaged: results/{JOB}/a" in (service.data_dir / "worker.log").read_text()
