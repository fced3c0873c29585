"""Results in a real object store, served by two web processes that share nothing else but the broker."""

from __future__ import annotations

import hashlib
import io
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from object_server import ObjectServer
from store_proxy import StoreProxy, store_proxy
from workbench import eventually

from app.settings import AppSettings
from model.card import SHIPPED_MODELS, WEIGHTS_FILE
from worker.broker.embedded import start_broker
from worker.jobs import JobQueue
from worker.storage.objects import Objects
from worker.storage.stored_artifacts import open_artifacts

pytestmark = pytest.mark.slow

STL = "cell_0000/frame_0000.stl"
LARGE = "cell_0000/labels.tif"
FILES = {STL: b"solid one" * 1000, LARGE: bytes(range(256)) * 40_000, "cell_0000/empty.ply": b""}


@pytest.fixture(scope="module")
def way(object_storage: ObjectServer) -> Iterator[StoreProxy]:
    with store_proxy(object_storage.endpoint) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def hosts(
    house: Any,
    settings: AppSettings,
    serve: Callable[[AppSettings], str],
    object_storage: ObjectServer,
    way: StoreProxy,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[list[Any]]:
    """Two web processes with data folders of their own; the second sends clients to the store."""
    folder = tmp_path_factory.mktemp("hosts")
    with pytest.MonkeyPatch.context() as patch, start_broker(folder / "broker") as broker:
        for name, value in object_storage.environment(way.url).items():
            patch.setenv(name, value)
        patch.setattr("worker.storage.objects.RETRY_S", 2.0)
        store, started = object_storage.url(), []
        for number in range(2):
            ours = settings.model_copy(
                update={
                    "redis_url": broker.url,
                    "data_dir": folder / str(number),
                    "store": store,
                    "store_redirect_seconds": 60.0 * number,
                }
            )
            artifacts = open_artifacts(ours.data_dir, store)
            jobs = JobQueue.connect(broker.url, artifacts=artifacts, wake_up=lambda _: None)
            url = serve(ours)
            client = httpx.Client(base_url=url, timeout=60)
            started.append(type(house)(url, client, jobs, artifacts, ours.model_dirs[0], ours))
        yield started
        for host in started:
            host.client.close()
            host.jobs.close()


@pytest.fixture
def job(hosts: list[Any]) -> dict[str, Any]:
    """A job that was asked for at one host and computed at the other."""
    job: dict[str, Any] = hosts[0].submit()
    hosts[1].carry_out(job["id"], files=FILES)
    return job


def test_files_are_served_by_a_host_that_has_none_of_them(hosts: list[Any], job: dict[str, Any]) -> None:
    listed = hosts[0].get(job["links"]["files"]).json()["files"]
    assert [file["name"] for file in listed] == sorted(FILES)
    for file in listed:
        content, etag = FILES[file["name"]], f'"{file["sha256"]}"'
        answer = hosts[0].get(file["href"])
        assert answer.content == content
        assert hashlib.sha256(content).hexdigest() == file["sha256"]
        assert answer.headers["etag"] == etag
        assert answer.headers["content-type"] == file["media_type"]
        assert answer.headers["content-length"] == str(len(content))
        assert answer.headers["content-disposition"] == f'attachment; filename="{file["name"].replace("/", "_")}"'
        assert hosts[0].get(file["href"], **{"If-None-Match": etag}).status_code == 304
        head = hosts[0].client.head(file["href"])
        assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(content)))
    manifest = hosts[0].get(job["links"]["manifest"])
    assert hosts[1].get(job["links"]["manifest"]).content == manifest.content
    assert list((hosts[0].settings.data_dir / "results").glob("*")) == []


@pytest.mark.parametrize(
    ("wanted", "first", "stop"),
    [("bytes=0-9", 0, 10), ("bytes=5000000-", 5_000_000, None), ("bytes=-7", -7, None), ("bytes=9-9", 9, 10)],
)
def test_a_download_is_resumed(hosts: list[Any], job: dict[str, Any], wanted: str, first: int, stop: int) -> None:
    address = f"/v1/jobs/{job['id']}/files/{LARGE}"
    answer = hosts[0].get(address, Range=wanted)
    assert (answer.status_code, answer.content) == (206, FILES[LARGE][first:stop])
    other = hosts[0].get(address, Range=wanted, **{"If-Range": '"other"'})
    assert (other.status_code, other.content) == (200, FILES[LARGE])


def test_a_range_outside_is_refused(hosts: list[Any], job: dict[str, Any]) -> None:
    answer = hosts[0].get(f"/v1/jobs/{job['id']}/files/{LARGE}", Range="bytes=99999999-")
    assert (answer.status_code, answer.headers["content-range"]) == (416, f"bytes */{len(FILES[LARGE])}")


def test_the_archive_is_the_same_at_every_host_and_can_be_resumed(hosts: list[Any], job: dict[str, Any]) -> None:
    whole = [host.get(job["links"]["archive"]) for host in hosts]
    assert whole[0].content == whole[1].content
    with zipfile.ZipFile(io.BytesIO(whole[0].content)) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in FILES} == FILES
    part = hosts[0].get(job["links"]["archive"], Range="bytes=6000000-")
    assert (part.status_code, part.content) == (206, whole[0].content[6_000_000:])


def test_clients_are_sent_to_the_store(hosts: list[Any], job: dict[str, Any]) -> None:
    listed = hosts[1].get(job["links"]["files"]).json()["files"]
    for file in listed:
        moved = hosts[1].get(file["href"])
        assert (moved.status_code, moved.content) == (307, b"")
        assert moved.headers["cache-control"] == "private, no-store"
        answer = httpx.get(moved.headers["location"])  # without a key of the service, or of the store
        assert answer.content == FILES[file["name"]]
        assert answer.headers["content-type"] == file["media_type"]
        assert answer.headers["content-disposition"] == f'attachment; filename="{file["name"].replace("/", "_")}"'
        part = httpx.get(moved.headers["location"], headers={"Range": "bytes=3-5"})
        if FILES[file["name"]]:
            assert (part.status_code, part.content) == (206, FILES[file["name"]][3:6])
        etag = f'"{file["sha256"]}"'
        assert hosts[1].get(file["href"], **{"If-None-Match": etag}).status_code == 304
        assert hosts[1].client.head(file["href"]).headers["etag"] == etag
    other = moved.headers["location"].replace(listed[-1]["sha256"], listed[0]["sha256"])
    assert httpx.get(other).status_code == 403  # the signature is for one file
    assert hosts[1].get(f"/v1/jobs/{job['id']}/files/none.stl").status_code == 404
    assert hosts[1].get(f"/v1/jobs/{job['id']}/files/manifest.json").status_code == 200


def test_an_address_in_the_store_expires(hosts: list[Any], job: dict[str, Any]) -> None:
    file, _ = hosts[0].artifacts.sized(job["id"], STL)
    address = file.url(seconds=1)
    assert httpx.get(address).status_code == 200
    time.sleep(2.5)
    assert httpx.get(address).status_code == 403


def test_a_damaged_file_is_refused_and_the_job_is_computed_again(hosts: list[Any], job: dict[str, Any]) -> None:
    sha256 = hashlib.sha256(FILES[STL]).hexdigest()
    store = Objects(hosts[0].settings.store)
    store.put_over(f"results/{job['id']}/files/{sha256}", b"solid two" * 1000)
    for wanted in ({}, {"Range": "bytes=0-9"}):
        answer = hosts[0].get(f"/v1/jobs/{job['id']}/files/{STL}", **wanted)
        assert (answer.status_code, answer.json()["code"]) == (410, "artifact_damaged")
    assert hosts[0].get(f"/v1/jobs/{job['id']}/files/{LARGE}").content == FILES[LARGE]
    assert not hosts[1].artifacts.reusable(job["id"])


def test_a_job_removed_at_one_host_is_gone_at_the_other(hosts: list[Any], job: dict[str, Any]) -> None:
    assert hosts[1].client.delete(job["links"]["self"]).status_code in (200, 204)
    assert hosts[0].get(job["links"]["files"]).status_code == 404
    store = Objects(hosts[0].settings.store)
    assert [info.key for info in store.below("") if job["id"] in info.key] == []


def test_a_flushed_broker_is_restored_from_the_store(hosts: list[Any], job: dict[str, Any]) -> None:
    waiting = hosts[1].submit()
    hosts[0].jobs._redis.flushall()
    assert hosts[0].get(waiting["links"]["self"]).json()["state"] == "queued"
    restored = hosts[1].get(job["links"]["self"]).json()
    assert restored["state"] == "succeeded"
    assert restored["spec"] == job["spec"]
    assert hosts[0].get(f"/v1/jobs/{job['id']}/files/{STL}").content == FILES[STL]


def test_a_store_that_refuses_is_503_and_nothing_is_lost(
    hosts: list[Any], job: dict[str, Any], way: StoreProxy
) -> None:
    with way.refusing():
        refused = [
            hosts[0].post({"model": "round", "frames": 2, "grid": 16}),
            hosts[0].get(job["links"]["files"]),
            hosts[0].get(f"/v1/jobs/{job['id']}/files/{STL}"),
            hosts[0].get(job["links"]["archive"]),
        ]
        assert [answer.status_code for answer in refused] == [503] * 4
        assert {answer.json()["code"] for answer in refused} <= {"store_unavailable", "queue_unavailable"}
        assert all(int(answer.headers["retry-after"]) > 0 for answer in refused)
        assert hosts[0].get(job["links"]["self"]).json()["state"] == "succeeded"
    assert hosts[0].get(f"/v1/jobs/{job['id']}/files/{STL}").content == FILES[STL]


def test_readiness_tells_of_the_store(hosts: list[Any], way: StoreProxy, tmp_path: Path) -> None:
    def storage() -> dict[str, Any]:
        document = hosts[0].get("/readyz").json()
        found: dict[str, Any] = document["checks"]["storage"]
        return found

    eventually(lambda: storage()["ok"])
    with way.refusing():
        eventually(lambda: not storage()["ok"])
        assert "object store" in storage()["detail"]
    eventually(lambda: storage()["ok"])


def test_an_upload_and_a_model_of_it_are_known_at_every_host(hosts: list[Any]) -> None:
    weights = (SHIPPED_MODELS / "a549" / WEIGHTS_FILE).read_bytes()
    sent = hosts[0].client.put("/v1/uploads/mine.safetensors", content=weights)
    assert sent.status_code == 201, sent.text
    assert [upload["name"] for upload in hosts[1].get("/v1/uploads").json()["uploads"]] == ["mine.safetensors"]
    made = hosts[1].post({"upload": "mine.safetensors", "id": "mine"}, "/v1/models")
    assert made.status_code == 201, made.text
    path = f"/v1/models/{made.json()['id']}"
    eventually(lambda: hosts[0].get(path).status_code == 200)
    assert hosts[0].get(path).json()["sha256"] == hashlib.sha256(weights).hexdigest()
    assert hosts[0].client.delete(path).status_code == 204
    eventually(lambda: hosts[1].get(path).status_code == 404)
    assert hosts[1].client.delete("/v1/uploads/mine.safetensors").status_code == 204
    assert hosts[0].get("/v1/uploads").json()["uploads"] == []
