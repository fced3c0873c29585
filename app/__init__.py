"""The web service and the command line: HTTP requests in, JSON and files out.

Nothing imports it but tests and benchmarks; it imports the public modules of ``worker`` and the light modules of
``model``, and no numerical library. Read :mod:`app.main` first, then :mod:`app.routes.generations`.
"""
