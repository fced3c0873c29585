"""Experiments in the layout of the method's authors, written here with random weights, and their forward pass anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.io import savemat
from typer.testing import CliRunner

from model.__main__ import cli
from model.errors import CheckpointError
from model.network.checkpoint import load_checkpoint
from model.network.latent import rotation_matrix
from model.network.wiesner2022 import ReleasedConfig, ReleasedDecoder
from model.network.wiesner2022_import import read_experiment, save_experiment
from model.output.verify import verify_result
from model.spec import GenerationSpec
from model.synthesis import synthesize

CODES = 3
RELEASED: dict[str, Any] = {
    "dims": [128, 128, 128, 320, 128, 128, 320, 128, 128, 128],
    "latent_in": [4, 7],
    "xyz_in_all": True,
}
NETWORKS: list[tuple[int, dict[str, Any]]] = [
    (192, RELEASED),
    (6, {"dims": [24, 34, 24], "latent_in": [2], "xyz_in_all": False}),
    (6, {"dims": [24, 24], "latent_in": [], "xyz_in_all": True}),
    (6, {"dims": [24, 34], "latent_in": [2], "xyz_in_all": True}),  # the code enters the last, linear layer
    (6, {"dims": [34, 34, 20], "latent_in": [1, 2], "xyz_in_all": True}),
    (3, {"dims": [16], "latent_in": [], "xyz_in_all": False}),
]


def layer_shapes(code: int, network: dict[str, Any]) -> list[tuple[int, int]]:
    """Inputs and outputs of each linear layer, by the release's rules written down anew."""
    widths = [code + 4, *network["dims"], 1]
    shapes = []
    for layer in range(len(widths) - 1):
        out = widths[layer + 1]
        if layer + 1 in network["latent_in"]:
            out -= widths[0]
        elif network["xyz_in_all"] and layer != len(widths) - 2:
            out -= 4
        shapes.append((widths[layer], out))
    return shapes


def random_layers(code: int, network: dict[str, Any]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weights of a size that keeps 30 times their product in the range of a trained network."""
    rng = np.random.default_rng(5)
    return [
        (rng.normal(0, 0.05 / np.sqrt(n_in), (n_out, n_in)), rng.uniform(-0.02, 0.02, n_out))
        for n_in, n_out in layer_shapes(code, network)
    ]


def forward(
    layers: list[tuple[np.ndarray, np.ndarray]],
    network: dict[str, Any],
    *,
    code: np.ndarray,
    points: np.ndarray,
    time: float,
    angles: np.ndarray | None = None,
) -> np.ndarray:
    """The released forward pass for one code and time, in float64: the oracle."""
    if angles is not None:
        (ca, cb, cc), (sa, sb, sc) = np.cos(angles), np.sin(angles)
        about_x = np.array([[1, 0, 0], [0, ca, -sa], [0, sa, ca]])
        about_y = np.array([[cb, 0, sb], [0, 1, 0], [-sb, 0, cb]])
        about_z = np.array([[cc, -sc, 0], [sc, cc, 0], [0, 0, 1]])
        points = points @ (about_x @ about_y @ about_z)
    space_time = np.column_stack([points, np.full(len(points), time)])
    whole = np.column_stack([np.tile(code, (len(points), 1)), space_time])
    x = whole
    for number, (weight, bias) in enumerate(layers):
        if number in network["latent_in"]:
            x = np.column_stack([x, whole])
        elif number != 0 and network["xyz_in_all"]:
            x = np.column_stack([x, space_time])
        x = x @ weight.T + bias
        if number < len(layers) - 1:
            x = np.sin(30.0 * x)
    return np.asarray(x[:, 0])


def write_experiment(
    folder: Path, code: int, network: dict[str, Any], *, epoch: str = "", weight_norm: str = "", **specs: object
) -> tuple[np.ndarray, np.ndarray]:
    """Write a folder as the release does; return its codes and Euler angles."""
    rng = np.random.default_rng(6)
    (folder / "model_parameters").mkdir(parents=True)
    (folder / "latent_codes").mkdir()
    (folder / "specs.json").write_text(
        json.dumps({
            "CodeLength": code, "NumSequences": CODES, "OptimizeRot": True,
            "NetworkSpecs": {**network, "norm_layers": [], "weight_norm": bool(weight_norm), "use_tanh": False},
            "ReconstructionDims": [256, 256, 256], "ReconstructionFramesPerSequence": 30, **specs,
        })
    )  # fmt: skip
    state = {}
    for number, (weight, bias) in enumerate(random_layers(code, network)):
        name, tensor = f"module.lin{number}", torch.from_numpy(weight).float()
        state[f"{name}.bias"] = torch.from_numpy(bias).float()
        if weight_norm:
            pair = ("weight_g", "weight_v") if weight_norm == "old" else ("parametrizations.weight.original0",
                    "parametrizations.weight.original1")  # fmt: skip
            state[f"{name}.{pair[0]}"] = tensor.norm(dim=1, keepdim=True)
            state[f"{name}.{pair[1]}"] = 2.5 * tensor
        else:
            state[f"{name}.weight"] = tensor
    torch.save({"epoch": 1500, "model_state_dict": state}, folder / f"model_parameters/{epoch}model.pth")
    codes, angles = rng.normal(0, 0.1, (CODES, code)), rng.uniform(-np.pi, np.pi, (CODES, 3))
    savemat(folder / f"latent_codes/{epoch}lat_vecs.mat", {"lat_vecs": codes.astype(np.float32)})
    savemat(folder / f"latent_codes/{epoch}rot_angs.mat", {"rot_ang": angles})
    return codes.astype(np.float32), angles


@pytest.mark.parametrize(
    ("weight_norm", "code", "network"),
    [
        pytest.param(norm, code, network, marks=pytest.mark.slow if code == 192 and norm != "new" else ())
        for norm in ("", "old", "new")
        for code, network in NETWORKS
    ],
)
def test_an_imported_model_gives_the_released_forward_pass(
    code: int, network: dict[str, Any], weight_norm: str, tmp_path: Path
) -> None:
    codes, angles = write_experiment(tmp_path / "theirs", code, network, epoch="e1500_", weight_norm=weight_norm)
    models = tmp_path / "models"
    done = CliRunner().invoke(
        cli, ["import-released", str(tmp_path / "theirs"), "--out", str(models / "theirs"), "--micrometres", "12"]
    )
    assert done.exit_code == 0, done.output
    checkpoint = load_checkpoint(models / "theirs")
    assert checkpoint.rotations is not None
    assert np.array_equal(checkpoint.latent_codes, codes)
    assert (checkpoint.card.micrometres, checkpoint.card.training.steps) == (12.0, 1500)
    points = np.random.default_rng(1).uniform(-1, 1, (500, 3)).astype(np.float32)
    for number, time in ((0, -1.0), (1, 0.37), (2, 1.0)):
        turn = torch.from_numpy(rotation_matrix([float(q) for q in checkpoint.rotations[number]]))
        latent = torch.from_numpy(codes[number])
        for rotation, euler in ((turn, angles[number]), (None, None)):
            expected = forward(
                random_layers(code, network), network, code=codes[number], points=points, time=time, angles=euler
            )
            assert np.abs(expected).max() > 1e-3  # not a network of zeros
            found = checkpoint.decoder.fold(latent, time, rotation)(points)
            assert np.abs(found - expected).max() < 1e-5
        batch = checkpoint.decoder(
            torch.from_numpy(points)[None], torch.tensor([time]), torch.from_numpy(codes[number])[None]
        )
        assert np.abs(batch[0].numpy() - expected).max() < 1e-5


@pytest.mark.parametrize(("code", "network"), NETWORKS)
def test_x_and_y_change_places_when_asked_and_rotations_with_them(
    code: int, network: dict[str, Any], tmp_path: Path
) -> None:
    """The release's first coordinate is the row of an image; a cell lies as in the image when that is y."""
    codes, angles = write_experiment(tmp_path / "theirs", code, network)
    command = ["import-released", str(tmp_path / "theirs"), "--out", str(tmp_path / "models" / "theirs")]
    done = CliRunner().invoke(cli, [*command, "--swap-xy"])
    assert done.exit_code == 0, done.output
    checkpoint = load_checkpoint(tmp_path / "models" / "theirs")
    assert checkpoint.rotations is not None
    points: NDArray[np.float32] = np.random.default_rng(1).uniform(-1, 1, (500, 3)).astype(np.float32)
    for number in range(CODES):
        turn = torch.from_numpy(rotation_matrix([float(q) for q in checkpoint.rotations[number]]))
        assert torch.linalg.det(turn) == pytest.approx(1.0, abs=1e-5)
        for rotation, euler in ((turn, angles[number]), (None, None)):
            expected = forward(
                random_layers(code, network), network, code=codes[number], points=points[:, [1, 0, 2]], time=0.4,
                angles=euler,
            )  # fmt: skip
            found = checkpoint.decoder.fold(torch.from_numpy(codes[number]), 0.4, rotation)(points)
            assert np.abs(found - expected).max() < 1e-5


def test_without_that_the_import_says_how_cells_lie(tmp_path: Path) -> None:
    write_experiment(tmp_path / "theirs", *NETWORKS[2])
    command = ["import-released", str(tmp_path / "theirs"), "--out"]
    assert "--swap-xy" in CliRunner().invoke(cli, [*command, str(tmp_path / "a")]).output
    assert "--swap-xy" not in CliRunner().invoke(cli, [*command, str(tmp_path / "b"), "--swap-xy"]).output


def test_an_imported_model_makes_cells_as_any_other(tmp_path: Path) -> None:
    """A network of one cosine bump a direction: its zero level set is a closed body in the middle of Ω."""
    network = {"dims": [11], "latent_in": [], "xyz_in_all": True}  # seven sine units
    write_experiment(tmp_path / "theirs", 2, network)
    first = np.zeros((7, 6))
    first[0:3, 2:5] = np.eye(3) * (np.pi / 2 / 30)  # sin(π/2 x + π/2), and so for y and z
    phase = np.concatenate([np.full(3, np.pi / 2 / 30), np.zeros(4)])
    out = np.zeros((1, 11))
    out[0, 0:3] = -0.5
    state = {
        "module.lin0.weight": torch.from_numpy(first).float(),
        "module.lin0.bias": torch.from_numpy(phase).float(),
        "module.lin1.weight": torch.from_numpy(out).float(),
        "module.lin1.bias": torch.tensor([1.1]),
    }
    torch.save({"epoch": 1, "model_state_dict": state}, tmp_path / "theirs/model_parameters/model.pth")
    save_experiment(
        read_experiment(tmp_path / "theirs"), tmp_path / "bumps", title="Bumps", cell_type="bumps", licence="none",
        micrometres=10.0, minutes=5.0, topology="single",
    )  # fmt: skip
    checkpoint = load_checkpoint(tmp_path / "bumps")
    spec = GenerationSpec(model="bumps", seed=3, frames=2, grid=32, rotation="random", formats=["stl", "tiff"])
    manifest = synthesize(spec.completed(), checkpoint, tmp_path / "cells")
    axis = (np.arange(200) + 0.5) / 100 - 1
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    inside = np.cos(np.pi / 2 * x) + np.cos(np.pi / 2 * y) + np.cos(np.pi / 2 * z) > 2.2
    for row in manifest["cells"][0]["frames"]:
        assert row["labels"] == [1]
        assert row["volume_um3"] == pytest.approx(inside.mean() * 8 * 10.0**3, rel=0.02)
    assert list(verify_result(tmp_path / "cells")) == []


def test_the_released_network_has_the_size_that_its_authors_published() -> None:
    decoder = ReleasedDecoder(ReleasedConfig(latent_size=192, **RELEASED))
    assert sum(parameter.numel() for parameter in decoder.parameters()) == 216_137


def test_slopes_of_an_imported_model_are_those_of_its_values(tmp_path: Path) -> None:
    """The service skips what the slope says cannot meet the membrane."""
    write_experiment(tmp_path / "theirs", 6, NETWORKS[3][1])
    decoder = read_experiment(tmp_path / "theirs").decoder
    sdf = decoder.fold(torch.zeros(6), 0.2)
    points = np.random.default_rng(2).uniform(-1, 1, (50, 3)).astype(np.float32)
    h = np.float32(2e-2)
    numeric = np.stack([(sdf(points + h * axis) - sdf(points - h * axis)) / (2 * h) for axis in np.eye(3, dtype="f4")])
    assert np.allclose(sdf.slopes(points), np.linalg.norm(numeric, axis=0), rtol=0.02, atol=1e-4)


def test_the_latest_epoch_counts_and_any_can_be_asked_for(tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    code, network = NETWORKS[2]
    write_experiment(folder, code, network, epoch="e500_")
    for name in ("model_parameters", "latent_codes"):
        for path in list((folder / name).iterdir()):
            (folder / name / path.name.replace("e500_", "e1000_")).write_bytes(path.read_bytes())
    late = torch.load(folder / "model_parameters/e1000_model.pth", weights_only=True)
    torch.save({**late, "epoch": 1000}, folder / "model_parameters/e1000_model.pth")
    assert read_experiment(folder).epoch == 1000
    assert read_experiment(folder, epoch=500).epoch == 1500  # as the file itself says
    with pytest.raises(CheckpointError, match=r"no epoch 7 .* \[500, 1000\]"):
        read_experiment(folder, epoch=7)


class Payload:
    """Would run code if the pickle were opened as one."""

    ran = False

    def __reduce__(self) -> tuple[Any, ...]:
        return (setattr, (Payload, "ran", True))


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    write_experiment(folder, *NETWORKS[2])
    torch.save({"model_state_dict": {"x": Payload()}}, folder / "model_parameters/model.pth")
    with pytest.raises(CheckpointError, match="does not hold plain weights"):
        read_experiment(folder)
    assert not Payload.ran


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"NetworkSpecs": {**NETWORKS[2][1], "use_tanh": True}}, "tanh"),
        ({"NetworkSpecs": {"latent_in": []}}, "no 'dims'"),
        ({"NetworkSpecs": {"dims": [24, 24], "latent_in": [9]}}, "latent_in names layers 1 to 2"),
        ({"NetworkSpecs": {"dims": [24, 48], "latent_in": []}}, r"lin0\.weight is \(20, 10\), .* \(24, 10\)"),
        ({"CodeLength": 7}, "lin0"),
    ],
)
def test_what_cannot_be_imported_is_refused_with_the_reason(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    write_experiment(tmp_path / "theirs", *NETWORKS[2], **change)
    with pytest.raises(CheckpointError, match=words):
        read_experiment(tmp_path / "theirs")


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no specs\.json"):
        read_experiment(tmp_path)
    folder = tmp_path / "theirs"
    write_experiment(folder, *NETWORKS[2])
    (folder / "latent_codes/rot_angs.mat").unlink()
    with pytest.raises(CheckpointError, match=r"no rot_angs\.mat"):
        read_experiment(folder)
    (folder / "latent_codes/lat_vecs.mat").write_bytes(b"nothing of the kind" * 20)
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_experiment(folder)
