"""The command ``cytosynth``: a client of the HTTP API, the management of API keys, and ``cytosynth serve``.

Nothing in ``app`` imports it; it may import everything else in ``app``. Read :mod:`app.cli.commands` first.
"""
