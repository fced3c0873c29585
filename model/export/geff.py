"""The lineage as a graph: ``lineage.geff`` (Graph Exchange File Format 1.3, Zarr 3), for tracking programs.

A node is a label in a frame, with its place, volume and label; an edge leads from each node to the same cell in the
next frame, or from a mother to each daughter.

Promises: places and volumes are the numbers of ``measurements.csv``; nodes are in the order of frames, then labels.
Arrays are not compressed, one chunk each. The same cells give the same bytes.

References
----------
geff-spec 1.3, liveimagetrackingtools.org/geff; Zarr core specification 3.1.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.encoding.measurements import Measurement, digits, measure
from model.engine.tracking import Track
from model.output.exporter import CellFiles, ExportFrame, WriteFrame
from model.output.manifest import WrittenCell

NAME = "lineage.geff"
_UNITS = {"minutes": "minute", "volume": "cubic micrometer", "z": "micrometer", "y": "micrometer", "x": "micrometer"}
_ABOUT = {
    "t": "number of the frame",
    "label": "value in label volumes",
    "lineage": "label of the first ancestor",
}


@contextmanager
def open_writer(cell: CellFiles) -> Iterator[WriteFrame]:
    """Write the graph when all frames have come; a row a label and frame is kept until then."""
    exporter = cell.exporter
    rows: list[Measurement] = []

    def write(frame: ExportFrame) -> None:
        rows.extend(frame.once(measure, exporter))

    yield write
    rows.sort(key=lambda row: (row.frame, row.label))
    edges = edges_of([(row.frame, row.label) for row in rows], cell.tracks())
    parents = {track.label: track.parent for track in cell.tracks()}
    columns = {
        "t": np.array([row.frame for row in rows], dtype="<u8"),
        **{
            axis: _rounded([row.centroid_um[number] for row in rows]) for axis, number in (("z", 2), ("y", 1), ("x", 0))
        },
        "minutes": _rounded([row.minutes for row in rows]),
        "volume": _rounded([row.volume_um3 for row in rows]),
        "label": np.array([row.label for row in rows], dtype="<u2"),
        "lineage": np.array([_first_ancestor(row.label, parents) for row in rows], dtype="<u2"),
    }
    root = f"{cell.name}/{NAME}"
    arrays = {
        "nodes/ids": np.arange(len(rows), dtype="<u8"),
        "edges/ids": np.array(edges, dtype="<u8").reshape(-1, 2),
        **{f"nodes/props/{name}/values": column for name, column in columns.items()},
    }
    for name, array in arrays.items():
        exporter.write_bytes(f"{root}/{name}/zarr.json", _json(_array_metadata(array)))
        if array.size:
            exporter.write_bytes(f"{root}/{name}/c/{'/'.join('0' * array.ndim)}", array.tobytes())
    groups = ("nodes", "edges", "nodes/props", "edges/props", *(f"nodes/props/{name}" for name in columns))
    for name in groups:
        exporter.write_bytes(f"{root}/{name}/zarr.json", _json(_group({})))
    exporter.write_bytes(f"{root}/zarr.json", _json(_group({"geff": _describe(columns)})))


def edges_of(nodes: Sequence[tuple[int, int]], tracks: Sequence[Track]) -> list[tuple[int, int]]:
    """Return the edges (earlier node, later node) of a lineage.

    Parameters
    ----------
    nodes
        Frame and label of each node; an edge names nodes by their positions in it.
    tracks
        Which label descends from which.
    """
    number = {node: position for position, node in enumerate(nodes)}
    frames: dict[int, list[int]] = {}
    for frame, label in nodes:
        frames.setdefault(label, []).append(frame)
    edges = [
        (number[before, label], number[after, label])
        for label, mine in frames.items()
        for before, after in itertools.pairwise(mine)
    ]
    edges += [
        (number[frames[track.parent][-1], track.parent], number[frames[track.label][0], track.label])
        for track in tracks
        if track.label in frames and track.parent in frames
    ]
    return sorted(edges)


def _first_ancestor(label: int, parents: Mapping[int, int]) -> int:
    while parents.get(label, 0):
        label = parents[label]
    return label


def _rounded(values: Sequence[float]) -> NDArray[np.float64]:
    """As in measurements.csv, so that the last bits of a sum do not show."""
    return np.array([float(digits(value)) for value in values], dtype="<f8")


def _describe(columns: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Metadata of the graph. Axis t counts frames, as trackers expect; ``minutes`` has the time of each node."""
    axes = [{"name": "t", "type": "time", "unit": "frame"}]
    axes += [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"]
    properties = {}
    for name, column in columns.items():
        properties[name] = {"identifier": name, "dtype": column.dtype.name, "varlength": False}
        properties[name] |= {"unit": _UNITS[name]} if name in _UNITS else {}
        properties[name] |= {"description": _ABOUT[name]} if name in _ABOUT else {}
    return {
        "geff_version": "1.3",
        "directed": True,
        "axes": [
            {**axis, "min": float(columns[axis["name"]].min()), "max": float(columns[axis["name"]].max())}
            for axis in axes
        ],
        "node_props_metadata": properties,
        "edge_props_metadata": {},
        "track_node_props": {"tracklet": "label", "lineage": "lineage"},
        "display_hints": {
            "display_horizontal": "x", "display_vertical": "y", "display_depth": "z", "display_time": "t",
        },
    }  # fmt: skip


def _array_metadata(array: NDArray[Any]) -> dict[str, Any]:
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(array.shape),
        "data_type": array.dtype.name,
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": [max(1, side) for side in array.shape]},
        },
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0.0 if array.dtype.kind == "f" else 0,
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
        "attributes": {},
    }


def _group(attributes: dict[str, Any]) -> dict[str, Any]:
    return {"zarr_format": 3, "node_type": "group", "attributes": attributes}


def _json(document: dict[str, Any]) -> bytes:
    return (json.dumps(document, indent=2, ensure_ascii=True, allow_nan=False) + "\n").encode("ascii")


def find_faults(written: WrittenCell) -> Iterator[str]:
    """Read nodes and edges back and compare them with the manifest's frames and tracks."""
    names = {name: f"{NAME}/{name}" for name in ("nodes/props/t/values/c/0", "nodes/props/label/values/c/0")}
    if not set(names.values()) <= set(written.files):
        return  # reported as missing or damaged
    frames, labels = (
        np.frombuffer((written.folder / path).read_bytes(), kind).tolist()
        for path, kind in zip(names.values(), ("<u8", "<u2"), strict=True)
    )
    nodes = list(zip(frames, labels, strict=True))
    if nodes != [(frame["frame"], label) for frame in written.entry.frames for label in frame["labels"]]:
        yield f"{NAME}: its nodes are not the labels of the manifest's frames"
        return
    path = f"{NAME}/edges/ids/c/0/0"
    tracks = [Track(track.label, track.first_frame, track.last_frame, track.parent) for track in written.entry.tracks]
    expected = np.array(edges_of(nodes, tracks), dtype="<u8").tobytes()
    if path in written.files and (written.folder / path).read_bytes() != expected:
        yield f"{path}: its edges are not the tracks of the manifest"
