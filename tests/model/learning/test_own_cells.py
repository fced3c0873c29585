"""A user's own cells, the whole way: files, a look at them, training sequences, a trained model, new cells from it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cells_on_disk as disk
import numpy as np
import pytest
import tifffile
from click.testing import Result
from typer.testing import CliRunner

from model.__main__ import cli
from model.card import find_models, load_card
from model.network.checkpoint import load_checkpoint
from model.spec import GenerationSpec, LearnedLatent
from model.synthesis import synthesize

DATA = Path(__file__).parents[3].parent / "shared" / "data"


def run(*arguments: str | Path, status: int = 0) -> Result:
    done = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert done.exit_code == status, done.output
    return done


def text(result: Result) -> str:
    return re.sub(r"\s+", " ", result.output)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Import, train: what the two commands leave behind."""
    home = tmp_path_factory.mktemp("workshop")
    for name in ("a", "b"):
        disk.write_meshes(home / "meshes" / name, ".stl")
    run("import", home / "meshes", "--out", home / "My cells", "--interval", "2", "--points", "2048", "--steps", "150")
    recipe = home / "My cells" / "recipe.toml"
    quick = recipe.read_text().replace("latent_size = 16", "latent_size = 4\nwidth = 32\ndepth = 3")
    quick = quick.replace("\nlearning_rate = 5e-4", "\nlearning_rate = 3e-3")
    quick = quick.replace("warm_up = 1000", "warm_up = 20")
    recipe.write_text(quick.replace("seed = 1", "seed = 1\nthreads = 1").replace("every = 0", "every = 4"))
    assert find_models([home / "models"]) == {}
    run("train", "--config", recipe, "--models", home / "models", "--work", home / "work")
    return home


def test_validation_passes_good_cells_and_fails_bad_ones(workshop: Path, tmp_path: Path) -> None:
    run("validate", workshop / "meshes")
    run("validate", workshop / "My cells")
    found = tmp_path / "report" / "found.json"
    disk.write_challenge(tmp_path / "TRA", name="mask")
    output = text(run("validate", tmp_path / "TRA", "--json", found, status=1))
    assert "--voxel X Y Z" in output
    assert "2 of 2 sequences cannot be trained on as they are" in output
    report = json.loads(found.read_text())
    assert report["errors"] == 2
    assert {finding["code"] for row in report["sequences"] for finding in row["findings"]} == {"no_spacing"}
    run("validate", tmp_path / "TRA", "--voxel", "0.5", "0.5", "1.0")


def test_training_ends_with_card_figures_and_picture(workshop: Path) -> None:
    folder = workshop / "models" / "my-cells"
    card = load_card(folder)
    assert card.latent_codes == 2
    assert card.minutes == pytest.approx(2.0 * (disk.FRAMES - 1))
    assert card.lipschitz > 0.5
    assert card.training.held_out_frames == "2"
    assert card.quality["dice_training_frames"] > 0.85
    assert "dice_left_out_frames" in card.quality
    assert card.quality["dice_with_nearest_training_of_held_out"] == 1.0, "both sequences are the same"
    assert card.quality["memorisation_rate"] == 0.0, "so none is nearer than by chance"
    assert 0.5 < card.quality["dice_with_nearest_training"] <= 1.0
    assert [text.partition(":")[0] for text in card.warnings] == ["Learned from 2 sequences, too few for new shapes"]
    rows = json.loads((folder / "figures.json").read_text())["frames"]
    assert len(rows) == 2 * disk.FRAMES
    assert (folder / "figures.png").read_bytes().startswith(b"\x89PNG")


def test_a_model_is_found_as_soon_as_it_is_trained_and_gives_the_cells_it_learned(
    workshop: Path, tmp_path: Path
) -> None:
    """The service looks into its folders at every request, with the same function."""
    folder = find_models([workshop / "models"])["my-cells"]
    checkpoint = load_checkpoint(folder)
    latent = LearnedLatent(kind="learned", index=0)
    spec = GenerationSpec(model="my-cells", seed=1, frames=disk.FRAMES, grid=48, formats=["stl"], latent=latent)
    manifest = synthesize(spec.completed(), checkpoint, tmp_path / "cells")
    volumes = [row["volume_um3"] for row in manifest["cells"][0]["frames"]]
    given = [4 / 3 * np.pi * (5.0 + 0.2 * frame) * 4.0 * 3.0 for frame in range(disk.FRAMES)]
    assert np.allclose(volumes, given, rtol=0.2)  # 150 steps


def test_an_imported_data_set_is_evaluated_like_any_other(workshop: Path, tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    run(
        "evaluate", "--config", workshop / "My cells" / "recipe.toml", "--models", workshop / "models",
        "--grid", "48", "--samples", "0", "--out", out,
    )  # fmt: skip
    assert json.loads(out.read_text())["figures"]["dice_training_frames"] > 0.85


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("import", "nowhere", "--out", "x"), "there is no nowhere"),
        (("fit", "nowhere.tif", "--model", "celegans", "--out", "x", "--times", "a,b"), "numbers with commas between"),
        (("fit", "nowhere.tif", "--model", "nobody", "--out", "x"), "there is no model 'nobody'"),
        (("import-released", "nowhere", "--out", "x"), "holds no specs.json"),
    ],
)
def test_mistakes_are_told_in_one_sentence(arguments: tuple[str, ...], words: str) -> None:
    done = CliRunner().invoke(cli, list(arguments))
    assert done.exit_code != 0
    assert words in re.sub(r"[\s│]+", " ", f"{done.output} {done.exception}")


@pytest.mark.parametrize("kind", ["celegans", "tcells"])
def test_real_cells_are_imported(kind: str, tmp_path: Path) -> None:
    files = sorted((DATA / kind).glob("*.tif"))[:2]
    if not files:
        pytest.skip(f"no real cells beside the repository ({kind})")
    (tmp_path / "cells").mkdir()
    for path in files:
        tifffile.imwrite(tmp_path / "cells" / path.name, tifffile.imread(path)[:4], metadata={"axes": "TZYX"})
    voxel = ("--voxel", "0.15", "0.15", "0.15")
    assert "2 sequences" in text(run("validate", tmp_path / "cells", *voxel))
    run("import", tmp_path / "cells", "--out", tmp_path / "out", *voxel, "--points", "1024")
    run("validate", tmp_path / "out")
