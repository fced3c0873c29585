"""Promises of app.responses.zip_stream: others read the archive, and any range of it is that part of the whole."""

from __future__ import annotations

import hashlib
import io
import random
import zipfile
from pathlib import Path

import pytest

from app.responses.zip_stream import CHUNK, Entry, archive, archive_length
from worker.errors import ArtifactDamagedError


@pytest.fixture
def contents() -> dict[str, bytes]:
    """Files of no byte, of some, and of several chunks."""
    generator = random.Random(3)
    sizes = {"empty": 0, "cell_0000/small.stl": 1000, "cell_0001/large.tif": 2 * CHUNK + 17}
    return {name: generator.randbytes(size) for name, size in sizes.items()}


@pytest.fixture
def entries(contents: dict[str, bytes], tmp_path: Path) -> list[Entry]:
    listed = []
    for number, (name, content) in enumerate(contents.items()):
        path = tmp_path / str(number)
        path.write_bytes(content)
        listed.append(Entry.of(name, path, sha256=hashlib.sha256(content).hexdigest()))
    return listed


def test_the_archive_holds_the_files_with_their_checksums(entries: list[Entry], contents: dict[str, bytes]) -> None:
    whole = b"".join(archive(entries))
    assert len(whole) == archive_length(entries)
    with zipfile.ZipFile(io.BytesIO(whole)) as opened:
        assert opened.testzip() is None
        assert {name: opened.read(name) for name in opened.namelist()} == contents


def test_any_range_is_that_part_of_the_whole(entries: list[Entry]) -> None:
    whole = b"".join(archive(entries))
    generator = random.Random(4)
    for _ in range(30):
        first, last = sorted(generator.sample(range(len(whole)), 2))
        assert b"".join(archive(entries, first=first, last=last)) == whole[first : last + 1]


def test_a_file_that_changed_ends_the_archive_before_it_is_complete(entries: list[Entry]) -> None:
    damaged = bytearray(entries[2].path.read_bytes())
    damaged[CHUNK + 5] ^= 1
    entries[2].path.write_bytes(damaged)
    sent, parts = bytearray(), archive(entries)
    with pytest.raises(ArtifactDamagedError):
        sent.extend(byte for part in parts for byte in part)
    assert not zipfile.is_zipfile(io.BytesIO(sent))
