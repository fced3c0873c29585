"""A manifest and one whose shards have manifests of their own are read alike, a few shards at a time."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from model.output.contents import Contents, Position, shard_manifest
from model.output.manifest import WARNINGS_MAX, Manifest, ShardedManifest, write_sharded_manifest

SHA = "0" * 64


def manifest(first: int, count: int, *, frames: int = 2, warnings: int = 0) -> dict[str, Any]:
    """The manifest of a range of cells, with a mesh a frame."""
    cells = [
        {
            "index": index, "latent": [0.5], "rotation": [1.0, 0.0, 0.0, 0.0], "seed": 7, "rejected_codes": 0,
            "tracks": [], "frames": [{"frame": frame, "minutes": 1.0} for frame in range(frames)],
        }
        for index in range(first, first + count)
    ]  # fmt: skip
    names = sorted(f"cell_{cell['index']:04d}/frame_{n:04d}.stl" for cell in cells for n in range(frames))
    document = {
        "format": "cytosynth-manifest/1", "spec": {"first_index": first, "count": count},
        "model": {"id": "m", "sha256": SHA}, "software": {"name": "cytosynth", "version": "1"}, "device_class": "cpu",
        "units": {"micrometres": 1.0, "minutes": 1.0, "spacing": [1.0, 1.0, 1.0]},
        "cells": cells,
        "files": [{"name": name, "bytes": 10, "sha256": SHA, "media_type": "model/stl"} for name in names],
        "warnings": [{"code": "implausible_cell", "message": f"{first}: {n}"} for n in range(warnings)],
    }  # fmt: skip
    return json.loads(Manifest.model_validate(document).to_json())  # type: ignore[no-any-return]


def sharded(folder: Path, sizes: list[int], *, first: int = 9_990, warnings: int = 0) -> dict[str, Any]:
    """Write the manifests of shards and the root manifest; return that."""
    paths = []
    for number, size in enumerate(sizes):
        path = folder / shard_manifest(number)
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(manifest(first, size, warnings=warnings)))
        first += size
        paths.append(path)
    return write_sharded_manifest(folder, paths, spec={"count": sum(sizes)})


def opened(folder: Path, read: list[str] | None = None) -> Contents:
    """Read a result; ``read`` gets the names of the manifests of shards that are."""

    def shard(entry: Mapping[str, Any]) -> Contents:
        if read is not None:
            read.append(entry["name"])
        return Contents(json.loads((folder / entry["name"]).read_bytes()))

    return Contents(json.loads((folder / "manifest.json").read_bytes()), shard)


def test_all_that_one_manifest_says_is_said_by_those_of_its_shards(tmp_path: Path) -> None:
    sharded(tmp_path, [6, 6, 3])
    whole, parts, read = Contents(manifest(9_990, 15)), opened(tmp_path), list[str]()
    listed = [dict(entry) for _, entry in parts.files()]
    manifests = [entry for entry in listed if entry["name"].startswith("manifests/")]
    assert [entry["name"] for entry in manifests] == [shard_manifest(n) for n in range(3)]
    files = [entry for entry in listed if entry not in manifests]
    assert sorted(files, key=lambda entry: entry["name"]) == [entry for _, entry in whole.files()]
    assert list(parts.cells()) == list(whole.cells())
    assert parts.indices() == whole.indices() == (9_990, 10_004)
    assert parts.count == len(listed) == whole.count + 3
    assert parts.bytes == whole.bytes + sum((tmp_path / entry["name"]).stat().st_size for entry in manifests)
    for index in (9_990, 9_999, 10_000, 10_004):
        assert parts.cell(index) == whole.cell(index)
        assert list(parts.files_of_cell(index)) == list(whole.files_of_cell(index))
        assert len(list(parts.files_of_cell(index))) == 2
    for index in (0, 9_989, 10_005):
        assert parts.cell(index) is None
        assert list(parts.files_of_cell(index)) == []
    # Looking for one file reads one shard.
    there = opened(tmp_path, read)
    assert there.entry("cell_10003/frame_0001.stl") == whole.entry("cell_10003/frame_0001.stl")
    assert read == [shard_manifest(2)]
    for name in ("cell_10003/frame_0002.stl", "cell_10005/frame_0000.stl", "manifests/000003.json", "manifests/2.json"):
        assert there.entry(name) is None
    assert there.entry("manifest.json") is None


@pytest.mark.parametrize("is_sharded", [True, False])
def test_reading_starts_anywhere(tmp_path: Path, is_sharded: bool) -> None:
    sharded(tmp_path, [3, 1, 2])
    contents = opened(tmp_path) if is_sharded else Contents(manifest(0, 6))
    everything = list(contents.files())
    for number, (position, _) in enumerate(everything):
        assert list(contents.files(start=position)) == everything[number:]
    assert list(contents.files(start=Position(shard=3) if is_sharded else Position(file=12))) == []


def test_memory_is_that_of_a_few_shards(tmp_path: Path) -> None:
    """A further shard of 100 cells takes less than the text of its manifest: its entry in the root manifest."""

    def peak(shards: int) -> int:
        folder = tmp_path / str(shards)
        folder.mkdir()
        tracemalloc.start()
        sharded(folder, [100] * shards)
        contents = opened(folder)
        assert sum(1 for _ in contents.files()) == shards * 201
        assert sum(1 for _ in contents.cells()) == shards * 100
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    peak(1)  # what is imported and cached
    text = (tmp_path / "1" / shard_manifest(0)).stat().st_size
    assert (peak(16) - peak(6)) / 10 < text / 2


def test_the_root_manifest_repeats_the_first_warnings_and_counts_the_others(tmp_path: Path) -> None:
    root = ShardedManifest.model_validate(sharded(tmp_path, [1, 1, 1], warnings=60))
    assert len(root.warnings) == WARNINGS_MAX + 1
    assert root.warnings[60].message == "9991: 0"
    assert root.warnings[-1].code == "further_warnings"
    assert root.warnings[-1].message.startswith("80 ")


@pytest.mark.parametrize(
    "damage",
    [
        {"shards": [{}]}, {"shards": [{"name": "manifests/000001.json"}]}, {"files": [1]},
        {"files": [{"name": 3}]}, {},
    ],
)  # fmt: skip
def test_a_damaged_manifest_is_refused(damage: dict[str, Any]) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        Contents(damage, Contents)
