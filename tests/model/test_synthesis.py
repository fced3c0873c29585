from __future__ import annotations

import hashlib
import json
import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import trimesh

from model import living_cell
from model.domain import Grid
from model.engine.runs import inside
from model.engine.sparse import evaluate_dense, evaluate_sparse
from model.errors import EmptySurfaceError, ExportError, ImplausibleError, SpecError
from model.network.checkpoint import Checkpoint
from model.network.plausibility import ATTEMPTS, is_plausible
from model.output.manifest import Manifest, merge_manifests
from model.output.verify import verify_result
from model.spec import GenerationSpec, LearnedLatent
from model.synthesis import Progress, synthesize


def spec(**changes: object) -> GenerationSpec:
    base = {"model": "tiny", "seed": 11, "frames": 3, "grid": 24, "formats": ["stl", "obj", "ply", "tiff", "png"]}
    return GenerationSpec.model_validate(base | changes).completed()


def bytes_of(folder: Path) -> dict[str, str]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


@pytest.fixture(scope="module")
def result(tiny_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("result") / "r"
    synthesize(spec(count=2, rotation="random"), tiny_checkpoint, folder)
    return folder


def test_a_result_holds_what_was_asked_for_and_is_what_its_manifest_says(result: Path) -> None:
    names = {f"cell_000{c}/frame_000{f}.{e}" for c in range(2) for f in range(3) for e in ("stl", "obj", "ply")}
    names |= {f"cell_000{c}/{name}" for c in range(2) for name in ("labels.tif", "preview.png")}
    assert bytes_of(result).keys() == names | {"manifest.json"}
    assert list(verify_result(result)) == []


def test_surfaces_and_labels_agree_in_micrometres(result: Path, tiny_checkpoint: Checkpoint) -> None:
    """The volume enclosed by the mesh, by the label voxels and in the manifest are one."""
    manifest = json.loads((result / "manifest.json").read_text())
    labels = tifffile.imread(result / "cell_0000" / "labels.tif")
    voxel = np.prod(manifest["units"]["spacing"])
    for number, frame in enumerate(manifest["cells"][0]["frames"]):
        meshes = [trimesh.load_mesh(result / f"cell_0000/frame_{number:04d}.{e}") for e in ("stl", "obj", "ply")]
        for mesh in meshes:
            assert mesh.is_watertight
            assert mesh.volume == pytest.approx(frame["volume_um3"], rel=1e-4)
            assert mesh.area == pytest.approx(frame["area_um2"], rel=1e-4)
        assert (labels[number] > 0).sum() * voxel == pytest.approx(frame["volume_um3"], rel=0.05)
        assert frame["minutes"] == pytest.approx(number * tiny_checkpoint.card.minutes / 2)


def test_same_spec_same_bytes_other_seed_other_bytes(result: Path, tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    synthesize(spec(count=2, rotation="random"), tiny_checkpoint, tmp_path / "again")
    assert bytes_of(tmp_path / "again") == bytes_of(result)
    synthesize(spec(count=2, rotation="random", seed=12), tiny_checkpoint, tmp_path / "other")
    other = bytes_of(tmp_path / "other")
    assert other.keys() == bytes_of(result).keys()
    assert not set(other.values()) & set(bytes_of(result).values())


def test_one_of_many_equals_the_same_one_of_more(result: Path, tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    synthesize(spec(count=1, rotation="random"), tiny_checkpoint, tmp_path / "one")
    one, two = bytes_of(tmp_path / "one"), bytes_of(result)
    assert all(two[name] == digest for name, digest in one.items() if name != "manifest.json")


def test_sequences_made_alone_have_the_same_files(result: Path, tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    """The manifests of parts, merged, are the manifest of the whole, byte for byte."""
    whole = spec(count=2, rotation="random")
    parts = [whole.model_copy(update={"first_index": index, "count": 1}) for index in range(2)]
    manifests = []
    for number, part in enumerate(parts):
        synthesize(part, tiny_checkpoint, tmp_path / str(number))
        assert list(verify_result(tmp_path / str(number))) == []
        made = bytes_of(tmp_path / str(number))
        assert made.keys() - {"manifest.json"} == {
            name for name in bytes_of(result) if name.startswith(f"cell_000{number}/")
        }
        assert all(bytes_of(result)[name] == sha for name, sha in made.items() if name != "manifest.json")
        manifests.append(Manifest.model_validate_json((tmp_path / str(number) / "manifest.json").read_bytes()))
    merged = merge_manifests(manifests, whole.model_dump(mode="json"))
    assert merged.to_json() == (result / "manifest.json").read_bytes()


@pytest.mark.parametrize(("count", "first"), [(1, 0), (7, 0), (200, 3), (1000, 10**6)])
def test_shards_of_a_spec_are_its_sequences_each_once(count: int, first: int) -> None:
    whole = spec(count=count, first_index=first, frames=30, grid=64)
    shards = [whole.shard(number) for number in range(whole.shards())]
    indices = [shard.first_index + number for shard in shards for number in range(shard.count)]
    assert indices == list(range(first, first + count))
    assert {shard.count for shard in shards[:-1]} <= {whole.shard_size()}
    assert all(shard.cost().seconds <= 20.0 or shard.count == 1 for shard in shards)


def test_sequences_of_one_request_lie_around_different_learned_cells(tiny_checkpoint: Checkpoint) -> None:
    """Without noise each learned code comes back once, unless the gate refused it."""
    codes = tiny_checkpoint.latent_codes
    recipe = spec(count=len(codes), latent={"kind": "sampled", "temperature": 0.0})
    drawn = [living_cell.draw(recipe, tiny_checkpoint, index) for index in range(len(codes))]
    met = [int(np.abs(codes - cell.latent).max(axis=1).argmin()) for cell in drawn if cell.rejected_codes == 0]
    assert len(met) > 1
    assert len(set(met)) == len(met)


def test_a_cell_is_repeated_from_its_manifest(result: Path, tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Code and rotation as the manifest states them, given explicitly, give the same surfaces and labels."""
    cell = json.loads((result / "manifest.json").read_text())["cells"][1]
    latent = {"kind": "explicit", "values": cell["latent"]}
    synthesize(spec(latent=latent, rotation=cell["rotation"], seed=99), tiny_checkpoint, tmp_path / "r")
    mine, theirs = tmp_path / "r" / "cell_0000", result / "cell_0001"
    assert (mine / "frame_0002.stl").read_bytes() == (theirs / "frame_0002.stl").read_bytes()
    # labels.tif states the spec, which is another one
    assert np.array_equal(tifffile.imread(mine / "labels.tif"), tifffile.imread(theirs / "labels.tif"))


def test_explicit_times_are_those_frames(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    learned = {"kind": "learned", "index": 1}
    synthesize(spec(latent=learned, formats=["stl"], frames=5), tiny_checkpoint, tmp_path / "even")
    synthesize(spec(latent=learned, formats=["stl"], frames=2, times=[-0.5, 0.5]), tiny_checkpoint, tmp_path / "times")
    for here, there in ((0, 1), (1, 3)):
        first = (tmp_path / "times" / f"cell_0000/frame_{here:04d}.stl").read_bytes()
        assert first == (tmp_path / "even" / f"cell_0000/frame_{there:04d}.stl").read_bytes()


def test_rotation_turns_the_cell_and_keeps_its_volume(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    quarter = [np.sqrt(0.5), 0.0, 0.0, np.sqrt(0.5)]  # about z: (x, y) → (−y, x)
    for name, rotation in (("as_is", "none"), ("turned", quarter)):
        one = spec(latent={"kind": "learned", "index": 0}, rotation=rotation, formats=["tiff"], frames=1, grid=32)
        synthesize(one, tiny_checkpoint, tmp_path / name)
    as_is, turned = (tifffile.imread(tmp_path / n / "cell_0000/labels.tif").squeeze() > 0 for n in ("as_is", "turned"))
    expected = as_is.transpose(0, 2, 1)[:, :, ::-1]  # page z, row y, column x
    overlap = 2 * (expected & turned).sum() / (expected.sum() + turned.sum())
    assert overlap > 0.99
    assert 2 * (as_is & turned).sum() / (as_is.sum() + turned.sum()) < 0.98


@pytest.mark.parametrize("shape", [(24, 24, 24), (33, 20, 47)])
@pytest.mark.parametrize("latent", [{"kind": "sampled"}, {"kind": "learned", "index": 2}])
def test_sparse_evaluation_gives_the_dense_signs(
    tiny_checkpoint: Checkpoint, shape: tuple[int, int, int], latent: dict[str, object]
) -> None:
    cell = living_cell.draw(spec(latent=latent, rotation="random"), tiny_checkpoint, 0)
    grid, lipschitz = Grid(shape), cell.lipschitz()
    for time in (-1.0, 0.3, 1.0):
        sparse = evaluate_sparse(cell.at(time), grid, lipschitz=lipschitz)
        assert np.array_equal(inside(sparse), evaluate_dense(cell.at(time), grid) < 0)


def test_progress_counts_every_frame_and_can_stop_the_work(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    seen: list[Progress] = []
    synthesize(spec(count=2, formats=["stl"]), tiny_checkpoint, tmp_path / "a", on_progress=seen.append)
    assert [(p.frame, p.frames) for p in seen] == [(n, 6) for n in range(1, 7)]

    def stop(progress: Progress) -> None:
        if progress.frame == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthesize(spec(formats=["stl"]), tiny_checkpoint, tmp_path / "b", on_progress=stop)
    assert not (tmp_path / "b" / "manifest.json").exists()


def test_memory_does_not_grow_with_the_length_of_the_sequence(tiny_checkpoint: Checkpoint) -> None:
    cell = living_cell.draw(spec(), tiny_checkpoint, 0)
    peaks = []
    for count in (4, 40):
        tracemalloc.start()
        for _ in cell.frames(np.linspace(-1, 1, count).astype(np.float32), Grid((32, 32, 32))):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


def test_a_code_without_a_cell_is_an_error_and_leaves_no_manifest(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    far = {"kind": "explicit", "values": [0.0, 0.0, 0.0, 0.0]}
    decoder = tiny_checkpoint.decoder
    kept = decoder.out_bias.clone()
    try:
        decoder.out_bias += 100.0  # outside everywhere
        with pytest.raises(EmptySurfaceError, match="frame 0"):
            synthesize(spec(latent=far), tiny_checkpoint, tmp_path / "r")
    finally:
        decoder.out_bias.copy_(kept)
    assert not (tmp_path / "r" / "manifest.json").exists()


def test_a_latent_the_model_cannot_have_is_refused_before_anything_is_written(
    tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    with pytest.raises(SpecError, match="at most 2"):
        synthesize(spec(latent={"kind": "learned", "index": 3}), tiny_checkpoint, tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_verification_finds_every_kind_of_damage(result: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(result, tmp_path / "r"))
    stl = folder / "cell_0000/frame_0001.stl"
    stl.write_bytes(stl.read_bytes()[:-50])
    (folder / "cell_0001/labels.tif").unlink()
    faults = list(verify_result(folder))
    assert faults == ["cell_0000/frame_0001.stl: differs from its checksum", "cell_0001/labels.tif: missing"]

    # damage that its author has signed: the contents are looked at too
    manifest = json.loads((folder / "manifest.json").read_text())
    mesh = trimesh.load_mesh(result / "cell_0000/frame_0000.stl")
    mesh.invert()
    mesh.export(folder / "cell_0000/frame_0000.stl")
    for entry in manifest["files"]:
        if entry["name"] == "cell_0000/frame_0000.stl":
            entry["sha256"] = hashlib.sha256((folder / entry["name"]).read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert "cell_0000/frame_0000.stl: triangles face inward" in list(verify_result(folder))
    with pytest.raises(ExportError, match=r"no manifest\.json"):
        list(verify_result(tmp_path))


@pytest.mark.parametrize(
    ("counts", "volumes", "topology", "expected"),
    [
        ([1, 1, 2, 2], [10, 11, 11, 11], "division", True),
        ([1, 2, 1, 2], [10, 11, 11, 11], "division", False),  # fuses again
        ([1, 1, 1, 1], [10, 11, 11, 11], "division", False),  # never divides
        ([2, 2, 2, 2], [10, 11, 11, 11], "division", False),
        ([1, 3, 3, 2], [10, 11, 11, 11], "division", False),
        ([1, 1, 2, 2], [10, 11, 20, 20], "division", False),  # jumps
        ([1, 1, 1, 1], [10, 11, 11, 11], "single", True),
        ([1, 2, 1, 1], [10, 11, 11, 11], "single", False),
    ],
)
def test_plausibility(counts: list[int], volumes: list[int], topology: str, expected: bool) -> None:
    assert is_plausible(counts, np.array(volumes, dtype=float), topology) is expected  # type: ignore[arg-type]


@pytest.fixture
def misnamed(tiny_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> Checkpoint:
    """Cells that never divide, under a card that says they do: the gate rejects every draw, here by two frames."""
    monkeypatch.setattr("model.network.plausibility.GATE_FRAMES", 2)
    return replace(tiny_checkpoint, card=tiny_checkpoint.card.model_copy(update={"topology": "division"}))


def test_a_result_whose_draws_were_all_rejected_says_so(misnamed: Checkpoint, tmp_path: Path) -> None:
    recipe = spec(count=2, grid=8, frames=1, formats=["stl"])
    manifest = synthesize(recipe, misnamed, tmp_path / "r")
    assert [cell["rejected_codes"] for cell in manifest["cells"]] == [ATTEMPTS, ATTEMPTS]
    assert [warning["code"] for warning in manifest["warnings"]] == ["implausible_cell"] * 2
    assert "'division'" in manifest["warnings"][1]["message"]
    assert "cell 1" in manifest["warnings"][1]["message"]
    assert list(verify_result(tmp_path / "r")) == []


def test_a_spec_may_ask_to_fail_where_every_draw_is_rejected(misnamed: Checkpoint, tmp_path: Path) -> None:
    recipe = spec(grid=8, frames=1, formats=["stl"], on_implausible="fail")
    with pytest.raises(ImplausibleError, match="lower temperature"):
        synthesize(recipe, misnamed, tmp_path / "r")
    learned = recipe.model_copy(update={"latent": LearnedLatent(kind="learned", index=0)})
    assert "warnings" not in synthesize(learned, misnamed, tmp_path / "l")  # asked for by number: not checked


def test_a_result_that_has_nothing_to_warn_of_does_not_mention_warnings(result: Path) -> None:
    manifest = json.loads((result / "manifest.json").read_text())
    assert "warnings" not in manifest
    assert "on_implausible" not in manifest["spec"]
