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
