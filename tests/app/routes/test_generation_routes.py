"""Asking for cells: what is accepted, what comes back, and which words a refusal has."""

from __future__ import annotations

import json
import threading
import time
from typing import Any
from uuid import uuid4

import httpx
import pytest
from claims import claim_job

from model.spec import Cost, GenerationSpec
from worker.jobs import Price

SMALL = {"model": "round", "frames": 2, "grid": 16}


def test_accepted_job_says_where_to_look_and_carries_the_drawn_seed(house: Any) -> None:
    answer = house.post(SMALL)
    job = answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}" == job["links"]["self"]
    assert int(answer.headers["retry-after"]) >= 1
    assert job["state"] == "queued"
    assert 0 <= job["spec"]["seed"] < 2**53
    assert job["spec"]["latent"] == {"kind": "sampled", "temperature": 1.0}
    assert job["model"] == {"id": "round", "sha256": "ab" * 32}
    assert set(job) == {
        "id", "kind", "state", "progress", "queue_position", "attempts", "lost", "lease", "shards", "created_at",
        "started_at", "finished_at", "expires_at", "pinned", "spec", "model", "links", "error", "warnings",
        "labels", "priority", "webhook", "batch",
    }  # fmt: skip


def test_a_submission_is_priced_once_and_its_record_holds_the_price(
    house: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    priced: list[Cost] = []
    cost = GenerationSpec.cost

    def counted(spec: GenerationSpec) -> Cost:
        priced.append(cost(spec))
        return priced[-1]

    monkeypatch.setattr(GenerationSpec, "cost", counted)
    job = house.jobs.get(house.submit(formats=["ply", "png"])["id"])
    assert [Price(bytes=cost.bytes, seconds=cost.seconds) for cost in priced] == [job.price]


def test_the_largest_seed_survives_unchanged(house: Any) -> None:
    assert house.submit(seed=2**64 - 1, frames=1)["spec"]["seed"] == 2**64 - 1


def test_identical_request_is_answered_with_the_finished_job(house: Any) -> None:
    body = {**SMALL, "seed": 4711}
    job = house.post(body).json()
    house.carry_out(job["id"])
    again = house.post(body)
    assert (again.status_code, again.json()["id"], again.json()["state"]) == (200, job["id"], "succeeded")
    assert "retry-after" not in again.headers


def test_a_spec_taken_from_a_job_is_the_same_request(house: Any) -> None:
    job = house.submit()
    house.carry_out(job["id"])
    again = house.post(job["spec"])
    assert (again.status_code, again.json()["id"]) == (200, job["id"])


def test_same_key_and_body_give_the_same_job_even_when_the_seed_was_drawn(house: Any) -> None:
    key = uuid4().hex
    first, second = (house.post(SMALL, **{"Idempotency-Key": key}) for _ in range(2))
    assert first.json()["id"] == second.json()["id"]
    assert second.status_code == 202
    other = house.post({**SMALL, "frames": 3}, **{"Idempotency-Key": key})
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")


def test_idempotency_compares_the_completed_request(house: Any) -> None:
    key = uuid4().hex
    same = [
        {"model": "round"},
        {"model": "round", "frames": 30, "grid": 64.0, "count": 1, "seed": None, "latent": {}, "exact": "adaptive"},
        {"model": "round", "latent": {"kind": "sampled", "temperature": 1}, "formats": ["stl", "tiff"]},
    ]
    answers = [house.post(body, **{"Idempotency-Key": key}) for body in same]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert house.post({"model": "round", "seed": 5}, **{"Idempotency-Key": key}).status_code == 422


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ({"latent": {}}, {"latent": {"kind": "sampled", "temperature": 1.0}}),
        ({"latent": {"temperature": 0.5}}, {"latent": {"kind": "sampled", "temperature": 0.5}}),
        ({"frames": 2.0, "grid": [16.0, 8, 9.0]}, {"frames": 2, "grid": [16, 8, 9]}),
        ({"latent": {"kind": "learned", "index": 1e0}}, {"latent": {"kind": "learned", "index": 1}}),
    ],
)
def test_what_the_schema_allows_is_accepted(house: Any, written: dict[str, Any], read: dict[str, Any]) -> None:
    answer = house.post({**SMALL, **written})
    assert answer.status_code == 202, answer.text
    assert answer.json()["spec"].items() >= read.items()


@pytest.mark.parametrize("latent", [{"index": 1}, {"kind": None}, {"temperature": 0.5, "index": 0}])
def test_latent_without_a_kind_is_sampled_only_where_nothing_says_otherwise(house: Any, latent: Any) -> None:
    assert house.post({**SMALL, "latent": latent}).status_code == 422


@pytest.mark.parametrize("key", ["x" * 256, "x" * 10_000, "with space", "é"])
def test_unfit_idempotency_key_is_refused(house: Any, key: str) -> None:
    answer = house.client.post("/v1/generations", json=SMALL, headers=[(b"Idempotency-Key", key.encode("latin-1"))])
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["in"] == "header"


def test_prefer_wait_returns_the_finished_job_in_one_call(house: Any) -> None:
    seed = int(uuid4().int % 2**50)
    worker = threading.Thread(target=_carry_out_when_there, args=(house, seed))
    worker.start()
    answer = house.post({**SMALL, "seed": seed}, Prefer="respond-async, wait=20")
    worker.join()
    assert answer.status_code == 200
    assert answer.json()["state"] == "succeeded"
    assert answer.headers["preference-applied"] == "wait=20"


def _carry_out_when_there(house: Any, seed: int) -> None:
    while True:
        for job in house.jobs.list(limit=5).jobs:
            if job.spec.get("seed") == seed:
                time.sleep(0.2)
                house.carry_out(job.id)
                return
        time.sleep(0.02)


@pytest.mark.parametrize(("prefer", "applied"), [("wait=0", "wait=0"), ("wait=99999", "wait=60"), ("wait=x", None)])
def test_preferences_are_clipped_or_ignored_never_refused(house: Any, prefer: str, applied: str | None) -> None:
    finished = house.submit()
    house.carry_out(finished["id"])
    answer = house.post(finished["spec"], Prefer=prefer)
    assert answer.status_code == 200
    assert answer.headers.get("preference-applied") == applied


def test_where_reuse_is_off_a_finished_request_is_a_new_job(house: Any, serve: Any) -> None:
    first = house.post({"model": "round", "seed": 77, "frames": 1, "grid": 8}).json()
    house.carry_out(first["id"])
    assert house.post(first["spec"]).json()["id"] == first["id"]
    with httpx.Client(base_url=serve(house.settings.model_copy(update={"reuse": False})), timeout=30) as client:
        again = client.post("/v1/generations", json=first["spec"])
        assert again.status_code == 202
        assert again.json()["id"] != first["id"]
        client.post(f"/v1/jobs/{again.json()['id']}/cancel")


def test_estimate_gives_cost_and_limits_without_a_job(house: Any) -> None:
    before = len(house.jobs.list(limit=200).jobs)
    answer = house.post({"model": "round", "frames": 10, "grid": 32, "count": 2}, path="/v1/estimates").json()
    assert answer["cost"]["points"] == 2 * 10 * 32**3
    assert answer["limits"]["points"] == house.settings.max_points
    assert answer["within_limits"] is True
    assert len(house.jobs.list(limit=200).jobs) == before


def test_estimate_is_corrected_by_what_workers_measured(house: Any) -> None:
    spec = {"model": "round", "frames": 10, "grid": 32, "formats": ["ply"]}
    before = house.post(spec, path="/v1/estimates").json()
    assert before["seconds"]["low"] < before["seconds"]["expected"] < before["seconds"]["high"]
    plain = GenerationSpec.model_validate(spec).cost().seconds
    for _ in range(4):
        house.jobs.timings.record(
            kind="generation", model_id="round", formats=["ply"], estimated_s=plain, took_s=5.0 * plain
        )
    after = house.post(spec, path="/v1/estimates").json()
    assert after["seconds"]["jobs"] == 4
    assert after["seconds"]["expected"] == after["cost"]["seconds"] == pytest.approx(5.0 * plain, rel=1e-3)


def test_pictures_take_time_in_the_estimate(house: Any) -> None:
    plain, pictured = (
        house.post({"model": "long", "frames": 3, "grid": 16, "formats": formats}, path="/v1/estimates").json()
        for formats in (["obj"], ["obj", "png"])
    )
    assert pictured["cost"]["seconds"] > plain["cost"]["seconds"] + 0.1


def test_a_running_job_shows_its_worker_and_the_leases_it_lost(house: Any) -> None:
    job_id = house.post({"model": "round", "seed": 4242, "frames": 1, "grid": 8}).json()["id"]
    queued = house.client.get(f"/v1/jobs/{job_id}").json()
    assert (queued["lease"], queued["lost"]) == (None, 0)
    lease = claim_job(house.jobs, job_id, worker="node-7:41")
    running = house.client.get(f"/v1/jobs/{job_id}").json()
    assert running["lease"] == {"worker": "node-7:41", "since": running["started_at"]}
    house.jobs.leases.fail_attempt(lease, code="export_failed", message="full")
    again = house.client.get(f"/v1/jobs/{job_id}").json()
    assert (again["state"], again["lease"], again["lost"], again["attempts"]) == ("queued", None, 1, 1)
    house.client.post(f"/v1/jobs/{job_id}/cancel")


def test_the_budget_counts_samples_only_where_they_are_written(house: Any) -> None:
    """Surfaces cost N² a frame: 30 frames at 256 are accepted where as many label volumes are not."""
    large = {"model": "round", "frames": 30, "grid": 256, "formats": ["stl"]}
    estimate = house.post(large, path="/v1/estimates").json()
    assert estimate["cost"]["points"] > house.settings.max_points
    assert (estimate["cost"]["painted"], estimate["within_limits"]) == (0, True)
    assert house.post(large).status_code == 202
    labelled = {**large, "formats": ["stl", "ome-zarr"]}
    assert house.post(labelled, path="/v1/estimates").json()["cost"]["painted"] == estimate["cost"]["points"]
    assert house.post(labelled).json()["code"] == "too_large"


def test_the_budget_has_a_limit_of_time(house: Any) -> None:
    long = {"model": "round", "count": 10_000, "frames": 1000, "grid": 8, "formats": ["csv"]}
    answer = house.post(long)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert "at most 3e+05" in answer.json()["detail"]
    estimate = house.post(long, path="/v1/estimates").json()
    assert estimate["limits"]["seconds"] == house.settings.max_seconds
    assert estimate["within_limits"] is False


def test_estimate_of_too_large_a_job_says_so_without_refusing(house: Any) -> None:
    answer = house.post({"model": "round", "frames": 900, "grid": 256}, path="/v1/estimates")
    assert (answer.status_code, answer.json()["within_limits"]) == (200, False)


REFUSED = [
    ({"model": "nobody"}, 422, "unknown_model", "/model", "installed: a549, celegans, "),
    ({"model": "../round"}, 422, "invalid_spec", "/model", "must match"),
    ({}, 422, "invalid_spec", "/model", "is required"),
    ({"model": "round", "grid": 1}, 422, "invalid_spec", "/grid", "at least 8"),
    ({"model": "round", "grid": 5000}, 422, "invalid_spec", "/grid", "at most 2048"),
    ({"model": "round", "grid": 300}, 422, "invalid_spec", "/grid", "at most 256"),
    ({"model": "long", "grid": [16, 33, 16]}, 422, "invalid_spec", "/grid", "at most 32"),
    ({"model": "round", "grid": [16, 16]}, 422, "invalid_spec", "/grid", "3 entries"),
    ({"model": "round", "grid": [16, 16, 1]}, 422, "invalid_spec", "/grid/2", "at least 8"),
    ({"model": "round", "grid": 16.5}, 422, "invalid_spec", "/grid", "integer"),
    ({"model": "round", "frames": 0}, 422, "invalid_spec", "/frames", "at least 1"),
    ({"model": "round", "frames": True}, 422, "invalid_spec", "/frames", "integer"),
    ({"model": "round", "frames": "2"}, 422, "invalid_spec", "/frames", "integer"),
    ({"model": "round", "frames": 2**63}, 422, "invalid_spec", "/frames", "at most 1000"),
    ({"model": "round", "count": 0}, 422, "invalid_spec", "/count", "at least 1"),
    ({"model": "round", "seed": -1}, 422, "invalid_spec", "/seed", "at least 0"),
    ({"model": "round", "seed": 2**64}, 422, "invalid_spec", "/seed", "at most 18446744073709551615"),
    ({"model": "round", "times": [0.5, 0.1]}, 422, "invalid_spec", "/times", "increase"),
    ({"model": "round", "times": [0, 2]}, 422, "invalid_spec", "/times", "[-1, 1]"),
    ({"model": "round", "times": [0], "frames": 2}, 422, "invalid_spec", "", "frames or times"),
    ({"model": "round", "oops": 1}, 422, "invalid_spec", "/oops", "is unknown"),
    ({"model": "round", "a/b~c": 1}, 422, "invalid_spec", "/a~1b~0c", "is unknown"),
    ({"model": "round", "formats": ["stl", "exe"]}, 422, "invalid_spec", "/formats/1", "'stl', 'obj', 'ply'"),
    ({"model": "round", "formats": []}, 422, "invalid_spec", "/formats", "at least 1"),
    ({"model": "round", "formats": ["stl", "stl"]}, 422, "invalid_spec", "/formats", "not repeat"),
    ({"model": "round", "formats": ["stl-series", "obj"]}, 422, "invalid_spec", "/formats", "stl-series needs stl"),
    ({"model": "round", "formats": ["stl"], "separate_bodies": True}, 422, "invalid_spec", "", "only obj or ply"),
    ({"model": "round", "rotation": "up"}, 422, "invalid_spec", "/rotation", "'none' or 'random'"),
    ({"model": "round", "rotation": [0, 0, 0, 0]}, 422, "invalid_spec", "/rotation", "zero"),
    ({"model": "round", "latent": {"kind": "zork"}}, 422, "invalid_spec", "/latent", "'sampled'"),
    ({"model": "round", "latent": {"kind": "learned", "index": 5}}, 422, "invalid_spec", "/latent/index", "at most 4"),
    ({"model": "round", "latent": {"kind": "nearby"}}, 422, "invalid_spec", "/latent/index", "is required"),
    (
        {"model": "round", "latent": {"kind": "interpolated", "first": 0, "second": 7}},
        422, "invalid_spec", "/latent/second", "at most 4",
    ),
    (
        {"model": "round", "latent": {"kind": "explicit", "values": [0.0, 1.0]}},
        422, "invalid_spec", "/latent/values", "4 numbers",
    ),
    ({"model": "round", "frames": 1000, "grid": 128}, 413, "too_large", "", "at most 5e+07"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "status", "code", "pointer", "words"), REFUSED, ids=lambda value: None)
def test_refusal_points_at_the_member_and_says_what_is_allowed(
    house: Any, body: dict[str, Any], status: int, code: str, pointer: str, words: str
) -> None:
    answer = house.post(body)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["type"] == f"/problems/{code.replace('_', '-')}"
    assert any(fault["pointer"] == pointer and words in fault["detail"] for fault in problem["errors"])


def test_nothing_refused_leaves_a_job_behind(house: Any) -> None:
    before = house.jobs.admin.counts()
    for body, *_ in REFUSED:
        house.post(body)
    assert house.jobs.admin.counts() == before


def test_files_beyond_the_byte_budget_are_refused_before_they_are_queued(house: Any, serve: Any) -> None:
    import httpx

    url = serve(house.settings.model_copy(update={"max_bytes": 20_000}))
    before = house.jobs.admin.counts()
    body = {"model": "round", "frames": 20, "grid": 64, "formats": ["ome-zarr"]}
    answer = httpx.post(f"{url}/v1/generations", json=body)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert "at most 2e+04 are allowed" in answer.json()["detail"]
    assert "fewer formats" in answer.json()["detail"]
    assert house.jobs.admin.counts() == before


def test_refusal_never_shows_what_was_sent(house: Any) -> None:
    secret = "s3cr3t-value"
    for body in (
        {"model": "round", "seed": secret},
        {"model": "round", "formats": [secret]},
        {"model": "round", "latent": {"kind": secret}},
        {"model": "round", "rotation": secret},
        {"model": f"{secret}!"},
    ):
        assert secret not in house.post(body).text


def test_full_queue_is_refused_with_a_time_to_try_again(house: Any, serve: Any) -> None:
    import httpx

    url = serve(house.settings.model_copy(update={"max_queue": 1}))
    house.submit()
    answer = httpx.post(f"{url}/v1/generations", json={**SMALL, "seed": uuid4().int % 2**40})
    assert (answer.status_code, answer.json()["code"]) == (503, "queue_unavailable")
    assert int(answer.headers["retry-after"]) >= 1


def test_a_model_installed_meanwhile_is_found(house: Any) -> None:
    name = f"new-{uuid4().hex[:8]}"
    assert house.get(f"/v1/models/{name}").status_code == 404
    card = house.install(name)
    assert house.get(f"/v1/models/{name}").json()["href"] == f"/v1/models/{name}"
    assert house.post({"model": name, "grid": 16, "frames": 1}).status_code == 202
    card.unlink()


def test_a_damaged_card_hides_only_its_own_model(house: Any) -> None:
    folder = house.models / "damaged"
    folder.mkdir(exist_ok=True)
    (folder / "card.json").write_text(json.dumps({"id": "damaged"}))
    try:
        listed = {card["id"] for card in house.get("/v1/models").json()["models"]}
        assert {"round", "long"} <= listed
        assert "damaged" not in listed
        answer = house.get("/v1/models/damaged")
        assert (answer.status_code, answer.json()["code"]) == (500, "bad_checkpoint")
        assert "card.json" not in answer.text
    finally:
        (folder / "card.json").unlink()
