"""The life of a job as a client sees it."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import httpx
import pytest

from worker.jobs import JobProgress

UNKNOWN = "0" * 32
ALL = {"Last-Event-ID": "0"}


def events_of(text: str) -> list[tuple[str, str, Any]]:
    """Read (id, event, data) out of a stream of server-sent events."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line and not line.startswith(":"))
        if "data" in fields:
            found.append((fields.get("id", ""), fields["event"], json.loads(fields["data"])))
    return found


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""), ("GET", "/events"), ("GET", "/manifest"), ("GET", "/files"), ("GET", "/files/x.stl"),
        ("GET", "/archive"), ("POST", "/cancel"), ("DELETE", ""), ("HEAD", "/archive"), ("HEAD", "/manifest"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("job_id", [UNKNOWN, "zz", "%2e%2e", "x" * 64, "%00", "é"])
def test_unknown_job_is_not_found_whatever_is_asked_of_it(house: Any, method: str, path: str, job_id: str) -> None:
    answer = house.client.request(method, f"/v1/jobs/{job_id}{path}")
    assert answer.status_code == 404
    if method != "HEAD":
        assert answer.json()["code"] == "job_not_found"


def test_job_document_follows_the_job(house: Any) -> None:
    job = house.submit()
    lease = house.claim(job["id"])
    house.jobs.leases.renew(lease, progress=JobProgress(fraction=0.5, stage="frames", frame=1, frames=2, eta_s=3.0))
    running = house.get(job["links"]["self"]).json()
    assert (running["state"], running["attempts"]) == ("running", 1)
    assert running["progress"] == {
        "fraction": 0.5, "stage": "frames", "frame": 1, "frames": 2, "eta_s": 3.0, "loss": None, "dice": None,
    }  # fmt: skip
    assert running["started_at"].endswith("Z")
    house.jobs.leases.fail(lease, code="empty_surface", message="there is no membrane")
    failed = house.get(job["links"]["self"]).json()
    assert failed["state"] == "failed"
    assert failed["error"] == {
        "code": "empty_surface", "message": "there is no membrane", "type": "/problems/empty-surface",
    }  # fmt: skip
    assert house.get(failed["error"]["type"]).status_code == 200


def test_failure_codes_of_the_worker_are_documented(house: Any) -> None:
    for code in ("internal", "worker_crashed", "empty_surface", "bad_checkpoint", "export_failed"):
        assert house.get(f"/problems/{code.replace('_', '-')}").status_code == 200


def test_waiting_answers_as_soon_as_the_job_has_ended(house: Any) -> None:
    job = house.submit()
    worker = threading.Timer(0.5, house.carry_out, [job["id"]])
    worker.start()
    answer = house.client.get(job["links"]["self"], params={"wait": 60})  # twice as long as the client would wait
    assert answer.json()["state"] == "succeeded"
    worker.join()


def test_waiting_ends_in_time_when_the_job_does_not(house: Any) -> None:
    job = house.submit()
    begun = time.monotonic()
    answer = house.client.get(job["links"]["self"], params={"wait": 1})
    assert answer.json()["state"] == "queued"
    assert answer.headers["retry-after"]
    assert time.monotonic() - begun > 0.9


@pytest.mark.parametrize("wait", ["-1", "61", "x", "1e3", "NaN"])
def test_unfit_wait_is_refused(house: Any, wait: str) -> None:
    answer = house.get(f"/v1/jobs/{UNKNOWN}?wait={wait}")
    assert (answer.status_code, answer.json()["errors"][0]["parameter"]) == (422, "wait")


# --------------------------------------------------------------------------------------------------------------- events


def test_events_tell_the_whole_life_and_end_with_it(house: Any) -> None:
    job = house.submit()
    house.carry_out(job["id"])
    answer = house.get(job["links"]["events"], **ALL)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = events_of(answer.text)
    assert [data["state"] for _, event, data in events if event == "state"] == ["queued", "running", "succeeded"]
    assert [data["frame"] for _, event, data in events if event == "progress"] == [1, 2, 3]
    assert events[-1][1:] == ("state", {"state": "succeeded", "attempts": 1})


def test_events_arrive_while_the_job_runs(house: Any) -> None:
    job = house.submit()
    worker = threading.Timer(0.4, house.carry_out, [job["id"]])
    seen: list[tuple[float, str]] = []
    with house.client.stream("GET", job["links"]["events"]) as answer:
        worker.start()
        for line in answer.iter_lines():
            if line.startswith("event"):
                seen.append((time.monotonic(), line))
    worker.join()
    assert seen[-1][0] - seen[0][0] > 0.3  # the first came before there was a second
    assert len(seen) == 6


def test_stream_resumes_after_the_last_event_that_was_seen(house: Any) -> None:
    job = house.submit()
    house.carry_out(job["id"])
    events = events_of(house.get(job["links"]["events"], **ALL).text)
    rest = events_of(house.get(job["links"]["events"], **{"Last-Event-ID": events[2][0]}).text)
    assert rest == events[3:]


def test_client_that_has_seen_the_end_is_told_to_stop(house: Any) -> None:
    job = house.submit()
    house.carry_out(job["id"])
    last = events_of(house.get(job["links"]["events"], **ALL).text)[-1][0]
    assert house.get(job["links"]["events"], **{"Last-Event-ID": last}).status_code == 204


@pytest.mark.parametrize("unfit", ["x", "9" * 60, "1-2-3", "-1"])
def test_unfit_last_event_id_counts_as_none(house: Any, unfit: str) -> None:
    job = house.submit()
    house.carry_out(job["id"])
    assert len(events_of(house.get(job["links"]["events"], **{"Last-Event-ID": unfit}).text)) == 1


def test_late_subscriber_gets_the_latest_state_and_progress_then_what_is_new(house: Any) -> None:
    job = house.submit()
    lease = house.claim(job["id"])
    for frame in range(1, 41):
        progress = JobProgress(fraction=frame / 50, stage="frames", frame=frame, frames=50, eta_s=0.5)
        house.jobs.leases.renew(lease, progress=progress)
    with house.client.stream("GET", job["links"]["events"]) as answer:
        seen: list[str] = []
        for line in answer.iter_lines():
            seen.append(line)
            if line.startswith("data") and len([one for one in seen if one.startswith("data")]) == 2:
                house.jobs.leases.fail(lease, code="empty_surface", message="there is no membrane")
    told = events_of("\n".join(seen))
    assert [(event, data.get("state", data.get("frame"))) for _, event, data in told] == [
        ("state", "running"), ("progress", 40), ("state", "failed"),
    ]  # fmt: skip
    every = events_of(house.get(job["links"]["events"], **ALL).text)
    assert every[-3:] != told
    assert every[-1] == told[-1]
    assert len(every) > 10


@pytest.mark.parametrize(
    ("query", "name"),
    [("?stat=queued", "stat"), ("?limit=1&limit=2", "limit"), ("/{id}?wait=0&wait=0", "wait"),
     ("/{id}?state=", "state"), ("/{id}/manifest?x", "x"), ("/{id}/events?after=0", "after")],
)  # fmt: skip
def test_unknown_or_repeated_member_of_the_query_is_refused_by_name(house: Any, query: str, name: str) -> None:
    job = house.submit()
    answer = house.get("/v1/jobs" + query.format(id=job["id"]))
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_spec")
    assert [(fault["parameter"], fault["in"]) for fault in answer.json()["errors"]] == [(name, "query")]


def test_head_is_answered_wherever_get_is(house: Any) -> None:
    job = house.submit()
    values = {"id": job["id"], "name": "cell_0000/frame_0000.stl", "slug": "too-large"}
    paths = [path for path, item in house.get("/openapi.json").json()["paths"].items() if "get" in item]
    for path in [*paths, "/", "/docs", "/favicon.ico"]:
        link = path.format(**values)
        with house.client.stream("GET", link) as full:
            head = house.client.head(link)
        assert (head.status_code, head.content) == (full.status_code, b""), link
        assert head.headers["content-type"] == full.headers["content-type"], link
    assert "HEAD" in house.client.post("/v1/version").headers["allow"]
    assert house.client.head("/v1/generations").status_code == 405


def test_idle_stream_is_kept_open_by_comments(house: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastapi.routing._PING_INTERVAL", 0.2)
    job = house.submit()
    with house.client.stream("GET", job["links"]["events"]) as answer:
        for line in answer.iter_lines():
            if line.startswith(":"):
                break
        else:
            pytest.fail("the stream ended")


def test_many_followers_do_not_keep_others_from_being_served(house: Any) -> None:
    job = house.submit()
    with httpx.Client(base_url=house.url, limits=httpx.Limits(max_connections=None), timeout=30) as crowd:
        streams = [crowd.stream("GET", job["links"]["events"]) for _ in range(60)]
        answers = [stream.__enter__() for stream in streams]
        assert house.get("/livez").status_code == 200
        assert house.get("/v1/jobs").status_code == 200
        house.carry_out(job["id"])
        for answer, stream in zip(answers, streams, strict=True):
            assert events_of(answer.read().decode())[-1][2]["state"] == "succeeded"
            stream.__exit__(None, None, None)


# ------------------------------------------------------------------------------------------------- cancel, remove, list


def test_cancelled_job_ends_at_once_and_cancelling_again_changes_nothing(house: Any) -> None:
    job = house.submit()
    first = house.client.post(job["links"]["cancel"]).json()
    second = house.client.post(job["links"]["cancel"]).json()
    assert first["state"] == "canceled"
    assert first == second
    assert house.get(job["links"]["manifest"]).json()["code"] == "job_canceled"


def test_deleting_cancels_first_and_removes_then(house: Any) -> None:
    job = house.submit()
    cancelled = house.client.delete(job["links"]["self"])
    assert (cancelled.status_code, cancelled.json()["state"]) == (200, "canceled")
    assert house.client.delete(job["links"]["self"]).status_code == 204
    assert house.client.delete(job["links"]["self"]).status_code == 404
    assert house.get(job["links"]["self"]).status_code == 404


def test_deleting_a_finished_job_removes_its_files(house: Any) -> None:
    job = house.submit()
    house.carry_out(job["id"])
    assert house.client.delete(job["links"]["self"]).status_code == 204
    assert house.get(job["links"]["archive"]).status_code == 404
    assert not house.artifacts.exists(job["id"])


def test_pages_show_every_job_once_newest_first(house: Any) -> None:
    wanted = [house.submit()["id"] for _ in range(7)]
    seen: list[str] = []
    address = "/v1/jobs?limit=3"
    while address and len(seen) < 7:
        answer = house.get(address)
        seen += [job["id"] for job in answer.json()["jobs"]]
        address = answer.json()["next"]
        assert address is None or f"<{address}>" in answer.headers["link"]
    assert seen[:7] == wanted[::-1]


def test_lists_are_filtered_by_state_and_kind(house: Any) -> None:
    job = house.submit()
    house.client.post(job["links"]["cancel"])
    page = house.get("/v1/jobs?state=canceled&kind=generation&limit=200").json()["jobs"]
    assert job["id"] in {entry["id"] for entry in page}
    assert {entry["state"] for entry in page} == {"canceled"}
    trainings = house.get("/v1/jobs?kind=training&limit=200").json()["jobs"]  # of other tests of this service, if any
    assert {entry["kind"] for entry in trainings} <= {"training"}
    assert house.get("/v1/jobs?kind=augmentation&state=canceled").json() == {"jobs": [], "next": None}


@pytest.mark.parametrize(
    "query", ["state=done", "limit=0", "limit=201", "kind=A%20B", "cursor=-1", "cursor=" + "9" * 64]
)
def test_unfit_list_parameters_are_refused(house: Any, query: str) -> None:
    answer = house.get(f"/v1/jobs?{query}")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_spec")


# ----------------------------------------------------------------------------------------------------------------- pins


def test_a_pinned_job_has_no_end_of_its_files_until_it_is_let_go(house: Any) -> None:
    job = house.submit()
    assert job["pinned"] is False
    kept = house.client.put(job["links"]["pin"])
    assert (kept.status_code, kept.json()["pinned"], kept.json()["state"]) == (200, True, "queued")
    house.carry_out(job["id"])
    assert house.client.put(job["links"]["pin"]).status_code == 200  # twice does no harm
    shown = house.get(job["links"]["self"]).json()
    assert (shown["pinned"], shown["expires_at"]) == (True, None)
    let_go = house.client.delete(job["links"]["pin"]).json()
    assert let_go["pinned"] is False
    assert let_go["expires_at"] is not None
    assert house.client.delete(job["links"]["pin"]).json() == let_go


def test_a_job_without_files_cannot_be_pinned_and_says_why(house: Any) -> None:
    failed, canceled = house.submit(), house.submit()
    house.jobs.leases.fail(house.claim(failed["id"]), code="empty_surface", message="no membrane")
    house.jobs.cancel(canceled["id"])
    for job, status, code in ((failed, 409, "job_failed"), (canceled, 409, "job_canceled")):
        for method in ("PUT", "DELETE"):
            answer = house.client.request(method, job["links"]["pin"])
            assert (answer.status_code, answer.json()["code"]) == (status, code)
    missing = house.client.put(f"/v1/jobs/{'0' * 32}/pin")
    assert (missing.status_code, missing.json()["code"]) == (404, "job_not_found")


# ----------------------------------------------------------------------------------------------- labels and priorities


def test_labels_are_shown_found_and_no_part_of_the_spec(house: Any) -> None:
    body = {"model": "round", "frames": 2, "grid": 16, "seed": 4711}
    first = house.post(body, path="/v1/generations?labels=project=keratin,run=7&priority=-1")
    assert first.status_code == 202
    job = first.json()
    assert (job["labels"], job["priority"]) == ({"project": "keratin", "run": "7"}, -1)
    house.carry_out(job["id"])
    again = house.post(body, path="/v1/generations?labels=run=7,project=keratin")
    assert (again.status_code, again.json()["id"]) == (200, job["id"])
    other = house.post(body, path="/v1/generations?labels=project=vimentin").json()
    assert other["id"] != job["id"]
    assert other["spec"] == job["spec"]
    for query, found in (
        ("labels=project=keratin", [job["id"]]), ("labels=project=keratin,run=7&model=round", [job["id"]]),
        ("labels=project=keratin&model=long", []), ("labels=project=keratin,run=8", []),
        (f"labels=project=keratin&created_before={job['created_at']}", []),
        ("labels=project=keratin&created_after=2000-01-01T00:00:00", [job["id"]]),
    ):  # fmt: skip
        assert [one["id"] for one in house.get(f"/v1/jobs?{query}").json()["jobs"]] == found, query


def test_pages_of_a_filtered_list_keep_the_filter(house: Any) -> None:
    for _ in range(3):
        body = {"model": "round", "frames": 2, "grid": 16}
        assert house.post(body, path="/v1/generations?labels=paged=a/b").status_code == 202
        house.submit()
    address, found = "/v1/jobs?labels=paged=a/b&limit=1&created_after=2026-01-01T00:00:00%2B01:00", []
    while address:
        page = house.get(address).json()
        found += page["jobs"]
        address = page["next"]
    assert [job["labels"] for job in found] == [{"paged": "a/b"}] * 3


@pytest.mark.parametrize(
    ("path", "parameter"),
    [
        ("/v1/generations?labels=a", "labels"), ("/v1/generations?labels=a=1,a=2", "labels"),
        ("/v1/generations?labels=a=b%20c", "labels"), ("/v1/generations?priority=2", "priority"),
        (f"/v1/generations?labels={','.join(f'a{n}=' for n in range(17))}", "labels"),
        ("/v1/generations?label=a=1", "label"),
    ],
)  # fmt: skip
def test_unfit_options_are_refused_with_their_name(house: Any, path: str, parameter: str) -> None:
    answer = house.post({"model": "round", "frames": 2, "grid": 16}, path=path)
    assert (answer.status_code, answer.json()["errors"][0]["parameter"]) == (422, parameter)


@pytest.mark.parametrize("query", ["created_after=1700000000", "created_before=x", "labels=a", "model=A"])
def test_unfit_filters_are_refused_with_their_name(house: Any, query: str) -> None:
    answer = house.get(f"/v1/jobs?{query}")
    assert (answer.status_code, answer.json()["errors"][0]["parameter"]) == (422, query.partition("=")[0])


def test_a_key_with_other_options_is_another_request(house: Any) -> None:
    body = {"model": "round", "frames": 2, "grid": 16}
    first = house.post(body, path="/v1/generations?labels=a=1", **{"Idempotency-Key": "labelled"})
    again = house.post(body, path="/v1/generations?labels=a=1", **{"Idempotency-Key": "labelled"})
    assert again.json()["id"] == first.json()["id"]
    assert house.post(body, **{"Idempotency-Key": "labelled"}).json()["code"] == "idempotency_mismatch"
