"""Middleware, applied to every request: API keys, body limits, load shedding, compression, headers, metrics, logs.

``app.main`` installs it; routes use the route class of :mod:`app.middleware.strict_bodies`. It knows no files, and of
jobs only the metrics and the addresses that accept them. Read :mod:`app.middleware.strict_bodies` first.
"""
