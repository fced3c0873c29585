"""The client as a wheel, alone in a fresh environment, beside a running service; and its reader inside napari."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from environments import install, make_environment
from served import Served, served

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # installs from a registry

GENERATE = """
import sys
from cytosynth import Client, InvalidRequestError
with Client(sys.argv[1]) as client:
    job = client.generate("tiny", seed=3, frames=3, grid=24, formats=["stl", "tiff"]).wait()
    for path in job.download("cells"):
        print(path)
    try:
        client.generate("tiny", frames=0)
    except InvalidRequestError as error:
        print(error.errors[0]["pointer"])
for name in ("app", "worker", "model", "numpy"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise SystemExit(f"{name} can be imported")
"""
OPENED = """
import sys
from cytosynth import Client
with Client(sys.argv[1]) as client:
    for grid in (24, 48):
        spec = {"seed": 3, "frames": 3, "grid": grid, "formats": ["tiff", "ome-tiff", "ome-zarr"]}
        client.generate("tiny", **spec).wait().download(f"cells/{grid}")
"""
ARRAYS = """
import sys
from cytosynth import Client
with Client(sys.argv[1]) as client:
    job = client.generate("tiny", seed=3, frames=3, grid=24, formats=["stl", "tiff"]).wait()
    for volume, mesh in zip(job.labels(), job.meshes(), strict=True):
        voxels = (volume > 0).sum() * job.spacing_um[0] * job.spacing_um[1] * job.spacing_um[2]
        print(volume.shape, volume.dtype, mesh.is_watertight, abs(voxels / mesh.volume - 1) < 0.1)
"""
NAPARI = """
import json, sys
import npe2, numpy as np, tifffile
from napari.components import ViewerModel
from napari.layers import Labels

npe2.PluginManager.instance().discover()  # as the application does when it starts
folder, levels = sys.argv[1:]
manifest = json.load(open(f"{folder}/manifest.json"))
minutes = [frame["minutes"] for frame in manifest["cells"][0]["frames"]]
scale = (minutes[1] - minutes[0], *manifest["units"]["spacing"][::-1])
volume = tifffile.imread(f"{folder}/cell_0000/labels.tif")
start = [0.0, *(-(size - 1) / 2 * step for size, step in zip(volume.shape[1:], scale[1:]))]
for name in ("cell_0000/labels.tif", "cell_0000/labels.ome.tif", "cell_0000/labels.ome.zarr", ""):
    viewer = ViewerModel()
    viewer.open(f"{folder}/{name}", plugin="cytosynth")
    [layer] = viewer.layers
    assert type(layer) is Labels, layer
    # Of a whole result, the OME-Zarr.
    assert (len(layer.data) if layer.multiscale else 1) == (1 if name.endswith("tif") else int(levels)), name
    assert np.array_equal(np.asarray(layer.data[0] if layer.multiscale else layer.data), volume)
    assert np.allclose(layer.scale, scale), layer.scale
    assert np.allclose(layer.translate, start, atol=1e-4), layer.translate
    assert [str(unit) for unit in layer.units] == ["minute"] + 3 * ["micrometer"], layer.units
    assert layer.axis_labels == ("t", "z", "y", "x")
    print(name or "result")
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, tiny_models: Path) -> Iterator[Served]:
    models = json.dumps([str(tiny_models)])
    with served(tmp_path_factory.mktemp("wheel"), CYTOSYNTH_THREADS="1", CYTOSYNTH_MODEL_DIRS=models) as running:
        yield running


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder)]
    subprocess.run([*command, str(ROOT / "client")], check=True)
    [built] = folder.glob("*.whl")
    return built


def run(python: Path, code: str, *arguments: str, folder: Path) -> str:
    folder.mkdir(exist_ok=True)
    command = [str(python), "-W", "error::DeprecationWarning:cytosynth", "-c", code, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=clean())
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def clean() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def test_wheel_holds_one_package_and_what_napari_looks_for(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        [points] = [name for name in names if name.endswith("entry_points.txt")]
        assert "cytosynth = cytosynth:napari.yaml" in archive.read(points).decode()
    assert {name.partition("/")[0] for name in names} == {"cytosynth", wheel.name.rpartition("-py3")[0] + ".dist-info"}
    assert {"cytosynth/py.typed", "cytosynth/napari.yaml"} <= set(names)
    assert wheel.stat().st_size < 100_000


def test_wheel_alone_generates_and_downloads_a_cell(wheel: Path, service: Served, tmp_path: Path) -> None:
    python = make_environment(tmp_path / "alone", str(wheel)) / "python"
    said = run(python, GENERATE, service.address, folder=tmp_path / "work").split()
    cells = tmp_path / "work" / "cells"
    manifest = json.loads((cells / "manifest.json").read_bytes())
    found = {file["name"]: file["sha256"] for file in manifest["files"]}
    assert {name: hashlib.sha256((cells / name).read_bytes()).hexdigest() for name in found} == found
    assert len(found) == 4
    assert said == [*(f"cells/{name}" for name in found), "cells/manifest.json", "/frames"]

    install(python.parent, f"{wheel}[arrays]")
    lines = run(python, ARRAYS, service.address, folder=tmp_path / "work").splitlines()
    assert lines == ["(24, 24, 24) uint16 True True"] * 3
    [example] = re.findall(r"```python\n(.*?)```", (ROOT / "client/README.md").read_text(encoding="utf-8"), re.S)
    example = example.replace("http://127.0.0.1:8000", service.address)
    assert run(python, example, folder=tmp_path / "readme").splitlines() == ["(64, 64, 64)"] * 12
    assert len(list((tmp_path / "readme" / "cells").rglob("*.stl"))) == 12


def test_napari_opens_results_as_labels_at_scale(wheel: Path, service: Served, tmp_path: Path) -> None:
    python = make_environment(tmp_path / "napari", f"{wheel}[napari]", "napari") / "python"
    run(python, OPENED, service.address, folder=tmp_path / "work")
    for folder, levels in (("cells/24", "1"), ("cells/48", "2")):
        said = run(python, NAPARI, folder, levels, folder=tmp_path / "work").split()
        assert said == [f"cell_0000/labels.{ending}" for ending in ("tif", "ome.tif", "ome.zarr")] + ["result"]
