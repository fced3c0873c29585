"""Every error has a status, a document and a page; nothing of the inside gets out."""

from __future__ import annotations

import asyncio
import inspect
import logging
from typing import Any

import httpx
import pytest
import structlog
from fastapi import FastAPI

from app.middleware.strict_bodies import parse_json
from app.problems.handlers import ProblemError, UnhandledErrorMiddleware, install_errors
from app.problems.types import OTHERS, PROBLEM_TYPES, TABLE, problem_type
from model import errors as tree
from worker import errors as job_errors


def all_errors() -> list[type[tree.CytosynthError]]:
    modules = (tree, job_errors)
    found = {cls for module in modules for _, cls in inspect.getmembers(module, inspect.isclass)}
    return sorted((cls for cls in found if issubclass(cls, tree.CytosynthError)), key=lambda cls: cls.__name__)


@pytest.mark.parametrize("error", all_errors(), ids=lambda cls: cls.__name__)
def test_every_error_has_a_row_of_its_own(error: type[tree.CytosynthError]) -> None:
    assert error in TABLE
    assert problem_type(error).code == error.code


def test_a_new_subclass_answers_as_its_parent_does() -> None:
    class Fresh(tree.EmptySurfaceError):
        code = "fresh"

    assert problem_type(Fresh) is TABLE[tree.EmptySurfaceError]


def test_slugs_are_unique() -> None:
    assert len(PROBLEM_TYPES) == len(TABLE) + len(OTHERS)


@pytest.mark.parametrize("slug", sorted(PROBLEM_TYPES))
def test_every_kind_is_documented_for_people_and_programs(house: Any, slug: str) -> None:
    kind = PROBLEM_TYPES[slug]
    document = house.get(kind.uri).json()
    assert (document["code"], document["status"], document["type"]) == (kind.code, kind.status, kind.uri)
    page = house.get(kind.uri, Accept="text/html,application/xhtml+xml")
    assert page.headers["content-type"].startswith("text/html")
    assert kind.code in page.text
    assert "Accept" in page.headers["vary"].split(", ")


def test_the_list_links_to_every_kind(house: Any) -> None:
    listed = {entry["type"] for entry in house.get("/problems").json()["problems"]}
    assert listed == {kind.uri for kind in PROBLEM_TYPES.values()}
    page = house.get("/problems", Accept="text/html").text
    assert all(f'href="{uri}"' in page for uri in listed)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/v1/jobs/", 404, "not_found"),
        ("GET", "/v1", 404, "not_found"),
        ("GET", "/static/nothing.js", 404, "not_found"),
        ("GET", "/static/../errors.py", 404, "not_found"),
        ("GET", "/static/%2e%2e/%2e%2e/errors.py", 404, "not_found"),
        ("GET", "/problems/unheard-of", 404, "not_found"),
        ("GET", "/redoc", 404, "not_found"),
        ("GET", "/v1/generations", 405, "method_not_allowed"),
        ("PUT", "/v1/jobs", 405, "method_not_allowed"),
        ("OPTIONS", "/v1/generations", 405, "method_not_allowed"),
    ],
)
def test_what_http_refuses_is_a_problem_document_too(
    house: Any, method: str, path: str, status: int, code: str
) -> None:
    answer = house.client.request(method, path)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert ("allow" in answer.headers) == (status == 405)


def test_allow_names_every_method_of_an_address(house: Any) -> None:
    assert house.client.put(f"/v1/jobs/{'0' * 32}").headers["allow"] == "DELETE, GET, HEAD"
    assert house.client.put(f"/v1/jobs/{'0' * 32}/archive").headers["allow"] == "GET, HEAD"
    assert house.client.put("/livez").headers["allow"] == "GET, HEAD"


def broken_app() -> FastAPI:
    app = FastAPI()
    install_errors(app)

    @app.get("/bug")
    def bug() -> None:
        raise ZeroDivisionError("a secret of the house")

    @app.get("/damaged")
    def damaged() -> None:
        raise tree.CheckpointError("/secret/folder is damaged")

    app.add_middleware(UnhandledErrorMiddleware)
    return app


@pytest.mark.parametrize(("path", "code"), [("/bug", "internal"), ("/damaged", "bad_checkpoint")])
def test_faults_of_the_house_show_nothing_of_the_inside(path: str, code: str) -> None:
    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(broken_app()), base_url="http://x") as client:
            return await client.get(path)

    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))  # others log less
    try:
        with structlog.testing.capture_logs() as logged:
            answer = asyncio.run(ask())
    finally:
        structlog.configure(**before)
    assert (answer.status_code, answer.json()["code"]) == (500, code)
    assert "secret" not in answer.text
    assert logged


@pytest.mark.parametrize("text", [b"{}", b"[]", b"1", b'"x"', b"null", b'{"a": [1, 2.5e3, {"b": true}]}'])
def test_plain_json_is_read_as_json(text: bytes) -> None:
    import json

    assert parse_json(text) == json.loads(text)


def test_the_deepest_allowed_nesting_is_read() -> None:
    assert parse_json(b"[" * 31 + b"]" * 31)
    with pytest.raises(ProblemError, match="deep"):
        parse_json(b"[" * 40 + b"]" * 40)
