"""What an operator sees: figures that count, lines that say who asked for what."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from keyed import Keyed

from app.middleware.metrics import stage_seconds
from app.middleware.request_logs import configure_logs


@pytest.fixture
def lines(house: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The log of the service, as JSON lines, from here on."""
    before, written = structlog.get_config(), io.StringIO()
    monkeypatch.setattr("sys.stderr", written)
    configure_logs(house.settings.model_copy(update={"log_level": "info", "log_json": True}))
    yield lambda: [json.loads(line) for line in written.getvalue().splitlines()]
    structlog.configure(**before)


def figures(text: str) -> dict[str, float]:
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if line[0] != "#"}


def test_log_lines_tie_job_and_request_together(house: Any, lines: Any) -> None:
    request_id = "ab" * 16
    answer = house.post({"model": "round", "frames": 1, "grid": 16}, **{"X-Request-ID": request_id})
    assert answer.status_code == 202, answer.text
    job_id = answer.json()["id"]
    house.client.post(f"/v1/jobs/{job_id}/cancel")
    written = lines()
    accepted = next(line for line in written if line["event"] == "job accepted")
    assert (accepted["job_id"], accepted["request_id"], accepted["kind"]) == (job_id, request_id, "generation")
    assert [line["job_id"] for line in written if line["event"] == "job canceled"] == [job_id]
    assert all({"event", "level", "timestamp"} <= set(line) for line in written)


def test_refusals_are_logged_with_their_code_and_without_what_was_sent(house: Any, lines: Any) -> None:
    house.post({"model": "s3cr3t"})
    house.get("/v1/jobs/s3cr3t")
    refused = [line for line in lines() if line["event"] == "refused"]
    assert [(line["code"], line["status"]) for line in refused] == [("unknown_model", 422), ("job_not_found", 404)]
    assert "s3cr3t" not in json.dumps(refused)


def test_log_lines_name_the_key_by_its_id_only(house: Any, lines: Any, serve: Any, tmp_path: Any) -> None:
    keyed = Keyed.start(house.settings, serve, tmp_path)
    with keyed.caller() as client:
        client.get("/v1/jobs/nothing")
        written = lines()
        assert [line["key"] for line in written if line["event"] == "refused"] == [keyed.owner(client)]
        assert client.headers["Authorization"].removeprefix("Bearer ") not in json.dumps(written)
    keyed.close()


def test_refusals_are_counted_by_a_code_out_of_a_closed_set(house: Any) -> None:
    def count() -> float:
        return figures(house.get("/metrics").text).get('cytosynth_refusals_total{code="unknown_model"}', 0.0)

    before = count()
    house.post({"model": "nobody"})
    house.post({"model": "nobody-else"})
    assert count() == before + 2
    assert not re.search(r'code="(?![a-z_]+")', house.get("/metrics").text)


def test_figures_say_how_long_jobs_waited_and_ran(house: Any) -> None:
    house.carry_out(house.submit()["id"])
    found = figures(house.get("/metrics").text)
    for stage in ("queued", "running"):
        spread = [found[f'cytosynth_job_seconds{{quantile="{q}",stage="{stage}"}}'] for q in ("0.5", "0.9", "0.99")]
        assert spread == sorted(spread)
        assert spread[0] >= 0.0
    assert found["cytosynth_jobs_repeated"] >= 0
    durations = stage_seconds(house.jobs.list(limit=200).jobs)
    assert durations["running"] == sorted(durations["running"])


def test_figures_need_a_key_where_there_are_keys(house: Any, serve: Any, tmp_path: Any) -> None:
    keyed = Keyed.start(house.settings, serve, tmp_path)
    with keyed.caller() as client, keyed.caller("") as nobody:
        assert nobody.get("/metrics").status_code == 401
        assert "cytosynth_queue_depth" in client.get("/metrics").text
        assert nobody.get("/readyz").status_code in (200, 503)
    keyed.close()


@pytest.mark.parametrize("log_json", [False, True])
def test_tracebacks_do_not_show_what_was_sent(house: Any, monkeypatch: pytest.MonkeyPatch, log_json: bool) -> None:
    before, written = structlog.get_config(), io.StringIO()
    monkeypatch.setattr("sys.stderr", written)
    configure_logs(house.settings.model_copy(update={"log_json": log_json}))
    try:
        fail_with("".join(["s3", "cr3t"]))
    except ZeroDivisionError:
        structlog.get_logger("cytosynth.test").exception("a fault")
    structlog.configure(**before)
    assert "ZeroDivisionError" in written.getvalue()
    assert "fail_with" in written.getvalue()
    assert "s3cr3t" not in written.getvalue()


def fail_with(_authorization: str) -> None:
    raise ZeroDivisionError
