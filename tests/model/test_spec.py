from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from model.augmentation_spec import AugmentationSpec
from model.errors import SpecError
from model.formats import FORMATS
from model.spec import (
    CODE_MAX,
    COUNT_MAX,
    FINEST_GRID,
    FRAMES_MAX,
    GRID_MAX,
    GRID_MIN,
    SEED_MAX,
    GenerationSpec,
    LearnedLatent,
)

ROOT = Path(__file__).parents[2]
SHA = "0" * 64


def spec(**changes: Any) -> GenerationSpec:
    return GenerationSpec.model_validate({"model": "m", "seed": 7} | changes)


def refusal(**changes: Any) -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        spec(**changes)
    return caught.value


def place(error: ValidationError) -> set[object]:
    return {fault["loc"][0] if fault["loc"] else None for fault in error.errors()}


# -------------------------------------------------------------------------------------------------------- completing


def test_completing_fills_in_seed_and_frames_and_nothing_else() -> None:
    bare = GenerationSpec(model="m")
    complete = bare.completed()
    assert bare.seed is None
    assert complete.seed is not None
    assert complete.frames == 30
    left = {"seed", "frames"}
    assert complete.model_dump(exclude=left) == bare.model_dump(exclude=left)


def test_drawn_seeds_differ_and_survive_readers_that_know_only_doubles() -> None:
    seeds = [GenerationSpec(model="m").completed().seed or 0 for _ in range(200)]
    assert len(set(seeds)) == 200
    assert all(0 <= seed < 2**53 and int(float(seed)) == seed for seed in seeds)


@pytest.mark.parametrize("seed", [0, 1, SEED_MAX])
def test_a_given_seed_is_kept(seed: int) -> None:
    assert spec(seed=seed).completed().seed == seed


@pytest.mark.parametrize(
    "members", [{}, {"frames": 4}, {"times": [-1.0, 0.25]}, {"latent": {"kind": "explicit", "values": [0.1, 2.0]}}]
)
def test_a_completed_spec_is_complete_and_survives_json(members: dict[str, Any]) -> None:
    complete = spec(**members).completed()
    assert complete.completed() == complete
    assert GenerationSpec.model_validate_json(complete.model_dump_json()) == complete
    assert GenerationSpec.model_validate(json.loads(complete.model_dump_json())) == complete


# ------------------------------------------------------------------------------------------------------------ digest


def test_digest_is_the_same_in_another_process() -> None:
    text = f"from model.spec import GenerationSpec as S; print(S(model='m', seed=7).digest(model_sha256={SHA!r}))"
    done = subprocess.run([sys.executable, "-c", text], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == spec().digest(model_sha256=SHA)


def test_digest_does_not_depend_on_the_order_of_members_or_on_defaults_spelled_out() -> None:
    members = spec().model_dump(mode="json")
    backwards = dict(reversed(members.items()))
    assert GenerationSpec.model_validate(backwards).digest(model_sha256=SHA) == spec().digest(model_sha256=SHA)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "n"}, {"seed": 8}, {"count": 2}, {"frames": 29}, {"times": [0.0]}, {"grid": 65},
        {"grid": [64, 64, 65]}, {"latent": {"kind": "sampled", "temperature": 0.5}},
        {"latent": {"kind": "learned", "index": 0}},
        {"rotation": "random"}, {"rotation": [1.0, 0.0, 0.0, 0.0]}, {"formats": ["stl"]}, {"fragments": "keep"},
    ],
    ids=str,
)  # fmt: skip
def test_digest_tells_apart_whatever_changes_the_result(changes: dict[str, Any]) -> None:
    assert spec(**changes).digest(model_sha256=SHA) != spec().digest(model_sha256=SHA)


def test_digest_names_the_weights_too() -> None:
    assert spec().digest(model_sha256=SHA) != spec().digest(model_sha256="1" * 64)


# ------------------------------------------------------------------------------------------------------------ bounds


@pytest.mark.parametrize(
    ("member", "least", "most"),
    [
        ("seed", 0, SEED_MAX),
        ("count", 1, COUNT_MAX),
        ("frames", 1, FRAMES_MAX),
    ],
)
def test_bounds_are_included_and_what_lies_beyond_is_refused(member: str, least: int, most: int) -> None:
    assert getattr(spec(**{member: least}), member) == least
    assert getattr(spec(**{member: most}), member) == most
    for beyond in (least - 1, most + 1):
        assert place(refusal(**{member: beyond})) == {member}


@pytest.mark.parametrize(
    ("latent", "good"),
    [
        ({"kind": "sampled", "temperature": 2.0}, True), ({"kind": "sampled", "temperature": 2.1}, False),
        ({"kind": "sampled", "temperature": -0.1}, False), ({"kind": "learned", "index": -1}, False),
        ({"kind": "learned"}, False), ({"kind": "nearby", "index": 0, "noise": 2.5}, False),
        ({"kind": "interpolated", "first": 0, "second": 1, "weight": 1.0}, True),
        ({"kind": "interpolated", "first": 0, "second": 1, "weight": 1.1}, False),
        ({"kind": "explicit", "values": []}, False),
        pytest.param({"kind": "explicit", "values": [0.0] * CODE_MAX}, True, id="long code"),
        pytest.param({"kind": "explicit", "values": [0.0] * (CODE_MAX + 1)}, False, id="longer code"),
        ({"kind": "unheard"}, False), ({}, True), ({"temperature": 0.5}, True), ({"index": 0}, False),
    ],
    ids=str,
)  # fmt: skip
def test_bounds_of_latents(latent: dict[str, Any], good: bool) -> None:
    if good:
        assert spec(latent=latent).latent.model_dump().items() >= latent.items()
    else:
        assert place(refusal(latent=latent)) == {"latent"}


@pytest.mark.parametrize(
    "grid",
    [[64, 64], [64, 64, 64, 64], [64, 64, FINEST_GRID + 1], [GRID_MIN - 1, 64, 64], 64.5, "64", FINEST_GRID + 1, 7],
)
def test_grids_of_another_shape_are_refused(grid: object) -> None:
    assert place(refusal(grid=grid)) == {"grid"}


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_goes_as_far_as_its_row_says(name: str) -> None:
    row = FORMATS[name]
    formats = [*row.needs, name]
    assert spec(grid=row.finest, formats=formats).grid_shape == (row.finest,) * 3
    # That many samples, however they are arranged.
    assert spec(grid=[min(FINEST_GRID, 4 * row.finest), row.finest, 16], formats=formats)
    if row.finest < FINEST_GRID:
        refused = refusal(grid=row.finest + 1, formats=formats)
        assert place(refused) == {None}
        assert f"the format {name} goes up to {row.finest}" in str(refused)
        assert "stl" in str(refused)
    with pytest.raises(ValidationError):
        spec(grid=FINEST_GRID + 1, formats=formats)


def test_fragments_are_kept_on_usual_grids_only() -> None:
    assert spec(grid=GRID_MAX, formats=["stl"], fragments="keep")
    assert place(refusal(grid=GRID_MAX + 1, formats=["stl"], fragments="keep")) == {None}


def test_other_kinds_of_job_have_usual_grids() -> None:
    body = {"model": "m", "source": {"kind": "learned", "index": 0}, "formats": ["stl"]}
    assert AugmentationSpec.model_validate(body | {"grid": GRID_MAX})
    with pytest.raises(ValidationError):
        AugmentationSpec.model_validate(body | {"grid": GRID_MAX + 1})


def test_a_grid_has_one_number_or_one_for_each_axis() -> None:
    assert spec(grid=48).grid_shape == (48, 48, 48)
    assert spec(grid=[8, 16, 32]).grid_shape == (8, 16, 32)


@pytest.mark.parametrize("name", ["", "M", "../m", "-m", "m" * 65, "m\n", "m/n"])
def test_identifiers_that_could_be_paths_are_refused(name: str) -> None:
    assert place(refusal(model=name)) == {"model"}


# ------------------------------------------------------------------------------------------------- members and types


@pytest.mark.parametrize("members", [{"colour": 1}, {"latent": {"kind": "sampled", "index": 0}}], ids=str)
def test_unknown_members_are_refused(members: dict[str, Any]) -> None:
    assert "extra_forbidden" in {fault["type"] for fault in refusal(**members).errors()}


@pytest.mark.parametrize(
    "members", [{"seed": "7"}, {"seed": 7.5}, {"count": True}, {"times": ["0"]}, {"formats": "stl"}]
)
def test_types_are_not_converted(members: dict[str, Any]) -> None:
    assert place(refusal(**members)) == set(members)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("member", ["times", "rotation", "temperature", "noise", "weight", "values"])
def test_numbers_that_are_not_finite_are_refused(member: str, number: float) -> None:
    latents: dict[str, dict[str, Any]] = {
        "temperature": {"kind": "sampled", "temperature": number},
        "noise": {"kind": "nearby", "index": 0, "noise": number},
        "weight": {"kind": "interpolated", "first": 0, "second": 1, "weight": number},
        "values": {"kind": "explicit", "values": [0.0, number]},
    }
    given = {"times": {"times": [number]}, "rotation": {"rotation": [1.0, 0.0, 0.0, number]}}
    refusal(**given.get(member, {"latent": latents.get(member)}))


def test_a_spec_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        spec().seed = 8  # type: ignore[misc]


@pytest.mark.parametrize("formats", [[], ["stl", "stl"], ["gif"]], ids=str)
def test_formats_are_known_and_distinct(formats: list[str]) -> None:
    assert place(refusal(formats=formats)) == {"formats"}


@pytest.mark.parametrize("rotation", [[0.0, 0.0, 0.0, 0.0], [1e-9, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0], "some"], ids=str)
def test_rotations_that_turn_nothing_are_refused(rotation: object) -> None:
    assert place(refusal(rotation=rotation)) == {"rotation"}


# ------------------------------------------------------------------------------------------------------------- times


@pytest.mark.parametrize(
    ("times", "said"),
    [
        ([-1.0, 1.001], "temporal domain"),
        ([-1.5], "temporal domain"),
        ([0.0, 0.0], "increase"),
        ([0.5, -0.5], "increase"),
    ],
)
def test_times_lie_in_tau_and_increase(times: list[float], said: str) -> None:
    assert said in str(refusal(times=times))


@pytest.mark.parametrize("times", [[], [0.0] * (FRAMES_MAX + 1)], ids=["none", "too many"])
def test_number_of_times_is_bounded(times: list[float]) -> None:
    assert place(refusal(times=times)) == {"times"}


def test_frames_and_times_must_not_contradict_each_other() -> None:
    assert "not both" in str(refusal(frames=3, times=[0.0, 0.5]))
    assert spec(times=[-1.0, 0.0, 1.0]).frame_count == 3
    assert spec(frames=5).frame_count == 5


# -------------------------------------------------------------------------------------------------------------- cost


def test_cost_counts_frames_and_points_exactly() -> None:
    cost = spec(count=3, frames=4, grid=[8, 16, 32]).cost()
    assert (cost.frames, cost.points) == (12, 12 * 8 * 16 * 32)
    assert spec(count=2, times=[0.0, 0.5]).cost().frames == 4


@given(count=st.integers(1, 50), frames=st.integers(1, 50), grid=st.integers(GRID_MIN, GRID_MAX - 1))
def test_more_of_anything_costs_no_less(count: int, frames: int, grid: int) -> None:
    base = spec(count=count, frames=frames, grid=grid).cost()
    for more in ({"count": count + 1}, {"frames": frames + 1}, {"grid": grid + 1}):
        cost = spec(**({"count": count, "frames": frames, "grid": grid} | more)).cost()
        assert cost.points > base.points
        assert cost.bytes >= base.bytes
        assert cost.seconds >= base.seconds


def test_each_further_mesh_format_costs_bytes_and_no_time() -> None:
    one, two = spec(formats=["stl"]).cost(), spec(formats=["stl", "obj"]).cost()
    assert two.bytes > one.bytes
    assert two.seconds == one.seconds


def test_a_preview_costs_time_by_the_frames_it_shows() -> None:
    def preview_s(**members: Any) -> float:
        return spec(formats=["stl", "png"], **members).cost().seconds - spec(formats=["stl"], **members).cost().seconds

    assert preview_s(frames=1) == pytest.approx(preview_s(frames=4) / 4, abs=2e-3)
    assert preview_s(frames=8) == pytest.approx(preview_s(frames=200), abs=2e-3)
    assert preview_s(frames=8, count=3) == pytest.approx(3 * preview_s(frames=8), abs=2e-3)


# -------------------------------------------------------------------------------------------------------- the model


@pytest.mark.parametrize(
    ("latent", "pointer", "said"),
    [
        ({"kind": "learned", "index": 40}, "/latent/index", "at most 39"),
        ({"kind": "nearby", "index": 99}, "/latent/index", "at most 39"),
        ({"kind": "interpolated", "first": 40, "second": 0}, "/latent/first", "at most 39"),
        ({"kind": "interpolated", "first": 0, "second": 40}, "/latent/second", "at most 39"),
        ({"kind": "explicit", "values": [0.0, 1.0]}, "/latent/values", "6 numbers"),
    ],
    ids=str,
)
def test_latents_a_model_cannot_have_are_refused_with_their_place(
    latent: dict[str, Any], pointer: str, said: str
) -> None:
    with pytest.raises(SpecError, match=said) as caught:
        spec(latent=latent).check_fits(latent_codes=40, latent_size=6)
    assert caught.value.pointer == pointer


@pytest.mark.parametrize(
    "latent",
    [
        {"kind": "sampled"},
        {"kind": "learned", "index": 39},
        {"kind": "nearby", "index": 0},
        {"kind": "interpolated", "first": 39, "second": 39},
        {"kind": "explicit", "values": [0.0] * 6},
    ],
    ids=str,
)
def test_latents_a_model_can_have_fit(latent: dict[str, Any]) -> None:
    spec(latent=latent).check_fits(latent_codes=40, latent_size=6)


def test_the_same_cell_can_be_named_by_index_alone() -> None:
    assert spec(latent={"kind": "learned", "index": 3}).latent == LearnedLatent(kind="learned", index=3)


def test_on_implausible_changes_no_digest_unless_it_is_asked_to_fail() -> None:
    plain = GenerationSpec(model="celegans", seed=7).completed()
    warned = GenerationSpec(model="celegans", seed=7, on_implausible="warn").completed()
    failing = GenerationSpec(model="celegans", seed=7, on_implausible="fail").completed()
    sums = [spec.digest(model_sha256="0" * 64) for spec in (plain, warned, failing)]
    assert sums[0] == sums[1] != sums[2]
    assert "on_implausible" not in plain.model_dump_json()
    for spec in (plain, failing):
        assert GenerationSpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize("name", ["celegans", "a549"])
@pytest.mark.parametrize("grid", [32, 64])
def test_evaluations_are_estimated_within_a_factor_of_two(name: str, grid: int) -> None:
    from functools import partial

    import torch

    from model.card import SHIPPED_MODELS
    from model.domain import Grid
    from model.engine.sparse import evaluate_sparse
    from model.living_cell import LivingCell
    from model.network.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(SHIPPED_MODELS / name)
    spec = GenerationSpec(model=name, frames=2, grid=grid, latent=LearnedLatent(kind="learned", index=0))
    counted = 0
    bound = LivingCell(checkpoint, checkpoint.latent_codes[0], [1.0, 0.0, 0.0, 0.0]).lipschitz()
    for time in (-1.0, 1.0):
        sdf = partial(checkpoint.decoder.fold(torch.from_numpy(checkpoint.latent_codes[0]), time), threads=1)

        def counting(points: Any, sdf: Any = sdf) -> Any:
            nonlocal counted
            counted += len(points)
            return sdf(points)

        evaluate_sparse(counting, Grid((grid, grid, grid)), lipschitz=bound)
    assert 0.5 < counted / spec.cost().evaluations < 2.0


def test_a_sampled_code_costs_its_plausibility_check() -> None:
    drawn = GenerationSpec(model="m", count=3, frames=1, grid=16).cost()
    learned = GenerationSpec(
        model="m", count=3, frames=1, grid=16, latent=LearnedLatent(kind="learned", index=0)
    ).cost()
    assert drawn.evaluations - learned.evaluations == 3 * 75_000
