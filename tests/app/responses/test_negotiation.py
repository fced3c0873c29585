"""Accept is read as RFC 9110 §12.5.1 says: the most specific range counts, then its weight, then our own order."""

from __future__ import annotations

from typing import Any

import pytest

from app.responses.negotiation import preferred_type

ZIP, OTHER = "application/zip", "application/octet-stream"
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "preferred"),
    [
        (None, ZIP), ("", ZIP), ("*/*", ZIP), ("application/*", ZIP), (OTHER, OTHER), (ZIP, ZIP),
        (f"{OTHER}, {ZIP}", ZIP), (f"{OTHER}, */*;q=0.1", OTHER), (f"{ZIP};q=0.2, {OTHER};q=0.3", OTHER),
        (f"{ZIP};q=0, */*", OTHER), (f"{OTHER};q=0, {ZIP}", ZIP), ("application/*;q=0.5, */*;q=0.9", ZIP),
        (f"{OTHER};q=0.5, application/*;q=0.4", OTHER), (f" {OTHER.upper()} ; Q=1.0 ", OTHER),
        (f"{ZIP};q=0.1, {OTHER};q=1.5", ZIP), (f"{OTHER};q=0.001", OTHER), (f"{OTHER};level=1, {ZIP};q=0.1", ZIP),
        (f"x{OTHER}", None), ("text/html", None), (f"{ZIP};q=0, {OTHER};q=0.000", None), (f"{OTHER}-log", None),
        (BROWSER, ZIP),
    ],
)  # fmt: skip
def test_a_type_is_chosen_by_specificity_weight_and_order(accept: str | None, preferred: str | None) -> None:
    assert preferred_type(accept, (ZIP, OTHER)) == preferred


def test_the_archive_is_named_as_the_client_prefers(house: Any) -> None:
    job = house.submit(seed=1234)
    house.carry_out(job["id"])
    named = {
        ZIP: ZIP, OTHER: OTHER, f"{OTHER};q=0.1, {ZIP};q=0.2": ZIP, f"{ZIP};q=0, application/*": OTHER,
        "text/html": ZIP, BROWSER: ZIP,
    }  # fmt: skip
    for accept, kind in named.items():
        answer = house.get(job["links"]["archive"], Accept=accept)
        assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
        assert "accept" in answer.headers["vary"].lower()


def test_problems_are_a_page_for_those_who_prefer_one(house: Any) -> None:
    for accept, page in {BROWSER: True, "*/*": False, "application/json, text/html;q=0.9": False}.items():
        answer = house.get("/problems", Accept=accept)
        assert answer.headers["content-type"].startswith("text/html") is page
