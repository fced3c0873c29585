"""Middleware, applied to every request: API keys, body limits, load shedding, compression, headers, metrics, logs.

``app.main`` installs it; routes use the route class of :mod:`app.middleware.strict_bodies`. It knows neither jobs nor
files. Read :mod:`app.middleware.strict_bodies` first.
"""
