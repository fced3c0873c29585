"""What endpoints work with: submission, the caller's jobs, the model catalogue, uploaded models, readiness.

``app.routes`` and ``app.main`` import it; it knows no HTTP beyond problem types. Read :mod:`app.services.resources`
first.
"""
