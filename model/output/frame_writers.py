"""Writers of all formats that a spec asks for, combined into one.

A format's module, named in its row of :data:`model.formats.FORMATS`, holds two functions::

    def open_writer(cell: CellFiles) -> AbstractContextManager[WriteFrame]
    def find_faults(written: WrittenCell) -> Iterator[str]

The context is entered before the first frame of a cell. Its value is called with each frame in order. Leaving it
completes the files; leaving it by an exception only closes them. ``find_faults`` reads the files back, with a reader of
another project where there is one, and yields ``FILE: what is wrong``; :mod:`model.output.verify` calls it.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

from model.formats import FORMATS
from model.output.exporter import CellFiles, ExportFrame, WriteFrame


@contextmanager
def open_writers(formats: Iterable[str], cell: CellFiles) -> Iterator[WriteFrame]:
    """Open a cell's files in several formats: a context whose value takes one frame after another.

    Parameters
    ----------
    formats
        Names, as in a spec.
    cell
        Where the files go, and what is known of the frames to come.

    Raises
    ------
    ExportError
        If a file cannot be written, or the context is left well before the last frame.
    """
    chosen = set(formats)
    with ExitStack() as stack:
        modules = [importlib.import_module(row.module) for name, row in FORMATS.items() if name in chosen]
        writers: list[WriteFrame] = [stack.enter_context(module.open_writer(cell)) for module in modules]

        def write(frame: ExportFrame) -> None:
            for one in writers:
                one(frame)

        yield write
