"""Readers of a user's own cells, as recordings: label volumes, meshes, distance fields, and their lineage.

``model.learning`` and ``model.cli`` import it; it imports the engine, ``errors`` and the bounds of
:mod:`model.upload_checks`. Read :mod:`model.readers.recording` first, then :mod:`model.readers.open`.
"""
