"""The examples at the head of the library's modules give what they say."""

from __future__ import annotations

import doctest
import importlib

import pytest


@pytest.mark.parametrize("name", ["model.synthesis", "model.living_cell", "model.engine.sparse"])
def test_the_example_at_the_head_of_a_module_gives_what_it_says(name: str) -> None:
    found = doctest.testmod(importlib.import_module(name), raise_on_error=False)
    assert found.attempted > 0
    assert found.failed == 0
