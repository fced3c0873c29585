"""Promises of app.responses.zip_stream: others read the archive, and any range of it is that part of the whole."""

from __future__ import annotations

import hashlib
import io
import random
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from damage import flip

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


def test_a_file_that_changed_ends_the_archive_before_it_is_complete(entries: list[Entry], tmp_path: Path) -> None:
    flip(tmp_path / "2", at=CHUNK + 5)
    sent, parts = bytearray(), archive(entries)
    with pytest.raises(ArtifactDamagedError):
        sent.extend(byte for part in parts for byte in part)
    assert not zipfile.is_zipfile(io.BytesIO(sent))


class Many:
    """Entries of many small files, made anew for each pass."""

    def __init__(self, count: int, path: Path) -> None:
        self._count, self._path, self.passes = count, path, 0

    def __iter__(self) -> Iterator[Entry]:
        self.passes += 1
        for number in range(self._count):
            yield Entry.of(f"cell_{number:04d}/a", self._path)


@pytest.mark.parametrize(
    ("count", "limit"), [(1000, 2**31 - 1), (2500, 2**31 - 1), (2500, 60_000), (66_000, 2**31 - 1)]
)
def test_many_files_are_gone_through_and_never_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, limit: int
) -> None:
    """Also over 65,535 files, and where the limit of 2 GiB, lowered here, is crossed among them."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", limit)
    (tmp_path / "a").write_bytes(b"content")
    entries = Many(count, tmp_path / "a")
    whole = b"".join(archive(entries))
    assert entries.passes == 3  # length, files, directory
    assert len(whole) == archive_length(entries)
    expected = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as opened, zipfile.ZipFile(expected, "w") as rewritten:
        assert opened.testzip() is None
        assert opened.namelist() == [f"cell_{number:04d}/a" for number in range(count)]
        rewritten.filelist, rewritten.start_dir = opened.filelist, opened.start_dir
        rewritten._didModify = True
        expected.seek(opened.start_dir)
    # The directory is the one that zipfile writes of the same files at once.
    assert whole[opened.start_dir :] == expected.getvalue()[opened.start_dir :]
    first, last = len(whole) - 30_000, len(whole) - 10
    assert b"".join(archive(entries, first=first, last=last)) == whole[first : last + 1]
