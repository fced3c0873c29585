"""The order of frames by the names of files, and which files belong together.

A number that is the same in every name (channel, wavelength, date) is ignored; the number that varies is the frame. A
decimal number is one number. Where names number the cell as well as the frame (``cell1_t0``), each cell is a sequence.

Promises: frames are ordered by a number that all names have in the same place. Names in which more than one number
varies, and which do not say which is the frame, are refused; so are two files of one frame.
Does not promise: to understand numbers written as words, or months.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from math import gcd
from pathlib import Path

from model.errors import DatasetError
from model.readers.recording import ReadingWarning, Taken

FRAME_MAX = 10**6  # larger numbers are dates or seconds since an epoch
SPREAD = 1000  # range of the numbers over the number of files, above which they do not count frames

# after "=" a sign and an exponent belong to the number; elsewhere "-" separates
_NUMBER = re.compile(r"(?<==)[-+]?[0-9]+(?:[.,][0-9]+)?(?:[eE][-+]?[0-9]+)?|[0-9]+(?:[.,][0-9]+)?")
_WORD = re.compile(r"([A-Za-z]+)[^A-Za-z]*$")
_TIME = frozenset({"t", "time", "timepoint", "timepoints", "tp", "frame", "frames", "f", "timestep"})
_CELL = frozenset(
    {"cell", "track", "label", "id", "object", "nucleus", "embryo", "sample", "pos", "position", "seq", "sequence",
     "series", "movie"}
)  # fmt: skip
_MASK = re.compile(
    r"(?<![a-z])(?:cp_?masks?|masks?|labels?|labelled|labeled|segmentations?|segmented|seg)(?![a-z])", re.IGNORECASE
)
_IMAGE = re.compile(r"(?<![a-z])(?:images?|imgs?|raw|im)(?![a-z])", re.IGNORECASE)
_BESIDE = re.compile(r"[_.-](?:cp_)?(?:flows?|dP|cellprob|probabilities|outlines)$", re.IGNORECASE)


@dataclass(frozen=True)
class Ordered:
    """Files of one sequence by their frames.

    Attributes
    ----------
    name
        What the names say of the sequence; empty if there is one only.
    files
        Ascending.
    taken
        How the order was found.
    """

    name: str
    files: dict[int, Path]
    taken: Taken


@dataclass(frozen=True)
class _Name:
    """A name without its suffix, cut into the text between numbers, and the numbers as written."""

    path: Path
    texts: tuple[str, ...]
    digits: tuple[str, ...]

    @property
    def pattern(self) -> str:
        """The name with # for each number."""
        return "#".join(self.texts)


def in_order_of_time(files: list[Path]) -> list[Ordered]:
    """Sort files, a frame each, into sequences.

    Raises
    ------
    DatasetError
        If the names do not tell which number is the time, or name one moment twice.
    """
    names = [_cut(path) for path in files]
    patterns = Counter(name.pattern for name in names)
    folder = files[0].parent
    if len(names) == 1:
        return [Ordered("", {0: files[0]}, Taken(order=f"one file, {files[0].name}"))]
    if len(patterns) > 1:
        if any("#" in pattern for pattern in patterns):
            shown = ", ".join(sorted(patterns)[:4])
            raise DatasetError(
                f"the files of {folder} follow {len(patterns)} patterns of names ({shown}), so their order is not "
                "known: name all frames of a cell alike but for the number of the frame, and give each cell a folder"
            )
        return [_alphabetical(files)]
    varying = [place for place in range(len(names[0].digits)) if len({name.digits[place] for name in names}) > 1]
    values = {place: [_value(name.digits[place]) for name in names] for place in varying}
    varying = [place for place in varying if len(set(values[place])) > 1] or varying[:1]
    if not varying:
        raise DatasetError(f"the files {files[0].name} and {files[1].name} of {folder} are one frame: remove one")
    if len(varying) == 1:
        return [_by_number(names, varying[0], "")]
    times = [place for place in varying if _word(names[0], place) in _TIME]
    others = [place for place in varying if place not in times]
    if len(times) != 1 or any(_word(names[0], place) not in _CELL for place in others):
        shown = ", ".join(_told(names, place) for place in varying)
        raise DatasetError(
            f"{len(varying)} numbers vary in the names of the files of {folder} ({shown}), so the order of time is "
            "not known: let only the number of the frame vary, and give each cell a folder of its own"
        )
    cells: dict[tuple[Fraction, ...], list[_Name]] = {}
    for name in names:
        cells.setdefault(tuple(_value(name.digits[place]) for place in others), []).append(name)
    return [
        _by_number(cells[key], times[0], "_".join(_label(cells[key][0], place) for place in others))
        for key in sorted(cells)
    ]


def other_order(files: list[Path]) -> str | None:
    """Description of the order by file names, where files are given in another order: a shell sorts t10 before t2."""
    if len(files) < 2 or any(not path.is_file() for path in files):
        return None
    try:
        found = in_order_of_time(files)
    except DatasetError:
        return None
    if len(found) != 1 or found[0].taken.warnings or [*found[0].files.values()] == files:
        return None
    return found[0].taken.order


def without_images(files: list[Path]) -> tuple[list[Path], Taken]:
    """Leave out images that lie beside their masks, as Cellpose writes them: ``t0.tif`` beside ``t0_cp_masks.tif``.

    Raises
    ------
    DatasetError
        If some images have masks beside them and others have none.
    """
    masks = [path for path in files if _MASK.search(path.stem)]
    if not masks or len(masks) == len(files):
        return files, Taken()
    named = {_bare(path.stem) for path in masks}
    rest = [path for path in files if path not in masks]
    besides = [path for path in rest if _BESIDE.search(path.stem) and _bare(_BESIDE.sub("", path.stem)) in named]
    images = [path for path in rest if path not in besides and _bare(path.stem) in named]
    alone = [path for path in rest if path not in besides and path not in images]
    if alone and (images or besides or len(masks) > 1):
        raise DatasetError(
            f"{files[0].parent} holds images and masks ({alone[0].name} beside {masks[0].name}), and not every image "
            "has a mask of its name: give a folder with the masks only"
        )
    if alone:
        return files, Taken()
    text = f"{len(masks)} masks ({masks[0].name} …) are read; {len(rest)} images of the same names are not"
    return masks, Taken(files=text)


def one_a_frame(files: list[Path], preferred: tuple[str, ...]) -> tuple[list[Path], Taken]:
    """Take one file of those that differ in their format only: the first of ``preferred`` that there is."""
    by_stem: dict[str, list[Path]] = {}
    for path in files:
        by_stem.setdefault(path.stem, []).append(path)
    chosen = [min(same, key=lambda path: preferred.index(path.suffix.lower())) for same in by_stem.values()]
    if len(chosen) == len(files):
        return files, Taken()
    kinds = sorted({path.suffix.lower() for path in chosen}, key=preferred.index)
    complete = len({frozenset(path.suffix.lower() for path in same) for same in by_stem.values()}) == 1
    others = len(files) - len(chosen)
    text = f"each frame is there in several formats; {', '.join(kinds)} is read, {others} files are not"
    if not complete:
        text = f"not every frame is there in every format; of each, the first of {', '.join(preferred)} is read"
    return chosen, Taken(files=text, warnings=() if complete else (ReadingWarning("formats", text),))


def is_mask_name(name: str) -> bool:
    """Whether a name says that masks are in it: ``masks``, ``t0_cp_masks``, ``SEG``."""
    return _MASK.search(name) is not None


def is_image_name(name: str) -> bool:
    """Whether a name says that images are in it and nothing else: ``images``, ``raw``."""
    return _IMAGE.sub("", name).strip("_.- ") == "" and name != ""


def _cut(path: Path) -> _Name:
    stem = path.stem
    found = list(_NUMBER.finditer(stem))
    ends = [0, *(match.end() for match in found)]
    starts = [*(match.start() for match in found), len(stem)]
    texts = tuple(stem[end:start] for end, start in zip(ends, starts, strict=True))
    return _Name(path, texts, tuple(match[0] for match in found))


def _value(digits: str) -> Fraction:
    return Fraction(digits.replace(",", "."))


def _word(name: _Name, place: int) -> str:
    """The word before a number: ``t`` in ``cell1_t0``."""
    match = _WORD.search(name.texts[place])
    return match[1].lower() if match else ""


def _label(name: _Name, place: int) -> str:
    match = _WORD.search(name.texts[place])
    return f"{match[1] if match else ''}{name.digits[place]}"


def _told(names: list[_Name], place: int) -> str:
    low, high = (sorted((name.digits[place] for name in names), key=_value)[end] for end in (0, -1))
    word = _word(names[0], place)
    return f"{word} {low} to {high}" if word else f"number {place + 1}, {low} to {high}"


def _by_number(names: list[_Name], place: int, sequence: str) -> Ordered:
    digits = [name.digits[place] for name in names]
    values = [_value(text) for text in digits]
    ordered = sorted(zip(values, names, strict=True), key=lambda pair: pair[0])
    for (first, one), (second, other) in pairwise(ordered):
        if first == second:
            raise DatasetError(f"{one.path.name} and {other.path.name} are the same frame by their names: remove one")
    fractions = {len(re.split(r"[.,]", text)[1]) if re.search(r"[.,]", text) else 0 for text in digits}
    if len(fractions) > 1 and any(re.search(r"[.,][0-9]+0$", text) for text in digits):
        raise DatasetError(
            f"the names of {names[0].path.parent} number their frames as {digits[0]} … {digits[-1]}, which may be "
            "decimal numbers or counts: write all of them with the same number of digits after the point"
        )
    frames, uneven = _frames([value for value, _ in ordered])
    word = _word(names[0], place)
    by = f"by {word}" if word else f"by number {place + 1} of the names"
    shown = [name.digits[place] for _, name in ordered]
    listed = ", ".join(shown) if len(shown) <= 6 else f"{', '.join(shown[:3])} … {shown[-1]}"
    text = "the numbers of the frames lie far apart; the frames are taken as evenly spaced in time"
    taken = Taken(order=f"{by}: {listed}", warnings=(ReadingWarning("order", text),) if uneven else ())
    return Ordered(sequence, dict(zip(frames, (name.path for _, name in ordered), strict=True)), taken)


def _frames(values: list[Fraction]) -> tuple[list[int], bool]:
    """Whole numbers as far apart as ascending values are, and whether that was given up."""
    if all(value.denominator == 1 and value >= 0 for value in values):
        frames = [int(value) for value in values]
    else:
        common = max(value.denominator for value in values)
        for value in values:
            common = common * value.denominator // gcd(common, value.denominator)
        whole = [int((value - values[0]) * common) for value in values]
        step = gcd(*whole)
        frames = [number // step for number in whole]
    if frames[-1] - frames[0] > SPREAD * len(frames) or frames[-1] > FRAME_MAX:
        return list(range(len(frames))), True
    return frames, False


def _alphabetical(files: list[Path]) -> Ordered:
    ordered = sorted(files)
    shown = ", ".join(path.name for path in ordered[:4]) + (" …" if len(ordered) > 4 else "")
    text = f"the names hold no numbers; the frames are taken in the order of the alphabet: {shown}"
    return Ordered(
        "", dict(enumerate(ordered)), Taken(order="of the alphabet", warnings=(ReadingWarning("order", text),))
    )


def _bare(stem: str) -> str:
    """A name without what tells masks from images."""
    return re.sub(r"[_.\s-]+", "_", _IMAGE.sub("", _MASK.sub("", stem))).strip("_").lower()
