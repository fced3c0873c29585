"""Voxel size and frame interval from the metadata of TIFF files, as ImageJ and OME write them.

Promises: µm and minutes, whatever unit the file uses. An unknown unit gives no value, and a warning that names it.
Does not promise: that the metadata are right.

Formats: ImageJ hyperstacks (resolution tags and the image description, in which a z-step of exactly 1 unit is left
out); OME-XML 2016-06, Pixels element.
"""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET

import tifffile

from model.readers.recording import Calibration, ReadingWarning, Spacing

_MICROMETRES = {
    "pm": 1e-6, "picometer": 1e-6, "picometre": 1e-6, "å": 1e-4, "angstrom": 1e-4, "ångström": 1e-4,
    "nm": 1e-3, "nanometer": 1e-3, "nanometre": 1e-3, "nanometers": 1e-3, "nanometres": 1e-3,
    "µm": 1.0, "um": 1.0, "micron": 1.0, "microns": 1.0, "micrometer": 1.0, "micrometre": 1.0, "micrometers": 1.0,
    "micrometres": 1.0, "mm": 1e3, "millimeter": 1e3, "millimetre": 1e3, "millimeters": 1e3, "millimetres": 1e3,
    "cm": 1e4, "centimeter": 1e4, "centimetre": 1e4, "centimeters": 1e4, "centimetres": 1e4, "inch": 25_400.0,
    "inches": 25_400.0, "m": 1e6, "meter": 1e6, "metre": 1e6, "meters": 1e6, "metres": 1e6,
}  # fmt: skip
_SECONDS = {
    "ns": 1e-9, "nsec": 1e-9, "nanosecond": 1e-9, "nanoseconds": 1e-9,
    "µs": 1e-6, "us": 1e-6, "µsec": 1e-6, "usec": 1e-6, "microsecond": 1e-6, "microseconds": 1e-6,
    "ms": 1e-3, "msec": 1e-3, "msecs": 1e-3, "millisecond": 1e-3, "milliseconds": 1e-3,
    "s": 1.0, "sec": 1.0, "secs": 1.0, "second": 1.0, "seconds": 1.0,
    "min": 60.0, "mins": 60.0, "minute": 60.0, "minutes": 60.0,
    "h": 3600.0, "hr": 3600.0, "hrs": 3600.0, "hour": 3600.0, "hours": 3600.0,
    "d": 86_400.0, "day": 86_400.0, "days": 86_400.0,
}  # fmt: skip
_NO_UNIT = {"", "pixel", "pixels", "voxel", "voxels", "null", "none"}
_LARGE = re.compile(r"[YZEPTGM][ms]")  # SI prefixes that lower case would turn into others: Mm is not mm


def read_calibration(tiff: tifffile.TiffFile, slices: int = 2) -> Calibration:
    """Read the scale of an open TIFF with so many slices."""
    if tiff.is_ome and tiff.ome_metadata:
        return _of_ome(tiff.ome_metadata)
    if tiff.is_imagej and tiff.imagej_metadata:
        return _of_imagej(tiff, dict(tiff.imagej_metadata), slices)
    return Calibration()


def _of_imagej(tiff: tifffile.TiffFile, said: dict[str, object], slices: int) -> Calibration:
    page = tiff.pages.first
    written = str(said.get("unit", ""))
    unit = _looked_up(written, _MICROMETRES)
    resolutions = [page.tags.get(name) for name in ("XResolution", "YResolution")]
    spacing: Spacing | None = None
    warnings: list[ReadingWarning] = []
    if unit is None and not _is_no_unit(written):
        warnings.append(_unknown_length(written))
    if unit is not None and all(tag is not None for tag in resolutions):
        x, y = (_per_voxel(tag.value) * unit for tag in resolutions if tag is not None)
        z = _number(said.get("spacing", 1.0)) * unit  # ImageJ leaves out a spacing of 1 unit
        spacing = (x, y, z)
        if "spacing" not in said and slices > 1 and not (math.isclose(x, z) and math.isclose(y, z)):
            warnings.append(
                ReadingWarning(
                    "z_step",
                    f"the file gives no distance of slices; ImageJ then means 1 unit, so the voxel is "
                    f"{x:.6g} × {y:.6g} × {z:.6g} µm; some programs forget it, --voxel X Y Z says otherwise",
                )
            )
    source = f"ImageJ, unit {_plain(written)}" if spacing else ""
    interval, tunit = _number(said.get("finterval")), str(said.get("tunit", "sec"))
    minutes, time_warnings = _minutes(interval, tunit)
    return Calibration(
        spacing, minutes,
        spacing_from=source, minutes_from=f"ImageJ, {interval:.6g} {_plain(tunit)}" if minutes else "",
        spacing_warnings=tuple(warnings), minutes_warnings=time_warnings,
    )  # fmt: skip


def _of_ome(text: str) -> Calibration:
    try:
        root = ET.fromstring(text)
    except ET.ParseError:
        return Calibration()
    pixels = next((node for node in root.iter() if node.tag.rpartition("}")[2] == "Pixels"), None)
    if pixels is None:
        return Calibration()
    sides, warnings, units = [], [], []
    for axis in "XYZ":
        written = pixels.get(f"PhysicalSize{axis}Unit", "µm")
        unit = _looked_up(written, _MICROMETRES)
        if unit is None and not _is_no_unit(written) and pixels.get(f"PhysicalSize{axis}") is not None:
            warnings.append(_unknown_length(written))
        sides.append(_number(pixels.get(f"PhysicalSize{axis}")) * (math.nan if unit is None else unit))
        units.append(_plain(written))
    spacing = (sides[0], sides[1], sides[2]) if all(math.isfinite(side) and side for side in sides) else None
    interval, tunit = _number(pixels.get("TimeIncrement")), pixels.get("TimeIncrementUnit", "s")
    minutes, time_warnings = _minutes(interval, tunit)
    return Calibration(
        spacing, minutes,
        spacing_from=f"OME, unit {', '.join(dict.fromkeys(units))}" if spacing else "",
        minutes_from=f"OME, {interval:.6g} {_plain(tunit)}" if minutes else "",
        spacing_warnings=tuple(dict.fromkeys(warnings)), minutes_warnings=time_warnings,
    )  # fmt: skip


def _minutes(interval: float, written: str) -> tuple[float | None, tuple[ReadingWarning, ...]]:
    """Minutes between frames; None where there is no interval, or its unit is not known."""
    if not (math.isfinite(interval) and interval > 0):
        return None, ()
    seconds = _looked_up(written, _SECONDS)
    if seconds is None:
        message = (
            f"the file says {interval:.6g} {_plain(written)!r} between frames, a unit that is not known; "
            "the minutes between frames are not known: --interval says them"
        )
        return None, (ReadingWarning("time_unit", message),)
    return interval * seconds / 60.0, ()


def _unknown_length(written: str) -> ReadingWarning:
    message = f"the file gives the voxel in {_plain(written)!r}, a unit that is not known: give --voxel X Y Z (µm)"
    return ReadingWarning("unit", message)


def _looked_up(written: str, table: dict[str, float]) -> float | None:
    unit = _plain(written)
    if _LARGE.fullmatch(unit):
        return None
    return table.get(unit.lower())


def _plain(written: str) -> str:
    """A unit with µ as one letter, which ImageJ escapes and Unicode has twice."""
    return re.sub(r"\\u00b5|\\u03bc|\u03bc", "µ", written, flags=re.IGNORECASE).strip().strip('"').strip()


def _is_no_unit(written: str) -> bool:
    return _plain(written).lower() in _NO_UNIT


def _per_voxel(resolution: tuple[int, int]) -> float:
    voxels, units = resolution
    return units / voxels if voxels else 0.0


def _number(value: object) -> float:
    try:
        return float(str(value))
    except ValueError:
        return 0.0
