"""What holds for every test: the caller's own settings stay out, and property tests repeat themselves in CI."""

from __future__ import annotations

import os

from hypothesis import settings

for name in [name for name in os.environ if name.startswith("CYTOSYNTH_")]:
    del os.environ[name]

# A deadline would fail a busy machine, not wrong code. In CI the examples are the same on each run.
settings.register_profile("house", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("house")
