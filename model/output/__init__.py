"""The folder of a result: its files with their checksums, its manifest, and the verification of both.

The formats in ``model.export`` import it, as do ``model.synthesis`` and what amends or verifies a result; it knows
formats only by their rows in ``model.formats``. Read :mod:`model.output.exporter` first, then
:mod:`model.output.frame_writers`, which says what a format's module must hold.
"""
