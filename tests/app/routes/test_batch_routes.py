"""Batches as a client sees them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hostile.corpus_files import labels_tiff
from keyed import Keyed

from app.settings import AppSettings

SMALL = {"model": "round", "frames": 2, "grid": 16}
LEARNED = {"kind": "learned", "index": 0}


def item(kind: str = "generation", **changes: Any) -> dict[str, Any]:
    return {"kind": kind, "spec": SMALL | changes}


def send(house: Any, *jobs: dict[str, Any], **members: Any) -> dict[str, Any]:
    answer = house.post({"jobs": list(jobs), **members}, path="/v1/batches")
    assert answer.status_code == 202, answer.text
    batch: dict[str, Any] = answer.json()
    assert answer.headers["location"] == batch["links"]["self"]
    return batch


def jobs_of(house: Any, batch: dict[str, Any]) -> list[dict[str, Any]]:
    return list(reversed(house.get(batch["links"]["jobs"]).json()["jobs"]))


def counts(batch: dict[str, Any]) -> dict[str, int]:
    return {state: count for state, count in batch["jobs"].items() if count}


def test_requests_of_several_kinds_become_one_batch(house: Any) -> None:
    specs = [item(seed=1), item("augmentation", source=LEARNED, count=1, seed=2), item(seed=1)]
    batch = send(house, *specs, labels={"project": "actin"}, priority=1, webhook="https://lab.example/")
    assert (batch["state"], counts(batch), batch["labels"]) == ("active", {"queued": 3}, {"project": "actin"})
    assert batch["webhook"] == {"url": "https://lab.example/", "state": "pending", "attempts": 0}
    jobs = jobs_of(house, batch)
    assert [(job["kind"], job["spec"]["seed"]) for job in jobs] == [
        ("generation", 1), ("augmentation", 2), ("generation", 1),
    ]  # fmt: skip
    for job in jobs:
        assert (job["batch"], job["labels"], job["priority"], job["webhook"]) == (
            batch["id"], {"project": "actin"}, 1, None,
        )  # fmt: skip
    assert house.submit()["batch"] is None


def test_a_batch_is_followed_waited_for_and_removed(house: Any) -> None:
    batch = send(house, item(seed=3), item(seed=4))
    first, second = jobs_of(house, batch)

    def work() -> None:
        house.carry_out(first["id"])
        house.jobs.cancel(second["id"])

    worker = threading.Timer(0.3, work)
    worker.start()
    ended = house.client.get(batch["links"]["self"], params={"wait": 20}).json()
    worker.join()
    assert (ended["state"], counts(ended)) == ("ended", {"succeeded": 1, "canceled": 1})
    assert ended["ended_at"] is not None
    text = house.get(batch["links"]["events"]).text
    events = [
        (block.split("event: ")[1].split("\n")[0], json.loads(block.split("data: ")[1].split("\n")[0]))
        for block in text.strip().split("\n\n")
    ]
    assert ("job", {"job": first["id"], "state": "succeeded"}) in events
    assert events[-1] == ("state", {"state": "ended"})
    assert house.client.delete(batch["links"]["self"]).status_code == 204
    for address in (batch["links"]["self"], first["links"]["self"], second["links"]["self"]):
        assert house.get(address).status_code == 404


def test_deleting_an_active_batch_cancels_it(house: Any) -> None:
    batch = send(house, item(), item())
    canceled = house.client.delete(batch["links"]["self"])
    assert (canceled.status_code, counts(canceled.json())) == (200, {"canceled": 2})
    again = house.client.post(batch["links"]["cancel"])
    assert (again.status_code, again.json()) == (200, canceled.json())


@pytest.mark.parametrize(
    ("wrong", "pointer"),
    [
        (item(grid=7), "/jobs/1/spec/grid"), (item(unknown=1), "/jobs/1/spec/unknown"),
        (item("origami"), "/jobs/1"), (item(latent={"kind": "learned", "index": 99}), "/jobs/1/spec/latent/index"),
        ({"kind": "generation"}, "/jobs/1/spec"),
    ],
)  # fmt: skip
def test_one_unfit_request_refuses_the_batch_and_is_named(house: Any, wrong: Any, pointer: str) -> None:
    before = house.get("/v1/jobs?limit=1").json()["jobs"]
    answer = house.post({"jobs": [item(), wrong]}, path="/v1/batches")
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, pointer)
    assert house.get("/v1/jobs?limit=1").json()["jobs"] == before


def test_unfit_batches_are_refused(house: Any) -> None:
    for body in ({"jobs": []}, {}, {"jobs": [item()], "labels": {"a b": "c"}}, {"jobs": [item()], "priority": 2}):
        assert house.post(body, path="/v1/batches").status_code == 422
    too_large = house.post({"jobs": [item(), item(count=1000, grid=256)]}, path="/v1/batches")
    assert (too_large.status_code, too_large.json()["code"]) == (413, "too_large")


def test_a_key_makes_a_batch_safe_to_repeat(house: Any) -> None:
    body, key = {"jobs": [item(), item()]}, {"Idempotency-Key": "a-batch"}
    first = house.post(body, path="/v1/batches", **key)
    again = house.post({"jobs": [item(), item(rotation="none")]}, path="/v1/batches", **key)
    assert (again.status_code, again.json()) == (202, first.json())
    other = house.post({"jobs": [item()]}, path="/v1/batches", **key)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")


def test_a_share_without_room_for_all_takes_none(
    settings: AppSettings, serve: Callable[[AppSettings], str], tmp_path: Path
) -> None:
    service = Keyed.start(settings, serve, tmp_path, max_active=3)
    with service.caller() as client:
        key = {"Idempotency-Key": "k"}
        batch = client.post("/v1/batches", json={"jobs": [item(), item()]}, headers=key)
        assert batch.status_code == 202
        over = client.post("/v1/batches", json={"jobs": [item(), item()]})
        assert (over.status_code, over.json()["code"]) == (429, "over_share")
        assert len(client.get("/v1/jobs").json()["jobs"]) == 2
        again = client.post("/v1/batches", json={"jobs": [item(), item()]}, headers=key)  # needs no room
        assert again.json() == batch.json()
        assert client.post("/v1/batches", json={"jobs": [item()]}).status_code == 202
    service.close()


TRAINING = {"name": "mine", "uploads": ["four.tif"], "steps": 100}


@pytest.fixture(scope="module")
def four(house: Any) -> None:
    assert house.client.put("/v1/uploads/four.tif", content=labels_tiff(frames=4)).status_code in (200, 201)


def test_trainings_may_be_in_a_batch_with_the_limits_of_each(house: Any, four: None) -> None:
    specs = [{"kind": "training", "spec": TRAINING | {"seed": seed}} for seed in (1, 2)]
    first, second, other = jobs_of(house, send(house, *specs, item(seed=21)))
    assert (first["kind"], second["kind"], other["kind"]) == ("training", "training", "generation")
    assert first["model"]["id"] == first["spec"]["model"] != second["model"]["id"]
    assert first["spec"]["minutes"] == 1440.0  # the operator's limit, filled in
    too_long = {"kind": "training", "spec": TRAINING | {"steps": 200_001}}
    answer = house.post({"jobs": [item(), too_long]}, path="/v1/batches")
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    many = {"jobs": [{"kind": "training", "spec": TRAINING | {"seed": seed}} for seed in range(21)]}
    answer = house.post(many, path="/v1/batches")
    assert (answer.status_code, "/jobs" in answer.text, "20" in answer.text) == (422, True, True)


def test_canceling_a_batch_keeps_the_models_of_trainings_that_ask_for_it(house: Any, four: None) -> None:
    specs = [
        {"kind": "training", "spec": TRAINING | {"seed": 3, "keep_on_cancel": True}},
        {"kind": "training", "spec": TRAINING | {"seed": 4}},
    ]
    batch = send(house, *specs)
    keeping, other = jobs_of(house, batch)
    for job in (keeping, other):
        house.claim(job["id"])
        (house.artifacts.state(job["id"]) / "attempts").mkdir(parents=True)
    canceled = house.post(path=f"{batch['links']['self']}/cancel").json()
    assert (canceled["state"], counts(canceled)) == ("active", {"running": 1, "canceled": 1})
    assert house.artifacts.asked_to_stop(keeping["id"])
    removed = house.client.delete(batch["links"]["self"])  # at once, and without a model
    assert (removed.status_code, counts(removed.json())) == (200, {"canceled": 2})
