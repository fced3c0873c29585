"""Settings that web and worker read alike; that both agree with .env.example is in test_house.py."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from app.settings import AppSettings, child_environment
from worker.jobs import JobRules
from worker.settings import WorkerSettings

BOTH = [AppSettings, WorkerSettings]


@pytest.mark.parametrize("settings", BOTH)
def test_an_empty_variable_means_unset(
    settings: type[AppSettings | WorkerSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    defaults = settings()
    for name in settings.model_fields:
        monkeypatch.setenv(f"CYTOSYNTH_{name.upper()}", "")
    assert settings() == defaults


@pytest.mark.parametrize("settings", BOTH)
def test_the_environment_wins_over_the_env_file(
    settings: type[AppSettings | WorkerSettings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("CYTOSYNTH_MAX_QUEUE=5\nCYTOSYNTH_RECORD_DAYS=2\nCYTOSYNTH_REDIS_URL=\nOTHER=1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CYTOSYNTH_MAX_QUEUE", "6")
    read = settings()
    assert (read.max_queue, read.record_days, read.redis_url) == (6, 2.0, None)


@pytest.mark.parametrize("settings", BOTH)
def test_folders_of_models_are_separated_like_path(
    settings: type[AppSettings | WorkerSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CYTOSYNTH_MODEL_DIRS", os.pathsep.join(("one", "two words")))
    assert settings().model_dirs == [Path("one"), Path("two words")]
    monkeypatch.setenv("CYTOSYNTH_MODEL_DIRS", '["one", "two"]')
    assert settings().model_dirs == [Path("one"), Path("two")]


def test_a_worker_started_by_the_service_agrees_with_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ours = AppSettings(
        data_dir=tmp_path, model_dirs=[tmp_path], max_queue=3, retention_days=0.1, record_days=0.3, reuse=False
    )
    for name, value in child_environment(ours).items():
        monkeypatch.setenv(name, value)
    theirs = WorkerSettings()
    assert theirs.model_dump(include=set(AppSettings.model_fields)) == ours.model_dump(
        include=set(WorkerSettings.model_fields)
    )


def test_web_and_worker_make_the_same_rules_of_the_same_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"REUSE": "false", "RETENTION_DAYS": "2", "RECORD_DAYS": "5", "MAX_QUEUE": "7"}.items():
        monkeypatch.setenv(f"CYTOSYNTH_{name}", value)
    web, worker = JobRules.of(AppSettings()), WorkerSettings().rules
    assert (web.reuse, web.retention_s, web.record_s, web.max_queue) == (False, 2 * 86400.0, 5 * 86400.0, 7)
    leases = {"lease_s": 60.0, "wake_up_after_s": 30.0, "away_s": 24.0}
    assert replace(web, **leases) == replace(worker, **leases)
    monkeypatch.setenv("CYTOSYNTH_LEASE_SECONDS", "10")
    assert (WorkerSettings().rules.lease_s, WorkerSettings().rules.away_s) == (10.0, 4.0)


def test_tests_read_no_developers_settings() -> None:
    assert not Path(".env").exists()
    assert not [name for name in os.environ if name.startswith("CYTOSYNTH_")]
