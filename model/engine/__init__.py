"""From a signed distance function to samples, surfaces and labels, exactly and near the membrane only.

Every package of ``model`` above it may import it; it imports ``domain`` and ``errors`` only and knows no network. Read
:mod:`model.engine.sparse` first.
"""
