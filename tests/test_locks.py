"""Pins, locks and declarations agree, as far as can be told without a registry; `make locks` writes the locks."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
IMAGES = ("app", "worker")
# Every index has builds of its own under the same version, each with its own hash.
BY_VERSION_ONLY = {"torch"}
ENTRY = re.compile(
    r"^(?P<name>[a-z0-9.-]+)==(?P<version>\S+)(?P<marker> ; [^\\]+)? \\\n(?P<hashes>(?:    --hash=.+\n?)+)", re.M
)
HASH = re.compile(r"    --hash=sha256:[0-9a-f]{64}(?: \\)?")


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@cache
def lock(image: str) -> dict[str, re.Match[str]]:
    text = (ROOT / "locks" / f"{image}.txt").read_text(encoding="utf-8")
    return {normal(entry["name"]): entry for entry in ENTRY.finditer(text)}


def pins() -> dict[str, str]:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    return {normal(name): version for name, version in re.findall(r"^([\w.-]+)==(.+)$", text, flags=re.MULTILINE)}


def declared(image: str) -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = project["dependencies"] + project["optional-dependencies"][image]
    return {normal(re.split(r"[\[<>=!~; ]", line, maxsplit=1)[0]) for line in lines}


@pytest.mark.parametrize("image", IMAGES)
def test_a_lock_holds_what_its_image_asks_for_and_nothing_else_has_no_hash(image: str) -> None:
    assert declared(image) - set(lock(image)) <= BY_VERSION_ONLY
    text = (ROOT / "locks" / f"{image}.txt").read_text(encoding="utf-8")
    rest = "\n".join(line for line in ENTRY.sub("", text).splitlines() if not line.startswith("#"))
    assert rest.strip() == ""
    for entry in lock(image).values():
        assert all(HASH.fullmatch(line) for line in entry["hashes"].splitlines())


@pytest.mark.parametrize("image", IMAGES)
def test_a_lock_has_the_versions_that_were_tested(image: str) -> None:
    pinned = pins()
    for name, entry in lock(image).items():
        # What has a marker may be needed elsewhere only; then nobody has pinned it here.
        assert pinned.get(name, entry["version"] if entry["marker"] else None) == entry["version"], name


def test_the_images_install_by_hash_before_anything_else() -> None:
    for image in IMAGES:
        text = (ROOT / "docker" / f"{image}.Dockerfile").read_text(encoding="utf-8")
        installs = re.findall(r"pip install .+", text)
        assert installs[0] == f"pip install --require-hashes --requirement locks/{image}.txt"


def test_locks_name_no_place() -> None:
    assert not any("://" in (ROOT / "locks" / f"{image}.txt").read_text(encoding="utf-8") for image in IMAGES)
