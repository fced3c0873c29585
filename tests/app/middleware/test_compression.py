"""Text is sent in the coding that the client asks for, and nothing else is touched."""

from __future__ import annotations

import gzip
import json
from typing import Any

import httpx
import pytest
import zstandard

from app.middleware.compression import LEAST_BYTES, preferred_coding

OBJ = b"".join(b"v %d 0.5 0.25\n" % k for k in range(60_000))
FILES = {"cell_0000/frame_0000.obj": OBJ, "cell_0000/frame_0000.stl": b"\0" * 5000}


@pytest.fixture(scope="module")
def job(house: Any) -> str:
    job_id: str = house.submit(formats=["obj", "stl"])["id"]
    house.carry_out(job_id, files=FILES)
    return job_id


def raw(house: Any, path: str, coding: str | None, method: str = "GET", **more: str) -> tuple[httpx.Response, bytes]:
    """Return an answer and its body as it was sent."""
    headers = {"Accept-Encoding": coding or "identity", **more}
    with httpx.stream(method, house.url + path, headers=headers, timeout=30) as answer:
        return answer, b"".join(answer.iter_raw())


def decoded(coding: str, body: bytes) -> bytes:
    return gzip.decompress(body) if coding == "gzip" else zstandard.ZstdDecompressor().decompressobj().decompress(body)


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_text_is_smaller_on_the_way_and_the_same_at_the_end(house: Any, job: str, coding: str) -> None:
    here = f"/v1/jobs/{job}/files/cell_0000/frame_0000.obj"
    plain, content = raw(house, here, None)
    assert content == OBJ
    answer, body = raw(house, here, coding)
    assert answer.headers["content-encoding"] == coding
    assert decoded(coding, body) == OBJ
    assert len(body) < len(OBJ) / 3
    assert answer.headers["etag"] == f"W/{plain.headers['etag']}"
    for told in (plain, answer):
        assert "accept-encoding" in told.headers["vary"].lower()
    for path in ("/openapi.json", "/", "/v1/models", "/static/page.js"):
        answer, body = raw(house, path, coding)
        assert answer.headers["content-encoding"] == coding
        assert decoded(coding, body) == raw(house, path, None)[1]


def test_an_encoded_answer_is_revalidated_and_never_resumed(house: Any, job: str) -> None:
    here = f"/v1/jobs/{job}/files/cell_0000/frame_0000.obj"
    weak = raw(house, here, "gzip")[0].headers["etag"]
    whole, content = raw(house, here, "gzip", Range="bytes=0-9", **{"If-Range": weak})
    assert (whole.status_code, content) == (200, OBJ)  # a weak tag resumes nothing (RFC 9110 §13.1.5)
    part, content = raw(house, here, "gzip", Range="bytes=10-29")
    assert (part.status_code, content) == (206, OBJ[10:30])
    assert "content-encoding" not in part.headers


def test_not_modified_has_the_tag_and_vary_of_the_answer_it_stands_for(house: Any, job: str) -> None:
    files = f"/v1/jobs/{job}/files/cell_0000"
    paths = (
        f"{files}/frame_0000.obj", f"{files}/frame_0000.stl", f"/v1/jobs/{job}/manifest", f"/v1/jobs/{job}/archive",
        "/static/page.js", "/static/icon.svg",
    )  # fmt: skip
    for path in paths:
        for coding in (None, "gzip", "zstd"):
            for method in ("GET", "HEAD"):
                full, _ = raw(house, path, coding, method)
                tag = full.headers["etag"]
                assert tag.startswith("W/") == ("content-encoding" in full.headers), path
                same, body = raw(house, path, coding, method, **{"If-None-Match": tag})
                assert (same.status_code, body) == (304, b""), path
                for name in ("etag", "vary", "cache-control"):
                    assert same.headers.get(name) == full.headers.get(name), (path, coding, name)
                assert not {"content-type", "content-length", "content-encoding"} & set(same.headers), path


def test_what_is_no_text_or_small_is_sent_as_it_is(house: Any, job: str) -> None:
    for path in (f"/v1/jobs/{job}/files/cell_0000/frame_0000.stl", f"/v1/jobs/{job}/archive", "/livez"):
        answer, body = raw(house, path, "gzip, zstd")
        assert "content-encoding" not in answer.headers
        assert int(answer.headers["content-length"]) == len(body)
    small = raw(house, "/v1/version", "gzip")[0]
    assert int(small.headers["content-length"]) < LEAST_BYTES


def test_events_are_not_encoded(house: Any, job: str) -> None:
    answer, body = raw(house, f"/v1/jobs/{job}/events", "gzip, zstd")
    assert "content-encoding" not in answer.headers
    assert b"succeeded" in body


@pytest.mark.parametrize("path", ["/openapi.json", "/v1/version"])
def test_head_says_what_get_would(house: Any, path: str) -> None:
    head, body = raw(house, path, "gzip", method="HEAD")
    got, _ = raw(house, path, "gzip")
    assert body == b""
    for name in ("content-encoding", "vary", "etag", "content-type"):
        assert head.headers.get(name) == got.headers.get(name)


def test_refusals_are_encoded_too(house: Any) -> None:
    spec = {"model": "round", **{f"unknown_{k}": k for k in range(60)}}
    headers = {"Accept-Encoding": "gzip", "Content-Type": "application/json"}
    with httpx.stream("POST", house.url + "/v1/generations", content=json.dumps(spec), headers=headers) as answer:
        body = b"".join(answer.iter_raw())
    assert (answer.status_code, answer.headers["content-encoding"]) == (422, "gzip")
    assert json.loads(gzip.decompress(body))["code"] == "invalid_spec"


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        (None, None), ("", None), ("gzip", "gzip"), ("GZIP", "gzip"), ("zstd, gzip", "zstd"), ("gzip, zstd", "zstd"),
        ("gzip;q=1.0, zstd;q=0.5", "gzip"), ("gzip;q=0", None), ("*", "zstd"), ("*;q=0", None),
        ("zstd;q=0, *", "gzip"), ("identity;q=1, gzip;q=0.5", None), ("br, deflate", None), ("gzip;q=x", None),
        ("identity", None), ("gzip ; q=0.3 , identity;q=0.1", "gzip"),
    ],
)  # fmt: skip
def test_the_header_is_understood(accepted: str | None, coding: str | None) -> None:
    assert preferred_coding(accepted) == coding
