"""A small software renderer of surfaces, for documents, previews and reports.

Orthographic z-buffer, smooth normals, key, fill and rim light, screen-space ambient occlusion, and brighter thin parts,
as in fluorescence microscopy. Colours follow cell labels.

Promises: needs no display and no graphics library. The same surfaces give the same pixels. All frames of one call share
scale and camera, so that growth and movement are visible.
Does not promise: physically correct light. Measurements are made on surfaces, not on pictures.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import matplotlib
import numba
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from model.domain import Grid
from model.engine.marching_cubes import Surface
from model.engine.runs import Runs
from model.errors import ExportError

Picture = NDArray[np.uint8]
_Floats = NDArray[np.float32]
_Colour = tuple[str, str, str]  # in shade, lit, glowing

PALETTES: dict[str, tuple[_Colour, ...]] = {
    # mother first, then daughters
    "celegans": (
        ("#06343a", "#17a398", "#c4fff1"),
        ("#0b2a57", "#3d8fe0", "#cfe8ff"),
        ("#274a0c", "#8fc93a", "#f0ffc9"),
        ("#57420a", "#e3b23c", "#fff3c9"),
    ),
    "a549": (
        ("#420a3c", "#d3408f", "#ffc79a"),
        ("#5a2206", "#f08a35", "#ffe7c7"),
        ("#2b1463", "#8a63f0", "#e6deff"),
        ("#0b2a57", "#3d8fe0", "#cfe8ff"),
    ),
    "platynereis": (
        ("#4a2c06", "#e0a030", "#fff0c2"),
        ("#0b2a57", "#3d8fe0", "#cfe8ff"),
        ("#274a0c", "#8fc93a", "#f0ffc9"),
        ("#420a3c", "#d3408f", "#ffc79a"),
    ),
    "neutral": (
        ("#232a3d", "#8fa3c7", "#f2f6ff"),
        ("#4a2f12", "#d9a066", "#fff0dc"),
        ("#1c3d2c", "#6fbf93", "#e2fff0"),
        ("#47203a", "#c77fae", "#ffe6f6"),
    ),
}
_BACKGROUND = ("#0c1220", "#04060b")  # colours in the middle and in the corners

_KEY = (-0.48, 0.62, 0.62)  # direction towards the key light; x right, y up, z to the viewer
_FILL = (0.80, -0.25, 0.55)  # towards the fill light
_PNG_LEVEL = 5  # of zlib: level 9 makes files 20 % smaller and takes ten times as long
_OVERSAMPLING = 2  # samples a pixel along each axis, averaged against jagged edges
_OCCLUSION_SAMPLES = 32  # directions around a pixel; more give less noise
_HALO_PIXELS = 4  # pixels a side of the blocks that the halo is computed on; more are faster and coarser
_NOTHING = np.float32(-1e29)  # depths below: no surface
_OCCLUSION_REACH = 0.30  # radius of the ambient occlusion, relative to the scene's radius


@dataclass(frozen=True, kw_only=True)
class Camera:
    """Direction of view.

    Parameters
    ----------
    azimuth
        Turn about the z axis of Ω, degrees.
    elevation
        Height above the xy plane, degrees.
    """

    azimuth: float = -60.0
    elevation: float = 25.0

    def rotation(self) -> NDArray[np.float64]:
        """Rows: right, up and towards the viewer, in Ω."""
        a, e = math.radians(self.azimuth), math.radians(self.elevation)
        right = np.array([-math.sin(a), math.cos(a), 0.0])
        towards = np.array([math.cos(a) * math.cos(e), math.sin(a) * math.cos(e), math.sin(e)])
        return np.stack([right, np.cross(towards, right), towards])


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One frame to be drawn.

    Parameters
    ----------
    surface
        In Ω.
    caption
        Written in the upper left corner, for instance ``12 min``.
    vertex_labels
        (v,) cell labels from 1, from :func:`vertex_labels`; without, connected sheets are coloured by size.
    """

    surface: Surface
    caption: str = ""
    vertex_labels: NDArray[np.uint16] | None = None


def vertex_labels(surface: Surface, labels: Runs, grid: Grid) -> NDArray[np.uint16]:
    """Cell label of each vertex: that of the inside end of the grid edge it lies on.

    Parameters
    ----------
    surface
        Extracted from a field on ``grid``.
    labels
        Of the same field.

    Returns
    -------
    NDArray[np.uint16]
        (v,); 0 where neither end is labelled.
    """
    index = grid.to_index(surface.vertices)
    nearest = np.rint(index)
    # float32 vertices lie beside their edge by less than this
    index = np.where(np.abs(index - nearest) < 1e-4, nearest, index)
    last = np.array(grid.shape) - 1
    low, high = (np.clip(end(index), 0, last).astype(np.int64) for end in (np.floor, np.ceil))
    return np.maximum(labels.at(low), labels.at(high))


def render_frames(
    scenes: Sequence[Scene],
    *,
    size: int = 480,
    camera: Camera | None = None,
    palette: str = "celegans",
    micrometres: float | None = None,
) -> list[Picture]:
    """Draw the frames of a sequence.

    Parameters
    ----------
    scenes
        At least one.
    size
        Width and height in pixels.
    camera
        The same for all frames.
    palette
        A key of ``PALETTES``.
    micrometres
        Length of one unit of Ω in µm; when given, each picture has a scale bar.

    Returns
    -------
    list[Picture]
        (size, size, 3) uint8 sRGB.

    Notes
    -----
    About 60 ms a frame of 320 × 320 pixels on one core.
    """
    rotation = (camera or Camera()).rotation()
    seen = np.concatenate([scene.surface.vertices @ rotation.T for scene in scenes])  # all vertices: (n, 3)
    centre = (seen.min(axis=0) + seen.max(axis=0)) / 2.0
    radius = 1.24 * float(np.ptp(seen[:, :2], axis=0).max()) / 2.0
    pictures = []
    for scene in scenes:
        view = (scene.surface.vertices @ rotation.T - centre) / radius  # −1 … 1 across the picture
        small = _draw(view, scene, rotation, size=size, colours=_linear_palette(palette))
        picture = Image.fromarray(_encode(small))
        _write_caption(picture, scene.caption)
        if micrometres is not None:
            _write_scale_bar(picture, pixels_per_micrometre=size / (2.0 * radius * micrometres))
        pictures.append(np.asarray(picture))
    return pictures


def montage(pictures: Sequence[Picture], *, columns: int, gap: int = 4) -> Picture:
    """Lay pictures of one size out in rows, with dark gaps between them."""
    height, width, _ = pictures[0].shape
    rows = -(-len(pictures) // columns)
    sheet = np.empty((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), dtype=np.uint8)
    sheet[:] = _encode(_linear(_BACKGROUND[1]))
    for place, picture in enumerate(pictures):
        top, left = (place // columns) * (height + gap), (place % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = picture
    return sheet


def encode_png(picture: Picture) -> bytes:
    """Encode one picture; the same pixels give the same bytes."""
    with io.BytesIO() as file:
        Image.fromarray(picture).save(file, format="PNG", compress_level=_PNG_LEVEL)
        return file.getvalue()


def write_png(path: Path, picture: Picture) -> None:
    """Write one picture.

    Raises
    ------
    ExportError
        If the file cannot be written.
    """
    try:
        path.write_bytes(encode_png(picture))
    except OSError as error:
        raise _told(path, error) from error


def _told(path: Path, error: OSError) -> ExportError:
    return ExportError(f"{path.name!r} could not be written: {(error.strerror or str(error)).lower()}")


# --------------------------------------------------------------------------------------------------------- geometry


def _draw(
    view: NDArray[np.float64], scene: Scene, rotation: NDArray[np.float64], *, size: int, colours: _Floats
) -> _Floats:
    """Light of one frame: (size, size, 3), linear.

    Covered samples are shaded one by one and averaged over each pixel. What varies slowly, occlusion, background and
    halo, is computed once a pixel.
    """
    pixels = size * _OVERSAMPLING
    normals = (_vertex_normals(scene.surface) @ rotation.T).astype(np.float32)
    screen = np.empty((len(view), 3), dtype=np.float32)
    screen[:, 0] = (view[:, 0] + 1.0) * (pixels / 2.0) - 0.5
    screen[:, 1] = (1.0 - view[:, 1]) * (pixels / 2.0) - 0.5
    screen[:, 2] = view[:, 2]
    near, far, normal, hue = _rasterise(screen, scene.surface.faces, normals, _hues(scene, len(colours)), pixels)
    middle = slice(_OVERSAMPLING // 2, None, _OVERSAMPLING)
    sky = _open_sky(near[middle, middle], normal[middle, middle]).reshape(-1)
    y, x = np.nonzero(hue >= 0)
    pixel = (y // _OVERSAMPLING) * size + x // _OVERSAMPLING
    shaded = _shade(normal[y, x], near[y, x] - far[y, x], sky[pixel], colours[hue[y, x]])
    samples = _OVERSAMPLING**2
    covered = np.bincount(pixel, minlength=size**2).reshape(size, size, 1) / samples
    sums = [np.bincount(pixel, weights=channel, minlength=size**2) for channel in shaded.T]
    light = np.asarray(np.stack(sums, axis=-1).reshape(size, size, 3) / samples, dtype=np.float32)
    return np.asarray(light + (1.0 - covered) * _background(size) + _halo(light), dtype=np.float32)


def _open_sky(near: _Floats, normal: _Floats) -> _Floats:
    """Share of the sky that is open over each pixel (size, size): smooth, 0 … 1."""
    occlusion = _occlusion(
        np.ascontiguousarray(near),
        np.ascontiguousarray(normal),
        _spiral(_OCCLUSION_SAMPLES),
        np.float32(_OCCLUSION_REACH),
    )
    # smooth over the surface only: the background is not open sky
    weight = ndimage.gaussian_filter((near > _NOTHING).astype(np.float32), 1.0)
    hidden = ndimage.gaussian_filter(occlusion, 1.0) / np.maximum(weight, 1e-6)
    return np.asarray(np.clip(1.0 - hidden, 0.0, 1.0), dtype=np.float32)


def _vertex_normals(surface: Surface) -> NDArray[np.float64]:
    """Outward unit normals, faces weighted by area."""
    corner = surface.vertices.astype(np.float64)[surface.faces]
    flat = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])  # (f, 3)
    count = len(surface.vertices)
    of_corner = surface.faces.reshape(-1)
    normals = np.stack(
        [np.bincount(of_corner, weights=np.repeat(flat[:, axis], 3), minlength=count) for axis in range(3)], axis=1
    )
    return np.asarray(normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-30))


def _hues(scene: Scene, count: int) -> NDArray[np.int32]:
    """Return the palette's entry of each vertex: the mother's for one body, daughters' for several."""
    if scene.vertex_labels is not None:
        label = np.maximum(scene.vertex_labels.astype(np.int32), 1)
        return np.where(label == 1, 0, 1 + (label - 2) % (count - 1)).astype(np.int32)
    sheets, of_face = scene.surface.components()
    of_vertex = np.zeros(len(scene.surface.vertices), dtype=np.int32)
    of_vertex[scene.surface.faces] = of_face[:, None]
    rank = np.empty(sheets, dtype=np.int32)
    rank[np.argsort(-np.bincount(of_face, minlength=sheets), kind="stable")] = np.arange(sheets)
    return (rank[of_vertex] % (count - 1) + 1 if sheets > 1 else of_vertex).astype(np.int32)


@numba.njit(cache=True)
def _rasterise(
    screen: _Floats, faces: NDArray[np.int32], normals: _Floats, hues: NDArray[np.int32], pixels: int
) -> tuple[_Floats, _Floats, _Floats, NDArray[np.int32]]:
    """Fill depth buffers: nearest and farthest z, and normal and hue of the nearest."""
    near = np.full((pixels, pixels), -1e30, dtype=np.float32)
    far = np.full((pixels, pixels), 1e30, dtype=np.float32)
    normal = np.zeros((pixels, pixels, 3), dtype=np.float32)
    hue = np.full((pixels, pixels), -1, dtype=np.int32)
    for f in range(faces.shape[0]):
        i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
        ax, ay, bx, by, cx, cy = (screen[i, 0], screen[i, 1], screen[j, 0], screen[j, 1], screen[k, 0], screen[k, 1])
        double = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
        if double == 0.0:
            continue
        x0, x1 = max(0, math.ceil(min(ax, bx, cx))), min(pixels - 1, math.floor(max(ax, bx, cx)))
        y0, y1 = max(0, math.ceil(min(ay, by, cy))), min(pixels - 1, math.floor(max(ay, by, cy)))
        for y in range(y0, y1 + 1):
            for x in range(x0, x1 + 1):
                u = ((bx - x) * (cy - y) - (cx - x) * (by - y)) / double
                v = ((cx - x) * (ay - y) - (ax - x) * (cy - y)) / double
                w = 1.0 - u - v
                if u < 0.0 or v < 0.0 or w < 0.0:
                    continue
                z = u * screen[i, 2] + v * screen[j, 2] + w * screen[k, 2]
                far[y, x] = min(far[y, x], z)
                if z > near[y, x]:
                    near[y, x] = z
                    hue[y, x] = hues[i]
                    for c in range(3):
                        normal[y, x, c] = u * normals[i, c] + v * normals[j, c] + w * normals[k, c]
    return near, far, normal, hue


def _spiral(count: int) -> _Floats:
    """Points (count, 2) spread evenly over the unit disk."""
    turn = math.pi * (3.0 - math.sqrt(5.0))
    index = np.arange(count) + 0.5
    radius = np.sqrt(index / count)
    return np.stack([radius * np.cos(turn * index), radius * np.sin(turn * index)], axis=1).astype(np.float32)


@numba.njit(cache=True)
def _occlusion(near: _Floats, normal: _Floats, disk: _Floats, reach: np.float32) -> _Floats:
    """How much of the sky over each pixel is hidden by neighbours that rise above its tangent plane: 0 … 1."""
    pixels = near.shape[0]
    unit = pixels / 2.0  # pixels a unit of depth
    found = np.zeros((pixels, pixels), dtype=np.float32)
    for y in range(pixels):
        for x in range(pixels):
            if near[y, x] < _NOTHING:
                continue
            total = 0.0
            for s in range(disk.shape[0]):
                sx, sy = int(x + disk[s, 0] * reach * unit), int(y + disk[s, 1] * reach * unit)
                if sx < 0 or sy < 0 or sx >= pixels or sy >= pixels or near[sy, sx] < _NOTHING:
                    continue
                dx, dy, dz = (sx - x) / unit, (y - sy) / unit, near[sy, sx] - near[y, x]
                length = math.sqrt(dx * dx + dy * dy + dz * dz) + 1e-9
                rise = (dx * normal[y, x, 0] + dy * normal[y, x, 1] + dz * normal[y, x, 2]) / length
                if rise > 0.08:
                    total += (rise - 0.08) * max(0.0, 1.0 - (length / (1.6 * reach)) ** 2)
            found[y, x] = min(1.0, 2.2 * total / disk.shape[0])
    return found


# ------------------------------------------------------------------------------------------------------------ light


def _shade(normal: _Floats, thickness: _Floats, sky: _Floats, colour: _Floats) -> _Floats:
    """Light (n, 3) of surface points from normals, the cell's thickness behind them, open sky and colours (n, 3, 3)."""
    normal = normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-6)
    key, fill = (np.array(light, dtype=np.float32) / np.float32(np.linalg.norm(light)) for light in (_KEY, _FILL))
    dark, body, glow = colour[:, 0], colour[:, 1], colour[:, 2]
    facing = np.clip(normal[:, 2], 0.0, 1.0)
    lit = np.clip((normal @ key + 0.25) / 1.25, 0.0, 1.0) ** 1.7  # light creeps around soft matter
    filled = np.clip((normal @ fill + 0.5) / 1.5, 0.0, 1.0)
    half = key + np.array([0.0, 0.0, 1.0], dtype=np.float32)
    shine = np.clip(normal @ (half / np.linalg.norm(half)), 0.0, 1.0) ** 42
    rim = (1.0 - facing) ** 3.0
    thin = np.exp(-3.2 * np.maximum(thickness, 0.0))
    sky = sky**1.4
    light = dark * (0.85 * sky)[:, None]
    light = light + body * (sky * (0.72 * lit + 0.10 * filled))[:, None]
    light = light + (0.72 * body + 0.28 * glow) * (0.34 * thin * (0.35 + 0.65 * sky))[:, None]
    light = light + glow * (0.42 * rim * (0.2 + 0.8 * sky) * (0.4 + 0.6 * filled) + 0.13 * shine * sky)[:, None]
    return np.asarray(light, dtype=np.float32)


def _halo(light: _Floats) -> _Floats:
    """Halo of out-of-focus fluorescence, to be added to the light (size, size, 3) of the surface."""
    size = len(light)
    coarse = _HALO_PIXELS if size % _HALO_PIXELS == 0 else 1
    blocks = light.reshape(size // coarse, coarse, size // coarse, coarse, 3).mean(axis=(1, 3))
    halo = ndimage.gaussian_filter(blocks, (size / coarse / 22.0,) * 2 + (0.0,))
    wide = [
        np.asarray(Image.fromarray(np.ascontiguousarray(halo[..., c])).resize((size, size), Image.Resampling.BILINEAR))
        for c in range(3)
    ]
    return np.asarray(0.18 * np.stack(wide, axis=-1), dtype=np.float32)


@lru_cache(maxsize=4)
def _background(size: int) -> _Floats:
    """Light of the ground (size, size, 3), not to be written."""
    across = np.linspace(-1.0, 1.0, size)
    distance = np.clip((across[:, None] ** 2 + across[None] ** 2) / 1.6, 0.0, 1.0)[..., None]
    ground = _linear(_BACKGROUND[0]) * (1.0 - distance) + _linear(_BACKGROUND[1]) * distance
    ground.flags.writeable = False
    return np.asarray(ground, dtype=np.float64)


def _linear_palette(name: str) -> _Floats:
    return np.array([[_linear(shade) for shade in colour] for colour in PALETTES[name]], dtype=np.float32)


def _linear(colour: str) -> NDArray[np.float64]:
    """Linear light of ``#rrggbb``."""
    value = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255.0
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def _encode(light: NDArray[np.floating]) -> Picture:
    """Linear light to sRGB bytes; values above white are compressed towards white."""
    value = np.where(light > 0.7, 0.7 + 0.3 * (1.0 - np.exp(-(light - 0.7) / 0.3)), np.maximum(light, 0.0))
    value = np.where(value <= 0.0031308, 12.92 * value, 1.055 * np.maximum(value, 1e-9) ** (1 / 2.4) - 0.055)
    return np.asarray(np.rint(np.clip(value, 0.0, 1.0) * 255.0), dtype=np.uint8)


# ------------------------------------------------------------------------------------------------------------- text

_INK = (226, 232, 240)


def _write_caption(picture: Image.Image, caption: str) -> None:
    if caption:
        margin = round(picture.width * 0.045)
        ImageDraw.Draw(picture).text((margin, margin * 0.8), caption, fill=_INK, font=_font(picture.width))


def _write_scale_bar(picture: Image.Image, *, pixels_per_micrometre: float) -> None:
    """Draw a bar of 1, 2 or 5 × 10ⁿ µm, about a quarter of the picture long."""
    wanted = 0.26 * picture.width / pixels_per_micrometre
    power = 10.0 ** math.floor(math.log10(wanted))
    length = max(power * digit for digit in (1, 2, 5) if power * digit <= wanted)
    margin, thick = round(picture.width * 0.045), max(2, round(picture.width / 130))
    draw = ImageDraw.Draw(picture)
    bottom = picture.height - margin
    end = margin + round(length * pixels_per_micrometre)
    draw.rectangle((margin, bottom - thick + 1, end - 1, bottom), fill=_INK)
    text = f"{length:g} µm"
    draw.text(((margin + end) / 2, bottom - 2.4 * thick), text, fill=_INK, font=_font(picture.width), anchor="ms")


def _font(width: int) -> ImageFont.FreeTypeFont:
    # Pillow's own face has no µ
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", max(9.0, width / 28.0))
