"""Every argument and option of the command line with its help text, in one table; the commands give the defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.settings import AppSettings
from model.formats import FORMATS


def complete_models(incomplete: str) -> list[str]:
    """Return the models on this machine; a service elsewhere may have others."""
    roots = [root for root in AppSettings().model_roots if root.is_dir()]
    names = {card.parent.name for root in roots for card in root.glob("*/card.json")}
    return sorted(name for name in names if name.startswith(incomplete))


def complete_formats(incomplete: str) -> list[str]:
    """Return the formats of files."""
    return [name for name in FORMATS if name.startswith(incomplete)]


# --- which service, what output

Server = Annotated[
    str | None,
    typer.Option("--server", help="Address of a service, for example http://127.0.0.1:8000.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.", show_default=False)]

# --- running the service

Host = Annotated[str | None, typer.Option(help="Address to listen on; 127.0.0.1 by default.")]
Port = Annotated[
    int | None, typer.Option(min=0, max=65535, help="Port to listen on; 8000 by default, 0 chooses a free one.")
]
AllowOpen = Annotated[
    bool | None,
    typer.Option(
        "--allow-open", help="Without keys, serve all clients, not only those on this machine.", show_default=False
    ),
]
Workers = Annotated[int, typer.Option(min=1, max=64, help="Worker processes on this machine.")]
ServiceData = Annotated[Path | None, typer.Option(help="Folder for results and the queue; ./var by default.")]
DataDir = Annotated[Path | None, typer.Option(help="Data folder of the service; ./var by default.")]
ReadyFile = Annotated[
    Path | None, typer.Option(help="Write the address to this file, as JSON, when the service answers.")
]
UntilStdinEnds = Annotated[bool, typer.Option("--until-stdin-ends", hidden=True)]
Drop = Annotated[
    bool, typer.Option("--drop", help="Remove damaged files, so that the next request computes them again.")
]
ScrubJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]

# --- what cells to generate

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="Identifier of an installed model; `cytosynth models` lists them.",
        autocompletion=complete_models,
    ),
]
Seed = Annotated[
    int | None, typer.Option(help="Seed of the random numbers; drawn and reported if absent. Same seed, same cells.")
]
Count = Annotated[int | None, typer.Option(help="Number of cells.")]
Frames = Annotated[int | None, typer.Option(help="Frames per cell, evenly spaced in time.")]
Times = Annotated[str | None, typer.Option(help="Times in [-1, 1] instead of --frames, for example -1,0,0.5.")]
Grid = Annotated[str | None, typer.Option(help="Samples per side: 64, or x,y,z: 64,64,48.")]
LatentKind = Annotated[str | None, typer.Option("--latent", help="sampled, learned, nearby, interpolated or explicit.")]
Temperature = Annotated[
    float | None,
    typer.Option(help="sampled: novelty; 0 repeats a learned cell, 1 draws from the fitted density, 2 goes further."),
]
Index = Annotated[int | None, typer.Option(help="learned, nearby: number of the learned cell, from 0.")]
Noise = Annotated[float | None, typer.Option(help="nearby: noise, in units of the spread of the learned codes.")]
First = Annotated[int | None, typer.Option(help="interpolated: number of the first learned cell.")]
Second = Annotated[int | None, typer.Option(help="interpolated: number of the second learned cell.")]
Weight = Annotated[float | None, typer.Option(help="interpolated: 0 is the first cell, 1 the second.")]
Values = Annotated[str | None, typer.Option(help="explicit: all numbers of the code, separated by commas.")]
Rotation = Annotated[str | None, typer.Option(help="none, random, or a quaternion w,x,y,z.")]
Formats = Annotated[
    list[str] | None,
    typer.Option(
        "--format",
        help=f"{', '.join(FORMATS)}; may be repeated.",
        show_default=False,
        autocompletion=complete_formats,
    ),
]
Fragments = Annotated[str | None, typer.Option(help="Small detached components: remove or keep.")]
Exact = Annotated[
    str | None, typer.Option(help="adaptive (fast) or certified (misses no detached component; about twice the work).")
]

# --- cells that exist: upsample, augment, evaluate

CellFiles = Annotated[
    list[Path],
    typer.Argument(
        metavar="FILE…",
        help="One TIFF of label volumes with all frames, or one file per frame in the order of time: .tif, .stl, "
        ".obj, .ply.",
    ),
]
GivenTimes = Annotated[
    str | None, typer.Option(help="Times of the given frames in [-1, 1], for example -1,0,1; evenly spaced by default.")
]
Voxel = Annotated[str | None, typer.Option(help="Distance of voxels x,y,z in µm, instead of what the files say.")]
Place = Annotated[
    str | None, typer.Option(help="centre: each frame is centred on the cell (default); omega: the volume covers Ω.")
]
Label = Annotated[
    list[int] | None,
    typer.Option("--label", help="Label of the cell where a volume holds several; may be repeated."),
]
Method = Annotated[
    str | None, typer.Option(help="adapted: adapt the network to the cell (default); code: find the code only.")
]
Orientations = Annotated[
    int | None, typer.Option(help="Number of orientations tried; 1, the default, keeps the given orientation.")
]
Shift = Annotated[bool | None, typer.Option("--shift", help="Fit the cell's position too.", show_default=False)]
Validate = Annotated[
    bool | None,
    typer.Option(
        "--validate",
        help="Fit again without the middle frame, and report how well it is predicted.",
        show_default=False,
    ),
]
KeepGivenFrames = Annotated[
    bool | None,
    typer.Option("--keep-given-frames", help="Write given frames as they are, at their times.", show_default=False),
]
AllCells = Annotated[
    bool, typer.Option("--all-cells", help="Fit every tracked cell of one TIFF, and write them together too.")
]
Refine = Annotated[
    int | None, typer.Option(help="With --all-cells: how many times finer the label volume is; 2 by default.")
]
FitSeed = Annotated[int | None, typer.Option(help="Seed of the search.")]
OutCells = Annotated[Path | None, typer.Option("--out", help="Folder for the files; ./MODEL-FILE by default.")]
VariedFiles = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="[FILE…]",
        help="A cell of your own: one TIFF of label volumes with all frames, or one file per frame in time order.",
    ),
]
WarpStrength = Annotated[
    float | None, typer.Option("--warp", help="Strength of a smooth warp, 0 to 0.5: how much lengths change.")
]
CellIndex = Annotated[int | None, typer.Option(help="Number of the learned cell that is varied, from 0.")]
SourceJob = Annotated[str | None, typer.Option("--job", help="Earlier job with the same model, whose cell is varied.")]
SourceCell = Annotated[int | None, typer.Option("--cell", help="Index of the cell in that job; 0 by default.")]
CellValues = Annotated[
    str | None, typer.Option("--values", help="All numbers of the cell's code, separated by commas.")
]
Variations = Annotated[int | None, typer.Option("--count", help="Number of variations.")]
CodeNoise = Annotated[
    float | None, typer.Option("--noise", help="Noise in the code, in units of the spread of the learned codes.")
]
Turned = Annotated[str | None, typer.Option("--rotation", help="random (default), or none: that of the cell.")]
Mirror = Annotated[
    bool | None,
    typer.Option("--mirror/--no-mirror", help="Mirror every second variation, on average.", show_default=False),
]
Size = Annotated[str | None, typer.Option(help="Smallest and largest factor on lengths, for example 0.9,1.1.")]
Speed = Annotated[str | None, typer.Option(help="Smallest and largest factor on speed, for example 0.8,1.")]
ReferenceFiles = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="[FILE…]",
        help="Cells of your own to compare with: TIFFs of tracked label volumes, or the surfaces of one cell. By "
        "default the reference cells of the model.",
    ),
]
EvaluatedJob = Annotated[
    str | None, typer.Option("--job", help="Job whose cells are evaluated; by default new cells of the model.")
]
CellsPerSet = Annotated[int | None, typer.Option("--count", help="Cells in each set, 4 to 200.")]
Draws = Annotated[int | None, typer.Option(help="Resamplings of each interval and exchanges for each p-value.")]
Interval = Annotated[float | None, typer.Option(help="Minutes between frames, instead of what the files say.")]
NewCellsSeed = Annotated[int | None, typer.Option("--seed", help="Seed of the new cells.")]
OutReport = Annotated[Path | None, typer.Option("--out", help="Folder for the files; ./MODEL-evaluation by default.")]

# --- what to train on

ModelName = Annotated[
    str, typer.Argument(metavar="NAME", help="Short name of the model; the service makes it unique with 12 digits.")
]
TrainingFiles = Annotated[
    list[Path],
    typer.Argument(
        metavar="FILE…",
        help="TIFFs of label volumes or masks, one for each recording; surfaces, one for each frame; or archives.",
    ),
]
Steps = Annotated[int | None, typer.Option(help="Training steps; 24000 by default.")]
Minutes = Annotated[float | None, typer.Option(help="Most minutes of training; then it ends with what it has.")]
MostSequences = Annotated[int | None, typer.Option("--sequences", help="Most sequences to train on.")]
PointsPerFrame = Annotated[int | None, typer.Option("--points", help="Training points in each frame.")]
LeftOutEvery = Annotated[
    int | None, typer.Option("--left-out-every", help="Keep every n-th frame from training, to measure on it; 0: none.")
]
LatentSize = Annotated[int | None, typer.Option("--latent-size", help="Numbers in a code.")]
Width = Annotated[int | None, typer.Option(help="Units in a layer of the network.")]
Depth = Annotated[int | None, typer.Option(help="Layers of the network.")]
Rates = Annotated[float | None, typer.Option(help="Factor on the learning rates.")]
KeepOnCancel = Annotated[
    bool,
    typer.Option("--keep-on-cancel", help="Interrupted or canceled, training ends with the best model so far."),
]
OutModel = Annotated[Path | None, typer.Option("--out", help="Folder for the files; ./NAME-training by default.")]

# --- results

Out = Annotated[Path | None, typer.Option("--out", help="Folder for the files; ./MODEL-SEED by default.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace an earlier result in that folder.", show_default=False)
]
Folders = Annotated[list[Path], typer.Argument(metavar="FOLDER…", help="Folders of results.")]
DemoOut = Annotated[Path, typer.Option("--out", help="Folder for the files; one subfolder per model.")]
DemoSeed = Annotated[int, typer.Option(help="Seed of the random numbers.")]
DemoFrames = Annotated[int, typer.Option(help="Frames per cell.")]
DemoGrid = Annotated[int, typer.Option(help="Samples per side.")]
DemoOpen = Annotated[bool, typer.Option("--open", help="Open the folder afterwards.")]

# --- jobs, models, uploads

JobId = Annotated[str, typer.Argument(metavar="JOB", help="Identifier of a job; `cytosynth jobs` lists them.")]
State = Annotated[str | None, typer.Option(help="Only jobs in this state.")]
Limit = Annotated[int, typer.Option(min=1, max=200, help="How many jobs, newest first.")]
OneModel = Annotated[
    str | None,
    typer.Argument(metavar="[MODEL]", help="Show all members of one card.", autocompletion=complete_models),
]
File = Annotated[
    Path, typer.Argument(help="A label volume (.tif), a surface (.stl, .obj, .ply) or weights (.safetensors).")
]
UploadName = Annotated[str | None, typer.Option("--name", help="Name of the upload; the name of the file by default.")]

# --- keys

KeyName = Annotated[str, typer.Argument(help="A name for the holder of the key.")]
KeyOrName = Annotated[str, typer.Argument(help="Id or name of a key; `cytosynth keys list` lists them.")]
