"""Room on the disk is judged by bytes and by files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from worker.errors import DiskFullError
from worker.storage.disk import check_reserve


def test_bytes_or_files_that_do_not_fit_are_refused_with_what_does(tmp_path: Path) -> None:
    free = check_reserve(tmp_path, reserve=0, wanted=0, files=1)
    assert free > 0
    with pytest.raises(DiskFullError, match="GiB are free"):
        check_reserve(tmp_path, reserve=0, wanted=2 * free)
    facts = os.statvfs(tmp_path)
    if not facts.f_files:
        pytest.skip("this file system has no limit of files")
    with pytest.raises(DiskFullError, match=f"this makes at least {2 * facts.f_files:,}"):
        check_reserve(tmp_path, reserve=0, wanted=0, files=2 * facts.f_files)
