"""Files that mean harm are refused, in words that say what is allowed, within seconds and little memory."""

from __future__ import annotations

import gzip
import resource
import time
from typing import Any

import pytest
from hostile.corpus_archives import ARCHIVES, frames, tarred, zipped
from hostile.corpus_files import (
    MESHES,
    MODELS,
    QUADS,
    TIFFS,
    Case,
    box_stl,
    box_triangles,
    harmless_tiles,
    labels_tiff,
    obj,
    ome,
    stl,
    tiff,
    values_of,
    weights,
)
from hostile.corpus_zarr import HOSTILE as ZARR

CASES: dict[str, tuple[str, Case]] = {
    **{f"tiff {name}": ("tif", case) for name, case in TIFFS.items()},
    **MESHES,
    **{f"model {name}": ("safetensors", case) for name, case in MODELS.items()},
    **{f"zarr: {name}": ("zarr.zip", case) for name, (case, _) in ZARR.items()},
    **{f"archive: {name}": case for name, case in ARCHIVES.items()},
}
SECONDS_MAX, MEMORY_MAX = 10.0, 2.5 * 2**30
HARMLESS: dict[str, tuple[str, Case]] = {
    "imagej": ("tif", labels_tiff), "plain": ("tif", tiff), "ome": ("tif", ome), "big": ("tif", lambda: tiff(big=True)),
    "touching": ("tif", lambda: tiff([b"\1\0" * 64] + [b"\1\0" + bytes(126)] * 7)),
    "stl": ("stl", box_stl), "obj": ("obj", lambda: obj("mtllib ../../etc/passwd", *QUADS)),
    "float": ("tif", lambda: values_of("f", 32, 3)), "over 65535": ("tif", lambda: values_of("Q", 64, 1, label=2**62)),
    "tiles": ("tif", harmless_tiles), "inside out": ("stl", lambda: stl(box_triangles(inward=True))),
    "two bodies": ("stl", lambda: stl([*box_triangles(), *box_triangles(at=20.0)])), "model": ("safetensors", weights),
    "zip": ("zip", lambda: zipped(frames())), "tar": ("tar", lambda: tarred(frames(ending="stl"))),
    "gzip": ("tar.gz", lambda: gzip.compress(tarred(frames()))),
}  # fmt: skip


def test_the_corpus_is_large() -> None:
    assert len(CASES) >= 330
    assert len(ARCHIVES) >= 100


def computed_s() -> float:
    """Seconds that this process, which is the service too, and the children it waited for have computed."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


@pytest.mark.parametrize("name", HARMLESS)
def test_what_hostile_files_are_made_from_is_harmless(victim: Any, name: str) -> None:
    ending, case = HARMLESS[name]
    answer = victim.put(f"/v1/uploads/harmless.{ending}", content=case())
    assert answer.status_code == 201, answer.text
    assert victim.delete(f"/v1/uploads/harmless.{ending}").status_code == 204


# Of cases that differ in the layout of the file only, those that compute for seconds.
SLOW = {"tiff half a million strips of one zstd", "tiff 131,072 tiles of one zstd"}


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in CASES])
def test_hostile_file_is_refused_and_told_what_is_allowed(victim: Any, name: str) -> None:
    ending, case = CASES[name]
    content = case()
    begun = computed_s()
    answer = victim.put(f"/v1/uploads/harm.{ending}", content=content)
    assert computed_s() - begun < SECONDS_MAX
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, "bad_upload"), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert "Allowed: " in problem["detail"]
    assert "Error" not in problem["detail"] or "damaged" in problem["detail"]
    assert len(answer.content) < 2000
    # Kibibytes on Linux, bytes on macOS: the larger reading holds for both.
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 < MEMORY_MAX
    assert victim.get("/v1/uploads").json()["uploads"] == []


@pytest.mark.parametrize(
    "name", ["tiff deflate bomb", "tiff billion laughs", "stl with NaN", "ply cut off", "model NaN"]
)
def test_refusals_name_the_fault_and_not_the_reader(victim: Any, name: str) -> None:
    ending, case = CASES[name]
    detail = victim.put(f"/v1/uploads/harm.{ending}", content=case()).json()["detail"]
    assert "damaged" not in detail


@pytest.mark.parametrize("name", ["tiff deflate bomb", "stl open", "model a pickle", "obj open"])
@pytest.mark.parametrize("ending", ["tif", "stl", "obj", "ply", "safetensors"])
def test_the_ending_decides_and_nothing_is_guessed(victim: Any, name: str, ending: str) -> None:
    answer = victim.put(f"/v1/uploads/guess.{ending}", content=CASES[name][1]())
    assert (answer.status_code, answer.json()["code"]) == (422, "bad_upload")
