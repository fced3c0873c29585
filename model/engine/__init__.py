"""From a signed distance function to samples, surfaces and labels, exactly and near the membrane only.

``model.export``, ``model.learning``, ``model.readers``, ``model.evaluation`` and ``model.synthesis`` may import it; it
knows no network. Read :mod:`model.engine.sparse` first.
"""
