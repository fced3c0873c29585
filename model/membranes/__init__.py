"""Membranes given as triangles: made of masks and distance fields, and the exact signed distance to them.

``model.readers``, ``model.phantoms``, ``model.learning``, ``model.fitting`` and ``model.evaluation`` import it; it
imports the engine's compiler and ``errors``. Read :mod:`model.membranes.triangle_distance` first.
"""
