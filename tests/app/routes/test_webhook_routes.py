"""Webhooks as a client sees them: asked for by a query parameter, shown in the job, off unless enabled."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from keyed import Keyed

from app.settings import AppSettings
from worker.webhooks.addresses import URL_MAX
from worker.webhooks.signing import secret_of

URL = "https://lab.example/hooks?team=a"
SMALL = {"model": "round", "frames": 2, "grid": 16}


def test_a_job_shows_its_webhook_until_it_is_delivered(house: Any) -> None:
    job = house.client.post("/v1/generations", json=SMALL, params={"webhook": URL}).json()
    assert job["webhook"] == {"url": URL, "state": "pending", "attempts": 0}
    assert house.submit()["webhook"] is None
    house.carry_out(job["id"])
    due = house.jobs.outbox.take()
    assert due is not None
    assert (due.id, due.url, due.state, due.data["links"]) == (
        job["id"],
        URL,
        "succeeded",
        {"self": job["links"]["self"]},
    )
    assert house.get(job["links"]["self"]).json()["webhook"] == {"url": URL, "state": "pending", "attempts": 1}
    house.jobs.outbox.settle(due, "delivered")
    assert house.get(job["links"]["self"]).json()["webhook"] == {"url": URL, "state": "delivered", "attempts": 1}


@pytest.mark.parametrize("url", ["http://lab.example/", "https://u@lab.example/", "https://lab.example:70000/", "x"])
def test_unfit_addresses_are_refused(house: Any, url: str) -> None:
    answer = house.client.post("/v1/generations", json=SMALL, params={"webhook": url})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_spec")


def test_the_longest_address_fits_however_it_is_written_and_longer_ones_are_refused_as_described(house: Any) -> None:
    def ask(url: str, labels: str = "run=1") -> httpx.Response:
        every = "".join(f"%{byte:02X}" for byte in url.encode())  # three bytes for each
        return house.client.post(f"/v1/generations?labels={labels}&webhook={every}", json=SMALL)  # type: ignore[no-any-return]

    start = "https://lab.example/"
    longest = start + '"' * (URL_MAX - len(start))  # a mark that is never sent as it is
    labels = ",".join(f"{'n' * 60}{k:02}={'v' * 63}" for k in range(16))
    accepted = ask(longest, "".join(f"%{byte:02X}" for byte in labels.encode()))
    assert (accepted.status_code, accepted.json()["webhook"]["url"]) == (202, longest), accepted.text
    documented = house.get("/openapi.json").json()["paths"]["/v1/generations"]["post"]["responses"]
    for length, status, code in ((URL_MAX + 1, 422, "invalid_spec"), (20_000, 414, "address_too_long")):
        answer = ask(start + "a" * (length - len(start)))
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert code in documented[str(status)]["content"]["application/problem+json"]["examples"]
    member = house.post({"jobs": [{"kind": "generation", "spec": SMALL}], "webhook": longest + "a"}, path="/v1/batches")
    assert (member.status_code, member.json()["errors"][0]["pointer"]) == (422, "/webhook")


def test_each_key_has_a_secret_of_its_own(
    settings: AppSettings, serve: Callable[[AppSettings], str], tmp_path: Path
) -> None:
    service = Keyed.start(settings, serve, tmp_path)
    shown = []
    for _ in range(2):
        with service.caller() as client:
            answer = client.get("/v1/webhooks/secret")
            assert answer.headers["cache-control"] == "no-store"
            shown.append(answer.json()["secret"])
            secret = secret_of(settings.webhook_secret or "", service.owner(client))
            assert base64.b64decode(shown[-1].removeprefix("whsec_")) == secret
    assert shown[0] != shown[1]
    service.close()


def test_webhooks_are_off_unless_the_operator_sets_a_secret(
    settings: AppSettings, serve: Callable[[AppSettings], str], tmp_path: Path
) -> None:
    service = Keyed.start(settings, serve, tmp_path, webhook_secret=None)
    with service.caller() as client:
        for answer in (
            client.get("/v1/webhooks/secret"),
            client.post("/v1/generations", json=SMALL, params={"webhook": URL}),
        ):
            assert (answer.status_code, answer.json()["code"]) == (403, "webhooks_off")
        assert client.post("/v1/generations", json=SMALL).status_code == 202
    service.close()
