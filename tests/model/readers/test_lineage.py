from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from model.errors import DatasetError
from model.readers.label_volumes import read_tracks
from model.readers.lineage import CellSequence, cell_sequences, guess_tracks
from model.readers.recording import CellObservation, Track

TABLE = [
    Track(1, 0, 4),  # divides into 2 and 3
    Track(2, 5, 9, 1),  # divides into 4 and 5
    Track(3, 5, 12, 1),
    Track(4, 10, 12, 2),
    Track(5, 10, 11, 2),
    Track(6, 0, 3),  # lost, and found again as 7
    Track(7, 6, 12, 6),
]


def everywhere(tracks: list[Track]) -> dict[int, set[int]]:
    return {frame: {t.label for t in tracks if t.first <= frame <= t.last} for frame in range(13)}


def told(found: list[CellSequence]) -> dict[str, list[tuple[int, tuple[int, ...]]]]:
    return {sequence.name: list(zip(sequence.frames, sequence.labels, strict=True)) for sequence in found}


def test_a_sequence_ends_where_the_first_daughter_does() -> None:
    found = told(cell_sequences(TABLE, everywhere(TABLE), "e"))
    assert found["e-1"] == [(f, (1,)) for f in range(5)] + [(f, (2, 3)) for f in range(5, 10)]


def test_a_daughter_that_divides_has_a_sequence_of_her_own_and_one_that_does_not_has_none() -> None:
    found = told(cell_sequences(TABLE, everywhere(TABLE), "e"))
    assert found["e-2"] == [(f, (2,)) for f in range(5, 10)] + [(f, (4, 5)) for f in (10, 11)]
    assert set(found) == {"e-1", "e-2", "e-6"}


def test_a_track_with_one_follower_is_the_same_cell_after_a_gap() -> None:
    found = told(cell_sequences(TABLE, everywhere(TABLE), "e"))
    assert found["e-6"] == [(f, (6,)) for f in range(4)] + [(f, (7,)) for f in range(6, 13)]


def test_a_listed_cell_that_is_not_there_leaves_a_gap() -> None:
    present = everywhere(TABLE)
    present[2].discard(6)
    present[7].discard(3)  # without one daughter the frame shows no pair
    found = told(cell_sequences(TABLE, present, "e"))
    assert [frame for frame, _ in found["e-6"]][:4] == [0, 1, 3, 6]
    assert [frame for frame, _ in found["e-1"]] == [0, 1, 2, 3, 4, 5, 6, 8, 9]


def seen(label: int, centre: float, volume: float = 100.0) -> CellObservation:
    middle = np.array([centre, 0.0, 0.0])
    return CellObservation(label=label, volume=volume, centroid=middle, low=middle - 4, high=middle + 4, samples=1000)


def film(*frames: list[CellObservation]) -> dict[int, dict[int, CellObservation]]:
    return {number: {observation.label: observation for observation in cells} for number, cells in enumerate(frames)}


def test_a_division_is_seen_where_two_new_cells_stand_for_one() -> None:
    tracks = guess_tracks(film([seen(1, 0.0)], [seen(1, 0.1)], [seen(2, -3.0, 48.0), seen(3, 3.0, 50.0)]))
    assert tracks == [Track(1, 0, 1), Track(2, 2, 2, 1), Track(3, 2, 2, 1)]


@pytest.mark.parametrize(
    "after",
    [
        [seen(2, -3.0, 48.0)],  # one new cell
        [seen(2, -3.0, 48.0), seen(3, 30.0, 50.0)],  # one of two far away
        [seen(2, -3.0, 100.0), seen(3, 3.0, 100.0)],  # twice the volume
        [seen(2, -3.0, 30.0), seen(3, 3.0, 30.0), seen(4, 0.0, 30.0)],  # three
        [seen(1, 0.0, 50.0), seen(3, 3.0, 50.0)],  # the first lives on
    ],
)
def test_what_is_no_division_is_not_taken_for_one(after: list[CellObservation]) -> None:
    assert all(track.parent == 0 for track in guess_tracks(film([seen(1, 0.0)], after)))


def test_malformed_tables_name_their_line(tmp_path: Path) -> None:
    path = tmp_path / "man_track.txt"
    path.write_text("1 0 4 0\n\n2 5 9 1\n")
    assert read_tracks(path) == [Track(1, 0, 4), Track(2, 5, 9, 1)]
    path.write_text("1 0 4 0\n2 5 x 1\n")
    with pytest.raises(DatasetError, match=r"man_track\.txt, line 2"):
        read_tracks(path)
