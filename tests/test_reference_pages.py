"""Reference pages say what the code says."""

from __future__ import annotations

import pytest
from reference_pages import COMMANDS, SETTINGS, command_line_page, settings_page


@pytest.mark.parametrize(("path", "made"), [(SETTINGS, settings_page), (COMMANDS, command_line_page)])
def test_a_page_made_from_the_code_is_up_to_date(path, made) -> None:  # type: ignore[no-untyped-def]
    assert path.read_text(encoding="utf-8") == made(), "make the pages again: python tests/reference_pages.py"
