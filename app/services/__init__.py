"""The work behind the endpoints: submission, the caller's jobs, the model catalogue, uploaded models, readiness.

``app.routes`` and ``app.main`` import it; it knows no HTTP but problem types. Read :mod:`app.services.submission`
first.
"""
