"""Synthesis on one page: from a spec and a checkpoint to files.

For each sequence of the spec: draw a cell, a latent code and a rotation, from the seed (:mod:`model.living_cell`);
evaluate its signed distance near the membrane, frame by frame (:mod:`model.engine.sparse`); label its cells and extract
its surface; write the frame in every format of the spec (:mod:`model.output.frame_writers`). The manifest is written
last.

    >>> from tempfile import TemporaryDirectory
    >>> from model.card import SHIPPED_MODELS
    >>> from model.network.checkpoint import load_checkpoint
    >>> checkpoint = load_checkpoint(SHIPPED_MODELS / "celegans")
    >>> spec = GenerationSpec(model="celegans", seed=7, frames=2, grid=64, formats=["stl"]).completed()
    >>> with TemporaryDirectory() as folder:
    ...     manifest = synthesize(spec, checkpoint, Path(folder))
    >>> [file["name"] for file in manifest["files"]]
    ['cell_0000/frame_0000.stl', 'cell_0000/frame_0001.stl']
    >>> [frame["labels"] for frame in manifest["cells"][0]["frames"]]
    [[1], [2, 3]]

Promises: the same completed spec, checkpoint, software and kind of device give the same bytes. The number of frames in
memory is that of torch's threads and two more, whatever the length of the sequence.
Does not promise: atomicity; the caller hands over a folder of its own and publishes it when this returns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from model import __version__, living_cell
from model.domain import Grid, frame_times
from model.engine.narrow_band import KnownSamples, NarrowBand, take_known
from model.engine.sparse import SparseField
from model.engine.tracking import CellTracker
from model.errors import ImplausibleError, SpecError
from model.formats import FORMATS
from model.living_cell import CellFrame, LivingCell
from model.network.checkpoint import Checkpoint
from model.network.plausibility import implausible
from model.output.contents import shard_manifest
from model.output.exporter import CellFiles, Exporter, ExportFrame
from model.output.frame_writers import open_writers
from model.output.manifest import MANIFEST_FILE, write_sharded_manifest
from model.spec import GenerationSpec

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class Progress:
    """Progress: ``frame`` of ``frames`` done, over all sequences."""

    stage: str
    frame: int
    frames: int


def synthesize(
    spec: GenerationSpec,
    checkpoint: Checkpoint,
    folder: Path,
    *,
    on_progress: Callable[[Progress], None] = lambda _progress: None,
    device: Device = "cpu",
    draw: Callable[[int], LivingCell] | None = None,
) -> dict[str, Any]:
    """Synthesise the cells of a spec and write them, frame by frame, the manifest last.

    Parameters
    ----------
    spec
        A completed spec.
    checkpoint
        The model it names.
    folder
        Where files go: ``manifest.json`` and a folder a cell, ``cell_0000/frame_0000.stl`` …
    on_progress
        Called after every frame; an exception raised there ends the work.
    device
        Where to compute; ``auto``: on an accelerator if there is one. The code for accelerators has been tested on
        processors only, where it agrees with the default; its tests have not run on a GPU yet.
    draw
        Gives the cell of each sequence by its index; as the spec says, when None.

    Returns
    -------
    dict
        The manifest; of a spec that is not listed, the root manifest, beside which lie those of its shards.

    Raises
    ------
    SpecError
        If the model cannot have the spec's latent.
    ImplausibleError
        If every code drawn for a sequence is rejected, and the spec's ``on_implausible`` is ``fail``.
    SurfaceError
        If a frame holds no membrane, or the decoder gives NaN.
    ExportError
        If a file cannot be written.
    """
    if not spec.is_listed:
        return _synthesize_shards(spec, checkpoint, folder, on_progress=on_progress, device=device, draw=draw)
    card = checkpoint.card
    spec.check_fits(latent_codes=len(checkpoint.latent_codes), latent_size=checkpoint.decoder.config.latent_size)
    exporter = Exporter(folder, grid=Grid(spec.grid_shape), micrometres=card.micrometres, minutes=card.minutes)
    total = spec.count * spec.frame_count
    place = compute_device(device)
    cells, warnings = [], []
    for number in range(spec.count):
        index = spec.first_index + number

        def after_frame(frame: int, *, base: int = number * spec.frame_count) -> None:
            on_progress(Progress("frames", base + frame, total))

        cell = draw(index) if draw else living_cell.draw(spec, checkpoint, index)
        rejection = implausible(cell.rejected_codes, spec=spec, cell=index, topology=card.topology)
        if rejection is not None and spec.on_implausible == "fail":
            raise ImplausibleError(rejection)
        if rejection is not None:
            warnings.append({"code": ImplausibleError.code, "message": f"{rejection}. The draw after them was written"})
        # A spec alone does not give cells that were drawn otherwise, so their files do not state it.
        alone = {} if draw else spec.model_copy(update={"first_index": index, "count": 1}).model_dump(mode="json")
        cells.append(
            _write_cell(spec, cell, exporter, index=index, after_frame=after_frame, device=place, stated=alone)
        )
    return exporter.write_manifest(
        spec=spec.model_dump(mode="json"),
        model_id=card.id,
        model_sha256=card.sha256,
        version=__version__,
        device_class=place.type,
        cells=cells,
        warnings=warnings,
    )


def _synthesize_shards(
    spec: GenerationSpec,
    checkpoint: Checkpoint,
    folder: Path,
    *,
    on_progress: Callable[[Progress], None],
    device: Device,
    draw: Callable[[int], LivingCell] | None,
) -> dict[str, Any]:
    """Synthesise a spec shard by shard, each with its manifest, as workers do."""
    manifests = []
    for number in range(spec.shards()):
        done = number * spec.shard_size() * spec.frame_count

        def advanced(progress: Progress, done: int = done) -> None:
            on_progress(Progress(progress.stage, done + progress.frame, spec.frame_total))

        synthesize(spec.shard(number), checkpoint, folder, on_progress=advanced, device=device, draw=draw)
        place = folder / shard_manifest(number)
        place.parent.mkdir(exist_ok=True)
        manifests.append((folder / MANIFEST_FILE).rename(place))
    return write_sharded_manifest(folder, manifests, spec=spec.model_dump(mode="json"))


def compute_device(asked: Device) -> torch.device:
    """Device to compute on; the processor where ``auto`` finds no accelerator.

    Raises
    ------
    SpecError
        If an accelerator is asked for and there is none.
    """
    if asked == "cuda" and not torch.cuda.is_available():
        raise SpecError("this machine has no CUDA device; compute on cpu or auto")
    return torch.device("cuda" if asked != "cpu" and torch.cuda.is_available() else "cpu")


def _write_cell(
    spec: GenerationSpec,
    cell: LivingCell,
    exporter: Exporter,
    *,
    index: int,
    after_frame: Callable[[int], None],
    device: torch.device,
    stated: dict[str, Any],
) -> dict[str, Any]:
    checkpoint = cell.checkpoint
    times = frame_times(spec.frame_count) if spec.times is None else np.array(spec.times, dtype=np.float32)
    tracker = CellTracker(fragments=spec.fragments, divides=checkpoint.card.topology == "division")
    name = f"cell_{index:04d}"
    cubic = checkpoint.card.micrometres**3
    rows: list[dict[str, Any]] = []
    files = CellFiles(
        exporter=exporter,
        name=name,
        times=[float(t) for t in times],
        palette=checkpoint.card.cell_type,
        spec=stated,
        tracks=lambda: tracker.tracks,
    )
    with open_writers(spec.formats, files) as write_files:

        def write(number: int, frame: CellFrame, known: KnownSamples | None) -> None:
            time, labelled, surface = frame
            known = known if cell.variation.warp is None else None  # its samples are no distances
            band = NarrowBand(
                cell.distances(time, surface), exporter.grid, inside=lambda: labelled.labels > 0, known=known
            )
            write_files(ExportFrame(number=number, time=time, surface=surface, labelled=labelled, band=band))
            rows.append(
                {
                    "frame": number,
                    "time": time,
                    "minutes": round(exporter.minutes_at(time), 6),
                    "labels": list(labelled.cells),
                    "volume_um3": round(surface.volume * cubic, 3),
                    "area_um2": round(surface.area * checkpoint.card.micrometres**2, 3),
                    "fragments": labelled.fragments,
                }
            )

        frames = cell.frames(times, exporter.grid, tracker=tracker, exact=spec.exact, device=device)
        wanted = any(FORMATS[name].distances for name in spec.formats)
        _pipeline(((frame, _known(frame) if wanted else None) for frame in frames), write, after_frame)
    return {
        "index": index,
        "seed": spec.seed,
        "latent": [float(value) for value in cell.latent],
        "rotation": cell.rotation,
        "rejected_codes": cell.rejected_codes,
        "tracks": [asdict(track) for track in tracker.tracks],
        "frames": rows,
    }


def _known(frame: CellFrame) -> KnownSamples | None:
    """Copy the distances found while searching for the membrane; the next frame overwrites them."""
    field = frame.labelled.field
    return take_known(field) if isinstance(field, SparseField) else None


def _pipeline(
    frames: Iterator[tuple[CellFrame, KnownSamples | None]],
    write: Callable[[int, CellFrame, KnownSamples | None], None],
    after_frame: Callable[[int], None],
) -> None:
    """Write each frame in another thread while the next is computed."""
    number = 0
    with ThreadPoolExecutor(1, thread_name_prefix="writer") as writer:
        writing: Future[None] | None = None
        for number, (frame, known) in enumerate(frames, start=1):
            if writing is not None:
                writing.result()
                after_frame(number - 1)
            writing = writer.submit(write, number - 1, frame, known)
        if writing is not None:
            writing.result()
            after_frame(number)
