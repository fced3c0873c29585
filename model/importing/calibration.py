"""The scale that TIFF files carry: ImageJ's and OME's metadata.

Promises: µm and minutes, whatever unit the file uses; nothing is guessed where the file says nothing.
Does not promise: that the file tells the truth.

Formats: ImageJ hyperstacks (resolution tags and the image description); OME-XML 2016-06, Pixels element.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET

import tifffile

from model.importing.footage import Calibration, Spacing

_MICROMETRES = {
    "µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "microns": 1.0, "micrometer": 1.0, "micrometre": 1.0,
    "\\u00b5m": 1.0, "nm": 1e-3, "nanometer": 1e-3, "mm": 1e3, "cm": 1e4, "inch": 25_400.0, "m": 1e6,
}  # fmt: skip
_MINUTES = {"ms": 1 / 60_000, "s": 1 / 60, "sec": 1 / 60, "second": 1 / 60, "min": 1.0, "minute": 1.0, "h": 60.0}
_CENTIMETRE = 3  # value of the tag ResolutionUnit


def read_calibration(tiff: tifffile.TiffFile) -> Calibration:
    """Read the scale of an open TIFF."""
    if tiff.is_ome and tiff.ome_metadata:
        return _of_ome(tiff.ome_metadata)
    if tiff.is_imagej and tiff.imagej_metadata:
        return _of_imagej(tiff, dict(tiff.imagej_metadata))
    return Calibration()


def _of_imagej(tiff: tifffile.TiffFile, said: dict[str, object]) -> Calibration:
    page = tiff.pages.first
    unit = _MICROMETRES.get(str(said.get("unit", "")).strip())
    resolutions = [page.tags.get(name) for name in ("XResolution", "YResolution")]
    spacing: Spacing | None = None
    if unit is not None and all(tag is not None for tag in resolutions):
        x, y = (_per_voxel(tag.value) * unit for tag in resolutions if tag is not None)
        z = _number(said.get("spacing")) * unit
        spacing = (x, y, z if z else x)  # ImageJ leaves out a spacing of one pixel
    interval = _number(said.get("finterval"))
    minutes = interval * _MINUTES.get(str(said.get("tunit", "sec")), 1 / 60) if interval else None
    return Calibration(spacing, minutes)


def _of_ome(text: str) -> Calibration:
    try:
        root = ET.fromstring(text)
    except ET.ParseError:
        return Calibration()
    pixels = next((node for node in root.iter() if node.tag.rpartition("}")[2] == "Pixels"), None)
    if pixels is None:
        return Calibration()
    sides = []
    for axis in "XYZ":
        unit = _MICROMETRES.get(pixels.get(f"PhysicalSize{axis}Unit", "µm"), math.nan)
        sides.append(_number(pixels.get(f"PhysicalSize{axis}")) * unit)
    spacing = (sides[0], sides[1], sides[2]) if all(math.isfinite(side) and side for side in sides) else None
    interval = _number(pixels.get("TimeIncrement"))
    minutes = interval * _MINUTES.get(pixels.get("TimeIncrementUnit", "s"), 1 / 60) if interval else None
    return Calibration(spacing, minutes)


def _per_voxel(resolution: tuple[int, int]) -> float:
    voxels, units = resolution
    return units / voxels if voxels else 0.0


def _number(value: object) -> float:
    try:
        return float(str(value))
    except ValueError:
        return 0.0
