"""Two hosts with data folders of their own, each a whole service, on one object store and one broker."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from object_server import ObjectServer
from served import Served, served
from workbench import eventually

from model.network.checkpoint import Checkpoint
from model.output.verify import verify_result
from model.spec import GenerationSpec
from model.synthesis import synthesize
from worker.broker.embedded import Broker, start_broker
from worker.broker.urls import redis_url
from worker.storage.objects import Objects

pytestmark = pytest.mark.slow

BODY = {"model": "tiny", "seed": 3, "count": 70, "frames": 2, "grid": 32, "formats": ["stl", "tiff"]}
SHORT = {
    "CYTOSYNTH_LEASE_SECONDS": "10", "CYTOSYNTH_HEARTBEAT_SECONDS": "1", "CYTOSYNTH_SWEEP_SECONDS": "1",
    "CYTOSYNTH_HINT_AFTER_SECONDS": "2", "CYTOSYNTH_JANITOR_SECONDS": "10", "CYTOSYNTH_THREADS": "1",
}  # fmt: skip


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with start_broker(tmp_path_factory.mktemp("broker") / "broker") as started:
        yield started


@pytest.fixture(scope="module")
def store(object_storage: ObjectServer) -> Iterator[Objects]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in object_storage.environment().items():
            patch.setenv(name, value)
        yield Objects(object_storage.url())


@pytest.fixture(scope="module")
def hosts(
    broker: Broker, store: Objects, tiny_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Served]]:
    settings = {
        **SHORT, "CYTOSYNTH_REDIS_URL": broker.url, "CYTOSYNTH_STORE": store._url,
        "CYTOSYNTH_MODEL_DIRS": str(tiny_models),
    }  # fmt: skip
    folder = tmp_path_factory.mktemp("hosts")
    with ExitStack() as stack:
        yield [stack.enter_context(served(folder / name, **settings)) for name in ("a", "b")]


def get(host: Served, path: str) -> httpx.Response:
    return httpx.get(f"{host.address}{path}", timeout=120)


@pytest.mark.timeout(1800)
def test_a_job_shared_by_two_hosts_ends_once_with_the_bytes_of_one(
    hosts: list[Served], broker: Broker, store: Objects, tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """A worker of one host is killed in the middle, the broker loses its data, and every host serves every file."""
    spec = GenerationSpec.model_validate(BODY).completed()
    assert spec.shards() >= 3
    first, second = hosts
    job: dict[str, Any] = httpx.post(f"{first.address}/v1/generations", json=BODY, timeout=60).json()
    path = job["links"]["self"]

    def now(host: Served = first) -> dict[str, Any]:
        document: dict[str, Any] = get(host, path).json()
        return document

    eventually(lambda: now()["shards"]["running"] == 2, within_s=240)
    doomed = second.worker()
    assert doomed is not None
    doomed.kill()
    eventually(lambda: now()["shards"]["done"] >= 1, within_s=240)
    client = redis.Redis.from_url(redis_url(broker.url))
    client.flushall()
    eventually(lambda: now(second)["state"] not in ("queued", "running"), within_s=300)
    assert [now(host)["state"] for host in hosts] == ["succeeded", "succeeded"], (first.log(), second.log())
    assert [len(get(host, "/v1/jobs").json()["jobs"]) for host in hosts] == [1, 1]

    archives = [get(host, job["links"]["archive"]).content for host in hosts]
    assert archives[0] == archives[1]
    with zipfile.ZipFile(io.BytesIO(archives[0])) as archive:
        archive.extractall(tmp_path / "all")
    assert list(verify_result(tmp_path / "all")) == []
    assert len(list((tmp_path / "all").glob("cell_*"))) == BODY["count"]
    # Cells of the first, a middle and the last shard, computed here.
    for index in (0, 35, 69):
        alone = tmp_path / str(index)
        alone.mkdir()
        synthesize(spec.model_copy(update={"first_index": index, "count": 1}), tiny_checkpoint, alone)
        made = [file for file in (alone / f"cell_{index:04d}").iterdir() if file.is_file()]
        assert len(made) == 3  # two surfaces and the labels
        for file in made:
            name = file.relative_to(alone).as_posix()
            assert (tmp_path / "all" / name).read_bytes() == file.read_bytes()
            assert get(second, f"{job['links']['files']}/{name}").content == file.read_bytes()

    # Nothing is left but what the job needs, in the store and on both hosts.
    eventually(lambda: not store.below("parts/"), within_s=120)
    for host in hosts:
        eventually(lambda host=host: not list((host.data_dir / "staging").iterdir()), within_s=120)  # type: ignore[misc]
        assert not list((host.data_dir / "results").glob("*/*"))
        assert not list((host.data_dir / "requests").glob("*"))
    again = httpx.post(f"{second.address}/v1/generations", json=BODY, timeout=60).json()
    assert again["id"] == job["id"]  # the other host answers with the same job
    client.close()
