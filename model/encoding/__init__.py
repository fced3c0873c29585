"""Encodings that several formats share: one mesh file a frame, plain TIFF.

Only the formats in ``model.export`` import it; it knows no format. Read :mod:`model.encoding.surface_files` first.
"""
