"""What every request and response passes: keys, bounds on bodies and load, compression, headers, metrics, logs.

``app.main`` installs it; routes use the route class of :mod:`app.middleware.strict_bodies`. It knows no job and no
file. Read :mod:`app.middleware.strict_bodies` first.
"""
