"""Specs, addresses and headers that mean harm: each gets a clear answer below 500, quickly, and leaves nothing."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

BASE = {"model": "celegans", "frames": 1, "grid": 16, "formats": ["stl"]}
UNKNOWN = "0" * 32
SPECS: dict[str, dict[str, Any]] = {
    **{f"frames {value!r}": {"frames": value} for value in (
        0, -1, 1001, 2**31, 2**63, 2**200, True, "1", 1.5, [1], {},
    )},
    **{f"grid {value!r}": {"grid": value} for value in (
        0, 1, 7, 2049, 4097, -64, 2**63, "64", None, [], [64], [64, 64], [64, 64, 0], [64, 64, 64, 64], [2**40] * 3,
        [64, 64, True], {"x": 64},
    )},
    **{f"seed {value!r}": {"seed": value} for value in (-1, 2**64, 2**64 + 1, 10**30, 1.5, "7", True, [7])},
    **{f"count {value!r}": {"count": value} for value in (0, -1, 100_001, 2**31, "1", True)},
    **{f"times {value!r}": {"frames": None, "times": value} for value in (
        [], [2.0], [-1.0000001], [0.5, 0.5], [0.5, 0.1], "0", [None], [[0.0]], [1e300],
    )},
    "1001 times": {"frames": None, "times": [-1 + k / 501 for k in range(1001)]},
    "overflowing product": {"count": 1000, "frames": 1000, "grid": 256},
    "a product just over the budget": {"count": 4, "frames": 31, "grid": 256, "formats": ["tiff"]},
    **{f"rotation {value!r}": {"rotation": value} for value in (
        "up", [0, 0, 0, 0], [1, 0, 0], [1e300] * 4, [1e-300, 0, 0, 0], 90, {"w": 1}, [1, 0, 0, "0"],
    )},
    **{f"formats {value!r}": {"formats": value} for value in (
        [], ["exe"], "stl", ["stl", "stl"], ["stl"] * 100, [None], ["../stl"], [["stl"]],
    )},
    **{f"latent {json.dumps(value)[:40]}": {"latent": value} for value in (
        None, [], "sampled", {"kind": "evil"}, {"kind": ["sampled"]}, {"kind": "sampled", "temperature": 2.1},
        {"kind": "sampled", "temperature": -0.1}, {"kind": "learned"}, {"kind": "learned", "index": 10**9},
        {"kind": "learned", "index": -1}, {"kind": "nearby", "index": 0, "noise": 99},
        {"kind": "interpolated", "first": 0, "second": 0, "weight": 2}, {"kind": "explicit", "values": []},
        {"kind": "explicit", "values": [0.0]}, {"kind": "explicit", "values": [0.0] * 1025},
        {"kind": "explicit", "values": ["0"] * 64}, {"kind": "explicit", "values": [[0.0]] * 64},
        {"kind": "sampled", "index": 0},
    )},
    **{f"model {value!r}": {"model": value} for value in (
        "nobody", "", "..", "../celegans", "/etc", "celegans/", "CELEGANS", "celegans ", "x" * 65, 7, None,
        ["celegans"],         "c\u00e9legans", "celegans\n",
    )},
    "fragments of another kind": {"fragments": "shred"},
    "an unknown member": {"__proto__": {}},
    "a member with a long name": {"x" * 10_000: 1},
    "a member that looks like a path": {"../../x": 1},
}  # fmt: skip


def test_the_corpus_is_large() -> None:
    assert len(SPECS) >= 95


@pytest.mark.parametrize("name", SPECS)
def test_hostile_spec_is_refused_with_its_place(victim: Any, name: str) -> None:
    begun = time.process_time()  # of this process, which is the service too
    answer = victim.post("/v1/generations", content=json.dumps({**BASE, **SPECS[name]}), headers=JSON)
    assert time.process_time() - begun < 2.0
    problem = answer.json()
    assert answer.status_code in (413, 422), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["errors"]
    assert all(fault["detail"] for fault in problem["errors"])
    assert len(answer.content) < 20_000
    assert victim.get("/v1/jobs").json()["jobs"] == []


JSON = {"Content-Type": "application/json"}
IDS = [
    "%2e%2e", "..", "%00", "a%00b", "%0d%0aSet-Cookie:x=1", "' OR 1=1 --", "${jndi:ldap://x}", "{{7*7}}", "%ff%fe", "é",
    "\U0001f9ec", "x" * 3000, "-1", "1e9", "null", "0" * 31, "0" * 33, "G" * 32, "*", "cytosynth:job:*",
]  # fmt: skip


@pytest.mark.parametrize("job_id", IDS, ids=range(len(IDS)))
@pytest.mark.parametrize("place", ["/v1/jobs/{}", "/v1/jobs/{}/archive", "/v1/models/{}", "/v1/uploads/{}"])
def test_hostile_id_finds_nothing(victim: Any, job_id: str, place: str) -> None:
    for method in ("GET", "DELETE"):
        if method == "DELETE" and "archive" in place:
            continue
        answer = victim.request(method, place.format(job_id), follow_redirects=False)
        assert answer.status_code in (404, 405, 422), (method, answer.text)
        assert answer.headers["content-type"] == "application/problem+json"
        assert "set-cookie" not in answer.headers


NAMES = ["../manifest.json", "..%2f..%2fkeys.json", "%2e%2e%2fx", "/etc/passwd", "a" * 256, "a/" * 200, "x%00.stl", "."]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_hostile_file_name_leads_nowhere(victim: Any, name: str) -> None:
    for path in (f"/v1/jobs/{UNKNOWN}/files/{name}", f"/static/{name}"):
        assert victim.get(path, follow_redirects=False).status_code in (404, 422)


HEADERS: dict[str, tuple[str, dict[str, str], set[int]]] = {
    "10 kB Idempotency-Key": ("/v1/generations", {"Idempotency-Key": "k" * 10_000}, {422}),
    "empty Idempotency-Key": ("/v1/generations", {"Idempotency-Key": ""}, {422}),
    "Idempotency-Key with spaces": ("/v1/generations", {"Idempotency-Key": "a b"}, {422}),
    "endless Prefer": ("/v1/generations", {"Prefer": "wait=1," * 1000}, {422}),
    "another media type": ("/v1/generations", {"Content-Type": "text/plain"}, {415}),
    "a form": ("/v1/generations", {"Content-Type": "multipart/form-data; boundary=x"}, {415}),
    "gzip": ("/v1/generations", {"Content-Encoding": "gzip"}, {415}),
    "a lying Content-Length of text": ("/v1/generations", {"Content-Length": "many"}, {413}),
    "a lying Content-Length below zero": ("/v1/generations", {"Content-Length": "-1"}, {413}),
    "a Content-Length of 10^30": ("/v1/generations", {"Content-Length": "1" + "0" * 30}, {413}),
    "another Host": ("/v1/generations", {"Host": "evil.example"}, {403}),
    "a Host of nothing": ("/v1/generations", {"Host": ""}, {403}),
    "another site": ("/v1/generations", {"Sec-Fetch-Site": "cross-site"}, {403}),
}


@pytest.mark.parametrize("name", HEADERS)
def test_hostile_header_is_refused(victim: Any, name: str) -> None:
    path, headers, statuses = HEADERS[name]
    answer = victim.post(path, content=b"{}", headers={**JSON, **headers})
    assert answer.status_code in statuses, answer.text
    assert answer.json()["detail"]


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/livez", {"X-Request-ID": "x" * 5000}), ("/livez", {"Cookie": "a=b; " * 1000}),
        ("/v1/jobs", {"Authorization": "Bearer " + "x" * 5000}), ("/v1/jobs", {"Accept": "*/*;q=" + "9" * 500}),
        ("/static/page.css", {"Range": "bytes=" + ",".join(f"{k}-{k}" for k in range(10_000))}),
        ("/static/page.css", {"Range": "bytes=-" + "9" * 300}), ("/static/page.css", {"If-None-Match": '"x",' * 2000}),
        ("/problems", {"Accept": "text/html," * 90}), ("/v1/jobs", {"X-Forwarded-For": "127.0.0.1"}),
        ("/v1/models", {"X-HTTP-Method-Override": "DELETE"}), ("/v1/jobs", {"Last-Event-ID": "9" * 5000}),
    ],
)  # fmt: skip
def test_strange_header_does_no_harm(victim: Any, path: str, headers: dict[str, str]) -> None:
    answer = victim.get(path, headers=headers)
    assert answer.status_code < 500
    assert len(answer.content) < 1_000_000


@pytest.mark.parametrize(
    "query",
    [
        "limit=1e9",
        "limit=%00",
        "limit=",
        "state=queued&state=x",
        "cursor=%ff",
        "kind=" + "a" * 5000,
        "cursor=" + "9" * 16,
    ],
)
def test_hostile_query_is_answered(victim: Any, query: str) -> None:
    assert victim.get(f"/v1/jobs?{query}").status_code in (200, 422)


def test_a_model_removed_between_request_and_run_is_a_failed_job_not_a_fault(victim: Any) -> None:
    from hostile.corpus_files import weights

    victim.put("/v1/uploads/gone.safetensors", content=weights())
    body = {
        "upload": "gone.safetensors", "id": "gone", "title": "G", "micrometres": 1.0, "minutes": 1.0, "lipschitz": 1.0,
    }  # fmt: skip
    model_id = victim.post("/v1/models", json=body).json()["id"]
    job = victim.post("/v1/generations", json={**BASE, "model": model_id}).json()
    assert victim.delete(f"/v1/models/{model_id}").status_code == 204
    assert victim.get(job["links"]["self"]).json()["state"] == "queued"
    again = victim.post("/v1/generations", json={**BASE, "model": model_id})
    assert (again.status_code, again.json()["code"]) == (422, "unknown_model")
    assert victim.delete(job["links"]["self"]).json()["state"] == "canceled"
    victim.delete(job["links"]["self"])
    victim.delete("/v1/uploads/gone.safetensors")
