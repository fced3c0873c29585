"""The command line beside a service: folders, refusals, tables, and what other programs read of it."""

from __future__ import annotations

import hashlib
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from cutting_proxy import cutting_proxy
from hostile.corpus_files import box_stl, labels_tiff
from served import cytosynth_here

from app.cli.results import FolderError, check_result, result_folder
from model import __version__

STL = {"cell_0000/frame_0000.stl": b"solid one" * 10, "cell_0000/frame_0001.stl": b"solid two" * 10}


@pytest.fixture(scope="module")
def made(house: Any) -> dict[str, Any]:
    """A finished job."""
    job: dict[str, Any] = house.submit(seed=2**64 - 1)
    house.carry_out(job["id"], files=STL)
    finished: dict[str, Any] = house.get(f"/v1/jobs/{job['id']}").json()
    return finished


@pytest.fixture
def run(house: Any) -> Any:
    return lambda *arguments: cytosynth_here(*map(str, arguments), CYTOSYNTH_SERVER=house.url)


def make(house: Any, run: Any, folder: Path, *more: str) -> Any:
    """Ask for what is there already: the same request again is answered with the finished job."""
    return run("generate", "round", "--seed", 2**64 - 1, "--frames", 2, "--grid", 16, "--out", folder, *more)


# --------------------------------------------------------------------------------------------------------- connections


def test_a_command_goes_on_after_connections_that_break(house: Any, tmp_path: Path) -> None:
    content = random.Random(3).randbytes(2_000_000)
    job = house.submit(seed=2**40)
    house.carry_out(job["id"], files={"cell_0000/labels.tif": content})
    with cutting_proxy(house.url, 10**6, 0, 700_000, 100_000, 0) as proxy:
        done = cytosynth_here("fetch", job["id"], "--out", str(tmp_path / "cells"), CYTOSYNTH_SERVER=proxy.url)
    assert done.exit_code == 0, done.output
    assert proxy.connections > 4
    assert (tmp_path / "cells" / "cell_0000" / "labels.tif").read_bytes() == content


# -------------------------------------------------------------------------------------------------------------- folders


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_holds_one_result_and_nothing_else(house: Any, run: Any, made: Any, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "cell"
    assert make(house, run, folder).exit_code == 0
    assert files_in(folder) == {*STL, "manifest.json"}
    again = make(house, run, folder)
    assert again.exit_code == 2
    assert "--overwrite" in again.stderr
    (folder / "cell_0000" / "frame_0009.stl").write_bytes(b"of an earlier run")
    strays = make(house, run, folder, "--overwrite")
    assert strays.exit_code == 2
    assert "also holds cell_0000/frame_0009.stl" in strays.stderr
    (folder / "cell_0000" / "frame_0009.stl").unlink()
    (folder / "cell_0000" / "frame_0001.stl").write_bytes(b"stale")
    assert make(house, run, folder, "--overwrite").exit_code == 0
    assert {name: (folder / name).read_bytes() for name in STL} == STL
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize("kind", ["file", "below a file", "other files", "damaged manifest"])
def test_a_folder_that_cannot_be_used_is_refused_before_anything_is_sent(
    house: Any, run: Any, tmp_path: Path, kind: str
) -> None:
    folder = tmp_path / "out"
    if kind == "other files":
        folder.mkdir()
        (folder / "thesis.txt").write_text("years of work")
    elif kind == "damaged manifest":
        folder.mkdir()
        (folder / "manifest.json").write_text("{")
    else:
        folder.write_text("a file")
    before, held = len(house.jobs.list(limit=200).jobs), sorted(tmp_path.rglob("*"))
    target = folder / "deeper" if kind == "below a file" else folder
    done = run("generate", "round", "--frames", 1, "--grid", 16, "--out", target, "--overwrite")
    assert done.exit_code == 2, done.output
    assert str(folder) in done.stderr
    assert len(house.jobs.list(limit=200).jobs) == before
    assert sorted(tmp_path.rglob("*")) == held


def test_a_result_folder_that_fails_leaves_the_earlier_one(tmp_path: Path, house: Any, run: Any, made: Any) -> None:
    folder = tmp_path / "cell"
    assert make(house, run, folder).exit_code == 0

    def fail() -> None:
        with result_folder(folder, overwrite=True) as draft:
            (draft / "half").write_text("half")
            raise RuntimeError("cut")

    with pytest.raises(RuntimeError, match="cut"):
        fail()
    assert files_in(folder) == {*STL, "manifest.json"}
    assert list(tmp_path.iterdir()) == [folder]


def test_a_manifest_that_points_outside_removes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "cell"
    folder.mkdir()
    entry = {"name": "../precious", "bytes": 1, "sha256": "0"}
    (folder / "manifest.json").write_text(json.dumps({"files": [entry]}))
    with pytest.raises(FolderError, match="outside"), result_folder(folder, overwrite=True):
        pass
    with pytest.raises(FolderError, match="outside"):
        check_result(folder)


def test_fetch_and_verify(run: Any, made: Any, tmp_path: Path) -> None:
    folder = tmp_path / "cell"
    assert run("fetch", made["id"], "--out", folder).exit_code == 0
    assert {name: (folder / name).read_bytes() for name in STL} == STL
    good = run("verify", folder)
    assert (good.exit_code, "2 files" in good.stdout) == (0, True)
    first, second = sorted(STL)
    (folder / first).write_bytes(STL[first][:-1])
    (folder / second).write_bytes(b"x" + STL[second][1:])
    (folder / "cell_0000" / "frame_0002.stl").write_bytes(b"stale")
    bad = run("verify", folder)
    assert bad.exit_code == 1
    assert re.search(rf"{first} has \d+ bytes instead of \d+", bad.stdout)
    assert f"{second} is damaged" in bad.stdout
    assert "cell_0000/frame_0002.stl is not named in the manifest" in bad.stdout
    (folder / first).unlink()
    assert f"{first} is missing" in run("verify", folder).stdout
    nothing = run("verify", tmp_path)
    assert (nothing.exit_code, "no manifest.json" in nothing.stderr) == (2, True)


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--frames", "0"), "--frames must be at least 1"),
        (("--grid", "16,16,1"), "--grid must be at least 8"),
        (("--format", "exe"), "--format must be"),
        (("--count", "0"), "--count must be at least 1"),
        (("--latent", "learned", "--index", "-1"), "--index must be at least 0"),
        (("--temperature", "9"), "--temperature must be at most"),
        (("--fragments", "some"), "--fragments must be"),
        (("--seed", "-1"), "--seed must be at least 0"),
    ],
)
def test_a_refusal_names_the_option_once(run: Any, tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    done = run("generate", "round", "--out", tmp_path / "cell", *arguments)
    assert done.exit_code == 2
    assert done.stderr.count(words) == 1, done.stderr
    assert done.stderr.count("must be") == 1
    assert not re.search(r"(^|\s)/\w", done.stderr)


def test_an_unknown_model_is_named_as_the_argument_it_is(run: Any, tmp_path: Path) -> None:
    done = run("generate", "nobody", "--out", tmp_path / "cell")
    assert done.exit_code == 2
    assert "MODEL" in done.stderr
    assert "round" in done.stderr


# -------------------------------------------------------------------------------------------- what other programs read


def test_piped_tables_hold_whole_members_and_json_holds_everything(run: Any, made: Any) -> None:
    rows = [line.split("\t") for line in run("jobs").stdout.splitlines()]
    assert made["id"] in [row[0] for row in rows]
    assert {len(row) for row in rows} == {6}
    assert str(2**64 - 1) in {row[3] for row in rows}
    page = json.loads(run("jobs", "--json").stdout)
    assert made["id"] in [job["id"] for job in page["jobs"]]
    models = [line.split("\t")[0] for line in run("models").stdout.splitlines()]
    assert {"round", "long", "celegans", "a549"} <= set(models)
    cards = json.loads(run("models", "--json").stdout)["models"]
    assert [card["id"] for card in cards] == models
    assert f"sha256: {cards[0]['sha256']}" in run("models", models[0]).stdout
    assert run("models", "nobody").exit_code == 2


def test_generate_prints_one_json_document(house: Any, run: Any, made: Any, tmp_path: Path) -> None:
    done = make(house, run, tmp_path / "cell", "--json")
    document = json.loads(done.stdout)
    assert document["job"]["id"] == made["id"]
    assert (Path(document["folder"]) / "manifest.json").is_file()
    assert done.stderr == ""  # no progress bar where nobody looks


def test_options_reach_the_spec(house: Any, run: Any, made: Any, tmp_path: Path) -> None:
    body = {**made["spec"], "fragments": "keep", "exact": "certified"}
    job = house.post(body).json()
    house.carry_out(job["id"], files=STL)
    done = make(house, run, tmp_path / "cell", "--fragments", "keep", "--exact", "certified", "--json")
    assert json.loads(done.stdout)["job"]["id"] == job["id"]


def test_pin_unpin_and_upload(run: Any, made: Any, tmp_path: Path, house: Any) -> None:
    assert "is pinned" in run("pin", made["id"]).stdout
    assert house.get(f"/v1/jobs/{made['id']}").json()["pinned"] is True
    assert "kept until 20" in run("unpin", made["id"]).stdout
    assert house.get(f"/v1/jobs/{made['id']}").json()["pinned"] is False
    (tmp_path / "box.stl").write_bytes(box_stl())
    kept = json.loads(run("upload", tmp_path / "box.stl", "--name", "boxed.stl").stdout)
    assert (kept["name"], kept["facts"]["triangles"]) == ("boxed.stl", 12)
    refused = run("upload", tmp_path / "box.stl", "--name", "box.exe")
    assert refused.exit_code == 2
    assert run("upload", tmp_path / "nothing.stl").exit_code == 2
    house.client.delete("/v1/uploads/boxed.stl")


@pytest.mark.parametrize("arguments", [("--version",), ("version",)])
def test_version(run: Any, arguments: tuple[str, ...]) -> None:
    assert run(*arguments).stdout.strip() == f"cytosynth {__version__}"


@pytest.mark.parametrize("arguments", [("-h",), ("generate", "-h"), ("verify", "-h"), ("keys", "-h")])
def test_short_help(run: Any, arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.exit_code == 0
    assert "Usage:" in done.stdout


def test_models_and_formats_are_completed(monkeypatch: pytest.MonkeyPatch, house: Any) -> None:
    monkeypatch.setenv("CYTOSYNTH_MODEL_DIRS", str(house.models))
    shell = {"_CYTOSYNTH_COMPLETE": "complete_bash"}
    complete = lambda words: cytosynth_here(  # noqa: E731
        **shell, COMP_WORDS=f"cytosynth {words}", COMP_CWORD=str(len(words.split()))
    ).stdout.split()
    assert {"celegans", "a549", "round"} & set(complete("generate ce")) == {"celegans"}
    assert complete("generate round --format ti") == ["tiff", "tiff-frames"]


# ------------------------------------------------------------------------------------------------- cells that exist


def played(house: Any, path: str, body: dict[str, Any], files: dict[str, bytes]) -> dict[str, Any]:
    """Carry out a request as a worker does; the same request again is answered with this job."""
    answer = house.post(body, path=path)
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    house.carry_out(job["id"], files=files)
    return job


def kept(house: Any, path: Path) -> str:
    """Upload a file as the command does: under a name made of its own and its content."""
    name = f"{path.stem.replace(' ', '-')}-{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}{path.suffix}"
    assert house.client.put(f"/v1/uploads/{name}", content=path.read_bytes()).status_code in (200, 201)
    return name


def test_upsample_sends_the_files_and_shows_how_well_the_cell_is_fitted(house: Any, run: Any, tmp_path: Path) -> None:
    file = tmp_path / "my cells.tif"
    file.write_bytes(labels_tiff(frames=4))
    score = {"dice": 0.987, "mean_um": 0.1, "p95_um": 0.3}
    fit = json.dumps({"score": {**score, "dice": 0.9}, "adapted": {"score": score}}).encode()
    body = {
        "model": "round",
        "uploads": [kept(house, file)],
        "frames": 7,
        "grid": 16,
        "labels": [1, 2],
        "voxel": [1, 1, 2],
    }
    job = played(house, "/v1/reconstructions", body, {"fit.json": fit, **STL})
    house.client.delete(f"/v1/uploads/{body['uploads'][0]}")
    options = ("--frames", 7, "--grid", 16, "--label", 1, "--label", 2, "--voxel", "1,1,2")
    done = run("upsample", "round", file, *options, "--out", tmp_path / "fine")
    assert done.exit_code == 0, done.output
    assert files_in(tmp_path / "fine") == {*STL, "fit.json", "manifest.json"}
    assert "adapted: Dice 0.987" in done.stdout
    shown = run("upsample", "round", file, *options, "--out", tmp_path / "again", "--json")
    assert json.loads(shown.stdout)["job"]["id"] == job["id"]


def test_augment_takes_one_source_and_downloads_the_variations(house: Any, run: Any, tmp_path: Path) -> None:
    body = {"model": "round", "source": {"kind": "learned", "index": 2}, "seed": 77, "count": 3, "mirror": False,
            "size": [1, 1], "frames": 1, "grid": 16}  # fmt: skip
    played(house, "/v1/augmentations", body, {"augmentation.json": b"{}", **STL})
    options = ("--seed", 77, "--count", 3, "--no-mirror", "--size", "1,1", "--frames", 1, "--grid", 16)
    done = run("augment", "round", "--index", 2, *options, "--out", tmp_path / "varied")
    assert done.exit_code == 0, done.output
    assert files_in(tmp_path / "varied") == {*STL, "augmentation.json", "manifest.json"}
    file = tmp_path / "own.tif"
    file.write_bytes(labels_tiff(frames=6))
    own = {"model": "round", "source": {"kind": "uploads", "uploads": [kept(house, file)], "labels": [1]}, "seed": 78,
           "warp": 0.2, "frames": 1, "grid": 16}  # fmt: skip
    played(house, "/v1/augmentations", own, {"augmentation.json": b"{}", "fit.json": b"{}", **STL})
    options = (file, "--label", 1, "--seed", 78, "--warp", 0.2, "--frames", 1, "--grid", 16)
    done = run("augment", "round", *options, "--out", tmp_path / "own")
    assert done.exit_code == 0, done.output
    assert files_in(tmp_path / "own") >= {"augmentation.json", "fit.json"}
    for wrong, words in (
        ((), "give one of FILE, --index, --job and --values"),
        (("--index", 1, "--voxel", "1,1,1"), "--voxel and --label belong to a cell in a FILE"),
        (("--index", 1, "--warp", 0.9), "--warp"),
        (("--index", 1, "--values", "1,2"), "give one of"),
        (("--index", 1, "--cell", 2), "--cell is a cell of --job"),
        (("--index", 99), "index must be at most 4"),
        (("--index", 1, "--noise", 3), "--noise"),
    ):
        refused = run("augment", "round", *wrong, "--out", tmp_path / "wrong")
        assert (refused.exit_code, words in " ".join(refused.stderr.split())) == (2, True), refused.stderr
    assert not (tmp_path / "wrong").exists()


def test_train_sends_the_files_and_names_the_model(house: Any, run: Any, tmp_path: Path) -> None:
    file = tmp_path / "cells.tif"
    file.write_bytes(labels_tiff(frames=4))
    body = {"name": "mine", "uploads": [kept(house, file)], "steps": 50, "seed": 17, "keep_on_cancel": True}
    card = house.get("/v1/models/round").json()
    del card["href"]
    weights = b"weights"
    card |= {"sha256": hashlib.sha256(weights).hexdigest(), "quality": {"dice_training_frames": 0.95}}
    job = house.post(body, path="/v1/trainings").json()
    model_id = card["id"] = job["model"]["id"]
    files = {"trained/card.json": json.dumps(card).encode(), "trained/weights.safetensors": weights}
    house.carry_out(job["id"], files=files)
    done = run(
        "train", "mine", file, "--steps", 50, "--seed", 17, "--keep-on-cancel", "--out", tmp_path / "trained-here"
    )
    assert done.exit_code == 0, done.output
    assert "dice_training_frames 0.950" in done.stdout
    assert f"model: {model_id}" in done.stdout
    assert (tmp_path / "trained-here" / "trained" / "weights.safetensors").read_bytes() == weights


def test_train_lists_each_finding_once_if_nothing_can_be_trained_on(house: Any, run: Any, tmp_path: Path) -> None:
    file = tmp_path / "huge.tif"
    file.write_bytes(labels_tiff(frames=4))
    refused = run("train", "mine", file, "--voxel", "1e6,1e6,1e6", "--out", tmp_path / "wrong")
    told = " ".join(refused.stderr.split())
    assert refused.exit_code == 2, refused.output
    assert "refused: none of the 1 sequences can be trained on as it is: " in told
    assert told.count(": error size: ") == 1
    assert not (tmp_path / "wrong").exists()


def test_evaluate_compares_with_files_and_names_the_report(house: Any, run: Any, tmp_path: Path) -> None:
    file = tmp_path / "reference.tif"
    file.write_bytes(labels_tiff(frames=5))
    body = {"model": "round", "uploads": [kept(house, file)], "count": 6, "draws": 150}
    played(house, "/v1/evaluations", body, {"report.html": b"<p>", "summary.json": b"{}"})
    done = run("evaluate", "round", file, "--count", 6, "--draws", 150, "--out", tmp_path / "evaluated")
    assert done.exit_code == 0, done.output
    assert f"report: {tmp_path / 'evaluated' / 'report.html'}" in done.stdout
    refused = run("evaluate", "round", "--out", tmp_path / "none")
    assert (refused.exit_code, "FILE model round has no reference cells" in refused.stderr) == (2, True)
    missing = run("evaluate", "round", tmp_path / "nothing.tif", "--out", tmp_path / "none")
    assert (missing.exit_code, "there is no file" in missing.stderr) == (2, True)
