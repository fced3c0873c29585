"""Bodies that are made while they are sent: byte ranges of files, and zip archives.

``app.routes`` imports it; it knows neither jobs nor requests. Read :mod:`app.responses.zip_stream` first.
"""
