"""Signed links: they open what they were made for, for as long as they say, and nothing else."""

from __future__ import annotations

import hashlib
import io
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from keyed import Keyed

from app.services.links import signature
from app.settings import AppSettings

KEY = "0123456789abcdef" * 2


@pytest.fixture(scope="module")
def keyed(
    settings: AppSettings, serve: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Keyed]:
    service = Keyed.start(settings, serve, tmp_path_factory.mktemp("linked"), link_key=KEY)
    yield service
    service.close()


@pytest.fixture(scope="module")
def owner(keyed: Keyed) -> Iterator[httpx.Client]:
    with keyed.caller() as client:
        yield client


@pytest.fixture(scope="module")
def job(keyed: Keyed, owner: httpx.Client) -> str:
    job_id: str = keyed.finished_job(owner)["id"]
    return job_id


def link(client: httpx.Client, job: str, **wanted: Any) -> str:
    answer = client.post(f"/v1/jobs/{job}/links", json=wanted)
    assert answer.status_code == 201, answer.text
    href: str = answer.json()["href"]
    return href


def refused(keyed: Keyed, address: str) -> bool:
    answer = httpx.get(keyed.url + address)
    return (answer.status_code, answer.json()["code"]) == (403, "link_invalid")


def test_a_link_opens_its_file_without_a_key(keyed: Keyed, owner: httpx.Client, job: str) -> None:
    address = keyed.url + link(owner, job, file="x.stl")
    answer = httpx.get(address)
    assert (answer.status_code, answer.content) == (200, b"solid")
    etag = answer.headers["etag"]
    assert etag == f'"{hashlib.sha256(b"solid").hexdigest()}"'
    assert httpx.get(address, headers={"If-None-Match": etag}).status_code == 304
    assert httpx.get(address, headers={"Range": "bytes=1-2"}).content == b"ol"
    head = httpx.head(address)
    assert (head.status_code, head.headers["content-length"], head.content) == (200, "5", b"")


def test_a_link_opens_the_archive_without_a_key(keyed: Keyed, owner: httpx.Client, job: str) -> None:
    answer = httpx.get(keyed.url + link(owner, job))
    assert answer.content == owner.get(f"/v1/jobs/{job}/archive").content
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert sorted(archive.namelist()) == ["manifest.json", "x.stl"]


def test_whatever_is_changed_in_a_link_ends_it(keyed: Keyed, owner: httpx.Client, job: str) -> None:
    file, archive = link(owner, job, file="x.stl"), link(owner, job)
    other = keyed.finished_job(owner)["id"]
    (expires,) = parse_qs(urlsplit(file).query)["expires"]
    for changed in (
        file.replace("x.stl", "manifest.json"), file.replace(job, other), file.replace("/files/x.stl", "/archive"),
        archive.replace(job, other), archive.replace("/archive", "/files/x.stl"),
        file.replace(f"expires={expires}", f"expires={int(expires) + 1}"),
        file[:-1] + ("A" if file[-1] != "A" else "E"),
    ):  # fmt: skip
        assert refused(keyed, changed), changed
    assert httpx.get(keyed.url + file).status_code == 200
    for unfit in (file.partition("?")[0], file + "&cell=0", file[:-1]):
        assert httpx.get(keyed.url + unfit).status_code == 422, unfit


def test_a_link_ends_at_its_time(keyed: Keyed, owner: httpx.Client, job: str) -> None:
    answer = owner.post(f"/v1/jobs/{job}/links", json={"seconds": 1}).json()
    time.sleep(1.1)
    assert refused(keyed, answer["href"])
    past = int(time.time()) - 1
    assert refused(keyed, f"/v1/links/{job}/archive?expires={past}&signature={signature(KEY, job, '', past)}")


def test_removing_the_job_or_revoking_the_key_ends_its_links(keyed: Keyed) -> None:
    secret, key = keyed.keys.create("leaves")
    with keyed.caller(secret) as client:
        removed, kept = (keyed.finished_job(client)["id"] for _ in range(2))
        first, second = link(client, removed), link(client, kept)
        assert client.delete(f"/v1/jobs/{removed}").status_code == 204
    assert refused(keyed, first)
    assert httpx.get(keyed.url + second).status_code == 200
    keyed.keys.revoke(key.id)
    assert refused(keyed, second)


def test_links_of_a_time_without_keys_end_with_the_first_key(
    settings: AppSettings, serve: Callable[..., str], tmp_path: Path
) -> None:
    service = Keyed.start(settings, serve, tmp_path, link_key=KEY)
    with service.caller("") as client:
        address = link(client, service.finished_job(client)["id"])
    assert httpx.get(service.url + address).status_code == 200
    service.keys.create("first")
    assert refused(service, address)
    service.close()


def test_only_its_owner_makes_links_to_a_job_and_only_to_what_it_has(
    keyed: Keyed, owner: httpx.Client, job: str
) -> None:
    with keyed.caller() as stranger:
        assert stranger.post(f"/v1/jobs/{job}/links", json={}).json()["code"] == "job_not_found"
    for name in ("y.stl", "../../keys.json"):
        assert owner.post(f"/v1/jobs/{job}/links", json={"file": name}).json()["code"] == "artifact_not_found"
    queued = owner.post("/v1/generations", json={"model": "round", "frames": 1, "grid": 16}).json()["id"]
    assert owner.post(f"/v1/jobs/{queued}/links", json={}).json()["code"] == "job_not_finished"
    assert owner.post(f"/v1/jobs/{job}/links", json={"seconds": 10**7}).status_code == 422


def test_without_a_key_in_the_settings_there_are_no_links(
    settings: AppSettings, serve: Callable[..., str], tmp_path: Path
) -> None:
    service = Keyed.start(settings, serve, tmp_path, link_key=None)
    with service.caller() as client:
        job = service.finished_job(client)["id"]
        answer = client.post(f"/v1/jobs/{job}/links", json={})
    assert (answer.status_code, answer.json()["code"]) == (403, "links_off")
    expires = int(time.time()) + 1000
    for key in ("", KEY, "None"):
        assert refused(
            service, f"/v1/links/{job}/archive?expires={expires}&signature={signature(key, job, '', expires)}"
        )
    service.close()
