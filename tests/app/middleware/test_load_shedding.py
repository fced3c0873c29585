"""More is asked than can be done: shares hold exactly, refusals are quick and say when to come again."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
from keyed import Keyed, all_at_once
from workbench import submit

from app.middleware.load_shedding import SubmissionLimiter
from app.problems.handlers import ProblemError
from worker.broker.embedded import Broker, start_broker
from worker.errors import QueueUnavailableError
from worker.jobs import JobQueue, JobRules
from worker.jobs.quotas import OverShareError, QueueThroughput, Quota, Rates

SHARE = 5


@pytest.fixture(scope="module")
def keyed(settings: Any, serve: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    service = Keyed.start(settings, serve, tmp_path_factory.mktemp("shares"), max_active=SHARE)
    yield service
    service.close()


@pytest.fixture
def records(broker: Broker) -> Iterator[tuple[JobQueue, Quota]]:
    """Empty job records, and the quota over them."""
    prefix = f"{uuid4().hex}:"
    jobs = JobQueue.connect(broker.url, wake_up=lambda _: None, prefix=prefix)
    quota = Quota.connect(broker.url, assure=jobs.admin.assure, prefix=prefix)
    yield jobs, quota
    jobs.close()
    quota.close()


def small(**changes: Any) -> dict[str, Any]:
    return {"model": "round", "frames": 1, "grid": 16, "seed": uuid4().int % 2**53, **changes}


def test_no_crowd_gets_more_active_jobs_than_its_share(keyed: Keyed) -> None:
    with keyed.caller() as client:
        answers = all_at_once(24, lambda _: client.post("/v1/generations", json=small()))
        accepted = [answer for answer in answers if answer.status_code == 202]
        assert {answer.status_code for answer in answers} <= {202, 429, 503}
        assert 1 <= len(accepted) <= SHARE
        for answer in answers:
            assert answer.status_code == 202 or int(answer.headers["retry-after"]) >= 1
        for _ in range(SHARE - len(accepted)):
            assert client.post("/v1/generations", json=small()).status_code == 202
        for answer in [client.post("/v1/generations", json=small()) for _ in range(3)]:
            assert answer.status_code == 429
            assert answer.json()["code"] == "over_share"
            assert f"at most {SHARE}" in answer.json()["detail"]
            assert 1 <= int(answer.headers["retry-after"]) <= 600
        active = keyed.jobs.list(owner=keyed.owner(client), limit=200).jobs
        assert len(active) == SHARE
        with keyed.caller() as other:
            assert other.post("/v1/generations", json=small()).status_code == 202
        keyed.jobs.cancel(active[0].id)
        assert client.post("/v1/generations", json=small()).status_code == 202


def test_a_repeated_request_needs_no_place(keyed: Keyed) -> None:
    with keyed.caller() as client:
        done = keyed.finished_job(client)
        key, body = {"Idempotency-Key": "mine"}, small()
        first = client.post("/v1/generations", json=body, headers=key)
        for _ in range(SHARE - 1):
            assert client.post("/v1/generations", json=small()).status_code == 202
        assert client.post("/v1/generations", json=small()).status_code == 429
        again = client.post("/v1/generations", json=body, headers=key)
        assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])
        same = client.post("/v1/generations", json=done["spec"])
        assert (same.status_code, same.json()["id"]) == (200, done["id"])


def test_a_refused_request_leaves_no_place_taken(records: tuple[JobQueue, Quota]) -> None:
    jobs, quota = records
    for _ in range(4):
        with pytest.raises(ZeroDivisionError), quota.reservation("a", share=2, digest=uuid4().hex):
            raise ZeroDivisionError
    for _ in range(2):
        with quota.reservation("a", share=2, digest=uuid4().hex):
            submit(jobs, owner="a")
    with pytest.raises(OverShareError), quota.reservation("a", share=2, digest=uuid4().hex):
        pytest.fail("there was no place")


def test_the_pace_of_the_queue_is_what_ended_lately(records: tuple[JobQueue, Quota]) -> None:
    jobs, quota = records
    for number in range(30):
        submit(jobs, owner="a" if number < 20 else "b")
    assert quota.throughput("x") == QueueThroughput(active=30, own=0, per_second=0.0)
    for _ in range(15):
        lease = jobs.leases.claim(worker="w")
        assert lease is not None
        jobs.leases.finish(lease)
    for _ in range(3):
        lease = jobs.leases.claim(worker="w")
        assert lease is not None
        jobs.leases.fail(lease, code="empty_surface", message="no")
    assert quota.throughput("b") == QueueThroughput(active=12, own=10, per_second=18 / 300)
    assert quota.throughput("a").own == 2


@pytest.mark.parametrize(
    ("pace", "own_s", "room_s"),
    [
        (QueueThroughput(active=100, own=10, per_second=2.0), 5, 3),  # a tenth of all that end: one in 5 s
        (QueueThroughput(active=10_000, own=1, per_second=1.0), 600, 500),
        (QueueThroughput(active=4, own=4, per_second=8.0), 1, 1),
        (QueueThroughput(active=4, own=4, per_second=0.0), 30, 30),
    ],
)
def test_waiting_times_follow_from_the_pace(pace: QueueThroughput, own_s: int, room_s: int) -> None:
    assert (pace.until_one_of_own_ends(), pace.until_room()) == (own_s, room_s)


def test_a_full_queue_says_when_there_is_room(settings: Any, serve: Any, tmp_path: Any) -> None:
    with start_broker(tmp_path / "broker") as broker:
        url = serve(settings.model_copy(update={"redis_url": broker.url, "data_dir": tmp_path, "max_queue": 40}))
        jobs = JobQueue.connect(broker.url, wake_up=lambda _: None, rules=JobRules())
        for _ in range(60):  # 60 ended within five minutes: one in five seconds
            submit(jobs)
            lease = jobs.leases.claim(worker="w")
            assert lease is not None
            jobs.leases.finish(lease)
        for _ in range(40):
            submit(jobs)
        answer = httpx.post(f"{url}/v1/generations", json=small())
        assert (answer.status_code, answer.json()["code"]) == (503, "queue_unavailable")
        assert answer.headers["retry-after"] == "10"  # 40 / 20 jobs, five seconds each
        jobs.close()


# ---------------------------------------------------------------------------------------------------------------- rates


def test_a_bucket_gives_its_burst_and_then_its_rate(broker: Broker) -> None:
    async def take() -> tuple[list[float], float, float]:
        rates = Rates.connect(broker.url, prefix=f"{uuid4().hex}:")
        try:
            first = await asyncio.gather(*(rates.take("a", rate=10.0, burst=8) for _ in range(12)))
            other = await rates.take("b", rate=10.0, burst=8)
            await asyncio.sleep(0.25)
            return list(first), other, await rates.take("a", rate=10.0, burst=8)
        finally:
            await rates.aclose()

    first, other, later = asyncio.run(take())
    assert [wait for wait in first if wait == 0.0] == [0.0] * 8
    assert all(0.0 < wait <= 0.1 for wait in first if wait)
    assert other == later == 0.0


def test_a_key_that_asks_too_fast_is_told_to_wait(settings: Any, serve: Any, tmp_path: Any) -> None:
    keyed = Keyed.start(settings, serve, tmp_path, max_rate=0.002, max_burst=3)
    with keyed.caller() as client, keyed.caller() as other:
        answers = [client.get("/v1/models") for _ in range(5)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
        assert answers[-1].json()["code"] == "too_fast"
        assert 450 < int(answers[-1].headers["retry-after"]) <= 500  # less what the requests took
        assert other.get("/v1/models").status_code == 200
        assert client.get("/livez").status_code == 200
    keyed.close()


def test_without_a_broker_keys_are_still_asked_for_and_nothing_is_slowed_down(
    settings: Any, serve: Any, tmp_path: Any
) -> None:
    broker = start_broker(tmp_path / "broker")
    settings = settings.model_copy(update={"redis_url": broker.url})
    keyed = Keyed.start(settings, serve, tmp_path / "data", max_burst=1, max_rate=0.01)
    with keyed.caller() as client:
        broker.close()
        assert [client.get("/v1/models").status_code for _ in range(2)] == [200, 200]
        answer = client.post("/v1/generations", json=small())
        assert (answer.status_code, answer.json()["code"]) == (503, "queue_unavailable")
        assert httpx.get(f"{keyed.url}/v1/models").status_code == 401
    keyed.close()
    with pytest.raises(QueueUnavailableError):
        keyed.jobs.admin.ping()


# ------------------------------------------------------------------------------------------------------------ the limit


def test_the_limiter_runs_some_queues_some_and_refuses_the_rest_immediately() -> None:
    async def crowd() -> tuple[list[str], list[int]]:
        limiter = SubmissionLimiter(concurrent=2, waiting=4)
        refused: list[int] = []
        kinds: set[str] = set()
        done = threading.Event()

        async def come() -> str:
            try:
                await limiter.run(done.wait)
            except ProblemError as problem:
                kinds.add(problem.kind.code)
                refused.append(int((problem.headers or {})["Retry-After"]))
                return "refused"
            return "served"

        coming = [asyncio.create_task(come()) for _ in range(206)]
        while len(refused) < 200:  # while nobody is served: refusals wait for nothing
            await asyncio.sleep(0.01)
        done.set()
        answers = await asyncio.gather(*coming)
        assert await come() == "served"  # it is free again
        assert kinds == {"busy"}
        return answers, refused

    answers, refused = asyncio.run(crowd())
    assert (answers.count("served"), answers.count("refused")) == (6, 200)
    assert refused == sorted(refused)  # each a place further back in line
    assert refused[0] == 1
    assert 1 < refused[-1] <= 120
    assert max(refused.count(second) for second in set(refused)) < 120  # they do not all come back together


def test_a_failing_function_makes_room_again() -> None:
    async def fail_often() -> None:
        limiter = SubmissionLimiter(concurrent=1, waiting=0)
        for _ in range(5):
            with pytest.raises(ZeroDivisionError):
                await limiter.run(lambda: 1 // 0)

    asyncio.run(fail_often())


def test_a_disk_without_reserve_takes_no_more_work_and_is_not_ready(house: Any, serve: Any) -> None:
    url = serve(house.settings.model_copy(update={"disk_reserve_bytes": 2**60}))
    answer = httpx.post(f"{url}/v1/generations", json=small())
    assert (answer.status_code, answer.json()["code"]) == (507, "disk_full")
    assert "are kept free" in answer.json()["detail"]
    assert answer.headers["retry-after"]
    ready = httpx.get(f"{url}/readyz").json()
    assert ready["checks"]["storage"]["ok"] is False
    assert "kept free" in ready["checks"]["storage"]["detail"]
