"""Health tells the truth, at once, whatever else is wrong."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from served import environment
from workbench import eventually

from worker.broker.embedded import find_server, start_broker


def test_alive_answers_without_looking_anywhere(house: Any) -> None:
    assert house.get("/livez").json() == {"status": "alive"}
    assert house.client.head("/livez").status_code == 200


def test_not_ready_without_a_worker_and_ready_with_one(house: Any) -> None:
    answer = house.get("/readyz")
    assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
    assert answer.headers["retry-after"]
    assert {name: check["ok"] for name, check in answer.json()["checks"].items()} == {
        "broker": True, "storage": True, "worker": False,
    }  # fmt: skip
    try:
        house.jobs.admin.announce(name="w", hostname="h", pid=1, device="cpu", ready=False)
        answer = house.get("/readyz")
        assert answer.status_code == 503
        assert "1 of the workers still prepare" in answer.json()["checks"]["worker"]["detail"]
        house.jobs.admin.announce(name="w", hostname="h", pid=1, device="cpu")
        answer = house.get("/readyz")
        assert (answer.status_code, answer.json()["status"]) == (200, "ready")
    finally:
        house.jobs.admin.retire("w")


def test_everything_says_503_quickly_when_the_broker_is_gone(house: Any, serve: Any, tmp_path: Path) -> None:
    broker = start_broker(tmp_path / "broker")
    url = serve(house.settings.model_copy(update={"redis_url": broker.url, "data_dir": tmp_path}))
    assert httpx.get(f"{url}/v1/jobs").status_code == 200
    broker.close()
    ready = httpx.get(f"{url}/readyz", timeout=30)
    assert ready.status_code == 503
    assert ready.json()["checks"]["broker"]["ok"] is False
    for answer in (
        httpx.get(f"{url}/v1/jobs", timeout=30),
        httpx.get(f"{url}/v1/jobs/{'0' * 32}", timeout=30),
        httpx.post(f"{url}/v1/generations", json={"model": "round"}, timeout=30),
    ):
        assert (answer.status_code, answer.json()["code"]) == (503, "queue_unavailable")
        assert answer.headers["retry-after"]
    assert httpx.get(f"{url}/livez").status_code == 200
    assert httpx.get(f"{url}/v1/models").status_code == 200
    assert "cytosynth_broker_up 0.0" in httpx.get(f"{url}/metrics", timeout=30).text


def test_metrics_have_labels_from_closed_sets_only(house: Any) -> None:
    house.submit()
    for path in ("/v1/jobs/" + "a" * 32, "/some/where", "/v1/jobs?limit=1", "/static/page.css"):
        house.get(path)
    house.client.request("BREW", "/v1/jobs")
    text = house.get("/metrics").text
    assert 'route="/v1/jobs/{id}"' in text
    assert 'route="unmatched"' in text
    assert 'method="other"' in text
    assert "a" * 32 not in text
    assert "/some/where" not in text
    assert "BREW" not in text
    figures = {line.split(" ")[0]: float(line.split(" ")[1]) for line in text.splitlines() if line[0] != "#"}
    assert figures["cytosynth_broker_up"] == 1
    assert figures["cytosynth_leases_lost_total"] == figures["cytosynth_jobs_worker_crashed_total"] == 0
    assert figures["cytosynth_work"] >= figures["cytosynth_queue_depth"]
    assert figures["cytosynth_queue_depth"] == figures['cytosynth_jobs{state="queued"}'] >= 1


def test_lost_leases_are_counted_where_all_workers_and_webs_see_it(house: Any) -> None:
    def counted() -> tuple[float, float]:
        figures = dict(line.rsplit(" ", 1) for line in house.get("/metrics").text.splitlines() if line[0] != "#")
        names = ("cytosynth_leases_lost_total", "cytosynth_jobs_worker_crashed_total")
        return float(figures[names[0]]), float(figures[names[1]])

    job, before = house.submit(), counted()
    house.jobs.admin.sweep()  # a broker that nobody has swept for long was away, and spares the leases once
    for number in (1, 2, 3):
        lease = house.claim(job["id"])
        house.jobs._redis.zadd(house.jobs._prefix + "leases", {lease.job_id: 1.0})  # its worker died long ago
        house.jobs.admin.sweep()
        assert counted() == (before[0] + number, before[1] + (number == 3))
    assert house.get(f"/v1/jobs/{job['id']}").json()["error"]["code"] == "worker_crashed"


# --------------------------------------------------------------------------------------------- a broker of one's own


@contextmanager
def server(folder: Path, port: int, *, aof: str = "yes", policy: str = "noeviction") -> Iterator[None]:
    """A broker that the service does not start itself."""
    folder.mkdir()
    command = [str(find_server()), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
    process = subprocess.Popen(
        [*command, "--appendonly", aof, "--maxmemory-policy", policy, "--maxmemory", "100mb"], stdout=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@pytest.mark.parametrize(
    ("fault", "words"), [({"aof": "no"}, "appendonly yes"), ({"policy": "allkeys-lru"}, "noeviction")]
)
def test_a_web_started_bare_refuses_a_broker_that_may_lose_jobs(
    tmp_path: Path, fault: dict[str, str], words: str
) -> None:
    port = free_port()
    web = [sys.executable, "-m", "uvicorn", "app.main:create_app", "--factory", "--port", str(free_port())]
    with server(tmp_path / "broker", port, **fault):
        with redis.Redis(port=port) as client:
            eventually(lambda: _answers(client))
        done = subprocess.run(
            web, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
            env=environment(CYTOSYNTH_REDIS_URL=f"redis://127.0.0.1:{port}/0", CYTOSYNTH_DATA_DIR=str(tmp_path)),
        )  # fmt: skip
    assert done.returncode != 0
    assert words in done.stderr


def test_a_web_waits_for_a_broker_and_is_not_ready_while_it_may_lose_jobs(
    house: Any, serve: Any, tmp_path: Path
) -> None:
    def broker_check() -> dict[str, Any]:
        checks: dict[str, Any] = httpx.get(f"{url}/readyz", timeout=30).json()["checks"]
        return dict(checks["broker"])

    port = free_port()
    settings = house.settings.model_copy(update={"redis_url": f"redis://127.0.0.1:{port}/0", "data_dir": tmp_path})
    url = serve(settings)
    assert httpx.get(f"{url}/livez").status_code == 200
    assert broker_check()["ok"] is False
    refused = httpx.post(f"{url}/v1/generations", json={"model": "round"}, timeout=30)
    assert (refused.status_code, refused.json()["code"]) == (503, "queue_unavailable")
    assert refused.headers["retry-after"]
    with server(tmp_path / "broker", port, aof="no"), redis.Redis(port=port) as client:
        eventually(lambda: _answers(client))
        found = broker_check()
        assert found["ok"] is False
        assert "appendonly yes" in found["detail"]
        client.config_set("appendonly", "yes")
        eventually(lambda: broker_check()["ok"], within_s=10)
        assert httpx.post(f"{url}/v1/generations", json={"model": "round"}, timeout=30).status_code == 202


def _answers(client: redis.Redis) -> bool:
    with suppress(redis.ConnectionError):
        return bool(client.ping())
    return False


def test_version(house: Any) -> None:
    import model

    assert house.get("/v1/version").json() == {"name": "cytosynth", "version": model.__version__, "api": "v1"}


@pytest.mark.parametrize("path", ["/livez", "/v1/jobs", "/nowhere", "/v1/generations", "/"])
def test_every_answer_carries_a_request_id_and_guarding_headers(house: Any, path: str) -> None:
    answer = house.get(path)
    assert len(answer.headers["x-request-id"]) == 32
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_request_id_of_the_client_is_kept_if_it_is_one(house: Any) -> None:
    mine = "0123456789abcdef0123456789abcdef"
    answer = house.get("/nowhere", **{"X-Request-ID": mine})
    assert answer.headers["x-request-id"] == mine == answer.json()["request_id"]
    assert house.get("/livez", **{"X-Request-ID": "x\x7f" * 100}).headers["x-request-id"] != "x\x7f" * 100
