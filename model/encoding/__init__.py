"""What several formats share: one mesh file a frame, plain TIFF, Zarr arrays, distances in µm, measurements.

Only the formats in ``model.export`` import it; they do not import each other. Read :mod:`model.encoding.surface_files`
first.
"""
