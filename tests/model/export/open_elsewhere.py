"""Run in an environment of its own by :mod:`test_other_programs`: other projects read the files of a cell.

Prints one JSON document of what they found.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any


def challenge(cell: Path) -> dict[str, Any]:
    """Validate the challenge's layout, and score the truth against itself as a result."""
    from ctc_metrics.scripts.evaluate import evaluate_sequence
    from ctc_metrics.scripts.validate import validate_sequence

    truth, result = cell / "ctc" / "01_GT", cell / "ctc" / "01_RES"
    result.mkdir()
    for path in (truth / "TRA").glob("*.tif"):
        shutil.copy(path, result / path.name.replace("man_track", "mask"))
    shutil.copy(truth / "TRA" / "man_track.txt", result / "res_track.txt")
    found = {"valid": validate_sequence(str(result))["Valid"]}
    scores = evaluate_sequence(str(result), str(truth))
    return found | {name: float(scores[name]) for name in ("SEG", "TRA", "DET", "LNK", "CT", "TF", "BC(0)")}


def traccuracy(cell: Path) -> dict[str, Any]:
    """Load the tracking truth with its checks, and score it against itself."""
    from traccuracy import run_metrics
    from traccuracy.loaders import load_ctc_data
    from traccuracy.matchers import CTCMatcher
    from traccuracy.metrics import CTCMetrics, DivisionMetrics

    truth, same = (load_ctc_data(str(cell / "ctc" / "01_GT" / "TRA")) for _ in range(2))
    scores, _ = run_metrics(truth, same, CTCMatcher(), [CTCMetrics(), DivisionMetrics()])
    tracking, divisions = (score["results"] for score in scores)
    return {
        "nodes": len(truth.graph.nodes),
        **{name: tracking[name] for name in ("AOGM", "TRA", "DET", "LNK")},
        **{name: divisions["Frame Buffer 0"][name] for name in ("Division F1", "Total GT Divisions")},
    }


def paraview(cell: Path) -> dict[str, Any]:
    """Open the collection and each surface with VTK."""
    import pyvista

    reader = pyvista.get_reader(str(cell / "cell.pvd"))
    meshes = [pyvista.read(path) for path in sorted(cell.glob("frame_*.vtp"))]
    return {
        "minutes": [float(time) for time in reader.time_values],
        "volumes": [float(mesh.volume) for mesh in meshes],
        "closed": [bool(mesh.is_manifold) for mesh in meshes],
        "labels": [sorted({int(label) for label in mesh["label"]}) for mesh in meshes],
    }


def stl(cell: Path) -> list[float]:
    """Volumes by numpy-stl."""
    from stl import mesh

    return [float(mesh.Mesh.from_file(str(path)).get_mass_properties()[0]) for path in sorted(cell.glob("*.stl"))]


def itk(cell: Path) -> dict[str, Any]:
    """Sizes and largest labels by SimpleITK."""
    import SimpleITK

    images = [SimpleITK.ReadImage(str(path)) for path in sorted((cell / "frames").glob("*.tif"))]
    return {
        "sizes": [list(image.GetSize()) for image in images],
        "labels": [int(SimpleITK.GetArrayViewFromImage(image).max()) for image in images],
    }


def ome(cell: Path) -> dict[str, Any]:
    """Open OME-TIFF and OME-Zarr with ome-types, bioio, yaozarrs, ome-zarr-models and zarr; compare their voxels."""
    import bioio
    import bioio_ome_tiff
    import bioio_ome_zarr
    import ome_types
    import ome_zarr_models
    import tifffile
    import yaozarrs
    import zarr

    pixels = ome_types.from_tiff(cell / "labels.ome.tif").images[0].pixels
    group = zarr.open_group(str(cell / "labels.ome.zarr"), mode="r")
    yaozarrs.validate_zarr_store(str(cell / "labels.ome.zarr"))
    labels = tifffile.imread(cell / "labels.tif")
    tiff = bioio.BioImage(cell / "labels.ome.tif", reader=bioio_ome_tiff.Reader)
    store = bioio.BioImage(cell / "labels.ome.zarr", reader=bioio_ome_zarr.Reader)
    return {
        "increment": [float(pixels.time_increment), pixels.time_increment_unit.value],
        "spacing": [float(size) for size in (pixels.physical_size_x, pixels.physical_size_y, pixels.physical_size_z)],
        "kind": type(ome_zarr_models.open_ome_zarr(group)).__name__,
        "equal": [
            bool((tifffile.imread(cell / "labels.ome.tif") == labels).all()),
            bool((group["0"][:] == labels).all()),
            bool((group["1"][:] == labels[:, ::2, ::2, ::2]).all()),
            bool((tiff.get_image_data("TZYX") == labels).all()),
            bool((store.get_image_data("TZYX") == labels).all()),
        ],
        "sizes": [list(image.physical_pixel_sizes) for image in (tiff, store)],
    }


def geff(cell: Path) -> dict[str, Any]:
    """Validate the lineage with the format's own library, and read it as a networkx graph."""
    import geff
    from geff.validate.data import ValidationConfig

    path = str(cell / "lineage.geff")
    everything = ValidationConfig(graph=True, lineage=True, tracklet=True)
    geff.GeffReader(path)
    geff.validate_structure(path)
    graph, metadata = geff.read(path, structure_validation=True, data_validation=everything)
    node = dict(graph.nodes(data=True))
    return {
        "nodes": [[node[n]["t"], node[n]["label"], node[n]["minutes"]] for n in sorted(node)],
        "volumes": [node[n]["volume"] for n in sorted(node)],
        "lineages": sorted({node[n]["lineage"] for n in node}),
        "divisions": [
            [node[n]["label"] for n in (m, *sorted(graph.successors(m)))]
            for m in sorted(node)
            if graph.out_degree(m) > 1
        ],
        "edges": graph.number_of_edges(),
        "axes": [[axis.name, axis.unit] for axis in metadata.axes],
    }


def distances(cell: Path) -> dict[str, Any]:
    """Open the signed distances with zarr and h5py, and compare them with each other and with the labels."""
    import h5py
    import tifffile
    import zarr

    array = zarr.open_array(str(cell / "distances.zarr"), mode="r")
    values = array[:]
    with h5py.File(cell / "distances.h5", "r") as file:
        stored = file["sdf_vid"]
        published = stored[:].transpose(3, 0, 2, 1)  # (z, x, y, t) to (t, z, y, x)
        minutes = [float(value) for value in stored.attrs["minutes"]]
    clamp = array.attrs["cytosynth"]["clamp_um"]
    return {
        "equal": bool((values == published).all()),
        "inside": bool(((values < 0) == (tifffile.imread(cell / "labels.tif") > 0)).all()),
        "clamped": bool(abs(values).max() == clamp),
        "minutes": [minutes, array.attrs["cytosynth"]["minutes"]],
    }


def main() -> None:
    """Read the cell whose folder is the argument."""
    cell = Path(sys.argv[1])
    real, sys.stdout = sys.stdout, sys.stderr  # what the programs print themselves
    found = {"challenge": challenge(cell), "paraview": paraview(cell), "stl": stl(cell), "itk": itk(cell)}
    found["ome"] = ome(cell)
    found["geff"] = geff(cell)
    found["traccuracy"] = traccuracy(cell)
    found["distances"] = distances(cell)
    sys.stdout = real
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
