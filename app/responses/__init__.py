"""Parts of HTTP that belong to no single endpoint: byte ranges, content negotiation, static files, zip archives.

``app.middleware``, ``app.routes`` and ``app.main`` import it; it knows no jobs. Read :mod:`app.responses.byte_ranges`
first.
"""
