"""The process that looks into files can do nothing else, and its limits hold."""

from __future__ import annotations

import errno
import itertools
import json
import math
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import trimesh
from hostile.corpus_files import box_stl, labels_tiff, weights

from model.errors import UploadError
from model.network.autodecoder import AutoDecoder, NetworkConfig
from model.readers.meshes import read_mesh
from model.upload_checks.label_tiff import SAMPLES_MAX, read_labels
from model.upload_checks.surface_mesh import TRIANGLES_MAX, read_obj, read_ply, read_stl
from model.upload_checks.weights import (
    CARD_KEY,
    FREQUENCIES,
    GRIDS,
    SCALES,
    SIZES,
    TEXTS,
    expected_shapes,
    read_weights,
)
from worker.uploads.sandbox import START, TREE, inspect_file


def test_the_child_imports_the_standard_library_only() -> None:
    code = "import sys; sys.path.append(sys.argv[1]); import model.upload_checks.__main__; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(TREE)], capture_output=True, text=True, check=True
    )
    ours = {name for name in done.stdout.split() if name.partition(".")[0] == "model"}
    others = {name.partition(".")[0] for name in done.stdout.split()} - {"model"}
    assert others <= sys.stdlib_module_names | {"__main__", "__mp_main__"}
    assert ours == {
        "model", "model.errors", "model.upload_checks", "model.upload_checks.__main__", "model.upload_checks.archives",
        "model.upload_checks.file_set", "model.upload_checks.label_tiff", "model.upload_checks.limits",
        "model.upload_checks.plain_copies",
        "model.upload_checks.surface_mesh", "model.upload_checks.weights",
    }  # fmt: skip
    assert "runpy" in START


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A harmless file that needs some hundred megabytes and some seconds to look into."""
    ball = trimesh.creation.icosphere(subdivisions=7, radius=5.0)
    path = tmp_path_factory.mktemp("large") / "ball.stl"
    ball.export(path, file_type="stl_ascii")
    return path


def test_too_little_memory_is_a_refusal(large: Path) -> None:
    with pytest.raises(UploadError, match="memory"):
        inspect_file(large, "stl", address_space=80 * 2**20)


def test_too_little_time_is_a_refusal(large: Path) -> None:
    with pytest.raises(UploadError, match="time"):
        inspect_file(large, "stl", seconds=1)


def test_the_largest_surface_is_looked_into_in_time(large: Path) -> None:
    facts = inspect_file(large, "stl")
    assert (facts["triangles"], facts["bodies"]) == (327_680, 1)
    assert facts["volume"] == pytest.approx(4 / 3 * math.pi * 125, rel=1e-3)


def test_a_surface_of_as_many_triangles_as_are_allowed_is_taken_and_one_more_is_not(tmp_path: Path) -> None:
    ring = torus(500, 400)
    path = tmp_path / "ring.stl"
    ring.export(path)
    facts = inspect_file(path, "stl")
    assert facts["triangles"] == TRIANGLES_MAX == 400_000
    assert facts["volume"] == pytest.approx(ring.volume, rel=1e-6)
    ball = trimesh.creation.icosahedron().apply_translation((100.0, 0.0, 0.0))
    trimesh.util.concatenate([ring, ball]).export(path)
    with pytest.raises(UploadError, match="400,020 triangles"):
        inspect_file(path, "stl")


def torus(around: int, across: int) -> trimesh.Trimesh:
    """A ring of 2 x around x across triangles."""
    i, j = (index.ravel() for index in np.meshgrid(np.arange(around), np.arange(across), indexing="ij"))
    u, v = 2 * np.pi * i / around, 2 * np.pi * j / across
    points = np.stack([(10 + 3 * np.cos(v)) * np.cos(u), (10 + 3 * np.cos(v)) * np.sin(u), 3 * np.sin(v)], axis=1)

    def at(a: Any, b: Any) -> Any:
        return a % around * across + b % across

    first = np.stack([at(i, j), at(i + 1, j), at(i + 1, j + 1)], axis=1)
    second = np.stack([at(i, j), at(i + 1, j + 1), at(i, j + 1)], axis=1)
    return trimesh.Trimesh(points, np.concatenate([first, second]), process=False)


def test_as_many_samples_as_are_allowed_are_taken_and_a_plane_more_is_not(tmp_path: Path) -> None:
    path = tmp_path / "cells.tif"
    plane = np.zeros((1024, 1024), np.uint8)
    plane[300:700, 300:700] = 7
    for count in (128, 129):
        with tifffile.TiffWriter(path) as file:
            for number in range(count):
                file.write(
                    plane if 0 < number < 127 else plane * 0, compression="zlib", metadata=None, contiguous=False
                )
        if count == 128:
            assert inspect_file(path, "tiff")["shape"] == [1, 128, 1024, 1024]
            assert SAMPLES_MAX == 128 * 1024 * 1024
    with pytest.raises(UploadError, match="135,266,304 samples"):
        inspect_file(path, "tiff")


# ----------------------------------------------------------------------------------- the readers beside those of others


@pytest.mark.parametrize("ending", ["stl", "obj", "ply"])
@pytest.mark.parametrize("ascii_form", [False, True])
def test_surfaces_are_read_as_others_read_them(tmp_path: Path, ending: str, ascii_form: bool) -> None:
    shape = trimesh.creation.annulus(r_min=3.0, r_max=6.0, height=4.0)
    options: dict[str, Any] = {"encoding": "ascii"} if ending == "ply" and ascii_form else {}
    kind = "stl_ascii" if ending == "stl" and ascii_form else ending
    path = tmp_path / f"ring.{ending}"
    shape.export(path, file_type=kind, **options)
    facts = inspect_file(path, ending)
    assert facts["volume"] == pytest.approx(shape.volume, rel=1e-5)
    assert facts["bounds"] == pytest.approx(np.asarray(shape.bounds), rel=1e-6)
    assert (facts["triangles"], facts["vertices"]) == (len(shape.faces), len(shape.vertices))


def test_a_cavity_faces_inward_and_a_second_body_must_not(tmp_path: Path) -> None:
    outer, inner = trimesh.creation.icosphere(radius=5.0), trimesh.creation.icosphere(radius=2.0)
    inner.invert()
    path = tmp_path / "shell.stl"
    trimesh.util.concatenate([outer, inner]).export(path)
    facts = inspect_file(path, "stl")
    assert facts["bodies"] == 2
    assert facts["volume"] == pytest.approx(outer.volume + inner.volume, rel=1e-5)
    inner.apply_translation((6.0, 6.0, 6.0))  # outside, the boxes overlap
    trimesh.util.concatenate([outer, inner]).export(path)
    facts = inspect_file(path, "stl")
    assert facts["volume"] == pytest.approx(outer.volume - inner.volume, rel=1e-5)
    assert facts["notes"] == ["1 of 2 bodies faced inward and was turned outward"]


@pytest.mark.parametrize("ending", ["stl", "obj", "ply"])
def test_surfaces_that_face_inward_are_turned_as_the_reader_turns_them(tmp_path: Path, ending: str) -> None:
    """A ball; a shell whose wall is turned with it; two balls of which one is turned."""
    ball, hole = trimesh.creation.icosphere(radius=5.0), trimesh.creation.icosphere(radius=2.0)
    hole.invert()
    shell, other = trimesh.util.concatenate([ball, hole]), ball.copy().apply_translation((20.0, 0.0, 0.0))
    shell.invert()
    other.invert()
    turned_ball = ball.copy()
    turned_ball.invert()
    for mesh, notes in (
        (turned_ball, ["the surface faced inward and was turned outward"]),
        (shell, ["2 of 2 bodies faced inward and was turned outward"]),
        (trimesh.util.concatenate([ball, other]), ["1 of 2 bodies faced inward and was turned outward"]),
        (ball, None),
    ):
        path = tmp_path / f"cell.{ending}"
        mesh.export(path)
        facts = inspect_file(path, ending)
        assert facts.get("notes") == notes
        assert facts["volume"] == pytest.approx(read_mesh(path).membrane.volume, rel=1e-6)


def test_imagej_leaves_out_a_step_of_one_unit(tmp_path: Path) -> None:
    path = tmp_path / "cells.tif"
    for unit, scale in (("micron", 1.0), ("\\u00B5m", 1.0), ("Micrometers", 1.0), ("UM", 1.0), ("nm", 1e-3)):
        tifffile.imwrite(path, growing()[2], imagej=True, metadata={"axes": "ZYX", "unit": unit}, resolution=(5, 5))
        facts = inspect_file(path, "tiff")
        assert facts["voxel"] == pytest.approx([0.2 * scale, 0.2 * scale, 1.0 * scale])
        assert "step along z was taken to be 1" in facts["notes"][0]
    metadata = {"axes": "ZYX", "unit": "um", "spacing": 0.5}
    tifffile.imwrite(path, growing()[2], imagej=True, metadata=metadata, resolution=(5, 5))
    assert "notes" not in inspect_file(path, "tiff")
    tifffile.imwrite(path, growing()[2], imagej=True, metadata={"axes": "ZYX", "unit": "inch"}, resolution=(5, 5))
    assert inspect_file(path, "tiff")["voxel"] == [None, None, None]


def growing() -> Any:
    """Three frames of a box that touches the border from the third frame on, (T, Z, Y, X)."""
    volumes = np.zeros((3, 5, 8, 9), np.uint16)
    volumes[0, 2, 3:5, 3:5] = volumes[1, 2, 2:6, 2:6] = 1
    volumes[2, 1:4, 0:6, 2:6] = 4
    return volumes


@pytest.mark.parametrize("kind", ["reversed", "z outer", "time before channel"])
def test_planes_are_where_ome_says_they_are(tmp_path: Path, kind: str) -> None:
    # A frame is empty in the file's order of pages, and none is where the description puts them.
    volumes, path = growing(), tmp_path / "cells.ome.tif"
    volumes[:, 0] = 0
    pages = [(t, z) for t in range(3) for z in range(5)]
    order = "XYTZC" if kind == "time before channel" else "XYZCT"
    if kind == "z outer":
        pages = [(t, z) for z in range(5) for t in range(3)]
    elif kind == "reversed":
        pages = pages[::-1]
    elif kind == "time before channel":
        pages = sorted(pages, key=lambda place: (place[1], place[0]))
    listed = "".join(f'<TiffData IFD="{n}" FirstT="{t}" FirstZ="{z}"/>' for n, (t, z) in enumerate(pages))
    text = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
        f'<Pixels SizeX="9" SizeY="8" SizeZ="5" SizeC="1" SizeT="3" DimensionOrder="{order}" Type="uint16">'
        f"{listed if kind != 'time before channel' else ''}</Pixels></Image></OME>"
    )
    with tifffile.TiffWriter(path) as file:
        for number, (t, z) in enumerate(pages):
            file.write(
                volumes[t, z], metadata=None, contiguous=False, description=text.encode() if number == 0 else None
            )
    facts = inspect_file(path, "tiff")
    assert facts["shape"] == [3, 5, 8, 9]
    assert (facts["labels"], facts["largest_label"], facts["touches_border"]) == (2, 4, True)
    # Frame 0 without a label is told by its number in time.
    with tifffile.TiffWriter(path) as file:
        for number, (t, z) in enumerate(pages):
            file.write(
                volumes[t, z] * (t != 0), metadata=None, contiguous=False,
                description=text.encode() if number == 0 else None,
            )  # fmt: skip
    with pytest.raises(UploadError, match="frame 0 holds no label"):
        inspect_file(path, "tiff")


@pytest.mark.parametrize(
    "options",
    [
        {"imagej": True, "metadata": {"axes": "TZYX", "spacing": 0.25, "unit": "um"}, "resolution": (4, 4)},
        {"compression": "zlib"}, {"bigtiff": True, "byteorder": ">"}, {"compression": "zlib", "rowsperstrip": 3},
        {"ome": True, "metadata": {"axes": "TZYX", "PhysicalSizeX": 0.25}},
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int16, np.uint32])
def test_label_volumes_are_read_as_others_write_them(tmp_path: Path, options: dict[str, Any], kind: Any) -> None:
    if options.get("imagej") and kind in (np.int16, np.uint32):
        pytest.skip("ImageJ knows no such type")
    volumes = np.zeros((3, 6, 11, 7), dtype=kind)
    volumes[:, 2:4, 3:8, 2:5] = 1
    volumes[2, 2:4, 3:5, 2:5] = 9
    tifffile.imwrite(tmp_path / "cells.tif", volumes, **options)
    facts = inspect_file(tmp_path / "cells.tif", "tiff")
    assert facts["shape"] == [3, 6, 11, 7]
    assert (facts["labels"], facts["largest_label"], facts["touches_border"]) == (2, 9, False)
    volumes[1, 2, 0, 3] = 1
    tifffile.imwrite(tmp_path / "cells.tif", volumes, **options)
    assert inspect_file(tmp_path / "cells.tif", "tiff")["touches_border"] is True


KINDS = (np.uint8, np.int16, np.uint32, np.uint64, np.int64, np.float32, np.float64)


# Codecs know bytes only, and what follows does not know the codec: each of either, not each pair.
@pytest.mark.parametrize(
    ("codec", "kind"),
    [("zlib", kind) for kind in KINDS]
    + list(itertools.product((None, "lzw", "packbits", "zstd"), (np.int16, np.float64))),
)
def test_label_volumes_of_laboratories_are_read(tmp_path: Path, codec: str | None, kind: Any) -> None:
    """Strips and tiles, with and without a predictor, of either order of bytes."""
    volumes = np.zeros((3, 6, 40, 37), dtype=kind)
    volumes[:, 2:4, 3:30, 2:20] = 1
    volumes[2, 2:4, 3:5, 2:5] = 9
    path = tmp_path / "cells.tif"
    predictors = (False, True) if codec is not None and np.dtype(kind) not in (np.uint64, np.int64) else (False,)
    for predictor, (tile, order) in itertools.product(predictors, ((None, "<"), ((16, 32), ">"))):
        tifffile.imwrite(
            path, volumes, compression=codec, predictor=predictor, tile=tile, byteorder=order,
            photometric="minisblack", metadata={"axes": "TZYX"},
        )  # fmt: skip
        facts = inspect_file(path, "tiff")
        assert facts["shape"] == [3, 6, 40, 37]
        assert (facts["labels"], facts["largest_label"], facts["touches_border"]) == (2, 9, False)
    volumes[1, 2, 20, 36] = 9
    tifffile.imwrite(path, volumes, compression=codec, tile=(16, 16), photometric="minisblack")
    assert inspect_file(path, "tiff")["touches_border"] is True


def test_large_labels_are_taken_with_a_note(tmp_path: Path) -> None:
    path = tmp_path / "cells.tif"
    volumes = np.zeros((1, 6, 12, 12), dtype=np.uint64)
    volumes[0, 2:4, 3:6, 3:6], volumes[0, 2:4, 7:9, 7:9] = 720_575_940_628_857_210, 5
    tifffile.imwrite(path, volumes, compression="lzw", metadata={"axes": "TZYX"})
    facts = inspect_file(path, "tiff")
    assert (facts["labels"], facts["largest_label"]) == (2, 720_575_940_628_857_210)
    assert facts["notes"] == [
        "labels reach 720575940628857210: they were renumbered from 1 to 2, in ascending order; renumbered gives the "
        "number of each"
    ]
    assert facts["renumbered"] == {"5": 1, "720575940628857210": 2}
    tifffile.imwrite(path, (volumes > 5).astype(np.float32) * 2**24, compression="zstd", metadata={"axes": "TZYX"})
    assert "not exact in floating point" in inspect_file(path, "tiff")["notes"][0]


def test_minus_zero_is_background(tmp_path: Path) -> None:
    volumes = np.full((2, 6, 12, 12), -0.0, dtype=np.float32)
    volumes[:, 2:4, 3:6, 3:6] = 1.0
    tifffile.imwrite(tmp_path / "cells.tif", volumes, metadata={"axes": "TZYX"})
    facts = inspect_file(tmp_path / "cells.tif", "tiff")
    assert (facts["labels"], facts["touches_border"]) == (1, False)


@pytest.mark.parametrize("kind", [np.int16, np.float64])
@pytest.mark.parametrize("codec", ["zlib", "zstd"])
@pytest.mark.slow
def test_the_most_samples_that_hardly_repeat_are_looked_into(tmp_path: Path, kind: Any, codec: str) -> None:
    """No two chunks are equal, so that none is known: the most work that samples can make."""
    path, side = tmp_path / "cells.tif", 2048
    plane = (np.arange(side * side, dtype=np.int64).reshape(side, side) ** 2 // 4099 % 32_749).astype(kind)
    with tifffile.TiffWriter(path) as file:
        for number in range(SAMPLES_MAX // side**2):
            file.write(
                np.roll(plane, 7 * number), compression=codec, compressionargs={"level": 1}, metadata=None,
                contiguous=False,
            )  # fmt: skip
    facts = inspect_file(path, "tiff")
    assert (facts["shape"], facts["largest_label"]) == ([1, 32, side, side], int(plane.max()))


def test_nothing_can_be_opened_once_codecs_are_imported() -> None:
    code = (
        "import sys, socket; sys.path += sys.argv[1:]; import model.upload_checks.__main__ as child\n"
        "import model.upload_checks.strip_codecs\nchild._open_nothing_more()\n"
        "for attempt in (lambda: open('/dev/null'), socket.socket):\n"
        "    try:\n        attempt()\n    except OSError as error:\n        print(error.errno)\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(TREE), str(Path(np.__file__).parents[1])],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == [str(errno.EMFILE)] * 2


CASES = Path(__file__).parents[3] / "shared" / "cases"


@pytest.mark.parametrize(
    ("name", "shape", "labels"),
    [
        ("03_float_labels", [3, 12, 14, 24], 2), ("04a_lzw", [4, 12, 14, 16], 1), ("04b_zstd", [4, 12, 14, 16], 1),
    ],
)  # fmt: skip
def test_files_of_laboratories_are_read(name: str, shape: list[int], labels: int) -> None:
    files = sorted((CASES / name).glob("*.tif")) if CASES.is_dir() else []
    if not files:
        pytest.skip(f"../shared/cases/{name} is not here")
    facts = inspect_file(files[0], "tiff")
    assert (facts["shape"], facts["labels"]) == (shape, labels)


@pytest.mark.parametrize(
    "sizes",
    [
        {}, {"latent_size": 7, "width": 24, "depth": 3, "conditioning_width": 16},
        {"latent_size": 7, "width": 24, "depth": 3, "conditioning_width": 16, "rank": 5},
    ],
)  # fmt: skip
def test_expected_tensors_are_those_of_the_network(sizes: dict[str, int]) -> None:
    config = NetworkConfig(**sizes)
    theirs = {f"decoder.{name}": tuple(value.shape) for name, value in AutoDecoder(config).state_dict().items()}
    assert expected_shapes(config.model_dump()) == theirs


def test_sizes_are_bounded_as_those_of_the_network_are() -> None:
    fields = NetworkConfig.model_fields
    assert set(fields) == set(SIZES) | set(FREQUENCIES)
    for name, (least, most, default) in SIZES.items():
        bounds = {type(rule).__name__: rule for rule in fields[name].metadata}
        assert (bounds["Ge"].ge, bounds["Le"].le, fields[name].default) == (least, most, default)


@pytest.mark.parametrize(
    ("card", "words"),
    [
        ("[]", "object"), ("7", "object"), ("null", "object"), ("{", "damaged"), (7, "JSON"), ("x" * 40_000, "at most"),
        ('{"title": "a", "title": "b"}', "twice"), ('{"owner": "root"}', "object"), ('{"sha256": "00"}', "object"),
        ('{"title": ""}', "title"), ('{"title": 5}', "title"), (json.dumps({"title": "x" * 201}), "title"),
        ('{"title": "\\ud800"}', "title"), ('{"description": "\\u0000"}', "description"),
        ('{"licence": ["MIT"]}', "licence"), ('{"topology": "triple"}', "topology"), ('{"topology": []}', "topology"),
        ('{"topology": {}}', "topology"), ('{"micrometres": NaN}', "micrometres"),
        ('{"micrometres": Infinity}', "micrometres"), ('{"micrometres": 0}', "micrometres"),
        ('{"micrometres": true}', "micrometres"), ('{"minutes": 1e309}', "minutes"), ('{"minutes": "30"}', "minutes"),
        ('{"minutes": -1}', "minutes"), ('{"minutes": 1' + 400 * "0" + "}", "minutes"),
        ('{"minutes": 1' + 6000 * "0" + "}", "damaged"), ('{"lipschitz": 1e4}', "lipschitz"),
        ('{"lipschitz": null}', "lipschitz"), ('{"grid_min": 1}', "grid_min"), ('{"grid_max": 9.0}', "grid_max"),
        ('{"grid_min": 64, "grid_max": 32}', "grid_min"), ("[" * 30_000, "damaged"),
    ],
)  # fmt: skip
def test_weights_that_say_impossible_things_of_themselves_are_refused(tmp_path: Path, card: object, words: str) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(weights(lambda header: header["__metadata__"].update({CARD_KEY: card})))
    with pytest.raises(UploadError, match=words):
        inspect_file(path, "safetensors")


def test_what_weights_may_say_is_what_a_request_may(tmp_path: Path) -> None:
    """The reader cannot import the request's model; the two must not drift apart."""
    from app.services.uploaded_models import ModelSpec
    from model.card import CARD_KEY as KEY
    from model.card import CARRIED

    assert KEY == CARD_KEY
    assert set(CARRIED) == {*TEXTS, *SCALES, *GRIDS, "lipschitz", "topology"}
    edges: dict[str, list[Any]] = {
        name: ["x" * n for n in (*range(2), most, most + 1)] for name, (_, most) in TEXTS.items()
    }
    edges |= {name: [0, 1e-9, 5, 999_999_999.0, 1e9, -1.0] for name in SCALES}
    edges |= {name: [7, 8, 512, 513] for name in GRIDS}
    edges |= {"lipschitz": [0.09, 0.1, 1, 1000.0, 1000.1], "topology": ["single", "division", "other"]}
    for name, values in edges.items():
        for value in values:
            try:
                ModelSpec.model_validate({"upload": "w.safetensors", "id": "w", name: value})
                allowed = True
            except ValueError:
                allowed = False
            content = weights(
                lambda header, said={name: value}: header["__metadata__"].update({CARD_KEY: json.dumps(said)})
            )
            try:
                assert read_weights(memoryview(content))["card"] == {name: value}
                taken = True
            except UploadError:
                taken = False
            assert taken is allowed, (name, value)


@pytest.mark.parametrize(
    ("read", "content"), [(read_labels, labels_tiff()), (read_stl, box_stl())], ids=["labels", "stl"]
)
def test_a_file_with_any_byte_changed_is_read_or_refused_never_more(read: Any, content: bytes) -> None:
    rng = np.random.default_rng(5)
    for _ in range(400):
        spoiled = bytearray(content)
        for place in rng.integers(0, len(content), size=3):
            spoiled[place] = rng.integers(0, 256)
        try:
            read(memoryview(bytes(spoiled)))
        except (UploadError, ValueError, LookupError, ArithmeticError, SyntaxError, struct.error, zlib.error):
            continue  # the XML parser's own is a SyntaxError; all of them are refusals in the child


def test_weights_that_pass_can_be_loaded(tmp_path: Path) -> None:
    from app.services.uploaded_models import ModelSpec, card_of
    from model.card import WEIGHTS_FILE
    from model.network.checkpoint import load_checkpoint
    from worker.uploads.store import UploadRules, Uploads

    uploads = Uploads(tmp_path, rules=UploadRules(reserve_bytes=0))
    with uploads.arriving("a") as arrived:
        arrived.write(weights())
        arrived.close()
        facts = inspect_file(arrived.path, "safetensors")
        upload, _ = uploads.keep("a", arrived, name="w.safetensors", kind="safetensors", facts=facts)
    spec = ModelSpec(upload="w.safetensors", id="w", title="W", micrometres=1.0, minutes=1.0, lipschitz=1.0)
    folder = uploads.models.install("a", "w.safetensors", card_of(spec, upload, owner="a"))
    assert (folder / WEIGHTS_FILE).is_file()
    assert load_checkpoint(folder).card.parameters == facts["parameters"]


def test_ply_and_obj_of_noise_are_refused() -> None:
    rng = np.random.default_rng(6)
    for read in (read_ply, read_obj):
        for _ in range(50):
            with pytest.raises((UploadError, UnicodeDecodeError, ValueError)):
                read(memoryview(rng.integers(0, 256, size=300, dtype=np.uint8).tobytes()))
