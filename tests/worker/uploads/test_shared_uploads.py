"""What one host received, another one reads: in a store in memory, and (slow) in a real server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from damage import flip
from object_server import ObjectServer
from obstore.store import MemoryStore

from model.card import SHIPPED_MODELS, WEIGHTS_FILE, load_card
from worker.errors import UploadDamagedError, UploadExistsError, UploadNotFoundError
from worker.storage.objects import Objects
from worker.uploads.store import Upload, UploadRules, Uploads

OWNER, NAME, WEIGHTS = "ada", "cell.tif", "mine.safetensors"


@pytest.fixture(params=["memory", pytest.param("server", marks=pytest.mark.slow)])
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Objects:
    if request.param == "memory":
        return Objects("s3://memory", backend=MemoryStore())
    server: ObjectServer = request.getfixturevalue("object_storage")
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    return Objects(server.url())


@pytest.fixture
def hosts(store: Objects, tmp_path: Path) -> tuple[Uploads, Uploads]:
    rules = UploadRules(reserve_bytes=0)
    first, second = (Uploads(tmp_path / name, rules=rules, store=store) for name in ("a", "b"))
    return first, second


def mask(tmp_path: Path, value: int) -> bytes:
    volume = np.zeros((2, 12, 12, 12), np.uint8)
    volume[:, 3:9, 3:9, 3 : 6 + value] = 1
    tifffile.imwrite(tmp_path / "mask.tif", volume, metadata={"axes": "TZYX"})
    return (tmp_path / "mask.tif").read_bytes()


def keep(uploads: Uploads, content: bytes, *, name: str = NAME) -> tuple[Upload, bool]:
    kind = "safetensors" if name == WEIGHTS else "tiff"
    with uploads.arriving(OWNER) as arrived:
        arrived.write(content)
        arrived.close()
        return uploads.keep(OWNER, arrived, name=name, kind=kind, facts=arrived.inspect(kind))


def shown(uploads: Uploads, folder: Path, *, name: str = NAME) -> bytes:
    folder.mkdir()
    return uploads.lay_out(OWNER, name, folder).read_bytes()


def test_an_upload_is_read_by_a_host_that_did_not_receive_it(hosts: tuple[Uploads, Uploads], tmp_path: Path) -> None:
    first, second = hosts
    upload, _ = keep(first, mask(tmp_path, 1))
    assert second.kept(OWNER) == [upload] == first.kept(OWNER)
    assert second.used(OWNER) == first.used(OWNER)
    assert second.kept("eve") == []
    assert shown(second, tmp_path / "second") == shown(first, tmp_path / "first")
    again, new = keep(second, mask(tmp_path, 1))
    assert not new
    assert first.get(OWNER, NAME).expires_at == again.expires_at
    with pytest.raises(UploadExistsError):
        keep(second, mask(tmp_path, 2))


def test_an_upload_that_is_removed_or_replaced_at_one_host_is_so_at_the_other(
    hosts: tuple[Uploads, Uploads], store: Objects, tmp_path: Path
) -> None:
    first, second = hosts
    keep(first, mask(tmp_path, 1))
    before = shown(second, tmp_path / "before")
    second.remove(OWNER, NAME)
    with pytest.raises(UploadNotFoundError):
        first.get(OWNER, NAME)
    assert first.kept(OWNER) == []
    assert [info.key for info in store.below("uploads/")] == []
    keep(first, mask(tmp_path, 2))
    after = shown(second, tmp_path / "after")
    assert after == shown(first, tmp_path / "first")
    assert after != before


def test_a_damaged_copy_is_fetched_again_and_a_damaged_object_is_refused(
    hosts: tuple[Uploads, Uploads], store: Objects, tmp_path: Path
) -> None:
    first, second = hosts
    keep(first, mask(tmp_path, 1))
    sound = shown(second, tmp_path / "sound")
    copy = next((tmp_path / "b" / "uploads" / "kept").rglob("0000"))
    flip(copy)
    assert shown(second, tmp_path / "again") == sound
    flip(copy)
    key = next(info.key for info in store.below("uploads/") if "/files/" in info.key)
    store.put_over(key, b"other bytes")
    with pytest.raises(UploadDamagedError):
        shown(second, tmp_path / "damaged")


def test_a_model_made_at_one_host_is_had_and_removed_by_the_other(
    hosts: tuple[Uploads, Uploads], store: Objects, tmp_path: Path
) -> None:
    first, second = hosts
    weights = (SHIPPED_MODELS / "a549" / WEIGHTS_FILE).read_bytes()
    card = load_card(SHIPPED_MODELS / "a549").model_copy(update={"id": "mine-1"})
    keep(first, weights, name=WEIGHTS)
    second.models.install(OWNER, WEIGHTS, card)
    assert not first.models.installed(OWNER, card)
    first.models.synchronise()
    assert first.models.installed(OWNER, card)
    assert not first.models.uninstall("eve", "mine-1")
    assert first.models.uninstall(OWNER, "mine-1")
    second.models.synchronise()
    assert not second.models.installed(OWNER, card)
    assert [info.key for info in store.below("models/")] == []
    second.models.fetch("mine-1")
    second.models.fetch("../uploads")
    assert list((tmp_path / "b" / "models").iterdir()) == []


def test_what_was_kept_before_there_was_a_store_stays(store: Objects, tmp_path: Path) -> None:
    rules = UploadRules(reserve_bytes=0)
    upload, _ = keep(Uploads(tmp_path / "a", rules=rules), mask(tmp_path, 1))
    uploads = Uploads(tmp_path / "a", rules=rules, store=store)
    assert uploads.kept(OWNER) == [upload]
    assert len(shown(uploads, tmp_path / "shown")) > 0


def test_an_expired_upload_is_removed_from_the_store(store: Objects, tmp_path: Path) -> None:
    uploads = Uploads(tmp_path / "a", rules=UploadRules(reserve_bytes=0, keep_s=0.0), store=store)
    keep(uploads, mask(tmp_path, 1))
    assert store.below("uploads/")
    uploads.expire()
    assert [info.key for info in store.below("uploads/")] == []


# ------------------------------------------------------------------------------------------------ at one moment


class Meanwhile(Objects):
    """A store of which a host is told only after something else was done there."""

    does: Callable[[], object] | None = None

    def put_file(self, key: str, path: Path, *, name: str = "", media_type: str = "") -> None:
        """Do what is to be done, once, and then make the object."""
        if (does := self.does) is not None:
            self.does = None
            does()
        super().put_file(key, path, name=name, media_type=media_type)


@pytest.fixture
def racing(tmp_path: Path) -> tuple[Uploads, Uploads, Meanwhile]:
    backend = MemoryStore()
    slow, rules = Meanwhile("s3://memory", backend=backend), UploadRules(reserve_bytes=0)
    first = Uploads(tmp_path / "a", rules=rules, store=slow)
    return first, Uploads(tmp_path / "b", rules=rules, store=Objects("s3://memory", backend=backend)), slow


def test_of_two_contents_at_one_moment_one_is_kept(racing: tuple[Uploads, Uploads, Meanwhile], tmp_path: Path) -> None:
    first, second, store = racing
    store.does = lambda: keep(second, mask(tmp_path, 2))
    with pytest.raises(UploadExistsError):
        keep(first, mask(tmp_path, 1))
    assert first.kept(OWNER) == second.kept(OWNER)
    assert shown(first, tmp_path / "first") == shown(second, tmp_path / "second")
    with pytest.raises(UploadExistsError):
        keep(first, mask(tmp_path, 1))
    first.remove(OWNER, NAME)
    assert store.below("uploads/") == []
    assert keep(first, mask(tmp_path, 1))[1]


def test_the_same_content_at_one_moment_is_one_upload(
    racing: tuple[Uploads, Uploads, Meanwhile], tmp_path: Path
) -> None:
    first, second, store = racing
    store.does = lambda: keep(second, mask(tmp_path, 1))
    upload, new = keep(first, mask(tmp_path, 1))
    assert not new
    assert first.kept(OWNER) == second.kept(OWNER) == [upload]
    assert shown(first, tmp_path / "first") == shown(second, tmp_path / "second")


def test_a_damaged_upload_is_replaced_by_what_is_sent_again(
    racing: tuple[Uploads, Uploads, Meanwhile], tmp_path: Path
) -> None:
    first, second, store = racing
    keep(first, mask(tmp_path, 1))
    key = next(info.key for info in store.below("uploads/") if "/files/" in info.key)
    store.put_over(key, b"other bytes")
    flip(next((tmp_path / "a" / "uploads" / "kept").rglob("0000")))
    assert keep(first, mask(tmp_path, 1))[1]
    assert shown(second, tmp_path / "second") == shown(first, tmp_path / "first") != b"other bytes"
