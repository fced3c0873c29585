"""Files of a user's own cells, read as recordings: label volumes, meshes, distance fields, and their lineage.

``model.learning`` and ``model.cli`` import it; it imports the engine and error classes only. Read
:mod:`model.readers.recording` first, then :mod:`model.readers.open`.
"""
