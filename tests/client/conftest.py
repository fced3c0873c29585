"""The service that the tests of the web application share, from outside."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

_PATH = Path(__file__).parents[1] / "app" / "conftest.py"
_SPEC = importlib.util.spec_from_file_location("service_fixtures", _PATH)
assert _SPEC
assert _SPEC.loader
_FIXTURES = importlib.util.module_from_spec(_SPEC)
sys.modules["service_fixtures"] = _FIXTURES
_SPEC.loader.exec_module(_FIXTURES)

broker, settings, serve, house = _FIXTURES.broker, _FIXTURES.settings, _FIXTURES.serve, _FIXTURES.house
