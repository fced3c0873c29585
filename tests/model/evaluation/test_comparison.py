"""Studies on real sequences: phantoms beside phantoms, and a small trained model beside the masks it learned."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from tiny_model import recipe

from model.domain import Grid
from model.evaluation.comparison import Sides, compare_sides, draw_baseline, novelty
from model.evaluation.reports.html_report import write_report
from model.evaluation.reports.model_report import Scope, report_on_model
from model.evaluation.sequence_measures import MOMENTS, SequenceMeasures, measure
from model.evaluation.sequence_sources import GeneratedSequences, PhantomSequences, RealSequences
from model.learning.sources import MaskSource
from model.phantoms import make_phantom

ROOT = Path(__file__).parents[3]


@cache
def phantom(index: int) -> SequenceMeasures:
    return measure(PhantomSequences("a549", 40, 4, has_protrusions=True), index)


def test_a_phantoms_life_is_measured_as_it_was_made() -> None:
    phantom = make_phantom("celegans", 3)
    sequence = measure(PhantomSequences("celegans", 3, 1), 0)
    assert sequence.minutes == pytest.approx(np.linspace(0.0, phantom.minutes, MOMENTS))
    truth = [phantom.shape(float(t), resolution=64) for t in np.linspace(-1.0, 1.0, MOMENTS)]
    assert sequence.counts() == [shape.components for shape in truth]
    cubic = phantom.micrometres**3
    assert sequence.volumes() == pytest.approx([shape.volume * cubic for shape in truth], rel=0.01)
    halves = [body.volume for body in sequence.bodies[-1]]
    assert sequence.values("asymmetry") == pytest.approx([(halves[0] - halves[1]) / sum(halves)])
    (divided,) = sequence.values("division_time")
    assert 0.0 <= divided - (phantom.scission + 1.0) / 2.0 * phantom.minutes <= phantom.minutes / (MOMENTS - 1)
    (growth,) = sequence.values("growth")
    assert growth == pytest.approx(truth[-1].volume / truth[0].volume - 1.0, abs=0.01)


def test_a_mask_is_what_the_shape_contains() -> None:
    grid = Grid((32, 32, 32))
    source = PhantomSequences("celegans", 3, 1)
    snapshot = next(iter(source.snapshots(0, moments=3, grid=grid)))
    shape = make_phantom("celegans", 3).shape(-1.0, resolution=32)
    assert np.array_equal(snapshot.inside.ravel(), shape.contains(grid.points()))


@pytest.mark.slow
def test_filopodia_of_phantoms_are_found() -> None:
    sequences = [phantom(index) for index in range(4)]
    numbers = [value for sequence in sequences for value in sequence.values("protrusions")]
    thickness = [value for sequence in sequences for value in sequence.values("protrusion_thickness")]
    assert 2.0 <= np.mean(numbers) <= 9.0
    assert 1.6 < np.nanmean(thickness) < 3.5, "made 1.7 µm thick and more"


def test_a_set_agrees_with_itself_and_its_copies_are_no_news() -> None:
    sequences = [phantom(0), phantom(1)]
    found = compare_sides(
        Sides(sequences, sequences, sequences, sequences), topology="single", rng=np.random.default_rng(0), draws=50
    )
    assert {rows["generated"]["distance"] for rows in found["descriptors"].values()} == {0.0}
    assert found["sets"]["generated"] == {"one_nn": 0.0, "coverage": 1.0, "matching": 0.0}
    assert found["novelty"]["dice_with_nearest_training"] == 1.0
    assert found["novelty"]["memorisation_rate"] == 0.0, "no nearer than the held-out ones, which are the same"
    assert found["plausibility"]["after_gate"] == 1.0
    assert {"protrusions", "membrane_speed", "sphericity"} <= found["descriptors"].keys()


def test_the_memorisation_rate_is_the_share_of_copies(tiny: Path) -> None:
    first, second = phantom(0), phantom(1)
    source = MaskSource(kind="masks", folder=tiny / "masks", micrometres=10.0, minutes=6.0)
    third, fourth = (measure(RealSequences.of(source, has_protrusions=False), index) for index in (1, 0))
    training, held_out = [first, second], [third, fourth]
    for generated, rate in (([first, second], 1.0), ([first, fourth], 0.5), ([third, fourth], 0.5)):
        found = novelty(Sides(generated, held_out, training, training))
        assert found["memorisation_rate"] == rate  # of two held-out cells the third is the nearer


def test_the_baseline_keeps_sizes_and_cannot_make_filopodia() -> None:
    sequences = [phantom(0), phantom(1)]
    drawn = draw_baseline(sequences, 6, np.random.default_rng(0))
    volumes = [value for sequence in drawn for value in sequence.volumes()]
    assert np.mean(volumes) == pytest.approx(np.mean([sequence.volumes() for sequence in sequences]), rel=0.25)
    solid = [
        np.median([value for sequence in side for value in sequence.values("solidity")]) for side in (drawn, sequences)
    ]
    assert solid[0] > solid[1] + 0.03


@pytest.fixture(scope="module")
def tiny(tiny_training: Path) -> Path:
    return tiny_training


def test_a_users_model_is_studied_against_the_users_cells(tiny: Path, tmp_path: Path) -> None:
    scope = Scope(cells=3, scored=1, every=2, grid_side=24, draws=30, pictured=1, paired=1, fits=1)
    report = report_on_model(
        recipe(tiny / "masks"), tiny / "models" / "tiny", held_out=tiny / "masks", scope=scope, workers=1
    )
    assert report.figures["sequences"] == {"held-out": 3, "generated": 3, "training": 3, "baseline": 3}
    rows = report.figures["descriptors"]
    assert rows["volume"]["training"]["distance"] == 0.0, "held-out cells are the training cells here"
    assert 0.0 < rows["volume"]["generated"]["distance"] <= 1.0
    assert report.figures["reconstruction"]["dice_training_frames"] > 0.8
    fitting = report.figures["fitting"]
    assert fitting["cells"] == ["cell_0"]
    assert fitting["all_frames"]["adapted"]["dice"] > 0.95

    summary = write_report(tmp_path / "report", [report], facts={"command": "test", "seconds": 1.0})
    read = json.loads((tmp_path / "report" / "summary.json").read_text())
    assert read == json.loads(json.dumps(summary).replace("NaN", "null"))
    volume = read["models"]["tiny"]["descriptors"]["volume"]["generated"]
    assert volume["ci"][0] <= volume["D"] <= 1.0
    assert read["models"]["tiny"]["fitting"] == fitting
    found = read["models"]["tiny"]["novelty"]
    assert found["training_searched"] == 3
    assert found["dice_with_nearest_training"] == found["dice_with_nearest_held_out"], "the same cells here"
    page = (tmp_path / "report" / "report.html").read_text()
    assert f"<td>{found['memorisation_rate']:.1%}</td><td>5 %</td><td>≤ 25%</td>" in page
    assert f"<td>all frames</td><td>adapted</td><td>{fitting['all_frames']['adapted']['dice']:.4g}</td>" in page
    assert page.count('src="data:image/png;base64,') == len(report.pictures) == 5
    assert not re.search(r'(?:src|href)="(?!data:)', page), "the page needs no other file"
    for picture in report.pictures:
        assert (tmp_path / "report" / f"tiny-{picture.name}.png").read_bytes().startswith(b"\x89PNG")


def test_masks_are_measured_at_their_own_frames_and_scale(tiny: Path) -> None:
    source = MaskSource(kind="masks", folder=tiny / "masks", micrometres=10.0, minutes=6.0)
    real = RealSequences.of(source, has_protrusions=False)
    sequence = measure(real, 0)
    assert sequence.minutes == pytest.approx([0.0, 2.0, 4.0, 6.0])
    truth = 4.0 / 3.0 * np.pi * 0.35 * 0.45 * 0.55 * 1000.0 * (1.0 + 0.08 * np.arange(4)) ** 3
    assert sequence.volumes() == pytest.approx(truth, rel=0.03)


def test_new_cells_are_the_same_for_the_same_seeds(tiny: Path) -> None:
    one, two = (measure(GeneratedSequences(tiny / "models" / "tiny", 2), 1) for _ in range(2))
    assert np.array_equal(one.masks, two.masks)
    assert one.bodies == two.bodies
    other = measure(GeneratedSequences(tiny / "models" / "tiny", 2), 0)
    assert not np.array_equal(one.masks, other.masks)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_command_writes_a_report_on_a_shipped_model(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "model", "evaluate", "--config", "model/recipes/a549.toml", "--models"]
    command += ["model/checkpoints", "--quick", "--workers", "2", "--report", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=1100)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["models"]["a549"]["plausibility"]["after_gate"] > 0.6
    assert (tmp_path / "report.html").stat().st_size > 100_000
