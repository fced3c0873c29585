"""Bodies that mean harm: each gets a clear 4xx, quickly, and never its own words back."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

DEEP = 20_000
CORPUS = {
    "empty": (b"", 422),
    "null": (b"null", 422),
    "array": (b"[1]", 422),
    "text": (b'"round"', 422),
    "number": (b"1", 422),
    "unfinished": (b'{"model": ', 400),
    "two documents": (b'{"model": "round"} {}', 400),
    "comment": (b'{"model": "round"} // hi', 400),
    "single quotes": (b"{'model': 'round'}", 400),
    "NaN": (b'{"model": "round", "seed": NaN}', 400),
    "minus infinity": (b'{"model": "round", "grid": -Infinity}', 400),
    "1e400 as a number": (b'{"model": "round", "latent": {"kind": "sampled", "temperature": 1e400}}', 422),
    "1e400 as an integer": (b'{"model": "round", "seed": 1e400}', 422),
    "5000 digits": (b'{"model": "round", "seed": ' + b"9" * 5000 + b"}", 400),
    "400 digits as a number": (b'{"model":"round","latent":{"kind":"sampled","temperature":' + b"9" * 400 + b"}}", 422),
    "member twice": (b'{"model": "round", "seed": 1, "seed": 2}', 400),
    "inner member twice": (b'{"model": "round", "latent": {"kind": "sampled", "kind": "learned"}}', 400),
    "deep arrays": (b"[" * DEEP + b"]" * DEEP, 400),
    "deep objects": (b'{"a":' * 5000 + b"1" + b"}" * 5000, 400),
    "33 levels": (b"[" * 33 + b"]" * 33, 400),
    "not UTF-8": (b'{"model": "\xff\xfe"}', 400),
    "overlong UTF-8": (b'{"model": "\xc0\xae"}', 400),
    "byte order mark": (b'\xef\xbb\xbf{"model": "round"}', 400),
    "UTF-16": ('{"model": "round"}'.encode("utf-16"), 400),
    "lone surrogate as a value": (rb'{"model": "\ud800"}', 422),
    "lone surrogate as a name": (rb'{"model": "round", "\ud800": 1}', 422),
    "NUL": (b'{"model": "round\\u0000"}', 422),
    "bare NUL": (b'{"model": "rou\x00nd"}', 400),
    "long name": (b'{"model": "round", "' + b"x" * 5000 + b'": 1}', 422),
    "3000 unknown members": (json.dumps({f"m{k}": k for k in range(3000)}).encode(), 422),
    "a float for the seed": (b'{"model": "round", "seed": 1.5}', 422),
}


@pytest.mark.parametrize("name", CORPUS)
@pytest.mark.parametrize("path", ["/v1/generations", "/v1/estimates"])
def test_hostile_body_gets_a_problem_document(house: Any, name: str, path: str) -> None:
    body, status = CORPUS[name]
    answer = house.post(body, path=path)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert len(answer.content) < 700_000
    assert answer.json()["detail"]


def test_announced_long_body_is_refused_before_it_is_read(house: Any) -> None:
    place = urlsplit(house.url)
    with socket.create_connection((place.hostname, place.port), timeout=5) as line:
        line.sendall(
            b"POST /v1/generations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 10000000000\r\n\r\n"
        )
        answer = b"".join(iter(lambda: line.recv(65536), b"")).decode()  # until the service hangs up
        assert answer.startswith("HTTP/1.1 413")
        assert "body_too_long" in answer
        assert "65536 bytes" in answer


@pytest.mark.parametrize("path", ["/v1/generations", "/v1/jobs", "/nowhere"])
def test_endless_chunked_body_is_cut_at_the_limit(house: Any, path: str) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(5000):
            sent += 10_000
            yield b" " * 10_000

    try:
        answer = house.client.post(path, content=endless(), headers={"Content-Type": "application/json"})
    except Exception as error:  # the server may hang up while we still send
        assert "Broken pipe" in str(error) or "reset" in str(error) or "disconnected" in str(error)  # noqa: PT017
    else:
        assert answer.status_code in (404, 405, 413)
    assert house.get("/livez").status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "multipart/form-data; boundary=x"},
        {"Content-Type": "application/xml"},
        {"Content-Type": ""},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
    ],
)
def test_body_of_another_type_is_refused(house: Any, headers: dict[str, str]) -> None:
    answer = house.client.post("/v1/generations", content=b'{"model": "round"}', headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON; charset=utf-8"])
def test_json_by_any_spelling_is_accepted(house: Any, kind: str) -> None:
    answer = house.client.post("/v1/estimates", content=b'{"model": "round"}', headers={"Content-Type": kind})
    assert answer.status_code == 200


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
MEMBERS = ["model", "seed", "count", "frames", "times", "grid", "latent", "rotation", "formats", "fragments"]


@settings(max_examples=60)
@given(changes=st.dictionaries(st.sampled_from(MEMBERS), JSON, max_size=3))
def test_any_json_at_all_gets_an_answer_below_500(house: Any, changes: dict[str, Any]) -> None:
    body = json.dumps({"model": "round", "grid": 16, **changes})  # NaN and lone surrogates included
    answer = house.post(body.encode(), path="/v1/estimates")
    assert answer.status_code < 500, (body, answer.text)
    assert answer.json()
