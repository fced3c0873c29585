"""Nobody gets in without a key, and nobody reaches what is another's: every route, every state of a key."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from fastapi.routing import APIRoute
from hostile.corpus_files import box_stl, labels_tiff
from keyed import MODEL, WEIGHTS, Keyed
from served import VERIFY, cytosynth, cytosynth_here

from app.cli.supervisor import ExposedError, check_exposure
from app.main import ROUTERS, create_app
from app.middleware.authentication import PUBLIC, is_loopback, is_public, secret_of
from app.settings import AppSettings
from worker.api_keys import Keys
from worker.errors import KeysError

ROUTES = sorted(
    {
        (method, route.path)
        for router in ROUTERS
        for route in router.routes
        if isinstance(route, APIRoute)
        for method in route.methods
    }
)
GUARDED = [(method, path) for method, path in ROUTES if not is_public(path)]
LEARNED = {"kind": "learned", "index": 0}
BODIES: dict[str, Any] = {
    "/v1/generations": {"model": "round", "frames": 1, "grid": 16},
    "/v1/estimates": {"model": "round", "frames": 1, "grid": 16},
    "/v1/reconstructions": {"model": "round", "uploads": ["cell.stl"], "frames": 1, "grid": 16},
    "/v1/estimates/reconstructions": {"model": "round", "uploads": ["cell.stl"], "frames": 1, "grid": 16},
    "/v1/augmentations": {"model": "round", "source": LEARNED, "frames": 1, "grid": 16},
    "/v1/estimates/augmentations": {
        "model": "round",
        "source": {"kind": "learned", "index": 0},
        "frames": 1,
        "grid": 16,
    },
    "/v1/evaluations": {"model": "round", "uploads": ["cell.stl"], "count": 4},
    "/v1/estimates/evaluations": {"model": "round", "uploads": ["cell.stl"], "count": 4},
    "/v1/trainings": {"name": "mine", "uploads": ["cells.tif"], "steps": 10},
    "/v1/estimates/trainings": {"name": "mine", "uploads": ["cells.tif"], "steps": 10},
    "/v1/models": MODEL,
    "/v1/batches": {"jobs": [{"kind": "generation", "spec": {"model": "round", "frames": 1, "grid": 16}}]},
}
NOTHING = "0" * 32
PUT_UPLOAD = ("PUT", "/v1/uploads/{name}")
PUT_FILE = ("PUT", "/v1/uploads/{name}/{file:path}")
SENDING = (PUT_UPLOAD, PUT_FILE, ("PATCH", "/v1/uploads/{name}"))  # what one sends becomes one's own


@pytest.fixture(scope="module")
def keyed(settings: AppSettings, serve: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    service = Keyed.start(settings, serve, tmp_path_factory.mktemp("keyed"))
    yield service
    service.close()


@pytest.fixture(scope="module")
def owner(keyed: Keyed) -> Iterator[httpx.Client]:
    with keyed.caller() as client:
        yield client


@pytest.fixture(scope="module")
def stranger(keyed: Keyed) -> Iterator[httpx.Client]:
    with keyed.caller() as client:
        yield client


def filled(path: str, *, job: str, upload: str, model: str, batch: str = NOTHING) -> str:
    """Put the names of real things into a route's template; a new sort of parameter must be thought about here."""
    for prefix, values in (
        ("/v1/jobs/", {"{id}": job, "{name:path}": "x.stl"}),
        ("/v1/batches/", {"{id}": batch}),
        ("/v1/links/", {"{id}": job, "{name:path}": "x.stl"}),
        ("/v1/uploads/{name}/", {"{name}": "sequence", "{file:path}": "t000.stl"}),
        ("/v1/uploads/", {"{name}": upload}),
        ("/v1/models/", {"{id}": model}),
        ("/problems/", {"{slug}": "too-large"}),
    ):
        if path.startswith(prefix):
            for parameter, value in values.items():
                path = path.replace(parameter, value)
    assert "{" not in path, f"tests/app/middleware/test_authentication.py does not know what to put into {path}"
    return path


def ask(client: httpx.Client, method: str, path: str, template: str) -> httpx.Response:
    if (method, template) == PUT_UPLOAD:
        return client.put(path, content=b"solid nothing")
    if (method, template) == PUT_FILE:
        return client.put(path, content=box_stl())
    if method == "PATCH":
        headers = {"Upload-Offset": "0", "Upload-Complete": "?1"}
        return client.patch(path, content=WEIGHTS if path.endswith(".safetensors") else b"solid", headers=headers)
    return client.request(method, path, json=BODIES.get(template, {}) if method == "POST" else None)


def test_routes_are_known_and_few_are_public() -> None:
    assert len(GUARDED) > 20
    linked = {"/v1/links/{id}/archive", "/v1/links/{id}/files/{name:path}"}
    assert {path for _, path in ROUTES if is_public(path)} == (PUBLIC - {"/openapi.json"}) | {
        "/problems/{slug}"
    } | linked
    for path in ("/v1", "/v1/anything/new", "/livez/", "//livez", "/LIVEZ", "/static", "/v1/version/x", "/metrics"):
        assert not is_public(path), path


@pytest.mark.parametrize(("method", "template"), GUARDED)
@pytest.mark.parametrize("state", ["none", "wrong", "revoked", "not a key", "twice"])
def test_nobody_comes_in_without_a_good_key(
    keyed: Keyed, owner: httpx.Client, method: str, template: str, state: str
) -> None:
    secret, key = keyed.keys.create(os.urandom(8).hex())
    keyed.keys.revoke(key.id)
    good = owner.headers["Authorization"]
    shown = {
        "none": [], "wrong": [f"Bearer cyto_{'A' * 43}"], "revoked": [f"Bearer {secret}"],
        "not a key": ["Bearer ' OR 1=1 --"], "twice": ["Bearer x", good],
    }[state]  # fmt: skip
    path = filled(template, job=NOTHING, upload="x.stl", model="round")
    headers = [("Authorization", value) for value in shown]
    with httpx.Client(base_url=keyed.url, headers=headers, verify=VERIFY) as client:
        answer = ask(client, method, path, template)
    assert answer.status_code == 401
    assert "Bearer" in answer.headers["www-authenticate"]
    if method != "HEAD":
        assert answer.json()["code"] == "unauthorized"


@pytest.mark.parametrize(
    ("method", "template"), [route for route in ROUTES if is_public(route[1]) and "/links/" not in route[1]]
)
def test_what_is_public_needs_no_key(keyed: Keyed, method: str, template: str) -> None:
    path = filled(template, job="", upload="", model="")
    assert httpx.request(method, f"{keyed.url}{path}", verify=VERIFY).status_code in (
        200,
        503,
    )  # not ready: there is no worker


@pytest.fixture(scope="module")
def belongings(keyed: Keyed, owner: httpx.Client) -> dict[str, str]:
    return {
        "job": keyed.finished_job(owner)["id"], "upload": "mine.safetensors", "model": keyed.model(owner),
        "batch": batch_of(owner),
    }  # fmt: skip


def batch_of(client: httpx.Client) -> str:
    """Have a batch of one canceled job."""
    batch: str = client.post("/v1/batches", json=BODIES["/v1/batches"]).json()["id"]
    assert client.post(f"/v1/batches/{batch}/cancel").status_code == 200
    return batch


@pytest.mark.parametrize(("method", "template"), GUARDED)
def test_what_is_anothers_looks_like_nothing(
    keyed: Keyed, stranger: httpx.Client, owner: httpx.Client, belongings: dict[str, str], method: str, template: str
) -> None:
    theirs = ask(stranger, method, filled(template, **belongings), template)
    if "{" in template and (method, template) not in SENDING:
        nothing = {
            "job": NOTHING, "upload": "nothing.safetensors", "model": f"{belongings['model'][:-4]}0000",
            "batch": NOTHING,
        }  # fmt: skip
        missing = ask(stranger, method, filled(template, **nothing), template)
        assert (theirs.status_code, missing.status_code) == (404, 404)
        if method != "HEAD":
            assert same(theirs.json(), belongings) == same(missing.json(), nothing)
    else:
        for thing in (*belongings.values(), keyed.owner(owner)):
            assert template == "/metrics" or thing not in theirs.text or thing == MODEL["upload"]
    # And all of it is still there.
    for address in ("jobs/{job}", "uploads/{upload}", "batches/{batch}"):
        address = "/v1/" + address.format(**belongings)
        assert owner.get(address).status_code == 200
    assert belongings["model"] in owner.get("/v1/models").text


def same(document: dict[str, Any], names: dict[str, str]) -> str:
    """Return a problem without its request id and without the name that was asked for."""
    text = json.dumps({**document, "request_id": None})
    for name in names.values():
        text = text.replace(name, "…")
    return text


@pytest.mark.parametrize(("method", "template"), GUARDED)
def test_the_owner_reaches_everything(keyed: Keyed, method: str, template: str) -> None:
    with keyed.caller() as client:
        job = keyed.finished_job(client)["id"] if "/jobs/" in template else NOTHING
        model = keyed.model(client) if "models" in template or "uploads" in template else "none"
        if "uploads" in BODIES.get(template, {}):
            assert client.put("/v1/uploads/cell.stl", content=box_stl()).status_code == 201
        if "trainings" in template:
            assert client.put("/v1/uploads/cells.tif", content=labels_tiff(frames=4)).status_code == 201
        batch = batch_of(client) if "{id}" in template and "batches" in template else NOTHING
        path = filled(template, job=job, upload="mine.safetensors", model=model, batch=batch)
        answer = keyed.upload(client) if (method, template) == PUT_UPLOAD else ask(client, method, path, template)
        assert answer.status_code < 300, answer.text


def test_lists_hold_ones_own_things_only(keyed: Keyed, owner: httpx.Client, belongings: dict[str, str]) -> None:
    with keyed.caller() as stranger:
        assert stranger.get("/v1/jobs").json() == {"jobs": [], "next": None}
        assert stranger.get("/v1/uploads").json()["uploads"] == []
        seen = {card["id"] for card in stranger.get("/v1/models").json()["models"]}
        assert {"round", "celegans"} <= seen
        assert belongings["model"] not in seen
        refused = stranger.post("/v1/generations", json={"model": belongings["model"]})
        assert (refused.status_code, refused.json()["code"]) == (422, "unknown_model")
        assert "mine" not in refused.text
    assert [job["id"] for job in owner.get("/v1/jobs").json()["jobs"]].count(belongings["job"]) == 1


def test_results_are_not_shared_between_keys(keyed: Keyed, owner: httpx.Client, belongings: dict[str, str]) -> None:
    spec = owner.get(f"/v1/jobs/{belongings['job']}").json()["spec"]
    assert owner.post("/v1/generations", json=spec).json()["id"] == belongings["job"]
    with keyed.caller() as stranger:
        answer = stranger.post("/v1/generations", json=spec, headers={"Idempotency-Key": "k"})
        assert (answer.status_code, answer.json()["state"]) == (202, "queued")


def test_revocation_holds_from_the_next_request_on(keyed: Keyed) -> None:
    secret, _ = keyed.keys.create("leaver")
    with keyed.caller(secret) as client:
        assert client.get("/v1/jobs").status_code == 200
        keyed.keys.revoke("leaver")
        assert client.get("/v1/jobs").status_code == 401


def test_a_browser_may_send_the_key_as_a_password(keyed: Keyed) -> None:
    secret, _ = keyed.keys.create("browser")
    assert httpx.get(f"{keyed.url}/v1/jobs", auth=("anybody", secret)).status_code == 200
    assert httpx.get(f"{keyed.url}/v1/jobs", auth=(secret, "")).status_code == 401


def test_a_page_of_another_site_changes_nothing(keyed: Keyed, owner: httpx.Client) -> None:
    for site in ("cross-site", "same-site"):
        answer = owner.post(f"/v1/jobs/{NOTHING}/cancel", headers={"Sec-Fetch-Site": site})
        assert (answer.status_code, answer.json()["code"]) == (403, "cross_site")
    assert owner.post(f"/v1/jobs/{NOTHING}/cancel", headers={"Sec-Fetch-Site": "same-origin"}).status_code == 404


@pytest.mark.parametrize("path", ["/v1/jobs", "/livez", "/"])
def test_no_other_origin_is_ever_let_in(keyed: Keyed, path: str) -> None:
    for method in ("GET", "OPTIONS"):
        asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
        answer = httpx.request(method, f"{keyed.url}{path}", headers=asked, verify=VERIFY)
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_a_key_is_asked_for_before_the_body_is_read(keyed: Keyed) -> None:
    place = urlsplit(keyed.url)
    with socket.create_connection((place.hostname, place.port), timeout=5) as line:
        line.sendall(
            b"PUT /v1/uploads/x.stl HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000\r\n"
            b"Expect: 100-continue\r\n\r\n"
        )
        answer = b"".join(iter(lambda: line.recv(65536), b""))  # until the service hangs up
    assert answer.startswith(b"HTTP/1.1 401")
    assert b"100 Continue" not in answer
    assert not list((keyed.settings.data_dir / "uploads" / "incoming").glob("*"))


# ------------------------------------------------------------------------------------------------------ without any key


def asked_from(client: str, host: str, **changes: Any) -> httpx.Response:
    app = create_app(AppSettings(_env_file=None, data_dir=Path("nowhere"), **changes))  # type: ignore[call-arg]

    async def ask_once() -> httpx.Response:
        transport = httpx.ASGITransport(app, client=(client, 5000))
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as session:
            return await session.get("/nothing")

    return asyncio.run(ask_once())


@pytest.mark.parametrize(
    ("client", "host", "status"),
    [
        ("127.0.0.1", "127.0.0.1:8000", 404), ("127.0.0.1", "localhost:8000", 404), ("::1", "[::1]:8000", 404),
        ("192.168.1.7", "192.168.1.5:8000", 403), ("192.168.1.7", "localhost", 403), ("203.0.113.9", "127.0.0.1", 403),
        ("127.0.0.1", "evil.example", 403), ("127.0.0.1", "127.0.0.1.evil.example", 403),
    ],
)  # fmt: skip
def test_without_keys_only_this_machine_is_served_and_by_its_own_name(client: str, host: str, status: int) -> None:
    answer = asked_from(client, host)
    assert answer.status_code == status
    assert answer.json()["code"] == ("closed" if status == 403 else "not_found")


def test_the_operator_may_open_the_service() -> None:
    assert asked_from("192.168.1.7", "cells.example", allow_open=True).status_code == 404


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "cells.example"])
def test_a_public_address_is_not_taken_without_keys(host: str, tmp_path: Path) -> None:
    exposed = AppSettings(_env_file=None, host=host, data_dir=tmp_path)  # type: ignore[call-arg]
    with pytest.raises(ExposedError, match="keys create"):
        check_exposure(exposed)
    check_exposure(exposed.model_copy(update={"allow_open": True}))
    check_exposure(exposed.model_copy(update={"host": "127.0.0.1"}))
    Keys(tmp_path).create("first")
    check_exposure(exposed)


def test_exposing_the_service_is_refused_before_anything_is_started(tmp_path: Path) -> None:
    done = cytosynth("serve", "--host", "0.0.0.0", "--port", "0", "--data-dir", str(tmp_path / "data"))
    assert (done.returncode, (tmp_path / "data").exists()) == (1, False)
    assert "--allow-open" in done.stderr


@pytest.mark.parametrize(
    ("host", "here"), [("127.8.8.8", True), ("::1", True), ("0.0.0.0", False), ("", False), ("localhost.x", False)]
)
def test_loopback_is_this_machine_only(host: str, here: bool) -> None:
    assert is_loopback(host) is here


# ------------------------------------------------------------------------------------------------------------- the keys


def test_a_key_is_kept_as_a_hash_in_a_file_for_its_owner(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    assert not keys.required()
    secret, key = keys.create("lab")
    assert len(secret) - len("cyto_") == 43  # 256 bits
    text = (tmp_path / "keys.json").read_text()
    assert secret not in text
    assert secret[5:] not in text
    assert stat.S_IMODE((tmp_path / "keys.json").stat().st_mode) == 0o600
    assert keys.required()
    assert Keys(tmp_path).find(secret) == key
    assert Keys(tmp_path).find(secret[:-1] + ("A" if secret[-1] != "A" else "B")) is None


def test_the_service_stays_closed_when_its_last_key_is_revoked(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    secret, key = keys.create("only")
    keys.revoke(key.id)
    assert keys.required()
    assert keys.find(secret) is None
    with pytest.raises(KeysError, match="no active key"):
        keys.revoke(key.id)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "other/1", "keys": []}', '{"format": "cytosynth-keys/1"}'])
def test_damaged_keys_let_nobody_in(tmp_path: Path, text: str) -> None:
    keys = Keys(tmp_path)
    secret, _ = keys.create("lab")
    (tmp_path / "keys.json").write_text(text)
    assert keys.required()
    with pytest.raises(KeysError):
        Keys(tmp_path).find(secret)
    assert asked_with_keys(tmp_path, secret).status_code == 401


def asked_with_keys(data_dir: Path, secret: str) -> httpx.Response:
    app = create_app(AppSettings(_env_file=None, data_dir=data_dir))  # type: ignore[call-arg]

    async def ask_once() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as session:
            return await session.get("/v1/jobs", headers={"Authorization": f"Bearer {secret}"})

    return asyncio.run(ask_once())


def test_two_keys_of_one_name_are_not_made(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    keys.create("lab")
    for name in ("lab", "", "x" * 65, "a\nb"):
        with pytest.raises(KeysError):
            keys.create(name)
    assert [key.name for key in keys.all()] == ["lab"]


def test_keys_are_made_listed_and_revoked_from_the_terminal(tmp_path: Path) -> None:
    made = cytosynth_here("keys", "create", "lab", "--data-dir", str(tmp_path))
    secret = made.stdout.strip()
    assert Keys(tmp_path).find(secret) is not None
    listed = cytosynth_here("keys", "list", "--data-dir", str(tmp_path))
    assert "lab" in listed.output
    assert secret not in listed.output
    assert cytosynth_here("keys", "revoke", "lab", "--data-dir", str(tmp_path)).exit_code == 0
    assert Keys(tmp_path).find(secret) is None
    assert cytosynth_here("keys", "revoke", "lab", "--data-dir", str(tmp_path)).exit_code == 1


@pytest.mark.parametrize(
    ("header", "secret"),
    [
        ("Bearer abc", "abc"), ("bearer  abc ", "abc"), ("Basic eDphYmM=", "abc"), ("Basic ???", ""), ("Digest x", ""),
        ("", ""), ("Bearer", ""), ("Basic eA==", ""), ("Basic /////w==", ""),
    ],
)  # fmt: skip
def test_keys_are_read_out_of_headers(header: str, secret: str) -> None:
    assert secret_of(header) == secret
