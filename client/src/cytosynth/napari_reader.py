"""A reader for napari: label volumes as *Labels* layers with their scale in µm and minutes. Needs the extra ``napari``.

It opens ``labels.tif``, ``labels.ome.tif`` and ``labels.ome.zarr``, and a folder of a result with all of its cells.

Promises: a layer has the axes (t, z, y, x), the spacing and the time step that the file states. 0 µm is the centre of
the domain, as in the meshes. An OME-Zarr is read lazily, with its pyramid.
Does not promise: a time step where the file states none (times that are not evenly spaced): then the unit is a frame.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

if TYPE_CHECKING:
    import tifffile

Layer = tuple[Any, dict[str, Any], str]  # data, arguments of the layer, its type
FORMATS = ("cytosynth-manifest/1", "cytosynth-manifest/2")  # the second has its cells in the manifests of shards
TIFFS = ("labels.tif", "labels.ome.tif")
ZARR = "labels.ome.zarr"
MINUTES = {"second": 1 / 60, "sec": 1 / 60, "s": 1 / 60, "min": 1.0, "minute": 1.0, "hour": 60.0}


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Where the voxels lie, along (t, z, y, x).

    Parameters
    ----------
    step
        Distance of neighbouring voxels: minutes, or 1 if the file states no time step, and µm.
    start
        Position of the first voxel.
    timed
        Whether the file states a time step.
    """

    step: tuple[float, float, float, float]
    start: tuple[float, float, float, float]
    timed: bool


def get_reader(path: str | list[str]) -> Callable[[str | list[str]], list[Layer]] | None:
    """Return the reader for files of cytosynth; nothing for others."""
    paths = [path] if isinstance(path, str) else path
    return read if paths and all(any(True for _ in _volumes(Path(path))) for path in paths) else None


def read(path: str | list[str]) -> list[Layer]:
    """Return a layer for each label volume."""
    paths = [path] if isinstance(path, str) else path
    return [layer for path in paths for volume in _volumes(Path(path)) for layer in _layers(volume)]


def _volumes(path: Path) -> Iterator[Path]:
    """Yield the label volumes at a path: itself, or one for each cell of a result."""
    if _is_volume(path):
        yield path
    elif path.is_dir() and _is_result(path / "manifest.json"):
        for cell in sorted(path.glob("cell_*")):
            # The same volume may be there in several formats: the lazy one first.
            found = [cell / name for name in (ZARR, *TIFFS) if _is_volume(cell / name)]
            yield from found[:1]


def _is_volume(path: Path) -> bool:
    if path.name.endswith(TIFFS):
        return path.is_file()
    return path.name.endswith(ZARR) and (path / "zarr.json").is_file()


def _is_result(manifest: Path) -> bool:
    try:
        return bool(json.loads(manifest.read_bytes())["format"] in FORMATS)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _layers(path: Path) -> Iterator[Layer]:
    name = f"{path.parent.name} labels" if path.name in (ZARR, *TIFFS) else path.name
    data, scale = _zarr(path) if path.is_dir() else _tiff(path)
    arguments = {
        "name": name,
        "scale": scale.step,
        "translate": scale.start,
        "units": ("min" if scale.timed else "pixel", "um", "um", "um"),
        "axis_labels": ("t", "z", "y", "x"),
    }
    yield data, arguments | ({"multiscale": True} if isinstance(data, list) else {}), "labels"


def _tiff(path: Path) -> tuple[Any, Scale]:
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        series = tiff.series[0]
        sizes = dict(zip(series.get_axes(squeeze=False), series.get_shape(squeeze=False), strict=True))
        volume = series.asarray().reshape([sizes.get(axis, 1) for axis in "TZYX"])
        return volume, _ome_scale(tiff) if tiff.is_ome else _imagej_scale(tiff)


def _imagej_scale(tiff: tifffile.TiffFile) -> Scale:
    facts = tiff.imagej_metadata or {}
    tags = tiff.pages.first.tags
    (dx, dy), dz = ((d / n for n, d in (tags[name].value for name in ("XResolution", "YResolution")))), facts["spacing"]
    interval = facts.get("finterval")
    origin = (facts.get("zorigin", 0.0), facts.get("yorigin", 0.0), facts.get("xorigin", 0.0))
    return Scale(
        step=(interval / 60.0 if interval else 1.0, dz, dy, dx),
        start=(0.0, -origin[0] * dz, -origin[1] * dy, -origin[2] * dx),
        timed=bool(interval),
    )


def _ome_scale(tiff: tifffile.TiffFile) -> Scale:
    document = ElementTree.fromstring(tiff.ome_metadata or "<OME/>")
    pixels = next(element for element in document.iter() if element.tag.endswith("}Pixels"))
    step = tuple(float(pixels.get(f"PhysicalSize{axis}", 1.0)) for axis in "ZYX")
    increment = pixels.get("TimeIncrement")
    minutes = float(increment) * MINUTES[pixels.get("TimeIncrementUnit", "s")] if increment else 1.0
    start = tuple(-step * (int(pixels.get(f"Size{a}", 1)) - 1) / 2 for step, a in zip(step, "ZYX", strict=True))
    return Scale(step=(minutes, *step), start=(0.0, *start), timed=increment is not None)  # type: ignore[arg-type]


def _zarr(path: Path) -> tuple[Any, Scale]:
    import zarr

    group = zarr.open_group(path, mode="r")
    if "multiscales" not in _ome(group):
        group = next(member for _, member in group["labels"].groups())
    image = _ome(group)["multiscales"][0]
    axes = image["axes"]
    levels = image["datasets"]
    order = [next(n for n, axis in enumerate(axes) if axis["name"] == name) for name in "tzyx"]
    step, start = [1.0] * len(axes), [0.0] * len(axes)
    for change in [*levels[0].get("coordinateTransformations", []), *image.get("coordinateTransformations", [])]:
        if change["type"] == "scale":
            step = [a * b for a, b in zip(step, change["scale"], strict=True)]
            start = [a * b for a, b in zip(start, change["scale"], strict=True)]
        elif change["type"] == "translation":
            start = [a + b for a, b in zip(start, change["translation"], strict=True)]
    unit = axes[order[0]].get("unit")
    minutes = MINUTES.get(unit, 1.0) if unit else 1.0
    values = [step[n] for n in order], [start[n] for n in order]
    scale = Scale(
        step=(values[0][0] * minutes, values[0][1], values[0][2], values[0][3]),
        start=(values[1][0] * minutes, values[1][1], values[1][2], values[1][3]),
        timed=unit in MINUTES,
    )
    pyramid = [group[level["path"]] for level in levels]
    return pyramid if len(pyramid) > 1 else pyramid[0], scale


def _ome(group: Any) -> dict[str, Any]:
    return dict(group.attrs.get("ome", {}))
