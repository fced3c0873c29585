"""Promises of model.rendering.render: pictures show what the surface is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import shapes
from PIL import Image

from model.domain import Grid
from model.engine.marching_cubes import extract_surface
from model.engine.runs import bodies
from model.engine.sparse import evaluate_dense
from model.engine.tracking import CellTracker
from model.errors import ExportError
from model.rendering.render import PALETTES, Camera, Picture, Scene, montage, render_frames, vertex_labels
from model.rendering.render import write_png as save

GRID = Grid((40, 40, 40))
SIZE = 120


def scene_of(shape: shapes.Shape, caption: str = "") -> Scene:
    field = evaluate_dense(shape, GRID)
    surface = extract_surface(field, GRID)
    return Scene(surface=surface, caption=caption, vertex_labels=vertex_labels(surface, bodies(field), GRID))


def brightness(picture: Picture) -> np.ndarray:
    return picture.astype(np.float64).sum(axis=2)


ONE = scene_of(shapes.sphere(0.5))
TWO = scene_of(shapes.union(shapes.sphere(0.4, centre=(-0.5, 0, 0)), shapes.sphere(0.3, centre=(0.5, 0, 0))))


def test_a_sphere_is_a_bright_disk_of_its_radius_on_a_dark_ground() -> None:
    (picture,) = render_frames([ONE], size=SIZE)
    assert picture.shape == (SIZE, SIZE, 3)
    assert picture.dtype == np.uint8
    disk = brightness(picture) > 180
    radius = SIZE / 2 / 1.24
    assert disk.sum() == pytest.approx(np.pi * radius**2, rel=0.05)
    y, x = np.argwhere(disk).mean(axis=0)
    assert (x, y) == pytest.approx((SIZE / 2, SIZE / 2), abs=1.5)
    assert picture[0, 0].max() < 40


def test_frames_of_one_call_share_their_scale() -> None:
    small = scene_of(shapes.sphere(0.25))
    first, second = render_frames([ONE, small], size=SIZE)
    assert (brightness(second) > 180).sum() == pytest.approx((brightness(first) > 180).sum() / 4, rel=0.12)


def test_the_key_light_comes_from_the_upper_left() -> None:
    (picture,) = render_frames([ONE], size=SIZE)
    quarter = SIZE // 4
    light = brightness(picture)[quarter:-quarter, quarter:-quarter]
    middle = len(light) // 2
    assert light[:middle, :middle].mean() > 1.2 * light[middle:, middle:].mean()


def test_daughters_have_colours_of_their_own() -> None:
    (picture,) = render_frames([TWO], size=SIZE, camera=Camera(azimuth=-90, elevation=0))
    left, right = (picture[SIZE // 2 - 8 : SIZE // 2 + 8, x - 8 : x + 8].reshape(-1, 3).mean(axis=0) for x in (27, 100))
    assert np.abs(left - right).sum() > 60
    by_sheets = Scene(surface=TWO.surface)
    assert len({frame.tobytes() for frame in render_frames([by_sheets, TWO], size=SIZE)}) == 2


def test_every_vertex_has_the_label_of_the_cell_it_belongs_to() -> None:
    tracker = CellTracker()
    frame = tracker.update(evaluate_dense(shapes.filopodia_cell(0.0), GRID))
    surface = extract_surface(frame.field, GRID)
    assert (vertex_labels(surface, frame.runs, GRID) == 1).all()
    labels = TWO.vertex_labels
    assert labels is not None
    assert np.array_equal(labels, np.where(TWO.surface.vertices[:, 0] < 0, 1, 2))


def test_the_camera_looks_where_it_says() -> None:
    above = Camera(azimuth=-90, elevation=90).rotation()
    assert above == pytest.approx(np.eye(3), abs=1e-12)
    front = Camera(azimuth=-90, elevation=0).rotation()
    assert front == pytest.approx(np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]]), abs=1e-12)


def test_the_scale_bar_has_its_length() -> None:
    plain, barred = (
        render_frames([ONE], size=480, micrometres=micrometres)[0].astype(int) for micrometres in (None, 10.0)
    )
    changed = np.abs(plain - barred).sum(axis=2) > 150
    bar = changed[-(round(480 * 0.045) + 1)]
    micrometre = 480 / (2 * 1.24 * 0.5 * 10.0)
    assert bar.sum() == pytest.approx(2 * micrometre, abs=1.5)


def test_a_caption_is_written() -> None:
    captioned = Scene(surface=ONE.surface, caption="12 min")
    plain, written = (
        render_frames([scene], size=240)[0].astype(int) for scene in (Scene(surface=ONE.surface), captioned)
    )
    rows, columns = np.nonzero(np.abs(plain - written).sum(axis=2) > 100)
    assert rows.max() < 40
    assert columns.max() < 90


@pytest.mark.parametrize("palette", PALETTES)
def test_every_palette_draws(palette: str) -> None:
    (picture,) = render_frames([TWO], size=60, palette=palette)
    assert brightness(picture).max() > 250


def test_a_montage_is_filled_row_by_row() -> None:
    tiles = [np.full((10, 12, 3), 50 * (i + 1), dtype=np.uint8) for i in range(5)]
    sheet = montage(tiles, columns=3, gap=2)
    assert sheet.shape == (22, 40, 3)
    assert (sheet[:10, 14:26] == 100).all()
    assert (sheet[12:, :12] == 200).all()
    assert (sheet[12:, 28:] < 20).all()


def test_png_bytes_are_repeatable_and_read_back(tmp_path: Path) -> None:
    for name in ("one.png", "two.png"):
        save(tmp_path / name, render_frames([TWO], size=SIZE, micrometres=3.0)[0])
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    with Image.open(tmp_path / "one.png") as image:
        assert np.array_equal(np.asarray(image), render_frames([TWO], size=SIZE, micrometres=3.0)[0])


def test_a_missing_folder_is_told_in_words(tmp_path: Path) -> None:
    (picture,) = render_frames([ONE], size=60)
    with pytest.raises(ExportError, match="could not be written"):
        save(tmp_path / "missing" / "cell.png", picture)
