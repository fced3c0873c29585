"""Endpoints: one file per resource of the API. They translate HTTP to calls of :mod:`app.services`.

``app.main`` and ``app.openapi`` import them. Read :mod:`app.routes.generations` first.
"""
